"""The quadratic integrate-and-fire neuron."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import positive

from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, parameter
from ._spike import SpikeGradient, crossing


class QIFState(eqx.Module):
    voltage: Float[Array, "*shape"]


class QIF(Neuron):
    """Quadratic integrate-and-fire: tau dV/dt = V^2 + current; a spike at `peak`, then `reset`.

    V and the current are dimensionless. The step is the exact flow for a current that is constant
    in it; the peak is tested at the end of a step. Starts with the phase of a neuron at unit
    current drawn uniformly. After Ermentrout & Kopell (1986).

    `surrogate_width`: in units of V, used by `spike_gradient="surrogate"` alone.

    Raises `ValueError` for a `tau` that is not positive.
    """

    tau: Parameter = parameter(0.01)  # s
    peak: Parameter = parameter(20.0)
    reset: Parameter = parameter(-20.0)
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")
    surrogate_width: float = eqx.field(static=True, default=1.0)

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("current",)

    def __check_init__(self):
        positive("tau", self.tau)

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> QIFState:
        dtype = dtype_of(self)
        first, last = jnp.arctan(self.reset), jnp.arctan(self.peak)
        phase = first + (last - first) * jax.random.uniform(key, shape, dtype)
        return QIFState(jnp.tan(phase).astype(dtype))

    def step(
        self, key: PRNGKeyArray, state: QIFState, input: Float[Array, "channel *shape"], dt: float
    ) -> tuple[QIFState, Output]:
        (current,) = input
        h = dt / self.tau
        # The flow is V -> (V + I t) / (1 - V t), with t = tan(sqrt(I) h) / sqrt(I) for I > 0 and
        # tanh(sqrt(-I) h) / sqrt(-I) for I < 0: one continued fraction, which has no branch at 0.
        # Six levels of it are good to 1e-9 at |z| = 1 and never above t for I < 0, where that would
        # carry V past its fixed point. t diverges at z = (pi / 2)^2, where a period is two steps;
        # it is held from 2.4 on, and such a neuron fires at every step or at every second.
        z = jnp.minimum(current * h**2, 2.4)
        t = h / (1 - z / (3 - z / (5 - z / (7 - z / (9 - z / 11)))))
        above, below = state.voltage + current * t, 1 - state.voltage * t
        # At or past the peak, past infinity included (where `below` is negative).
        spike = crossing(above - self.peak * below, self.spike_gradient, self.surrogate_width)
        fired = spike > 0
        voltage = jnp.where(fired, self.reset, above / jnp.where(fired, 1, below))
        return QIFState(voltage), Output(spike)

    def initial_output(self, state: QIFState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.voltage)

    def max_dt(self) -> Array:
        # The flow is exact at any step; the grid of spike times and a held input are what limit it.
        return self.tau / 10
