"""The conditional intensity: what a model expects of each bin, knowing the past alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._types import Covariates, Spikes
from neurofield.lattice._action import Action, Kinetic, to_basis
from neurofield.lattice._likelihood import logits
from neurofield.lattice._transfer import (
    doob,
    kronecker_apply,
    lag_blocks,
    state_energies,
    state_index,
    states,
    stationary,
)


def predict(
    model: Action | Kinetic,
    spikes: Spikes,
    *,
    covariates: Covariates | None = None,
) -> Float[Array, "*batch neuron time"]:
    """P(x_i(t) = 1 | x(t-1), x(t-2), ...), the conditional intensity per bin.

    Divide by the bin width for hertz. The first `model.num_lags` bins have no known past: they
    hold the model's stationary rate for an `Action`, and for a `Kinetic` model, which has no
    closed form for it, the intensity after silence. An `Action` is read as the stationary theory
    of infinite time (N <= 20, own-history range R <= 1).

    **Raises** `ValueError` for an `Action` that has no such solution; its conditional on *all*
    other sites is `jax.nn.sigmoid(local_field(action, spikes))` at any size.
    """
    x = jnp.asarray(spikes)
    if isinstance(model, Kinetic):
        # Silence before the raster: no drive from before its first bin.
        before = [(0, 0)] * (x.ndim - 1) + [(model.num_lags, 0)]
        if covariates is not None:
            ahead = [(0, 0)] * (covariates.ndim - 1) + [(model.num_lags, 0)]
            covariates = jnp.pad(jnp.asarray(covariates), ahead)
        return jax.nn.sigmoid(logits(model, jnp.pad(x, before), covariates))
    if covariates is not None:
        raise ValueError("an Action with covariates has no stationary solution to predict from.")
    action = stationary(model)
    if action.basis == "spin":
        action, _ = to_basis(action, "gas", 1, "periodic")
    rate = stationary_rate(action)[:, None]
    if action.history.shape[0] == 0:
        return jnp.broadcast_to(rate, x.shape)
    intensity = _given_state(action)[:, state_index(x[..., :-1])]
    intensity = jnp.moveaxis(intensity, 0, -2)
    first = jnp.broadcast_to(rate, (*x.shape[:-1], 1))
    return jnp.concatenate([first, intensity], axis=-1)


def stationary_rate(action: Action) -> Float[Array, " neuron"]:
    """P(x_i = 1) of a gas action with R <= 1 in infinite time."""
    return states(action.num_neurons, action.field.dtype) @ stationary_weights(action)


def stationary_weights(action: Action) -> Float[Array, " state"]:
    """Probability of every slice in infinite time: pi = psi D psi, normalised."""
    energy = state_energies(action)
    if action.history.shape[0] == 0:
        return jax.nn.softmax(energy)
    return jax.nn.softmax(energy + 2 * doob(action)[1])


def _given_state(action: Action) -> Float[Array, "neuron state"]:
    """P(x_i' = 1 | slice), for every slice at once: N Kronecker products."""
    log_rate, log_psi = doob(action)
    energy = state_energies(action)
    ahead = jnp.exp(energy + log_psi - log_rate)
    s = states(action.num_neurons, action.field.dtype)
    summed = kronecker_apply(lag_blocks(action.history), s.T * ahead[:, None])
    return summed.T * jnp.exp(-log_psi)[None, :]
