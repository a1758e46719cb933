"""Errors by blocking and resampling, and diagnostics of several chains."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from neurofield._types import PRNGKey

from ._arrays import as_float


class Resampled(eqx.Module):
    """An estimate with the standard error (and bias, where known) that resampling gives."""

    mean: Float[Array, "*shape"]
    error: Float[Array, "*shape"]
    bias: Float[Array, "*shape"] | None = None


def blocking_error(series: ArrayLike, block_size: int, mask: ArrayLike | None = None) -> Resampled:
    """Mean of `series[..., time]` and its error from non-overlapping blocks of `block_size` bins.

    Blocks stay within a replica (leading axes, all pooled); with a mask a block counts by its
    valid bins. The error is that of a ratio of block sums; blocks must be much longer than the
    correlation time, and at least two must hold data. Rising `block_size` until the error levels
    off is the binning analysis of Flyvbjerg and Petersen (1989).
    """
    series = as_float(series)
    num_bins = series.shape[-1]
    num_blocks = -(-num_bins // block_size)
    valid = jnp.ones(series.shape, bool) if mask is None else jnp.asarray(mask, bool)
    if valid.shape != series.shape:
        raise ValueError(f"mask must have the shape of series {series.shape}, got {valid.shape}.")
    if block_size < 1 or num_blocks * (series.size // num_bins) < 2:
        raise ValueError(
            f"block_size must leave at least two blocks of the {series.shape} series, "
            f"got {block_size}."
        )
    padding = [(0, 0)] * (series.ndim - 1) + [(0, num_blocks * block_size - num_bins)]
    in_blocks = lambda x: jnp.pad(x, padding).reshape(-1, block_size).sum(-1)  # noqa: E731
    weight = in_blocks(valid.astype(series.dtype))
    total = jnp.sum(weight)
    mean = jnp.sum(jnp.where(valid, series, 0)) / total
    deviation = in_blocks(jnp.where(valid, series - mean, 0))
    filled = jnp.sum(weight > 0, dtype=series.dtype)
    filled = eqx.error_if(filled, filled < 2, "blocking needs two blocks with valid bins.")
    error = jnp.sqrt(filled / (filled - 1) * jnp.sum(deviation**2)) / total
    return Resampled(mean, error)


def jackknife(fn: Callable[[Any], Array], samples: Any) -> Resampled:
    """`fn(samples)` with its jackknife error and bias (Efron and Stein 1981).

    `samples` is a pytree whose leaves share a leading axis of trials or blocks; `fn` takes such a
    pytree (with one entry fewer, too) and returns an array. The bias is not subtracted.
    """
    sizes = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(samples)}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"samples must share a leading axis of at least 2, got {sorted(sizes)}.")
    (count,) = sizes
    kept = jnp.arange(count - 1)

    def without(index: Array) -> Array:
        rows = jnp.where(kept < index, kept, kept + 1)
        return fn(jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], samples))

    value = jnp.asarray(fn(jax.tree.map(jnp.asarray, samples)))
    left_out = jax.lax.map(without, jnp.arange(count))
    centre = jnp.mean(left_out, axis=0)
    spread = jnp.sum((left_out - centre[None]) ** 2, axis=0)
    error = jnp.sqrt((count - 1) / count * spread)
    return Resampled(value, error, (count - 1) * (centre - value))


def stationary_bootstrap(
    key: PRNGKey,
    fn: Callable[[Array], Array],
    series: ArrayLike,
    mean_block: float | int,
    *,
    num_samples: int = 200,
) -> Resampled:
    """`fn(series)` with the error that the stationary bootstrap gives (Politis and Romano 1994).

    The time axis (last) of `series[..., time]` is resampled in blocks of geometric length with
    mean `mean_block` bins, wrapped around the end; leading axes are resampled alike, so that
    their correlations survive. `fn` takes a series of the same shape and returns an array.
    """
    series = as_float(series)
    num_bins = series.shape[-1]
    if not mean_block >= 1:
        raise ValueError(f"mean_block must be at least 1 bin, got {mean_block}.")

    def draw(key: PRNGKey) -> Array:
        restart_key, start_key = jax.random.split(key)
        time = jnp.arange(num_bins)
        restart = jax.random.bernoulli(restart_key, 1 / mean_block, (num_bins,)).at[0].set(True)
        starts = jax.random.randint(start_key, (num_bins,), 0, num_bins)
        last = jax.lax.cummax(jnp.where(restart, time, 0))
        return fn(series[..., (starts[last] + time - last) % num_bins])

    value = jnp.asarray(fn(series))
    draws = jax.lax.map(draw, jax.random.split(key, num_samples))
    return Resampled(value, jnp.std(draws, axis=0, ddof=1), jnp.mean(draws, axis=0) - value)


def split_rhat(chains: ArrayLike) -> Float[Array, "*shape"]:
    """Rank-normalised split R-hat of `chains[..., chain, draw]` (Vehtari et al. 2021, eqs 1-4, 14).

    The larger of the bulk and the folded (tail) value; 1 at convergence, advised below 1.01.
    Chains that never move from one common value give 1, from different values infinity.
    """
    halves = _split(as_float(chains))
    folded = jnp.abs(halves - jnp.median(halves, axis=(-2, -1), keepdims=True))
    return jnp.maximum(_rhat(_rank_normalise(halves)), _rhat(_rank_normalise(folded)))


def ess(chains: ArrayLike, *, rank_normalise: bool = True) -> Float[Array, "*shape"]:
    """Effective sample size of `chains[..., chain, draw]` (Vehtari et al. 2021, eqs 7-13).

    Split chains, autocorrelation by FFT, Geyer's initial monotone sequence. `rank_normalise=True`
    gives the bulk ESS, False the classical one for the mean.
    """
    halves = _split(as_float(chains))
    halves = _rank_normalise(halves) if rank_normalise else halves
    num_chains, num_draws = halves.shape[-2:]
    within, total = _variances(halves)
    centred = halves - jnp.mean(halves, axis=-1, keepdims=True)
    spectrum = jnp.fft.rfft(centred, n=2 * num_draws)
    power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
    covariance = jnp.fft.irfft(power, n=2 * num_draws)[..., :num_draws] / num_draws
    mean_covariance = jnp.mean(covariance, axis=-2)
    safe = jnp.where(total > 0, total, 1)[..., None]
    rho = 1 - (within[..., None] - mean_covariance) / safe
    rho = rho.at[..., 0].set(1)
    pairs = rho[..., 0 : num_draws // 2 * 2 : 2] + rho[..., 1::2][..., : num_draws // 2]
    positive = jnp.cumprod(pairs > 0, axis=-1, dtype=jnp.int32) > 0
    monotone = jax.lax.cummin(jnp.where(positive, pairs, 0), axis=pairs.ndim - 1)
    count = num_chains * num_draws
    # Antithetic chains: Stan's bound on how far beyond the draws the estimate may go.
    tau = jnp.maximum(2 * jnp.sum(monotone, axis=-1) - 1, 1 / math.log10(count))
    return count / tau.astype(halves.dtype)


def _split(chains: Float[Array, "*shape chain draw"]) -> Float[Array, "*shape half halfdraw"]:
    if chains.ndim < 2 or chains.shape[-1] < 4:
        raise ValueError(
            f"chains must be [..., chain, draw] with at least 4 draws, got shape {chains.shape}."
        )
    half = chains.shape[-1] // 2
    return jnp.concatenate([chains[..., :half], chains[..., -half:]], axis=-2)


def _rank_normalise(chains: Float[Array, "*shape chain draw"]) -> Float[Array, "*shape chain draw"]:
    count = chains.shape[-2] * chains.shape[-1]

    def rank(values: Array) -> Array:
        ordered = jnp.sort(values)
        low = jnp.searchsorted(ordered, values, side="left")
        high = jnp.searchsorted(ordered, values, side="right")
        return (low + high + 1).astype(values.dtype) / 2  # ties share their average rank

    flat = chains.reshape(-1, count)
    ranks = jax.vmap(rank)(flat).reshape(chains.shape)
    return jax.scipy.special.ndtri((ranks - 0.375) / (count + 0.25))


def _variances(chains: Array) -> tuple[Array, Array]:
    num_draws = chains.shape[-1]
    within = jnp.mean(jnp.var(chains, axis=-1, ddof=1), axis=-1)
    between = jnp.var(jnp.mean(chains, axis=-1), axis=-1, ddof=1)
    return within, within * ((num_draws - 1) / num_draws) + between


def _rhat(chains: Array) -> Array:
    within, total = _variances(chains)
    still = jnp.where(total > 0, jnp.inf, 1.0).astype(chains.dtype)
    return jnp.where(within > 0, jnp.sqrt(total / jnp.where(within > 0, within, 1)), still)
