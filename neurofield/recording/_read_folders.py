"""Output folders of spike sorters (Phy, Kilosort) and of suite2p."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from ._activity import Activity
from ._files import load_npy, provenance
from ._recording import Recording


def is_phy(folder: Path) -> bool:
    return (folder / "spike_times.npy").is_file()


def read_phy(
    folder: Path, *, time_unit: Any, epochs: Any, sampling_rate: float | None, good_only: bool
) -> Recording:
    samples = load_npy(folder / "spike_times.npy").reshape(-1)
    name = next(
        (n for n in ("spike_clusters.npy", "spike_templates.npy") if (folder / n).is_file()), None
    )
    if name is None:
        raise ValueError(
            f"{folder} has spike_times.npy but neither spike_clusters.npy nor "
            "spike_templates.npy, which say whose spikes they are."
        )
    clusters = load_npy(folder / name).reshape(-1)
    if len(clusters) != len(samples):
        raise ValueError(
            f"{folder}: {len(samples)} spike times but {len(clusters)} entries in {name}; one of "
            "the files is cut short."
        )
    if time_unit is None:
        time_unit = _phy_rate(folder) if sampling_rate is None else sampling_rate
    quality, source = _phy_quality(folder)
    present = np.unique(clusters)
    record = provenance(folder, "phy")
    record["repairs"] = repairs = []
    units = present
    if good_only and not quality:
        repairs.append("No cluster labels were found: all clusters are taken, noise included.")
    elif good_only:
        units = np.array([u for u in present if quality.get(int(u)) == "good"], present.dtype)
        if not len(units):
            labels = [quality.get(int(u), "unsorted") for u in present]
            raise ValueError(
                f"{folder}: none of {len(present)} clusters is labelled good in {source} "
                f"({ {label: labels.count(label) for label in sorted(set(labels))} }). Curate "
                "them in Phy, or pass good_only=False."
            )
        repairs.append(f"{len(present) - len(units)} clusters not labelled good are left out.")
    # One stable sort keeps each cluster's spikes in order of time.
    order = np.argsort(clusters, kind="stable")
    ends = np.searchsorted(clusters[order], [units, units + 1])
    return Recording(
        [samples[order[a:b]] for a, b in ends.T],
        labels=units.tolist(),
        epochs=epochs,
        provenance=record,
        time_unit=time_unit,
    )


def _phy_rate(folder: Path) -> float:
    """`sample_rate` of params.py, which is read as text and never run."""
    params = folder / "params.py"
    text = params.read_text(errors="replace") if params.is_file() else ""
    match = re.search(r"^\s*sample_rate\s*=\s*([0-9][0-9_.eE+]*)", text, re.MULTILINE)
    if match is None:
        raise ValueError(
            f"{folder}: no sample_rate in params.py; pass sampling_rate= in hertz, as spike times "
            "are counted in samples."
        )
    return float(match.group(1))


def _phy_quality(folder: Path) -> tuple[dict[int, str], str]:
    """Label of each cluster: the curator's where there is one, else Kilosort's."""
    quality: dict[int, str] = {}
    sources = []
    for name, columns in (
        ("cluster_KSLabel.tsv", ("KSLabel",)),
        ("cluster_info.tsv", ("group", "KSLabel")),
        ("cluster_group.tsv", ("group", "KSLabel")),
    ):
        path = folder / name
        if not path.is_file():
            continue
        sources.append(name)
        with open(path, newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                cluster = row.get("cluster_id") or row.get("id")
                label = next((row[c] for c in columns if row.get(c)), None)
                if cluster and label:
                    quality[int(cluster)] = label.strip().lower()
    return quality, ", ".join(sources)


def is_suite2p(folder: Path) -> bool:
    return (folder / "F.npy").is_file() or (folder / "spks.npy").is_file()


def read_suite2p(
    folder: Path, *, sampling_rate: float | None, signal: str, good_only: bool
) -> Activity:
    values = folder / f"{signal}.npy"
    if not values.is_file():
        raise ValueError(
            f"{folder} has no {signal}.npy; pass signal= one of "
            f"{sorted(p.stem for p in folder.glob('*.npy') if p.stem in ('F', 'Fneu', 'spks'))}."
        )
    activity = load_npy(values)
    cells = folder / "iscell.npy"
    is_cell = load_npy(cells) if cells.is_file() else None
    return suite2p_activity(str(folder), activity, is_cell, sampling_rate, good_only)


def suite2p_activity(
    source: str,
    values: np.ndarray,
    is_cell: np.ndarray | None,
    sampling_rate: float | None,
    good_only: bool,
) -> Activity:
    if sampling_rate is None:
        raise ValueError(
            f"{source}: pass sampling_rate= in hertz (fs in suite2p's settings; ops.npy holds it, "
            "but as a pickle, which is not read because it can run code)."
        )
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{source}: expected [roi, frame], got shape {values.shape}.")
    index = np.arange(len(values))
    if good_only and is_cell is not None:
        if len(is_cell) != len(values):
            raise ValueError(
                f"{source}: {len(values)} ROIs but {len(is_cell)} entries in iscell; one is cut "
                "short."
            )
        index = np.flatnonzero(is_cell[:, 0] if is_cell.ndim == 2 else is_cell)
        if not len(index):
            raise ValueError(f"{source}: iscell accepts no ROI; pass good_only=False for all.")
    return Activity(values[index], 1.0 / sampling_rate, labels=[str(i) for i in index])
