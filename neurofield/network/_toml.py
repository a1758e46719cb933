"""Networks written down as TOML: tables are calls of the public names of this room."""

import difflib
import inspect
import os
import tomllib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import numpy as np

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
_TAKES_CODE = {"Custom", "Function", "Events"}  # functions and rasters, which TOML has not
_FOLDER = resources.files("neurofield.network") / "configs"
_TOP = ("description", "simulation", "downscale", "population", "projection", "shared")
# Of the call or the command, not of the network.
_NO_SETTINGS = {"key", "network", "checkpoint", "resume", "progress", "throw"}
_COMMAND = ("seed", "device", "x64")


def ready_configs() -> tuple[str, ...]:
    """Names of the configurations that ship with the package."""
    return tuple(sorted(f.name[:-5] for f in _FOLDER.iterdir() if f.name.endswith(".toml")))


def read_config(config: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a TOML file, or of a ready configuration by its bare name.

    Raises `FileNotFoundError` listing the ready ones, `ValueError` for a file that is not TOML.
    """
    if str(config) in ready_configs():
        text = (_FOLDER / f"{config}.toml").read_text("utf-8")
        return tomllib.loads(text)
    path = Path(config).expanduser()
    if not path.is_file():
        close = _suggest(str(config), ready_configs())
        raise FileNotFoundError(
            f"{config} is neither a file nor a ready configuration{close}; ready are "
            f"{', '.join(ready_configs())}."
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}.") from error


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
    _check_keys(tables, _TOP, place, "a network's file")
    populations = _table(tables.get("population", {}), f"{place} [population]")
    if not populations:
        raise ValueError(f"{place}: there is no population; begin one by [population.E].")
    network = _call(
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
    scaling = dict(_table(tables.get("downscale", {}), f"{place} [downscale]"))
    if scale is not None:
        scaling["scale"] = scale
    if scaling:
        scaling = {"scale": 1.0, "rates": {}} | scaling
        network = _call(downscale, scaling | {"network": network}, f"{place} [downscale]")
    return network, _settings(tables, f"{place} [simulation]")


def _settings(tables: Mapping[str, Any], place: str) -> dict[str, Any]:
    settings = dict(_table(tables.get("simulation", {}), place))
    known = [key for key in inspect.signature(simulate).parameters if key not in _NO_SETTINGS]
    _check_keys(settings, (*known, *_COMMAND), place, "simulate")
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
    table = _table(table, place)
    hint = 'those of the neuron go in a table of its own: neuron = { kind = "LIF", tau = 0.02 }'
    _check_keys(table, ("size", "neuron", "drive"), place, "a population", hint)
    if type(table.get("size", 0)) is not int:
        raise ValueError(f"{place}: size must be a whole number, got {table['size']!r}.")
    arguments = {k: v for k, v in table.items() if k != "drive"}
    drives = table.get("drive", [])
    sources = [
        _component(one, _PARTS["drive"], f"{place} drive")
        for one in (drives if isinstance(drives, list) else [drives])
    ]
    built = _arguments(arguments, place)
    return _call(Population, {**built, "name": name, "drive": Drive(*sources)}, place)


def _projections(table: Any, place: str) -> list[Projection]:
    table = _table(table, place)
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
                projections.append(_call(Projection, arguments, at))
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
    table = _table(table, place)
    source = _component(table.get("source"), _PARTS["source"], f"{place} source")
    rest = {k: v for k, v in table.items() if k != "source"}
    return _call(SharedNoise, {**_arguments(rest, place), "source": source}, place)


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
        return _numbers(value, place)
    return value


def _numbers(value: list[Any], place: str) -> np.ndarray:
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: expected numbers in rows of one length.") from None
    return array


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
            f"{place}: unknown kind {kind!r}{_suggest(kind, known)}; known are {', '.join(known)}."
        )
    arguments = {k: v for k, v in table.items() if k != "kind"}
    return _call(known[kind], _arguments(arguments, f"{place} {kind}"), place)


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


def _call(fn: Callable[..., Any], arguments: Mapping[str, Any], place: str) -> Any:
    """`fn` by keywords, its errors with the place in front."""
    parameters = inspect.signature(fn).parameters
    _check_keys(arguments, parameters, place, fn.__name__)
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


# --- checks ---------------------------------------------------------------------------------------


def _check_keys(
    table: Mapping[str, Any], known: Any, place: str, what: str, hint: str = ""
) -> None:
    for key in table:
        if key not in known:
            raise ValueError(
                f"{place}: unknown key {key!r}{_suggest(key, known)}; {what} takes "
                f"{', '.join(known)}{f' ({hint})' if hint else ''}."
            )


def _suggest(given: str, known: Any) -> str:
    close = difflib.get_close_matches(given, list(known), 1)
    return f", did you mean {close[0]!r}?" if close else ""


def _table(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} must be a table, got {value!r}.")
    return value


def _tables(tables: Mapping[str, Any], key: str, place: str) -> list[Any]:
    value = tables.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{place}: {key} must be an array of tables, [[{key}]].")
    return value
