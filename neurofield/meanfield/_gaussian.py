"""Gaussian integrals in one and two variables, to rounding."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import legendre


@cache
def gauss_legendre(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    x, w = legendre.leggauss(num)
    return (x + 1) / 2, w / 2


@cache
def half_normal(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z >= 0 and weights w: sum w f(z) is E[f] of an even f of a standard normal.

    The trapezoidal rule, which for analytic functions is exact up to exp(-2 pi d / h), d the
    distance of the nearest singularity from the real axis and h = 8.6 / num.
    """
    z = np.arange(num) * (8.6 / num)
    w = np.exp(-(z**2) / 2)
    w[0] /= 2
    return z, w / w.sum()


def bivariate_normal(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"], rho: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """P(z1 > a, z2 > b) of two standard normals of correlation `rho`, |rho| <= 1.

    Plackett's integral over the correlation, in its arcsine (Drezner & Wesolowsky 1990): to 1e-13
    at |rho| < 0.95, to 1e-7 near 1 unless a = b. Its derivative by `rho` is the integrand at the
    end, infinite at rho = 1.
    """
    x, w = gauss_legendre(48)
    x, w = jnp.asarray(x, a.dtype), jnp.asarray(w, a.dtype)
    end = jnp.arcsin(rho)
    # Towards rho = 1 the integrand varies fast near the end of the range: put nodes there.
    angle = end[..., None] * jnp.reshape(x * (2 - x), (1,) * end.ndim + (-1,))
    weight = end[..., None] * jnp.reshape(2 * w * (1 - x), (1,) * end.ndim + (-1,))
    sin = jnp.sin(angle)
    # (a^2 - 2 a b s + b^2) / 2 cos^2, written so that it does not cancel at a = b.
    apart, product = ((a - b) ** 2)[..., None], (a * b)[..., None]
    exponent = apart / (2 * jnp.cos(angle) ** 2) + product / (1 + sin)
    integral = jnp.sum(weight * jnp.exp(-exponent), -1) / (2 * math.pi)
    return jax.scipy.special.ndtr(-a) * jax.scipy.special.ndtr(-b) + integral


def newton_step(residual_fn: Callable[[Array], Array], root: Array) -> tuple[Array, Array]:
    """One Newton step from a converged `root` of residual_fn(x) = 0, `[n]` or a scalar.

    The root and its Jacobian are held fixed, so that the first derivatives of the result, forward
    and reverse, are those of the implicit function theorem in whatever `residual_fn` closes over.
    Also returns the residual before the step.
    """
    root = jax.lax.stop_gradient(root)
    jacobian = jax.lax.stop_gradient(jax.jacfwd(residual_fn)(root))
    residual = residual_fn(root)
    step = jnp.linalg.solve(jacobian, residual) if root.ndim else residual / jacobian
    return root - step, residual


def checked(found: Any, name: str) -> Any:
    """A closed form, or an error where its `residual` says that it is none."""
    tolerance = 1e4 * float(jnp.finfo(found.residual.dtype).eps)
    return eqx.error_if(
        found,
        ~(found.residual <= tolerance),
        f"meanfield.{name} found no stationary state: activity runs away, or there is none on the "
        "branch that grows from weak coupling. Lower the weights, or take throw=False and look at "
        "`residual`.",
    )
