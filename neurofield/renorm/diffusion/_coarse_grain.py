"""Coarse-graining: supernodes at a diffusion time, and the graph between them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neurofield.recording import Graph

from ._aggregate import aggregate
from ._laplacian import laplacian, walk
from ._weights import GraphLike, diffusion_weights, weights_of

_METHODS = ("linkage", "threshold", "wilson", "equilibrium")
# Eigenvalues this close to 1 / tau (relative) are one degenerate level at the cut, not below it.
_TIE = 1e-9


class CoarseGraph(eqx.Module):
    """A graph of supernodes.

    **Attributes** (`n` supernodes)

    - `graph`: weights between supernodes, `[post, pre]`, no self-loops.
    - `self_weight`: `[n]`, the weight within each (for `"wilson"` what a supernode's diagonal
      L''_aa has beyond the sum of its weights).
    - `assignment`: `[node]`, the supernode of each node.
    - `num_modes`: eigenvalues below 1 / tau (static).
    - `notes`: where the rule failed or has to be read with care (static).
    """

    graph: Graph
    self_weight: Float[Array, " supernode"]
    assignment: Int[np.ndarray, " node"]
    num_modes: int = eqx.field(static=True)
    notes: tuple[str, ...] = eqx.field(static=True)


def coarse_grain(
    graph: GraphLike,
    diffusion_time: float,
    method: str = "linkage",
    *,
    num_clusters: int | None = None,
    teleport: float = 0.0,
) -> CoarseGraph:
    """Merge the nodes that diffusion joins within `diffusion_time` (host only).

    Supernodes come from the symmetric non-negative part of the graph (`diffusion_weights`), and
    `aggregate` sums the weights as they are, so that directions and signs live on.

    **Methods**

    - `"linkage"`: average linkage of the diffusion distance 1 / rho_ij(tau) (Villegas et al.
      2023), cut into as many supernodes as there are eigenvalues below 1 / tau.
    - `"threshold"`: the published real-space rule (Villegas et al. 2023): join i and j where
      rho_ij >= min(rho_ii, rho_jj), and merge connected components. The published graph between
      them is `graph.weights > 0`. It merges nothing at any time where all nodes are alike, and
      nearly everything where the graph is dense: see `notes`.
    - `"wilson"`: the k-space step. Eigenvalues below 1 / tau are kept, L is rescaled by tau and
      written in the normalised indicator vectors of the supernodes of `"linkage"`. Weights may be
      negative, and are no longer in units of the input's.
    - `"equilibrium"`: supernodes of the random walk along the directed, non-negative edges
      (Laplacian of kind `"walk"`, tau counts steps), and between them its stationary flows, scaled
      to the total weight: the stationary law is exactly the lumped one. In the spirit of the
      equilibrium-preserving group (arXiv 2507.04977), of which it is no implementation.

    `num_clusters` replaces the number of eigenvalues below 1 / tau. Components are never merged.

    The threshold is compared without the constant mode, which drops out of rho_ij - rho_ii: at
    large times all entries of rho agree to rounding, and a plain >= then merges anything. A
    difference within rounding of 0 counts as not joined.

    Raises `ValueError` for an unknown method, times and counts out of range, weights that
    are not finite, and for `"equilibrium"` negative weights or (at `teleport` 0) a graph that is
    not strongly connected.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {list(_METHODS)}, got {method!r}.")
    if not (np.isfinite(diffusion_time) and diffusion_time > 0):
        raise ValueError(f"diffusion_time must be positive, got {diffusion_time}.")
    weights = weights_of(graph)
    if not np.isfinite(np.asarray(weights)).all():
        raise ValueError("weights must be finite.")
    hollow = np.asarray(jax.jit(diffusion_weights)(weights), float)
    num_nodes = len(hollow)
    if method == "equilibrium":
        step, law = walk(weights, jnp.asarray(teleport, weights.dtype))
        matrix = np.asarray(laplacian(weights, "walk", teleport=teleport), float)
        root = np.sqrt(np.asarray(law, float))
        weights = (law[:, None] * step).T * jnp.sum(weights)
        joined = np.ones((num_nodes, num_nodes))
    else:
        matrix = np.diag(hollow.sum(1)) - hollow
        root = np.ones(num_nodes)
        joined = hollow
    components = _components(joined > 0)
    values, vectors = np.linalg.eigh(matrix)
    num_modes = int((values < (1 - _TIE) / diffusion_time).sum())
    fewest = int(components.max()) + 1

    if method == "threshold":
        if num_clusters is not None:
            raise ValueError('method "threshold" finds its own number of supernodes.')
        labels = _threshold(values, vectors, components, diffusion_time)
    else:
        count = max(num_modes, fewest) if num_clusters is None else num_clusters
        if not fewest <= count <= num_nodes:
            raise ValueError(
                f"num_clusters must be between the number of components, {fewest}, and of nodes, "
                f"{num_nodes}, got {count}."
            )
        labels = _linkage(values, vectors / root[:, None], components, diffusion_time, count)

    count = int(labels.max()) + 1
    one_hot = np.eye(count)[labels]
    if method == "wilson":
        kept = np.where(np.arange(num_nodes) < num_modes, np.maximum(values, 0), 0)
        blocks = one_hot / np.sqrt(one_hot.sum(0))[None]
        amplitude = vectors.T @ blocks
        coarse = diffusion_time * (amplitude.T * kept) @ amplitude
        between = np.diag(np.diag(coarse)) - coarse
        self_weight = jnp.asarray(np.diag(coarse) - between.sum(1), weights.dtype)
        between = jnp.asarray(between, weights.dtype)
    else:
        between, self_weight = jax.jit(aggregate)(weights, one_hot)
    return CoarseGraph(
        Graph(between),
        self_weight,
        labels,
        num_modes,
        _notes(method, labels, fewest, num_modes, np.asarray(between)),
    )


def _components(joined: np.ndarray) -> np.ndarray:
    from scipy.sparse.csgraph import connected_components

    return connected_components(joined, directed=False)[1]


def _threshold(values, vectors, components, time: float) -> np.ndarray:
    """Components of the graph that joins i and j where rho_ij >= min(rho_ii, rho_jj)."""
    slow = int(components.max()) + 1  # one constant mode for each component
    values, vectors = values[slow:], vectors[:, slow:]
    if not len(values):
        return components
    decay = np.exp(-time * (values - values[0]))
    kernel = (vectors * decay) @ vectors.T
    size = (np.abs(vectors) * decay) @ np.abs(vectors).T
    # rho_ij - rho_ii against the terms it is the sum of.
    rounding = 1e-12 * (size + np.diag(size)[:, None])
    above = kernel - np.diag(kernel)[:, None] > rounding
    joined = (above | above.T) & (components[:, None] == components[None])
    return _components(joined)


def _linkage(values, vectors, components, time: float, count: int) -> np.ndarray:
    """Average linkage of 1 / rho_ij, numbered in the order of the nodes."""
    from scipy.cluster.hierarchy import cut_tree, linkage

    num_nodes = len(values)
    if count == num_nodes:
        return np.arange(num_nodes)
    kernel = (vectors * np.exp(-time * (values - values[0]))) @ vectors.T
    least = np.finfo(float).eps * kernel.max()
    # Rounded, so that ties between nodes that are alike are broken by their order everywhere.
    distance = 10 ** -np.round(np.log10(np.maximum(kernel / kernel.max(), least)), 9)
    distance[components[:, None] != components[None]] = 10 / least
    tree = linkage(distance[np.triu_indices(num_nodes, 1)], "average")
    labels = cut_tree(tree, n_clusters=count)[:, 0]
    _, first = np.unique(labels, return_index=True)
    rank = np.empty(count, int)
    rank[labels[np.sort(first)]] = np.arange(count)
    return rank[labels]


def _notes(method: str, labels, num_components: int, num_modes: int, between) -> tuple[str, ...]:
    num_nodes, sizes = len(labels), np.bincount(labels)
    said = []
    if len(sizes) == num_nodes:
        why = (
            " On a graph whose nodes are all alike rho_ij < rho_ii at every time, and this rule "
            "never merges any: take method='linkage'."
            if method == "threshold"
            else " The time is shorter than 1 / (largest eigenvalue)."
        )
        said.append(f"nothing merged: {num_nodes} supernodes of one node each.{why}")
    elif len(sizes) == num_components:
        said.append("every component has become one supernode.")
    elif 2 * sizes.max() > num_nodes:
        said.append(f"one giant supernode holds {sizes.max()} of {num_nodes} nodes.")
    if method == "threshold" and len(sizes) not in (num_nodes, num_modes):
        said.append(f"supernodes: {len(sizes)}, but eigenvalues below 1 / tau: {num_modes}.")
    if num_components > 1:
        said.append(f"{num_components} components, never merged with each other.")
    if method == "wilson" and (between < 0).any():
        said.append(
            f"{int((between < 0).sum()) // 2} pairs have negative weights, the least "
            f"{between.min():.3g}: the k-space step left no graph that could diffuse."
        )
    return tuple(said)
