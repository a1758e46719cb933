"""read: one door for every format."""

import os
from pathlib import Path
from typing import Any

from ._activity import Activity
from ._files import check_exists
from ._raster import Raster
from ._read_folders import is_phy, is_suite2p, read_phy, read_suite2p
from ._read_nwb import read_nwb
from ._read_objects import read_neo_file, read_object
from ._read_tables import read_csv, read_npz
from ._recording import Recording

_SUFFIXES = {
    ".nwb": "nwb",
    ".h5": "nwb",
    ".hdf5": "nwb",
    ".npz": "npz",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
}
_RECOGNISED = """Recognised are NWB files (.nwb), Phy/Kilosort folders (spike_times.npy), suite2p
folders (F.npy, spks.npy), .npz archives, text tables with columns unit,time (.csv, .tsv, .txt)
and, with neo installed, the spike trains of files it knows; format= overrides the name."""


def read(
    source: Any,
    *,
    format: str | None = None,
    time_unit: str | float | int | None = None,
    epochs: Any = None,
    bin_width: float | int | None = None,
    sampling_rate: float | int | None = None,
    signal: str = "F",
    good_only: bool = True,
    lazy: bool | None = None,
) -> Recording | Raster | Activity:
    """Reads a recording from a file, a folder, or another library's object.

    | source | recognised by | gives |
    |---|---|---|
    | NWB file | .nwb, .h5, .hdf5 | `Recording`: units, regions, epochs, trials, small signals |
    | Phy/Kilosort folder | spike_times.npy | `Recording` of the clusters labelled good |
    | suite2p folder, or its plane folder | F.npy or spks.npy | `Activity`, with `sampling_rate` |
    | .npz | keys, listed in the error for an unknown archive | any of the three |
    | text table, one row a spike | .csv, .tsv, .txt | `Recording` |
    | other file | Neo, if installed | `Recording` |
    | pynapple `TsGroup`, Neo `SpikeTrain`s, arrays | type | `Recording` |

    **Arguments**

    - `format`: "nwb", "phy", "suite2p", "npz", "csv" or "neo" instead of guessing.
    - `time_unit`: of the spike times: "s", "ms", "us" or ticks per second. `None` takes the
      format's own (seconds, or samples for Phy) and makes times that look like another an error.
    - `epochs`: (name, start, stop) in seconds, instead of the file's.
    - `bin_width`: seconds, for a raster whose file does not say.
    - `sampling_rate`: hertz, for Phy folders without params.py, and for suite2p.
    - `signal`: of suite2p: "F", "Fneu" or "spks".
    - `good_only`: only clusters labelled good (Phy) or cells (suite2p).
    - `lazy`: leave an NWB file's spike times on disk and read them unit by unit; `None` does so
      above 256 MB.

    Raises `FileNotFoundError` naming near matches, and `ValueError` for files that are not what
    they seem, cut short, empty, or hold no spikes.
    """
    if not isinstance(source, str | os.PathLike):
        return read_object(source, time_unit=time_unit, epochs=epochs)
    sampling_rate = None if sampling_rate is None else float(sampling_rate)
    bin_width = None if bin_width is None else float(bin_width)
    path = Path(source).expanduser()
    check_exists(path)
    if path.is_dir() and not (is_phy(path) or is_suite2p(path)):
        path = _only_plane(path)
    format = _format(path) if format is None else format
    if format == "nwb":
        return read_nwb(path, time_unit=time_unit, epochs=epochs, lazy=lazy)
    if format == "phy":
        return read_phy(
            path,
            time_unit=time_unit,
            epochs=epochs,
            sampling_rate=sampling_rate,
            good_only=good_only,
        )
    if format == "suite2p":
        return read_suite2p(path, sampling_rate=sampling_rate, signal=signal, good_only=good_only)
    if format == "npz":
        return read_npz(
            path,
            time_unit=time_unit,
            epochs=epochs,
            bin_width=bin_width,
            sampling_rate=sampling_rate,
            signal=signal,
            good_only=good_only,
        )
    if format == "csv":
        return read_csv(path, time_unit=time_unit, epochs=epochs)
    if format == "neo":
        recording = read_neo_file(path, epochs=epochs)
        if recording is None:
            raise ValueError(f"{path}: neo is not installed or does not know it. {_RECOGNISED}")
        return recording
    raise ValueError(f"format {format!r} is unknown. {_RECOGNISED}")


def _format(path: Path) -> str:
    if path.is_dir():
        if is_phy(path):
            return "phy"
        if is_suite2p(path):
            return "suite2p"
        names = sorted(entry.name for entry in path.iterdir())[:10]
        raise ValueError(f"folder {path} is not recognised; it holds {names}. {_RECOGNISED}")
    return _SUFFIXES.get(path.suffix.lower(), "neo")


def _only_plane(folder: Path) -> Path:
    """The plane of a suite2p folder, or the folder itself if it is none."""
    planes = sorted(
        p for p in [*folder.glob("plane*"), *folder.glob("suite2p/plane*")] if p.is_dir()
    )
    if len(planes) > 1:
        raise ValueError(f"{folder} holds {len(planes)} planes; read one, such as {planes[0]}.")
    return planes[0] if planes else folder
