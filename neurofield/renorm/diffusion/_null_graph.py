"""Null models of graphs: what is left when the structure is taken out."""

import contextlib
from typing import Any

import numpy as np

from neurofield._types import PRNGKey
from neurofield.recording import Graph

from ._phenomenological_nulls import host_rng
from ._weights import GraphLike, weights_of

_KINDS = ("configuration", "erdos_renyi", "weights", "strength")


def null_graph(key: PRNGKey, graph: GraphLike, kind: str = "configuration") -> Graph:
    """A graph with some of the properties of another and nothing else of it (host only).

    **Kinds** (an undirected graph stays one; self-loops stay where they are)

    - `"configuration"`: degrees are kept, by edge swaps (ten tries an edge; networkx). Weights are
      shuffled over the edges of an undirected graph; in a directed one they stay with their
      presynaptic node, so that out-strengths and the sign of each neuron are kept too.
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
            post, pre, values = _swapped(rng, post, pre, values, len(weights), undirected)
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


def _swapped(rng, post, pre, values, num_nodes: int, undirected: bool):
    import networkx as nx

    before = set(zip(post.tolist(), pre.tolist(), strict=True))
    graph: Any = nx.Graph() if undirected else nx.DiGraph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from((j, i) for i, j in before)
    swap = nx.double_edge_swap if undirected else nx.directed_edge_swap
    seed, tries = int(rng.integers(2**31)), 100 * len(before)
    # Out of tries it raises, having made as many swaps as it could, in place.
    with contextlib.suppress(nx.NetworkXException):
        swap(graph, nswap=10 * len(before), max_tries=tries, seed=seed)
    ends = np.array([e if not undirected else sorted(e) for e in graph.edges], int).reshape(-1, 2)
    after = set(zip(ends[:, 1].tolist(), ends[:, 0].tolist(), strict=True))
    if undirected:
        before = {(max(e), min(e)) for e in before}
    if after == before:
        raise ValueError(
            "no edge can be swapped without changing degrees or doubling an edge: this graph is "
            "its own configuration null. Take kind 'weights' or 'erdos_renyi'."
        )
    if undirected:
        return ends[:, 1], ends[:, 0], rng.permutation(values)
    # Each presynaptic node has as many edges as before: they take its weights, in random order.
    order = np.lexsort((rng.random(len(ends)), ends[:, 0]))
    return ends[order, 1], ends[order, 0], values[np.argsort(pre, kind="stable")]


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
