"""From spike times to rasters: which bin a spike falls in, and which bins there are."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ._raster import Raster
from ._recording import Epoch, Recording, RecordingWarning

# Epochs closer than this are one stretch of time: files round their edges.
_CONTIGUOUS = 1e-6


class _Grid(NamedTuple):
    """Rows of bins: each starts at `start[row]` and has `num_bins[row]` whole bins."""

    start: np.ndarray
    num_bins: np.ndarray
    mask: np.ndarray | None
    has_rows: bool


def bin_spikes(
    recording: Recording,
    bin_width: float | int,
    epochs: Any = None,
    units: Any = None,
    align: Any = None,
    window: Sequence[float | int] | None = None,
    counts: bool = False,
) -> Raster:
    """Bins spike times: bin k is `[start + k bin_width, start + (k + 1) bin_width)`.

    A spike within rounding error of an edge belongs to the bin that starts there. A last,
    incomplete bin is dropped. Spikes are read one unit at a time.

    **Arguments**

    - `bin_width`: seconds.
    - `epochs`: `None` for all, with contiguous epochs joined to one time axis (several
      separate stretches become a leading axis); a name, or an interval `(start, stop)` in
      seconds, for that one; a list of these for a leading epoch axis, short epochs padded and
      masked. A name that several epochs bear gives the leading axis too.
    - `units`: indices or labels, or the name of one region; `None` for all.
    - `align`, `window`: event times in seconds (an array, or a column of `recording.trials`) and
      the interval `(start, stop)` around each: trials become the leading axis. Events outside
      `epochs` are left out if `epochs` is given and an error if not; bins of a window that
      reach beyond the recorded time are masked.
    - `counts`: spikes per bin (up to 255) instead of 0 and 1.

    **Returns** a `Raster`, `spikes[(epoch or trial,) neuron, time]`, its populations the regions.
    Units without a spike in these bins are rows of zeros: `clock_time` names them.

    Raises `ValueError` for unknown names, empty selections, and intervals shorter than a bin.
    """
    bin_width = check_bin_width(bin_width)
    grid = _grid(recording, bin_width, epochs, align, window)
    index = _unit_indices(recording, units)
    num_rows, num_bins = len(grid.start), int(grid.num_bins.max())
    spikes = np.zeros((num_rows, len(index), num_bins), np.uint8)
    for i, unit in enumerate(index):
        times = recording.spike_times[unit]
        for row in range(num_rows):
            bins = _bins_of(times, grid.start[row], int(grid.num_bins[row]), bin_width)
            if counts:
                filled, number = np.unique(bins, return_counts=True)
                if number.size and number.max() > 255:
                    raise ValueError(
                        f"unit {recording.labels[unit]} has {number.max()} spikes in one bin of "
                        f"{bin_width} s; counts go up to 255. Use a smaller bin_width."
                    )
                spikes[row, i, filled] = number
            else:
                spikes[row, i, bins] = 1
    if grid.mask is not None:
        spikes *= grid.mask[:, None, :]
    populations, names = _populations(recording, index)
    rows = (lambda array: array) if grid.has_rows else (lambda array: array[0])
    return Raster(
        jnp.asarray(rows(spikes)),
        bin_width,
        mask=None if grid.mask is None else rows(grid.mask),
        start=rows(grid.start),
        populations=populations,
        labels=[recording.labels[unit] for unit in index],
        population_names=names,
    )


def raster_bytes(
    recording: Recording,
    bin_width: float | int,
    epochs: Any = None,
    units: Any = None,
    align: Any = None,
    window: Sequence[float | int] | None = None,
    counts: bool = False,
) -> int:
    """Bytes that the spikes and mask of `bin_spikes` with the same arguments take."""
    del counts  # uint8 either way
    bin_width = check_bin_width(bin_width)
    grid = _grid(recording, bin_width, epochs, align, window)
    num_sites = len(grid.start) * int(grid.num_bins.max())
    mask = 0 if grid.mask is None else num_sites
    return num_sites * len(_unit_indices(recording, units)) + mask


def select(raster: Raster, *, units: Any = None, bins: slice | None = None) -> Raster:
    """The raster of some units (indices or labels) and a contiguous `slice` of its time axis.

    Raises `ValueError` for unknown units, and slices that are empty or leave out every k-th bin
    (lags would change their meaning).
    """
    spikes, mask, start = raster.spikes, raster.mask, raster.start
    labels, populations = raster.labels, raster.populations
    if units is not None:
        index = _indices(units, raster.labels)
        spikes = spikes[..., np.asarray(index), :]
        labels = tuple(raster.labels[i] for i in index)
        populations = None if populations is None else populations[np.asarray(index)]
    if bins is not None:
        first, last, step = bins.indices(raster.num_bins)
        if step != 1 or last <= first:
            raise ValueError(
                f"bins must be a slice of neighbouring bins, got {bins} of {raster.num_bins} bins."
            )
        spikes = spikes[..., first:last]
        mask = None if mask is None else mask[..., first:last]
        start = None if start is None else start + first * raster.bin_width
    return Raster(
        spikes,
        raster.bin_width,
        mask=mask,
        start=start,
        populations=populations,
        labels=labels,
        population_names=raster.population_names,
    )


def check_bin_width(bin_width: float | int) -> float:
    if not (np.isfinite(bin_width) and bin_width > 0):
        raise ValueError(f"bin_width must be a positive number of seconds, got {bin_width!r}.")
    if bin_width > 1:
        warnings.warn(
            f"bin_width is in seconds: bins of {bin_width:g} s. For milliseconds, divide by 1000.",
            RecordingWarning,
            stacklevel=3,
        )
    return float(bin_width)


def bin_index(times: np.ndarray, start: float | np.ndarray, bin_width: float) -> np.ndarray:
    """floor((t - start) / bin_width), a time within rounding error of an edge counted as on it."""
    position = (times - start) / bin_width
    nearest = np.rint(position)
    scale = np.maximum(np.abs(times), np.abs(start)) / bin_width
    on_edge = np.abs(position - nearest) <= 8 * np.finfo(np.float64).eps * (scale + 1)
    return np.where(on_edge, nearest, np.floor(position)).astype(np.int64)


def _bins_of(times: np.ndarray, start: float, num_bins: int, bin_width: float) -> np.ndarray:
    # The slack of one bin on either side leaves decisions at the edges to bin_index.
    low, high = np.searchsorted(times, [start - bin_width, start + (num_bins + 1) * bin_width])
    bins = bin_index(times[low:high], start, bin_width)
    return bins[(bins >= 0) & (bins < num_bins)]


def num_whole_bins(start: float, stop: float, bin_width: float) -> int:
    return int(bin_index(np.asarray(stop), start, bin_width))


def support(recording: Recording) -> list[Epoch]:
    """The recording's epochs, contiguous ones joined."""
    joined: list[Epoch] = []
    for epoch in recording.epochs:
        if joined and epoch.start - joined[-1].stop <= _CONTIGUOUS:
            joined[-1] = Epoch(f"{joined[-1].name}+{epoch.name}", joined[-1].start, epoch.stop)
        else:
            joined.append(epoch)
    return joined


def _select_epochs(recording: Recording, epochs: Any) -> tuple[list[Epoch], bool]:
    """The chosen intervals, and whether they are to be a leading axis."""
    if epochs is None:
        chosen = support(recording)
        return chosen, len(chosen) > 1
    if isinstance(epochs, str):
        chosen = [epoch for epoch in recording.epochs if epoch.name == epochs]
        if not chosen:
            names = list(dict.fromkeys(epoch.name for epoch in recording.epochs))
            raise ValueError(f"no epoch is named {epochs!r}; the recording has {names}.")
        return chosen, len(chosen) > 1
    if isinstance(epochs, tuple) and len(epochs) == 2 and all(np.isreal(e) for e in epochs):
        start, stop = float(epochs[0]), float(epochs[1])
        if not any(e.start <= start < stop <= e.stop for e in support(recording)):
            spans = [(epoch.start, epoch.stop) for epoch in support(recording)]
            raise ValueError(
                f"interval ({start}, {stop}) must lie inside the recorded time {spans} s."
            )
        return [Epoch("interval", start, stop)], False
    if not isinstance(epochs, Sequence | np.ndarray) or not len(epochs):
        raise ValueError(
            f"epochs must be None, a name, (start, stop), or a list of these, got {epochs!r}."
        )
    chosen = []
    for epoch in epochs:
        one = epoch if isinstance(epoch, str) else tuple(epoch)
        if not isinstance(one, str) and len(one) == 3:
            one = one[1:]
        chosen += _select_epochs(recording, one)[0]
    return chosen, True


def _grid(
    recording: Recording,
    bin_width: float,
    epochs: Any,
    align: Any,
    window: Sequence[float | int] | None,
) -> _Grid:
    if align is not None or window is not None:
        return _trial_grid(recording, bin_width, epochs, align, window)
    chosen, has_rows = _select_epochs(recording, epochs)
    start = np.array([epoch.start for epoch in chosen])
    num_bins = np.array([num_whole_bins(epoch.start, epoch.stop, bin_width) for epoch in chosen])
    if (num_bins < 1).any():
        short = chosen[int(np.argmin(num_bins))]
        raise ValueError(
            f"epoch {short.name!r} [{short.start:g}, {short.stop:g}] s is shorter than one bin of "
            f"{bin_width:g} s."
        )
    mask = np.arange(num_bins.max()) < num_bins[:, None]
    return _Grid(start, num_bins, None if mask.all() else mask, has_rows)


def _trial_grid(
    recording: Recording,
    bin_width: float,
    epochs: Any,
    align: Any,
    window: Sequence[float | int] | None,
) -> _Grid:
    if align is None or window is None:
        raise ValueError(
            "align and window go together: bin_spikes(..., align=event_times, window=(-0.5, 1.0))."
        )
    if isinstance(align, str):
        if align not in recording.trials:
            raise ValueError(
                f"no column of trials is named {align!r}; it has {list(recording.trials)}."
            )
        align = recording.trials[align]
    events = np.asarray(align)
    if events.ndim != 1 or events.dtype.kind not in "uif" or not events.size:
        raise ValueError(
            f"align must be event times in seconds, [trial], got {events.dtype} of shape "
            f"{events.shape}."
        )
    events = events.astype(np.float64)
    if not np.isfinite(events).all():
        where = np.flatnonzero(~np.isfinite(events)).tolist()
        raise ValueError(f"event times are not finite at trials {where[:10]}; leave these out.")
    if not (len(window) == 2 and window[0] < window[1]):
        raise ValueError(f"window must be (start, stop) in seconds, start first, got {window}.")
    length = num_whole_bins(float(window[0]), float(window[1]), bin_width)
    if length < 1:
        raise ValueError(f"window {window} s is shorter than one bin of {bin_width:g} s.")

    stretches = support(recording) if epochs is None else _select_epochs(recording, epochs)[0]
    inside = np.zeros(events.shape, bool)
    for epoch in stretches:
        inside |= (events >= epoch.start) & (events < epoch.stop)
    if epochs is not None:
        events, inside = events[inside], inside[inside]
    if not (events.size and inside.all()):
        raise ValueError(
            f"{int((~inside).sum()) or 'all'} events lie outside the recorded time "
            f"{[(e.start, e.stop) for e in stretches]} s; check their unit (seconds) or leave "
            "them out."
        )
    start = events + window[0]
    # Masked: bins that are not whole inside one stretch of recorded time.
    mask = np.zeros((len(events), length), bool)
    bins = np.arange(length)
    for epoch in stretches:
        first = -bin_index(start, epoch.start, bin_width)
        stop = bin_index(np.full_like(start, epoch.stop), start, bin_width)
        mask |= (bins >= first[:, None]) & (bins < stop[:, None])
    return _Grid(start, np.full(len(events), length), None if mask.all() else mask, True)


def _unit_indices(recording: Recording, units: Any) -> list[int]:
    if units is None:
        return list(range(recording.num_units))
    if isinstance(units, str) and units not in recording.labels:
        regions = recording.regions or ()
        index = [i for i, region in enumerate(regions) if region == units]
        if not index:
            raise ValueError(
                f"no unit and no region is named {units!r}; regions are "
                f"{list(dict.fromkeys(regions))}, labels {list(recording.labels)}."
            )
        return index
    return _indices(units, recording.labels)


def _indices(units: Any, labels: tuple[str, ...]) -> list[int]:
    """Indices or labels, one or a list, as indices."""
    chosen = [units] if isinstance(units, str | int | np.integer) else list(units)
    index = []
    for unit in chosen:
        if isinstance(unit, str):
            if unit not in labels:
                raise ValueError(f"no unit is labelled {unit!r}; labels are {list(labels)}.")
            index.append(labels.index(unit))
        elif isinstance(unit, int | np.integer) and -len(labels) <= unit < len(labels):
            index.append(int(unit) % len(labels))
        else:
            raise ValueError(f"unit {unit!r} is neither a label nor an index below {len(labels)}.")
    if not index or len(set(index)) != len(index):
        raise ValueError(f"units must name at least one unit, each once, got {units!r}.")
    return index


def _populations(
    recording: Recording, index: list[int]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if recording.regions is None:
        return None, ()
    regions = [recording.regions[unit] for unit in index]
    names = tuple(dict.fromkeys(regions))
    return np.array([names.index(region) for region in regions]), names
