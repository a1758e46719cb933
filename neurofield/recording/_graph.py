"""Graph: who acts on whom."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from neurofield._types import Arrayish


class Graph(eqx.Module):
    """A weighted directed graph: a connectome, or couplings inferred from data.

    **Attributes**

    - `weights`: `[post, pre]`: `weights[i, j]` is the effect of node j on node i.
    - `labels`: one name a node (static).
    """

    weights: Float[Array, "node node"]
    labels: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, weights: ArrayLike, *, labels: Sequence[str] | None = None):
        """Raises `ValueError` for a matrix that is not square, NaN, and labels that do not fit."""
        weights = finite_reals(weights)
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise ValueError(f"weights must be square, [post, pre], got shape {weights.shape}.")
        self.weights = jnp.asarray(weights)
        num_nodes = len(weights)
        self.labels = tuple(map(str, range(num_nodes) if labels is None else labels))
        if len(self.labels) != num_nodes or len(set(self.labels)) != num_nodes:
            raise ValueError(
                f"expected {num_nodes} different labels, one a node, got {len(self.labels)}, "
                f"{len(set(self.labels))} of them different."
            )

    @classmethod
    def from_edges(
        cls,
        pre: ArrayLike | Sequence[int],
        post: ArrayLike | Sequence[int],
        weight: ArrayLike | Sequence[float],
        *,
        num_nodes: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> "Graph":
        """The graph of an edge list: edge e leads from `pre[e]` to `post[e]`, indices of nodes.

        The weights of edges that occur more than once add up. Raises `ValueError` for lists of
        unequal length and indices outside the graph.
        """
        pre, post, weight = np.asarray(pre), np.asarray(post), np.asarray(weight, float)
        if not (pre.ndim == 1 and pre.shape == post.shape == weight.shape):
            raise ValueError(
                "pre, post and weight must have one entry an edge, got shapes "
                f"{pre.shape}, {post.shape} and {weight.shape}."
            )
        if pre.size and not (pre.dtype.kind in "iu" and post.dtype.kind in "iu"):
            raise ValueError("pre and post must be indices (whole numbers) of nodes.")
        ends = np.concatenate([pre, post]).astype(int)
        if num_nodes is None:
            num_nodes = len(labels) if labels is not None else int(ends.max(initial=-1)) + 1
        if ends.size and not (ends.min() >= 0 and ends.max() < num_nodes):
            raise ValueError(
                f"edges name nodes {ends.min()} to {ends.max()}, the graph has 0 to "
                f"{num_nodes - 1}."
            )
        weights = np.zeros((num_nodes, num_nodes))
        np.add.at(weights, (post.astype(int), pre.astype(int)), weight)
        return cls(weights, labels=labels)

    @property
    def num_nodes(self) -> int:
        return self.weights.shape[-1]


def finite_reals(weights: Arrayish) -> np.ndarray | jax.Array:
    """Weights as floating numbers. Raises `ValueError` for others; JAX's arrays pass."""
    if isinstance(weights, jax.Array):
        return weights
    weights = np.asarray(weights)
    if weights.dtype.kind not in "buif" or not np.isfinite(weights).all():
        raise ValueError("weights must be finite real numbers.")
    return weights if weights.dtype.kind == "f" else weights.astype(float)
