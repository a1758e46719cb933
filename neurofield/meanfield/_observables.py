"""What theory and network are compared by: moments of single neurons and of populations."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from neurofield._numerics import contract
from neurofield.recording import Raster

from ._interval_cv import Tally, between_replicas, sampled_cvs, summed, tally
from ._solution import Solution
from ._statistics import binned_covariance, bins_of, filters, num_bins_within, with_errors
from ._theory import whole_steps


class Observables(eqx.Module):
    """Means, covariances and irregularity of activity in bins, by population.

    x is what a bin holds: spikes, or the binary state or rate at its end.

    - `rate`: `[population]`, hertz for spikes, else the mean of x.
    - `rate_variance`: `[population]`, of the neurons' own rates, without counting noise.
    - `autocovariance`: `[population, lag]`, of x of one neuron at bins `lags` apart, over neurons
      and time, so that its limit at long lags is the variance between neurons.
    - `population_covariance`: `[population, population]`, over time, of the means of x.
    - `interval_cv`: `[population]`, the coefficient of variation of a neuron's interspike intervals
      in a stretch of `window` seconds, its mean over the neurons and stretches with 5 intervals or
      more; `None` if not asked for. Stretches make short what they cut: those of 30 intervals on
      average show 0.96 of Poisson neurons of different rates, of 240 intervals 0.994. Theory and
      data do so alike, in the same bins; compare with other work in long stretches. Where no
      neuron has enough, and of rates and binary states: zero with an infinite error.
    - `error`: the standard errors, an `Observables` without its own; `None` if unknown.
    - `deviations`: by field, `[part, ...]`, whose products sum to the covariance of the errors; or
      `None`.
    - `lags` (static): in bins; `bin_width` and `window` (static): seconds; `labels` (static):
      populations.
    """

    rate: Float[Array, "*batch population"]
    rate_variance: Float[Array, "*batch population"]
    autocovariance: Float[Array, "*batch population lag"]
    population_covariance: Float[Array, "*batch population population"]
    error: Any
    lags: tuple[int, ...] = eqx.field(static=True)
    bin_width: float = eqx.field(static=True)
    labels: tuple[str, ...] = eqx.field(static=True)
    deviations: dict[str, Array] | None = None
    interval_cv: Float[Array, "*batch population"] | None = None
    window: float | None = eqx.field(static=True, default=None)


FIELDS = ("rate", "rate_variance", "autocovariance", "population_covariance")


def predict_observables(
    solution: Solution,
    lags: Sequence[int] = (0, 1, 2, 4, 8),
    *,
    bin_width: float | None = None,
    window: float | None = None,
    key: PRNGKeyArray | None = None,
) -> Observables:
    """The observables of a stationary solution, with errors from its groups of paths.

    - `bin_width`: seconds, by default 1 ms, or `dt` if longer.
    - `window`: seconds; with it, `interval_cv` is counted on paths drawn by `key` from the law of
      the solution, as many as the solution has: one more sweep, if it is as long as `duration`.

    Differentiable, without `window`: with it, `TypeError`. Raises `ValueError` for a solution that
    is not stationary, lags or bins that it does not have, a `window` that is no multiple of the
    bins, and one without a `key` or of a solution without paths of single neurons.
    """
    width, steps = bins_of(solution, bin_width)
    lags = _lags(lags, num_bins_within(solution, steps))
    populations = solution.network.populations
    kinds = [population.neuron.kind for population in populations]
    sampled = filters(kinds, steps, solution.dt, sampled=True)
    dtype = solution.mean.dtype
    sizes = jnp.asarray([population.size for population in populations], dtype)
    eye = jnp.eye(len(kinds), dtype=dtype)
    scale = jnp.asarray([width**2 if kind == "spike" else 1.0 for kind in kinds], dtype)

    def moments(found: dict[str, Array]) -> dict[str, Array]:
        own = binned_covariance(
            eye[:, :, None] * found["covariance"][:, None], sampled, max(lags) + 1, steps
        )
        own = jnp.diagonal(own, axis1=0, axis2=1).T
        shared = found.get("population_covariance")
        if shared is None:
            between = (own[:, 0] - found["quenched"] * scale) / sizes
            between = eye * between[:, None]
        else:
            between = binned_covariance(shared, sampled, 1, steps)[..., 0]
        return {
            "rate": found["mean"],
            "rate_variance": found["quenched"],
            "autocovariance": own[:, np.asarray(lags)],
            "population_covariance": between,
        }

    found, error, apart = with_errors(moments, solution)
    if window is not None:
        if key is None:
            raise ValueError("interval_cv is of sampled paths: give key=jax.random.key(seed).")
        cvs = between_replicas(sampled_cvs(key, solution, window, width))
        assert error is not None
        assert apart is not None
        found["interval_cv"], error["interval_cv"], apart["interval_cv"] = cvs
    shape = {"lags": lags, "bin_width": width, "labels": solution.names, "window": window}
    spread = None if error is None else Observables(**error, error=None, **shape)
    return Observables(**found, error=spread, deviations=apart, **shape)


def measure_observables(
    raster: Raster | Sequence[Raster],
    lags: Sequence[int] = (0, 1, 2, 4, 8),
    *,
    num_blocks: int = 16,
    window: float | None = None,
) -> Observables:
    """The observables of recorded or simulated spikes of populations, with errors.

    Errors are from the jackknife over `num_blocks` equal stretches of time, which must be longer
    than the correlations, and over the neurons: the larger of both for each number, since neurons
    are the sample for what differs between them, and time for what they share. What another
    network of the same law would do differently is in neither: for that give several rasters, each
    of a network of its own; results are their means, and errors are from the spread between them.

    - `window`: seconds, a multiple of the bins; with it, `interval_cv` is measured in stretches of
      that length. Bins with spikes count once: they should be short against the intervals.

    Raises `ValueError` for a raster without populations, of several trials or with masked bins, and
    for rasters that differ in their populations or bins.
    """
    if not isinstance(raster, Raster):
        options = {"num_blocks": num_blocks, "window": window}
        return _between([measure_observables(x, lags, **options) for x in raster])
    if raster.populations is None:
        raise ValueError("the raster has no populations; give them to Raster.")
    if raster.spikes.ndim != 2 or raster.mask is not None:
        raise ValueError("the raster must be one stretch [neuron, time] without masked bins.")
    lags = _lags(lags, raster.num_bins // num_blocks)
    index = np.asarray(raster.populations)
    names = raster.population_names or tuple(map(str, range(int(index.max()) + 1)))
    dtype = jnp.result_type(float)
    rows = [raster.spikes[np.flatnonzero(index == p)].astype(dtype) for p in range(len(names))]
    few = [name for name, x in zip(names, rows, strict=True) if len(x) < 3]
    if few:
        raise ValueError(f"populations {few} have fewer than three neurons to compare.")
    names = tuple(names)
    shape = {"lags": lags, "bin_width": raster.bin_width, "labels": names, "window": window}
    cvs = None if window is None else _tallies(rows, raster.bin_width, window)
    found = observe(rows, raster.bin_width, lags)
    length = raster.num_bins // num_blocks
    without = []
    for block in range(num_blocks):
        # The seam joins two bins that were not neighbours: one pair in many a lag.
        keep = np.r_[: block * length, (block + 1) * length : raster.num_bins]
        without.append(observe([x[:, keep] for x in rows], raster.bin_width, lags))
        if cvs is not None:
            # Stretches belong to the block in which they begin.
            begin = np.arange(cvs[0].count.shape[1]) * raster.num_bins // cvs[0].count.shape[1]
            without[-1]["interval_cv"] = _mean_cvs(cvs, stretches=begin // length != block)
    parts = []
    for group in range(num_blocks):
        keep = [np.arange(len(x)) % num_blocks != group for x in rows]
        kept = [x[k] if k.any() else x for x, k in zip(rows, keep, strict=True)]
        parts.append(observe(kept, raster.bin_width, lags))
        if cvs is not None:
            parts[-1]["interval_cv"] = _mean_cvs(cvs, neurons=keep)
    time, neurons = _jackknife(without), _jackknife(parts)
    # A covariance of means over fewer neurons is another number, not another sample of it.
    neurons["population_covariance"] = jnp.zeros_like(time["population_covariance"])
    both = {name: (time[name], neurons[name]) for name in time}
    error = {name: jnp.maximum(*map(_norm, both[name])) for name in both}
    apart = {name: jnp.concatenate(both[name]) for name in both}
    if cvs is not None:
        found["interval_cv"] = _mean_cvs(cvs)
        error["interval_cv"] = jnp.where(_known(cvs), error["interval_cv"], jnp.inf)
    spread = Observables(**error, error=None, **shape)
    return Observables(**found, error=spread, deviations=apart, **shape)


def _between(each: list[Observables]) -> Observables:
    """Means over networks, with the errors of their spread."""
    if len(each) < 2:
        raise ValueError(f"errors are from the spread of two rasters or more, got {len(each)}.")
    first = each[0]
    if any((x.labels, x.bin_width) != (first.labels, first.bin_width) for x in each):
        raise ValueError("rasters must be of the same populations and bins.")
    mean, error, apart = {}, {}, {}
    for name in measured_fields(first):
        values = jnp.stack([getattr(x, name) for x in each])
        known = jnp.stack([jnp.isfinite(getattr(x.error, name)) for x in each]).astype(values.dtype)
        count = jnp.sum(known, axis=0)
        mean[name] = jnp.sum(values * known, axis=0) / jnp.maximum(count, 1)
        scale = jnp.maximum(count * (count - 1), 1) ** -0.5
        apart[name] = (values - mean[name][None]) * known * scale[None]
        error[name] = jnp.where(count > 1, _norm(apart[name]), jnp.inf)
    shape = {"lags": first.lags, "bin_width": first.bin_width, "labels": first.labels}
    shape["window"] = first.window
    spread = Observables(**error, error=None, **shape)
    return Observables(**mean, error=spread, deviations=apart, **shape)


def measured_fields(measured: Observables) -> tuple[str, ...]:
    """The names of the fields that it has."""
    return FIELDS if measured.interval_cv is None else (*FIELDS, "interval_cv")


def measure_cvs(
    rows: Sequence[Float[Array, "_ bin"]], width: float, window: float
) -> tuple[Float[Array, "population"], Bool[Array, "population"]]:
    """`interval_cv` of activity by population, and where there is one."""
    cvs = _tallies(rows, width, window)
    return _mean_cvs(cvs), _known(cvs)


def _known(tallies: list[Tally]) -> Bool[Array, "population"]:
    return jnp.stack([jnp.any(x.count > 0) for x in tallies])


def _tallies(rows: Sequence[Float[Array, "_ bin"]], width: float, window: float) -> list[Tally]:
    """Of each population, by neuron and stretch."""
    length = whole_steps("window", window, width)
    if length > rows[0].shape[1]:
        raise ValueError(f"window = {window} s is longer than the raster.")
    return [tally(x > 0, length, x.dtype) for x in rows]


def _mean_cvs(
    tallies: list[Tally],
    neurons: Sequence[np.ndarray] | None = None,
    stretches: np.ndarray | None = None,
) -> Float[Array, "population"]:
    """Over the neurons and stretches that are kept; over all where those have none."""
    found = []
    for index, x in enumerate(tallies):
        rows = slice(None) if neurons is None else neurons[index]
        columns = slice(None) if stretches is None else stretches
        kept = summed(jax.tree.map(lambda a, r=rows, c=columns: a[r][:, c], x))
        found.append(jnp.where(kept.count > 0, kept.mean, summed(x).mean))
    return jnp.stack(found)


def observe(
    rows: Sequence[Float[Array, "_ bin"]],
    width: float,
    lags: tuple[int, ...],
    rates: Sequence[bool] | None = None,
) -> dict[str, Array]:
    """The fields of `Observables` of activity by population; `rates`: which are not of spikes."""
    rates = [False] * len(rows) if rates is None else list(rates)
    means = jnp.stack([jnp.mean(x) for x in rows])
    half = rows[0].shape[1] // 2
    early = [jnp.mean(x[:, :half], axis=1) for x in rows]
    late = [jnp.mean(x[:, -half:], axis=1) for x in rows]
    spread = jnp.stack([_covariance(a, b) for a, b in zip(early, late, strict=True)])
    auto = [jnp.stack([_lagged_mean(x, lag) for lag in lags]) - jnp.mean(x) ** 2 for x in rows]
    course = jnp.stack([jnp.mean(x, axis=0) for x in rows])
    course = course - jnp.mean(course, axis=1)[:, None]
    between = contract("pt,qt->pq", course, course) / course.shape[1]
    scale = jnp.asarray([1.0 if rate else 1 / width for rate in rates], means.dtype)
    return {
        "rate": means * scale,
        "rate_variance": spread * scale**2,
        "autocovariance": jnp.stack(auto),
        "population_covariance": between,
    }


def _lagged_mean(x: Array, lag: int) -> Array:
    """<x(t) x(t + lag)> over rows and time."""
    return jnp.mean(x[:, lag:] * x[:, : x.shape[1] - lag])


def _covariance(a: Array, b: Array) -> Array:
    return jnp.sum((a - jnp.mean(a)) * (b - jnp.mean(b))) / max(len(a) - 1, 1)


def _jackknife(parts: list[dict[str, Array]]) -> dict[str, Array]:
    """Deviations, of which the root of the sum of squares is the jackknife's standard error.

    From estimates that each leave one part of equal size out.
    """
    scale = ((len(parts) - 1) / len(parts)) ** 0.5
    stacked = {name: jnp.stack([part[name] for part in parts]) for name in parts[0]}
    return {name: scale * (x - jnp.mean(x, axis=0)[None]) for name, x in stacked.items()}


def _norm(deviations: Array) -> Array:
    return jnp.sqrt(jnp.sum(deviations**2, axis=0))


def _lags(lags: Sequence[int], available: int) -> tuple[int, ...]:
    found = tuple(int(lag) for lag in lags)
    if not found or min(found) < 0 or max(found) >= available:
        raise ValueError(f"lags must lie within 0 .. {available - 1} bins, got {found}.")
    return found
