"""SparseGraph: who acts on whom, edge by edge, where a matrix would not fit."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neurofield._types import Arrayish

from ._graph import Graph, finite_reals


class SparseGraph(eqx.Module):
    """A weighted directed graph as a list of edges: edge e leads from `pre[e]` to `post[e]`.

    **Attributes**

    - `pre`, `post`: `[edge]`, int32, indices of nodes.
    - `weights`: `[edge]`; those of edges that occur more than once add up.
    - `num_nodes`: static.
    - `labels`: one name a node, or `None` for their numbers (static).
    """

    pre: Int[Array, " edge"]
    post: Int[Array, " edge"]
    weights: Float[Array, " edge"]
    num_nodes: int = eqx.field(static=True)
    labels: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        pre: Arrayish,
        post: Arrayish,
        weights: Arrayish,
        num_nodes: int,
        *,
        labels: Sequence[str] | None = None,
    ):
        """Raises `ValueError` for lists of unequal length, NaN, and indices outside the graph."""
        ends = []
        for name, nodes in (("pre", pre), ("post", post)):
            if not isinstance(nodes, jax.Array):
                nodes = np.asarray(nodes)
                if nodes.size and nodes.dtype.kind not in "iu":
                    raise ValueError(f"{name} must be indices (whole numbers) of nodes.")
                if nodes.size and not (nodes.min() >= 0 and nodes.max() < num_nodes):
                    raise ValueError(
                        f"{name} names nodes {nodes.min()} to {nodes.max()}, the graph has 0 to "
                        f"{num_nodes - 1}."
                    )
            ends.append(jnp.asarray(nodes, jnp.int32))
        self.weights = jnp.asarray(finite_reals(weights))
        self.pre, self.post = ends
        if not (self.pre.ndim == 1 and self.pre.shape == self.post.shape == self.weights.shape):
            raise ValueError(
                "pre, post and weights must have one entry an edge, got shapes "
                f"{self.pre.shape}, {self.post.shape} and {self.weights.shape}."
            )
        self.num_nodes = int(num_nodes)
        self.labels = None if labels is None else tuple(map(str, labels))
        if self.labels is not None and len(self.labels) != self.num_nodes:
            raise ValueError(f"expected {num_nodes} labels, got {len(self.labels)}.")

    @classmethod
    def from_scipy(cls, matrix: Any, *, labels: Sequence[str] | None = None) -> "SparseGraph":
        """The graph of a scipy.sparse matrix `[post, pre]`."""
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"weights must be square, [post, pre], got shape {matrix.shape}.")
        edges = matrix.tocoo()
        return cls(edges.col, edges.row, edges.data, matrix.shape[0], labels=labels)

    def to_scipy(self) -> Any:
        """The weights as a `scipy.sparse.csr_array` `[post, pre]` (host only)."""
        from scipy.sparse import csr_array

        ends = (np.asarray(self.post), np.asarray(self.pre))
        return csr_array((np.asarray(self.weights), ends), shape=(self.num_nodes,) * 2)

    def to_dense(self) -> Graph:
        """The same graph as a matrix of weights."""
        zeros = jnp.zeros((self.num_nodes,) * 2, self.weights.dtype)
        return Graph(zeros.at[self.post, self.pre].add(self.weights), labels=self.labels)
