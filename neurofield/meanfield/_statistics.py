"""Statistics of a solution, in the currency of measurements."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import contract, standard_error
from neurofield.statistics import Statistics, frequencies

from ._solution import Solution


def statistics(
    solution: Solution,
    *,
    bin_width: float | None = None,
    num_lags: int = 1,
    segment_length: int | None = None,
) -> Statistics:
    """Rates, lagged covariances and spectra of the populations' means in bins, of a network.

    What `statistics.measure(raster, num_lags, populations=True)` of a long simulation of the
    network estimates, in its definitions: x is the population's mean count of spikes in a bin, the
    mean binary state at its end, or the mean rate over it; covariances are over time. At leading
    order populations do not covary and the variance is that of one neuron over time, divided by
    their size; with order "shared" or "nested" it is `solution.population_covariance`.

    - `bin_width`: seconds, a multiple of `dt`; by default 1 ms, or `dt` if longer.
    - `num_lags`: L; lags 0 .. L - 1, within the lags of the solution.
    - `segment_length`: bins of the Welch segments whose expectation the spectrum is; by default
      128, or all bins within the lags of the solution if fewer.

    Errors are from the spread between the solution's groups of paths, and `None` for closed forms.
    Differentiable. Raises `ValueError` for a solution that is not stationary, for bins that are no
    multiple of `dt`, and for lags that the solution does not reach.
    """
    return with_deviations(solution, bin_width, num_lags, segment_length)[0]


def with_deviations(
    solution: Solution, bin_width: float | None, num_lags: int, segment_length: int | None
) -> tuple[Statistics, dict[str, Array] | None]:
    """`statistics`, and by field `[replica, ...]`, whose products sum to the covariance of errors.

    The latter is `None` for closed forms.
    """
    width, steps = bins_of(solution, bin_width)
    kinds = [population.neuron.kind for population in solution.network.populations]
    available = num_bins_within(solution, steps)
    length = min(128, available) if segment_length is None else segment_length
    if not 1 <= num_lags <= available or not 2 <= length <= available:
        raise ValueError(
            f"num_lags = {num_lags} and segment_length = {length} must lie within the "
            f"{available} bins of {width:g} s that the solution's lags reach: solve with a longer "
            "max_lag, or take fewer."
        )
    sizes = [population.size for population in solution.network.populations]
    per_bin = [width if kind == "binary" else 1.0 for kind in kinds]
    dtype = solution.mean.dtype

    def moments(found: dict[str, Array]) -> dict[str, Array]:
        covariance = found.get("population_covariance")
        if covariance is None:
            own = (found["covariance"] - found["quenched"][:, None]) / _column(sizes, dtype)
            covariance = jnp.eye(len(sizes), dtype=dtype)[:, :, None] * own[:, None]
        lagged = binned_covariance(covariance, filters(kinds, steps, solution.dt), length, steps)
        first = binned_covariance(covariance, filters(kinds, steps, solution.dt), num_lags, steps)
        density = _welch(lagged, width)
        return {
            "rate": found["mean"] / jnp.asarray(per_bin, dtype),
            "lagged": jnp.moveaxis(first, -1, 0),
            "real": density.real,
            "imag": density.imag,
        }

    found, error, apart = with_errors(moments, solution)
    if apart is not None:
        real, imag = apart.pop("real"), apart.pop("imag")
        apart |= {"covariance": apart["lagged"][:, 0], "spectrum": jax.lax.complex(real, imag)}
    whole = Statistics(
        rate=found["rate"],
        bin_width=width,
        covariance=found["lagged"][0],
        lagged=found["lagged"],
        frequency=frequencies(length, width).astype(dtype),
        spectrum=jax.lax.complex(found["real"], found["imag"]),
        rate_error=None if error is None else error["rate"],
        covariance_error=None if error is None else error["lagged"][0],
        lagged_error=None if error is None else error["lagged"],
        spectrum_error=None if error is None else jnp.hypot(error["real"], error["imag"]),
        labels=solution.names,
    )
    return whole, apart


def bins_of(solution: Solution, bin_width: float | None) -> tuple[float, int]:
    """The width of bins in seconds, and in steps. Raises `ValueError` if they are none."""
    if not solution.stationary:
        raise ValueError(
            "statistics in bins are those of a stationary state, and this solution is a course in "
            'time: solve with method="stationary", or look at its mean and covariance.'
        )
    width = max(1e-3, solution.dt) if bin_width is None else float(bin_width)
    steps = round(width / solution.dt) if math.isfinite(width) else 0
    if steps < 1 or abs(width / solution.dt - steps) > 1e-6 * steps:
        raise ValueError(
            f"bin_width = {width} s must be a whole number of the solution's steps of "
            f"{solution.dt} s."
        )
    return width, steps


def num_bins_within(solution: Solution, steps: int) -> int:
    """How many lags in bins of `steps` steps the lags of the solution hold."""
    num_lags = solution.covariance.shape[-1]
    return (num_lags - steps) // steps + 1 if num_lags >= steps else 0


def with_errors(
    fn: Callable[[dict[str, Array]], dict[str, Array]], solution: Solution
) -> tuple[dict[str, Array], dict[str, Array] | None, dict[str, Array] | None]:
    """`fn` of the solution's estimates, with standard errors from its groups of paths.

    Last, `[replica, ...]`, deviations whose products sum to the covariance of the errors.
    """
    found: dict[str, Any] = {
        name: getattr(solution, name)
        for name in ("mean", "covariance", "quenched", "population_covariance")
        if getattr(solution, name) is not None
    }
    if solution.replicas is None or solution.mean_error is None:
        return fn(found), None, None
    groups = {name: solution.replicas.get(name) for name in found}
    constant = {name: found[name] for name, x in groups.items() if x is None}
    varying = {name: x for name, x in groups.items() if x is not None}
    each = jax.vmap(lambda one: fn({**constant, **one}))(varying)
    count = len(varying["mean"])
    scale = 1 / math.sqrt(count * (count - 1))
    apart = {name: scale * (x - jnp.mean(x, axis=0)[None]) for name, x in each.items()}
    error = {name: standard_error(x) for name, x in each.items()}
    return fn(found), error, apart


def filters(kinds: list[str], steps: int, dt: float, *, sampled: bool = False) -> np.ndarray:
    """What a bin takes of each step's output, `[population, step]`.

    Counts of spikes, the last of binary states, the mean of rates; `sampled`: the last of rates.
    """
    last = np.zeros(steps)
    last[-1] = 1
    rows = {"spike": np.full(steps, dt), "binary": last, "rate": np.full(steps, 1 / steps)}
    if sampled:
        rows["rate"] = last
    return np.stack([rows[kind] for kind in kinds])


def binned_covariance(
    covariance: Float[Array, "row column lag"], filters: np.ndarray, num_bins: int, steps: int
) -> Float[Array, "row column bin"]:
    """Covariances of the contents of bins from those of steps, cov(x_p(t + lag), x_q(t))."""
    before = jnp.swapaxes(covariance, 0, 1)[..., :0:-1]
    both = jnp.concatenate([before, covariance], axis=-1)
    shift = np.arange(1 - steps, steps)
    place = np.arange(num_bins)[:, None] * steps + shift[None] + before.shape[-1]
    overlap = np.stack([np.stack([np.correlate(p, q, "full") for q in filters]) for p in filters])
    return contract("pqbs,pqs->pqb", both[..., place], jnp.asarray(overlap, both.dtype))


def _welch(lagged: Float[Array, "row column bin"], width: float) -> Array:
    """The expectation of Welch's estimate of the spectrum, `[frequency, row, column]`."""
    length = lagged.shape[-1]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    window = np.correlate(hann, hann, "full")[length - 1 :] / np.sum(hann**2)
    seen = lagged * jnp.asarray(window, lagged.dtype)[None, None]
    circle = jnp.concatenate(
        [seen, jnp.zeros_like(seen[..., :1]), jnp.swapaxes(seen, 0, 1)[..., :0:-1]], axis=-1
    )
    # Twice as fine as the frequencies of the segment.
    return width * jnp.moveaxis(jnp.fft.fft(circle)[..., : length + 1 : 2], -1, 0)


def _column(values: list[int], dtype: Any) -> Array:
    return jnp.asarray(values, dtype)[:, None]
