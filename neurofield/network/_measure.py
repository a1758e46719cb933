"""Statistics of a simulation, by population."""

from jaxtyping import Array, Float

from neurofield.recording import Raster
from neurofield.statistics import Statistics, lagged_covariance, mean_error, measure


def measure_spikes(raster: Raster, num_lags: int) -> Statistics:
    """Of the population means of a raster."""
    return measure(raster, min(num_lags, raster.num_bins), populations=True)


def measure_rates(
    means: Float[Array, "population bin"], names: tuple[str, ...], bin_width: float, num_lags: int
) -> Statistics:
    """Of the mean rate of each population; the "hertz" of a rate unit are its own unit."""
    found = mean_error(means, num_replica_axes=0)
    lagged = lagged_covariance(means, min(num_lags, means.shape[-1]))
    return Statistics(
        rate=found.mean,
        bin_width=bin_width,
        covariance=lagged[0],
        lagged=lagged,
        rate_error=found.error,
        labels=names,
    )
