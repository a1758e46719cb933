"""Courses in time: the two-time equations of every replica, and the moments of their paths."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import contract

from ._intensity import noise_by_lag, noise_two_time, output_noise, two_time, variances
from ._march import Marched, march
from ._relaxation import relax
from ._score import scored_mean, scored_second, stream_score
from ._theory import Theory


@eqx.filter_jit
def marched(
    theory: Theory, keys, num_steps, num_paths, num_worlds, nested, window, jitter
) -> dict[str, Array]:
    """Moments of each replica's march, `[replica, ...]`."""
    block = min(max(round(math.sqrt(num_steps)), 4), num_steps)
    padded = -(-num_steps // block) * block
    width = max(padded - block, block) if window is None else -(-window // block) * block

    def one(key):
        paths = march(
            key,
            theory,
            padded,
            num_paths,
            window=width,
            block=block,
            jitter=jitter,
            num_worlds=num_worlds,
            nested=nested,
        )
        return _two_time_moments(theory, paths, num_steps, window, nested, num_worlds)

    return jax.lax.map(one, keys)


@eqx.filter_jit
def relaxed(
    theory: Theory, keys, num_steps, num_paths, num_worlds, nested, window, jitter, rtol, max_steps
) -> tuple[dict[str, Array], Array, Array]:
    """Moments of each replica's relaxation, and how it ended."""

    def one(key):
        marched, end = relax(
            key,
            theory,
            num_steps,
            num_paths,
            jitter=jitter,
            rtol=rtol,
            max_steps=max_steps,
            num_worlds=num_worlds,
            nested=nested,
        )
        found = _two_time_moments(theory, marched, num_steps, window, nested, num_worlds)
        return found, end.error, end.steps

    return jax.lax.map(one, keys)


def _two_time_moments(
    theory: Theory,
    marched: Marched,
    num_steps: int,
    window: int | None,
    nested: bool,
    num_worlds: int,
) -> dict[str, Array]:
    """What the paths of one replica give; at lags up to the window if there is one."""
    x, y = marched.x[:, :num_steps], marched.y[:, :num_steps]
    score = None if marched.score is None else marched.score[:, :num_steps]
    lags = num_steps if window is None else min(window, num_steps)
    cut = None if window is None else lags
    mean_x, mean_y = scored_mean(x, score), scored_mean(y, stream_score(theory, score))
    second_x = _two_time(x, cut, score)
    second_y = _two_time(y, cut, stream_score(theory, score))
    if theory.expected:
        own = output_noise(theory, x, lags)
        second_x = second_x + (two_time(own) if cut is None else own)
    if marched.noise is not None:
        values = variances(theory, x)
        if cut is None:
            second_y = second_y + noise_two_time(marched.noise, values)
        else:
            second_y = second_y + noise_by_lag(marched.noise, values, lags)
    found = {
        "mean": mean_x,
        "covariance": second_x - _outer(mean_x, cut),
        "input_mean": theory.input_mean(mean_y),
        "input_covariance": theory.input_covariance(second_y, _outer(mean_y, cut)),
    }
    if nested:
        means = world_means(theory, jnp.moveaxis(x, 1, 0), num_worlds)  # [T, P, world]
        means = means - jnp.mean(means, axis=2)[:, :, None]
        found["population_covariance"] = contract("tpw,sqw->pqts", means, means) / (num_worlds - 1)
    return found


def _two_time(
    x: Float[Array, "row time path"], lags: int | None, score: Array | None = None
) -> Array:
    """<x(t) x(t')>, `[row, time, time]`; with `lags`, <x(t) x(t - lag)>, `[row, time, lag]`."""
    if lags is None:
        return scored_second(x, score)
    padded = jnp.pad(x, ((0, 0), (lags - 1, 0), (0, 0)))

    def one(lag):
        earlier = jax.lax.dynamic_slice_in_dim(padded, lags - 1 - lag, x.shape[1], axis=1)
        return scored_mean(x * earlier, score)

    return jnp.moveaxis(jax.lax.map(one, jnp.arange(lags, dtype=jnp.int32)), 0, -1)


def _outer(mean: Float[Array, "row time"], lags: int | None) -> Array:
    if lags is None:
        return mean[:, :, None] * mean[:, None, :]
    return _two_time(mean[:, :, None], lags)


def world_means(theory: Theory, x: Float[Array, "time row path"], num_worlds: int) -> Array:
    """The mean of each population in each world, over as many paths as it has neurons."""
    worlds = x.reshape(x.shape[0], x.shape[1], num_worlds, -1)
    means = [jnp.mean(worlds[:, i, :, :size], axis=-1) for i, size in enumerate(theory.sizes)]
    return jnp.stack(means, axis=1)
