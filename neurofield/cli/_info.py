"""`neurofield info`: what a recording holds."""

import json as json_
from typing import Any

import numpy as np

from neurofield.recording import Raster, Recording, clock_time, raster_bytes

from ._data import open_source, resolve
from ._log import Log


def run_info(source: str, bin_width: float, time_unit: str | None, *, json: bool, log: Log) -> int:
    source = resolve(source)
    data = open_source(source, time_unit=time_unit, bin_width=bin_width, log=log)
    facts = _of_raster(data) if isinstance(data, Raster) else _of_recording(data, bin_width)
    facts = {"source": source, **facts}
    if json:
        print(json_.dumps(facts, allow_nan=False))
    else:
        _print(facts, None if isinstance(data, Raster) else str(clock_time(data)))
    return 0


def _of_recording(recording: Recording, bin_width: float) -> dict[str, Any]:
    clock = clock_time(recording)
    regions = recording.regions or [""] * recording.num_units
    # Over the epochs alone, as in the rasters; a unit at a time, for recordings on disk.
    inside = [_count(recording, unit) for unit in range(recording.num_units)]
    return {
        "kind": "recording",
        "format": recording.provenance.get("format", ""),
        "num_units": recording.num_units,
        "num_spikes": int(recording.spike_counts.sum()),
        "duration": recording.duration,
        "epochs": [{"name": e.name, "start": e.start, "stop": e.stop} for e in recording.epochs],
        "trials": {name: len(column) for name, column in recording.trials.items()},
        "covariates": [
            {
                "name": name,
                "unit": covariate.unit,
                "num_samples": len(covariate.timestamps),
                "start": covariate.support[0],
                "stop": covariate.support[1],
            }
            for name, covariate in recording.covariates.items()
        ],
        "units": [
            {
                "label": label,
                "region": region,
                "spikes": spikes,
                "rate": spikes / recording.duration,
            }
            for label, region, spikes in zip(recording.labels, regions, inside, strict=True)
        ],
        "clock_time": {
            "bin_width": clock.bin_width.tolist(),
            "occupancy": clock.occupancy.tolist(),
            "multi_occupancy": clock.multi_occupancy.tolist(),
            "worst_multi_occupancy": clock.worst_multi_occupancy.tolist(),
            "worst_unit": list(clock.worst_unit),
            "clock": clock.clock(),
        },
        "bin_width": bin_width,
        "raster_bytes": raster_bytes(recording, bin_width),
        "repairs": list(recording.provenance.get("repairs", [])),
    }


def _count(recording: Recording, unit: int) -> int:
    times = recording.spike_times[unit]
    edges = [
        np.searchsorted(times, [epoch.start, epoch.stop], side="left") for epoch in recording.epochs
    ]
    return int(sum(last - first for first, last in edges))


def _of_raster(raster: Raster) -> dict[str, Any]:
    active = np.asarray(raster.spikes > 0)
    mask = None if raster.mask is None else np.asarray(raster.mask)
    num_bins = active[..., 0, :].size if mask is None else int(mask.sum())
    number = active if mask is None else active & mask[..., None, :]
    counts = np.moveaxis(number, -2, 0).reshape(raster.num_neurons, -1).sum(1)
    names = raster.population_names
    of_unit = None if raster.populations is None or not names else np.asarray(raster.populations)
    return {
        "kind": "raster",
        "format": "raster",
        "num_units": raster.num_neurons,
        "num_spikes": int(counts.sum()),
        "duration": num_bins * raster.bin_width,
        "shape": list(raster.spikes.shape),
        "units": [
            {
                "label": label,
                "region": "" if of_unit is None else names[int(of_unit[i])],
                "spikes": int(counts[i]),
                "rate": float(counts[i] / (num_bins * raster.bin_width)),
            }
            for i, label in enumerate(raster.labels)
        ],
        "bin_width": raster.bin_width,
        "raster_bytes": int(raster.spikes.nbytes + (0 if mask is None else mask.nbytes)),
    }


def _print(facts: dict[str, Any], clock: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    print(f"{facts['source']}: {facts['kind']}, format {facts['format'] or 'unknown'}")
    print(
        f"{facts['num_units']} units, {facts['num_spikes']} spikes, {facts['duration']:.6g} s"
        + (f", shape {facts['shape']}" if "shape" in facts else "")
    )
    for epoch in facts.get("epochs", []):
        print(f"epoch {epoch['name']}: {epoch['start']:.6g} to {epoch['stop']:.6g} s")
    for name, length in facts.get("trials", {}).items():
        print(f"trials, column {name}: {length}")
    for c in facts.get("covariates", []):
        print(
            f"covariate {c['name']} ({c['unit'] or 'no unit'}): {c['num_samples']} samples, "
            f"{c['start']:.6g} to {c['stop']:.6g} s"
        )
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("unit", "region"):
        table.add_column(name)
    for name in ("spikes", "rate (Hz)"):
        table.add_column(name, justify="right")
    for unit in facts["units"]:
        table.add_row(unit["label"], unit["region"], str(unit["spikes"]), f"{unit['rate']:.3f}")
    Console(highlight=False).print(table)
    if clock is not None:
        print(clock)
    print(
        f"\nA raster in bins of {1e3 * facts['bin_width']:g} ms takes "
        f"{facts['raster_bytes'] / 1e6:.3g} MB."
    )
    for repair in facts.get("repairs", []):
        print(f"repaired: {repair}")
