"""Networks written down as TOML: tables are calls of the public names of this room."""

import inspect
import os
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, get_args

import numpy as np

from neurofield._toml import (
    as_numbers,
    as_table,
    call,
    check_keys,
    read_tables,
    ready_files,
    suggest,
)

from ._annealed import Annealed
from ._connectivity import Connectivity
from ._delay import DelayDistribution
from ._deliver import Method
from ._downscale import downscale
from ._drive import Drive, Source
from ._kernel import Kernel
from ._network import Network, Population, Projection, SharedNoise
from ._neuron import Neuron
from ._plasticity import TsodyksMarkram
from ._simulate import simulate
from ._weights import WeightDistribution

# What a key's component must be; for the first ones a bare name stands for all defaults.
_NAMED: dict[str, tuple[type, ...]] = {
    "neuron": (Neuron,),
    "drive": (Source,),
    "connectivity": (Connectivity, Annealed),
    "kernel": (Kernel,),
    "plasticity": (TsodyksMarkram,),
}
_PARTS = _NAMED | {
    "source": (Source,),
    "delay": (DelayDistribution,),
    "weight": (WeightDistribution,),
    "rate": (Source,),
}
# Functions, rasters and other neurons, which TOML has not.
_TAKES_CODE = {"Custom", "Function", "Events", "Expected"}
_FOLDER = resources.files("neurofield.network") / "configs"
_TOP = ("description", "simulation", "downscale", "population", "projection", "shared")
# Of the call or the command, not of the network.
_NO_SETTINGS = {"key", "network", "checkpoint", "resume", "progress", "throw"}
_COMMAND = ("seed", "device", "x64")


def ready_configs() -> tuple[str, ...]:
    """Names of the configurations that ship with the package."""
    return ready_files(_FOLDER)


def read_config(config: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a TOML file, or of a ready configuration by its bare name.

    Raises `FileNotFoundError` listing the ready ones, `ValueError` for a file that is not TOML.
    """
    return read_tables(config, _FOLDER)


def from_config(
    config: str | os.PathLike[str] | Mapping[str, Any],
    *,
    scale: float | None = None,
    name: str | None = None,
) -> tuple[Network, dict[str, Any]]:
    """A network and the settings of its simulation, from TOML.

    `config` is a path, the name of a ready configuration (`ready_configs`), or tables already read:

        network, settings = from_config("brunel2000")
        simulation = simulate(jax.random.key(0), network, **settings)

    - `[simulation]`: arguments of `simulate`; `seed`, `device` and `x64` are for the command line
      and left out of what is returned.
    - `[population.NAME]`: arguments of `Population`; `drive` may be an array of tables.
    - `[[projection]]`: arguments of `Projection`. `source` and `target` may be lists: every pair is
      a projection, a number may be given for each by `{ pairs = [[...], ...] }` (rows are targets,
      columns sources), and a pair whose number is 0 is left out.
    - `[[shared]]`: arguments of `SharedNoise`.
    - `[downscale]`: arguments of `downscale`; `scale` here wins over the file's.

    A component is a table whose `kind` is a public name of `neurofield.network` and whose other
    keys are its arguments, or the bare name: `kernel = { kind = "Exponential", tau = 0.005 }`.
    Seconds, millivolts, hertz.

    Raises `ValueError` naming the file (`name`, where tables are given), the table and the key, and
    the keys that are known.
    """
    if isinstance(config, Mapping):
        tables, place = config, name or "config"
    else:
        tables, place = read_config(config), name or str(config)
    check_keys(tables, _TOP, place, "a network's file")
    populations = as_table(tables.get("population", {}), f"{place} [population]")
    if not populations:
        raise ValueError(f"{place}: there is no population; begin one by [population.E].")
    network = call(
        Network,
        {
            "populations": [
                _population(key, table, f"{place} [population.{key}]")
                for key, table in populations.items()
            ],
            "projections": [
                projection
                for index, table in enumerate(_tables(tables, "projection", place))
                for projection in _projections(table, f"{place} [[projection]] {index + 1}")
            ],
            "shared": [
                _shared(table, f"{place} [[shared]] {index + 1}")
                for index, table in enumerate(_tables(tables, "shared", place))
            ],
        },
        place,
    )
    scaling = dict(as_table(tables.get("downscale", {}), f"{place} [downscale]"))
    if scale is not None:
        scaling["scale"] = scale
    if scaling:
        scaling = {"scale": 1.0, "rates": {}} | scaling
        network = call(downscale, scaling | {"network": network}, f"{place} [downscale]")
    return network, _settings(tables, f"{place} [simulation]")


def _settings(tables: Mapping[str, Any], place: str) -> dict[str, Any]:
    settings = dict(as_table(tables.get("simulation", {}), place))
    known = [key for key in inspect.signature(simulate).parameters if key not in _NO_SETTINGS]
    check_keys(settings, (*known, *_COMMAND), place, "simulate")
    missing = [key for key in ("duration", "dt") if key not in settings]
    if missing:
        raise ValueError(f"{place}: {' and '.join(missing)} must be given, in seconds.")
    seconds = ("duration", "dt", "bin_width", "warm_up")
    for key in seconds:
        value = settings.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{place}: {key} must be a number of seconds, got {value!r}.")
    if settings.get("method", "lists") not in get_args(Method):
        raise ValueError(
            f"{place}: method must be one of {', '.join(get_args(Method))}, got "
            f"{settings['method']!r}."
        )
    return {
        key: float(value) if key in seconds else value
        for key, value in settings.items()
        if key not in _COMMAND
    }


def _population(name: str, table: Any, place: str) -> Population:
    table = as_table(table, place)
    hint = 'those of the neuron go in a table of its own: neuron = { kind = "LIF", tau = 0.02 }'
    check_keys(table, ("size", "neuron", "drive"), place, "a population", hint)
    if type(table.get("size", 0)) is not int:
        raise ValueError(f"{place}: size must be a whole number, got {table['size']!r}.")
    arguments = {k: v for k, v in table.items() if k != "drive"}
    drives = table.get("drive", [])
    sources = [
        _component(one, _PARTS["drive"], f"{place} drive")
        for one in (drives if isinstance(drives, list) else [drives])
    ]
    built = _arguments(arguments, place)
    return call(Population, {**built, "name": name, "drive": Drive(*sources)}, place)


def _projections(table: Any, place: str) -> list[Projection]:
    table = as_table(table, place)
    ends = {}
    for key in ("source", "target"):
        given = table.get(key, [])
        ends[key] = given if isinstance(given, list) else [given]
        if not ends[key] or not all(isinstance(end, str) for end in ends[key]):
            raise ValueError(f"{place}: {key} must be the name of a population, or a list of some.")
    shape = (len(ends["target"]), len(ends["source"]))
    rest = {k: v for k, v in table.items() if k not in ends}
    projections = []
    for i, target in enumerate(ends["target"]):
        for j, source in enumerate(ends["source"]):
            own, present = _pick(rest, i, j, shape, place)
            if present:
                at = f"{place} ({source} -> {target})"
                arguments = {**_arguments(own, at), "source": source, "target": target}
                projections.append(call(Projection, arguments, at))
    return projections


def _pick(value: Any, i: int, j: int, shape: tuple[int, int], place: str) -> tuple[Any, bool]:
    """The value of one pair, and whether none of its numbers is 0."""
    if not isinstance(value, dict):
        return value, True
    if "pairs" in value:
        rows = value["pairs"]
        if len(value) > 1 or np.shape(np.asarray(rows, object)) != shape:
            raise ValueError(
                f"{place}: pairs must be {shape[0]} rows (targets) of {shape[1]} columns (sources)."
            )
        return rows[i][j], rows[i][j] != 0
    found = {k: _pick(v, i, j, shape, f"{place} {k}") for k, v in value.items()}
    return {k: v for k, (v, _) in found.items()}, all(present for _, present in found.values())


def _shared(table: Any, place: str) -> SharedNoise:
    table = as_table(table, place)
    source = _component(table.get("source"), _PARTS["source"], f"{place} source")
    rest = {k: v for k, v in table.items() if k != "source"}
    return call(SharedNoise, {**_arguments(rest, place), "source": source}, place)


# --- components -----------------------------------------------------------------------------------


def _arguments(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    return {key: _build(key, value, f"{place} {key}") for key, value in table.items()}


def _build(key: str, value: Any, place: str) -> Any:
    """A value of a file as an argument: components are made, numbers in lists are arrays."""
    if key in _NAMED or (isinstance(value, dict) and (key in _PARTS or "kind" in value)):
        if key not in _NAMED or isinstance(value, str | dict):
            return _component(value, _PARTS.get(key), place)
        raise ValueError(f"{place}: expected a name or a table with a kind, got {value!r}.")
    if isinstance(value, list):
        return as_numbers(value, place)
    return value


def _component(value: Any, bases: tuple[type, ...] | None, place: str) -> Any:
    table = {"kind": value} if isinstance(value, str) else value
    known = _known(bases)
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise ValueError(
            f"{place}: expected a table with a kind, one of {', '.join(known)}; got {value!r}."
        )
    kind = table["kind"]
    if kind not in known:
        raise ValueError(
            f"{place}: unknown kind {kind!r}{suggest(kind, known)}; known are {', '.join(known)}."
        )
    arguments = {k: v for k, v in table.items() if k != "kind"}
    return call(known[kind], _arguments(arguments, f"{place} {kind}"), place)


def _known(bases: tuple[type, ...] | None) -> dict[str, Callable[..., Any]]:
    """Public classes of one sort by name; of connections, the functions that make them."""
    from neurofield import network

    if bases is None:
        every = {key: one for part in _PARTS.values() for key, one in _known(part).items()}
        return dict(sorted(every.items()))
    found = {}
    for key, value in sorted(vars(network).items()):
        if key.startswith("_") or key in _TAKES_CODE:
            continue
        made = value
        if Connectivity in bases:
            if not inspect.isfunction(value):
                continue
            made = inspect.signature(value).return_annotation
        if inspect.isclass(made) and issubclass(made, bases) and not inspect.isabstract(made):
            found[key] = value
    return found


def _tables(tables: Mapping[str, Any], key: str, place: str) -> list[Any]:
    value = tables.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{place}: {key} must be an array of tables, [[{key}]].")
    return value
