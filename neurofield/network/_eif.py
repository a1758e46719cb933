"""The exponential integrate-and-fire neuron."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import positive

from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, parameter
from ._spike import SpikeGradient, crossing, refractory_left


def upstroke(
    voltage: Float[Array, "*shape"], time: Array, threshold: Array, slope: Array, peak: Array
) -> Float[Array, "*shape"]:
    """dV/ds = slope exp((V - threshold) / slope) solved over the span `time`, and cut at `peak`.

    exp(-(V - threshold) / slope) falls linearly, and where it reaches zero the voltage diverges.
    """
    fall = time * jnp.exp(jnp.minimum((voltage - threshold) / slope, 80.0))  # finite in float32
    finite = fall < 1
    # The inner `where` keeps the unused branch, and so the derivative, finite.
    risen = voltage - slope * jnp.log1p(-jnp.where(finite, fall, 0))
    return jnp.where(finite, jnp.minimum(risen, peak), peak)


class EIFState(eqx.Module):
    voltage: Float[Array, "*shape"]  # mV
    refractory: Float[Array, "*shape"]  # steps left


class EIF(Neuron):
    """Exponential integrate-and-fire: tau dV/dt = rest - V + slope exp((V - threshold) / slope) +
    current; a spike at `peak`, then `reset`, held for `refractory` seconds (in whole steps).

    The leak and the exponential are each solved exactly and composed symmetrically (Strang), which
    is of second order in dt between spikes and bears the divergence; the peak is tested at the end
    of a step. Channels: `current` (mV) and `jump` (mV/s, for delta synapses). Starts uniformly
    between rest and threshold. Model and default values after Fourcaud-Trocme et al. (2003).

    `surrogate_width`: mV, used by `spike_gradient="surrogate"` alone.

    Raises `ValueError` for a `tau` or a `slope` that is not positive.
    """

    tau: Parameter = parameter(0.01)  # s
    slope: Parameter = parameter(3.48)  # mV
    threshold: Parameter = parameter(-59.9)  # mV, where the exponential's slope is the leak's
    peak: Parameter = parameter(-30.0)  # mV
    reset: Parameter = parameter(-68.0)  # mV
    rest: Parameter = parameter(-65.0)  # mV
    refractory: Parameter = parameter(0.0017)  # s
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")
    surrogate_width: float = eqx.field(static=True, default=1.0)

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("current", "jump")

    def __check_init__(self):
        for name in ("tau", "slope"):
            positive(name, getattr(self, name))

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> EIFState:
        dtype = dtype_of(self)
        share = jax.random.uniform(key, shape, dtype)
        voltage = self.rest + share * (self.threshold - self.rest)
        return EIFState(voltage.astype(dtype), jnp.zeros(shape, dtype))

    def step(
        self, key: PRNGKeyArray, state: EIFState, input: Float[Array, "channel *shape"], dt: float
    ) -> tuple[EIFState, Output]:
        current, jump = input
        target = self.rest + current
        decay = jnp.exp(-dt / 2 / self.tau)
        middle = target + (state.voltage - target) * decay
        risen = upstroke(middle, dt / self.tau, self.threshold, self.slope, self.peak)
        voltage = target + (risen - target) * decay + dt * jump
        # A jump after the upstroke does not undo it.
        top = jnp.where(state.refractory > 0, self.reset, jnp.maximum(risen, voltage))
        spike = crossing(top - self.peak, self.spike_gradient, self.surrogate_width)
        held = (spike > 0) | (state.refractory > 0)
        left = refractory_left(spike, state.refractory, self.refractory, dt)
        return EIFState(jnp.where(held, self.reset, voltage), left), Output(spike)

    def initial_output(self, state: EIFState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.voltage)

    def max_dt(self) -> Array:
        # The exponential's own time scale, tau exp(-(V - threshold) / slope), is solved exactly:
        # what is left is the membrane's.
        return self.tau / 10
