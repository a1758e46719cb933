"""`neurofield simulate`: a network in a TOML file in, its activity, statistics and figures out."""

import json as json_
import math
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from neurofield import __version__, network
from neurofield._files import atomic_write
from neurofield.fit import save

from ._log import Log
from ._out import check_out, command_settings, computing_on, png, print_described, print_table
from ._tables import differing_keys, finite, rows_to_csv, tables_to_toml

CONFIG, SUMMARY, CHECKPOINT = "config.toml", "statistics.json", "checkpoint"
FIGURES = ("raster", "rate", "spectrum", "traces")
FILES = ("raster.npz", "traces.npz", "statistics.npz", "statistics.csv", SUMMARY)
_COMMENT = f"neurofield {__version__}: run again with  neurofield simulate THIS_FILE --out DIR"


def list_configs(*, json: bool) -> int:
    """The configurations that ship with the package."""
    described = {name: network.read_config(name)["description"] for name in network.ready_configs()}
    return print_described(described, json)


def run_simulate(
    config: str,
    overrides: dict[str, Any],
    scale: float | None,
    out: Path | None,
    *,
    overwrite: bool,
    resume: bool,
    json: bool,
    log: Log,
) -> int:
    begin = time.perf_counter()
    tables = _with_overrides(network.read_config(config), overrides, scale)
    name = Path(config).stem
    out = Path("neurofield-out") / name if out is None else out.expanduser()
    check_out(out, overwrite, resume)
    command = command_settings(tables.get("simulation"), f"{config} [simulation]")
    with computing_on(command["device"]), jax.enable_x64(command["x64"]):
        net, settings = network.from_config(tables, name=config)
        kinds = {p.name: p.neuron.kind for p in net.populations}
        settings.setdefault("bin_width", max(1e-3, settings["dt"]))
        settings.setdefault("intervals", "spike" in kinds.values())
        if resume and _is_complete(out, tables):
            log.note(f"the run in {out} is complete: nothing is left to do.")
            return _report(json_.loads((out / SUMMARY).read_text(encoding="utf-8")), json)
        log.step(
            f"{net.size} neurons in {len(kinds)} populations, {len(net.projections)} projections"
        )
        simulation, seconds = _simulate(
            net, settings, command["seed"], tables, out, overwrite, resume, log
        )
        rows = _rows(net, simulation)
        log.step("drawing figures")
        pictures = _figures(net, simulation, settings)
        again, text = overwrite or resume, tables_to_toml(tables, _COMMENT)
        written = {CONFIG, SUMMARY, "statistics.csv"}
        for file, part in (
            ("raster.npz", simulation.raster),
            ("traces.npz", simulation.traces or None),
            ("statistics.npz", simulation.statistics),
        ):
            if part is not None:
                save(out / file, part, header={"config": text}, overwrite=again)
                written.add(file)
        device = next(iter(jax.numpy.zeros(()).devices())).device_kind
    for file, content in {"statistics.csv": rows_to_csv(rows), **pictures}.items():
        atomic_write(out / file, content, overwrite=again)
        written.add(file)
    summary = {
        "neurofield": __version__,
        "network": name,
        "out": str(out),
        "device": device,
        "x64": command["x64"],
        "seed": command["seed"],
        "duration": settings["duration"],
        "warm_up": settings.get("warm_up", 0.0),
        "dt": settings["dt"],
        "populations": rows,
        "files": sorted(written),
        "seconds_simulating": round(seconds, 2),
        "seconds": round(time.perf_counter() - begin, 2),
    }
    # Last: a folder with a summary is that of a complete run.
    text = json_.dumps(summary, indent=2, allow_nan=False) + "\n"
    atomic_write(out / SUMMARY, text, overwrite=again)
    shutil.rmtree(out / CHECKPOINT, ignore_errors=True)
    for stale in {*FILES, *(f"{figure}.png" for figure in FIGURES)} - written:
        (out / stale).unlink(missing_ok=True)
    return _report(summary, json)


def _with_overrides(
    tables: dict[str, Any], overrides: dict[str, Any], scale: float | None
) -> dict[str, Any]:
    """The options of the command line win over the file."""
    given = {key: value for key, value in overrides.items() if value is not None}
    parts = {"simulation": given, "downscale": {} if scale is None else {"scale": scale}}
    for key, part in parts.items():
        table = tables.get(key, {})
        if part and isinstance(table, dict):  # from_config refuses what is no table
            tables[key] = table | part
    return tables


def _is_complete(out: Path, tables: dict[str, Any]) -> bool:
    """Whether a run is complete. Raises `ValueError` for one with other settings."""
    path = out / CONFIG
    if not path.exists():
        return False
    earlier = tomllib.loads(path.read_text(encoding="utf-8"))
    if differing := differing_keys(earlier, tables):
        raise ValueError(
            f"{out} holds a run with other settings ({', '.join(differing)}): choose another "
            "--out, or pass --overwrite."
        )
    return (out / SUMMARY).exists()


def _simulate(
    net: network.Network,
    settings: dict[str, Any],
    seed: int,
    tables: dict[str, Any],
    out: Path,
    overwrite: bool,
    resume: bool,
    log: Log,
) -> tuple[network.Simulation, float]:
    """Simulate with checkpoints; a run that never began leaves nothing behind."""
    again = overwrite or resume
    (out / SUMMARY).unlink(missing_ok=True)  # of an earlier run
    if overwrite:
        shutil.rmtree(out / CHECKPOINT, ignore_errors=True)
    atomic_write(out / CONFIG, tables_to_toml(tables, _COMMENT), overwrite=again)
    begin = time.perf_counter()
    try:
        done = network.simulate(
            jax.random.key(seed),
            net,
            **settings,
            checkpoint=out / CHECKPOINT,
            resume=resume,
            progress=not log.quiet,
        )
        jax.block_until_ready(done)
    except (ValueError, TypeError, FloatingPointError) as error:
        if not resume:
            shutil.rmtree(out / CHECKPOINT, ignore_errors=True)
            (out / CONFIG).unlink()
            if not any(out.iterdir()):
                out.rmdir()
        if isinstance(error, TypeError):
            raise ValueError(f"[simulation]: {str(error).splitlines()[0]}") from error
        raise
    return done, time.perf_counter() - begin


def _rows(net: network.Network, done: network.Simulation) -> list[dict[str, Any]]:
    """One a population: rate in hertz of spikes, mean level of others; CV over its neurons."""
    statistics = done.statistics
    found = {}
    if statistics is not None:
        error = np.zeros(0) if statistics.rate_error is None else np.asarray(statistics.rate_error)
        found = {
            label: (float(np.asarray(statistics.rate)[k]), float(error[k]))
            for k, label in enumerate(statistics.labels)
        }
    raster, rows, first = done.raster, [], 0
    for population in net.populations:
        name, kind = population.name, population.neuron.kind
        rate, error = found.get(name, (math.nan, math.nan))
        spread = cv = math.nan
        with_cv = 0
        if kind != "rate" and raster is not None:
            own = np.asarray(raster.spikes[first : first + population.size]).mean(1)
            first += population.size
            unit = 1.0 if kind == "binary" else 1 / raster.bin_width
            spread = float(own.std() * unit)
            if kind == "binary":
                rate, error = rate * raster.bin_width, error * raster.bin_width
        if kind == "spike" and done.intervals is not None:
            span = slice(*net.span(name))
            enough = np.asarray(done.intervals.count)[span] >= 2
            with_cv = int(enough.sum())
            if with_cv:
                cv = float(np.asarray(done.intervals.cv)[span][enough].mean())
        rows.append(
            {
                "population": name,
                "neuron": type(population.neuron).__name__,
                "kind": kind,
                "size": population.size,
                "rate": finite(rate),
                "rate_error": finite(error),
                "rate_sd": finite(spread),
                "cv": finite(cv),
                "num_cv": with_cv,
            }
        )
    return rows


# --- figures --------------------------------------------------------------------------------------

_SHOWN = 200  # neurons in the raster figure
_TRACED = 6


def _figures(
    net: network.Network, done: network.Simulation, settings: dict[str, Any]
) -> dict[str, bytes]:
    """File name to content; only the figures for which there is something to show."""
    from matplotlib.figure import Figure

    from neurofield import plot

    pictures = {}

    def new(width: float | int, height: float | int, rows: int = 1) -> tuple[Any, Any]:
        figure = Figure(figsize=(width, height * rows), layout="constrained")
        return figure, figure.subplots(rows, 1, squeeze=False).ravel()

    if done.raster is not None:
        excerpt = min(1.0, done.raster.num_bins * done.raster.bin_width)
        some = _some_neurons(done.raster)
        figure, (ax,) = new(9, 1.2 + min(0.1 * some.num_neurons, 6.5))
        plot.raster(some, ax, duration=excerpt)
        pictures["raster.png"] = png(figure)
        figure, (ax,) = new(9, 3)
        plot.population_rate(done.raster, ax, duration=excerpt)
        pictures["rate.png"] = png(figure)
    statistics = done.statistics
    if statistics is not None and statistics.spectrum is not None:
        figure, (ax,) = new(5.5, 4)
        plot.spectrum(statistics, ax)
        pictures["spectrum.png"] = png(figure)
    shown = [
        (f"{population}: {name}", np.asarray(values)[:_TRACED])
        for population, own in done.traces.items()
        for name, values in own.items()
        if np.ndim(values) == 2
    ]
    if shown:
        figure, axes = new(9, 2.2, len(shown))
        for (title, values), ax in zip(shown, axes, strict=True):
            plot.traces(values, settings["bin_width"], ax, title=title)
        pictures["traces.png"] = png(figure)
    return pictures


def _some_neurons(raster: Any) -> Any:
    """The first neurons of each population, as many as their share of what a figure can show."""
    share = min(1.0, _SHOWN / raster.num_neurons)
    populations = np.asarray(raster.populations)
    kept = []
    for index in np.unique(populations):
        members = np.flatnonzero(populations == index)
        kept.append(members[: max(round(share * len(members)), 1)])
    kept = np.concatenate(kept)
    return type(raster)(
        np.asarray(raster.spikes)[kept],
        raster.bin_width,
        populations=populations[kept],
        population_names=raster.population_names,
        labels=[raster.labels[i] for i in kept],
    )


# --- the table ------------------------------------------------------------------------------------


def _report(summary: dict[str, Any], json: bool) -> int:
    if json:
        print(json_.dumps(summary, allow_nan=False))
        return 0
    rows = []
    for row in summary["populations"]:
        unit = " Hz" if row["kind"] == "spike" else ""
        cells = [row["population"], row["neuron"], str(row["size"]), _with_error(row) + unit]
        spread, cv = row["rate_sd"], row["cv"]
        cells.append("n/a" if spread is None else f"{spread:.3g}{unit}")
        cells.append("n/a" if cv is None else f"{cv:.3f}")
        rows.append(cells)
    print_table(
        f"{summary['network']}: {summary['duration']:g} s in steps of {1e3 * summary['dt']:g} ms",
        ("population", "neuron", "size", "rate", "spread", "CV"),
        rows,
        num_left=2,
    )
    span = summary["duration"] + summary["warm_up"]
    spent = summary["seconds_simulating"]
    print(
        "rate: mean over neurons ± one standard error in time (of states and rates: the mean "
        "level); spread: its\nstandard deviation over neurons; CV: of interspike intervals, mean "
        "over neurons with two or more.\n"
        f"Simulated {span:g} s in {spent:.1f} s with drawing connections and compilation "
        f"({spent / span:.1f} per second); {summary['seconds']:.1f} s in all.\n"
        f"Written to {summary['out']}: {', '.join(summary['files'])}"
    )
    return 0


def _with_error(row: dict[str, Any]) -> str:
    rate, error = row["rate"], row["rate_error"]
    if rate is None:
        return "n/a"
    return f"{rate:.4g}" if error is None else f"{rate:.4g} ± {error:.2g}"
