"""Courses in time: the two-time equations of every replica, and the moments of their paths."""

import dataclasses
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import contract
from neurofield.network import Network

from ._course_diagnostics import course_diagnostics, seen_in_paths
from ._course_shared import (
    Parts,
    course_parts,
    draw_shared,
    factor_shared,
    pooled,
    shared_fields,
)
from ._diagnostics import Diagnostics
from ._intensity import noise_by_lag, noise_two_time, output_noise, two_time, variances
from ._march import Marched, march
from ._relaxation import relax
from ._score import scored_mean, scored_second, stream_score
from ._theory import Theory

# Marches of order "shared", each with the shared input that the last one gave: what is left out
# goes down by 1 / N with each.
_PASSES = 4
# Along how many paths of a replica smooth neurons are differentiated; more where the result is fed
# back.
_SLOPES, _SHARED_SLOPES = 64, 256


class Plan(eqx.Module):
    """How the paths of a course are drawn, all static."""

    method: str = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    num_paths: int = eqx.field(static=True)
    num_worlds: int = eqx.field(static=True)
    nested: bool = eqx.field(static=True)
    window: int | None = eqx.field(static=True)
    jitter: float = eqx.field(static=True)
    rtol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    @property
    def whole(self) -> bool:
        """Whether covariances are of all pairs of times, and paths of single neurons."""
        return self.window is None and not self.nested


class Course(NamedTuple):
    """Of each replica: moments, what diagnostics need, the fields' paths, and how it ended.

    `h`: the fields without their means and what is shared; `None` where they are not all kept.
    """

    found: dict[str, Array]
    seen: dict[str, Array]
    h: Float[Array, "replica field time path"] | None
    error: Float[Array, " replica"]
    steps: Array


@eqx.filter_jit
def draw_course(theory: Theory, keys: Array, plan: Plan, factor: Array | None = None) -> Course:
    """March or relax. `factor`: of shared inputs that neurons feel besides, see `draw_shared`."""
    num_steps, window = plan.num_steps, plan.window
    worlds = {"num_worlds": plan.num_worlds, "nested": plan.nested}

    def marched(key: Array) -> tuple[Marched, Array, Array]:
        block = min(max(round(math.sqrt(num_steps)), 4), num_steps)
        padded = -(-num_steps // block) * block
        width = max(padded - block, block) if window is None else -(-window // block) * block
        felt = None
        if factor is not None:
            felt = draw_shared(key, theory, factor, plan.num_paths)
            felt = jnp.pad(felt, ((0, 0), (0, padded - num_steps), (0, 0)))
        options = {"window": width, "block": block, "jitter": plan.jitter, "shared": felt}
        paths = march(key, theory, padded, plan.num_paths, **options, **worlds)
        return paths, jnp.zeros((), theory.dtype), jnp.int32(1)

    def relaxed(key: Array) -> tuple[Marched, Array, Array]:
        options = {"jitter": plan.jitter, "rtol": plan.rtol, "max_steps": plan.max_steps}
        paths, end = relax(key, theory, num_steps, plan.num_paths, **options, **worlds)
        return paths, end.error, end.steps

    def one(key: Array) -> Course:
        paths, error, steps = (marched if plan.method == "march" else relaxed)(key)
        found = _two_time_moments(theory, paths, num_steps, window, plan.nested, plan.num_worlds)
        seen = seen_in_paths(theory, paths, found, num_steps, plan.jitter, plan.whole)
        h = paths.h[:, :num_steps] if plan.whole else None
        return Course(found, seen, h, error, steps)

    return jax.lax.map(one, keys)


def solve_course(
    theory: Theory, network: Network, keys: Array, plan: Plan, order: str, response: bool
) -> tuple[dict[str, Array], Diagnostics, Array, Array]:
    """Moments of all replicas, diagnostics, and the last relative changes and numbers of steps.

    With `response`, linear responses where the course is whole, and order "shared" by them.
    """
    parts = None
    jitter = plan.jitter
    if order == "shared":
        quiet = dataclasses.replace(theory, shared=())  # neurons feel it among what is shared

        def again(felt: Array) -> tuple[Course, Parts, Array]:
            factor = factor_shared(felt, jitter)
            course = draw_course(quiet, keys, plan, factor)
            law = (course.found["input_mean"], course.h, course.found["input_covariance"])
            parts = course_parts(quiet, keys, *law, factor, _SHARED_SLOPES, jitter)
            return course, parts, shared_fields(theory, parts)

        num = len(theory.fields)
        felt = jnp.zeros((num, num, plan.num_steps, plan.num_steps), theory.dtype)
        course, parts, next_felt = again(felt)
        for _ in range(_PASSES - 1):
            felt = next_felt
            course, parts, next_felt = again(felt)
        found, shared = dict(course.found), pooled(theory, parts)
        found["input_covariance"] = found["input_covariance"] + contract("fftu->ftu", felt)[None]
        found |= {"shared_covariance": shared.field, "population_covariance": shared.population}
        size = contract("rftt->ft", found["input_covariance"]) / keys.shape[0]
        largest = jnp.max(size, axis=1)
        change = jnp.max(jnp.abs(contract("fftt->ft", next_felt - felt)), axis=1)
        error = change / jnp.where(largest > 0, largest, 1)
        steps = jnp.asarray(_PASSES, jnp.int32)
    else:
        course = draw_course(theory, keys, plan)
        found, error, steps = dict(course.found), course.error, course.steps
        if response and plan.whole and theory.fields:
            law = (found["input_mean"], course.h, found["input_covariance"])
            parts = course_parts(theory, keys, *law, None, _SLOPES, jitter)
    if parts is not None and response:
        # As densities in time.
        found["response"] = parts.responses.output / theory.dt
        if parts.responses.output_variance is not None:
            found["variance_response"] = parts.responses.output_variance / theory.dt
    diagnostics = course_diagnostics(theory, network, found, course.seen, parts)
    return found, diagnostics, error, steps


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
