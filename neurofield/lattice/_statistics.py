"""What an action predicts of a recording, exactly."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import HIGHEST
from neurofield.lattice._action import Action, to_basis
from neurofield.lattice._predict import stationary_weights
from neurofield.lattice._transfer import (
    doob,
    kronecker_apply,
    lag_blocks,
    state_energies,
    states,
    stationary,
)
from neurofield.statistics import Statistics


def statistics(action: Action, bin_width: float, num_lags: int = 1) -> Statistics:
    """Exact rates (Hz), covariances, lagged covariances and population counts in infinite time.

    **Arguments:** `bin_width` in seconds, the lattice spacing; `num_lags`: L, lags 0..L-1 of
    `lagged[l, i, j] = cov(x_i(t+l), x_j(t))`. Needs N <= 20 and own-history range R <= 1.
    There are no errors: the theory's prediction is exact.
    """
    action = stationary(action)
    if action.basis == "spin":
        action, _ = to_basis(action, "gas", 1, "periodic")
    weights = stationary_weights(action)
    s = states(action.num_neurons, action.field.dtype)
    mean = jnp.matmul(s, weights, precision=HIGHEST)
    lagged = _lagged(action, s, weights, num_lags) - (mean[:, None] * mean[None, :])[None]
    active = jnp.sum(s, axis=0).astype(jnp.int32)
    counts = jax.ops.segment_sum(weights, active, num_segments=action.num_neurons + 1)
    covariance = jnp.matmul(s * weights[None, :], s.T, precision=HIGHEST)
    return Statistics(
        rate=mean / bin_width,
        bin_width=float(bin_width),
        covariance=covariance - mean[:, None] * mean[None, :],
        lagged=lagged,
        population_count=counts,
    )


def _lagged(
    action: Action, s: Array, weights: Array, num_lags: int
) -> Float[Array, "lag neuron neuron"]:
    """<x_i(t+l) x_j(t)>, by pushing x_i back through the chain one step at a time."""
    if action.history.shape[0] == 0:
        mean = jnp.matmul(s, weights, precision=HIGHEST)
        now = jnp.matmul(s * weights[None, :], s.T, precision=HIGHEST)
        later = jnp.broadcast_to(mean[:, None] * mean[None, :], (max(num_lags - 1, 0), *now.shape))
        return jnp.concatenate([now[None], later])[:num_lags]
    log_rate, log_psi = doob(action)
    blocks = lag_blocks(action.history)
    ahead = jnp.exp(state_energies(action) + log_psi - log_rate)
    behind = jnp.exp(-log_psi)

    def step(expected, _):
        # E[x_i(t+l) | slice at t], columns i.
        moment = jnp.matmul(expected.T, (s * weights[None, :]).T, precision=HIGHEST)
        expected = behind[:, None] * kronecker_apply(blocks, ahead[:, None] * expected)
        return expected, moment

    return jax.lax.scan(step, s.T, length=num_lags)[1]
