"""Which entries of the parameters are free, by name: single ones, and ones that are tied."""

import re
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield.fit import AbstractParameter, Interval, Real

from ._parameters import Parameters

Values = dict[str, Float[Array, ""]]
_ENTRY = re.compile(r"(\w+)(?:\[([^\]]*)\])?")
_FIELDS = (
    *("size", "probability", "charge", "tau", "drive", "drive_variance", "refractory_rate"),
    *("leak", "correlation_time", "inhibitory_reversal"),
)


class Logarithmic(AbstractParameter):
    """Numbers above 0: value = exp(free), so that a step is a factor whatever the unit."""

    @property
    def domain(self):
        return "finite numbers above 0"

    def forward(self, free):
        return jnp.exp(free)

    def inverse(self, value):
        return jnp.log(value)

    def contains(self, value):
        return jnp.all(jnp.isfinite(value) & (value > 0))

    def log_det_jacobian(self, free):
        return jnp.sum(free)


def free_values(params: Parameters, free: Sequence[str]) -> Values:
    """The values of the free entries, one number by name.

    A name is a field, or one with populations in the order [post, pre]; all entries that it names,
    and those that `&` joins, are one number: `"charge[E,I]"`, `"tau[:,I]"`, `"drive"`,
    `"drive & drive_variance"`. Raises `ValueError` for a name that means nothing, entries that are
    named twice, and tied entries that differ.
    """
    if isinstance(free, str) or not free:
        raise ValueError(f"free must be a list of one or more names, got {free!r}.")
    values: Values = {}
    taken: dict[tuple[str, tuple[int, ...]], str] = {}
    for name in free:
        found = []
        for field, index in _entries(params, name):
            array = getattr(params, field)
            found.append(jnp.ravel(array[index]))
            for entry in np.argwhere(_mask(array.shape, index)):
                key = (field, tuple(entry.tolist()))
                if key in taken:
                    raise ValueError(f"{field}{list(key[1])} is in {taken[key]!r} and in {name!r}.")
                taken[key] = name
        tied = jnp.concatenate(found)
        if not _equal(tied):
            raise ValueError(
                f"{name!r} is one number, but its entries are {np.asarray(tied).tolist()}: give "
                "them one value, or name them apart."
            )
        values[name] = tied[0]
    return values


def with_values(params: Parameters, values: Mapping[str, Float[Array, ""]]) -> Parameters:
    """The parameters with these values of free entries."""
    for name, value in values.items():
        for field, index in _entries(params, name):
            array = getattr(params, field)
            new = array.at[index].set(value.astype(array.dtype))
            params = eqx.tree_at(lambda p, field=field: getattr(p, field), params, new)
    return params


def parameter_types(
    free: Sequence[str], spec: Mapping[str, AbstractParameter] | None
) -> dict[str, AbstractParameter]:
    """The type of each free number: positive on a logarithmic scale, unless `spec` says else."""
    spec = dict(spec or {})
    unknown = sorted(set(spec) - set(free))
    if unknown:
        raise ValueError(f"spec has {unknown}, which are not in free = {list(free)}.")

    def usual(name: str) -> AbstractParameter:
        if "probability" in name:
            return Interval(0, 1)
        return Real() if "inhibitory_reversal" in name else Logarithmic()

    return {name: spec.get(name, usual(name)) for name in free}


def _entries(params: Parameters, name: str) -> list[tuple[str, tuple[int | slice, ...]]]:
    """The fields and indices of a name."""
    entries = []
    for part in name.split("&"):
        match = _ENTRY.fullmatch(part.strip())
        field, inside = match.groups() if match else (part.strip(), None)
        if field not in _FIELDS:
            raise ValueError(
                f"{name!r} names no entries of Parameters: a name is one of {', '.join(_FIELDS)}, "
                "or such as 'charge[E,I]' (post, pre), 'tau[:,I]', 'drive & drive_variance'."
            )
        rank = getattr(params, field).ndim
        index: tuple[int | slice, ...] = (slice(None),) * rank
        if inside is not None:
            parts = [x.strip() for x in inside.split(",")]
            wrong = [x for x in parts if x != ":" and x not in params.names]
            if wrong or len(parts) != rank:
                raise ValueError(
                    f"{name!r}: {field} takes {rank} of {', '.join(params.names)} or ':' in its "
                    f"brackets, got {parts}."
                )
            index = tuple(slice(None) if x == ":" else params.names.index(x) for x in parts)
        entries.append((field, index))
    return entries


def _mask(shape: tuple[int, ...], index: tuple[int | slice, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[index] = True
    return mask


def _equal(values: Array) -> bool:
    try:
        return bool(np.all(np.asarray(values) == np.asarray(values)[0]))
    except TypeError:  # traced values are not looked at
        return True
