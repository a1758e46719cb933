"""Poisson counts of small means: one random word a draw, compared with the survival function."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._neuron import Shape, as_parameter

# P(count > 24) = 2e-12 at a mean of 4: below the 2^-33 that a word of 32 bits tells from zero.
_TERMS = 24
_LARGEST_MEAN = 4.0
_LARGEST = 1e6


def poisson_counts(
    key: PRNGKeyArray, mean: ArrayLike, shape: Shape | None = None
) -> Float[Array, "..."]:
    """Numbers of events with the given means, `[...]` whole numbers in the dtype of `mean`.

    `shape`: of the counts, where `mean` is one number. Larger means are drawn as sums of counts of
    means below 4, so that the cost grows with the largest. Probabilities are right to 2^-33 and to
    the rounding of the dtype: a mean below 2^-33 never fires. NaN where a mean is negative, not
    finite or above 1e6. Differentiating by `mean` raises `TypeError`.
    """
    mean = as_parameter(mean)
    shape = mean.shape if shape is None else shape
    if mean.ndim and mean.shape != shape:
        raise ValueError(f"shape must be that of mean, {mean.shape}, or mean a scalar; got {shape}")
    constant = jax.lax.stop_gradient(mean)
    valid = (constant >= 0) & (constant <= _LARGEST)
    safe = jnp.where(valid, constant, 0)
    largest = jnp.max(safe, initial=0)
    counts = jax.lax.cond(
        largest > _LARGEST_MEAN,
        lambda: _many(key, safe, largest, shape),
        lambda: _few(key, safe, shape),
    )
    return _refusing(jnp.where(valid, counts, jnp.nan).astype(mean.dtype), mean)


def _few(key: PRNGKeyArray, mean: Array, shape: Shape) -> Array:
    """Counts of means up to 4: how many k >= 1 have u < P(count >= k)."""
    # Half a unit keeps u above zero, where it would lie below every P(count >= k).
    bits = jax.random.bits(key, shape, jnp.uint32)
    u = bits.astype(mean.dtype) * 2.0**-32 + 2.0**-33
    terms = [jnp.exp(-mean)]
    for k in range(1, _TERMS + 1):
        terms.append(terms[-1] * mean * (1 / k))
    # Summed from the rarest: a difference from 1 would lose P(count >= k) of small means.
    survival, counts = jnp.zeros_like(mean), jnp.zeros(shape, mean.dtype)
    for term in terms[:0:-1]:
        survival = survival + term
        counts = counts + (u < survival).astype(mean.dtype)
    return counts


def _many(key: PRNGKeyArray, mean: Array, largest: Array, shape: Shape) -> Array:
    rounds = jnp.ceil(largest / _LARGEST_MEAN).astype(jnp.int32)
    part = mean / rounds.astype(mean.dtype)

    def add(i: Array, counts: Array) -> Array:
        return counts + _few(jax.random.fold_in(key, i), part, shape)

    return jax.lax.fori_loop(0, rounds, add, jnp.zeros(shape, mean.dtype))


@jax.custom_jvp
def _refusing(counts: Array, mean: Array) -> Array:
    """`counts`, whose derivative by `mean` raises."""
    return counts


def _refusing_jvp(primals, tangents):
    counts, _ = primals
    dcounts, dmean = tangents
    if not isinstance(dmean, jax.custom_derivatives.SymbolicZero):
        raise TypeError(
            "A Poisson count has no derivative by its mean. Hold the rate constant, or replace the "
            "source by its mean and a WhiteNoise of its variance."
        )
    del dcounts  # of a random number
    return counts, jnp.zeros_like(counts)


_refusing.defjvp(_refusing_jvp, symbolic_zeros=True)
