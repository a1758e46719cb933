"""What the estimators take from a raster: spikes as numbers, valid bins, moments."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from neurofield._numerics import contract
from neurofield._types import Arrayish
from neurofield.lattice._likelihood import known_past
from neurofield.recording import Raster


class Segments(eqx.Module):
    """A raster's epochs or trials as one leading axis, with the bins that count."""

    spikes: Shaped[Array, "segment neuron time"]
    mask: Bool[Array, "segment time"]
    covariates: Float[Array, "segment covariate time"] | None


class Moments(eqx.Module):
    """Sufficient statistics of a stationary action, per bin, and the number of bins."""

    field: Float[Array, " neuron"]
    space: Float[Array, "neuron neuron"]
    history: Float[Array, "lag neuron"]
    num_bins: Float[Array, ""]


def segments(raster: Raster, covariates: Arrayish | None = None) -> Segments:
    """Host: checks that the raster is binary and that covariates lie on its bins."""
    spikes = raster.spikes.reshape(-1, *raster.spikes.shape[-2:])
    mask = raster.mask if raster.mask is not None else jnp.ones((1,), bool)
    mask = jnp.broadcast_to(mask, (*raster.spikes.shape[:-2], raster.num_bins))
    mask = mask.reshape(-1, raster.num_bins)
    if int(jnp.max(spikes, initial=0)) > 1:
        raise ValueError(
            "the lattice theory is binary, but the raster holds counts over 1: bin it with "
            "counts=False."
        )
    if covariates is not None:
        covariates = jnp.asarray(covariates)
        if covariates.ndim < 2 or covariates.shape[-1] != raster.num_bins:
            raise ValueError(
                f"covariates must be [..., K, time] with {raster.num_bins} bins, got "
                f"{covariates.shape}."
            )
        num_covariates = covariates.shape[-2]
        covariates = jnp.broadcast_to(
            covariates, (*raster.spikes.shape[:-2], num_covariates, raster.num_bins)
        ).reshape(-1, num_covariates, raster.num_bins)
        missing = ~jnp.all(jnp.isfinite(covariates), axis=-2)
        if bool(jnp.any(missing & mask)):
            raise ValueError(
                f"covariates hold NaN or infinity in {int(jnp.sum(missing & mask))} valid bins: "
                "restrict the raster to epochs where they were recorded, or mask these bins."
            )
        covariates = jnp.where(missing[:, None, :], 0.0, covariates)
    return Segments(spikes, mask, covariates)


def moments(data: Segments, num_lags: int) -> Moments:
    """Mean of x_i, x_i x_j and x_i(t) x_i(t+l) over valid bins, and pairs of them."""
    valid = data.mask.astype(float)
    x = data.spikes.astype(float) * valid[:, None, :]
    num_bins = jnp.sum(valid)
    history = []
    for lag in range(1, num_lags + 1):
        pairs = jnp.sum(valid[:, lag:] * valid[:, :-lag])
        together = contract("snt,snt->n", x[..., lag:], x[..., :-lag])
        history.append(together / jnp.maximum(pairs, 1.0))
    return Moments(
        jnp.sum(x, axis=(0, 2)) / num_bins,
        contract("sit,sjt->ij", x, x) / num_bins,
        jnp.stack(history) if history else jnp.zeros((0, x.shape[1])),
        num_bins,
    )


def interior(mask: Array, num_lags: int) -> Array:
    """Valid bins with `num_lags` valid bins on either side."""
    return known_past(mask, num_lags) & known_past(mask[..., ::-1], num_lags)[..., ::-1]


def check_extremes(target: Moments) -> None:
    """Raises `ValueError` for neurons whose field has no finite estimate."""
    extreme = np.flatnonzero((np.asarray(target.field) <= 0) | (np.asarray(target.field) >= 1))
    if extreme.size:
        raise ValueError(
            f"neurons {extreme.tolist()} fire in none or in all of the bins: their field has no "
            "finite estimate. Leave them out (units=...), or use firth=True."
        )


def touches_boundary(target: Moments, pairwise: bool) -> bool:
    """Whether a 2 x 2 table of a coupling's two bins has an empty cell: no finite maximum."""
    rate, space, history = (np.asarray(a) for a in (target.field, target.space, target.history))
    n = rate.shape[0]
    slack = 0.5 / float(target.num_bins)
    tables = []
    if pairwise:
        i, j = np.triu_indices(n, 1)
        tables.append((space[i, j], rate[i], rate[j]))
    tables.extend((h, rate, rate) for h in history)
    return any(
        (
            np.minimum.reduce([both, first - both, second - both, 1 - first - second + both])
            < slack
        ).any()
        for both, first, second in tables
        if both.size
    )
