"""Counts of synthetic recordings: what a raster's 8 bits hold, or an error."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ._realise import is_traced


def as_bits(counts: Float[Array, "..."]) -> tuple[UInt8[Array, "..."], Float[Array, ""]]:
    """The counts as uint8, and the largest, by which `checked_counts` knows if they fitted."""
    return counts.astype(jnp.uint8), jnp.max(counts)


def checked_counts(counts: UInt8[Array, "..."], most: Float[Array, "..."]) -> Array:
    """`counts`, or `ValueError` where the largest is above 255 or NaN (as of a negative rate)."""
    message = (
        "a unit has more than 255 spikes in a bin, or a rate that is negative or not finite: use "
        "smaller rates or a smaller bin_width."
    )
    failed = ~(jnp.max(most) <= 255)
    if is_traced(failed):
        return eqx.error_if(counts, failed, message)
    if bool(failed):
        raise ValueError(message)
    return counts
