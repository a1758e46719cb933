"""The main job: a recording in, fitted theories with errors, scores and figures out."""

import csv
import io
import json as json_
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from neurofield import __version__, lattice
from neurofield._files import atomic_write
from neurofield.fit import is_successful

from ._config import MODELS, FitConfig, read_toml, to_toml
from ._data import Data, load_data, name_of, resolve
from ._log import Log
from ._models import (
    MAX_EXACT,
    Row,
    any_pseudo,
    differences,
    find_fit,
    fit_model,
    fit_path,
    judge,
    without_couplings,
)
from ._out import check_out, computing_on
from ._table import print_table

FIGURES = ("raster", "clock_time", "couplings", "statistics", "scores")


def run_fit(
    source: str,
    config: FitConfig,
    out: Path | None,
    *,
    overwrite: bool,
    resume: bool,
    json: bool,
    log: Log,
) -> int:
    begin = time.perf_counter()
    _check(config)
    source = resolve(source)
    out = Path("neurofield-out") / name_of(source) if out is None else out.expanduser()
    check_out(out, overwrite, resume)
    with computing_on(config.device), jax.enable_x64(True):
        log.step(f"reading {source}")
        data, config = load_data(source, config, log)
        _check_fits(data, config)
        if resume:
            _check_resumable(out, config)
        log.step(
            f"{data.raster.num_neurons} units, {data.num_train_bins} training and "
            f"{data.num_test_bins} test bins of {1e3 * data.raster.bin_width:g} ms"
        )
        again = overwrite or resume
        atomic_write(out / "config.toml", to_toml(source, config, __version__), overwrite=again)
        rows = list(_rows(source, data, config, out, overwrite, resume, log))
        summary = {
            "neurofield": __version__,
            "source": source,
            "out": str(out),
            "config": config.without(),
            "device": next(iter(jax.numpy.zeros(()).devices())).device_kind,
            "num_units": data.raster.num_neurons,
            "units_left_out": list(data.dropped),
            "num_train_bins": data.num_train_bins,
            "num_test_bins": data.num_test_bins,
            "skip_bins": config.num_lags,
            "models": [row.as_json() for row in rows],
        }
        log.step("drawing figures")
        from ._figures import draw

        figures = draw(data, rows)
    written = {"config.toml", *(fit_path(out, row.model).name for row in rows if _good(row))}
    for name, content in {**_tables(summary), **figures}.items():
        atomic_write(out / name, content, overwrite=again)
        written.add(name)
    if overwrite:
        _remove_stale(out, written)
    summary["files"] = sorted(written)
    summary["seconds"] = round(time.perf_counter() - begin, 2)
    if json:
        print(json_.dumps(summary, allow_nan=False))
    else:
        print_table(summary, rows)
    failed = [row for row in rows if not _good(row)]
    for row in failed:
        log.note(f"the {row.model} model is not fitted: {row.result} Not saved.")
    return 1 if failed else 0


def _good(row: Row) -> bool:
    return is_successful(row.fit.result)


def _check(config: FitConfig) -> None:
    """What later steps would only find after minutes, or not at all."""
    if config.num_lags < 1:
        raise ValueError(f"--num-lags must be at least 1, got {config.num_lags}.")
    if not config.models or len(set(config.models)) < len(config.models):
        raise ValueError(f"--models must name each model once, got {config.models}.")
    if not config.l2 >= 0:
        raise ValueError(f"--l2 must not be negative, got {config.l2}.")
    if not config.block_duration > 0:
        raise ValueError(f"--block-duration must be positive, got {config.block_duration} s.")


def _check_fits(data: Data, config: FitConfig) -> None:
    """What only the data can tell, before anything is written."""
    if data.split.test.num_bins <= config.num_lags:
        raise ValueError(
            f"--num-lags {config.num_lags} leaves no bin to score in blocks of "
            f"{data.split.test.num_bins} bins: use fewer lags or a longer --block-duration."
        )
    if config.firth and any_pseudo(data, config):
        raise ValueError(
            f"--firth is not available for the pseudo-likelihood that the pairwise and lattice "
            f"models need beyond {MAX_EXACT} units or 1 lag: use --l2, or --models kinetic."
        )


def _check_resumable(out: Path, config: FitConfig) -> None:
    path = out / "config.toml"
    if not path.exists():
        return
    earlier = {key.replace("-", "_"): value for key, value in read_toml(path).items()}
    if differing := differences(earlier, config):
        raise ValueError(
            f"{out} holds a run with other settings ({differing}): choose another --out, or pass "
            "--overwrite."
        )


def _rows(
    source: str, data: Data, config: FitConfig, out: Path, overwrite: bool, resume: bool, log: Log
) -> Iterator[Row]:
    # Bits per spike are a gain over it, whether or not it is in the table.
    reference = without_couplings(lattice.fit(data.split.train, "independent").value)
    previous: Row | None = None
    for model in sorted(config.models, key=MODELS.index):
        path = fit_path(out, model)
        resumed = resume and path.exists()
        if resumed:
            fitted, seconds = find_fit(path, config, data.fingerprint)
            log.step(f"{model}: found in {path}")
        else:
            log.step(f"{model}: fitting")
            fitted, seconds = fit_model(
                model, data, config, source, path, overwrite=overwrite or resume
            )
            log.step(f"{model}: {int(fitted.stats['num_steps'])} steps, {seconds:.1f} s")
        row = Row(model, fitted, seconds, resumed)
        if _good(row):
            previous = row = judge(row, reference, previous, data, config)
            log.detail(f"{model}: scored")
        yield row


def _tables(summary: dict[str, Any]) -> dict[str, str]:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(summary["models"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["models"])
    text = json_.dumps(summary, indent=2, allow_nan=False) + "\n"
    return {"scores.csv": table.getvalue(), "scores.json": text}


def _remove_stale(out: Path, written: set[str]) -> None:
    """After --overwrite, drop what an earlier run left and this one did not replace."""
    ours = {fit_path(out, model).name for model in MODELS} | {f"{name}.png" for name in FIGURES}
    for name in ours - written:
        (out / name).unlink(missing_ok=True)
