"""The integrate-and-fire neuron with synaptic conductances."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import not_negative, positive

from ._exprel import exprel
from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, parameter
from ._spike import SpikeGradient, crossing, refractory_left


class ConductanceLIFState(eqx.Module):
    voltage: Float[Array, "*shape"]  # mV
    refractory: Float[Array, "*shape"]  # steps left


class ConductanceLIF(Neuron):
    """C dV/dt = g_L (E_L - V) + g_E (E_E - V) + g_I (E_I - V) + I; spike, reset at the threshold.

    After a spike the voltage stays at `reset` for `refractory` seconds (rounded to whole steps) and
    ignores its input. Between spikes the step is exact for conductances and a current that are
    constant in it. Channels: `current` (pA), `excitatory` and `inhibitory` (nS). Starts uniformly
    between reset and threshold. Defaults: the benchmark COBA of Brette et al. (2007), after Vogels
    & Abbott (2005).

    `surrogate_width`: mV, used by `spike_gradient="surrogate"` alone.
    """

    capacitance: Parameter = parameter(0.2)  # nF
    leak: Parameter = parameter(10.0)  # nS
    rest: Parameter = parameter(-60.0)  # mV
    excitatory_reversal: Parameter = parameter(0.0)  # mV
    inhibitory_reversal: Parameter = parameter(-80.0)  # mV
    threshold: Parameter = parameter(-50.0)  # mV
    reset: Parameter = parameter(-60.0)  # mV
    refractory: Parameter = parameter(0.005)  # s
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")
    surrogate_width: float = eqx.field(static=True, default=1.0)

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("current", "excitatory", "inhibitory")

    def __check_init__(self):
        positive("capacitance", self.capacitance)
        positive("leak", self.leak)
        not_negative("refractory", self.refractory)

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> ConductanceLIFState:
        dtype = dtype_of(self)
        share = jax.random.uniform(key, shape, dtype)
        voltage = self.reset + share * (self.threshold - self.reset)
        return ConductanceLIFState(voltage.astype(dtype), jnp.zeros(shape, dtype))

    def step(
        self,
        key: PRNGKeyArray,
        state: ConductanceLIFState,
        input: Float[Array, "channel *shape"],
        dt: float,
    ) -> tuple[ConductanceLIFState, Output]:
        current, excitatory, inhibitory = input
        conductance = self.leak + excitatory + inhibitory
        flow = (
            self.leak * self.rest
            + excitatory * self.excitatory_reversal
            + inhibitory * self.inhibitory_reversal
            + current
            - conductance * state.voltage
        )
        steps = dt / self.capacitance
        voltage = state.voltage + steps * flow * exprel(-steps * conductance)
        voltage = jnp.where(state.refractory > 0, self.reset, voltage)
        spike = crossing(voltage - self.threshold, self.spike_gradient, self.surrogate_width)
        voltage = jnp.where(spike > 0, self.reset, voltage)
        left = refractory_left(spike, state.refractory, self.refractory, dt)
        return ConductanceLIFState(voltage, left), Output(spike)

    def initial_output(self, state: ConductanceLIFState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.voltage)

    def max_dt(self) -> Array:
        return self.capacitance / self.leak / 10
