"""Error of a mean of correlated data, and of functions of means: the Gamma method."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ._arrays import as_float, run_age


class Estimate(eqx.Module):
    """A mean (or a function of means) and what the autocorrelation of its series says of it.

    All fields have the shape of `mean`. `error` is one standard deviation; `error_of_error` its
    own; `tau_int` the integrated autocorrelation time in bins (1/2 for white noise) and
    `tau_int_error` its error; `window` the summation window in bins.
    """

    mean: Float[Array, "*shape"]
    error: Float[Array, "*shape"]
    error_of_error: Float[Array, "*shape"]
    tau_int: Float[Array, "*shape"]
    tau_int_error: Float[Array, "*shape"]
    window: Int[Array, "*shape"]


def mean_error(
    series: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    num_replica_axes: int | None = None,
    window_factor: float | int = 1.5,
) -> Estimate:
    """Mean of a correlated series and its standard error by the Gamma method.

    The integrated autocorrelation time is summed up to the automatic window of Wolff (2004,
    Comput. Phys. Commun. 156, 143, eqs 31-52), with its bias corrections. Replicas (epochs,
    trials, chains) share one autocorrelation function; no pair of bins reaches across a replica's
    end or across a bin that `mask` calls invalid. Correlations *between* replicas are not seen.

    **Arguments**

    - `series`: `[..., time]`.
    - `mask`: `[*replica, time]`, True where valid; `None` if all are.
    - `num_replica_axes`: how many axes before time are replicas to pool; `None`: all of them.
      Axes before those are separate observables, and the results have their shape.
    - `window_factor`: Wolff's S, the supposed ratio of exponential to integrated time.

    A series with no valid bin is an error at run time.
    """
    series, mask = _replicas(series, num_replica_axes), _replica_mask(mask)
    mean = _masked_mean(series, mask)
    return _estimate(mean, series - mean[..., None, None], mask, window_factor)


def derived_error(
    fn: Callable[[Any], Array],
    series: Any,
    mask: ArrayLike | None = None,
    *,
    num_replica_axes: int | None = None,
    window_factor: float | int = 1.5,
) -> Estimate:
    """`fn(means)` of correlated series and its standard error, to first order in the errors.

    The fluctuation of every bin is projected by the derivative of `fn` (by forward-mode automatic
    differentiation) and the projected series goes through the Gamma method, so that correlations
    between the series count (Wolff 2004, section 2.4).

    **Arguments**

    - `fn`: takes the means in the structure of `series`, returns an array; differentiable.
    - `series`: a pytree of arrays `[..., time]`, all with the same replica and time axes.
    - `mask`, `num_replica_axes`, `window_factor`: as for `mean_error`.

    For example `derived_error(lambda m: m["gain"] / m["spikes"], {"gain": g, "spikes": s})`.
    """
    mask = _replica_mask(mask)
    series = jax.tree.map(lambda x: _replicas(x, num_replica_axes), series)
    shapes = {leaf.shape[-2:] for leaf in jax.tree.leaves(series)}
    if len(shapes) != 1:
        raise ValueError(
            "every series must have the same replica and time axes, got (replicas, time) = "
            f"{sorted(shapes)}."
        )
    means = jax.tree.map(lambda x: _masked_mean(x, mask), series)
    value, push = jax.linearize(fn, means)
    ((num_replicas, num_bins),) = shapes
    tangents = jax.tree.map(
        lambda x, m: jnp.moveaxis((x - m[..., None, None]).reshape(*m.shape, -1), -1, 0),
        series,
        means,
    )
    projected = jnp.moveaxis(jax.vmap(push)(tangents), 0, -1)
    projected = projected.reshape(*value.shape, num_replicas, num_bins)
    return _estimate(value, projected, mask, window_factor)


def _replicas(series: ArrayLike, num_replica_axes: int | None) -> Float[Array, "..."]:
    """`[*observable, *replica, time]` to `[*observable, replica, time]`."""
    series = as_float(series)
    count = series.ndim - 1 if num_replica_axes is None else num_replica_axes
    if not 0 <= count < series.ndim:
        raise ValueError(
            f"num_replica_axes must be from 0 to {series.ndim - 1} for a series of shape "
            f"{series.shape}, got {num_replica_axes}."
        )
    observable = series.shape[: series.ndim - 1 - count]
    replicas = math.prod(series.shape[series.ndim - 1 - count : -1])
    return series.reshape(*observable, replicas, series.shape[-1])


def _replica_mask(mask: ArrayLike | None) -> Bool[Array, "replica time"] | None:
    if mask is None:
        return None
    mask = jnp.asarray(mask, bool)
    return mask.reshape(math.prod(mask.shape[:-1]), mask.shape[-1])


def _masked_mean(series: Float[Array, "..."], mask: Array | None) -> Float[Array, "..."]:
    if mask is None:
        return jnp.mean(series, axis=(-2, -1))
    if mask.shape != series.shape[-2:]:
        raise ValueError(
            f"mask has (replicas, time) = {mask.shape}, the series {series.shape[-2:]}: "
            "they must agree (num_replica_axes says which axes are replicas)."
        )
    empty = ~jnp.any(mask)
    series = eqx.error_if(series, empty, "the mask leaves no valid bin to average over.")
    return jnp.mean(series, axis=(-2, -1), where=jnp.broadcast_to(mask, series.shape))


@partial(jax.jit, static_argnames="window_factor")
def _estimate(
    mean: Float[Array, "*shape"],
    fluctuation: Float[Array, "*shape replica time"],
    mask: Bool[Array, "replica time"] | None,
    window_factor: float | int,
) -> Estimate:
    shape = mean.shape
    rows = fluctuation.reshape(math.prod(shape), *fluctuation.shape[-2:])
    dtype = rows.dtype
    if mask is None:
        count = jnp.asarray(rows.shape[-2] * rows.shape[-1], dtype)
        integrate = lambda row: _integrate_fft(row, count, window_factor)  # noqa: E731
    else:
        count = jnp.sum(mask, dtype=dtype)
        rows = jnp.where(jnp.broadcast_to(mask, rows.shape), rows, 0)
        age = run_age(mask)
        integrate = lambda row: _integrate_masked(row, age, count, window_factor)  # noqa: E731
    # One row at a time: the transforms of many long series together would not fit in memory.
    variance, total, window = jax.lax.map(integrate, rows)
    # Wolff 2004 eq. 49: subtracting the sample mean biases every Gamma(t) by -total/n.
    width = window.astype(dtype) + 0.5
    total = jnp.maximum(total * (1 + 2 * width / count), 0)
    variance = variance + total / count
    tau = jnp.where(variance > 0, total / (2 * jnp.where(variance > 0, variance, 1)), 0.5)
    error = jnp.sqrt(total / count)
    return Estimate(
        mean=mean,
        error=error.reshape(shape),
        error_of_error=(error * jnp.sqrt(width / count)).reshape(shape),
        tau_int=tau.reshape(shape),
        tau_int_error=(tau * jnp.sqrt(4 * jnp.maximum(width - tau, 0.0) / count)).reshape(shape),
        window=window.reshape(shape),
    )


def _past_window(
    tau: Float[Array, "..."], window: Float[Array, "..."], count: Array, factor: float
) -> Bool[Array, "..."]:
    """Whether truncation error has fallen below statistical error (Wolff 2004, eqs 50-52)."""
    correlated = tau > 0.5
    safe = jnp.where(correlated, tau, 1.0)
    decay = jnp.where(correlated, factor / jnp.log((2 * safe + 1) / (2 * safe - 1)), 1e-12)
    return jnp.exp(-window / decay) - decay / jnp.sqrt(window * count) < 0


def _integrate_fft(
    row: Float[Array, "replica time"], count: Array, factor: float
) -> tuple[Array, Array, Array]:
    """Gamma(0), Gamma(0) + 2 sum of Gamma up to the window, and the window, in O(T log T)."""
    num_replicas, num_bins = row.shape
    if num_bins == 1:
        variance = jnp.mean(row**2)
        return variance, variance, jnp.int32(0)
    spectrum = jnp.fft.rfft(row, n=_fft_length(2 * num_bins))
    power = jnp.sum(jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2, axis=0)
    sums = jnp.fft.irfft(power, n=_fft_length(2 * num_bins))[:num_bins]
    lags = jnp.arange(num_bins, dtype=row.dtype)
    gamma = sums / (num_replicas * (num_bins - lags))
    # The transform leaves rounding of the order of eps where a constant series has exactly zero.
    variance = jnp.mean(row**2)
    totals = variance + 2 * jnp.cumsum(gamma[1:])
    tau = totals / (2 * jnp.where(variance > 0, variance, 1))
    past = _past_window(tau, lags[1:], count, factor)
    index = jnp.where(jnp.any(past), jnp.argmax(past), num_bins - 2)
    return variance, totals[index], (index + 1).astype(jnp.int32)


def _integrate_masked(
    row: Float[Array, "replica time"], age: Int[Array, "replica time"], count: Array, factor: float
) -> tuple[Array, Array, Array]:
    """As `_integrate_fft`, lag by lag: a transform cannot tell pairs across a gap from others."""
    variance = jnp.sum(row**2) / count

    def unfinished(state):
        window, _, past = state
        return ~past & (window < row.shape[-1] - 1)

    def add_lag(state):
        window, total, _ = state
        window = window + 1
        # Bins that roll wraps around are too young for this lag, so they drop out as well.
        valid = jnp.roll(age, -window, axis=-1) >= window
        pairs = jnp.sum(valid, dtype=row.dtype)
        products = jnp.sum(jnp.where(valid, row * jnp.roll(row, -window, axis=-1), 0))
        total = total + 2 * products / jnp.maximum(pairs, 1)
        tau = total / (2 * jnp.where(variance > 0, variance, 1))
        past = _past_window(tau, window.astype(row.dtype), count, factor) | (pairs == 0)
        return window, total, past

    window, total, _ = jax.lax.while_loop(
        unfinished, add_lag, (jnp.int32(0), variance, jnp.asarray(False))
    )
    return variance, total, window


def _fft_length(minimum: int) -> int:
    """The next product of small powers: an awkward prime factor would cost far more."""
    power = 1 << (minimum - 1).bit_length()
    return min(size for size in (power, power * 3 // 4, power * 5 // 8) if size >= minimum)
