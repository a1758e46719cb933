"""Makes the reduced example files in this folder from their sources.

    NEUROFIELD_DATA=/path/to/data python neurofield/recording/examples/make.py

The sources are named in README.md. Running it again gives the same arrays.
"""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

HERE = Path(__file__).parent


def head_direction(source: Path) -> None:
    with h5py.File(source) as opened:
        file: Any = opened
        units, compass = file["units"], file["acquisition/CompassDirection/ry"]
        spike_times = units["spike_times"][()]
        ends = units["spike_times_index"][()].astype(np.int64)
        location = np.char.decode(units["location"][()].astype(bytes))
        labels = units["id"][()].astype(str)
        epochs = file["intervals/epochs"]
        names = np.char.decode(epochs["tags"][()].astype(bytes))
        bounds = np.stack([epochs["start_time"][()], epochs["stop_time"][()]], axis=1)
        angle, timestamps = compass["data"][()], compass["timestamps"][()]
    # The file's times are decimal microseconds, so whole microseconds hold all of them: nothing
    # is rounded. Differences pack better than times.
    spike_us, time_us = _microseconds(spike_times), _microseconds(timestamps)
    assert (spike_us / 1e6 == spike_times).all()
    assert np.abs(time_us / 1e6 - timestamps).max() < 1e-9
    # 2^16 steps of a turn: 1e-4 radian, far below the noise of the tracker.
    turn = np.rint(angle / (2 * np.pi) * 2**16).astype(np.int64) % 2**16
    np.savez_compressed(
        HERE / "head_direction.npz",
        spike_us_steps=np.diff(spike_us, prepend=0).astype(np.int32),
        spike_ends=ends,
        labels=labels,
        regions=location,
        epoch_names=names,
        epoch_bounds=bounds,
        angle_steps=np.diff(turn, prepend=0).astype(np.int32),
        angle_us_steps=np.diff(time_us, prepend=0).astype(np.int32),
    )


def celegans(source: Path) -> None:
    arrays = np.load(source)
    matrices = {name: arrays[name] for name in ("chemical", "gap")}
    assert all((m == m.astype(np.uint16)).all() for m in matrices.values())
    # Source: rows pre, columns post. Here, as everywhere in neurofield: weights[post, pre].
    np.savez_compressed(
        HERE / "celegans.npz",
        nodes=arrays["nodes"],
        **{name: m.T.astype(np.uint16) for name, m in matrices.items()},
    )


def calcium(source: Path) -> None:
    arrays = np.load(source)
    np.savez_compressed(HERE / "calcium.npz", **{k: arrays[k] for k in ("F", "spks", "iscell")})


def _microseconds(times: np.ndarray) -> np.ndarray:
    return np.rint(times * 1e6).astype(np.int64)


if __name__ == "__main__":
    data = Path(os.environ["NEUROFIELD_DATA"])
    head_direction(data / "A2929-200711.nwb")
    celegans(data / "celegans_cook2019.npz")
    calcium(data / "suite2p_219x2000.npz")
