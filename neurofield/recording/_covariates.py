"""Covariates on the bins of a raster."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._bins import bin_index
from ._raster import Raster
from ._recording import Covariate, Recording


def bin_covariate(
    recording: Recording,
    name: str,
    raster: Raster,
    *,
    circular: bool | None = None,
    max_gap: float | int = 1.0,
    missing: str = "raise",
) -> Float[Array, "*batch K time"]:
    """The mean of a covariate in each bin of `raster`, as the `covariates` that fits take.

    An angle (by `circular`, or a unit of radians or degrees) becomes two rows, the means of its
    cosine and sine, so K = 2; a signal `[sample, K]` becomes K rows, twice that if circular.
    A bin without a sample takes the linear interpolation at its centre, if the samples on both
    sides are at most `max_gap` seconds apart. Bins that `raster.mask` calls invalid hold 0.

    Valid bins without samples to average or interpolate (before the first, after the last, in a
    longer gap) raise `ValueError`, or hold 0 with `missing="zero"`: no drive, if the model has a
    constant field besides. `bin_spikes(..., epochs=recording.covariates[name].support)` makes a
    raster that the covariate covers.

    Raises `ValueError` for an unknown name, a raster without `start`, and uncovered bins.
    """
    if name not in recording.covariates:
        raise ValueError(
            f"no covariate is named {name!r}; the recording has {list(recording.covariates)}."
        )
    if raster.start is None:
        raise ValueError("the raster has no start time; make it with bin_spikes, or pass start=.")
    if missing not in ("raise", "zero"):
        raise ValueError(f'missing must be "raise" or "zero", got {missing!r}.')
    covariate = recording.covariates[name]
    values = _rows(covariate, covariate.is_angle if circular is None else circular)

    starts = np.asarray(raster.start, np.float64)
    means, covered = [], []
    for start in starts.reshape(-1):
        one, has = _bin(
            covariate.timestamps, values, start, raster.num_bins, raster.bin_width, max_gap
        )
        means.append(one)
        covered.append(has)
    shape = starts.shape
    binned = np.stack(means).reshape(*shape, values.shape[0], raster.num_bins)
    has_value = np.stack(covered).reshape(*shape, raster.num_bins)
    valid = np.ones(has_value.shape, bool) if raster.mask is None else np.asarray(raster.mask)
    uncovered = int((valid & ~has_value).sum())
    if uncovered and missing == "raise":
        first, last = covariate.support
        raise ValueError(
            f"covariate {name!r} is sampled from {first:g} to {last:g} s and leaves {uncovered} "
            f"of {int(valid.sum())} bins uncovered. Bin only that time, "
            f"bin_spikes(..., epochs=recording.covariates[{name!r}].support), pass a larger "
            f'max_gap (now {max_gap:g} s), or missing="zero".'
        )
    return jnp.asarray(np.where((valid & has_value)[..., None, :], binned, 0.0))


def _rows(covariate: Covariate, circular: bool) -> np.ndarray:
    """`[K, sample]`."""
    values = covariate.values[:, None] if covariate.values.ndim == 1 else covariate.values
    values = values.T
    if not circular:
        return values
    if covariate.unit.lower().startswith("deg"):
        values = values * (math.pi / 180)
    return np.concatenate([np.cos(values), np.sin(values)])


def _bin(
    timestamps: np.ndarray,
    values: np.ndarray,
    start: float,
    num_bins: int,
    bin_width: float,
    max_gap: float | int,
) -> tuple[np.ndarray, np.ndarray]:
    """Means `[K, time]` over one row of bins, and which bins `[time]` have one."""
    index = bin_index(timestamps, start, bin_width)
    inside = (index >= 0) & (index < num_bins)
    number = np.bincount(index[inside], minlength=num_bins)
    sums = np.stack([np.bincount(index[inside], row[inside], num_bins) for row in values])
    centre = start + (np.arange(num_bins) + 0.5) * bin_width
    right = np.searchsorted(timestamps, centre)
    between = (right > 0) & (right < len(timestamps))
    left = np.where(between, right - 1, 0)
    gap = timestamps[np.where(between, right, 0)] - timestamps[left]
    interpolable = between & (gap <= max_gap)
    interpolated = np.stack([np.interp(centre, timestamps, row) for row in values])
    means = np.where(number > 0, sums / np.maximum(number, 1), interpolated)
    return means, (number > 0) | interpolable
