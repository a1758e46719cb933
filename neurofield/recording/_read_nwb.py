"""NWB files by h5py: the units table, epochs, trials, regions, and signals beside them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ._files import provenance
from ._recording import Covariate, LazySpikeTimes, Recording, RecordingWarning, per_second_of

# Above this many bytes, spike times stay in the file and are read unit by unit.
_LAZY_BYTES = 2**28
# Larger or wider signals are raw traces and movies, not covariates.
_COVARIATE_BYTES = 2**27
_COVARIATE_WIDTH = 16
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_REGION_COLUMNS = ("location", "region", "brain_region", "brain_area", "area")


def read_nwb(path: Path, *, time_unit: Any, epochs: Any, lazy: bool | None) -> Recording:
    import h5py

    with open(path, "rb") as raw:
        head = raw.read(64)
    if not head.startswith(_HDF5_SIGNATURE):
        what = "is empty" if not head else f"begins with {head[:16]!r}"
        raise ValueError(
            f"{path} is not an NWB file: it {what}, where HDF5 begins with {_HDF5_SIGNATURE!r}. "
            'If it is a text table, read it with format="csv".'
        )
    try:
        with h5py.File(path, "r") as file:
            return _read(path, file, time_unit, epochs, lazy)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged or cut short ({path.stat().st_size} bytes on disk; {error}). Copy "
            "or download it again."
        ) from error


def _read(path: Path, file: Any, time_unit: Any, epochs: Any, lazy: bool | None) -> Recording:
    if "units" not in file or "spike_times" not in file["units"]:
        raise ValueError(
            f"{path} holds no units table with spike_times, which a Recording needs; it has "
            f"{sorted(file)}. Sort its raw data first, or read its signals with pynwb and make an "
            "Activity."
        )
    units = file["units"]
    dataset = units["spike_times"]
    ends = units["spike_times_index"][()].astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    if (starts > ends).any() or (ends.size and ends[-1] != len(dataset)):
        raise ValueError(
            f"{path}: units/spike_times_index does not fit units/spike_times (ends at "
            f"{ends[-1]} of {len(dataset)}, or goes down); the file is malformed."
        )
    record = provenance(path, "nwb")
    record["repairs"] = repairs = []
    if lazy is None:
        lazy = dataset.size * 8 > _LAZY_BYTES
    if lazy:
        times: Any = LazySpikeTimes(_Units(path, starts, ends), len(ends), per_second_of(time_unit))
    else:
        times = np.split(dataset[()], ends[:-1]) if len(ends) else []
    labels = units["id"][()].astype(str).tolist() if "id" in units else None
    if epochs is None:
        epochs = _epochs(file, repairs)
    recording = Recording(
        times,
        labels=labels,
        regions=_regions(file),
        epochs=epochs,
        trials=_trials(file),
        covariates=_covariates(file, repairs),
        provenance=record,
        time_unit=time_unit,
    )
    return recording


class _Units:
    """Reads one unit's times; opens the file each time so that no handle is held or copied."""

    def __init__(self, path: Path, starts: np.ndarray, ends: np.ndarray):
        self.path, self.starts, self.ends = path.absolute(), starts, ends

    def __call__(self, unit: int) -> np.ndarray:
        import h5py

        with h5py.File(self.path, "r") as file:
            dataset: Any = file["units/spike_times"]
            return dataset[self.starts[unit] : self.ends[unit]]


def _text(values: np.ndarray) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _regions(file: Any) -> list[str] | None:
    units = file["units"]
    for name in _REGION_COLUMNS:
        if name in units and units[name].dtype.kind in "OSU" and units[name].ndim == 1:
            return _text(units[name][()])
    electrodes = file.get("general/extracellular_ephys/electrodes")
    if "electrodes" in units and electrodes is not None and "location" in electrodes:
        location = _text(electrodes["location"][()])
        rows = units["electrodes"][()]
        if "electrodes_index" not in units:
            return [location[int(row)] for row in rows]
        ends = units["electrodes_index"][()].astype(int)
        firsts = np.concatenate([[0], ends[:-1]])
        # A unit on several electrodes lies where its first one does.
        return [
            location[int(rows[first])] if first < end else "unknown"
            for first, end in zip(firsts, ends, strict=True)
        ]
    if "electrode_group" in units:
        groups = [file[reference] for reference in units["electrode_group"][()]]
        return _text(
            np.array(
                [g["location"][()] if "location" in g else g.attrs["location"] for g in groups]
            )
        )
    return None


def _epochs(file: Any, repairs: list[str]) -> list[tuple[str, float, float]] | None:
    table = file.get("intervals/epochs", file.get("epochs"))
    if table is None or "start_time" not in table:
        return None
    starts, stops = table["start_time"][()], table["stop_time"][()]
    names = [str(i) for i in range(len(starts))]
    if "tags" in table and "tags_index" in table:
        tags, ends = _text(table["tags"][()]), table["tags_index"][()].astype(int)
        names = ["+".join(part) for part in np.split(np.array(tags, object), ends[:-1])]
    else:
        for column in ("label", "name", "condition"):
            if column in table and table[column].dtype.kind in "OSU":
                names = _text(table[column][()])
                break
    empty = ~(starts < stops)
    if empty.any():
        repairs.append(f"Left out {int(empty.sum())} epochs that do not start before they stop.")
        warnings.warn(repairs[-1], RecordingWarning, stacklevel=2)
    kept = np.flatnonzero(~empty)
    return [(names[i], float(starts[i]), float(stops[i])) for i in kept] or None


def _trials(file: Any) -> dict[str, np.ndarray]:
    table = file.get("intervals/trials")
    if table is None:
        return {}
    trials = {}
    for name in table:
        column = table[name]
        if column.ndim != 1 or f"{name}_index" in table or name == "id" or name.endswith("_index"):
            continue
        values = column[()]
        if values.dtype.kind in "OS":
            if len(values) and not isinstance(values[0], bytes | str):
                continue
            values = np.array(_text(values))
        trials[{"start_time": "start", "stop_time": "stop"}.get(name, name)] = values
    return trials


def _covariates(file: Any, repairs: list[str]) -> dict[str, Covariate]:
    found: dict[str, Covariate] = {}
    roots = ["acquisition", "stimulus/presentation"]
    roots += [f"processing/{name}" for name in file.get("processing", {})]
    for root in roots:
        if root in file:
            for name, group in _signals(file[root], ""):
                try:
                    found[name if name not in found else f"{root}/{name}"] = _covariate(group)
                except ValueError as error:
                    repairs.append(f"Left out signal {root}/{name}: {error}")
                    warnings.warn(repairs[-1], RecordingWarning, stacklevel=2)
    return found


def _signals(group: Any, prefix: str) -> list[tuple[str, Any]]:
    """Small real signals with a time base, however deep."""
    found = []
    for name in group:
        child = group[name]
        if not hasattr(child, "keys"):
            continue
        if "data" in child and ("timestamps" in child or "starting_time" in child):
            data = child["data"]
            small = data.nbytes <= _COVARIATE_BYTES and data.dtype.kind in "buif"
            narrow = data.ndim == 1 or (data.ndim == 2 and data.shape[1] <= _COVARIATE_WIDTH)
            if small and narrow and data.size:
                found.append((prefix + name, child))
        else:
            found += _signals(child, f"{prefix}{name}/")
    return found


def _covariate(group: Any) -> Covariate:
    data = group["data"]
    attributes = data.attrs
    values = data[()] * float(attributes.get("conversion", 1.0)) + float(
        attributes.get("offset", 0.0)
    )
    if "timestamps" in group:
        timestamps = group["timestamps"][()]
    else:
        start = group["starting_time"]
        timestamps = float(start[()]) + np.arange(len(values)) / float(start.attrs["rate"])
    unit = attributes.get("unit", "")
    return Covariate(timestamps, values, unit.decode() if isinstance(unit, bytes) else str(unit))
