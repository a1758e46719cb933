"""Checks of what constructors are given, made where the values are concrete."""

import numpy as np
from jax.core import Tracer
from jaxtyping import ArrayLike


def positive(what: str, value: ArrayLike) -> None:
    """Raises `ValueError` unless all of `value` is above 0 and finite; traced values pass."""
    _require(what, value, lambda x: x > 0, "positive")


def not_negative(what: str, value: ArrayLike) -> None:
    """Raises `ValueError` unless all of `value` is at least 0 and finite; traced values pass."""
    _require(what, value, lambda x: x >= 0, "not negative")


def finite(what: str, value: ArrayLike) -> None:
    """Raises `ValueError` unless all of `value` is finite; traced values pass."""
    _require(what, value, lambda x: x == x, "")


def _require(what, value, holds, wanted) -> None:
    if isinstance(value, Tracer):
        return
    array = np.asarray(value)
    if not (np.isfinite(array).all() and holds(array).all()):
        bad = array[~(np.isfinite(array) & holds(array))].ravel()[:5].tolist()
        wanted = f"finite and {wanted}" if wanted else "finite"
        raise ValueError(f"{what} must be {wanted}, got {bad}.")
