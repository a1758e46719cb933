"""Rate units: a leaky integrator behind a static nonlinearity, with or without adaptation."""

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import positive

from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, optional_parameter, parameter


def _unit_erf(x: Array) -> Array:
    return jax.scipy.special.erf(x * (math.sqrt(math.pi) / 2))


_PHI = {"tanh": jnp.tanh, "erf": _unit_erf, "relu": jax.nn.relu, "logistic": jax.nn.sigmoid}


def _phi(value: str | Callable[[Array], Array]) -> Callable[[Array], Array]:
    if callable(value):
        return value
    if value not in _PHI:
        raise ValueError(
            f"Unknown nonlinearity phi={value!r}: give one of {', '.join(_PHI)}, or a function."
        )
    return _PHI[value]


class RateState(eqx.Module):
    x: Float[Array, "*shape"]
    adaptation: Float[Array, "*shape"] | None  # None without adaptation


class Rate(Neuron):
    """Rate unit: tau dx/dt = -x + current, output phi(gain x). Everything is dimensionless.

    `phi`: "tanh", "erf" (erf(sqrt(pi) x / 2), of unit slope), "relu", "logistic", or an elementwise
    function; it is static. The step is exact for a current that is constant in it. With
    `adaptation` b, the current is reduced by a, where tau_adaptation da/dt = -a + b phi(gain x) and
    a(0) = 0; the step is then of second order. x(0) is normal. Differentiable throughout.
    After Sompolinsky, Crisanti & Sommers (1988).

    Raises `ValueError` for an unknown name of `phi` and a time constant that is not positive.
    """

    phi: Callable[[Array], Array] = eqx.field(static=True, converter=_phi, default="tanh")
    tau: Parameter = parameter(0.01)  # s
    gain: Parameter = parameter(1.0)
    adaptation: Parameter | None = eqx.field(converter=optional_parameter, default=None)
    tau_adaptation: Parameter = parameter(0.1)  # s
    initial_mean: Parameter = parameter(0.0)
    initial_sd: Parameter = parameter(1.0)

    kind: ClassVar[Kind] = "rate"
    channels: ClassVar[tuple[str, ...]] = ("current",)

    def __check_init__(self):
        for name in ("tau", "tau_adaptation"):
            positive(name, getattr(self, name))

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> RateState:
        dtype = dtype_of(self)
        x = self.initial_mean + self.initial_sd * jax.random.normal(key, shape, dtype)
        adaptation = None if self.adaptation is None else jnp.zeros(shape, dtype)
        return RateState(x.astype(dtype), adaptation)

    def step(
        self, key: PRNGKeyArray, state: RateState, input: Float[Array, "channel *shape"], dt: float
    ) -> tuple[RateState, Output]:
        (current,) = input
        decay = jnp.exp(-dt / self.tau)
        a = state.adaptation
        target = current if a is None else current - a
        x = target + (state.x - target) * decay
        if a is not None and self.adaptation is not None:
            # Two stages of exponential Runge-Kutta (ETD2RK of Cox & Matthews 2002): hold `a` and
            # phi, then let them go linearly to the values so found.
            h, h_a = dt / self.tau, dt / self.tau_adaptation
            before, after = (self.adaptation * self.phi(self.gain * y) for y in (state.x, x))
            held = before + (a - before) * jnp.exp(-h_a)
            x = x - (1 + jnp.expm1(-h) / h) * (held - a)
            a = held + (1 + jnp.expm1(-h_a) / h_a) * (after - before)
        state = RateState(x, a)
        return state, Output(self.initial_output(state))

    def initial_output(self, state: RateState) -> Float[Array, "*shape"]:
        return self.phi(self.gain * state.x)

    def max_dt(self) -> Array:
        # The unit alone bears any step; in a network the input is held over the step.
        if self.adaptation is None:
            return self.tau / 2
        return jnp.minimum(self.tau, self.tau_adaptation) / 2
