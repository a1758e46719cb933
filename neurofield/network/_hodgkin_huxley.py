"""Hodgkin and Huxley's neuron with the rates of Traub and Miles."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import not_negative, positive

from ._exprel import exprel
from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, parameter
from ._spike import SpikeGradient, crossing


class HodgkinHuxleyState(eqx.Module):
    """The gates are half a step behind the voltage."""

    voltage: Float[Array, "*shape"]  # mV
    m: Float[Array, "*shape"]  # sodium activation
    h: Float[Array, "*shape"]  # sodium inactivation
    n: Float[Array, "*shape"]  # potassium activation


class HodgkinHuxley(Neuron):
    """C dV/dt = g_L (E_L - V) + g_Na m^3 h (E_Na - V) + g_K n^4 (E_K - V) + synapses + I.

    Synapses: g_E (E_E - V) + g_I (E_I - V). Channels: `current` (pA), `excitatory` and
    `inhibitory` (nS). A spike is an upward crossing of `threshold`; nothing is reset. The gates
    and the voltage leapfrog, each exact for the other held fixed: second order in dt, stable at any
    step. Starts within 5 mV around `rest`, the gates at equilibrium there. Rates and defaults: the
    benchmark COBAHH of Brette et al. (2007), after Traub & Miles (1991).

    `spike_gradient`: no spike feeds back on its own neuron, so with `"score"`, which holds spikes
    constant, the derivative of an unconnected neuron's voltage is exact.
    `surrogate_width`: mV, used by `spike_gradient="surrogate"` alone.
    """

    capacitance: Parameter = parameter(0.2)  # nF
    leak: Parameter = parameter(10.0)  # nS
    sodium: Parameter = parameter(20e3)  # nS
    potassium: Parameter = parameter(6e3)  # nS
    rest: Parameter = parameter(-65.0)  # mV, reversal of the leak
    sodium_reversal: Parameter = parameter(50.0)  # mV
    potassium_reversal: Parameter = parameter(-90.0)  # mV
    excitatory_reversal: Parameter = parameter(0.0)  # mV
    inhibitory_reversal: Parameter = parameter(-80.0)  # mV
    offset: Parameter = parameter(-63.0)  # mV, V_T of the rates
    threshold: Parameter = parameter(0.0)  # mV
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")
    surrogate_width: float = eqx.field(static=True, default=1.0)

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("current", "excitatory", "inhibitory")

    def _rates(self, voltage: Array) -> tuple[tuple[Array, Array], ...]:
        """Opening and closing rates in hertz of m, h and n."""
        v = voltage - self.offset
        m = 1280 / exprel((13 - v) / 4), 1400 / exprel((v - 40) / 5)
        h = 128 * jnp.exp((17 - v) / 18), 4000 * jax.nn.sigmoid((v - 40) / 5)
        n = 160 / exprel((15 - v) / 5), 500 * jnp.exp((10 - v) / 40)
        return m, h, n

    def __check_init__(self):
        positive("capacitance", self.capacitance)
        positive("leak", self.leak)
        not_negative("sodium", self.sodium)
        not_negative("potassium", self.potassium)

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> HodgkinHuxleyState:
        dtype = dtype_of(self)
        shift = jax.random.uniform(key, shape, dtype, -5.0, 5.0)
        voltage = (self.rest + shift).astype(dtype)
        m, h, n = ((a / (a + b)).astype(dtype) for a, b in self._rates(voltage))
        return HodgkinHuxleyState(voltage, m, h, n)

    def step(
        self,
        key: PRNGKeyArray,
        state: HodgkinHuxleyState,
        input: Float[Array, "channel *shape"],
        dt: float,
    ) -> tuple[HodgkinHuxleyState, Output]:
        current, excitatory, inhibitory = input
        old = state.voltage
        m, h, n = (
            a / (a + b) + (gate - a / (a + b)) * jnp.exp(-dt * (a + b))
            for gate, (a, b) in zip((state.m, state.h, state.n), self._rates(old), strict=True)
        )
        channels = (
            (self.leak, self.rest),
            (self.sodium * m**3 * h, self.sodium_reversal),
            (self.potassium * n**4, self.potassium_reversal),
            (excitatory, self.excitatory_reversal),
            (inhibitory, self.inhibitory_reversal),
        )
        conductance = sum((g for g, _ in channels), start=jnp.zeros_like(old))
        flow = sum((g * (reversal - old) for g, reversal in channels), start=current)
        steps = dt / self.capacitance
        voltage = old + steps * flow * exprel(-steps * conductance)
        above = crossing(voltage - self.threshold, self.spike_gradient, self.surrogate_width)
        spike = jnp.where(old < self.threshold, above, 0)
        return HodgkinHuxleyState(voltage, m, h, n), Output(spike)

    def initial_output(self, state: HodgkinHuxleyState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.voltage)

    def max_dt(self) -> float:
        """A tenth of a millisecond: an upstroke takes a few."""
        return 1e-4
