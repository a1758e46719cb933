"""Recording: sorted spike times and what is known about them, on the host."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# Spikes this many times beyond the last epoch are taken for another unit than seconds: the
# commonest mistake, milliseconds, gives about 1000.
_UNIT_RATIO = 20.0
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}


class RecordingWarning(UserWarning):
    """A recording was repaired, or holds something that is left out; the message says which."""


class Epoch(NamedTuple):
    """A named stretch of a recording, `[start, stop)` in seconds."""

    name: str
    start: float
    stop: float


@dataclasses.dataclass(frozen=True, eq=False)
class Covariate:
    """A signal recorded beside the spikes: head direction, position, a stimulus.

    **Attributes**

    - `timestamps`: `[sample]`, seconds, not decreasing.
    - `values`: `[sample]` or `[sample, K]`. Samples with NaN count as missing and are dropped.
    - `unit`: its name, such as `"radian"`. Angles (radian, degree) are averaged on the circle.
    """

    timestamps: np.ndarray
    values: np.ndarray
    unit: str

    def __init__(self, timestamps: Any, values: Any, unit: str = ""):
        """Raises `ValueError` for unequal lengths, no samples, or timestamps not in order."""
        timestamps, values = np.asarray(timestamps, float), np.asarray(values, float)
        if timestamps.ndim != 1 or values.ndim not in (1, 2) or len(timestamps) != len(values):
            raise ValueError(
                "a covariate needs timestamps [sample] and values [sample] or [sample, K], got "
                f"shapes {timestamps.shape} and {values.shape}."
            )
        if np.isnan(timestamps).any():
            position = int(np.flatnonzero(np.isnan(timestamps))[0])
            raise ValueError(f"covariate timestamps are NaN, first at position {position}.")
        valid = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(1)
        timestamps, values = timestamps[valid], values[valid]
        if not len(timestamps):
            raise ValueError("a covariate needs at least one finite sample, got none.")
        if (np.diff(timestamps) < 0).any():
            position = int(np.flatnonzero(np.diff(timestamps) < 0)[0]) + 1
            raise ValueError(f"covariate timestamps go back in time at position {position}.")
        _set(self, timestamps=_frozen(timestamps), values=_frozen(values), unit=str(unit))

    @property
    def is_angle(self) -> bool:
        return self.unit.lower() in ("rad", "radian", "radians", "deg", "degree", "degrees")

    @property
    def support(self) -> tuple[float, float]:
        """First and last sample in seconds; `bin_spikes(..., epochs=covariate.support)`."""
        return float(self.timestamps[0]), float(self.timestamps[-1])


class LazySpikeTimes(Sequence):
    """Spike times that stay in their file until a unit is asked for.

    `load(i)` returns the times of unit i in the file's own unit. Each unit is read, put in
    seconds and, if need be, sorted anew at every access, so that only one is in memory.
    `unsorted` collects the units that had to be.
    """

    def __init__(self, load: Callable[[int], np.ndarray], num_units: int, per_second: float = 1.0):
        self._load, self._num_units, self._per_second = load, num_units, per_second
        self.unsorted: set[int] = set()

    def __len__(self) -> int:
        return self._num_units

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._num_units))]
        if not -self._num_units <= index < self._num_units:
            raise IndexError(f"unit {index} of {self._num_units}")
        unit = int(index) % self._num_units
        times = _seconds(self._load(unit), unit, self._per_second)
        if _is_sorted(times):
            return times
        self.unsorted.add(unit)
        return _frozen(np.sort(times))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """Spike times of sorted units, with labels, regions, epochs, trials and covariates.

    A host-side object of NumPy arrays; `bin_spikes` makes the `Raster` that JAX code takes.

    **Attributes**

    - `spike_times`: one sorted array a unit, in seconds. Units may be silent, but not all of
      them. Two spikes of one unit at the same time are kept: they are one in a binary raster
      and two in a raster of counts.
    - `labels`, `regions`: one name a unit (`regions` is `None` if unknown).
    - `epochs`: `Epoch(name, start, stop)`, in order and without overlap. Names may repeat.
    - `trials`: a table, column name to array, one entry a trial (times in seconds).
    - `covariates`: name to `Covariate`.
    - `provenance`: `source`, `format`, `bytes`, `repairs` (sentences on what was mended), ...
    - `spike_counts`: `[unit]`.

    Repairs: unsorted spike times are sorted, and spikes outside every epoch stay here but in no
    raster; both warn with `RecordingWarning` and are listed in `provenance["repairs"]`. Without
    epochs, one named "all" runs from 0 to the last spike.
    """

    spike_times: Sequence[np.ndarray]
    labels: tuple[str, ...]
    regions: tuple[str, ...] | None
    epochs: tuple[Epoch, ...]
    trials: dict[str, np.ndarray]
    covariates: dict[str, Covariate]
    provenance: dict[str, Any]
    spike_counts: np.ndarray

    def __init__(
        self,
        spike_times: Sequence[Any] | Mapping[Any, Any],
        *,
        labels: Sequence[Any] | None = None,
        regions: Sequence[Any] | None = None,
        epochs: Sequence[Any] | Mapping[str, Any] | None = None,
        trials: Mapping[str, Any] | None = None,
        covariates: Mapping[str, Covariate] | None = None,
        provenance: Mapping[str, Any] | None = None,
        time_unit: str | float | int | None = None,
    ):
        """**Arguments**

        - `spike_times`: one array a unit, or a mapping from label to array.
        - `epochs`: (name, start, stop) tuples, or a mapping from name to (start, stop).
        - `time_unit`: of `spike_times` alone: "s", "ms", "us", or ticks per second as a number.
          `None` means seconds, and makes times far beyond the last epoch an error.

        Raises `ValueError` for NaN, infinite or (unless an epoch holds them) negative times,
        no units, no spikes, overlapping or empty epochs, and lengths that differ.
        """
        per_second = per_second_of(time_unit)
        if isinstance(spike_times, Mapping):
            labels = list(spike_times) if labels is None else labels
            spike_times = list(spike_times.values())
        labels = tuple(map(str, range(len(spike_times)) if labels is None else labels))
        regions = None if regions is None else tuple(map(str, regions))
        _check_names(len(spike_times), labels, regions)
        repairs = list((provenance or {}).get("repairs", []))

        times = spike_times
        if not isinstance(times, LazySpikeTimes):
            times = tuple(_seconds(t, labels[i], per_second) for i, t in enumerate(times))
            unsorted = {i for i, t in enumerate(times) if not _is_sorted(t)}
            times = tuple(_frozen(np.sort(t)) if i in unsorted else t for i, t in enumerate(times))
        else:
            unsorted = times.unsorted
        intervals = None if epochs is None else _check_epochs(epochs)
        counts, first, last, inside = _survey(times, intervals)
        if unsorted:
            names = ", ".join(labels[i] for i in sorted(unsorted))
            repairs.append(f"Sorted the spike times of unit {names}.")
            warnings.warn(repairs[-1], RecordingWarning, stacklevel=2)
        if not counts.sum():
            raise ValueError(
                f"the recording holds {len(labels)} units and no spike; expected at least one."
            )
        if intervals is None:
            intervals = (Epoch("all", min(0.0, first), last),)
            if first < 0:
                raise ValueError(
                    f"spike times go down to {first:g} s. Times count from the start of the "
                    "recording; pass epochs=[(name, start, stop)] that hold them, or shift them."
                )
            repairs.append(f"No epochs were given: one, 'all', runs from 0 to {last:.6g} s.")
        else:
            inside_total = int(inside.sum())
            _check_support(intervals, first, last, inside_total, time_unit)
            if outside := int(counts.sum()) - inside_total:
                repairs.append(
                    f"{outside} of {int(counts.sum())} spikes lie outside every epoch; they are in "
                    "no raster."
                )
                warnings.warn(repairs[-1], RecordingWarning, stacklevel=2)

        _set(
            self,
            spike_times=times,
            labels=labels,
            regions=regions,
            epochs=intervals,
            trials=_check_trials(trials or {}),
            covariates=dict(covariates or {}),
            provenance={**(provenance or {}), "repairs": repairs},
            spike_counts=_frozen(counts),
        )

    @property
    def num_units(self) -> int:
        return len(self.labels)

    @property
    def duration(self) -> float:
        """Seconds in all epochs together."""
        return sum(epoch.stop - epoch.start for epoch in self.epochs)

    def __repr__(self) -> str:
        regions = {} if self.regions is None else {r: self.regions.count(r) for r in self.regions}
        parts = [
            f"{self.num_units} units" + (f" {regions}" if regions else ""),
            f"{int(self.spike_counts.sum())} spikes",
            ", ".join(f"{e.name} {e.start:g}-{e.stop:g} s" for e in self.epochs[:8]),
            f"covariates {list(self.covariates)}",
        ]
        if self.trials:
            parts.append(f"{len(next(iter(self.trials.values())))} trials {list(self.trials)}")
        return f"Recording({'; '.join(parts)})"


def _set(instance: Any, **fields: Any) -> None:
    for name, value in fields.items():
        object.__setattr__(instance, name, value)


def _frozen(array: np.ndarray) -> np.ndarray:
    array = array.view()
    array.flags.writeable = False
    return array


def _is_sorted(times: np.ndarray) -> bool:
    return bool((times[1:] >= times[:-1]).all())


def per_second_of(time_unit: str | float | int | None) -> float:
    if time_unit is None:
        return 1.0
    if isinstance(time_unit, str):
        if time_unit not in _PER_SECOND:
            raise ValueError(
                f"time_unit must be one of {list(_PER_SECOND)} or ticks per second (a number), "
                f"got {time_unit!r}."
            )
        return _PER_SECOND[time_unit]
    if not (np.isfinite(time_unit) and time_unit > 0):
        raise ValueError(f"ticks per second must be positive, got {time_unit!r}.")
    return float(time_unit)


def _seconds(times: Any, label: Any, per_second: float) -> np.ndarray:
    times = np.asarray(times)
    if times.ndim != 1:
        raise ValueError(
            "spike_times must be one 1-d array a unit (a list of arrays), got an entry of shape "
            f"{times.shape} for unit {label}."
        )
    if times.size and times.dtype.kind not in "uif":
        raise ValueError(f"spike times of unit {label} must be numbers, got {times.dtype}.")
    times = times.astype(np.float64)
    if not np.isfinite(times).all():
        position = int(np.flatnonzero(~np.isfinite(times))[0])
        raise ValueError(
            f"spike times of unit {label} hold {times[position]} at position {position}; remove "
            "or repair it first."
        )
    # Divided, not multiplied by 1e-3: the quotient is the double nearest to the true time.
    return _frozen(times / per_second if per_second != 1 else times)


def _check_names(num_units: int, labels: tuple[str, ...], regions: tuple[str, ...] | None) -> None:
    if not num_units:
        raise ValueError("spike_times is empty; expected one array of times a unit.")
    if len(labels) != num_units:
        raise ValueError(f"expected {num_units} labels, one a unit, got {len(labels)}.")
    if len(set(labels)) != num_units:
        repeated = sorted({name for name in labels if labels.count(name) > 1})
        raise ValueError(f"labels must differ, but {repeated} occur more than once.")
    if regions is not None and len(regions) != num_units:
        raise ValueError(f"expected {num_units} regions, one a unit, got {len(regions)}.")


def _check_epochs(epochs: Any) -> tuple[Epoch, ...]:
    if isinstance(epochs, Mapping):
        epochs = [(name, *interval) for name, interval in epochs.items()]
    try:
        checked = [Epoch(str(name), float(start), float(stop)) for name, start, stop in epochs]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"epochs must be (name, start, stop) in seconds, got {epochs!r}."
        ) from error
    if not checked:
        raise ValueError("epochs is empty; leave it out for one epoch over all spikes.")
    for epoch in checked:
        if not (np.isfinite([epoch.start, epoch.stop]).all() and epoch.start < epoch.stop):
            raise ValueError(
                f"epoch {epoch.name!r} must start before it stops, got [{epoch.start}, "
                f"{epoch.stop}] s."
            )
    checked.sort(key=lambda epoch: epoch.start)
    for a, b in itertools.pairwise(checked):
        if b.start < a.stop:
            raise ValueError(
                f"epochs {a.name!r} [{a.start}, {a.stop}] and {b.name!r} [{b.start}, {b.stop}] "
                "overlap. Give epochs that do not; bin_spikes(..., epochs=(start, stop)) takes any "
                "interval later."
            )
    return tuple(checked)


def _check_trials(trials: Mapping[str, Any]) -> dict[str, np.ndarray]:
    columns = {str(name): _frozen(np.asarray(column)) for name, column in trials.items()}
    lengths = {name: column.shape[:1] for name, column in columns.items()}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        raise ValueError(f"columns of trials must have one entry a trial, got {lengths}.")
    return columns


def _survey(
    times: Sequence[np.ndarray], epochs: tuple[Epoch, ...] | None
) -> tuple[np.ndarray, float, float, np.ndarray]:
    """Per unit: spikes in all and inside the epochs; the first and the last spike of all."""
    counts, inside = np.zeros(len(times), np.int64), np.zeros(len(times), np.int64)
    first, last = np.inf, -np.inf
    for i in range(len(times)):
        unit = times[i]
        counts[i] = len(unit)
        if len(unit):
            first, last = min(first, float(unit[0])), max(last, float(unit[-1]))
        for epoch in epochs or ():
            inside[i] += np.searchsorted(unit, epoch.stop, "right") - np.searchsorted(
                unit, epoch.start, "left"
            )
    return counts, first, last, inside


def _check_support(
    epochs: tuple[Epoch, ...], first: float, last: float, inside: int, time_unit: Any
) -> None:
    start, stop = epochs[0].start, epochs[-1].stop
    ratio = (last - start) / (stop - start)
    if time_unit is None and ratio > _UNIT_RATIO:
        guess = "ms" if ratio < 5e3 else "us"
        raise ValueError(
            f"the last spike, at {last:g} s, lies {ratio:.3g} times beyond the last epoch's end "
            f"at {stop:g} s: the spike times look as if they were not in seconds. Pass "
            f'time_unit="{guess}" (or ticks per second) if so, or time_unit="s" if they are.'
        )
    if first < 0 and first < start:
        raise ValueError(
            f"spike times go down to {first:g} s, before the first epoch at {start:g} s. Negative "
            "times need an epoch that holds them; or shift the times."
        )
    if not inside:
        raise ValueError(
            f"no spike lies inside an epoch: spikes span [{first:g}, {last:g}] s, epochs "
            f"[{start:g}, {stop:g}] s. Check that both use the same clock and unit."
        )
