"""The leaky integrate-and-fire neuron with escape noise."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import not_negative, positive

from ._hazard import Hazard, check_hazard, relative_hazard, spike_probability
from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, parameter
from ._spike import SpikeGradient, draw, fresh_unless_refractory, refractory_left


class EscapeLIFState(eqx.Module):
    voltage: Float[Array, "*shape"]  # mV
    refractory: Float[Array, "*shape"]  # steps left


class EscapeLIF(Neuron):
    """Leaky integrate-and-fire with escape noise: tau dV/dt = rest - V + current.

    It fires with the hazard `rate * f((V - threshold) / width)` in hertz, so in a step with the
    probability 1 - exp(-hazard dt), V being the voltage at the end of the step. `hazard` names f:
    `"exponential"`, `"erf"` (the normal distribution function), `"logistic"`, `"softplus"`,
    `"linear"` (rectified), or is a function of one array. `Output.intensity` is
    (1 - exp(-hazard dt)) / dt, the expected number of spikes in the step a second, given the past.

    After a spike the voltage stays at `reset` for `refractory` seconds (rounded to whole steps).
    With `resets=False` a spike leaves the voltage alone, a doubly stochastic Poisson process of the
    filtered input. Channels: `current` (mV) and `jump` (mV/s, for delta synapses). Starts uniformly
    between rest and threshold. Raises ValueError for an unknown hazard.
    After Gerstner et al. (2014), "Neuronal Dynamics", chapter 9.
    """

    tau: Parameter = parameter(0.02)  # s
    threshold: Parameter = parameter(15.0)  # mV
    width: Parameter = parameter(3.0)  # mV
    rate: Parameter = parameter(50.0)  # Hz
    reset: Parameter = parameter(0.0)  # mV
    rest: Parameter = parameter(0.0)  # mV
    refractory: Parameter = parameter(0.0)  # s
    hazard: Hazard = eqx.field(static=True, default="exponential")
    resets: bool = eqx.field(static=True, default=True)
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("current", "jump")

    def __check_init__(self):
        not_negative("rate", self.rate)
        not_negative("refractory", self.refractory)
        positive("tau", self.tau)
        positive("width", self.width)
        check_hazard(self.hazard)

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> EscapeLIFState:
        dtype = dtype_of(self)
        share = jax.random.uniform(key, shape, dtype)
        voltage = self.rest + share * (self.threshold - self.rest)
        return EscapeLIFState(voltage.astype(dtype), jnp.zeros(shape, dtype))

    def step(
        self,
        key: PRNGKeyArray,
        state: EscapeLIFState,
        input: Float[Array, "channel *shape"],
        dt: float,
    ) -> tuple[EscapeLIFState, Output]:
        current, jump = input
        decay = jnp.exp(-dt / self.tau)
        target = self.rest + current
        voltage = target + (state.voltage - target) * decay + dt * jump
        free = state.refractory <= 0
        if self.resets:
            voltage = jnp.where(free, voltage, self.reset)
        hazard = self.rate * relative_hazard(self.hazard, (voltage - self.threshold) / self.width)
        probability = jnp.where(free, spike_probability(hazard, dt), 0)
        spike = draw(key, probability, self.spike_gradient)
        if self.resets:
            voltage = jnp.where(spike > 0, self.reset, voltage)
        left = refractory_left(spike, state.refractory, self.refractory, dt)
        return EscapeLIFState(voltage, left), Output(spike, probability / dt)

    def initial_output(self, state: EscapeLIFState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.voltage)

    def memory(self, dt: float) -> Float[Array, ""] | float | None:
        return None if self.resets else fresh_unless_refractory(self.refractory)

    def max_dt(self) -> Array:
        return self.tau / 10
