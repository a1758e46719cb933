"""Poisson units whose rates share a modulation: correlated counts without any interaction."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from neurofield._validate import not_negative
from neurofield.recording import Raster

from ._check import whole_steps
from ._neuron import as_parameter
from ._noise import OrnsteinUhlenbeck
from ._poisson import poisson_counts
from ._synthetic_counts import as_bits, checked_counts


class PoissonNull(eqx.Module):
    """A raster of units that do not interact, and what made it.

    - `rates`: `[neuron]`, Hz. `modulation`: `[time]`, the factor that all rates share.
    """

    raster: Raster
    rates: Float[Array, " neuron"]
    modulation: Float[Array, " time"]


def poisson_null(
    key: PRNGKeyArray,
    duration: float,
    rates: ArrayLike,
    bin_width: float,
    *,
    modulation: ArrayLike | None = None,
    binary: bool = False,
) -> PoissonNull:
    """Inhomogeneous Poisson units of the rates `rates[neuron] * modulation[time]`.

    Given the modulation the counts are independent, of mean and variance rate * modulation *
    `bin_width`: whatever correlation is found beyond the modulation's own is a false positive.

    - `duration`, `bin_width`: seconds; the modulation is constant within a bin.
    - `modulation`: `[time]`, a factor of no unit, for instance `log_normal_modulation(...)`; 1
      by default.
    - `binary`: whether a bin holds 1 for at least one spike, of probability 1 - exp(-mean), instead
      of the count.

    Raises `ValueError` for wrong shapes, values that are negative or not finite, a duration that is
    no whole number of bins, and counts above 255.
    """
    num_bins = whole_steps("duration", duration, bin_width, unit="bin_width")
    rates = as_parameter(rates)
    modulation = jnp.ones(num_bins, rates.dtype) if modulation is None else as_parameter(modulation)
    if rates.ndim != 1 or modulation.shape != (num_bins,):
        raise ValueError(
            f"rates must be [neuron] and modulation [time] = ({num_bins},), got shapes "
            f"{rates.shape} and {modulation.shape}."
        )
    not_negative("rates", rates)
    not_negative("modulation", modulation)
    spikes, most = _draw(key, rates * bin_width, modulation)
    spikes = checked_counts(spikes, most)
    if binary:
        spikes = jnp.minimum(spikes, 1)
    return PoissonNull(Raster(spikes, bin_width), rates, modulation)


@jax.jit
def _draw(key: PRNGKeyArray, means: Array, modulation: Array) -> tuple[Array, Array]:
    # One unit after the other: memory is that of the raster, and a busy unit costs the others
    # nothing.
    keys = jax.random.split(key, len(means))
    return jax.lax.map(lambda x: as_bits(poisson_counts(x[0], x[1] * modulation)), (keys, means))


def log_normal_modulation(
    key: PRNGKeyArray, duration: float, bin_width: float, sd: ArrayLike, tau: ArrayLike
) -> Float[Array, " time"]:
    """exp(x - sd^2 / 2) of a stationary Ornstein-Uhlenbeck process x, at the bins' left edges.

    The mean is 1, the covariance exp(sd^2 exp(-|t - t'| / tau)) - 1. `tau`, `duration` and
    `bin_width` are in seconds; `sd` is that of the logarithm. Differentiable by `sd` and `tau`.

    Raises `ValueError` for a negative `sd`, a `tau` that is not positive, and a duration that is no
    whole number of bins.
    """
    num_bins = whole_steps("duration", duration, bin_width, unit="bin_width")
    process = OrnsteinUhlenbeck(sd=as_parameter(sd), tau=as_parameter(tau))
    dtype = jnp.result_type(process.sd, process.tau)
    start_key, step_key = jax.random.split(key)
    start = process.init(start_key, 1, bin_width, dtype)

    def step(state, x):
        index, key = x
        return process.step(key, state, index, bin_width)

    keys = jax.random.split(step_key, num_bins)
    _, x = jax.lax.scan(step, start, (jnp.arange(num_bins, dtype=jnp.uint32), keys))
    return jnp.exp(x[:, 0] - process.sd**2 / 2)
