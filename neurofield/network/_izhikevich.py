"""Izhikevich's two-variable neuron."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import positive

from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, parameter
from ._spike import SpikeGradient, crossing


class IzhikevichState(eqx.Module):
    voltage: Float[Array, "*shape"]  # mV
    recovery: Float[Array, "*shape"]  # mV/ms, Izhikevich's u


class Izhikevich(Neuron):
    """v' = 0.04 v^2 + 5 v + 140 - u + current, u' = a (b v - u) per millisecond.

    Where v reaches `peak` it is set to `reset` (c) and u grows by `increment` (d). The equations
    are the published ones, in mV and ms: `current` has the published unit (mV/ms), `a` is per
    millisecond; the step `dt` is in seconds, as everywhere. Channels: `current` and `jump` (mV/s,
    for delta synapses). Heun's method: second order between spikes; the reset waits for the end
    of the step, so that spikes are first order. Starts within 5 mV around -65 mV, with u = b v.
    Defaults: regular spiking. After Izhikevich (2003).

    `surrogate_width`: mV, used by `spike_gradient="surrogate"` alone.
    """

    a: Parameter = parameter(0.02)  # 1/ms
    b: Parameter = parameter(0.2)  # 1/ms
    reset: Parameter = parameter(-65.0)  # mV, Izhikevich's c
    increment: Parameter = parameter(8.0)  # mV/ms, Izhikevich's d
    peak: Parameter = parameter(30.0)  # mV
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")
    surrogate_width: float = eqx.field(static=True, default=1.0)

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("current", "jump")

    def __check_init__(self):
        positive("a", self.a)

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> IzhikevichState:
        dtype = dtype_of(self)
        voltage = jax.random.uniform(key, shape, dtype, -70.0, -60.0)
        return IzhikevichState(voltage, (self.b * voltage).astype(dtype))

    def step(
        self,
        key: PRNGKeyArray,
        state: IzhikevichState,
        input: Float[Array, "channel *shape"],
        dt: float,
    ) -> tuple[IzhikevichState, Output]:
        current, jump = input
        ms = 1000 * dt

        def slope(v: Array, u: Array) -> tuple[Array, Array]:
            return (0.04 * v + 5) * v + 140 - u + current, self.a * (self.b * v - u)

        v, u = state.voltage, state.recovery
        dv, du = slope(v, u)
        dv_end, du_end = slope(v + ms * dv, u + ms * du)
        v = v + ms / 2 * (dv + dv_end) + dt * jump
        u = u + ms / 2 * (du + du_end)
        spike = crossing(v - self.peak, self.spike_gradient, self.surrogate_width)
        v = jnp.where(spike > 0, self.reset, v)
        u = jnp.where(spike > 0, u + self.increment, u)
        return IzhikevichState(v, u), Output(spike)

    def initial_output(self, state: IzhikevichState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.voltage)

    def max_dt(self) -> float:
        """Half a millisecond, Izhikevich's own step."""
        return 5e-4
