"""Markov stability: how well a partition keeps a random walk within its communities."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import matmul
from neurofield._types import RealScalar

from ._heat_kernel import heat_kernel
from ._laplacian import laplacian
from ._weights import GraphLike, diffusion_weights


def markov_stability(
    graph: GraphLike,
    assignment: Float[Array, "node community"] | Float[np.ndarray, "node community"],
    time: RealScalar,
) -> Float[Array, ""]:
    """r(t, Phi) = Tr[Phi^T (Pi e^{-t (I - P)} - pi pi^T) Phi] of a partition Phi.

    The chance that a random walk on the symmetric non-negative part of the graph
    (`diffusion_weights`), P = D^-1 B, is in the community where it was `time` steps before, less
    that for a time without end (Delvenne, Yaliraki and Barahona 2010); to first order in `time`,
    at 1, the modularity. `assignment` holds 1 for a node's community, or shares that add up to 1.

    Differentiable in the weights (as long as no node without edges gains one), in the assignment
    and in the time.
    """
    flow, law = walk_flow(diffusion_weights(graph), time)
    assignment = jnp.asarray(assignment, flow.dtype)
    kept = matmul(assignment.T, matmul(flow, assignment))
    return jnp.trace(kept) - jnp.sum(matmul(law, assignment) ** 2)


def walk_flow(
    weights: Float[Array, "node node"], time: RealScalar
) -> tuple[Float[Array, "node node"], Float[Array, " node"]]:
    """Pi e^{-t (I - P)}, which is symmetric, and the stationary law pi of symmetric weights."""
    degree = jnp.sum(weights, axis=1)
    law = degree / jnp.sum(degree)
    root = jnp.where(law > 0, jnp.sqrt(jnp.where(law > 0, law, 1)), 0)
    kernel = heat_kernel(laplacian(weights, "normalised"), time)
    return root[:, None] * kernel * root[None], law
