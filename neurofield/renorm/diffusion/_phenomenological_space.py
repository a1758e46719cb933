"""The two coarse-grainings of activity: sums of correlated pairs, and leading modes."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.fft import next_fast_len

from ._phenomenological_blocks import Blocks, Shape, stack
from ._phenomenological_pairs import Pairing

# Each [draw, level, ...]; draw 0 is the data, the others are resamples of its blocks.
Draws = dict[str, np.ndarray]
Weights = Int[np.ndarray, "draw block"]


def measure_clusters(blocks: Blocks, pairing: Pairing, weights: Weights) -> Draws:
    """Observables of the sums of pairs, of pairs of pairs, and so on."""
    leaves, levels = pairing.leaves, len(pairing.covariances)
    covariance = pairing.covariances[0][np.ix_(leaves, leaves)]
    dtype = blocks.mean.dtype
    bases = [_modes(covariance, 2**level).astype(dtype) for level in range(levels)]
    sums: list[list[np.ndarray]] = [[] for _ in range(levels)]  # [block][power, cluster]
    modes: list[list[np.ndarray]] = [[] for _ in range(levels)]  # [block][power, cluster, mode]
    for block in blocks.measured:
        x = blocks.centred(block)[leaves]
        for level, coarse in enumerate(_coarser(x, levels)):
            sums[level].append(_two_powers(coarse))
            inside = x.reshape(-1, 2**level, x.shape[1])
            modes[level].append(_two_powers(np.swapaxes(bases[level], 1, 2) @ inside))
    bins = np.array([block.shape[1] for block in blocks.measured], float)
    variances = [_variance(weights, bins, parts) for parts in sums]  # [draw, cluster]
    spectrum = np.full((len(weights), levels, 2 ** (levels - 1)), np.nan)
    for level, parts in enumerate(modes):
        spectrum[:, level, : 2**level] = _variance(weights, bins, parts).mean(axis=1)
    found: Draws = {
        "variance": np.stack([v.mean(axis=1) for v in variances], axis=1),
        "spectrum": spectrum,
    }
    scales = [np.sqrt(v[0]).astype(blocks.mean.dtype)[:, None] for v in variances]
    return found | _normalised(blocks, leaves, scales, weights, bins)


def measure_modes(
    blocks: Blocks, covariance: Float[np.ndarray, "unit unit"], num_levels: int, weights: Weights
) -> tuple[Draws, Float[np.ndarray, "unit mode"]]:
    """Observables of the activity that ever fewer leading modes keep, and the modes."""
    count = len(blocks.mean)
    basis = _modes(covariance, count)[0].astype(blocks.mean.dtype)
    kept = [max(count >> level, 1) for level in range(num_levels)]
    measured = sum(y @ y.T for y in (basis.T @ blocks.centred(b) for b in blocks.measured))
    bins = np.array([block.shape[1] for block in blocks.measured], float)
    shapes: list[list[Shape]] = [[] for _ in kept]
    scales = []
    for k in kept:
        power = ((basis[:, :k] @ np.asarray(measured)[:k, :k]) * basis[:, :k]).sum(axis=1)
        scales.append(_safe(np.sqrt(np.maximum(power, 0) / bins.sum())).astype(basis.dtype))
    modes = []  # [block][power, mode]
    for block in blocks.measured:
        x = blocks.centred(block)
        y = basis.T @ x
        modes.append(_two_powers(y))
        for level, (k, scale) in enumerate(zip(kept, scales, strict=True)):
            projected = x if k == count else basis[:, :k] @ y[:k]
            shapes[level].append(Shape.of(projected / scale[:, None]))
    along = _variance(weights, bins, modes)
    spectrum = np.full((len(weights), num_levels, count), np.nan)
    for level, k in enumerate(kept):
        spectrum[:, level, :k] = along[:, :k]
    stacked = [stack(parts) for parts in shapes]
    found: Draws = {
        "variance": np.nansum(spectrum, axis=2) / count,
        "spectrum": spectrum,
        "kurtosis": np.stack([s.kurtosis(weights) for s in stacked], axis=1),
        "distribution": np.stack([s.density(weights) for s in stacked], axis=1),
    }
    return found, basis


def _normalised(
    blocks: Blocks,
    leaves: Int[np.ndarray, " unit"],
    scales: list[np.ndarray],  # [cluster, 1]
    weights: Weights,
    bins: Float[np.ndarray, " block"],
) -> Draws:
    """What is measured of clusters whose variance was made 1."""
    levels, num_lags = len(scales), max(blocks.length // 2, 2)
    shapes: list[list[Shape]] = [[] for _ in scales]
    products = np.zeros((len(bins), levels, num_lags))
    silent = np.zeros((len(bins), levels))
    for index, block in enumerate(blocks.measured):
        x = blocks.centred(block)[leaves]
        quiet = block[leaves] == 0
        for level, coarse in enumerate(_coarser(x, levels)):
            z = coarse / _safe(scales[level])
            shapes[level].append(Shape.of(z))
            products[index, level] = _lag_products(z, num_lags)
            silent[index, level] = quiet.mean(axis=0).sum()
            quiet = quiet[: len(quiet) // 2 * 2 : 2] & quiet[1::2]
    stacked = [stack(parts) for parts in shapes]
    pairs = weights @ np.maximum(bins[:, None] - np.arange(num_lags)[None], 0)
    correlation = np.einsum("sb,bld->sld", weights, products)
    correlation /= np.where(pairs > 0, pairs, np.nan)[:, None]
    correlation /= np.where(correlation[..., :1] > 0, correlation[..., :1], np.nan)
    found: Draws = {
        "kurtosis": np.stack([s.kurtosis(weights) for s in stacked], axis=1),
        "distribution": np.stack([s.density(weights) for s in stacked], axis=1),
        "autocorrelation": correlation,
        "correlation_time": _decay_time(correlation) * blocks.step,
    }
    if all((block >= 0).all() for block in blocks.measured) and silent[:, 0].any():
        share = np.einsum("sb,bl->sl", weights, silent) / (weights @ bins)[:, None]
        found["silence"] = share
        found["free_energy"] = -np.log(np.where(share > 0, share, np.nan))
    return found


def _coarser(x: Shaped[np.ndarray, "unit time"], levels: int) -> Iterator[np.ndarray]:
    """Units in the order of a pairing's leaves: themselves, sums of pairs, of pairs of pairs."""
    yield x
    for _ in range(levels - 1):
        x = x[::2] + x[1::2]
        yield x


def _modes(
    covariance: Float[np.ndarray, "unit unit"], size: int
) -> Float[np.ndarray, "cluster inner mode"]:
    """Eigenvectors of the covariance inside every run of `size` units, the largest first."""
    count = len(covariance) // size
    inside = covariance.reshape(count, size, count, size)[np.arange(count), :, np.arange(count)]
    return np.linalg.eigh(inside)[1][..., ::-1]


def _two_powers(x: Float[np.ndarray, "*unit time"]) -> Float[np.ndarray, "2 *unit"]:
    return np.stack([x.sum(axis=-1, dtype=float), np.einsum("...t,...t->...", x, x)])


def _variance(
    weights: Weights, bins: Float[np.ndarray, " block"], parts: list[np.ndarray]
) -> Float[np.ndarray, "draw *unit"]:
    """Of every draw, from sums of powers 1 and 2 over each block."""
    mean, square = np.moveaxis(np.tensordot(weights, np.stack(parts), 1), 1, 0)
    count = (weights @ bins).reshape(-1, *[1] * (mean.ndim - 1))
    return np.maximum(square / count - (mean / count) ** 2, 0)


def _safe(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 0, scale, 1)


def _lag_products(z: Float[np.ndarray, "unit time"], num_lags: int) -> Float[np.ndarray, " lag"]:
    """Sum over times of the products of a bin and one some bins later, mean over units."""
    length = next_fast_len(z.shape[1] + num_lags, real=True)
    waves = np.fft.rfft(z, n=length, axis=1)
    power = np.mean(waves.real**2 + waves.imag**2, axis=0, dtype=float)
    return np.fft.irfft(power, n=length)[:num_lags]


def _decay_time(
    correlation: Float[np.ndarray, "draw level lag"],
) -> Float[np.ndarray, "draw level"]:
    """Lag in bins at which it first falls to 1 / e; NaN if not there, or in less than a bin."""
    below = correlation < np.exp(-1)
    first = below.argmax(axis=-1)
    found = below.any(axis=-1) & (first > 1)
    lag = np.where(found, first, 1)[..., None]
    after, before = (np.take_along_axis(correlation, i, -1)[..., 0] for i in (lag, lag - 1))
    step = np.where(found, before - after, 1)
    return np.where(found, first - (np.exp(-1) - after) / np.where(step > 0, step, 1), np.nan)
