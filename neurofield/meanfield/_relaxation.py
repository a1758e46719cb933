"""Waveform relaxation: the two-time equations by sweeps over the whole window.

A sweep draws the fields from the moments of the last one and drives all paths through all steps;
what is transmitted up to a step depends on fields up to it alone, so that each sweep fixes at least
one more step (as many as the shortest delay has), for good: undamped, the iteration ends on the
solution of the march after a finite number of sweeps, and sooner at a tolerance.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import contract

from ._fixed_point import FixedPoint, fixed_point
from ._intensity import noise_two_time, own_noise, variances
from ._march import Marched, factor, nugget
from ._paths import field_noise, init_paths, step_paths, stream_input, world_input
from ._score import scored_mean, scored_second, step_scores, stream_score
from ._theory import Theory


class TwoTime(eqx.Module):
    """Means and second moments of what the streams transmit."""

    mean: Float[Array, "stream time"]
    second: Float[Array, "stream time time"]


def steps_per_sweep(theory: Theory) -> int:
    """How many steps a sweep fixes for good: the least from an output to the field it enters."""
    lags = [0 if stream.delay is not None else stream.lag for stream in theory.streams]
    return 1 + min(lags, default=0)


def relax(
    key: PRNGKeyArray,
    theory: Theory,
    num_steps: int,
    num_paths: int,
    *,
    jitter: float,
    rtol: float,
    max_steps: int,
    num_worlds: int = 1,
    nested: bool = False,
) -> tuple[Marched, FixedPoint]:
    """As `march`, with the same random numbers, by sweeps until the moments settle to `rtol`."""
    start_key = jax.random.split(key, 3)[0]
    total = num_worlds * num_paths
    paths = init_paths(start_key, theory, total, num_worlds if nested else None)
    y = stream_input(theory, paths)
    start = TwoTime(
        jnp.broadcast_to(jnp.mean(y, axis=1)[:, None], (y.shape[0], num_steps)),
        jnp.broadcast_to(jnp.mean(y**2, axis=1)[:, None, None], (y.shape[0], num_steps, num_steps)),
    )

    def sweep(args: tuple[PRNGKeyArray, Theory], moments: TwoTime) -> tuple[Marched, TwoTime]:
        return _sweep(*args, moments, num_steps, total, jitter, num_worlds, nested)

    bound = -(-num_steps // steps_per_sweep(theory)) + 1
    end = fixed_point(
        lambda args, moments: sweep(args, moments)[1],
        (key, theory),
        start,
        rtol=rtol,
        max_steps=min(max_steps, bound),
        memory=1,
        damping=1.0,
    )
    return sweep((key, theory), end.value)[0], end


def _sweep(
    key: PRNGKeyArray,
    theory: Theory,
    moments: TwoTime,
    num_steps: int,
    total: int,
    jitter: float,
    num_worlds: int,
    nested: bool,
) -> tuple[Marched, TwoTime]:
    # The keys of `march`.
    start_key, run_key, noise_key = jax.random.split(key, 3)
    paths = init_paths(start_key, theory, total, num_worlds if nested else None)
    steps = jnp.arange(num_steps, dtype=jnp.int32)
    noise = own_noise(theory, paths, num_steps)
    means = moments.mean[:, :, None] * moments.mean[:, None, :]
    covariance = theory.input_covariance(moments.second, means)
    diagonal = jnp.diagonal(covariance, axis1=1, axis2=2)
    lower = factor(covariance, jitter)
    z = jax.vmap(
        lambda step: field_noise(jax.random.fold_in(noise_key, step), theory, (total,), nested)
    )(steps)
    h = contract("fts,sfm->tfm", lower, z)
    mean = theory.input_mean(moments.mean)

    def go(carry, now):
        paths, score = carry
        step, h, m = now
        y = stream_input(theory, paths)
        fields = h + (world_input(theory, y, num_worlds) if nested else m[:, None])
        paths, output = step_paths(run_key, theory, paths, step, fields, nested)
        if score is not None:
            score = score + step_scores(theory, output)
        return (paths, score), (jnp.stack(output.values), y, score)

    score = None
    if theory.gradient == "score":
        score = jnp.zeros((len(theory.populations), total), theory.dtype)
    _, (x, y, score) = jax.lax.scan(jax.checkpoint(go), (paths, score), (steps, h, mean.T))
    x, y, h = (jnp.moveaxis(v, 0, 1) for v in (x, y, h))
    if score is not None:
        score = jnp.moveaxis(score, 0, 1)
    pivots = jnp.diagonal(lower, axis1=1, axis2=2) ** 2
    marched = Marched(x, y, h, score, noise, pivots / nugget(diagonal, jitter))
    return marched, stream_moments(theory, marched)


def stream_moments(theory: Theory, marched: Marched) -> TwoTime:
    """Of what the streams transmit, the noise given their input included."""
    score = stream_score(theory, marched.score)
    second = scored_second(marched.y, score)
    if marched.noise is not None:
        second = second + noise_two_time(marched.noise, variances(theory, marched.x))
    return TwoTime(scored_mean(marched.y, score), second)
