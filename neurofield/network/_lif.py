"""The leaky integrate-and-fire neuron, driven by currents or by jumps of its voltage."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import positive

from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, parameter
from ._spike import SpikeGradient, crossing, refractory_left


class LIFState(eqx.Module):
    """State of `LIF`: the voltage, and the steps that are left of the refractory time."""

    voltage: Float[Array, "*shape"]  # mV
    refractory: Float[Array, "*shape"]  # steps left


class LIF(Neuron):
    """Leaky integrate-and-fire: tau dV/dt = rest - V + current; spike and reset at the threshold.

    After a spike the voltage stays at `reset` for `refractory` seconds (rounded to whole steps) and
    ignores its input. Between spikes the step is exact for a current that is constant in it; the
    threshold is tested at the end of a step, so that spikes are late by half a step on average.
    Channels: `current` (mV) and `jump` (mV/s, for delta synapses). Starts uniformly between rest
    and threshold. After Brunel (2000), section 2.

    `surrogate_width`: mV, used by `spike_gradient="surrogate"` alone.

    Raises `ValueError` for a `tau` that is not positive.
    """

    tau: Parameter = parameter(0.02)  # s
    threshold: Parameter = parameter(20.0)  # mV
    reset: Parameter = parameter(10.0)  # mV
    rest: Parameter = parameter(0.0)  # mV
    refractory: Parameter = parameter(0.002)  # s
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")
    surrogate_width: float = eqx.field(static=True, default=1.0)

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("current", "jump")

    def __check_init__(self):
        positive("tau", self.tau)

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> LIFState:
        dtype = dtype_of(self)
        share = jax.random.uniform(key, shape, dtype)
        voltage = self.rest + share * (self.threshold - self.rest)
        return LIFState(voltage.astype(dtype), jnp.zeros(shape, dtype))

    def step(
        self, key: PRNGKeyArray, state: LIFState, input: Float[Array, "channel *shape"], dt: float
    ) -> tuple[LIFState, Output]:
        current, jump = input
        decay = jnp.exp(-dt / self.tau)
        target = self.rest + current
        voltage = target + (state.voltage - target) * decay + dt * jump
        voltage = jnp.where(state.refractory > 0, self.reset, voltage)
        spike = crossing(voltage - self.threshold, self.spike_gradient, self.surrogate_width)
        voltage = jnp.where(spike > 0, self.reset, voltage)
        left = refractory_left(spike, state.refractory, self.refractory, dt)
        return LIFState(voltage, left), Output(spike)

    def initial_output(self, state: LIFState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.voltage)

    def max_dt(self) -> Array:
        # The flow is exact at any step; the grid of spike times is what limits it.
        return self.tau / 10
