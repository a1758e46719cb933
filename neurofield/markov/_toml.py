"""Markov networks written down as TOML: their parameters, and what is asked of them."""

import inspect
import os
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import jax.numpy as jnp
import numpy as np

from neurofield._toml import as_numbers, as_table, call, check_keys, read_tables, ready_files

from ._continuation import continuation
from ._cycle_continuation import cycle_continuation
from ._free import free_values, with_values
from ._parameters import Parameters, default_parameters
from ._peaks import peak_diagram
from ._readout import whole_bins
from ._solve import solve

_FOLDER = resources.files("neurofield.markov") / "configs"
TASKS = ("solve", "sweep", "bifurcation")
_COMMAND = ("description", "task", "seed", "device", "x64")
# Functions and arrays that TOML has not, what the tables give otherwise, and gradients' concerns.
_NOT_IN_TOML = ("params", "key", "drive_factor", "adjoint", "solver", "controller", "throw", "vary")
_SHARED = ("closure", "num_nodes", "voltage_bin", "lowest")
_AXIS = ("parameter", "values", "start", "stop", "num")


def ready_configs() -> tuple[str, ...]:
    """Names of the configurations that ship with the package."""
    return ready_files(_FOLDER)


def read_config(config: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a TOML file, or of a ready configuration by its bare name.

    Raises `FileNotFoundError` listing the ready ones, `ValueError` for a file that is not TOML.
    """
    return read_tables(config, _FOLDER)


def from_config(
    config: str | os.PathLike[str] | Mapping[str, Any], *, name: str | None = None
) -> tuple[Parameters, dict[str, dict[str, Any]]]:
    """Parameters and the arguments of what a TOML file asks for, by task.

    `config` is a path, the name of a ready configuration (`ready_configs`), or tables already read:

        params, tasks = markov.from_config("gamma")
        solution = markov.solve(params, **tasks["solve"])
        branch = markov.continuation(**tasks["bifurcation"]["equilibria"])

    - `[parameters]`: `regime`, of `default_parameters`, and over it the arguments of `Parameters`,
      and single entries by quoted names, post first: `"probability[E,I]" = 0.7`.
    - `[solve]`: arguments of `solve`. `discard`, the seconds that readouts leave out, is for the
      command line and left out of what is returned.
    - `[sweep]`: a `parameter` (a name of an entry, or ones tied by `&`) with `values`, or `start`,
      `stop` and `num`; `second`, a table of the same for a map; other keys are those of `[solve]`
      and win over it. Returned are `axes`, values by name, `vary`, from one number an axis to
      `Parameters`, and `solve`.
    - `[bifurcation]`: `parameter`, `span`, and arguments of `continuation`; `cycles` and `peaks`,
      each `true` or a table of arguments of `cycle_continuation` and of `peak_diagram`, whose
      values are by default 31 in the span. Returned are `parameter` and the arguments of each:
      `equilibria`, `cycles`, `peaks`.
    - At the top, `task` chooses among the tables by name (by default all that there are); `seed`,
      `device` and `x64` are for the command line.

    Raises `ValueError` naming the file (`name`, where tables are given), the table and the key, and
    the keys that are known.
    """
    if isinstance(config, Mapping):
        tables, place = config, name or "config"
    else:
        tables, place = read_config(config), name or str(config)
    check_keys(tables, (*_COMMAND, "parameters", *TASKS), place, "a file of a Markov network")
    params = _parameters(tables.get("parameters", {}), f"{place} [parameters]")
    tasks = tables.get("task", [task for task in TASKS if task in tables])
    tasks = tasks if isinstance(tasks, list) else [tasks]
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"{place}: task must be of {', '.join(TASKS)}; got {task!r}.")
    own = {t: dict(as_table(tables.get(t, {}), f"{place} [{t}]")) for t in TASKS}
    makers: dict[str, Callable[[str], dict[str, Any]]] = {
        "solve": lambda at: _solve(own["solve"], at),
        "sweep": lambda at: _sweep(own["sweep"], own["solve"], params, at),
        "bifurcation": lambda at: _bifurcation(own["bifurcation"], params, at),
    }
    asked = [task for task in TASKS if task in tasks or task in tables]
    found = {task: makers[task](f"{place} [{task}]") for task in asked}
    return params, {task: found[task] for task in tasks}


# --- parameters -----------------------------------------------------------------------------------


def _parameters(table: Any, place: str) -> Parameters:
    table = dict(as_table(table, place))
    fields = [key for key in inspect.signature(Parameters).parameters if key != "self"]
    entries = {k: table.pop(k) for k in list(table) if "[" in k or "&" in k}
    hint = 'and single entries in quotes, such as "probability[E,I]"'
    check_keys(table, ("regime", *fields), place, "Parameters", hint)
    given = {k: _value(v, f"{place} {k}") for k, v in table.items() if k != "regime"}
    if "regime" in table:
        base = call(default_parameters, {"regime": table["regime"]}, f"{place} regime")
        own = {key: getattr(base, key) for key in fields}
        if "drive" in given:
            del own["drive_variance"]  # which follows the drive
        given = own | given
    params = call(Parameters, given, place)
    for name, value in entries.items():
        if not _is_number(value):
            raise ValueError(f"{place} {name!r}: expected a number, got {value!r}.")
        try:
            params = with_values(params, {name: jnp.asarray(float(value))})
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return _checked(params, place)


def _value(value: Any, place: str) -> Any:
    """Numbers in lists are arrays; names and signs stay lists."""
    if isinstance(value, list) and not all(isinstance(x, str | bool) for x in value):
        return as_numbers(value, place)
    if isinstance(value, list | float | int) and value != []:
        return value
    raise ValueError(f"{place}: expected a number or rows of numbers, got {value!r}.")


def _checked(params: Parameters, place: str) -> Parameters:
    fields = [key for key in inspect.signature(Parameters).parameters if key != "self"]
    return call(Parameters, {key: getattr(params, key) for key in fields}, place)


def _vary(params: Parameters, names: list[str], place: str) -> Callable[..., Parameters]:
    try:
        free_values(params, names)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error

    def vary(*values: Any) -> Parameters:
        pairs = zip(names, values, strict=True)
        return with_values(params, {name: jnp.asarray(value) for name, value in pairs})

    return vary


# --- tasks ----------------------------------------------------------------------------------------


def _solve(table: dict[str, Any], place: str) -> dict[str, Any]:
    own = _arguments(solve, {k: v for k, v in table.items() if k != "discard"}, place, ["discard"])
    if "duration" not in own:
        raise ValueError(f"{place}: duration must be given, in seconds.")
    seconds = {"discard": table.get("discard", 0.0)}
    seconds |= {key: own[key] for key in ("duration", "save_dt", "dt") if key in own}
    for key, value in seconds.items():
        if not _is_number(value):
            raise ValueError(f"{place}: {key} must be a number of seconds, got {value!r}.")
        if key in own:
            own[key] = float(value)
    discard = float(seconds["discard"])
    step = own.get("save_dt", inspect.signature(solve).parameters["save_dt"].default)
    if not 0 <= discard < own["duration"]:
        raise ValueError(
            f"{place}: discard = {discard} s must be less than duration = {own['duration']} s, and "
            "not negative."
        )
    if step > 0:  # else solve says so
        call(whole_bins, {"what": "discard", "value": discard, "step": step}, place)
    return own


def _sweep(
    table: dict[str, Any], solving: dict[str, Any], params: Parameters, place: str
) -> dict[str, Any]:
    parts = [({k: table.pop(k) for k in _AXIS if k in table}, place)]
    if "second" in table:
        at = f"{place} second"
        second = as_table(table.pop("second"), at)
        check_keys(second, _AXIS, at, "an axis")
        parts.append((dict(second), at))
    for part, at in parts:
        if not isinstance(part.get("parameter"), str):
            raise ValueError(
                f'{at}: parameter must be given, the name of an entry such as "drive" or '
                f'"probability[E,I]"; got {part.get("parameter")!r}.'
            )
    axes = {part["parameter"]: _axis_values(part, at) for part, at in parts}
    if len(axes) < len(parts):
        raise ValueError(f"{place}: the two parameters of a map must differ.")
    vary = _vary(params, list(axes), place)
    for corner in (np.min, np.max):
        _checked(vary(*(corner(values) for values in axes.values())), place)
    return {"axes": axes, "vary": vary, "solve": _solve(solving | table, place)}


def _axis_values(part: dict[str, Any], place: str) -> np.ndarray:
    """`values`, or `num` numbers from `start` to `stop`."""
    ends = [part.get(key) for key in ("start", "stop")]
    num = part.get("num")
    if "values" in part:
        values = as_numbers(part["values"], f"{place} values")
        if values.ndim != 1 or not values.size or not np.all(np.isfinite(values)):
            raise ValueError(f"{place}: values must be a list of numbers, got {part['values']!r}.")
        if set(part) & {"start", "stop", "num"}:
            raise ValueError(f"{place}: give values, or start, stop and num, not both.")
        return values
    if not all(map(_is_number, ends)) or type(num) is not int or num < 1:
        raise ValueError(
            f"{place}: give values, a list of numbers, or the numbers start, stop and num; got "
            f"{ {key: value for key, value in part.items() if key != 'parameter'} }."
        )
    return np.linspace(float(part["start"]), float(part["stop"]), num)


def _bifurcation(table: dict[str, Any], params: Parameters, place: str) -> dict[str, Any]:
    name = table.pop("parameter", None)
    if not isinstance(name, str):
        raise ValueError(
            f'{place}: parameter must be given, the name of an entry such as "probability[E,I]"; '
            f"got {name!r}."
        )
    vary = _vary(params, [name], place)
    span = _span(table.pop("span", None), vary, place)
    parts = {key: table.pop(key, False) for key in ("cycles", "peaks")}
    known = ["parameter", "span", "cycles", "peaks"]
    equilibria = _arguments(continuation, table, place, known)
    found: dict[str, Any] = {
        "parameter": name,
        "equilibria": {"vary": vary, "span": span} | equilibria,
    }
    shared = {key: table[key] for key in _SHARED if key in table}
    for key, part in parts.items():
        at = f"{place} {key}"
        if isinstance(part, bool):
            part = {} if part else None
        if part is None:
            continue
        own = shared | dict(as_table(part, at))
        if key == "cycles":
            own["span"] = _span(own.pop("span", list(span)), vary, at)
            found[key] = {"vary": vary} | _arguments(cycle_continuation, own, at, [])
            continue
        axis = {k: own.pop(k) for k in _AXIS[1:] if k in own}
        if "values" not in axis:
            axis = {"start": span[0], "stop": span[1], "num": 31} | axis
        known = [k for k in inspect.signature(solve).parameters if k != "duration"]
        own = _arguments(peak_diagram, own, at, [*known, "start", "stop", "num"])
        found[key] = {"vary": vary, "values": _axis_values(axis, at)} | own
    return found


def _span(value: Any, vary: Callable[..., Parameters], place: str) -> tuple[float, float]:
    span = as_numbers(value, f"{place} span") if isinstance(value, list) else np.zeros(0)
    if span.shape != (2,) or not np.all(np.isfinite(span)) or span[0] == span[1]:
        raise ValueError(f"{place}: span must be two different numbers, got {value!r}.")
    for end in span:
        _checked(vary(end), place)
    return float(span[0]), float(span[1])


def _arguments(
    fn: Callable[..., Any], table: dict[str, Any], place: str, others: list[str]
) -> dict[str, Any]:
    """The arguments of a function in a table that may also hold other keys."""
    parameters = inspect.signature(fn).parameters
    known = [k for k, p in parameters.items() if p.kind != p.VAR_KEYWORD]
    known = [k for k in (*known, *others) if k not in _NOT_IN_TOML]
    check_keys(table, dict.fromkeys(known), place, fn.__name__)
    return {
        key: as_numbers(value, f"{place} {key}") if isinstance(value, list) else value
        for key, value in table.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
