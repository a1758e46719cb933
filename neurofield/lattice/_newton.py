"""Newton's method for convex losses: truncated (any size), and batched logistic regressions."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from neurofield._numerics import HIGHEST, contract, softplus
from neurofield._results import RESULTS


class Optimum(eqx.Module):
    """Where Newton's method stopped."""

    value: Float[Array, "*shape"]
    loss: Float[Array, ""]
    decrement: Float[Array, ""]
    num_steps: Int[Array, ""]
    result: RESULTS


# Beyond this standard error (in log-odds) the likelihood is flat: a sign of separation.
SEPARATED = 100.0
# Nats of log-likelihood still to be gained: far below one standard error's worth (1/2).
TOLERANCE = 1e-9
# Numbers held at once while the information is summed.
_STRETCH = 2**22


def truncated_newton(
    loss_fn: Callable,
    start: Float[Array, " p"],
    args,
    precondition: Callable,
    *,
    max_steps: int,
) -> Optimum:
    """Minimise a convex `loss_fn(vector, args)` in nats; CG solves for each step.

    Stops when the Newton decrement, the nats still to be gained, is below `TOLERANCE`.
    """
    value_and_grad = jax.value_and_grad(loss_fn)

    def step(state):
        value, _, _, count, _ = state
        loss, slope = value_and_grad(value, args)
        # Linearised once, so that what does not depend on the direction is not solved anew.
        _, product = jax.linearize(lambda u: jax.grad(loss_fn)(u, args), value)
        direction, _ = jax.scipy.sparse.linalg.cg(
            product, -slope, M=lambda v: precondition(v, args), tol=1e-2, maxiter=200
        )
        gain = -jnp.dot(slope, direction, precision=HIGHEST)
        size, new_loss = _backtrack(lambda s: loss_fn(value + s * direction, args), loss, gain)
        return value + size * direction, new_loss, 0.5 * gain, count + 1, size == 0

    return _iterate(step, start, max_steps)


class Regression(eqx.Module):
    """Logistic regressions of every neuron's `target` on one shared `design`."""

    design: Float[Array, "feature sample"]
    target: Float[Array, "neuron sample"]
    weight: Float[Array, " sample"]
    ridge: Float[Array, " feature"]


def regress(
    problem: Regression,
    start: Float[Array, "neuron feature"],
    *,
    firth: bool,
    max_steps: int,
) -> Optimum:
    """Penalised maximum likelihood of all regressions at once, each with its own step size.

    `firth` adds half the log determinant of the Fisher information (Firth 1993; Jeffreys' prior),
    which keeps the estimate finite under separation.
    """

    def step(state):
        value, _, _, count, _ = state
        loss, slope, information = _regression_terms(problem, value, firth)
        direction = -jnp.linalg.solve(information, slope[..., None])[..., 0]
        gain = -jnp.sum(slope * direction, axis=-1)
        along = lambda s: _regression_loss(problem, value + s[:, None] * direction, firth)  # noqa: E731
        size, new_loss = _backtrack(along, loss, gain)
        stuck = jnp.any((size == 0) & (0.5 * gain > TOLERANCE))
        return (
            value + size[:, None] * direction,
            jnp.sum(new_loss),
            0.5 * jnp.sum(gain),
            count + 1,
            stuck,
        )

    return _iterate(step, start, max_steps)


def regression_information(
    problem: Regression, value: Float[Array, "neuron feature"]
) -> Float[Array, "neuron feature feature"]:
    """Fisher information (ridge included) of every neuron's regression."""
    probability = jax.nn.sigmoid(jnp.matmul(value, problem.design, precision=HIGHEST))
    curvature = probability * (1 - probability) * problem.weight[None]

    # A stretch of samples at a time, for all neurons: the products stay in the cache.
    num_samples = curvature.shape[1]
    num_features = problem.design.shape[0]
    size = min(num_samples, max(64, min(2048, _STRETCH // (num_features * curvature.shape[0]))))
    whole = num_samples // size * size

    def add(total, stretch):
        c, z = stretch
        return total + contract("nfs,gs->nfg", c[:, None, :] * z[None], z), None

    def cut(a):
        return a[:, :whole].reshape(a.shape[0], -1, size).transpose(1, 0, 2)

    start = jnp.zeros((curvature.shape[0], num_features, num_features), curvature.dtype)
    rest = (curvature[:, whole:], problem.design[:, whole:])
    total, _ = jax.lax.scan(add, start, (cut(curvature), cut(problem.design)))
    return add(total, rest)[0] + jnp.diag(problem.ridge)[None]


def _regression_loss(problem: Regression, value: Array, firth: bool) -> Float[Array, " neuron"]:
    h = jnp.matmul(value, problem.design, precision=HIGHEST)
    nats = contract("ns,s->n", softplus(h) - problem.target * h, problem.weight)
    loss = nats + 0.5 * contract("f,nf,nf->n", problem.ridge, value, value)
    if firth:
        loss = loss - 0.5 * jnp.linalg.slogdet(regression_information(problem, value))[1]
    return loss


def _regression_terms(problem: Regression, value: Array, firth: bool):
    probability = jax.nn.sigmoid(jnp.matmul(value, problem.design, precision=HIGHEST))
    information = regression_information(problem, value)
    residual = problem.target - probability
    if firth:
        inverse = jnp.linalg.inv(information)
        curvature = probability * (1 - probability)
        leverage = jax.lax.map(
            lambda args: (
                args[0]
                * jnp.sum(
                    problem.design * jnp.matmul(args[1], problem.design, precision=HIGHEST), axis=0
                )
            ),
            (curvature, inverse),
        )
        residual = residual + leverage * (0.5 - probability)
    slope = problem.ridge[None] * value - jnp.matmul(
        residual * problem.weight[None], problem.design.T, precision=HIGHEST
    )
    return _regression_loss(problem, value, firth), slope, information


def _backtrack(loss_at: Callable, loss: Array, gain: Array) -> tuple[Array, Array]:
    """Halve the steps whose loss does not fall enough (Armijo); 0 after 30 halvings."""
    # Rounding of a sum over 10^5 bins: below it a regression that has converged cannot improve.
    slack = 1e3 * float(jnp.finfo(loss.dtype).eps) * jnp.abs(loss)

    def acceptable(size, trial):
        return trial <= loss - 1e-4 * size * gain + slack

    def unfinished(state):
        size, trial, count = state
        return jnp.any(~acceptable(size, trial)) & (count < 30)

    def halve(state):
        size, trial, count = state
        size = jnp.where(acceptable(size, trial), size, 0.5 * size)
        return size, loss_at(size), count + 1

    full = jnp.ones_like(loss)
    size, trial, _ = jax.lax.while_loop(unfinished, halve, (full, loss_at(full), 0))
    accepted = acceptable(size, trial)
    return jnp.where(accepted, size, 0.0), jnp.where(accepted, trial, loss)


def _iterate(step: Callable, start: Array, max_steps: int) -> Optimum:
    def unfinished(state):
        _, loss, decrement, count, stuck = state
        return (count < max_steps) & ~stuck & (decrement > TOLERANCE) & ~jnp.isnan(loss)

    infinity = jnp.full((), jnp.inf, start.dtype)
    state = (start, infinity, infinity, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    value, loss, decrement, count, stuck = jax.lax.while_loop(unfinished, step, state)
    # A negative decrement, a direction that climbs, ends the loop too, and is no convergence.
    converged = jnp.abs(decrement) <= TOLERANCE
    stuck = stuck | (decrement < 0)
    codes: Any = RESULTS  # its inherited members confuse type checkers
    unfinished_result = codes.where(stuck, codes.stalled, codes.nonlinear_max_steps_reached)
    result = codes.where(converged, codes.successful, unfinished_result)
    result = codes.where(jnp.isfinite(loss), result, codes.nonlinear_divergence)
    return Optimum(value, loss, decrement, count, result)
