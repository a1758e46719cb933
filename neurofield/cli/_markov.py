"""`neurofield markov`: populations in a TOML file in, rates, sweeps and bifurcations out."""

import contextlib
import json as json_
import re
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from neurofield import __version__, markov
from neurofield._files import atomic_write
from neurofield.fit import save

from ._log import Log
from ._markov_tasks import TASKS
from ._out import check_out, command_settings, computing_on, print_described, print_table
from ._tables import tables_to_toml

CONFIG, SUMMARY = "config.toml", "summary.json"
FILES = (
    *("solution.npz", "solution.csv", "solution.png", "attractor.png", "sweep.csv", "sweep.png"),
    *("branch.csv", "branch.png", "peaks.csv", "peaks.png"),
)
_COMMENT = f"neurofield {__version__}: run again with  neurofield markov THIS_FILE --out DIR"


def list_configs(*, json: bool) -> int:
    """The configurations that ship with the package."""
    described = {name: markov.read_config(name)["description"] for name in markov.ready_configs()}
    return print_described(described, json)


def run_markov(
    config: str,
    settings: Sequence[str],
    overrides: dict[str, Any],
    out: Path | None,
    *,
    overwrite: bool,
    json: bool,
    log: Log,
) -> int:
    begin = time.perf_counter()
    tables = markov.read_config(config)
    for setting in settings:
        tables = _merged(tables, _setting(setting))
    tables |= {key: value for key, value in overrides.items() if value is not None}
    name = Path(config).stem
    out = Path("neurofield-out") / name if out is None else out.expanduser()
    check_out(out, overwrite, None)
    command = command_settings(tables, config, x64=True)
    text = tables_to_toml(tables, _COMMENT)
    written, results = {CONFIG, SUMMARY}, {}
    with computing_on(command["device"]), jax.enable_x64(command["x64"]):
        params, tasks = markov.from_config(tables, name=config)
        if not tasks:
            raise ValueError(
                f"{config} asks for nothing: give it a table [solve], [sweep] or [bifurcation]."
            )
        for task, own in tasks.items():
            start = time.perf_counter()
            discard = tables.get(task, {}).get("discard", tables.get("solve", {}).get("discard", 0))
            place = f"{config} [{task}]"
            with _failing(place):
                done, files = TASKS[task](params, own, discard, command["seed"], place, log)
            # The first to be written: a run that never began leaves nothing behind.
            if not results:
                (out / SUMMARY).unlink(missing_ok=True)  # of an earlier run
                atomic_write(out / CONFIG, text, overwrite=overwrite)
            for file, content in files.items():
                if isinstance(content, str | bytes):
                    atomic_write(out / file, content, overwrite=overwrite)
                else:
                    save(out / file, content, header={"config": text}, overwrite=overwrite)
            written |= set(files)
            results[task] = done | {"seconds": round(time.perf_counter() - start, 2)}
        device = next(iter(jnp.zeros(()).devices())).device_kind
    summary = {
        "neurofield": __version__,
        "network": name,
        "out": str(out),
        "device": device,
        "x64": command["x64"],
        "seed": command["seed"],
        "populations": list(params.names),
        **results,
        "files": sorted(written),
        "seconds": round(time.perf_counter() - begin, 2),
    }
    for stale in set(FILES) - written:
        (out / stale).unlink(missing_ok=True)
    # Last: a folder with a summary is that of a complete run.
    atomic_write(
        out / SUMMARY, json_.dumps(summary, indent=2, allow_nan=False) + "\n", overwrite=overwrite
    )
    return _report(summary, json)


def _setting(text: str) -> dict[str, Any]:
    """`KEY=VALUE` as a table: a line of TOML, whose value may be a bare word."""
    key, _, value = text.partition("=")
    for candidate in (value, json_.dumps(value.strip())) if value else ():
        with contextlib.suppress(tomllib.TOMLDecodeError):
            return tomllib.loads(f"{key} = {candidate}")
    raise ValueError(f"--set {text}: expected TABLE.KEY=VALUE, such as solve.duration=0.5.")


def _merged(tables: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    merged = dict(tables)
    for key, value in others.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merged(old, value)
        merged[key] = value
    return merged


@contextlib.contextmanager
def _failing(place: str) -> Iterator[None]:
    """What a computation says when it does not end well, without its runtime's frame."""
    try:
        yield
    except RuntimeError as error:
        said = re.search(
            r"markov\.\w+: [^\n]*|no solution was found[^\n]*|solve did not[^\n]*", str(error)
        )
        if said is None:
            raise
        raise FloatingPointError(f"{place}: {said.group()}") from error


# --- the report -----------------------------------------------------------------------------------


def _report(summary: dict[str, Any], json: bool) -> int:
    if json:
        print(json_.dumps(summary, allow_nan=False))
        return 0
    if "solve" in summary:
        _report_solve(summary["network"], summary["solve"])
    if "sweep" in summary:
        axes = summary["sweep"]["axes"]
        sizes = " x ".join(f"{len(v)} of {key}" for key, v in axes.items())
        print(f"Swept {sizes}: sweep.csv.")
    if "bifurcation" in summary:
        _report_bifurcation(summary["bifurcation"])
    print(
        f"{summary['seconds']:.1f} s in all.\n"
        f"Written to {summary['out']}: {', '.join(summary['files'])}"
    )
    return 0


def _report_solve(network: str, done: dict[str, Any]) -> None:
    def cell(value: float | None, form: str, unit: str = "") -> str:
        return "n/a" if value is None else f"{value:{form}}{unit}"

    print_table(
        f"{network}: {done['duration']:g} s by {done['backend']!r}, {done['closure']} closure",
        ("population", "rate", "CV", "synchrony", "frequency"),
        [
            [
                row["population"],
                cell(row["rate"], ".4g", " Hz"),
                cell(row["cv"], ".3f"),
                cell(row["synchrony"], ".3f"),
                cell(row["frequency"], ".1f", " Hz"),
            ]
            for row in done["populations"]
        ],
    )
    print(
        f"After {done['discard']:g} s. CV: of the population's rate over time, in bins of "
        f"{1e3 * done['cv_bin_width']:g} ms; synchrony: share of the\npopulation that fires within "
        "0.5 ms of a spike; frequency: of the highest peak of the spectrum."
    )


def _report_bifurcation(done: dict[str, Any]) -> None:
    rows = []
    for key, branch in done["branches"].items():
        for point in branch["bifurcations"]:
            rates = ", ".join(f"{rate:.4g}" for rate in point["rate"].values())
            turn = "" if point["frequency"] is None else f"{point['frequency']:.4g} Hz"
            where = f"{point['parameter']:.6g}"
            rows.append([key, point["kind"].replace("_", " "), where, f"{rates} Hz", turn])
    columns = ("branch", "bifurcation", done["parameter"], "rates", "frequency")
    if rows:
        print_table("Bifurcations", columns, rows, num_left=2)
    for key, branch in done["branches"].items():
        print(f"{key}: {branch['num_points']} points, ended: {branch['ended']}.")
