"""Functions of the lag on [0, length]: values at Legendre nodes, second derivatives by Galerkin.

A function f is the vector of its values at `nodes * length`. Its *scaled* vector is f times the
square roots of the weights, in which the L2 product is the dot product, and -d^2/dtau^2 the
symmetric matrix `stiffness / length^2` (with f' = 0 at both ends unless a boundary term is added).
"""

from functools import cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import legendre
from scipy.special import spherical_jn

from neurofield._numerics import contract


class Lags(NamedTuple):
    """Constants of `num` Gauss-Legendre nodes on [0, 1].

    - `first`, `last`: the scaled vectors whose dot product with a function's gives its value at
      0 and at 1.
    - `coefficients`: from values at nodes to coefficients of Legendre polynomials on [-1, 1].
    - `integral`: from values at nodes to the integrals from 0 to each node.
    """

    nodes: np.ndarray
    weights: np.ndarray
    stiffness: np.ndarray
    first: np.ndarray
    last: np.ndarray
    coefficients: np.ndarray
    integral: np.ndarray


@cache
def lags(num: int) -> Lags:
    x, w = legendre.leggauss(num)
    norm = np.sqrt(2 * np.arange(num) + 1)  # of Legendre polynomials on [0, 1]
    values = legendre.legvander(x, num - 1)
    slopes = np.stack([legendre.legval(x, legendre.legder(row)) for row in np.eye(num)], 1)
    to_modes = values * norm[None, :] * np.sqrt(w / 2)[:, None]  # orthogonal
    slopes = 2 * slopes * norm[None, :] * np.sqrt(w / 2)[:, None]
    coefficients = (to_modes * norm[None, :]).T * np.sqrt(w / 2)[None, :]
    antiderivative = np.stack([legendre.legint(row, lbnd=-1) for row in np.eye(num)], 1) / 2
    return Lags(
        nodes=(x + 1) / 2,
        weights=w / 2,
        stiffness=to_modes @ (slopes.T @ slopes) @ to_modes.T,
        first=to_modes @ (norm * (-1.0) ** np.arange(num)),
        last=to_modes @ norm,
        coefficients=coefficients,
        integral=legendre.legvander(x, num) @ antiderivative @ coefficients,
    )


_NUM_FREQUENCIES = 96


@cache
def cosines(num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies u = w length / 2 > 0, their weights, and the cosine transforms of Legendre
    polynomials: the integrals over [-1, 1] of P_n(x) cos(u (x + 1)), exact at any frequency.

    u = 10 tan(angle) at equidistant angles, for integrals over frequencies without a cut-off.
    """
    angle = (np.arange(_NUM_FREQUENCIES) + 0.5) * np.pi / 2 / _NUM_FREQUENCIES
    u = 10 * np.tan(angle)
    weight = 10 / np.cos(angle) ** 2 * np.pi / 2 / _NUM_FREQUENCIES
    n = np.arange(num)
    bessel = spherical_jn(n[None, :], u[:, None])
    return u, weight, 2 * np.real(np.exp(1j * u)[:, None] * 1j ** n[None, :] * bessel)


def spectrum(values: Float[Array, "*batch node"], length: Float[Array, ""]) -> Array:
    """`[*batch, frequency]`: the two-sided spectrum of an even function of the lag, at `cosines`"""
    num = values.shape[-1]
    matrix = cosines(num)[2] @ lags(num).coefficients
    return length * contract("un,...n->...u", jnp.asarray(matrix, values.dtype), values)


def series(values: Float[Array, "*batch node"], x: Float[Array, "*lag"]) -> Array:
    """`[*batch, *lag]`: a function given at the nodes, at the positions x in [0, 1]."""
    num = values.shape[-1]
    coefficients = contract(
        "nk,...k->n...", jnp.asarray(lags(num).coefficients, values.dtype), values
    )
    z = 2 * x - 1

    def add(carry, term):
        before, now, total = carry
        n, weight = term
        after = ((2 * n + 1) * z * now - n * before) / (n + 1)
        return (now, after, total + jnp.multiply.outer(weight, now)), None

    zero = jnp.zeros(values.shape[:-1] + x.shape, values.dtype)
    start = (jnp.zeros_like(z), jnp.ones_like(z), zero)
    (_, _, total), _ = jax.lax.scan(add, start, (jnp.arange(num, dtype=z.dtype), coefficients))
    return total


class LowPass(eqx.Module):
    """The inverse of f -> f - tau^2 f'' on lags >= 0, where f vanishes at long ones."""

    inverse: Float[Array, "population node node"]
    tau: Float[Array, " population"]
    length: Float[Array, ""]

    def __init__(self, tau: Float[Array, " population"], length: Float[Array, ""], num: int):
        grid, dtype = lags(num), tau.dtype
        stiffness = jnp.asarray(grid.stiffness, dtype)[None]
        share = ((tau / length) ** 2)[:, None, None]
        self.inverse = jnp.linalg.inv(jnp.eye(num, dtype=dtype)[None] + share * stiffness)
        self.tau, self.length = tau, length

    def __call__(
        self, source: Float[Array, "population node"], slope: Float[Array, " population"]
    ) -> Float[Array, "population node"]:
        """f, of f - tau^2 f'' = source and f'(0) = -slope."""
        grid = lags(source.shape[-1])
        root, first = (
            jnp.asarray(x, source.dtype)[None] for x in (np.sqrt(grid.weights), grid.first)
        )
        kick = (self.tau**2 / self.length * slope)[:, None] * first
        return contract("pij,pj->pi", self.inverse, root * source + kick) / root


def at_zero(values: Float[Array, "*batch node"]) -> Float[Array, "*batch"]:
    grid = lags(values.shape[-1])
    return contract(
        "...k,k->...", values, jnp.asarray(grid.first * np.sqrt(grid.weights), values.dtype)
    )
