"""Exact maximum likelihood of the stationary action (N <= 20, R <= 1)."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import HIGHEST
from neurofield._results import RESULTS
from neurofield.lattice._action import Action
from neurofield.lattice._data import (
    Moments,
    Segments,
    check_extremes,
    moments,
    touches_boundary,
)
from neurofield.lattice._newton import Optimum, truncated_newton
from neurofield.lattice._transfer import unchecked_log_partition_rate

_PRECONDITIONER_BINS = 20_000


def fit_exact(
    data: Segments, *, pairwise: bool, num_lags: int, l2: float, firth: bool, max_steps: int
) -> tuple[Action, Action, Optimum]:
    """The fitted action, its standard errors, and how Newton's method ended."""
    target = moments(data, num_lags)
    if not firth:
        check_extremes(target)
    num_neurons = target.field.shape[0]
    if not pairwise and num_lags == 0:
        return _independent(target, firth)
    if firth:
        target = _half_counts(target)
    unbounded = l2 == 0 and not firth and touches_boundary(target, pairwise)
    vector = functools.partial(_vector, pairwise=pairwise)
    shape = (num_neurons, num_lags, pairwise)
    start = jnp.zeros_like(vector(target.field, target.space, target.history))
    start = start.at[:num_neurons].set(jnp.log(target.field) - jnp.log1p(-target.field))
    args = (
        target,
        vector(target.field, target.space, target.history),
        jnp.asarray(l2, jnp.float64),
        jnp.linalg.inv(_metric(data, target, pairwise, l2)),
    )
    optimum, errors = _solve(
        start,
        args,
        shape=shape,
        max_steps=max_steps,
    )
    if unbounded:
        optimum = eqx.tree_at(lambda o: o.result, optimum, RESULTS.separation)
    return _action(optimum.value, *shape), _action(errors, *shape), optimum


def _independent(target: Moments, firth: bool) -> tuple[Action, Action, Optimum]:
    """Closed form: log-odds of the rates, with half a spike and half a silence added by `firth`."""
    rate, n = target.field, target.num_bins
    if firth:
        rate, n = (n * rate + 0.5) / (n + 1), n + 1
    entropy = -(jax.scipy.special.xlogy(rate, rate) + jax.scipy.special.xlog1py(1 - rate, -rate))
    zero = jnp.zeros((), rate.dtype)
    converged: Any = RESULTS.successful
    optimum = Optimum(rate, n * jnp.sum(entropy), zero, jnp.int32(0), converged)
    error = Action(1 / jnp.sqrt(n * rate * (1 - rate)))
    return Action(jnp.log(rate) - jnp.log1p(-rate)), error, optimum


@functools.partial(jax.jit, static_argnames=("shape", "max_steps"))
def _solve(start, args, *, shape, max_steps):
    loss_fn = functools.partial(_loss, shape=shape)
    optimum = truncated_newton(
        loss_fn,
        start,
        args,
        lambda v, a: jnp.matmul(a[3], v, precision=HIGHEST),
        max_steps=max_steps,
    )
    _, column = jax.linearize(lambda u: jax.grad(loss_fn)(u, args), optimum.value)
    # A few columns at a time: each holds vectors over all 2^N states.
    hessian = jax.lax.map(column, jnp.eye(start.shape[0], dtype=start.dtype), batch_size=8)
    variance = jnp.diagonal(jnp.linalg.inv(0.5 * (hessian + hessian.T)))
    # A flat direction (separation) has no finite error.
    return optimum, jnp.sqrt(jnp.where(variance > 0, variance, jnp.inf))


def _loss(theta: Float[Array, " p"], args, *, shape) -> Float[Array, ""]:
    """Minus the log-likelihood in nats, with the penalty."""
    target, target_vector, l2, _ = args
    rate = unchecked_log_partition_rate(_action(theta, *shape)) - jnp.dot(
        theta, target_vector, precision=HIGHEST
    )
    couplings = theta[shape[0] :]
    return target.num_bins * rate + 0.5 * l2 * jnp.sum(couplings**2)


def _vector(field: Array, space: Array, history: Array, *, pairwise: bool) -> Array:
    """Parameters, or their statistics, one after the other; each pair of neurons once."""
    parts = [field]
    if pairwise:
        parts.append(space[jnp.triu_indices(field.shape[0], 1)])
    return jnp.concatenate([*parts, history.reshape(-1)])


def _action(theta: Array, num_neurons: int, num_lags: int, pairwise: bool) -> Action:
    n = num_neurons
    num_pairs = n * (n - 1) // 2 if pairwise else 0
    space = jnp.zeros((n, n), theta.dtype)
    if pairwise:
        space = space.at[jnp.triu_indices(n, 1)].set(theta[n : n + num_pairs])
        space = space + space.T
    # Put in place, not constructed: the same layout holds errors, which may be infinite.
    empty = Action(jnp.zeros(n, theta.dtype))
    return eqx.tree_at(
        lambda a: (a.field, a.space, a.history),
        empty,
        (theta[:n], space, theta[n + num_pairs :].reshape(num_lags, n)),
    )


def _metric(data: Segments, target: Moments, pairwise: bool, l2: float) -> Array:
    """Nearly the Hessian: the empirical covariance of the statistics of single bins."""
    spikes = data.spikes.transpose(1, 0, 2).reshape(data.spikes.shape[1], -1)
    every = max(1, spikes.shape[1] // _PRECONDITIONER_BINS)
    now, later = spikes[:, :-1:every].astype(float), spikes[:, 1::every].astype(float)
    rows, columns = np.triu_indices(spikes.shape[0], 1)
    features = [now]
    if pairwise:
        features.append(now[rows] * now[columns])
    features.extend([now * later] * target.history.shape[0])
    stacked = jnp.concatenate(features)
    stacked = stacked - jnp.mean(stacked, axis=1, keepdims=True)
    covariance = jnp.matmul(stacked, stacked.T, precision=HIGHEST) / stacked.shape[1]
    ridge = jnp.ones(stacked.shape[0]).at[spikes.shape[0] :].add(l2)
    return target.num_bins * covariance + jnp.diag(ridge)


def _half_counts(target: Moments) -> Moments:
    """Half a count in every cell of each pair's 2 x 2 table: two bins of fair coins.

    For the table of one pair this is Jeffreys' prior, which Firth's (1993) penalty amounts to.
    """
    n = target.num_bins
    blend = lambda mean, coin: (n * mean + 2 * coin) / (n + 2)  # noqa: E731
    coins = jnp.where(jnp.eye(target.space.shape[0], dtype=bool), 0.5, 0.25)
    return Moments(
        blend(target.field, 0.5),
        blend(target.space, coins.astype(target.space.dtype)),
        blend(target.history, 0.25),
        n + 2,
    )
