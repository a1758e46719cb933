"""Laplacians of graphs, all Hermitian and positive semi-definite: e^{-tau L} is a state."""

from typing import overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from neurofield._numerics import as_complex
from neurofield._types import RealScalar
from neurofield.recording import SparseGraph

from ._checks import is_hermitian, require
from ._sparse_laplacian import SparseLaplacian, sparse_laplacian
from ._weights import GraphLike, weights_of


@overload
def laplacian(
    graph: GraphLike, kind: str = ..., *, charge: RealScalar = ..., teleport: RealScalar = ...
) -> Float[Array, "node node"] | Complex[Array, "node node"]: ...
@overload
def laplacian(
    graph: SparseGraph, kind: str = ..., *, charge: RealScalar = ..., teleport: RealScalar = ...
) -> SparseLaplacian: ...
def laplacian(
    graph: GraphLike | SparseGraph,
    kind: str = "combinatorial",
    *,
    charge: RealScalar = 0.25,
    teleport: RealScalar = 0.0,
) -> Float[Array, "node node"] | Complex[Array, "node node"] | SparseLaplacian:
    """The Laplacian `[node, node]` of a graph's weights `[post, pre]`.

    A matrix, or for a `SparseGraph` a `SparseLaplacian`, which has all kinds but `"walk"`; its
    edges must be known (not traced), its weights need not.

    **Kinds** (A: the weights, D: the diagonal of A's row sums)

    - `"combinatorial"`: D - A, for symmetric non-negative weights (`diffusion_weights` makes them).
      Diffusion times have the unit of 1 / weight.
    - `"normalised"`: I - D^-1/2 A D^-1/2, likewise; spectrum in [0, 2], and diffusion times count
      steps. Nodes of large degree weigh less in its specific heat.
    - `"signed"`: |D| - A with |D| the row sums of |A|, for symmetric weights of either sign; its
      lowest eigenvalue is 0 only where the graph is balanced.
    - `"magnetic"`: D_s - A_s e^{2 pi i q r} with A_s = (A + A^T) / 2, the direction
      r = (A - A^T) / (A + A^T) in [-1, 1] and `charge` q in [0, 1/2), for non-negative weights.
      Complex Hermitian. Directions on a tree are invisible to it, whatever the charge: phases add
      up around cycles only.
    - `"walk"`: I - (Pi^1/2 P Pi^-1/2 + its transpose) / 2 of the random walk along the edges with
      transition matrix P and stationary law pi, Pi = diag(pi) (Chung 2005), for non-negative
      weights. With probability `teleport` a step goes to a node drawn uniformly, as it does from a
      node without outgoing edges. Without teleportation the graph must be strongly connected.

    Self-loops do not matter to the combinatorial kind; the signed and magnetic ones leave them out.

    Differentiable in the weights, the charge and the teleportation (the stationary law by its
    linear equations). Raises `ValueError` (under tracing an error at run time) for weights that the
    kind does not take.
    """
    if isinstance(graph, SparseGraph):
        return sparse_laplacian(graph, kind, charge)
    weights = weights_of(graph)
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {sorted(_KINDS)}, got {kind!r}.")
    if kind == "magnetic":
        charge = require(
            jnp.asarray(charge, weights.dtype), lambda q: (q >= 0) & (q < 0.5), "charge", "[0, 1/2)"
        )
        return _magnetic(_not_negative(weights), charge)
    if kind == "walk":
        alpha = require(
            jnp.asarray(teleport, weights.dtype),
            lambda a: (a >= 0) & (a < 1),
            "teleport",
            "[0, 1)",
        )
        return _walk(_not_negative(weights), alpha)
    return _KINDS[kind](weights)


def _combinatorial(weights: Array) -> Array:
    weights = _symmetric(_not_negative(weights))
    return jnp.diag(jnp.sum(weights, axis=1)) - weights


def _normalised(weights: Array) -> Array:
    weights = _symmetric(_not_negative(weights))
    degree = jnp.sum(weights, axis=1)
    linked = degree > 0  # a node without edges is a component of its own: eigenvalue 0
    scale = jnp.where(linked, 1 / jnp.sqrt(jnp.where(linked, degree, 1)), 0)
    return jnp.diag(linked.astype(weights.dtype)) - scale[:, None] * weights * scale[None]


def _signed(weights: Array) -> Array:
    weights = _symmetric(weights)
    weights = weights - jnp.diag(jnp.diag(weights))
    return jnp.diag(jnp.sum(jnp.abs(weights), axis=1)) - weights


def _magnetic(weights: Array, charge: Array) -> Array:
    weights = weights - jnp.diag(jnp.diag(weights))
    total = weights + weights.T
    direction = (weights - weights.T) / jnp.where(total > 0, total, 1)
    phase = 2 * jnp.pi * charge * direction
    hop = jax.lax.complex(total / 2 * jnp.cos(phase), total / 2 * jnp.sin(phase))
    return as_complex(jnp.diag(jnp.sum(total, axis=1) / 2)) - hop


def _walk(weights: Array, teleport: Array) -> Array:
    step, law = walk(weights, teleport)
    root = jnp.sqrt(law)
    flow = root[:, None] * step / root[None]
    return jnp.eye(len(weights), dtype=weights.dtype) - (flow + flow.T) / 2


def walk(weights: Array, teleport: Array) -> tuple[Array, Array]:
    """The transition matrix `[from, to]` of a walk along the edges, and its stationary law."""
    num_nodes = len(weights)
    out = jnp.sum(weights, axis=0)
    step = jnp.where(out > 0, weights / jnp.where(out > 0, out, 1)[None], 1 / num_nodes).T
    step = (1 - teleport) * step + teleport / num_nodes
    one = jnp.ones_like(out)
    # pi (I - P) = 0 and sum(pi) = 1 in one regular system, which gradients pass through.
    law = jnp.linalg.solve(jnp.eye(num_nodes, dtype=weights.dtype) - step.T + 1, one)
    tiny = num_nodes * jnp.finfo(weights.dtype).eps
    law = require(
        law,
        lambda p: jnp.isfinite(p) & (p > tiny),
        "the stationary law of the walk",
        "positive: the graph is not strongly connected, so set teleport above 0 (such as 0.05)",
    )
    return step, law


_KINDS = {
    "combinatorial": _combinatorial,
    "normalised": _normalised,
    "signed": _signed,
    "magnetic": _magnetic,
    "walk": _walk,
}


def _symmetric(weights: Array) -> Array:
    return require(
        weights,
        is_hermitian,
        "weights",
        "symmetric: take diffusion_weights(graph), or for a directed graph kind "
        '"magnetic" or "walk"',
    )


def _not_negative(weights: Array) -> Array:
    return require(
        weights,
        lambda w: (w >= 0) & jnp.isfinite(w),
        "weights",
        'finite and not negative: take diffusion_weights(graph), or kind "signed" for inhibition',
    )
