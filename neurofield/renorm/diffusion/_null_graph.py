"""Null models of graphs: what is left when the structure is taken out."""

import numpy as np

from neurofield._types import PRNGKey
from neurofield.recording import Graph

from ._phenomenological_nulls import host_rng
from ._weights import GraphLike, weights_of

_KINDS = ("configuration", "erdos_renyi", "weights", "strength")


def null_graph(key: PRNGKey, graph: GraphLike, kind: str = "configuration") -> Graph:
    """A graph with some of the properties of another and nothing else of it (host only).

    **Kinds** (an undirected graph stays one; self-loops stay where they are)

    - `"configuration"`: degrees are kept, by 50 attempted edge swaps an edge (Maslov and Sneppen
      2002; rejections count, which makes the draw uniform, in directed graphs but for the sense
      of three-cycles). Weights are shuffled over the edges of an undirected graph; in a directed
      one they stay with their presynaptic node, so that out-strengths and the sign of each neuron
      are kept too.
    - `"erdos_renyi"`: the number of edges and their weights, at random places.
    - `"weights"`: the edges, with shuffled weights.
    - `"strength"`: strengths (in and out), by the dense graph x_i y_j that has them. No draw.

    Raises `ValueError` for an unknown kind, where no edge can be swapped, and for strengths of
    negative weights or that no graph without self-loops has.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {list(_KINDS)}, got {kind!r}.")
    given = weights_of(graph)
    weights = np.array(given)
    diagonal = np.diag(np.diag(weights))
    weights -= diagonal
    undirected = bool((weights == weights.T).all())
    rng = host_rng(key)
    if kind == "strength":
        made = _strengths(weights)
    else:
        post, pre = np.nonzero(np.triu(weights) if undirected else weights)
        values = weights[post, pre]
        if kind == "configuration":
            post, pre, values = _swapped(rng, post, pre, values, undirected)
        else:
            if kind == "erdos_renyi":
                post, pre = _anywhere(rng, len(values), len(weights), undirected)
            values = rng.permutation(values)
        made = np.zeros_like(weights)
        made[post, pre] = values
        if undirected:
            made[pre, post] = values
    made = (made + diagonal).astype(given.dtype)
    return Graph(made, labels=graph.labels if isinstance(graph, Graph) else None)


def _swapped(rng, post, pre, values, undirected: bool):
    """Two edges a -> b and c -> d, drawn at random, become a -> d and c -> b, many times.

    A draw that would make a self-loop or double an edge leaves the graph as it is and counts as a
    step: only so is every graph with these degrees as likely.
    """
    edges = list(zip(pre.tolist(), post.tolist(), strict=True))
    taken = {frozenset(e) for e in edges} if undirected else set(edges)
    name = frozenset if undirected else tuple
    draws = rng.integers(max(len(edges), 1), size=(50 * len(edges), 2)).tolist()
    flips = rng.random(len(draws)).tolist()
    swaps = 0
    for (first, second), flip in zip(draws, flips, strict=True):
        (a, b), (c, d) = edges[first], edges[second]
        if undirected and flip < 0.5:
            c, d = d, c
        new = name((a, d)), name((c, b))
        if a == d or c == b or new[0] == new[1] or new[0] in taken or new[1] in taken:
            continue
        taken -= {name((a, b)), name((c, d))}
        taken |= set(new)
        edges[first], edges[second] = (a, d), (c, b)
        swaps += 1
    if not swaps:
        raise ValueError(
            "no edge can be swapped without changing degrees or doubling an edge: this graph is "
            "its own configuration null. Take kind 'weights' or 'erdos_renyi'."
        )
    ends = np.array(edges)
    return ends[:, 1], ends[:, 0], rng.permutation(values) if undirected else values


def _anywhere(rng, num_edges: int, num_nodes: int, undirected: bool):
    low, high = np.triu_indices(num_nodes, 1)
    if not undirected:
        low, high = np.r_[low, high], np.r_[high, low]
    chosen = rng.choice(len(low), num_edges, replace=False)
    return low[chosen], high[chosen]


def _strengths(weights: np.ndarray) -> np.ndarray:
    if (weights < 0).any():
        raise ValueError("strengths of negative weights fix no graph: take kind 'weights'.")
    wanted = weights.sum(1), weights.sum(0)
    made = 1.0 - np.eye(len(weights))
    for _ in range(1000):
        for axis, strength in enumerate(wanted):
            total = made.sum(1 - axis)
            scale = strength / np.where(total > 0, total, 1)
            made = made * np.expand_dims(scale, 1 - axis)
        error = np.abs(made.sum(1) - wanted[0]).max()
        if error <= 1e-12 * wanted[0].max():
            undirected = (weights == weights.T).all()
            return (made + made.T) / 2 if undirected else made
    raise ValueError(
        "no graph without self-loops has these strengths, or hardly: one node has as much as all "
        "others together. Take kind 'configuration'."
    )
