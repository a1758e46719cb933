"""Refusals that work eagerly and under tracing alike."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool


def require(
    value: Array, holds: Callable[[Array], Bool[Array, "..."]], what: str, wanted: str
) -> Array:
    """`value` itself; `ValueError`, or under tracing an error at run time, where not all holds."""
    good = jnp.all(holds(value))
    message = f"{what} must be {wanted}."
    if isinstance(good, Tracer):
        return eqx.error_if(value, ~good, message)
    if not good:
        raise ValueError(message)
    return value


def is_hermitian(matrix: Array) -> Bool[Array, "row column"]:
    """Entry by entry, up to rounding."""
    tolerance = 1e3 * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(matrix), initial=0.0)
    return jnp.abs(matrix - matrix.conj().T) <= tolerance
