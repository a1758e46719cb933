"""What all readers of files share: honest messages about paths, and provenance."""

import difflib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

_HASH_LIMIT = 2**26


def check_exists(path: Path) -> None:
    """Raises `FileNotFoundError`, naming what lies near."""
    if path.exists():
        return
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path} does not exist, nor does its folder {folder}.")
    names = [entry.name for entry in folder.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else "."
    raise FileNotFoundError(f"{path} does not exist{hint}")


def provenance(path: Path, format: str) -> dict[str, Any]:
    """Where a recording came from; the SHA-256 only of files that are hashed at once."""
    record: dict[str, Any] = {"source": str(path), "format": format}
    if path.is_file():
        size = path.stat().st_size
        record["bytes"] = size
        if size <= _HASH_LIMIT:
            record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return record


def load_npy(path: Path) -> np.ndarray:
    """One .npy array, never a pickle."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a NumPy array ({error}). It may be cut short: copy it "
            "again. Arrays of Python objects (pickles) are not read, as they can run code."
        ) from error


def check_whole_numbers(path: Path, times: np.ndarray, time_unit: Any, epochs: Any) -> None:
    """Files without units: whole numbers only are milliseconds or samples, not seconds."""
    if time_unit is None and epochs is None and times.size >= 100 and (times % 1 == 0).all():
        raise ValueError(
            f"{path}: all {times.size} spike times are whole numbers, up to {times.max():g}: they "
            'look like milliseconds or samples. Pass time_unit="ms", the samples per second as '
            'a number (time_unit=30000), or "s" if they are seconds.'
        )
