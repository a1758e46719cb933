"""Directed and undirected scores of pairs of neurons, from their lagged correlations."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import matmul
from neurofield._types import RealScalar


def var_graph(
    correlation: Float[Array, "neuron neuron"],
    lagged: Float[Array, "neuron neuron"],
    shrink: RealScalar = 0.02,
) -> Float[Array, "neuron neuron"]:
    """A = C_1 ((1 - e) C_0 + e I)^-1 `[post, pre]`: coefficients of a first-order autoregression.

    `correlation` is C_0, `lagged` C_1, `shrink` e. Rows and columns of neurons whose C_0 is 0
    (silent ones) are 0; NaN if the shrunk C_0 is not positive definite.
    """
    factor = jnp.linalg.cholesky(_shrunk(correlation, shrink))
    return jax.scipy.linalg.cho_solve((factor, True), lagged.T).T


def whitened_graph(
    correlation: Float[Array, "neuron neuron"],
    lagged: Float[Array, "neuron neuron"],
    shrink: RealScalar = 0.02,
) -> Float[Array, "neuron neuron"]:
    """A = K C_1 K `[post, pre]` with K = ((1 - e) C_0 + e I)^-1/2, arguments as in `var_graph`."""
    whiten = _inverse_root(_shrunk(correlation, shrink))
    active = jnp.diag(correlation) > 0
    # Eigenvectors leave a rounding error where there should be nothing.
    return jnp.where(active[:, None] & active[None], matmul(matmul(whiten, lagged), whiten), 0)


def partial_correlation(
    correlation: Float[Array, "neuron neuron"], shrink: RealScalar = 0.02
) -> Float[Array, "neuron neuron"]:
    """-P_ij / sqrt(P_ii P_jj) of the precision P = ((1 - e) C_0 + e I)^-1; diagonal 0.

    The correlation of two neurons given all others: symmetric, so it knows no direction.
    """
    factor = jnp.linalg.cholesky(_shrunk(correlation, shrink))
    eye = jnp.eye(len(correlation), dtype=correlation.dtype)
    precision = jax.scipy.linalg.cho_solve((factor, True), eye)
    root = jnp.sqrt(jnp.diag(precision))
    return eye - (precision + precision.T) / (2 * root[:, None] * root[None])


def _shrunk(correlation: Array, shrink: RealScalar) -> Array:
    shrink = jnp.asarray(shrink, correlation.dtype)
    silent = jnp.diag(correlation) <= 0
    return (1 - shrink) * correlation + jnp.diag(jnp.where(silent, 1, shrink))


@jax.custom_jvp
def _inverse_root(matrix: Array) -> Array:
    """A^-1/2; its derivative is regular where eigenvalues coincide (Daleckii and Krein)."""
    values, vectors = jnp.linalg.eigh(matrix)
    return matmul(vectors / jnp.sqrt(values)[None], vectors.T)


@_inverse_root.defjvp
def _inverse_root_jvp(primals, tangents):
    values, vectors = jnp.linalg.eigh(primals[0])
    root = jnp.sqrt(values)
    change = matmul(matmul(vectors.T, tangents[0]), vectors)
    # (a^-1/2 - b^-1/2) / (a - b) without the difference.
    slope = -1 / (root[:, None] * root[None] * (root[:, None] + root[None]))
    tangent = matmul(matmul(vectors, slope * change), vectors.T)
    return matmul(vectors / root[None], vectors.T), tangent
