"""Exact log-likelihoods of rasters, bin by bin given the past."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import HIGHEST, softplus, sum_softplus
from neurofield._types import Covariates, Mask, Spikes
from neurofield.lattice._action import Action, Kinetic, field_at, to_basis
from neurofield.lattice._transfer import doob, log_partition_rate, state_index, stationary
from neurofield.lattice._weight import local_field


def log_likelihood(
    model: Action | Kinetic,
    spikes: Spikes,
    *,
    mask: Mask | None = None,
    covariates: Covariates | None = None,
) -> Float[Array, "*batch"]:
    """Log-probability in nats of the bins of a raster given the bins before them.

    The sum of `bin_log_likelihood` over the bins whose whole past (`model.num_lags` bins) lies in
    the raster and, with `mask[..., T]`, is valid: T - num_lags transitions of an unbroken raster.
    """
    if mask is not None:
        per_bin = bin_log_likelihood(model, spikes, covariates=covariates)
        return jnp.sum(jnp.where(known_past(mask, model.num_lags), per_bin, 0.0), axis=-1)
    if isinstance(model, Kinetic):
        return jnp.sum(_kinetic(model, spikes, covariates), axis=-1)
    return jnp.sum(bin_log_likelihood(model, spikes, covariates=covariates), axis=-1)


def bin_log_likelihood(
    model: Action | Kinetic,
    spikes: Spikes,
    *,
    covariates: Covariates | None = None,
) -> Float[Array, "*batch time"]:
    """log P(x(t) | x(t-1), ...) of every bin, in nats, summed over neurons; `[..., T]`.

    The first `model.num_lags` bins have no known past and hold 0. An `Action` is read as the
    stationary theory of infinite time, made causal by the Doob transform, which is exact for
    N <= 20 and own-history range R <= 1.

    **Raises** `ValueError` for an `Action` that has no such solution.
    """
    if isinstance(model, Kinetic):
        per_bin = _kinetic(model, spikes, covariates)
        return jnp.pad(per_bin, [(0, 0)] * (per_bin.ndim - 1) + [(model.num_lags, 0)])
    if covariates is not None:
        raise ValueError(
            "an Action with covariates has no stationary solution: score it by its "
            "pseudo-likelihood."
        )
    action = stationary(model)
    if action.basis == "spin":
        action, _ = to_basis(action, "gas", 1, "periodic")
    x = jnp.asarray(spikes).astype(action.field.dtype)
    static = jnp.matmul(action.field, x, precision=HIGHEST) + 0.5 * jnp.sum(
        x * jnp.matmul(action.space, x, precision=HIGHEST), axis=-2
    )
    if action.history.shape[0] == 0:
        return static - log_partition_rate(action)
    log_rate, log_psi = doob(action)
    value = log_psi[state_index(spikes)]
    returns = jnp.matmul(action.history[0], x[..., 1:] * x[..., :-1], precision=HIGHEST)
    per_bin = static[..., 1:] + returns + value[..., 1:] - value[..., :-1] - log_rate
    return jnp.pad(per_bin, [(0, 0)] * (per_bin.ndim - 1) + [(1, 0)])


def pseudo_log_likelihood(
    action: Action,
    spikes: Spikes,
    *,
    covariates: Covariates | None = None,
) -> Float[Array, "*batch neuron time"]:
    """log P(x_i(t) | all other sites) of every site, in nats (Besag 1975).

    Consistent for fitting at any number of neurons, but not a log-likelihood: its sum over
    neurons counts shared structure once for each partner. Bins closer than `num_lags` to an end
    lack a part of their surroundings.
    """
    h = local_field(action, spikes, covariates=covariates)
    h = h if action.basis == "gas" else 2 * h
    return jnp.asarray(spikes).astype(h.dtype) * h - softplus(h)


def logits(
    model: Kinetic, spikes: Spikes, covariates: Covariates | None
) -> Float[Array, "*batch neuron step"]:
    """Log-odds of a spike in each bin that has its whole past: bins num_lags..T-1."""
    x = jnp.asarray(spikes)
    if x.ndim < 2 or x.shape[-2] != model.num_neurons:
        raise ValueError(
            f"spikes must be [..., {model.num_neurons}, time] for this model, got {x.shape}."
        )
    lags, steps = model.num_lags, x.shape[-1]
    if steps <= lags:
        raise ValueError(f"{steps} bins hold no bin with {lags} bins before it.")
    field = field_at(model, covariates)
    if field.ndim > 1 and field.shape[-1] != steps:
        raise ValueError(f"covariates have {field.shape[-1]} bins, the raster {steps}.")
    field = field[..., lags:] if field.ndim > 1 else field[:, None]
    past = x.astype(model.field.dtype)
    total = jnp.broadcast_to(field, (*x.shape[:-1], steps - lags))
    for lag in range(1, lags + 1):
        total = total + jnp.matmul(
            model.weight[lag - 1], past[..., lags - lag : steps - lag], precision=HIGHEST
        )
    return total


def known_past(mask: Mask, num_lags: int) -> Array:
    """Valid bins whose `num_lags` predecessors are valid too."""
    mask = jnp.asarray(mask)
    known = mask
    for lag in range(1, num_lags + 1):
        past = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(lag, 0)])[..., : mask.shape[-1]]
        known = known & past
    return known


def _kinetic(
    model: Kinetic, spikes: Spikes, covariates: Covariates | None
) -> Float[Array, "*batch step"]:
    h = logits(model, spikes, covariates)
    x = jnp.asarray(spikes)[..., model.num_lags :].astype(h.dtype)
    return jnp.sum(x * h, axis=-2) - sum_softplus(h)
