"""What jobs share: seed, precision and device, the out folder, a figure as bytes, tables."""

import contextlib
import io
import json as json_
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax


@contextlib.contextmanager
def computing_on(device: str | None) -> Iterator[None]:
    """Make one kind of device the default. Raises `ValueError` naming those that are there."""
    if device is None:
        yield
        return
    try:
        chosen = jax.devices(device)[0]
    except RuntimeError as error:
        there = sorted({d.platform for d in jax.devices()})
        raise ValueError(
            f"no {device} is there; JAX finds: {', '.join(there)}. For a GPU or TPU install "
            "neurofield[cuda12], [cuda13] or [tpu], and look at neurofield doctor."
        ) from error
    with jax.default_device(chosen):
        yield


def command_settings(table: Any, place: str, *, x64: bool = False) -> dict[str, Any]:
    """Of a table of a file, what is for the command alone: seed, device and x64."""
    found: dict[str, Any] = {"seed": 0, "device": None, "x64": x64}
    if isinstance(table, Mapping):
        found |= {key: table[key] for key in found if key in table}
    seed, x64 = found["seed"], found["x64"]
    if type(seed) is not int or not 0 <= seed < 2**32 or type(x64) is not bool:
        raise ValueError(
            f"{place}: seed must be a whole number from 0 to 2^32 - 1 and x64 true or false, got "
            f"{seed!r} and {x64!r}."
        )
    if not isinstance(found["device"], str | None):
        raise ValueError(f"{place}: device must be cpu, gpu or tpu.")
    return found


def check_out(out: Path, overwrite: bool, resume: bool | None) -> None:
    """Refuse to mix with what is there already, unless told how; `None`: no run can go on."""
    if overwrite and resume:
        raise ValueError("--overwrite starts anew and --resume goes on: pass one of them.")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} exists and is not a folder: choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not (overwrite or resume):
        raise FileExistsError(
            f"{out} is not empty: choose another --out, or pass "
            f"{'' if resume is None else '--resume to go on there or '}"
            "--overwrite to replace what is there."
        )


def png(figure: Any) -> bytes:
    """A matplotlib figure, drawn without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def print_described(described: Mapping[str, str], json: bool) -> int:
    """Names and what they stand for."""
    if json:
        print(json_.dumps(described))
    else:
        width = max(map(len, described))
        for name, text in described.items():
            print(f"{name:{width}}  {text}")
    return 0


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1
) -> None:
    """A table whose first columns are flush left and the others right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < num_left else "right")
    for cells in rows:
        table.add_row(*cells)
    console = Console(highlight=False)
    # A pipe has no width of its own.
    console = console if console.is_terminal else Console(highlight=False, width=120)
    console.print(table)
