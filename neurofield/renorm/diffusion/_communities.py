"""Communities of a graph: groups of nodes that belong together, found in five ways."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neurofield._types import PRNGKey

from ._block_model import block_model
from ._coarse_grain import coarse_grain
from ._laplacian import laplacian
from ._markov_stability import markov_stability, walk_flow
from ._phenomenological_nulls import host_rng
from ._scales import diffusion_scales
from ._spectral import normalised, spectral_labels
from ._thermodynamics import thermodynamics
from ._weights import GraphLike, diffusion_weights, weights_of

Weights = Float[np.ndarray, "node node"]


class Communities(eqx.Module):
    """A partition of the nodes of a graph.

    **Attributes**

    - `labels`: `[node]`, int32, numbered in the order of their first nodes.
    - `quality`: how good the partition is by the method's own measure; see `communities`.
    - `num_communities`: isolated nodes, each a community of its own, included (static).
    - `method`, `notes`: static; what the partition has to be read with.
    """

    labels: Int[Array, " node"]
    quality: Float[Array, ""]
    num_communities: int = eqx.field(static=True)
    method: str = eqx.field(static=True)
    notes: tuple[str, ...] = eqx.field(static=True, default=())


def communities(
    key: PRNGKey,
    graph: GraphLike,
    method: str = "spectral",
    *,
    num_communities: int | None = None,
    diffusion_time: float | None = None,
    num_starts: int = 10,
) -> Communities:
    """Partition the nodes of a graph (host only). The same key gives the same partition.

    All but the block model see the symmetric non-negative part of the graph (`diffusion_weights`).
    A node without edges there is a community of its own, on top of `num_communities`.

    **Methods**

    - `"spectral"`: k-means of the rows, normalised, of the lowest eigenvectors of the normalised
      Laplacian (Ng, Jordan and Weiss 2001). Their number, where not given, is that of the
      components or more and at least 2: the one before the largest gap among the lower half of
      the eigenvalues. Quality: modularity.
    - `"modularity"`: Louvain (Blondel et al. 2008), which finds the number itself. Quality:
      modularity.
    - `"markov_stability"`: the partition within which a random walk stays for `diffusion_time`
      steps (1): Louvain on its flow, whose modularity is the quality (`markov_stability`;
      Delvenne, Yaliraki and Barahona 2010). Finds the number itself, smaller at longer times.
    - `"diffusion_distance"`: average linkage of 1 / rho_ij at `diffusion_time` (in 1 / weight), cut
      into as many as there are eigenvalues of the Laplacian below 1 / tau (Villegas et al. 2023,
      `coarse_grain`). By default the time is the most prominent of `diffusion_scales`, or where
      there is none, as a note then says, the largest maximum of the specific heat. Quality:
      modularity.
    - `"block_model"`: the scores (A + A^T) / 2 of all pairs, negative ones too, as draws from two
      normal distributions, of pairs within a community and across, after the effects of either
      node alone have been taken away; labels by variational inference from several starts. Their
      number, where not given, is the one of largest evidence, and can be 1. For scores of pairs
      that are mostly noise, such as those inferred from few neurons: every pair counts, where the
      other methods drop negative scores and look at a few eigenvectors. Not for graphs in which
      most pairs are unconnected. Quality: evidence over a single community, in nats.

    `num_starts`: of k-means and of the block model.

    Raises `ValueError` for unknown methods, arguments that the method does not take, and numbers
    of communities that the nodes do not allow.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {list(_METHODS)}, got {method!r}.")
    find, takes_number, takes_time = _METHODS[method]
    if num_communities is not None and not takes_number:
        raise ValueError(f"method {method!r} finds the number of communities itself.")
    if diffusion_time is not None and not takes_time:
        raise ValueError(f"method {method!r} has no diffusion_time.")
    if diffusion_time is not None and not (np.isfinite(diffusion_time) and diffusion_time > 0):
        raise ValueError(f"diffusion_time must be positive, got {diffusion_time}.")
    if num_starts < 1:
        raise ValueError(f"num_starts must be at least 1, got {num_starts}.")
    scores = weights_of(graph)
    weights = np.asarray(scores if method == "block_model" else diffusion_weights(scores), float)
    if not len(weights):
        raise ValueError("a graph without nodes has no communities.")
    if not np.isfinite(weights).all():
        raise ValueError("weights must be finite.")
    linked = np.flatnonzero(weights.any(0) | weights.any(1))
    if num_communities is not None and not 1 <= num_communities <= max(len(linked), 1):
        raise ValueError(
            f"num_communities must be between 1 and the number of nodes with edges, {len(linked)}, "
            f"got {num_communities}."
        )
    labels = np.full(len(weights), -1)
    notes, quality = (), 0.0
    if len(linked):
        options = {"num_communities": num_communities, "diffusion_time": diffusion_time}
        inner = weights[np.ix_(linked, linked)]
        labels[linked], quality, notes = find(host_rng(key), inner, num_starts, **options)
    alone = labels < 0
    labels[alone] = labels.max() + 1 + np.arange(alone.sum())
    if alone.any():
        notes = (*notes, f"{alone.sum()} nodes have no edges: each is a community of its own.")
    labels = in_order(labels)
    return Communities(
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(quality, scores.dtype),
        int(labels.max()) + 1,
        method,
        notes,
    )


def in_order(labels: Int[np.ndarray, " node"]) -> Int[np.ndarray, " node"]:
    """The same partition, numbered from 0 in the order of first nodes."""
    _, first, index = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[index]


def _spectral(rng, weights, num_starts, num_communities, diffusion_time):
    number = num_communities
    if number is None:
        values = np.linalg.eigvalsh(normalised(weights))
        fewest = max(2, int((values < 1e-10).sum()))
        most = max(fewest, len(weights) // 2)
        gaps = np.diff(values)[fewest - 1 : most]
        number = fewest + int(np.argmax(gaps)) if len(gaps) else fewest
    number = min(number, len(weights))
    labels = spectral_labels(rng, weights, number, num_starts)
    notes = ()
    if len(np.unique(labels)) < number:
        notes = (f"nodes that agree in all {number} eigenvectors leave fewer communities.",)
    return labels, _modularity_of(weights, labels), notes


def _modularity(rng, weights, num_starts, num_communities, diffusion_time):
    labels = _louvain(rng, weights)
    return labels, _modularity_of(weights, labels), ()


def _markov_stability(rng, weights, num_starts, num_communities, diffusion_time):
    time = 1.0 if diffusion_time is None else diffusion_time
    flow = np.asarray(walk_flow(jnp.asarray(weights), jnp.asarray(time, float))[0], float)
    # Stays count once in a sum over pairs; a self-loop is an edge with both its ends.
    flow = flow - np.diag(np.diag(flow)) / 2
    labels = _louvain(rng, np.where(flow > 1e-14 * flow.max(), flow, 0))
    assignment = np.eye(labels.max() + 1)[labels]
    quality = markov_stability(weights, assignment, float(time))
    return labels, float(quality), ()


def _diffusion_distance(rng, weights, num_starts, num_communities, diffusion_time):
    notes = ()
    time = diffusion_time
    if time is None:
        matrix = laplacian(jnp.asarray(weights))
        values = np.linalg.eigvalsh(np.asarray(matrix, float))
        low = max(values[values > 1e-10 * values[-1]].min(), 1e-8 * values[-1])
        decades = np.log10(values[-1] / low) + 3
        times = np.geomspace(0.1 / values[-1], 100 / low, int(20 * decades) + 5)
        curves = thermodynamics(matrix, times)
        scales = diffusion_scales(curves)
        if len(scales.times):
            time = float(scales.times[np.argmax(scales.prominence)])
        else:
            late = times >= 2 / values[-1]
            heat = np.where(late, np.asarray(curves.specific_heat, float), -1)
            time = float(times[np.argmax(heat)])
            notes = ("no scale: the time is that of the largest specific heat.",)
    coarse = coarse_grain(weights, time, "linkage", num_clusters=num_communities)
    labels = np.asarray(coarse.assignment)
    return labels, _modularity_of(weights, labels), (*notes, *coarse.notes)


def _block_model(rng, weights, num_starts, num_communities, diffusion_time):
    if len(weights) < 4:
        raise ValueError(f"a block model needs at least 4 nodes with edges, got {len(weights)}.")
    fitted = block_model(rng, weights, num_communities, num_starts)
    return fitted.labels, fitted.evidence, ()


def _louvain(rng: np.random.Generator, weights: Weights) -> Int[np.ndarray, " node"]:
    import networkx

    groups: Any = networkx.community.louvain_communities(
        networkx.from_numpy_array(weights), seed=int(rng.integers(2**31))
    )
    labels = np.zeros(len(weights), int)
    for label, group in enumerate(groups):
        labels[list(group)] = label
    return labels


def _modularity_of(weights: Weights, labels: Int[np.ndarray, " node"]) -> float:
    degree = weights.sum(1) / weights.sum()
    one_hot = np.eye(labels.max() + 1)[labels]
    within = np.einsum("ia,ij,ja->", one_hot, weights, one_hot, optimize=True) / weights.sum()
    return float(within - ((degree @ one_hot) ** 2).sum())


# What finds them, whether it can be told their number, whether it has a time.
_METHODS: dict[str, tuple[Callable[..., Any], bool, bool]] = {
    "spectral": (_spectral, True, False),
    "modularity": (_modularity, False, False),
    "markov_stability": (_markov_stability, False, True),
    "diffusion_distance": (_diffusion_distance, True, True),
    "block_model": (_block_model, True, False),
}
