"""Delays of transmission, on the grid of time steps."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from ._neuron import Shape


class DelayDistribution(eqx.Module):
    """Independent random delays, rounded to the nearest whole number of steps.

    Their parameters are static numbers: a whole number of steps has no derivative.
    """

    @abc.abstractmethod
    def check(self, dt: float) -> None:
        """Raises `ValueError` if delays would be shorter than a step of `dt` seconds."""

    @abc.abstractmethod
    def max_steps(self, dt: float) -> int:
        """A bound of the delays, in steps."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, shape: Shape, dt: float) -> Int[Array, "..."]:
        """Delays in steps, from 1 to `max_steps(dt)`, int32."""


class UniformDelay(DelayDistribution):
    """Delays uniform between `low` and `high` seconds, each rounded to whole steps.

    Raises `ValueError` unless 0 < low <= high, and in `realise` for a `low` below one step.
    """

    low: float = eqx.field(static=True, converter=float)
    high: float = eqx.field(static=True, converter=float)

    def __check_init__(self):
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(
                f"expected 0 < low <= high, finite, got low = {self.low} s, high = {self.high} s."
            )

    def check(self, dt: float) -> None:
        _check_shortest(self.low, dt, "the shortest delay")

    def max_steps(self, dt: float) -> int:
        return max(round(self.high / dt), 1)

    def sample(self, key: PRNGKeyArray, shape: Shape, dt: float) -> Int[Array, "..."]:
        self.check(dt)
        u = jax.random.uniform(key, shape, minval=self.low / dt, maxval=self.high / dt)
        return _steps(u, self.max_steps(dt))


class NormalDelay(DelayDistribution):
    """Normal delays of `mean` and `sd` seconds; those below one step are drawn again.

    So are those above `mean` + 6 `sd`, one in 10^9, which bounds the memory of a simulation.
    Raises `ValueError` for values that are not positive, and in `realise` for a `mean` below one
    step.
    """

    mean: float = eqx.field(static=True, converter=float)
    sd: float = eqx.field(static=True, converter=float)

    def __check_init__(self):
        if not (0 < self.mean < math.inf and 0 < self.sd < math.inf):
            raise ValueError(
                f"mean and sd must be positive and finite, got {self.mean} s and {self.sd} s."
            )

    def check(self, dt: float) -> None:
        _check_shortest(self.mean, dt, "the mean delay")

    def max_steps(self, dt: float) -> int:
        return max(round((self.mean + 6 * self.sd) / dt), 1)

    def sample(self, key: PRNGKeyArray, shape: Shape, dt: float) -> Int[Array, "..."]:
        self.check(dt)
        z = jax.random.truncated_normal(key, min((dt - self.mean) / self.sd, 0.0), 6.0, shape)
        return _steps((self.mean + self.sd * z) / dt, self.max_steps(dt))


def _steps(steps: Array, most: int) -> Array:
    # A value within rounding of a bound may round past it; none is shorter than that.
    return jnp.clip(jnp.round(steps), 1, most).astype(jnp.int32)


def _check_shortest(delay: float, dt: float, what: str) -> None:
    if not delay >= dt * (1 - 1e-6):
        raise ValueError(
            f"{what} is {delay} s, but what is sent in a step of dt = {dt} s arrives in the next "
            "one at the earliest: take longer delays or a smaller dt."
        )


def delay_steps(delay: float, dt: float) -> int:
    """A delay of `delay` seconds in steps of `dt` seconds.

    Raises `ValueError` if it is shorter than one step or, by more than one part in 10^6, no whole
    number of steps.
    """
    if not math.isfinite(delay):
        raise ValueError(f"a delay must be finite, got {delay} s.")
    _check_shortest(delay, dt, "the delay")
    steps = round(delay / dt)
    if abs(delay / dt - steps) > 1e-6 * steps:
        raise ValueError(
            f"a delay of {delay} s is {delay / dt:.6g} steps of dt = {dt} s, and must be a whole "
            f"number: take {steps * dt:.6g} s or another dt."
        )
    return steps
