"""The log-weight of a raster and its derivative, the local field."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import HIGHEST, contract
from neurofield._types import Covariates, Spikes
from neurofield.lattice._action import Action, Boundary, field_at


def log_weight(
    action: Action,
    spikes: Spikes,
    boundary: Boundary = "open",
    *,
    covariates: Covariates | None = None,
) -> Float[Array, "*batch"]:
    """Log-weight of rasters, `Wt = -action` (equation in `Action`); nats, unnormalised.

    **Arguments:** `spikes[..., N, T]` in {0, 1} whichever the action's basis; `boundary`: "open"
    drops pairs that leave the raster, "periodic" wraps them round. Float spikes may be soft: the
    result is the multilinear polynomial.

    **Raises** `ValueError` if the neurons or the bins of `field[N, T]` do not fit.
    """
    x = configuration(action, spikes)
    check_boundary(boundary)
    field = field_at(action, covariates)
    if field.ndim == 1:
        total = contract("i,...it->...", field, x)
    else:
        total = jnp.sum(_fits(field, x, x.shape) * x, axis=(-2, -1))
    total = total + 0.5 * contract(
        "...it,...it->...", jnp.matmul(action.space, x, precision=HIGHEST), x
    )
    for lag in range(1, action.num_lags + 1):
        past = shift(x, lag, boundary)
        if lag <= action.history.shape[0]:
            total = total + contract("i,...it,...it->...", action.history[lag - 1], x, past)
        if lag <= action.transfer.shape[0]:
            drive = jnp.matmul(action.transfer[lag - 1], past, precision=HIGHEST)
            total = total + contract("...it,...it->...", x, drive)
    return total


def local_field(
    action: Action,
    spikes: Spikes,
    boundary: Boundary = "open",
    *,
    covariates: Covariates | None = None,
) -> Float[Array, "*batch neuron time"]:
    """Local field h_i(t), the derivative of the log-weight with respect to x_i(t).

    Given all other sites, P(x_i(t) = 1) = 1 / (1 + exp(-h)) in the gas basis and
    1 / (1 + exp(-2 h)) in the spin basis, where the derivative is taken with respect to the spin.
    """
    x = configuration(action, spikes)
    check_boundary(boundary)
    field = field_at(action, covariates)
    field = field[:, None] if field.ndim == 1 else field
    # The symmetric part alone enters the log-weight, also while a fit perturbs one entry.
    space = 0.5 * (action.space + action.space.T)
    pairs = jnp.matmul(space, x, precision=HIGHEST)
    total = _fits(field, x, pairs.shape) + pairs
    for lag in range(1, action.num_lags + 1):
        past, future = shift(x, lag, boundary), shift(x, -lag, boundary)
        if lag <= action.history.shape[0]:
            total = total + contract("i,...it->...it", action.history[lag - 1], past + future)
        if lag <= action.transfer.shape[0]:
            w = action.transfer[lag - 1]
            total = total + jnp.matmul(w, past, precision=HIGHEST)
            total = total + jnp.matmul(w.T, future, precision=HIGHEST)
    return total


def configuration(action: Action, spikes: Spikes) -> Float[Array, "*batch neuron time"]:
    """Spikes in the dtype and the basis of the action."""
    x = jnp.asarray(spikes)
    if x.ndim < 2 or x.shape[-2] != action.num_neurons:
        raise ValueError(
            f"spikes must be [..., {action.num_neurons}, time] for this action, got {x.shape}."
        )
    x = x.astype(action.field.dtype)
    return x if action.basis == "gas" else 2 * x - 1


def shift(
    x: Float[Array, "*batch time"], lag: int, boundary: Boundary
) -> Float[Array, "*batch time"]:
    """y(t) = x(t - lag); what comes from outside is zero, or wraps round."""
    if boundary == "periodic":
        return jnp.roll(x, lag, axis=-1)
    if abs(lag) >= x.shape[-1]:
        return jnp.zeros_like(x)
    pad = [(0, 0)] * (x.ndim - 1)
    if lag > 0:
        return jnp.pad(x[..., :-lag], [*pad, (lag, 0)])
    return jnp.pad(x[..., -lag:], [*pad, (0, -lag)])


def check_boundary(boundary: str) -> None:
    if boundary not in ("open", "periodic"):
        raise ValueError(f"boundary must be 'open' or 'periodic', got {boundary!r}.")


def _fits(field: Array, x: Array, shape: tuple[int, ...]) -> Array:
    if field.shape[-1] not in (1, x.shape[-1]):
        raise ValueError(f"field has {field.shape[-1]} bins, the raster {x.shape[-1]}.")
    return jnp.broadcast_to(field, shape)
