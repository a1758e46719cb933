"""Held-out scores, with errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from neurofield._types import Arrayish
from neurofield.lattice._action import Action, Kinetic
from neurofield.lattice._data import Segments, segments
from neurofield.lattice._likelihood import bin_log_likelihood, known_past
from neurofield.recording import Raster
from neurofield.statistics import derived_error, mean_error


class Score(eqx.Module):
    """How well a model predicts a raster it was not fitted to; higher is better.

    `bits_per_bin`: mean log2-likelihood of a bin given its past, summed over neurons (negative).
    `bits_per_spike`: gain over the independent model divided by the number of spikes. Errors are
    standard errors by the Gamma method over time; `num_bins` and `num_spikes` are those scored.
    """

    bits_per_bin: float
    bits_per_bin_error: float
    bits_per_spike: float
    bits_per_spike_error: float
    num_bins: int = eqx.field(static=True)
    num_spikes: int = eqx.field(static=True)


def score(
    model: Action | Kinetic,
    raster: Raster,
    *,
    reference: Action | Kinetic | None = None,
    covariates: Arrayish | None = None,
    skip: int | None = None,
) -> Score:
    """Score a model on a raster (host function).

    **Arguments**

    - `reference`: the model that `bits_per_spike` is a gain over, most often the independent model
      of the training data. By default the independent model of the scored raster itself, which
      knows its rates: a slightly harder reference.
    - `skip`: bins left out at the start of every segment; at least the range of the model and the
      reference (the default). Give the largest range of the models to be compared, so that all are
      scored on the same bins.

    **Raises** `ValueError` where the model has no exact likelihood (an `Action` of more than 20
    neurons, with a range over 1, directed couplings or covariates), and where no bin or no spike is
    left to score.
    """
    data = segments(raster, covariates)
    needed = max(m.num_lags for m in (model, reference) if m is not None)
    lags = needed if skip is None else skip
    if lags < needed:
        raise ValueError(f"skip = {lags} bins, but the models need {needed} bins of past.")
    valid = known_past(data.mask, lags)
    if not bool(jnp.any(valid)):
        raise ValueError(f"no valid bin has {lags} valid bins before it: nothing to score.")
    dtype = model.field.dtype
    nats = _per_bin(model, data, data.covariates)
    if reference is None:
        base = _independent(data, valid, dtype)
    else:
        driven = reference.stimulus.shape[-1] > 0
        base = _per_bin(reference, data, data.covariates if driven else None)
    spikes = jnp.sum(data.spikes, axis=1, dtype=jnp.int32).astype(dtype)
    num_spikes = int(jnp.sum(jnp.where(valid, spikes, 0)))
    if num_spikes == 0:
        raise ValueError("the scored bins hold no spike: bits per spike have no meaning there.")
    bit = np.log(2).astype(dtype)
    series = jnp.stack([nats / bit, base / bit, spikes])
    mask = None if bool(jnp.all(valid)) else valid
    per_bin = mean_error(series[0], mask)
    per_spike = derived_error(
        lambda means: (means[0] - means[1]) / means[2], series, mask, num_replica_axes=1
    )
    return Score(
        float(per_bin.mean),
        float(per_bin.error),
        float(per_spike.mean),
        float(per_spike.error),
        int(jnp.sum(valid)),
        num_spikes,
    )


@jax.jit
def _per_bin(model, data: Segments, covariates) -> Array:
    return bin_log_likelihood(model, data.spikes, covariates=covariates)


def _independent(data: Segments, valid: Array, dtype) -> Array:
    x = data.spikes.astype(dtype)
    weight = valid.astype(dtype)[:, None]
    rate = jnp.sum(x * weight, axis=(0, 2)) / jnp.sum(weight)
    rate = rate[None, :, None]
    return jnp.sum(
        jax.scipy.special.xlogy(x, rate) + jax.scipy.special.xlog1py(1 - x, -rate), axis=1
    )
