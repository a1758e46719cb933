"""Recursive bisection of a graph: a linear order of its nodes and a balanced binary tree."""

from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from neurofield.recording import SparseGraph

from ._weights import GraphLike, diffusion_weights

Tree: TypeAlias = "int | tuple[Any, Any]"

_DENSE = 600  # nodes up to which all eigenvectors are as cheap as two
_TIE = 1e-8  # relative: what rounding may move eigenvalues and entries by


class FiedlerTree(eqx.Module):
    """A balanced binary tree whose leaves are the nodes of a graph, and their order from left.

    **Attributes**

    - `order`: `[place]`, int32: the node at each place of the linear order.
    - `layers`: `[depth, node]`, int32: the block of each node, numbered from the left, from one
      block of all nodes to one of each, in ceil(log2 N) steps. A block of n nodes splits into
      ceil(n / 2) and floor(n / 2); one of a single node stays.
    """

    order: Int[Array, " node"]
    layers: Int[Array, "depth node"]

    @property
    def tree(self) -> Tree:
        """Nested pairs, with the nodes as leaves: `((2, 0), 1)`."""
        return _nested(np.asarray(self.order).tolist())


def fiedler_tree(graph: GraphLike | SparseGraph) -> FiedlerTree:
    """Bisect a graph recursively at the median of its Fiedler vector (host only).

    A block's nodes are sorted by the eigenvector of the second eigenvalue of its own Laplacian,
    of the symmetric non-negative weights between its nodes (`diffusion_weights`), and split in the
    middle. A block of several components is sorted component by component, the largest first, so
    that at most one of them is cut.

    The result does not depend on signs and bases of eigenvectors: where they are free (a sign, a
    degenerate eigenvalue) the vector is the one closest to the order that the block inherits, at
    the root that of the nodes' numbers. Nodes that tie keep their inherited order.

    Dense graphs take O(N^3); of a `SparseGraph`, of which no dense matrix is made but for blocks
    of at most 600 nodes, the factors of the Laplacian must fit into memory. Raises `ValueError`
    for a graph without nodes and weights that are not finite.
    """
    weights = _weights(graph)
    num_nodes = weights.shape[0]
    if num_nodes == 0:
        raise ValueError("a graph without nodes has no order.")
    blocks = [np.arange(num_nodes)]
    layers = [np.zeros(num_nodes, int)]
    while len(blocks) < num_nodes:
        halves = []
        for block in blocks:
            if len(block) == 1:
                halves.append(block)
                continue
            ordered = _sorted(weights, block)
            middle = (len(block) + 1) // 2
            halves += [ordered[:middle], ordered[middle:]]
        blocks = halves
        layer = np.empty(num_nodes, int)
        for index, block in enumerate(blocks):
            layer[block] = index
        layers.append(layer)
    order = np.concatenate(blocks)
    return FiedlerTree(jnp.asarray(order, jnp.int32), jnp.asarray(np.stack(layers), jnp.int32))


def _nested(nodes: list[int]) -> Tree:
    if len(nodes) == 1:
        return nodes[0]
    middle = (len(nodes) + 1) // 2
    return _nested(nodes[:middle]), _nested(nodes[middle:])


def _weights(graph: GraphLike | SparseGraph) -> Any:
    """Symmetric, non-negative and hollow, as a scipy.sparse matrix."""
    from scipy.sparse import csr_array, diags_array

    if isinstance(graph, SparseGraph):
        weights = graph.to_scipy().astype(float)
        weights = (weights + weights.T) / 2
        weights = weights.maximum(0) - diags_array(np.maximum(weights.diagonal(), 0))
        weights = csr_array(weights)
    else:
        weights = csr_array(np.asarray(diffusion_weights(graph), float))
    if not np.isfinite(weights.data).all():
        raise ValueError("weights must be finite.")
    weights.eliminate_zeros()
    return weights


def _sorted(weights: Any, block: np.ndarray) -> np.ndarray:
    """The nodes of a block along its Fiedler vector, component by component."""
    from scipy.sparse.csgraph import connected_components

    if len(block) == 2:
        return block
    part = weights[block][:, block]
    count, component = connected_components(part, directed=False)
    size = np.bincount(component)
    # Components are numbered by their first nodes; a stable sort keeps that order among equals.
    ordered = []
    for which in np.argsort(-size, kind="stable")[:count]:
        members = np.flatnonzero(component == which)
        vector = _fiedler(part[members][:, members]) if len(members) > 2 else np.zeros(len(members))
        step = _TIE * np.abs(vector).max(initial=0)
        rounded = np.round(vector / step) if step > 0 else vector
        ordered.append(members[np.argsort(rounded, kind="stable")])
    return block[np.concatenate(ordered)]


def _fiedler(weights: Any) -> np.ndarray:
    """The vector of the second eigenvalue that is closest to a ramp over the nodes."""
    num_nodes = weights.shape[0]
    degree = np.asarray(weights.sum(axis=1)).ravel()
    if num_nodes <= _DENSE or weights.nnz > 0.05 * num_nodes**2:
        from scipy.linalg import eigh

        matrix = np.diag(degree) - weights.toarray()
        if num_nodes <= _DENSE:
            values, vectors = np.linalg.eigh(matrix)
        else:
            values, vectors = eigh(matrix, subset_by_index=(0, 7))
    else:
        values, vectors = _lowest(weights, degree)
    # Above the constant vector, whose eigenvalue alone is 0 in a connected graph.
    level = values[1] + _TIE * degree.max()
    if len(values) < num_nodes and values[-1] <= level:
        values, vectors = np.linalg.eigh(np.diag(degree) - weights.toarray())
    space = vectors[:, 1 : max(2, int((values <= level).sum()))]
    ramp = np.arange(num_nodes) - (num_nodes - 1) / 2
    found = space @ (space.T @ (ramp / np.linalg.norm(ramp)))
    if np.linalg.norm(found) > 1e-6:
        return found
    # At right angles to the ramp: the first node that is not at 0 goes first.
    tall = np.linalg.norm(space, axis=1)
    first = int(np.argmax(tall > 1e-6 * tall.max()))
    return -space @ space[first]


def _lowest(weights: Any, degree: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight lowest eigenpairs, by Lanczos with the inverse of a slightly raised Laplacian."""
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import eigsh

    matrix = csc_array(diags_array(degree) - weights)
    start = np.cos(np.arange(len(degree)) * 0.7) + 1.1
    values, vectors = eigsh(matrix, 8, sigma=-1e-6 * degree.mean(), v0=start)
    rank = np.argsort(values)
    return values[rank], vectors[:, rank]
