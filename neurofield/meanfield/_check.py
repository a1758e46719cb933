"""`check`: the theory against direct simulations of the same network."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy import stats

from neurofield.network import simulate

from ._observables import Observables, measure_cvs, observe, predict_observables
from ._solution import Solution

_LIMIT = 4.0


class Check(eqx.Module):
    """Predictions of a solution beside simulations of its network; `print` shows the table.

    - `quantity`: names of the rows (static).
    - `predicted`, `simulated`, `error`: `[row]`; the error is that of their difference, from the
      spread between networks and between the solution's groups of paths.
    - `z`: `[row]`, the normal deviate as improbable as Welch's t of the difference, which has few
      degrees of freedom where there are few networks.
    - `num_networks`, `duration`: of the simulations (static); `source`: what was compared with.
    """

    predicted: Float[np.ndarray, " row"]
    simulated: Float[np.ndarray, " row"]
    error: Float[np.ndarray, " row"]
    z: Float[np.ndarray, " row"]
    quantity: tuple[str, ...] = eqx.field(static=True)
    num_networks: int = eqx.field(static=True)
    duration: float = eqx.field(static=True)
    source: str = eqx.field(static=True)

    @property
    def disagreements(self) -> tuple[str, ...]:
        """The rows that differ by more than 4 standard errors."""
        return tuple(q for q, z in zip(self.quantity, self.z, strict=True) if not abs(z) <= _LIMIT)

    def __str__(self) -> str:
        width = max(len(q) for q in self.quantity)
        head = f"{'':{width}}  {'prediction':>12}  {'simulation':>12}  {'error':>9}  {'z':>6}"
        rows = [
            f"{q:{width}}  {p:12.5g}  {s:12.5g}  {e:9.2g}  {z:6.1f}"
            f"{'' if abs(z) <= _LIMIT else '  *'}"
            for q, p, s, e, z in zip(
                self.quantity, self.predicted, self.simulated, self.error, self.z, strict=True
            )
        ]
        found = len(self.disagreements)
        end = (
            f"{self.source}; "
            f"{found or 'nothing'} beyond {_LIMIT:g} standard errors{' (*)' if found else ''}."
        )
        return "\n".join([head, *rows, end])


def check(
    key: PRNGKeyArray,
    solution: Solution,
    *,
    num_networks: int = 6,
    duration: float | None = None,
    warm_up: float | None = None,
    bin_width: float | None = None,
    lags: Sequence[int] | None = None,
    times: Sequence[float] | None = None,
    window: float | None = None,
) -> Check:
    """Simulate the network of a solution several times, and compare.

    Each of `num_networks` networks has its own connections and noise. Compared are means, the
    variance of the neurons' means, covariances of single neurons over time and of the population
    means, and CVs of interspike intervals; of a solution that is a course in time, the means and
    covariances over neurons at some times. A finite network shifts its own rates for good (see
    `Diagnostics.finite_size`), which the spread between networks knows of.

    - `duration`, `warm_up`: seconds of each simulation; by default 10 and 1 times the longest lag
      of the solution, or as long as it.
    - `bin_width`: seconds, by default 1 ms, or `dt` if longer.
    - `lags`: in bins, of the covariances of single neurons; by default six up to a quarter of the
      solution's.
    - `window`: seconds of the stretches of CVs (see `Observables`); by default as long as the
      paths of the solution or the simulations, whichever is shorter. Closed forms and nested worlds
      have none.
    - `times`: seconds, ends of bins of a course that are compared; by default six.

    Host function. Raises `ValueError` for fewer than two networks and what `simulate` refuses.
    """
    if num_networks < 2:
        raise ValueError(f"errors are from the spread of two networks or more, got {num_networks}.")
    dt, last = solution.dt, float(solution.time[-1])
    width = max(1e-3, dt) if bin_width is None else float(bin_width)
    places = np.zeros(0, int)
    if solution.stationary:
        span = max(round((10 * last if duration is None else duration) / width), 1) * width
        lead = round((last if warm_up is None else warm_up) / width) * width
        reach = max(int(last / width) // 4, 1)
        lags = _spread_out(reach) if lags is None else tuple(lags)
        window = _window(solution, span, width) if window is None else window
        key, paths_key = jax.random.split(key)
        expected = predict_observables(
            solution, lags, bin_width=width, window=window, key=paths_key
        )
        predicted, spread, names = _rows(expected, solution.names)
    else:
        span, lead = last if duration is None else duration, 0.0
        places = _places(solution, width, times)
        until = (places.max() + 1) * width
        if span < until * (1 - 1e-6):
            raise ValueError(
                f"duration = {span} s ends before the last time that is compared, {until:.6g} s: "
                "leave it out, or give earlier times."
            )
        predicted, spread, names = _course(solution, width, places)
    kinds = {p.name: p.neuron.kind for p in solution.network.populations}
    traces = {name: ("output",) for name, kind in kinds.items() if kind == "rate"}
    networks = []
    for own in jax.random.split(key, num_networks):
        found = simulate(
            own, solution.network, span, dt, bin_width=width, warm_up=lead, traces=traces,
            num_lags=None,
        )  # fmt: skip
        rows, discrete = [], 0
        for population in solution.network.populations:
            if population.neuron.kind == "rate":
                rows.append(found.traces[population.name]["output"])
                continue
            assert found.raster is not None
            spikes = found.raster.spikes[discrete : discrete + population.size]
            rows.append(spikes.astype(solution.mean.dtype))
            discrete += population.size
        if solution.stationary:
            assert lags is not None
            flags = [kind != "spike" for kind in kinds.values()]
            measured = observe(rows, width, tuple(lags), flags)
            if window is not None:
                found, known = measure_cvs(rows, width, window)
                measured["interval_cv"] = jnp.where(known, found, jnp.nan)
            shape: Any = {"lags": tuple(lags), "bin_width": width, "labels": solution.names}
            shaped = Observables(**measured, error=None, **shape)  # pyright: ignore
            networks.append(_rows(shaped, solution.names)[0])
        else:
            scale = [1 / width if kind == "spike" else 1.0 for kind in kinds.values()]
            networks.append(_course_of(rows, scale, places)[: len(predicted)])
    simulated = np.stack(networks)
    # Neurons that do not spike have no intervals.
    known = np.isfinite(spread) & ~np.isnan(simulated).any(axis=0)
    names = tuple(name for name, keep in zip(names, known, strict=True) if keep)
    parts = (predicted[known], spread[known], names, simulated[:, known])
    return _compared(*parts, _groups(solution), span)


def _compared(predicted, spread, names, networks, num_groups: int, duration: float) -> Check:
    count = len(networks)
    simulated = networks.mean(0)
    own, theirs = networks.std(0, ddof=1) / math.sqrt(count), spread
    error = np.hypot(own, theirs)
    # Welch and Satterthwaite's degrees of freedom.
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = own**4 / (count - 1) + theirs**4 / max(num_groups - 1, 1)
        freedom = np.where(parts > 0, error**4 / parts, np.inf)
        t = np.where(error > 0, (predicted - simulated) / error, 0.0)
        t = np.where((error == 0) & (predicted != simulated), np.inf, t)
    # The tail keeps its digits where the probability itself would round to one.
    tail = np.where(np.isinf(freedom), stats.norm.logsf(np.abs(t)), 0.0)
    finite = np.isfinite(freedom)
    tail[finite] = stats.t.logsf(np.abs(t[finite]), freedom[finite])
    z = np.sign(t) * _deviate(tail, np.abs(t))
    source = f"{count} networks of {duration:g} s"
    return Check(predicted, simulated, error, z, names, count, float(duration), source)


def _deviate(log_tail: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The normal deviate of a given logarithm of the upper tail."""
    tail = np.exp(np.maximum(log_tail, -700))
    return np.where(log_tail > -700, stats.norm.isf(tail), size)


def _rows(found: Observables, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, tuple]:
    """Values, errors and names, one below the other."""

    def flat(x: Observables) -> np.ndarray:
        above = np.triu_indices(len(names))
        parts = [x.rate, x.rate_variance, x.autocovariance, x.population_covariance[above]]
        parts += [] if x.interval_cv is None else [x.interval_cv]
        return np.concatenate([np.asarray(part, float).ravel() for part in parts])

    labels = [f"mean {n}" for n in names] + [f"variance of means {n}" for n in names]
    labels += [
        f"covariance {n}, {1e3 * lag * found.bin_width:g} ms" for n in names for lag in found.lags
    ]
    labels += [f"population covariance {a} {b}" for i, a in enumerate(names) for b in names[i:]]
    labels += [] if found.interval_cv is None else [f"CV of intervals {n}" for n in names]
    values = flat(found)
    return values, flat(found.error) if found.error else np.zeros_like(values), tuple(labels)


def _window(solution: Solution, span: float, width: float) -> float | None:
    """Of paths and simulations alike, if there are spikes and paths."""
    spikes = any(p.neuron.kind == "spike" for p in solution.network.populations)
    if not spikes or solution.replicas is None or solution.order == "nested":
        return None
    return int(min(span, dict(solution.settings)["duration"]) / width + 1e-6) * width


def _groups(solution: Solution) -> int:
    return 0 if solution.replicas is None else len(solution.replicas["mean"])


def _spread_out(reach: int) -> tuple[int, ...]:
    return tuple(sorted({0, *np.geomspace(1, reach, 5).round().astype(int).tolist()}))


# --- courses in time ------------------------------------------------------------------------------


def _places(solution: Solution, width: float, times: Sequence[float] | None) -> np.ndarray:
    """The bins that are compared. Raises `ValueError` for times beyond the solution."""
    count = int(float(solution.time[-1]) / width + 1e-6)
    if times is None:
        return np.unique(np.linspace(1, count, 6).astype(int)) - 1
    places = np.asarray([round(time / width) - 1 for time in times])
    if not len(places) or places.min() < 0 or places.max() >= count:
        raise ValueError(f"times must lie within {width} .. {count * width} s, got {times}.")
    return places


def _course(solution: Solution, width: float, places: np.ndarray):
    """Means at the times, and covariances of single neurons at pairs of them."""
    steps = round(width / solution.dt)
    kinds = [population.neuron.kind for population in solution.network.populations]
    # With a window as long as the course, lags are as many as times.
    two_times = dict(solution.settings).get("window") is None

    def binned(x: Array, kind: str, axis: int) -> Array:
        if kind != "spike":
            return jnp.take(x, (places + 1) * steps - 1, axis=axis)
        index = jnp.asarray(places[:, None] * steps + np.arange(steps)[None])
        return jnp.mean(jnp.take(x, index, axis=axis), axis=axis + 1)

    def flat(mean: Array, covariance: Array) -> np.ndarray:
        parts = [binned(x, kind, 0) for x, kind in zip(mean, kinds, strict=True)]
        if two_times:
            for x, kind in zip(covariance, kinds, strict=True):
                both = binned(binned(x, kind, 0), kind, 1)
                parts.append(both[np.triu_indices(len(places))])
        return np.concatenate([np.asarray(part, float) for part in parts])

    labels = [f"mean {n}, {1e3 * (t + 1) * width:g} ms" for n in solution.names for t in places]
    if two_times:
        labels += [
            f"covariance {n}, {1e3 * (a + 1) * width:g} and {1e3 * (b + 1) * width:g} ms"
            for n in solution.names
            for i, a in enumerate(places)
            for b in places[i:]
        ]
    predicted = flat(solution.mean, solution.covariance)
    if solution.mean_error is None or solution.covariance_error is None:
        return predicted, np.zeros_like(predicted), tuple(labels)
    assert solution.replicas is not None
    each = np.stack([flat(m, c) for m, c in zip(
        solution.replicas["mean"], solution.replicas["covariance"], strict=True
    )])  # fmt: skip
    return predicted, each.std(0, ddof=1) / math.sqrt(len(each)), tuple(labels)


def _course_of(rows: list[Array], scale: list[float], places: np.ndarray) -> np.ndarray:
    """What `_course` predicts, of one network; the covariances last."""
    kept = [np.asarray(x[:, places], float) * s for x, s in zip(rows, scale, strict=True)]
    parts = [x.mean(0) for x in kept]
    parts += [np.cov(x.T).reshape(len(places), -1)[np.triu_indices(len(places))] for x in kept]
    return np.concatenate(parts)
