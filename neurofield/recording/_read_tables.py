"""npz archives and text tables."""

import csv
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ._activity import Activity
from ._files import check_whole_numbers, provenance
from ._raster import Raster
from ._read_folders import suite2p_activity
from ._recording import Recording

_UNIT_COLUMNS = ("unit", "neuron", "cluster", "cell", "id", "label", "electrode", "channel")
_TIME_COLUMNS = ("time", "times", "t", "spiketime", "spiketimes", "timestamp", "timestamps")
_REGION_COLUMNS = ("region", "location", "area", "brainregion", "brainarea")

NPZ_KEYS = """npz archives hold one of
    raster [neuron, time] of 0 and 1 (or counts), with bin_width in seconds (or pass bin_width=);
    spike_times [spike] with spike_clusters [spike], or with spike_times_index [unit] (the end of
        each unit's times);
    one array of spike times a unit, named unit_0, unit_1, ...;
    F or spks [roi, frame], with iscell if known (suite2p's; pass sampling_rate=);
and, if known, labels, regions, epochs [epoch, 2], epoch_names."""


def read_npz(
    path: Path,
    *,
    time_unit: Any,
    epochs: Any,
    bin_width: float | None,
    sampling_rate: float | None,
    signal: str,
    good_only: bool,
) -> Recording | Raster | Activity:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as an npz archive ({error}). It may be cut short: copy it "
            "again. Arrays of Python objects (pickles) are not read, as they can run code."
        ) from error
    labels = arrays["labels"].astype(str).tolist() if "labels" in arrays else None
    if "raster" in arrays:
        width = arrays.get("bin_width", bin_width)
        if width is None:
            raise ValueError(f"{path} holds a raster but no bin_width; pass bin_width= in seconds.")
        return Raster(arrays["raster"], float(width), labels=labels)
    if signal in arrays and "spike_times" not in arrays:
        return suite2p_activity(
            str(path), arrays[signal], arrays.get("iscell"), sampling_rate, good_only
        )
    times, labels = _npz_times(path, arrays, labels)
    if epochs is None and "epochs" in arrays:
        bounds = arrays["epochs"]
        if bounds.ndim != 2 or bounds.shape[1] != 2:
            raise ValueError(f"{path}: epochs must be [epoch, 2], got shape {bounds.shape}.")
        names = arrays.get("epoch_names", np.arange(len(bounds))).astype(str).tolist()
        epochs = [(name, float(a), float(b)) for name, (a, b) in zip(names, bounds, strict=True)]
    check_whole_numbers(path, np.concatenate(times), time_unit, epochs)
    return Recording(
        times,
        labels=labels,
        regions=arrays["regions"].astype(str).tolist() if "regions" in arrays else None,
        epochs=epochs,
        provenance=provenance(path, "npz"),
        time_unit=time_unit,
    )


def _npz_times(
    path: Path, arrays: dict[str, np.ndarray], labels: list[str] | None
) -> tuple[list[np.ndarray], list[str] | None]:
    if "spike_times" in arrays and "spike_clusters" in arrays:
        times, clusters = arrays["spike_times"], arrays["spike_clusters"]
        if times.shape != clusters.shape:
            raise ValueError(
                f"{path}: spike_times {times.shape} and spike_clusters {clusters.shape} must have "
                "one entry a spike."
            )
        units = np.unique(clusters)
        return [times[clusters == u] for u in units], labels or units.astype(str).tolist()
    if "spike_times" in arrays and "spike_times_index" in arrays:
        ends = arrays["spike_times_index"].astype(np.int64)
        if (np.diff(ends) < 0).any() or ends[-1:].tolist() != [len(arrays["spike_times"])]:
            raise ValueError(f"{path}: spike_times_index does not fit spike_times.")
        return np.split(arrays["spike_times"], ends[:-1]), labels
    names = [name for name in arrays if re.fullmatch(r"unit_?.+", name)]
    if not names:
        raise ValueError(f"{path} holds {sorted(arrays)}, which are not recognised. {NPZ_KEYS}")
    # unit_2 before unit_10.
    names.sort(key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    return [arrays[n] for n in names], labels or [re.sub(r"^unit_?", "", n) for n in names]


def read_csv(path: Path, *, time_unit: Any, epochs: Any) -> Recording:
    """One row a spike: its unit, its time and, if known, its region."""
    times: dict[str, list[float]] = {}
    regions: dict[str, str] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, delimiter=_delimiter(path, file.readline()))
            file.seek(0)
            columns = None
            for row in rows:
                if not any(cell.strip() for cell in row) or row[0].startswith("#"):
                    continue
                if columns is None:
                    columns, has_header, header_unit = _columns(path, row)
                    time_unit = header_unit if time_unit is None else time_unit
                    if has_header:
                        continue
                unit, time, region = _spike(path, rows.line_num, row, columns)
                times.setdefault(unit, []).append(time)
                if region is not None and regions.setdefault(unit, region) != region:
                    raise ValueError(
                        f"{path}, line {rows.line_num}: unit {unit} lies in {region!r}, above in "
                        f"{regions[unit]!r}."
                    )
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text table: {error}.") from error
    if columns is None:
        raise ValueError(f"{path} is empty; expected the columns unit,time and one row a spike.")
    if not times:
        raise ValueError(f"{path} has a header but no spikes; expected one row a spike.")
    labels = sorted(times, key=_natural)
    arrays = [np.array(times[label]) for label in labels]
    check_whole_numbers(path, np.concatenate(arrays), time_unit, epochs)
    return Recording(
        arrays,
        labels=labels,
        regions=[regions[label] for label in labels] if regions else None,
        epochs=epochs,
        provenance=provenance(path, "csv"),
        time_unit=time_unit,
    )


def _delimiter(path: Path, first_line: str) -> str:
    if "\0" in first_line:
        raise ValueError(f"{path} is not a text table: its first line holds binary data.")
    return max(",\t;", key=first_line.count)


def _columns(path: Path, row: list[str]) -> tuple[tuple[int, int, int | None], bool, str | None]:
    """Columns of unit, time and region; whether the row is a header; a time unit it names."""
    if _is_number(row[-1]) and len(row) == 2:
        if not (row[0].strip().isdigit()):
            raise ValueError(
                f"{path} has no header and its first column is {row[0]!r}; without a header, "
                "columns are unit (a whole number) and time."
            )
        return (0, 1, None), False, None
    names, unit_of_time = [], None
    for cell in row:
        # "Time (ms)", "spike_time_ms", "unit_id" -> time, spiketime, unit
        name = re.sub(r"[^a-z]+", " ", cell.lower()).split()
        if name and name[-1] in ("s", "sec", "seconds", "ms", "us") and len(name) > 1:
            unit_of_time = {"ms": "ms", "us": "us"}.get(name.pop(), unit_of_time)
        if len(name) > 1 and name[-1] in ("id", "index"):
            name.pop()
        names.append("".join(name))

    def find(accepted: tuple[str, ...]) -> int | None:
        return next((i for i, name in enumerate(names) if name in accepted), None)

    unit, time, region = find(_UNIT_COLUMNS), find(_TIME_COLUMNS), find(_REGION_COLUMNS)
    if unit is None or time is None:
        raise ValueError(
            f"{path}: the header is {row}; expected a column of units ({', '.join(_UNIT_COLUMNS)}) "
            "and one of spike times (time, spike_time, timestamp)."
        )
    return (unit, time, region), True, unit_of_time


def _spike(
    path: Path, line: int, row: list[str], columns: tuple[int, int, int | None]
) -> tuple[str, float, str | None]:
    unit, time, region = columns
    if max(unit, time, region or 0) >= len(row):
        raise ValueError(f"{path}, line {line}: too few columns in {row}.")
    if not (_is_number(row[time]) and math.isfinite(float(row[time]))):
        raise ValueError(f"{path}, line {line}: {row[time]!r} is not a spike time.")
    return (
        row[unit].strip(),
        float(row[time]),
        None if region is None else row[region].strip(),
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _natural(label: str) -> tuple[float, str]:
    return (float(label), label) if _is_number(label) else (math.inf, label)
