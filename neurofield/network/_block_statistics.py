"""What mean-field theory takes from a block of connections: three numbers."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


class BlockStatistics(eqx.Module):
    """Mean and variances of the weights `J[post, pre]` of one block.

    - `mean`: mean over targets of the sum of their weights, sum_j J_ij.
    - `vQ`: sum over sources j of the variance over targets of J_ij.
    - `vM`: `vQ` less the variance over targets of the sum of their weights.

    If the sources transmit x_j, independently and with means M and second moments Q, the sum
    sum_j J_ij x_j has the variance vQ Q - vM M^2 over targets. Variances over targets divide by
    their number less one, so that those of a drawn matrix are unbiased; those of an ensemble are
    the expectations of these, for the number of targets at hand. They hold any difference between
    targets: of the drawn weights, and of what is expected of them.
    """

    mean: Float[Array, "..."]
    vQ: Float[Array, "..."]
    vM: Float[Array, "..."]


def realised_statistics(weights: Float[Array, "post pre"]) -> BlockStatistics:
    """Of a drawn matrix. Raises `ValueError` for fewer than two targets."""
    if weights.shape[0] < 2:
        raise ValueError(f"a variance over targets needs two of them, got {weights.shape[0]}.")
    sums = weights.sum(1)
    vQ = jnp.var(weights, axis=0, ddof=1).sum()
    return BlockStatistics(sums.mean(), vQ, vQ - jnp.var(sums, ddof=1))


def exchangeable_statistics(
    mean: Array,
    variance: Array,
    num_pre: int,
    *,
    autapses: bool,
    sum_variance: Array | None = None,
) -> BlockStatistics:
    """Of weights that are all alike: `mean` and `variance` of one between two different neurons.

    `sum_variance`: the variance of a target's sum, by default that of independent weights.
    """
    num_sources = num_pre if autapses else num_pre - 1
    own = jnp.zeros_like(mean) if autapses else mean**2  # of the one target without the weight
    vQ = num_sources * variance + own
    total = num_sources * variance if sum_variance is None else sum_variance
    return BlockStatistics(num_sources * mean, vQ, vQ - total)


def independent_statistics(
    moments_fn: Callable[[Int[Array, ""]], tuple[Float[Array, " pre"], Float[Array, " pre"]]],
    num_post: int,
) -> BlockStatistics:
    """Of independent weights of any means and variances, `moments_fn(post)`, row by row."""
    targets = jnp.arange(num_post)
    shape, _ = jax.eval_shape(moments_fn, targets[0])
    zero = jnp.zeros((), shape.dtype)

    def add(carry, post):
        column, within = carry
        mean, variance = moments_fn(post)
        return (column + mean, within + variance.sum()), mean.sum()

    start = (jnp.zeros(shape.shape, shape.dtype), zero)
    (column, within), sums = lax.scan(add, start, targets)
    column, within, mean = column / num_post, within / num_post, sums.mean()

    def spread(total, post):
        return total + jnp.sum((moments_fn(post)[0] - column) ** 2), None

    between, _ = lax.scan(spread, zero, targets)
    degrees = max(num_post - 1, 1)  # one target differs from no other: both spreads are zero
    between, of_sums = between / degrees, jnp.sum((sums - mean) ** 2) / degrees
    return BlockStatistics(mean, within + between, between - of_sums)
