"""What every kind of TOML file shares: reading, ready files of the package, errors with a place."""

import difflib
import inspect
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np


def ready_files(folder: Traversable) -> tuple[str, ...]:
    """Names of the TOML files in a folder of the package."""
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


def read_tables(config: str | os.PathLike[str], folder: Traversable) -> dict[str, Any]:
    """The tables of a TOML file, or by its bare name of one in a folder of the package.

    Raises `FileNotFoundError` listing those, `ValueError` for a file that is not TOML.
    """
    ready = ready_files(folder)
    if str(config) in ready:
        return tomllib.loads((folder / f"{config}.toml").read_text("utf-8"))
    path = Path(config).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{config} is neither a file nor a ready configuration{suggest(str(config), ready)}; "
            f"ready are {', '.join(ready)}."
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}.") from error


def call(fn: Callable[..., Any], arguments: Mapping[str, Any], place: str) -> Any:
    """`fn` by keywords, its errors with the place in front."""
    parameters = inspect.signature(fn).parameters
    check_keys(arguments, parameters, place, fn.__name__)
    missing = [
        key for key, p in parameters.items() if p.default is p.empty and key not in arguments
    ]
    if missing:
        raise ValueError(f"{place}: {fn.__name__} needs {', '.join(missing)}.")
    try:
        return fn(**arguments)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    except (TypeError, AttributeError) as error:
        text = str(error).strip().splitlines()[0]
        raise ValueError(f"{place}: {fn.__name__} does not take such a value: {text}") from error


def check_keys(
    table: Mapping[str, Any], known: Iterable[str], place: str, what: str, hint: str = ""
) -> None:
    known = list(known)
    for key in table:
        if key not in known:
            raise ValueError(
                f"{place}: unknown key {key!r}{suggest(key, known)}; {what} takes "
                f"{', '.join(known)}{f' ({hint})' if hint else ''}."
            )


def suggest(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), 1)
    return f", did you mean {close[0]!r}?" if close else ""


def as_table(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} must be a table, got {value!r}.")
    return value


def as_numbers(value: list[Any], place: str) -> np.ndarray:
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: expected numbers in rows of one length.") from None
