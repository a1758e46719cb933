"""A driven branching process over units of which some are observed."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from neurofield._validate import not_negative, positive
from neurofield.recording import Raster

from ._check import whole_steps
from ._neuron import as_parameter
from ._poisson import poisson_counts
from ._synthetic_counts import as_bits, checked_counts


class BranchingProcess(eqx.Module):
    """A raster of the observed units of a branching process, and what made it.

    - `activity`: `[time]`, events of all units, observed or not, in a bin.
    - `branching_ratio`, `drive`: m and h (events in a bin).
    - `fraction`: observed share of the units (static).
    """

    raster: Raster
    activity: Float[Array, " time"]
    branching_ratio: Float[Array, ""]
    drive: Float[Array, ""]
    fraction: float = eqx.field(static=True)


def branching_process(
    key: PRNGKeyArray,
    duration: float,
    branching_ratio: ArrayLike,
    drive: ArrayLike,
    bin_width: float,
    *,
    num_units: int = 100,
    num_observed: int | None = None,
    warm_up: int = 1000,
) -> BranchingProcess:
    """The driven branching process A(t + 1) ~ Poisson(m A(t) + h), one generation a bin.

    Each event falls on one of `num_units` units, all alike, so that the raster of the first
    `num_observed` (all by default) is the exact binomial thinning of the activity. The stationary
    activity has the mean h / (1 - m), the variance h / ((1 - m) (1 - m^2)) and the autocorrelation
    m^k at lag k; that of the observed share f is b m^k, b = f / (f + (1 - f) (1 - m^2)). After
    Wilting and Priesemann (2018), Nat. Commun. 9, 2325.

    - `duration`, `bin_width`: seconds. `branching_ratio`: m, in [0, 1). `drive`: h, events a bin,
      positive.
    - `warm_up`: bins before the recording, from an activity that is the stationary mean: the
      variance is short of the stationary one by the factor 1 - m^(2 warm_up).

    Raises `ValueError` for parameters outside these ranges, a duration that is no whole number of
    bins, and a unit of more than 255 events in a bin.
    """
    num_bins = whole_steps("duration", duration, bin_width, unit="bin_width")
    num_observed = num_units if num_observed is None else num_observed
    if not 1 <= num_observed <= num_units or warm_up < 0:
        raise ValueError(
            f"num_observed must lie in 1 .. num_units = {num_units} and warm_up not be negative, "
            f"got {num_observed} and {warm_up}."
        )
    ratio, drive = as_parameter(branching_ratio), as_parameter(drive)
    if ratio.ndim or drive.ndim:
        raise ValueError(
            f"branching_ratio and drive must be numbers, got shapes {ratio.shape}, {drive.shape}; "
            "use vmap for several."
        )
    positive("1 - branching_ratio", 1 - ratio)
    not_negative("branching_ratio", ratio)
    positive("drive", drive)
    activity, spikes, most = _run(key, ratio, drive, num_units, num_observed, warm_up, num_bins)
    spikes = checked_counts(spikes, most)
    raster = Raster(spikes.T, bin_width)
    return BranchingProcess(raster, activity, ratio, drive, num_observed / num_units)


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _run(
    key: PRNGKeyArray,
    ratio: Array,
    drive: Array,
    num_units: int,
    num_observed: int,
    warm_up: int,
    num_bins: int,
) -> tuple[Array, Array, Array]:
    def step(activity: Array, index: Array):
        # A Poisson number of events, each on any unit, is an independent Poisson number on each.
        mean = (ratio * activity + drive) / num_units
        counts = poisson_counts(jax.random.fold_in(key, index), mean, (num_units,))
        activity = jnp.sum(counts)
        return activity, (activity, *as_bits(counts[:num_observed]))

    start = (drive / (1 - ratio)).astype(jnp.result_type(ratio, drive))
    _, found = jax.lax.scan(step, start, jnp.arange(warm_up + num_bins, dtype=jnp.uint32))
    return jax.tree.map(lambda x: x[warm_up:], found)
