"""`neurofield flow`: activity and graphs seen at ever coarser scales, beside nulls."""

import dataclasses
import hashlib
import json as json_
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from neurofield import __version__, renorm
from neurofield._files import atomic_write
from neurofield.fit import load, read_header, save
from neurofield.recording import (
    Activity,
    Graph,
    Raster,
    Recording,
    RecordingWarning,
    SparseGraph,
    read_graph,
)

from ._config import DEFAULT_BIN_WIDTH, FlowConfig, to_toml
from ._data import epochs_of, name_of, open_any, raster_of, resolve
from ._log import Log
from ._out import check_out, computing_on, png, print_table
from ._tables import finite, rows_to_csv

CONFIG, SUMMARY, TABLE, FIGURE = "config.toml", "summary.json", "flow.csv", "flow.png"
GRAPH, LAPLACIAN, ACTIVITY = "graph.npz", "flow_laplacian.npz", "flow_activity.npz"
FILES = (CONFIG, SUMMARY, TABLE, FIGURE, GRAPH, LAPLACIAN, ACTIVITY)
# The matrix of weights is dense, and its eigenvalues are found one and all.
MAX_NODES = 10_000


def run_flow(
    source: str,
    config: FlowConfig,
    out: Path | None,
    *,
    overwrite: bool,
    resume: bool,
    json: bool,
    log: Log,
) -> int:
    begin = time.perf_counter()
    source = resolve(source)
    out = Path("neurofield-out") / name_of(source) if out is None else out.expanduser()
    check_out(out, overwrite, resume)
    with computing_on(config.device), jax.enable_x64(True):
        log.step(f"reading {source}")
        with log.noting(RecordingWarning):
            data = _data(source, config, log)
        if isinstance(data, Raster):
            config = dataclasses.replace(config, bin_width=float(data.bin_width))
        again = overwrite or resume
        header = {"config": config.without("device"), "fingerprint": _fingerprint(data)}

        def done(name: str, make: Callable[[], Any], what: str) -> Any:
            """What an earlier run left, if this one goes on from it, or made now and kept."""
            path = out / name
            if resume and path.exists():
                if read_header(path)["header"] != header:
                    raise ValueError(
                        f"{path} is of other data or settings: choose another --out, or pass "
                        "--overwrite."
                    )
                log.step(f"{what}: found in {path}")
                return load(path)
            log.step(what)
            try:
                made = make()
            except RuntimeError as error:  # an iteration that did not converge
                raise FloatingPointError(str(error).splitlines()[0]) from error
            # The first file to be written: a run that never began leaves nothing behind.
            if not begun:
                begun.append(name)
                (out / SUMMARY).unlink(missing_ok=True)  # of an earlier run
                atomic_write(out / CONFIG, to_toml(source, config, __version__), overwrite=again)
            save(path, made, header=header, overwrite=again)
            return made

        begun: list[str] = []
        keys = jax.random.split(jax.random.key(config.seed), 3)
        flows: dict[str, renorm.Flow] = {}
        inferred = None
        if isinstance(data, Graph):
            graph = data
        else:
            flows["activity"] = done(
                ACTIVITY, lambda: _activity_flow(keys[0], data, config), "coarse-graining activity"
            )
            inferred = done(GRAPH, lambda: _infer(keys[1], data, config), "inferring the graph")
            graph: Graph = inferred.graph
        flows["laplacian"] = done(
            LAPLACIAN, lambda: _graph_flow(keys[2], graph, config, log), "coarse-graining the graph"
        )
        log.step("drawing the flows")
        rows = [row for name, one in flows.items() for row in _rows(name, one)]
        files = {TABLE: rows_to_csv(rows), FIGURE: png(_figure(flows, inferred))}
        device = next(iter(jax.numpy.zeros(()).devices())).device_kind
    for name, content in files.items():
        atomic_write(out / name, content, overwrite=again)
    written = {CONFIG, SUMMARY, LAPLACIAN, *files}
    written |= set() if inferred is None else {GRAPH, ACTIVITY}
    if overwrite:
        for stale in set(FILES) - written:
            (out / stale).unlink(missing_ok=True)
    summary = {
        "neurofield": __version__,
        "source": source,
        "out": str(out),
        "config": config.without(),
        "device": device,
        "graph": _described(graph, inferred),
        "flows": {name: _summarised(one) for name, one in flows.items()},
        "files": sorted(written),
        "seconds": round(time.perf_counter() - begin, 2),
    }
    # Last: a folder with a summary is that of a complete run.
    text = json_.dumps(summary, indent=2, allow_nan=False) + "\n"
    atomic_write(out / SUMMARY, text, overwrite=again)
    return _report(summary, flows, json)


# --- data -----------------------------------------------------------------------------------------


def _data(source: str, config: FlowConfig, log: Log) -> Raster | Activity | Graph:
    if _holds_graph(Path(source)):
        data: Any = read_graph(source)
    else:
        wanted = DEFAULT_BIN_WIDTH if config.bin_width is None else config.bin_width
        data = open_any(source, config.time_unit, wanted)
    if isinstance(data, SparseGraph):
        if data.num_nodes > MAX_NODES:
            raise ValueError(
                f"{source} has {data.num_nodes} nodes, and the flow takes {MAX_NODES}: look at "
                "renorm.thermodynamics for larger graphs."
            )
        data = data.to_dense()
    if isinstance(data, Recording | Raster):
        return raster_of(data, source, config, epochs_of(config.epochs), log)
    for name in ("bin_width", "epochs", "units"):
        if getattr(config, name) is not None:
            kind = "a graph" if isinstance(data, Graph) else "real-valued activity"
            raise ValueError(f"--{name.replace('_', '-')} is for spikes, {source} holds {kind}.")
    return data


def _holds_graph(path: Path) -> bool:
    """By its name, or where that leaves it open by what is written at its start."""
    suffix = path.suffix.lower()
    if suffix == ".npz" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
        return bool(names & {"weights", "indptr", "pre"}) and "spike_times" not in names
    if suffix in (".csv", ".tsv", ".txt") and path.is_file():
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            cells = re.split(r"[,;\t ]", next((s for s in file if s.strip() and s[0] != "#"), ""))
        words = {cell.strip().lower() for cell in cells}
        spikes = any("time" in word for word in words)  # a header of a table of spikes
        edges = bool(words & {"pre", "source", "from", "presynaptic"})
        return edges or (len(cells) > 4 and not spikes)
    return suffix in (".npy", ".graphml")


def _fingerprint(data: Raster | Activity | Graph) -> str:
    """A hash of all that is coarse-grained, so that --resume never mixes data."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(data):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(repr((array.shape, array.dtype.name)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


# --- flows ----------------------------------------------------------------------------------------


def _activity_flow(key: Any, data: Raster | Activity, config: FlowConfig) -> renorm.Flow:
    return renorm.phenomenological_flow(
        key,
        data,
        space=config.space,
        block_duration=config.block_duration,
        num_bootstrap=config.num_bootstrap,
    )


def _infer(key: Any, data: Raster | Activity, config: FlowConfig) -> renorm.InferredGraph:
    # The likelihood has no surrogates: its penalty selects.
    number = 0 if config.method == "likelihood" else config.num_surrogates
    return renorm.infer_graph(data, config.method, key=key, num_surrogates=number)


def _graph_flow(key: Any, graph: Graph, config: FlowConfig, log: Log) -> renorm.Flow:
    nulls = []
    for kind in config.graph_null:
        try:
            renorm.null_graph(key, graph, kind)
        except ValueError as error:  # a graph may have none of a kind
            log.note(f"no {kind} null: {error}")
        else:
            nulls.append(kind)
    return renorm.rg_flow(
        graph,
        method=config.coarsening,
        diffusion_time=config.diffusion_time,
        nulls=nulls,
        key=key,
    )


# --- results --------------------------------------------------------------------------------------


def _rows(name: str, flow: renorm.Flow) -> list[dict[str, Any]]:
    """One for every observable of a level that is one number; of the nulls too."""
    rows = []
    for null, one in {"": flow, **flow.nulls}.items():
        for observable, values in one.observables.items():
            errors = one.errors.get(observable)
            for level, value in enumerate(values if np.ndim(values) == 1 else ()):
                rows.append(
                    {
                        "flow": name,
                        "null": null,
                        "level": level,
                        "scale": float(one.scale[level]),
                        "size": int(one.size[level]),
                        "observable": observable,
                        "value": finite(float(value)),
                        "error": None if errors is None else finite(float(errors[level])),
                    }
                )
    return rows


def _summarised(flow: renorm.Flow) -> dict[str, Any]:
    return {
        "scale_name": flow.scale_name,
        "scale": [float(x) for x in flow.scale],
        "size": flow.size.tolist(),
        "exponents": {
            name: {"value": float(x), "error": finite(float(flow.exponent_errors[name]))}
            for name, x in flow.exponents.items()
        },
        "notes": list(flow.notes),
        "nulls": {name: _summarised(null) for name, null in flow.nulls.items()},
    }


def _described(graph: Graph, inferred: renorm.InferredGraph | None) -> dict[str, Any]:
    weights = np.asarray(graph.weights)
    return {
        "num_nodes": graph.num_nodes,
        "num_edges": int(np.count_nonzero(weights)),
        "inferred_by": None if inferred is None else inferred.method,
        "notes": [] if inferred is None else list(inferred.notes),
    }


def _figure(flows: dict[str, renorm.Flow], inferred: renorm.InferredGraph | None) -> Any:
    from matplotlib.figure import Figure

    from neurofield import plot

    if inferred is None:
        figure = Figure(figsize=(6, 4.4), layout="constrained")
        plot.flow(flows["laplacian"], figure.subplots())
        return figure
    figure = Figure(figsize=(11, 8.4), layout="constrained")
    activity, shape, matrix, graph = figure.subplots(2, 2).ravel()
    plot.flow(flows["activity"], activity)
    plot.flow(flows["activity"], shape, quantity="kurtosis")
    plot.couplings(
        inferred.graph.weights,
        matrix,
        labels=inferred.graph.labels,
        title=f"graph ({inferred.method})",
        unit="weight",
    )
    plot.flow(flows["laplacian"], graph)
    return figure


# --- the report -----------------------------------------------------------------------------------


def _report(summary: dict[str, Any], flows: dict[str, renorm.Flow], json: bool) -> int:
    if json:
        print(json_.dumps(summary, allow_nan=False))
        return 0
    if "activity" in flows:
        _report_activity(flows["activity"])
    _report_graph(summary["graph"], flows["laplacian"])
    notes = [f"graph: {note}" for note in summary["graph"]["notes"]]
    notes += [f"{name}: {note}" for name, one in flows.items() for note in one.notes]
    for note in notes:
        print(note)
    print(
        f"{summary['seconds']:.1f} s in all.\n"
        f"Written to {summary['out']}: {', '.join(summary['files'])}"
    )
    return 0


def _report_activity(flow: renorm.Flow) -> None:
    def cell(one: renorm.Flow, name: str) -> str:
        if name not in one.exponents:
            return "n/a"
        value, error = float(one.exponents[name]), float(one.exponent_errors[name])
        if one is flow:
            return f"{value:.3f} ± {error:.3f}"
        away = float(flow.exponents[name]) - value
        z = away / np.hypot(float(flow.exponent_errors[name]), error)
        return f"{value:.3f} ± {error:.3f} ({z:+.1f})"

    print_table(
        f"Activity of {flow.size[0]} units, {len(flow.size)} levels up to "
        f"{flow.scale[-1]:g} {flow.scale_name}",
        ("activity", *flow.exponents),
        [
            [name, *(cell(one, exponent) for exponent in flow.exponents)]
            for name, one in {"data": flow, **flow.nulls}.items()
        ],
    )
    print(
        "alpha: variance, 1 of independent and 2 of identical units; beta: -ln P(silence); mu: "
        "spectrum inside clusters;\nz: correlation time. In brackets: how far the data lie from "
        "the null, in standard errors."
    )


def _report_graph(graph: dict[str, Any], flow: renorm.Flow) -> None:
    columns = ("diffusion_time", "specific_heat", "relative_entropy", "largest_share")

    def cell(value: Any) -> str:
        return "none" if np.isnan(value) else f"{float(value):.4g}"

    print_table(
        f"Graph of {graph['num_nodes']} nodes and {graph['num_edges']} edges"
        f"{'' if graph['inferred_by'] is None else ' inferred by ' + graph['inferred_by']}",
        ("flow", "level", "nodes", "scale", "C there", "S / ln N", "largest"),
        [
            [name, str(level), str(one.size[level])]
            + [cell(one.observables[key][level]) for key in columns]
            for name, one in {"data": flow, **flow.nulls}.items()
            for level in range(one.num_levels)
        ],
    )
    print(
        f"scale: {flow.scale_name}; C: the specific heat of diffusion there; largest: share of all "
        "nodes in one supernode."
    )
