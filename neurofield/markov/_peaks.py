"""Peaks of a rate and the differences of their heights: the diagram of period doubling."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal
from jaxtyping import Array, Float, Int

from ._parameters import Parameters
from ._solve import solve


class Peaks(NamedTuple):
    """Volleys of a population (host arrays).

    - `time`: `[peak]`, seconds from the first sample; `height`: `[peak]`, hertz of the whole
      population, smoothed.
    - `difference`: `[peak - 1]`, of successive heights; `interval`: `[peak - 1]`, seconds.
    - `histogram`, `edges`: of the differences, of which those beyond the last edges are left out.
    """

    time: Float[np.ndarray, " peak"]
    height: Float[np.ndarray, " peak"]
    difference: Float[np.ndarray, " gap"]
    interval: Float[np.ndarray, " gap"]
    histogram: Int[np.ndarray, " bin"]
    edges: Float[np.ndarray, " edge"]

    @property
    def mean_difference(self) -> float:
        """Mean size of the differences, hertz; NaN for fewer than two peaks."""
        return _mean(np.abs(self.difference))

    @property
    def mean_interval(self) -> float:
        """Seconds; NaN for fewer than two peaks."""
        return _mean(self.interval)


class PeakDiagram(NamedTuple):
    """Peaks along a parameter: `value` `[value]`, and for each its mean difference (hertz), mean
    interval (seconds), the `histogram` `[value, bin]` of differences, and all `peaks`."""

    value: Float[np.ndarray, " value"]
    mean_difference: Float[np.ndarray, " value"]
    mean_interval: Float[np.ndarray, " value"]
    histogram: Int[np.ndarray, "value bin"]
    edges: Float[np.ndarray, " edge"]
    peaks: tuple[Peaks, ...]


def peak_differences(
    rate: Any,
    dt: float,
    *,
    smooth: float = 1e-3,
    min_distance: float = 9e-3,
    min_height: float = 1e4,
    discard: float = 0.1,
    bin_width: float = 5e3,
    limit: float = 3e5,
) -> Peaks:
    """Peaks of a rate and the differences of successive heights (Chang et al. 2025).

    Equal heights are a cycle of period 1, two differences of opposite sign one of period 2.

    - `rate`: `[time]`, hertz of the whole population (of one neuron, times their number), at
      samples `dt` seconds apart.
    - `smooth`: seconds, of the moving average, over the odd number of samples that fits.
    - `discard`: seconds at the beginning.
    - `min_distance` (seconds), `min_height` (hertz): of a peak. Of two that are nearer the higher
      is kept.
    - `bin_width`, `limit`: hertz, of the histogram of differences, from -`limit` to `limit`.

    A host function: it has no gradient. Raises `ValueError` for a bad argument.
    """
    rate = np.asarray(rate, float)
    if rate.ndim != 1 or not np.all(np.isfinite(rate)):
        raise ValueError(f"rate must be finite numbers in time, got the shape {rate.shape}.")
    for what, value in (("dt", dt), ("bin_width", bin_width), ("limit", limit)):
        if not value > 0:
            raise ValueError(f"{what} must be positive, got {value}.")
    # The published moving average of 10 samples has, for symmetry, 9.
    width, skip = max(round(smooth / dt) - 1, 0) // 2 * 2 + 1, round(discard / dt)
    if rate.size < skip + width:
        raise ValueError(
            f"{rate.size * dt:.6g} s of rate are too short to discard {discard} s and to average "
            f"over {smooth} s."
        )
    smoothed = np.convolve(rate[skip:], np.full(width, 1 / width), mode="valid")
    at, _ = scipy.signal.find_peaks(smoothed, height=min_height, distance=max(min_distance / dt, 1))
    time, height = (skip + at + (width - 1) / 2) * dt, smoothed[at]
    edges = bin_width * np.arange(-round(limit / bin_width), round(limit / bin_width) + 1)
    difference = np.diff(height)
    histogram, _ = np.histogram(difference, edges)
    return Peaks(time, height, difference, np.diff(time), histogram, edges)


def peak_diagram(
    vary: Callable[[Any], Parameters],
    values: Sequence[float] | Float[np.ndarray, " value"] | Float[Array, " value"],
    duration: float = 1.5,
    *,
    population: int = 0,
    save_dt: float = 1e-4,
    peaks: dict[str, Any] | None = None,
    **solve_options: Any,
) -> PeakDiagram:
    """The peaks of one population at each value of a parameter, solved side by side.

    - `vary`: a function of one number, by JAX, to `Parameters`.
    - `peaks`: options of `peak_differences`; `discard` is by default a third of `duration`.
    - `solve_options`: of `solve`: `backend`, `closure`, `voltage_bin`, `refractory`, ...

    Raises `RuntimeError` where a solve does not end well.
    """
    values = np.asarray(values, float)
    options = {"discard": duration / 3} | dict(peaks or {})

    @jax.jit
    def flows(value: Array) -> Array:
        params = vary(value)
        solution = solve(params, duration, save_dt=save_dt, throw=False, **solve_options)
        return solution.rate[population] * params.size[population]

    flow = np.asarray(jax.vmap(flows)(jnp.asarray(values)))
    failed = values[~np.all(np.isfinite(flow), axis=1)]
    if failed.size:
        raise RuntimeError(f"solve did not end well at the values {failed.tolist()}.")
    found = tuple(peak_differences(x, save_dt, **options) for x in flow)
    return PeakDiagram(
        value=values,
        mean_difference=np.array([x.mean_difference for x in found]),
        mean_interval=np.array([x.mean_interval for x in found]),
        histogram=np.stack([x.histogram for x in found]),
        edges=found[0].edges,
        peaks=found,
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else np.nan
