"""Pooled averages over many blocks, with the error that the spread of the blocks gives."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._arrays import all_valid, as_float


class Pooled(NamedTuple):
    """`total / weight` over all blocks; `error` is infinite with fewer than two filled blocks."""

    value: Array
    error: Array
    weight: Array


def pool(block_fn: Callable[[Array], tuple[Array, Array]], num_blocks: int) -> Pooled:
    """Sum `block_fn(index) -> (sums, weight)` over blocks, holding one block at a time.

    The error is that of a ratio of sums, to first order (the infinitesimal jackknife over
    blocks). `weight` has the rank of `sums`. Complex sums have the real error of their modulus.
    """
    sums_shape, weight_shape = jax.eval_shape(block_fn, jnp.int32(0))
    sums = jnp.zeros(sums_shape.shape, sums_shape.dtype)
    weights = jnp.zeros(weight_shape.shape, weight_shape.dtype)

    def add(carry, index):
        total, cross, square, weight, weight_square, filled = carry
        part, size = block_fn(index)
        square_part = jnp.real(part) ** 2 + jnp.imag(part) ** 2
        return (
            total + part,
            cross + part * size.astype(part.dtype),
            square + square_part,
            weight + size,
            weight_square + size**2,
            filled + (size > 0).astype(size.dtype),
        ), None

    start = (sums, sums, jnp.real(sums), weights, weights, weights)
    (total, cross, square, weight, weight_square, filled), _ = jax.lax.scan(
        add, start, jnp.arange(num_blocks, dtype=jnp.int32)
    )
    safe = jnp.where(weight > 0, weight, 1)
    value = total / safe.astype(total.dtype)
    modulus = jnp.real(value) ** 2 + jnp.imag(value) ** 2
    spread = square - 2 * jnp.real(jnp.conj(value) * cross) + modulus * weight_square
    freedom = filled / jnp.maximum(filled - 1, 1)
    error = jnp.sqrt(freedom * jnp.maximum(spread, 0)) / safe
    return Pooled(value, jnp.where(filled > 1, error, jnp.inf), weight)


def flatten(
    x: Array, mask: Array | None
) -> tuple[Float[Array, "epoch K time"], Bool[Array, "epoch time"]]:
    """Leading axes as one, and a mask in any case."""
    if x.ndim < 2:
        raise ValueError(f"expected an array [..., neuron, time], got shape {x.shape}.")
    batch = x.shape[:-2]
    expected = (*batch, x.shape[-1])
    if mask is not None and mask.shape != expected:
        raise ValueError(f"mask must be [..., time] = {expected}, got {mask.shape}.")
    epochs = math.prod(batch)
    x = as_float(x).reshape(epochs, *x.shape[-2:])
    valid = all_valid(*expected) if mask is None else jnp.asarray(mask, bool)
    return x, valid.reshape(epochs, x.shape[-1])
