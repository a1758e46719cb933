"""Aggregation of a graph over an assignment of its nodes, hard or soft: both differentiable."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from neurofield._numerics import HIGHEST
from neurofield._types import RealScalar

from ._heat_kernel import heat_kernel


def aggregate(
    weights: Float[Array, "node node"], assignment: Shaped[Array, "node supernode"]
) -> tuple[Float[Array, "supernode supernode"], Float[Array, " supernode"]]:
    """Weights between supernodes `[post, pre]`, zero on the diagonal, and those within each.

    B'_ab = sum of B_ij over i in a and j in b. `assignment` holds the share of each node in each
    supernode, rows adding up to 1: one-hot where it is hard. Directions and signs are kept. Exact:
    the total weight, the strengths (in and out, counting what is within), and, where the weights
    are the flows of a walk, its stationary law lumped.
    """
    share = assignment.astype(weights.dtype)
    whole = jnp.matmul(jnp.matmul(share.T, weights, precision=HIGHEST), share, precision=HIGHEST)
    within = jnp.diagonal(whole)
    return whole - jnp.diag(within), within


def soft_assignment(
    laplacian: Float[Array, "node node"],
    members: Shaped[Array, "node supernode"],
    diffusion_time: RealScalar,
    temperature: RealScalar,
) -> Float[Array, "node supernode"]:
    """Shares of each node in each supernode, softmax(-E / temperature), differentiable.

    E_ia is the logarithm of the diffusion distance 1 / rho_ij(tau) from node i to the members j of
    supernode a, averaged harmonically: at temperature 1 the shares are the odds that a walk from i
    is found, after tau, at any one member of a. As the temperature falls to 0 each node goes to
    the nearest supernode.

    `members` is a hard assignment (one-hot rows), or marks only a centre or a few in each column;
    every column needs one. Kernel entries below rounding count as rounding: what is out of reach
    is equally far.
    """
    kernel = heat_kernel(laplacian, diffusion_time)
    share = members.astype(kernel.dtype)
    mean = jnp.matmul(kernel, share, precision=HIGHEST) / jnp.sum(share, axis=0)[None]
    closeness = jnp.log(jnp.maximum(mean, jnp.finfo(kernel.dtype).eps))
    return jax.nn.softmax(closeness / temperature, axis=1)
