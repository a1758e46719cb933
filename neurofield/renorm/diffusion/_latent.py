"""Sparse and low rank: what few unobserved neurons add to a precision and to an autoregression."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from neurofield._numerics import matmul
from neurofield._results import RESULTS, choose
from neurofield._types import RealScalar


class SparseLowRank(eqx.Module):
    """A matrix in two parts.

    **Attributes**: `sparse` (what observed neurons do given hidden ones too), `low_rank` (what
    comes from hidden ones), `residual` (how far from the optimum), `num_steps`, `result`.
    """

    sparse: Float[Array, "neuron neuron"]
    low_rank: Float[Array, "neuron neuron"]
    residual: Float[Array, ""]
    num_steps: Int[Array, ""]
    result: RESULTS


def latent_var(
    correlation: Float[Array, "neuron neuron"],
    lagged: Float[Array, "neuron neuron"],
    l1: RealScalar,
    nuclear: RealScalar,
    *,
    shrink: RealScalar = 0.02,
    tolerance: float | None = None,
    max_steps: int = 5000,
) -> SparseLowRank:
    """A first-order autoregression A = S + L with hidden inputs (Jalali and Sanghavi 2012).

    Minimises tr(A C_0^e A^T) / 2 - tr(A C_1^T) + l1 sum |S_ij| + nuclear |L|_*, where |L|_* is the
    sum of singular values: one unobserved neuron with memory that drives many adds a matrix of
    about rank one to the coefficients. Accelerated proximal gradients with restarts; `residual` is
    the largest proximal step times its curvature, `tolerance` eps^(1/2) by default.
    Not differentiable where entries or singular values reach 0.
    """
    dtype = correlation.dtype
    tolerance = _tolerance(tolerance, dtype)
    l1, nuclear, shrink = (jnp.asarray(x, dtype) for x in (l1, nuclear, shrink))
    shrunk = (1 - shrink) * correlation + shrink * jnp.eye(len(correlation), dtype=dtype)
    # Both parts see the same gradient.
    curvature = 2 * jnp.linalg.eigvalsh(shrunk)[-1]

    def step(state):
        point, ahead, momentum, _, count = state
        slope = matmul(ahead[0] + ahead[1], shrunk) - lagged
        sparse = _soft(ahead[0] - slope / curvature, l1 / curvature)
        left, values, right = jnp.linalg.svd(ahead[1] - slope / curvature, full_matrices=False)
        low_rank = matmul(left * jnp.maximum(values - nuclear / curvature, 0)[None], right)
        new = jnp.stack([sparse, low_rank])
        residual = curvature * jnp.max(jnp.abs(new - ahead))
        back = jnp.sum((new - ahead) * (new - point)) < 0
        after = jnp.where(back, 1, (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2)
        push = jnp.where(back, 0, (momentum - 1) / after)
        return new, new + push * (new - point), after, residual, count + 1

    zero = jnp.zeros((2, *correlation.shape), dtype)
    start = (zero, zero, jnp.ones((), dtype), jnp.asarray(jnp.inf, dtype), jnp.int32(0))
    (sparse, low_rank), _, _, residual, count = jax.lax.while_loop(
        lambda s: (s[3] > tolerance) & (s[4] < max_steps), step, start
    )
    return SparseLowRank(sparse, low_rank, residual, count, _result(residual, tolerance))


def latent_precision(
    correlation: Float[Array, "neuron neuron"],
    l1: RealScalar,
    trace: RealScalar,
    *,
    tolerance: float | None = None,
    max_steps: int = 2000,
) -> SparseLowRank:
    """Latent-variable graphical lasso: precision S - L (Chandrasekaran, Parrilo, Willsky 2012).

    Minimises -log det R + tr(C R) + l1 sum_{i != j} |S_ij| + trace tr(L) over R = S - L with L
    positive semi-definite, by alternating directions (Ma, Xue and Zou 2013). With an infinite
    `trace`, L = 0: the graphical lasso. Not differentiable (shapes of S and L change by jumps); see
    `result` for whether it converged to `tolerance` (default eps^(1/2)).
    """
    dtype = correlation.dtype
    tolerance = _tolerance(tolerance, dtype)
    l1, trace = jnp.asarray(l1, dtype), jnp.asarray(trace, dtype)
    eye = jnp.eye(len(correlation), dtype=dtype)
    penalised = 1 - eye

    def step(state):
        sparse, low_rank, dual, rho, _, count = state
        values, vectors = jnp.linalg.eigh(rho * (sparse - low_rank - dual) - correlation)
        values = (values + jnp.sqrt(values**2 + 4 * rho)) / (2 * rho)
        precision = _compose(vectors, values)
        shifted = precision + low_rank + dual
        bound = l1 / rho * penalised
        new = _soft(shifted, bound)
        values, vectors = jnp.linalg.eigh(new - precision - dual)
        lower = _compose(vectors, jnp.maximum(values - trace / rho, 0))
        gap = precision - new + lower
        primal = jnp.max(jnp.abs(gap))
        moved = rho * jnp.maximum(
            jnp.max(jnp.abs(new - sparse)), jnp.max(jnp.abs(lower - low_rank))
        )
        # Both residuals alike (Boyd et al. 2011); ever more rarely, so that it settles.
        may = count % 10 == 9
        factor = jnp.where(primal > 10 * moved, 2.0, jnp.where(moved > 10 * primal, 0.5, 1.0))
        factor = jnp.where(may & (count < 500), factor, 1.0).astype(dtype)
        residual = jnp.maximum(primal, moved)
        return new, lower, (dual + gap) / factor, rho * factor, residual, count + 1

    start = (eye, 0 * eye, 0 * eye, jnp.ones((), dtype), jnp.asarray(jnp.inf, dtype), jnp.int32(0))
    sparse, low_rank, _, _, residual, count = jax.lax.while_loop(
        lambda s: (s[4] > tolerance) & (s[5] < max_steps), step, start
    )
    return SparseLowRank(sparse, low_rank, residual, count, _result(residual, tolerance))


def _tolerance(tolerance: float | None, dtype) -> float:
    return float(jnp.finfo(dtype).eps) ** 0.5 if tolerance is None else tolerance


def _result(residual: Array, tolerance: float) -> RESULTS:
    good, bad = RESULTS.successful, RESULTS.nonlinear_max_steps_reached
    return choose(residual <= tolerance, good, bad)


def _soft(x: Array, bound: Array) -> Array:
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - bound, 0)


def _compose(vectors: Array, values: Array) -> Array:
    return matmul(vectors * values[None], vectors.T)
