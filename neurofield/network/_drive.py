"""What drives a population from outside, and the drives that are known functions of time."""

import abc
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from neurofield._types import PyTree
from neurofield._validate import finite, positive

from ._neuron import Parameter, as_parameter


class Targets(eqx.Module):
    """The state of a source that remembers nothing: how many neurons it drives, in which dtype."""

    size: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def spread(self, value: Float[Array, "..."]) -> Float[Array, " neuron"]:
        """A scalar or `[neuron]` as `[neuron]` in the dtype of the targets."""
        if value.shape not in ((), (self.size,)):
            raise ValueError(
                f"a source's values must be scalars or [neuron] = ({self.size},), got {value.shape}"
            )
        return jnp.broadcast_to(value.astype(self.dtype), (self.size,))


class Source(eqx.Module):
    """One external input to the neurons of a population, each driven by its own realisation.

    - `channel`: the input channel it feeds, whose unit its values have.
    """

    channel: eqx.AbstractVar[str]

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray, size: int, dt: float, dtype: Any) -> PyTree:
        """The state at time 0 for `size` neurons, and steps of `dt` seconds."""

    @abc.abstractmethod
    def step(
        self, key: PRNGKeyArray, state: PyTree, step: Int[Array, ""], dt: float
    ) -> tuple[PyTree, Float[Array, " neuron"]]:
        """Go on from `step * dt` by `dt`; the mean input over the step."""


class Drive(eqx.Module):
    """All that drives one population: `Drive(Constant(5.0), WhiteNoise(0.1))` is their sum.

    Sources may feed different channels. Raises `ValueError` for what is not a `Source`.
    """

    sources: tuple[Source, ...]

    def __init__(self, *sources: Any):
        if not all(isinstance(source, Source) for source in sources):
            kinds = [type(source).__name__ for source in sources]
            raise ValueError(f"a Drive takes sources such as Constant or Poisson, got {kinds}.")
        self.sources = sources

    def init(self, key: PRNGKeyArray, size: int, dt: float, dtype: Any) -> tuple[PyTree, ...]:
        keys = jax.random.split(key, len(self.sources))
        return tuple(
            source.init(key, size, dt, dtype)
            for source, key in zip(self.sources, keys, strict=True)
        )

    def step(
        self, key: PRNGKeyArray, state: tuple[PyTree, ...], step: Int[Array, ""], dt: float
    ) -> tuple[tuple[PyTree, ...], dict[str, Float[Array, " neuron"]]]:
        """The states after the step, and the summed input of each channel that is driven."""
        # A split costs as much as some hundred draws: a lone source takes the key as it is.
        alone = len(self.sources) == 1
        keys = [key] if alone else jax.random.split(key, len(self.sources))
        states, inputs = [], {}
        for source, one, own in zip(self.sources, keys, state, strict=True):
            own, value = source.step(one, own, step, dt)
            states.append(own)
            channel = source.channel
            inputs[channel] = inputs[channel] + value if channel in inputs else value
        return tuple(states), inputs


class Constant(Source):
    """A constant input: a scalar or `[neuron]`, in the unit of its channel (`current` by default).

    Raises `ValueError` for values that are not finite.
    """

    value: Parameter = eqx.field(converter=as_parameter)
    channel: str = eqx.field(static=True, default="current")  # pyright: ignore

    def __check_init__(self):
        finite("value", self.value)

    def init(self, key, size, dt, dtype):
        return Targets(size, dtype)

    def step(self, key, state, step, dt):
        return state, state.spread(self.value)


class TimeCourse(Source):
    """An input given as samples, `values[time]` or `values[neuron, time]`, each held `interval` s.

    A step takes the exact mean over its span, be `dt` finer or coarser than `interval`; their ratio
    must be one of whole numbers (below 10,000), so that nothing drifts. After the last sample:
    `after="hold"` stays at it, `after="zero"` stops.

    Raises `ValueError` for values that are not finite or of other shapes, an unknown `after` and,
    when it is run, a `dt` in no such ratio.
    """

    values: Float[Array, "*neuron time"] = eqx.field(converter=as_parameter)
    interval: float = eqx.field(static=True)
    after: str = eqx.field(static=True, default="hold")
    channel: str = eqx.field(static=True, default="current")  # pyright: ignore

    def __check_init__(self):
        finite("values", self.values)
        positive("interval", self.interval)
        if self.after not in ("hold", "zero"):
            raise ValueError(f'after must be "hold" or "zero", got {self.after!r}.')
        if self.values.ndim not in (1, 2) or not self.values.shape[-1]:
            raise ValueError(f"values must be [time] or [neuron, time], got {self.values.shape}.")

    def init(self, key, size, dt, dtype):
        self._ratio(dt)
        return Targets(size, dtype)

    def step(self, key, state, step, dt):
        # In units of interval / q a step is p long: whole numbers, exact however late it is.
        p, q = self._ratio(dt)
        num_samples = self.values.shape[-1]
        # All steps beyond are past the end: no product overflows.
        step = jnp.minimum(step, min(-(-num_samples * q // p) + 1, 2**31 - 1))
        rest = step % q * p
        first, start = step // q * p + rest // q, rest % q
        held = jnp.arange(-(-(q - 1 + p) // q), dtype=step.dtype)
        overlap = jnp.minimum(start + p, (held + 1) * q) - jnp.maximum(start, held * q)
        share = jnp.maximum(overlap, 0).astype(state.dtype) / p
        index = first + held
        if self.after == "zero":
            share = jnp.where(index < num_samples, share, 0)
        samples = self.values[..., jnp.minimum(index, num_samples - 1)].astype(state.dtype)
        return state, state.spread(jnp.sum(samples * jnp.broadcast_to(share, samples.shape), -1))

    def _ratio(self, dt: float) -> tuple[int, int]:
        """dt / interval as p / q."""
        exact = float(dt) / self.interval
        ratio = Fraction(exact).limit_denominator(10_000)
        p, q = ratio.numerator, ratio.denominator
        if abs(exact - ratio) > 1e-9 * exact or p * q >= 2**31:
            raise ValueError(
                f"dt = {dt} s and the interval of {self.interval} s between samples must be in a "
                "ratio of whole numbers below 10,000; resample the time course."
            )
        return p, q


class Function(Source):
    """An input `fn(t)`, a scalar or `[neuron]` at t seconds, taken at the middle of each step.

    `fn` is a function of JAX that takes one scalar array; it is static. The time is 0 when the
    simulation begins, its warm-up included.
    """

    fn: Callable[[Array], Any] = eqx.field(static=True)
    channel: str = eqx.field(static=True, default="current")  # pyright: ignore

    def init(self, key, size, dt, dtype):
        return Targets(size, dtype)

    def step(self, key, state, step, dt):
        time = (jnp.asarray(step, np.result_type(float)) + 0.5) * dt
        return state, state.spread(as_parameter(self.fn(time)))
