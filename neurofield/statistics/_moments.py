"""Covariance, lagged covariance and spectra of `[..., K, time]` arrays, pooled over epochs.

Plain differentiable functions of real arrays (soft spikes too). No pair of bins and no spectral
segment reaches across the end of an epoch or a bin that the mask calls invalid.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Inexact

from neurofield._types import RealScalar

from ._arrays import run_age
from ._blocks import Pooled, flatten, pool


def covariance(x: ArrayLike, mask: ArrayLike | None = None) -> Float[Array, "K K"]:
    """Equal-time covariance of `x[..., K, time]` over all valid bins (divided by their number)."""
    return lagged_covariance(x, 1, mask)[0]


def lagged_covariance(
    x: ArrayLike, num_lags: int, mask: ArrayLike | None = None
) -> Float[Array, "L K K"]:
    """`[l, i, j]` = covariance of x_i(t + l) and x_j(t), lags l = 0 .. `num_lags` - 1.

    Both factors are centred by the mean over all valid bins; each lag is divided by its own
    number of valid pairs, and zero if it has none.
    """
    values, valid = flatten(jnp.asarray(x), None if mask is None else jnp.asarray(mask))
    return pooled_lagged(centre(values, valid), valid, num_lags, values.shape[-1]).value


def spectrum(
    x: ArrayLike,
    bin_width: RealScalar,
    *,
    segment_length: int,
    mask: ArrayLike | None = None,
) -> Inexact[Array, "F K K"]:
    """Cross-spectral density of `x[..., K, time]` at `frequencies(segment_length, bin_width)`.

    Convention: S_ij(f) = bin_width sum_l C_ij(l) exp(-2 pi i f l bin_width), where C_ij(l) is the
    covariance of x_i(t + l) and x_j(t): two-sided, so that its integral from -1/(2 bin_width) to
    1/(2 bin_width) is the equal-time covariance; per hertz; white noise of variance v has
    S = v bin_width at every f. Negative frequencies are the complex conjugate.

    Welch's estimate (1967): segments of `segment_length` bins overlapping by half, centred by the
    mean over all valid bins, Hann window; segments with an invalid bin are left out. Resolution is
    about 1.5 / (segment_length bin_width) hertz. Zero if no segment is valid.
    """
    values, valid = flatten(jnp.asarray(x), None if mask is None else jnp.asarray(mask))
    centred = centre(values, valid)
    return pooled_spectrum(centred, valid, bin_width, segment_length, values.shape[-1]).value


def frequencies(segment_length: int, bin_width: RealScalar) -> Float[Array, " F"]:
    """The non-negative frequencies in hertz at which `spectrum` is given."""
    dtype = jnp.result_type(float)
    index = jnp.arange(segment_length // 2 + 1, dtype=dtype)
    return index / (segment_length * jnp.asarray(bin_width, dtype))


def centre(
    x: Float[Array, "epoch K time"], valid: Bool[Array, "epoch time"]
) -> Float[Array, "epoch K time"]:
    """Less the mean over all valid bins; zero in invalid ones."""
    inside = jnp.broadcast_to(valid[:, None], x.shape)
    count = jnp.maximum(jnp.sum(valid, dtype=x.dtype), 1)
    # The inner `where` keeps NaN in an invalid bin out of the value and out of its gradient.
    clean = jnp.where(inside, x, 0)
    mean = jnp.sum(clean, axis=(0, 2), keepdims=True) / count
    return jnp.where(inside, clean - mean, 0)


def pooled_lagged(
    centred: Float[Array, "epoch K time"],
    valid: Bool[Array, "epoch time"],
    num_lags: int,
    block_bins: int,
) -> Pooled:
    """Lagged covariance with its error from blocks of `block_bins` (within epochs)."""
    num_epochs, _, num_bins = centred.shape
    if not 1 <= num_lags <= num_bins:
        raise ValueError(f"num_lags must be from 1 to {num_bins} (the bins), got {num_lags}.")
    per_epoch = -(-num_bins // block_bins)
    # A block owns the pairs that begin in it, and looks num_lags - 1 bins beyond its end.
    beyond = per_epoch * block_bins + num_lags - 1 - num_bins
    centred = jnp.pad(centred, [(0, 0), (0, 0), (0, beyond)])
    age = jnp.pad(run_age(valid), [(0, 0), (0, beyond)], constant_values=-1)

    def block(index: Array) -> tuple[Array, Array]:
        epoch, first = index // per_epoch, index % per_epoch * block_bins
        window = block_bins + num_lags - 1
        rows = jax.lax.dynamic_slice_in_dim(centred[epoch], first, window, axis=1)
        ages = jax.lax.dynamic_slice_in_dim(age[epoch], first, window)

        def lag(shift: Array) -> tuple[Array, Array]:
            later = jax.lax.dynamic_slice_in_dim(rows, shift, block_bins, axis=1)
            paired = jax.lax.dynamic_slice_in_dim(ages, shift, block_bins) >= shift
            later = jnp.where(jnp.broadcast_to(paired, later.shape), later, 0)
            products = jnp.matmul(
                later, rows[:, :block_bins].T, precision=jax.lax.Precision.HIGHEST
            )
            return products, jnp.sum(paired, dtype=rows.dtype)

        sums, pairs = jax.lax.map(lag, jnp.arange(num_lags, dtype=jnp.int32))
        return sums, pairs[:, None, None]

    return pool(block, num_epochs * per_epoch)


def pooled_spectrum(
    centred: Float[Array, "epoch K time"],
    valid: Bool[Array, "epoch time"],
    bin_width: RealScalar,
    segment_length: int,
    block_bins: int,
) -> Pooled:
    """Spectral density with its error from blocks of about `block_bins` (within epochs)."""
    num_epochs, _, num_bins = centred.shape
    if not 2 <= segment_length <= num_bins:
        raise ValueError(
            f"segment_length must be from 2 to {num_bins} (the bins), got {segment_length}."
        )
    hop = segment_length // 2
    num_segments = (num_bins - segment_length) // hop + 1
    per_block = min(max(block_bins // hop, 1), num_segments)
    per_epoch = -(-num_segments // per_block)
    window = (per_block - 1) * hop + segment_length
    beyond = max(0, (per_epoch - 1) * per_block * hop + window - num_bins)
    centred = jnp.pad(centred, [(0, 0), (0, 0), (0, beyond)])
    age = jnp.pad(run_age(valid), [(0, 0), (0, beyond)], constant_values=-1)
    phase = jnp.arange(segment_length, dtype=centred.dtype) * (2 * jnp.pi / segment_length)
    taper = 0.5 - 0.5 * jnp.cos(phase)
    scale = jnp.asarray(bin_width, centred.dtype) / jnp.sum(taper**2)
    frames = jnp.arange(per_block)[:, None] * hop + jnp.arange(segment_length)[None]

    def block(index: Array) -> tuple[Array, Array]:
        epoch, first = index // per_epoch, index % per_epoch * (per_block * hop)
        rows = jax.lax.dynamic_slice_in_dim(centred[epoch], first, window, axis=1)
        ages = jax.lax.dynamic_slice_in_dim(age[epoch], first, window)
        whole = ages[frames[:, -1]] >= segment_length - 1
        pieces = rows[:, frames] * taper[None, None]
        pieces = jnp.where(jnp.broadcast_to(whole[None, :, None], pieces.shape), pieces, 0)
        transform = jnp.fft.rfft(pieces)
        products = jnp.einsum(
            "isf,jsf->fij", transform, jnp.conj(transform), precision=jax.lax.Precision.HIGHEST
        )
        weight = jnp.sum(whole, dtype=centred.dtype)
        return products * scale.astype(products.dtype), weight[None, None, None]

    return pool(block, num_epochs * per_epoch)
