"""The adaptive exponential integrate-and-fire neuron."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import positive

from ._eif import upstroke
from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, parameter
from ._spike import SpikeGradient, crossing, refractory_left


class AdExState(eqx.Module):
    voltage: Float[Array, "*shape"]  # mV
    adaptation: Float[Array, "*shape"]  # pA
    refractory: Float[Array, "*shape"]  # steps left


class AdEx(Neuron):
    """Adaptive exponential integrate-and-fire neuron:

        capacitance dV/dt = -leak (V - rest) + leak slope exp((V - threshold) / slope) - w + current
        tau_adaptation dw/dt = coupling (V - rest) - w

    and at `peak` a spike: V goes to `reset`, where it is held for `refractory` seconds (in whole
    steps), and w grows by `increment`. The leak, the exponential and w are each solved exactly and
    composed symmetrically (Strang): second order in dt between spikes. The peak is tested at the
    end of a step. Channels: `current` (pA) and `jump` (mV/s, for delta synapses). Starts uniformly
    between rest and threshold, with w = 0. Model and default values after Brette & Gerstner (2005).

    `surrogate_width`: mV, used by `spike_gradient="surrogate"` alone.

    Raises `ValueError` for a capacitance, leak, slope or time constant that is not positive.
    """

    capacitance: Parameter = parameter(0.281)  # nF
    leak: Parameter = parameter(30.0)  # nS
    slope: Parameter = parameter(2.0)  # mV
    threshold: Parameter = parameter(-50.4)  # mV
    peak: Parameter = parameter(20.0)  # mV
    reset: Parameter = parameter(-70.6)  # mV
    rest: Parameter = parameter(-70.6)  # mV
    tau_adaptation: Parameter = parameter(0.144)  # s
    coupling: Parameter = parameter(4.0)  # nS
    increment: Parameter = parameter(80.5)  # pA
    refractory: Parameter = parameter(0.0)  # s
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")
    surrogate_width: float = eqx.field(static=True, default=1.0)

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("current", "jump")

    def __check_init__(self):
        for name in ("capacitance", "leak", "slope", "tau_adaptation"):
            positive(name, getattr(self, name))

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> AdExState:
        dtype = dtype_of(self)
        share = jax.random.uniform(key, shape, dtype)
        voltage = self.rest + share * (self.threshold - self.rest)
        zero = jnp.zeros(shape, dtype)
        return AdExState(voltage.astype(dtype), zero, zero)

    def step(
        self, key: PRNGKeyArray, state: AdExState, input: Float[Array, "channel *shape"], dt: float
    ) -> tuple[AdExState, Output]:
        current, jump = input
        tau = self.capacitance / self.leak
        decay = jnp.exp(-dt / 2 / tau)
        adaptation = self._adapt(state.adaptation, state.voltage, dt / 2)
        target = self.rest + (current - adaptation) / self.leak
        middle = target + (state.voltage - target) * decay
        risen = upstroke(middle, dt / tau, self.threshold, self.slope, self.peak)
        voltage = target + (risen - target) * decay
        held = state.refractory > 0
        voltage = jnp.where(held, self.reset, voltage)
        adaptation = self._adapt(adaptation, voltage, dt / 2)
        voltage = voltage + jnp.where(held, 0, dt * jump)
        # A jump after the upstroke does not undo it.
        top = jnp.where(held, self.reset, jnp.maximum(risen, voltage))
        spike = crossing(top - self.peak, self.spike_gradient, self.surrogate_width)
        voltage = jnp.where(spike > 0, self.reset, voltage)
        left = refractory_left(spike, state.refractory, self.refractory, dt)
        return AdExState(voltage, adaptation + self.increment * spike, left), Output(spike)

    def _adapt(self, adaptation: Array, voltage: Array, time: float) -> Array:
        target = self.coupling * (voltage - self.rest)
        return target + (adaptation - target) * jnp.exp(-time / self.tau_adaptation)

    def initial_output(self, state: AdExState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.voltage)

    def max_dt(self) -> Array:
        # As for EIF: the upstroke is solved exactly and does not limit the step.
        return jnp.minimum(self.capacitance / self.leak, self.tau_adaptation) / 10
