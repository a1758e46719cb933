"""Data that come with the package, for first steps, documentation and tests."""

from pathlib import Path
from typing import Any

import numpy as np

from ._activity import Activity
from ._graph import Graph
from ._recording import Covariate, Recording

_FOLDER = Path(__file__).parent / "examples"


def _head_direction() -> Recording:
    with np.load(_FOLDER / "head_direction.npz") as file:
        microseconds = np.cumsum(file["spike_us_steps"], dtype=np.int64)
        return Recording(
            np.split(microseconds / 1e6, file["spike_ends"][:-1]),
            labels=file["labels"].tolist(),
            regions=file["regions"].tolist(),
            epochs=[
                (name, *bounds)
                for name, bounds in zip(
                    file["epoch_names"].tolist(), file["epoch_bounds"].tolist(), strict=True
                )
            ],
            covariates={
                "head_direction": Covariate(
                    np.cumsum(file["angle_us_steps"], dtype=np.int64) / 1e6,
                    np.cumsum(file["angle_steps"]) * (2 * np.pi / 2**16),
                    "radian",
                )
            },
            provenance={
                "source": "mouse A2929, session 200711 (A2929-200711.nwb, pynapple 0.11.4)",
                "format": "example",
                "licence": "MIT, examples/LICENSE.pynapple",
            },
        )


def _celegans(synapses: str) -> Graph:
    with np.load(_FOLDER / "celegans.npz") as file:
        return Graph(file[synapses].astype(float), labels=file["nodes"].tolist())


def _calcium(signal: str) -> Activity:
    with np.load(_FOLDER / "calcium.npz") as file:
        cells = np.flatnonzero(file["iscell"][:, 0])
        return Activity(file[signal][cells], 0.1, labels=[str(roi) for roi in cells])


_EXAMPLES = {
    "head_direction": _head_direction,
    "celegans": lambda: _celegans("chemical"),
    "celegans_gap": lambda: _celegans("gap"),
    "calcium": lambda: _calcium("F"),
    "calcium_spikes": lambda: _calcium("spks"),
}


def example(name: str) -> Any:
    """Data shipped with the package.

    - `"head_direction"`: a `Recording` of mouse A2929: 7 anterodorsal thalamic and 8
      hippocampal units, sleep (0 to 600 s) and foraging (600 to 1200 s), with the head
      direction (tracked from 670.6 to 1200.0 s).
    - `"celegans"`, `"celegans_gap"`: `Graph`s of the hermaphrodite worm's 473 cells, the weights
      of chemical synapses and gap junctions (Cook et al., Nature 571, 2019).
    - `"calcium"`, `"calcium_spikes"`: `Activity` of the cells that suite2p accepted in 200 s of
      two-photon imaging at 10 Hz: fluorescence, and its deconvolution.

    Licences and sources are in `neurofield/recording/examples/`. Raises `ValueError` for another
    name.
    """
    if name not in _EXAMPLES:
        raise ValueError(f"no example is named {name!r}; there are {list(_EXAMPLES)}.")
    return _EXAMPLES[name]()
