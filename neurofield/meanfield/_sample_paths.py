"""Sample paths of single neurons from the law of a solution, and what is measured on them."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from neurofield.network import Intervals

from ._solution import Solution
from ._stationary import Fields, Sampling, sample
from ._theory import build_theory, whole_steps


class Paths(eqx.Module):
    """Activity of independent neurons of each population, and the recurrent input they receive.

    - `output`: `[population, path, time]`, in hertz for neurons that spike (so spikes / `dt`), else
      the rates or binary states.
    - `input`: `[field, path, time]`, with its mean.
    - `names`, `fields`, `dt`: populations, (population, channel) of the fields, seconds a step.
    """

    output: Float[Array, "population path time"]
    input: Float[Array, "field path time"]
    names: tuple[str, ...] = eqx.field(static=True)
    fields: tuple[tuple[str, str], ...] = eqx.field(static=True)
    dt: float = eqx.field(static=True)


def sample_paths(
    key: PRNGKeyArray,
    solution: Solution,
    duration: float,
    *,
    num_paths: int = 256,
    warm_up: float | None = None,
) -> Paths:
    """Draw neurons of each population, driven through the fields of a stationary solution.

    The law of what is measured on one neuron at a time: rates, interspike intervals, spectra,
    distributions. `warm_up`: seconds before, by default the longest lag of the solution. Paths of
    different populations share random numbers, and say nothing of their joint law. Raises
    `ValueError` for a solution that is not stationary.
    """
    if solution.input_quenched is None:
        raise ValueError(
            'paths are drawn from a stationary solution: solve with method="stationary".'
        )
    theory = build_theory(solution.network, solution.dt)
    if solution.order == "shared":
        theory = dataclasses.replace(theory, shared=())  # the fields hold the shared noise already
    warm_up = float(solution.time[-1]) if warm_up is None else warm_up
    num_steps, num_warm = whole_steps("duration", duration, theory.dt), round(warm_up / theory.dt)
    law = Fields(solution.input_mean, solution.input_covariance, solution.input_quenched)
    num_lags = solution.input_covariance.shape[-1]
    sampling = Sampling(num_steps, num_warm, num_lags, num_paths)
    drawn = _sample(key, theory, law, sampling)
    return Paths(
        output=jnp.moveaxis(drawn.x, 0, -1),
        input=jnp.moveaxis(drawn.h, 0, -1) + law.mean[:, None, None],
        names=solution.names,
        fields=solution.fields,
        dt=theory.dt,
    )


_sample = eqx.filter_jit(sample)


def path_rates(paths: Paths) -> Float[Array, "population path"]:
    """The mean output of each path over its time."""
    return jnp.mean(paths.output, axis=-1)


def path_intervals(paths: Paths) -> Intervals:
    """Interspike intervals of each path, `[population, path]`, as `simulate(intervals=True)`."""
    return counted_intervals(paths.output > 0, paths.dt, paths.output.dtype)


def counted_intervals(spikes: Bool[Array, "*shape time"], dt: float, dtype: Any) -> Intervals:
    """Of those that begin and end within the steps of `dt` seconds, `[...]`."""
    length = _since_last(spikes)
    ended = (length > 0) & spikes
    value = jnp.where(ended, length, 0).astype(dtype)
    count = jnp.sum(ended, axis=-1).astype(dtype)
    mean = jnp.sum(value, axis=-1) / jnp.maximum(count, 1)
    deviation = jnp.where(ended, value - mean[..., None], 0)
    variance = jnp.sum(deviation**2, axis=-1) / jnp.maximum(count - 1, 1)
    cv = jnp.sqrt(variance) / jnp.where(mean > 0, mean, 1)
    return Intervals(count, mean * dt, cv)


def interval_density(
    paths: Paths, edges: Float[Array, "edge"]
) -> tuple[Float[Array, "population bin"], Float[Array, "population bin"]]:
    """Density of the interspike intervals (1/s) between `edges` (s), pooled over paths, and error.

    The errors are of independent counts. Intervals outside of the edges count in the total.
    """
    spikes = paths.output > 0
    length = _since_last(spikes)
    ended = (length > 0) & spikes
    # A step's spike is at its end; half a step keeps intervals off the edges.
    place = jnp.searchsorted(edges, (length.astype(edges.dtype) - 0.5) * paths.dt) - 1
    num = edges.shape[0] - 1
    kept = ended & (place >= 0) & (place < num)
    place = jnp.where(kept, place, num)

    def histogram(place: Array) -> Array:
        return jnp.zeros(num + 1, edges.dtype).at[place.ravel()].add(1)[:num]

    counts = jax.vmap(histogram)(place)
    total = jnp.maximum(jnp.sum(ended, axis=(1, 2)).astype(edges.dtype), 1)
    scale = total[:, None] * jnp.diff(edges)[None]
    return counts / scale, jnp.sqrt(counts) / scale


def fano_factor(paths: Paths, window: float) -> Float[Array, "population path"]:
    """Variance over mean of the counts in windows of `window` seconds of each path.

    Zero for a path without spikes. Raises `ValueError` for fewer than two windows.
    """
    steps = whole_steps("window", window, paths.dt)
    num = paths.output.shape[-1] // steps
    if num < 2:
        raise ValueError(f"window = {window} s leaves fewer than two windows in the paths.")
    kept = paths.output[..., : num * steps] * paths.dt
    counts = jnp.sum(kept.reshape(*kept.shape[:-1], num, steps), axis=-1)
    mean = jnp.mean(counts, axis=-1)
    return jnp.var(counts, axis=-1, ddof=1) / jnp.where(mean > 0, mean, 1)


def _since_last(spikes: Array) -> Array:
    """Steps since the last spike before each step; 0 where there was none. `[..., time]`, int32."""
    time = jnp.broadcast_to(jnp.arange(spikes.shape[-1], dtype=jnp.int32), spikes.shape)
    last = jax.lax.cummax(jnp.where(spikes, time, -1), axis=spikes.ndim - 1)
    before = jnp.concatenate([jnp.full_like(last[..., :1], -1), last[..., :-1]], axis=-1)
    return jnp.where(before >= 0, time - before, 0)
