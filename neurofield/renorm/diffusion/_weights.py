"""From any graph to the symmetric non-negative one that diffusion needs."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield.recording import Graph

# A graph's weights `[post, pre]`, bare or with labels.
GraphLike = Graph | Float[Array, "node node"] | Float[np.ndarray, "node node"]


def weights_of(graph: GraphLike) -> Float[Array, "node node"]:
    """The matrix of weights. Raises `ValueError` if it is not square."""
    weights = graph.weights if isinstance(graph, Graph) else graph
    if not isinstance(weights, jax.Array):
        weights = jnp.asarray(np.asarray(weights))
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
        raise ValueError(f"weights must be square, [post, pre], got shape {weights.shape}.")
    return weights


def diffusion_weights(graph: GraphLike) -> Float[Array, "node node"]:
    """max((A + A^T) / 2, 0) without its diagonal: what can carry a diffusion between nodes.

    Directions are averaged; a pair whose mean weight is negative is not connected. Laplacians of
    kind "signed", "magnetic" and "walk" keep what this drops.
    """
    weights = weights_of(graph)
    symmetric = jnp.maximum((weights + weights.T) / 2, 0)
    return symmetric - jnp.diag(jnp.diag(symmetric))
