"""What all jobs share: the device, the out folder, a figure as bytes."""

import contextlib
import io
from collections.abc import Iterator
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


def check_out(out: Path, overwrite: bool, resume: bool) -> None:
    """Refuse to mix with what is there already, unless told how."""
    if overwrite and resume:
        raise ValueError("--overwrite starts anew and --resume goes on: pass one of them.")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} exists and is not a folder: choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not (overwrite or resume):
        raise FileExistsError(
            f"{out} is not empty: choose another --out, or pass --resume to go on there or "
            "--overwrite to replace what is there."
        )


def png(figure: Any) -> bytes:
    """A matplotlib figure, drawn without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
