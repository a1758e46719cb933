"""From any graph to the symmetric non-negative one that diffusion needs."""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Real

from neurofield.recording import Graph, SparseGraph

# A graph's weights `[post, pre]`, bare or with labels.
GraphLike = Graph | Real[Array, "node node"] | Real[np.ndarray, "node node"]


def weights_of(graph: GraphLike) -> Float[Array, "node node"]:
    """The matrix of weights. Raises `ValueError` if it is not square."""
    weights = graph.weights if isinstance(graph, Graph) else graph
    if not isinstance(weights, jax.Array):
        weights = jnp.asarray(np.asarray(weights))
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
        raise ValueError(f"weights must be square, [post, pre], got shape {weights.shape}.")
    # Whole numbers would cut off what is made of them.
    whole = not jnp.issubdtype(weights.dtype, jnp.inexact)
    return weights.astype(jnp.result_type(float)) if whole else weights


@overload
def diffusion_weights(graph: GraphLike) -> Float[Array, "node node"]: ...
@overload
def diffusion_weights(graph: SparseGraph) -> SparseGraph: ...
def diffusion_weights(
    graph: GraphLike | SparseGraph,
) -> Float[Array, "node node"] | SparseGraph:
    """max((A + A^T) / 2, 0) without its diagonal: what can carry a diffusion between nodes.

    A matrix, or for a SparseGraph one with both directions of every edge. Directions are averaged;
    a pair whose mean weight is negative is not connected. Laplacians of kind "signed", "magnetic"
    and "walk" keep what this drops.
    """
    if isinstance(graph, SparseGraph):
        low, high, weights, _ = pairs_of(graph)
        mean = jnp.maximum(jnp.sum(weights, axis=0) / 2, 0)
        pre, post = np.r_[low, high], np.r_[high, low]
        both = jnp.concatenate([mean, mean])
        return SparseGraph(pre, post, both, graph.num_nodes, labels=graph.labels)
    weights = weights_of(graph)
    symmetric = jnp.maximum((weights + weights.T) / 2, 0)
    return symmetric - jnp.diag(jnp.diag(symmetric))


def pairs_of(
    graph: SparseGraph,
) -> tuple[
    Int[np.ndarray, " pair"],
    Int[np.ndarray, " pair"],
    Float[Array, "2 pair"],
    Float[Array, " node"],
]:
    """Pairs low < high of nodes that edges link, weights[low, high] and weights[high, low], loops.

    The edges are looked at on the host; the weights may be traced.
    """
    if isinstance(graph.pre, Tracer) or isinstance(graph.post, Tracer):
        raise ValueError(
            "the edges of a SparseGraph must be known here: call this outside jit, or close over "
            "the graph and trace its weights alone."
        )
    post, pre = np.asarray(graph.post, np.int64), np.asarray(graph.pre, np.int64)
    loop, kept = np.flatnonzero(post == pre), np.flatnonzero(post != pre)
    zero = jnp.zeros((), graph.weights.dtype)
    loops = jnp.full(graph.num_nodes, zero).at[post[loop]].add(graph.weights[loop])
    post, pre = post[kept], pre[kept]
    code = np.minimum(post, pre) * graph.num_nodes + np.maximum(post, pre)
    found, pair = np.unique(code, return_inverse=True)
    low, high = np.divmod(found, graph.num_nodes)
    weights = jnp.full((2, len(found)), zero)
    weights = weights.at[(post > pre).astype(int), pair].add(graph.weights[kept])
    return low.astype(np.int32), high.astype(np.int32), weights, loops
