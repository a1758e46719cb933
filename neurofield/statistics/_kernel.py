"""Row and column averages of a kernel, their quantile spectra, and ergodicity breaking."""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from neurofield._types import PRNGKey
from neurofield.recording import Raster

from ._arrays import as_float
from ._blocks import flatten
from ._gamma import mean_error
from ._resample import jackknife


class KernelAverages(eqx.Module):
    """Averages of the kernel Omega (Bardella et al. 2024, section 3.2 of the Entropy paper).

    - `offset`: mean over all neurons and valid bins, and its error (Gamma method).
    - `row`: `[..., neuron]`, mean over valid bins (occupancy, or counts, of a bin).
    - `column`: `[..., time]`, mean over neurons; zero in invalid bins.
    """

    offset: Float[Array, ""]
    offset_error: Float[Array, ""]
    row: Float[Array, "*batch neuron"]
    column: Float[Array, "*batch time"]


def kernel_averages(raster: Raster) -> KernelAverages:
    """Offset, row and column averages of a raster."""
    x, valid = flatten(raster.spikes, raster.mask)
    row, column = _row(x, valid), _column(x, valid)
    offset = mean_error(column, None if raster.mask is None else valid)
    *batch, num_neurons, num_bins = raster.spikes.shape
    return KernelAverages(
        offset.mean,
        offset.error,
        row.reshape(*batch, num_neurons),
        column.reshape(*batch, num_bins),
    )


class QuantileSpectra(eqx.Module):
    """Empirical quantile functions of the row and column averages, leading axes pooled.

    - `row`: `[neuron]`, sorted rows; `row_error` the errors of the neurons so sorted.
    - `column`: `[level]`, quantiles of the column averages at `level`; `column_error` is half the
      interval between the quantiles one standard error below and above (Woodruff 1952), zero
      where the distribution has an atom wider than that.
    """

    row: Float[Array, " neuron"]
    row_error: Float[Array, " neuron"]
    level: Float[Array, " level"]
    column: Float[Array, " level"]
    column_error: Float[Array, " level"]


def quantile_spectra(raster: Raster, num_levels: int = 100) -> QuantileSpectra:
    """Sorted row averages and quantiles of the column averages, with errors.

    Levels are (k + 1/2) / `num_levels`. Errors take autocorrelation into account.
    """
    x, valid = flatten(raster.spikes, raster.mask)
    mask = None if raster.mask is None else valid
    rows = mean_error(jnp.moveaxis(x, 1, 0), mask, num_replica_axes=1)
    order = jnp.argsort(rows.mean)
    column = _column(x, valid)
    flat, flat_valid = column.reshape(1, -1), valid.reshape(1, -1)
    level = (jnp.arange(num_levels, dtype=x.dtype) + 0.5) / num_levels
    quantile = _quantiles(flat, flat_valid, level)[0]
    below = (column[None] <= quantile[:, None, None]).astype(x.dtype)
    share = mean_error(below, mask, num_replica_axes=1)
    upper = _quantiles(flat, flat_valid, jnp.clip(level + share.error, 0, 1))[0]
    lower = _quantiles(flat, flat_valid, jnp.clip(level - share.error, 0, 1))[0]
    return QuantileSpectra(
        rows.mean[order], rows.error[order], level, quantile, (upper - lower) / 2
    )


def wasserstein(x: ArrayLike, y: ArrayLike) -> Float[Array, "*batch"]:
    """W1 distance of two samples of equal size, along the last axis: mean |x_(k) - y_(k)|.

    Differentiable almost everywhere.
    """
    x, y = as_float(x), as_float(y)
    if x.shape[-1:] != y.shape[-1:]:
        raise ValueError(f"samples must have equal sizes, got {x.shape} and {y.shape}.")
    return jnp.mean(jnp.abs(jnp.sort(x, axis=-1) - jnp.sort(y, axis=-1)), axis=-1)


class NullTested(eqx.Module):
    """A value, its jackknife error, and its mean and standard deviation under two nulls.

    `bernoulli`: independent spikes at each neuron's overall rate. `permuted`: half-kernels
    exchanged at random among kernels and halves, correlations within each kept.
    """

    value: Float[Array, ""]
    error: Float[Array, ""]
    bernoulli: Float[Array, ""]
    bernoulli_std: Float[Array, ""]
    permuted: Float[Array, ""]
    permuted_std: Float[Array, ""]


class Ergodicity(NamedTuple):
    """Estimators of ergodicity breaking, each a `NullTested` (theory: see `ergodicity`)."""

    mean: NullTested
    correlation: NullTested
    row: NullTested
    column: NullTested
    row_ensemble: NullTested
    column_ensemble: NullTested


def ergodicity(
    key: PRNGKey, raster: Raster, *, num_windows: int = 10, num_null: int = 50
) -> Ergodicity:
    """Do time averages agree between halves, trials and the ensemble?

    After the estimators of Bardella et al. (2024, section 3.3). The kernels are the leading axes
    of `raster` (trials) or, for a single epoch, `num_windows` equal windows of it.

    - `mean`: root mean square difference over neurons of the rates (per bin) in the first and the
      second half of the kernels; `correlation`: Frobenius norm of the difference of the halves'
      covariances over that of the whole.
    - `row`, `column`: mean over pairs of kernels of the W1 distance of their quantile spectra.
    - `row_ensemble`, `column_ensemble`: mean W1 distance of single kernels' spectra from those of
      the kernels' mean.

    All are positive in finite data: judge `value` by the nulls (`num_null` draws of each). Errors
    are by the jackknife over at most 20 groups of kernels. An odd last bin is left out. Plain jit
    works with the counts static.
    """
    x, valid = flatten(raster.spikes, raster.mask)
    if len(x) == 1:
        length = raster.num_bins // num_windows
        if num_windows < 2 or length < 2:
            raise ValueError(
                f"num_windows must be at least 2 and leave windows of 2 bins or more, got "
                f"{num_windows} for {raster.num_bins} bins."
            )
        x = x[0, :, : num_windows * length].reshape(raster.num_neurons, num_windows, length)
        x, valid = jnp.moveaxis(x, 1, 0), valid[0, : num_windows * length].reshape(-1, length)
    return _ergodicity(key, x, valid, num_null=num_null)


@partial(jax.jit, static_argnames="num_null")
def _ergodicity(
    key: PRNGKey,
    x: Float[Array, "kernel neuron time"],
    valid: Bool[Array, "kernel time"],
    *,
    num_null: int,
) -> Ergodicity:
    num_kernels, num_neurons, num_bins = x.shape
    half = num_bins // 2
    x = jnp.where(jnp.broadcast_to(valid[:, None], x.shape), x, 0)[..., : 2 * half]
    # [kernel, half, neuron, time], so that the null can exchange halves.
    x = jnp.moveaxis(x.reshape(num_kernels, num_neurons, 2, half), 2, 1)
    valid = valid[:, : 2 * half].reshape(num_kernels, 2, half)
    bernoulli_key, permute_key = jax.random.split(key)
    occupied = jnp.sum((x > 0).astype(x.dtype), axis=(0, 1, 3))
    rate = occupied / jnp.maximum(jnp.sum(valid, dtype=x.dtype), 1)
    inside = jnp.broadcast_to(valid[:, :, None], x.shape)

    def independent(key: PRNGKey) -> Array:
        chance = jnp.broadcast_to(rate[None, None, :, None], x.shape)
        return _estimators(
            (jnp.where(inside, jax.random.bernoulli(key, chance), False).astype(x.dtype), valid)
        )

    def permuted(key: PRNGKey) -> Array:
        order = jax.random.permutation(key, 2 * num_kernels)
        shuffle = lambda a: a.reshape(2 * num_kernels, *a.shape[2:])[order].reshape(a.shape)  # noqa: E731
        return _estimators((shuffle(x), shuffle(valid)))

    null = jax.lax.map(independent, jax.random.split(bernoulli_key, num_null))
    exchanged = jax.lax.map(permuted, jax.random.split(permute_key, num_null))
    num_groups = min(num_kernels, 20)
    used = num_kernels // num_groups * num_groups
    grouped = jax.tree.map(
        lambda a: a[:used].reshape(num_groups, used // num_groups, *a.shape[1:]), (x, valid)
    )
    ungroup = lambda tree: jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)  # noqa: E731
    error = jackknife(lambda part: _estimators(ungroup(part)), grouped).error
    parts = (
        _estimators((x, valid)),
        error,
        jnp.mean(null, axis=0),
        jnp.std(null, axis=0, ddof=1),
        jnp.mean(exchanged, axis=0),
        jnp.std(exchanged, axis=0, ddof=1),
    )
    return Ergodicity(*(NullTested(*(part[k] for part in parts)) for k in range(6)))


def _estimators(kernels: tuple[Array, Array]) -> Float[Array, "6"]:
    """The six estimators from `[kernel, half, neuron, time]` and `[kernel, half, time]`."""
    x, valid = kernels
    num_kernels, _, num_neurons, half = x.shape
    # Sums over kernels for each half; x is zero in invalid bins.
    size = jnp.sum(valid, axis=(0, 2), dtype=x.dtype)
    first = jnp.sum(x, axis=(0, 3))
    second = jnp.einsum("khit,khjt->hij", x, x, precision=jax.lax.Precision.HIGHEST)
    halves = _covariance(second, first, size)
    everything = _covariance(*(jnp.sum(s, axis=0, keepdims=True) for s in (second, first, size)))
    rates = first / jnp.maximum(size, 1)[:, None]
    mean = jnp.sqrt(jnp.mean((rates[0] - rates[1]) ** 2))
    norm = jnp.sqrt(jnp.sum(everything**2))
    difference = jnp.sqrt(jnp.sum((halves[0] - halves[1]) ** 2))
    correlation = difference / jnp.where(norm > 0, norm, 1)
    whole = jnp.moveaxis(x, 1, 2).reshape(num_kernels, num_neurons, 2 * half)
    known = valid.reshape(num_kernels, 2 * half)
    level = (jnp.arange(2 * half, dtype=x.dtype) + 0.5) / (2 * half)
    rows, columns = _row(whole, known), _column(whole, known)
    ever = jnp.sum(known, axis=0, dtype=x.dtype)
    mean_column = jnp.sum(columns, axis=0) / jnp.maximum(ever, 1)
    row_spectra = jnp.sort(rows, axis=-1)
    column_spectra = _quantiles(columns, known, level)
    mean_rows = jnp.sort(jnp.mean(rows, axis=0))
    mean_columns = _quantiles(mean_column[None], (ever > 0)[None], level)
    return jnp.stack(
        [
            mean,
            correlation,
            _mean_pairwise(row_spectra),
            _mean_pairwise(column_spectra),
            jnp.mean(jnp.abs(row_spectra - mean_rows[None])),
            jnp.mean(jnp.abs(column_spectra - mean_columns)),
        ]
    )


def _covariance(second: Array, first: Array, size: Array) -> Array:
    count = jnp.maximum(size, 1)[:, None, None]
    return second / count - first[:, :, None] * first[:, None] / count**2


def _mean_pairwise(spectra: Float[Array, "kernel level"]) -> Float[Array, ""]:
    """Mean of W1 over all pairs of kernels: |a - b| summed over pairs is a sum over ranks."""
    count = len(spectra)
    ranks = 2 * jnp.arange(count, dtype=spectra.dtype) - (count - 1)
    total = jnp.sum(ranks[:, None] * jnp.sort(spectra, axis=0), axis=0)
    return jnp.mean(total) * (2 / max(count * (count - 1), 1))


def _row(x: Float[Array, "k neuron time"], valid: Array) -> Float[Array, "k neuron"]:
    total = jnp.sum(jnp.where(jnp.broadcast_to(valid[:, None], x.shape), x, 0), axis=-1)
    return total / jnp.maximum(jnp.sum(valid, axis=-1, dtype=x.dtype), 1)[:, None]


def _column(x: Float[Array, "k neuron time"], valid: Array) -> Float[Array, "k time"]:
    return jnp.where(valid, jnp.mean(x, axis=1), 0)


def _quantiles(
    values: Float[Array, "k time"], valid: Array, level: Float[Array, " level"]
) -> Float[Array, "k level"]:
    """Empirical quantiles of the valid values at each level; zero where there are none."""
    ordered = jnp.sort(jnp.where(valid, values, jnp.inf), axis=-1)
    count = jnp.sum(valid, axis=-1, dtype=values.dtype)[:, None]
    index = jnp.floor(level[None] * count)
    index = jnp.clip(index, 0, jnp.maximum(count - 1, 0)).astype(jnp.int32)
    found = jnp.take_along_axis(ordered, index, axis=-1)
    return jnp.where(count > 0, found, 0)
