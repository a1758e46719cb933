"""Mean-field calculations written down as TOML: a network's file with tables of its own."""

import inspect
import os
from collections.abc import Mapping
from importlib import resources
from typing import Any

from neurofield import network
from neurofield._toml import as_table, check_keys, read_tables, ready_files, suggest
from neurofield.network import Network

from ._check import check
from ._solve import solve

_FOLDER = resources.files("neurofield.meanfield") / "configs"
_TABLES = ("meanfield", "check")
_COMMAND = ("seed", "device", "x64")
# Of a configuration of a network alone: seconds solved for, at most.
_LONGEST = 1.0


def ready_configs() -> tuple[str, ...]:
    """Names of the configurations that ship with the package, those of networks included."""
    return tuple(sorted({*ready_files(_FOLDER), *network.ready_configs()}))


def read_config(config: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a TOML file, or of a ready configuration by its bare name.

    Raises `FileNotFoundError` listing the ready ones, `ValueError` for a file that is not TOML.
    """
    if str(config) in ready_files(_FOLDER):
        return read_tables(config, _FOLDER)
    try:
        return network.read_config(config)
    except FileNotFoundError as error:
        ready = ready_configs()
        raise FileNotFoundError(
            f"{config} is neither a file nor a ready configuration{suggest(str(config), ready)}; "
            f"ready are {', '.join(ready)}."
        ) from error


def from_config(
    config: str | os.PathLike[str] | Mapping[str, Any], *, name: str | None = None
) -> tuple[Network, dict[str, dict[str, Any]]]:
    """A network, and what is to be done with it, from TOML.

    A network's file (`network.from_config`) with the tables

    - `[meanfield]`: arguments of `solve`; `seed`, `device` and `x64` are for the command line and
      left out. By default the network's `dt`, and its duration up to one second.
    - `[check]`: arguments of `check`; where there is one, simulations are asked for.

        net, tasks = from_config("escape_ei")
        solution = solve(net, **tasks["meanfield"], key=key)

    Raises `ValueError` naming the file (`name`, where tables are given), the table and the key, and
    the keys that are known.
    """
    if isinstance(config, Mapping):
        tables, place = dict(config), name or "config"
    else:
        tables, place = read_config(config), name or str(config)
    own = dict(as_table(tables.pop("meanfield", {}), f"{place} [meanfield]"))
    wanted = tables.pop("check", None)
    times = {key: own[key] for key in ("duration", "dt") if key in own}
    simulation = as_table(tables.get("simulation", {}), f"{place} [simulation]")
    net, settings = network.from_config(
        tables | {"simulation": {**times, **simulation}}, name=place
    )
    check_keys(own, (*_arguments(solve), *_COMMAND), f"{place} [meanfield]", "solve")
    tasks = {"meanfield": {key: x for key, x in own.items() if key not in _COMMAND}}
    tasks["meanfield"].setdefault("dt", settings["dt"])
    tasks["meanfield"].setdefault("duration", min(settings["duration"], _LONGEST))
    if wanted is not None:
        tasks["check"] = dict(as_table(wanted, f"{place} [check]"))
        check_keys(tasks["check"], _arguments(check), f"{place} [check]", "check")
    return net, tasks


def _arguments(fn: Any) -> list[str]:
    no_settings = {"key", "network", "solution", "initial", "throw"}
    return [key for key in inspect.signature(fn).parameters if key not in no_settings]
