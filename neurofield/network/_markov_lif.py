"""The integrate-and-fire neuron that the Markov theory reduces."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import not_negative

from ._hazard import spike_probability
from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, parameter
from ._spike import SpikeGradient, crossing, draw


class MarkovLIFState(eqx.Module):
    voltage: Float[Array, "*shape"]  # mV
    refractory: Float[Array, "*shape"]  # 1 while refractory, else 0


class MarkovLIF(Neuron):
    """dV/dt = drive + excitatory - inhibitory (V - E_I) / (threshold - E_I) - leak V.

    Excitation is a current and inhibition linear in the voltage, of full strength at the threshold
    and none at the reversal E_I; plain Euler steps. At the end of a step with V above `threshold`
    the neuron spikes, and stays at `reset`, deaf to its input, for an exponentially distributed
    time of mean `refractory` seconds: it leaves that state with probability
    1 - exp(-dt / refractory) a step, that of the spike included. Starts at `reset`.

    Channels: `drive`, `excitatory` and `inhibitory`, all in mV/s (the last as felt at the
    threshold). `leak` is a rate in hertz, 0 for a perfect integrator. Chang et al. divide the drive
    by the membrane's time constant in milliseconds where there is a leak: for their network
    multiply the drive, its mean and its standard deviation, by leak / (1000 Hz).
    After Chang, Li, Wang, Tao & Xiao (2025).

    `surrogate_width`: mV, used by `spike_gradient="surrogate"` alone.
    """

    threshold: Parameter = parameter(100.0)  # mV
    reset: Parameter = parameter(0.0)  # mV
    inhibitory_reversal: Parameter = parameter(-66.0)  # mV
    leak: Parameter = parameter(0.0)  # Hz
    refractory: Parameter = parameter(0.004)  # s
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")
    surrogate_width: float = eqx.field(static=True, default=1.0)

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("drive", "excitatory", "inhibitory")

    def __check_init__(self):
        not_negative("leak", self.leak)
        not_negative("refractory", self.refractory)

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> MarkovLIFState:
        zero = jnp.zeros(shape, dtype_of(self))
        return MarkovLIFState((self.reset + zero).astype(zero.dtype), zero)

    def step(
        self,
        key: PRNGKeyArray,
        state: MarkovLIFState,
        input: Float[Array, "channel *shape"],
        dt: float,
    ) -> tuple[MarkovLIFState, Output]:
        drive, excitatory, inhibitory = input
        old = state.voltage
        felt = (old - self.inhibitory_reversal) / (self.threshold - self.inhibitory_reversal)
        voltage = old + dt * (drive + excitatory - inhibitory * felt - self.leak * old)
        voltage = jnp.where(state.refractory > 0, self.reset, voltage)
        # V > threshold, strictly.
        below = crossing(self.threshold - voltage, self.spike_gradient, self.surrogate_width)
        spike = 1 - below
        voltage = jnp.where(spike > 0, self.reset, voltage)
        lasting = self.refractory > 0
        hazard = 1 / jnp.where(lasting, self.refractory, 1)
        leaving = jnp.where(lasting, spike_probability(hazard, dt), 1)
        leaving = jnp.broadcast_to(leaving, old.shape).astype(old.dtype)
        # No likelihood covers this draw, so "score" may not hold it constant in silence.
        mode = "surrogate" if self.spike_gradient == "surrogate" else "error"
        leaves = draw(key, leaving, mode)
        busy = (state.refractory > 0) | (spike > 0)
        left = jnp.where(busy, 1 - leaves, 0)
        return MarkovLIFState(voltage, left), Output(spike)

    def initial_output(self, state: MarkovLIFState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.voltage)

    def max_dt(self) -> Array:
        """A millisecond, and a tenth of the membrane's time constant."""
        return 0.1 / jnp.maximum(self.leak, 100)
