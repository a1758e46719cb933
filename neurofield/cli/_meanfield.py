"""`neurofield meanfield`: a network in a TOML file in, its means and covariances out."""

import json as json_
import re
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from neurofield import __version__, meanfield
from neurofield._files import atomic_write
from neurofield._toml import call
from neurofield.fit import save

from ._log import Log
from ._out import check_out, command_settings, computing_on, png, print_described, print_table
from ._tables import finite, rows_to_csv, tables_to_toml

CONFIG, SUMMARY = "config.toml", "summary.json"
FILES = ("solution.npz", "solution.csv", "solution.png", "check.csv")
_COMMENT = f"neurofield {__version__}: run again with  neurofield meanfield THIS_FILE --out DIR"
_ARRAYS = (
    *("time", "mean", "covariance", "quenched", "input_mean", "input_covariance"),
    *("input_quenched", "shared_covariance", "population_covariance", "response"),
)


def list_configs(*, json: bool) -> int:
    """The configurations that ship with the package."""
    names = meanfield.ready_configs()
    return print_described({n: meanfield.read_config(n)["description"] for n in names}, json)


def run_meanfield(
    config: str,
    overrides: dict[str, Any],
    simulate: bool,
    out: Path | None,
    *,
    overwrite: bool,
    json: bool,
    log: Log,
) -> int:
    begin = time.perf_counter()
    tables = meanfield.read_config(config)
    given = {key: value for key, value in overrides.items() if value is not None}
    if isinstance(tables.get("meanfield", {}), dict):  # from_config refuses what is no table
        tables["meanfield"] = tables.get("meanfield", {}) | given
    if simulate:
        tables.setdefault("check", {})
    name = Path(config).stem
    out = Path("neurofield-out") / name if out is None else out.expanduser()
    check_out(out, overwrite, None)
    command = command_settings(tables["meanfield"], f"{config} [meanfield]", x64=True)
    with computing_on(command["device"]), jax.enable_x64(command["x64"]):
        net, tasks = meanfield.from_config(tables, name=config)
        solve_key, check_key = jax.random.split(jax.random.key(command["seed"]))
        log.step(f"solving for {net.size} neurons in {len(net.populations)} populations")
        place = f"{config} [meanfield]"
        arguments = {**tasks["meanfield"], "network": net, "key": solve_key}
        solution = jax.block_until_ready(_said(meanfield.solve, arguments, place))
        solved = time.perf_counter() - begin
        rows, files, found = _rows(solution), {}, None
        if "check" in tasks:
            log.step("simulating the network")
            arguments = {**tasks["check"], "solution": solution, "key": check_key}
            found = _said(meanfield.check, arguments, f"{config} [check]")
            files["check.csv"] = rows_to_csv(_check_rows(found))
        log.step("drawing the solution")
        files |= {"solution.csv": rows_to_csv(rows), "solution.png": png(_figure(solution))}
        device = next(iter(jnp.zeros(()).devices())).device_kind
        arrays = {key: getattr(solution, key) for key in _ARRAYS}
        arrays |= {f"{key}_error": getattr(solution, f"{key}_error", None) for key in _ARRAYS}
        arrays = {key: x for key, x in arrays.items() if x is not None}
        # The first to be written: a run that never began leaves nothing behind.
        (out / SUMMARY).unlink(missing_ok=True)  # of an earlier run
        text = tables_to_toml(tables, _COMMENT)
        atomic_write(out / CONFIG, text, overwrite=overwrite)
        save(out / "solution.npz", arrays, header={"config": text}, overwrite=overwrite)
    for file, content in files.items():
        atomic_write(out / file, content, overwrite=overwrite)
    written = {CONFIG, SUMMARY, "solution.npz", *files}
    summary = {
        "neurofield": __version__,
        "network": name,
        "out": str(out),
        "device": device,
        "x64": command["x64"],
        "seed": command["seed"],
        "method": solution.method,
        "order": solution.order,
        "populations": rows,
        "diagnostics": _diagnosed(solution),
        "check": None if found is None else _checked(found),
        "files": sorted(written),
        "seconds_solving": round(solved, 2),
        "seconds": round(time.perf_counter() - begin, 2),
    }
    for stale in set(FILES) - written:
        (out / stale).unlink(missing_ok=True)
    # Last: a folder with a summary is that of a complete run.
    text = json_.dumps(summary, indent=2, allow_nan=False) + "\n"
    atomic_write(out / SUMMARY, text, overwrite=overwrite)
    return _report(summary, None if found is None else str(found), json)


def _said(fn: Any, arguments: dict[str, Any], place: str) -> Any:
    """What a computation says when it does not end well, without its runtime's frame."""
    try:
        return call(fn, arguments, place)
    except RuntimeError as error:
        said = re.search(r"meanfield\.\w+: [^\n]*", str(error))
        if said is None:
            raise
        raise FloatingPointError(f"{place}: {said.group()}") from error


def _rows(solution: meanfield.Solution) -> list[dict[str, Any]]:
    """One a population; of a course in time, the means over it and what is known of those."""

    def mean(x: Any, index: int) -> float:
        return float("nan") if x is None else float(np.mean(np.asarray(x)[index]))

    error, shift = solution.mean_error, None
    if solution.mean.ndim == 1:
        shift = None if solution.diagnostics is None else solution.diagnostics.shift
    else:
        # Steps err, and fluctuate, by more than their mean.
        assert solution.replicas is not None
        groups = np.mean(np.asarray(solution.replicas["mean"]), axis=2)
        error = np.std(groups, axis=0, ddof=1) / len(groups) ** 0.5
        if solution.population_covariance is not None:
            own = np.einsum("ppts->p", np.asarray(solution.population_covariance))
            shift = np.sqrt(np.maximum(own, 0)) / solution.mean.shape[1]
    rows = []
    for index, population in enumerate(solution.network.populations):
        spread = mean(solution.quenched, index)
        rows.append(
            {
                "population": population.name,
                "size": population.size,
                "kind": population.neuron.kind,
                "mean": finite(mean(solution.mean, index)),
                "error": finite(mean(error, index)),
                "sd_of_neurons": finite(np.sqrt(max(spread, 0)) if spread == spread else spread),
                "sd_of_networks": finite(mean(shift, index)),
            }
        )
    return rows


def _check_rows(found: meanfield.Check) -> list[dict[str, Any]]:
    columns = zip(
        found.quantity, found.predicted, found.simulated, found.error, found.z, strict=True
    )
    return [
        {"quantity": q, "predicted": p, "simulated": s, "error": e, "z": finite(float(z))}
        for q, p, s, e, z in columns
    ]


def _checked(found: meanfield.Check) -> dict[str, Any]:
    return {
        "num_networks": found.num_networks,
        "duration": found.duration,
        "num_compared": len(found.quantity),
        "disagreements": list(found.disagreements),
    }


def _diagnosed(solution: meanfield.Solution) -> dict[str, Any] | None:
    found = solution.diagnostics
    if found is None:
        return None
    names = ("clipped", "least_pivot", "skewness", "shared_share")
    parts = {key: getattr(found, key) for key in names if getattr(found, key) is not None}
    fields = [" ".join(field) for field in solution.fields]
    return {
        "leading_gain": None if found.gain is None else finite(found.leading_gain),
        "stable": None if found.stable is None else bool(found.stable),
        **{
            # Of courses in time, the mean over it.
            key: {f: finite(float(np.mean(v))) for f, v in zip(fields, np.asarray(x), strict=True)}
            for key, x in parts.items()
        },
    }


def _figure(solution: meanfield.Solution) -> Any:
    from matplotlib.figure import Figure

    from neurofield import plot

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot.solution(solution, left)
    plot.solution(solution, right, inputs=True)
    return figure


def _report(summary: dict[str, Any], table: str | None, json: bool) -> int:
    if json:
        print(json_.dumps(summary, allow_nan=False))
        return 0

    def cell(row: dict[str, Any], key: str) -> str:
        unit = " Hz" if row["kind"] == "spike" else ""
        return "n/a" if row[key] is None else f"{row[key]:.4g}{unit}"

    keys = ("mean", "error", "sd_of_neurons", "sd_of_networks")
    print_table(
        f"{summary['network']}: {summary['method']}, {summary['order']} order",
        ("population", "mean", "error", "SD of neurons", "SD of networks"),
        [[row["population"], *(cell(row, key) for key in keys)] for row in summary["populations"]],
    )
    found = summary["diagnostics"]
    if found is not None and found["stable"] is False:
        print("UNSTABLE: fluctuations of the population means grow; networks do something else.")
    if table is not None:
        print(table)
    print(
        "SD of networks: how far the mean of one network of this size may be from the ensemble's.\n"
        f"{summary['seconds']:.1f} s in all.\n"
        f"Written to {summary['out']}: {', '.join(summary['files'])}"
    )
    return 0
