"""Two copies of a network: how they part after a small kick."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import contract, standard_error

from ._fixed_point import fixed_point
from ._march import factor
from ._paths import field_noise, init_paths, step_paths, stream_input
from ._solution import Solution
from ._theory import Theory, build_theory

_NOISES = ("same", "independent")


class Decorrelation(eqx.Module):
    """How two copies of a network part: at `time` seconds after the kick, of each population,
    `distance[population, time]`, the mean squared difference of outputs (of hertz for spikes)."""

    time: Float[Array, "time"]
    distance: Float[Array, "population time"]
    error: Float[Array, "population time"]


class _Pair(eqx.Module):
    """Moments of what the streams transmit in copy 1, and of the difference of copy 2 from it."""

    mean: Float[Array, "copy stream time"]
    own: Float[Array, "stream time time"]
    cross: Float[Array, "stream time time"]
    difference: Float[Array, "stream time time"]


def two_replicas(
    solution: Solution,
    duration: float,
    *,
    key: PRNGKeyArray,
    epsilon: float = 1e-3,
    noise: str = "same",
    warm_up: float = 0.0,
    num_paths: int = 1024,
    num_replicas: int = 4,
    rtol: float = 1e-6,
    max_steps: int = 200,
    jitter: float | None = None,
) -> Decorrelation:
    """The distance in time of two copies of the solution's network, with equal weights.

    Both start in the same state and go on for `warm_up` seconds; then, for one step, each neuron of
    the second gets a private normal kick of standard deviation `epsilon`, added to each recurrent
    input, in its unit. From there on intrinsic noise and drives are the `"same"` in both or
    `"independent"`. Of infinite populations, by the two-time equations of the pair of copies, all
    steps at once (waveform relaxation); memory grows with the square of (warm_up + duration) / dt.
    Any neuron; for small kicks of rate neurons the distance grows as exp(2 t lyapunov_exponent).

    Raises `ValueError` for bad arguments and networks without recurrent input, and RuntimeError
    where the moments do not settle. After Derrida & Pomeau (1986), Schuecker, Goedeke & Helias
    (2018).
    """
    if noise not in _NOISES:
        raise ValueError(f"noise={noise!r} is not one of {_NOISES}.")
    theory = build_theory(solution.network, solution.dt)
    if not theory.fields:
        raise ValueError("copies of a network part by recurrent input, and this one has none.")
    if theory.shared:
        raise ValueError("noise shared by whole populations is not covered by two_replicas.")
    if not 2 <= num_replicas <= num_paths // 2:
        raise ValueError(
            f"num_replicas must lie between 2 and num_paths / 2 = {num_paths // 2}, got "
            f"{num_replicas}."
        )
    num_warm, num_steps = round(warm_up / theory.dt), round(duration / theory.dt)
    if num_steps < 1 or num_warm < 0:
        raise ValueError(
            f"duration = {duration} s must be a step of {theory.dt} s at least, warm_up = "
            f"{warm_up} s not negative."
        )
    if jitter is None:
        jitter = 1e-8 if jnp.finfo(theory.dtype).eps < 1e-12 else 1e-4
    keys = jax.random.split(key, num_replicas)
    kick = jnp.asarray(epsilon, theory.dtype)
    distance, errors = _parted(
        theory,
        keys,
        kick,
        num_warm,
        num_steps,
        num_paths // num_replicas,
        noise == "same",
        (jitter, rtol, max_steps),
    )
    distance = eqx.error_if(
        distance,
        ~(jnp.max(errors) <= rtol),
        "two_replicas: the moments did not settle; raise max_steps, num_paths or jitter.",
    )
    return Decorrelation(
        jnp.arange(1, num_steps + 1, dtype=theory.dtype) * theory.dt,
        jnp.mean(distance, axis=0),
        standard_error(distance),
    )


@eqx.filter_jit
def _parted(theory: Theory, keys, kick, num_warm, num_steps, num_paths, same, options):
    jitter, rtol, max_steps = options
    num = num_warm + num_steps

    def one(key):
        y = stream_input(theory, init_paths(jax.random.split(key, 4)[0], theory, num_paths))
        mean = jnp.broadcast_to(jnp.mean(y, axis=1)[:, None], (y.shape[0], num))
        square = jnp.mean(y**2, axis=1)[:, None, None]
        own = jnp.broadcast_to(square, (y.shape[0], num, num))
        start = _Pair(jnp.stack([mean, mean]), own, jnp.zeros_like(own), jnp.zeros_like(own))

        def sweep(args: tuple, moments: _Pair) -> tuple[_Pair, Array]:
            key, theory, kick = args
            return _sweep(key, theory, kick, moments, num_warm, num_paths, same, jitter)

        args = (key, theory, kick)
        end = fixed_point(
            lambda args, moments: sweep(args, moments)[0],
            args,
            start,
            rtol=rtol,
            max_steps=max_steps,
            memory=1,
            damping=1.0,
        )
        return sweep(args, end.value)[1][:, num_warm:], end.error

    return jax.lax.map(one, keys)


def _sweep(
    key: PRNGKeyArray,
    theory: Theory,
    kick: Array,
    moments: _Pair,
    num_warm: int,
    num_paths: int,
    same: bool,
    jitter: float,
) -> tuple[_Pair, Float[Array, "population time"]]:
    start_key, run_key, other_key, noise_key = jax.random.split(key, 4)
    num = moments.mean.shape[2]
    steps = jnp.arange(num, dtype=jnp.int32)
    h, dh = _draw(noise_key, theory, moments, num_paths, jitter)
    kicked = field_noise(jax.random.fold_in(noise_key, num), theory, (num_paths,), False)
    push = jnp.where(steps == num_warm, kick, 0)[:, None, None] * kicked[None]
    means = jnp.stack([theory.input_mean(mean) for mean in moments.mean])
    first = jnp.moveaxis(means[0], 0, 1)[:, :, None] + h
    second = jnp.moveaxis(means[1], 0, 1)[:, :, None] + h + dh + push
    # One state and no difference up to the kick.
    second = jnp.where((steps < num_warm)[:, None, None], first, second)

    def go(pair, now):
        step, *fields = now
        keys = [run_key, run_key if same else jnp.where(step < num_warm, run_key, other_key)]
        out = []
        for key, paths, field in zip(keys, pair, fields, strict=True):
            y = stream_input(theory, paths)
            paths, output = step_paths(key, theory, paths, step, field)
            out.append((paths, y, jnp.stack(output.values)))
        (one, y, x), (two, other_y, other_x) = out
        return (one, two), (y, other_y - y, jnp.mean((other_x - x) ** 2, axis=1))

    paths = init_paths(start_key, theory, num_paths)
    _, (y, dy, distance) = jax.lax.scan(go, (paths, paths), (steps, first, second))
    y, dy = jnp.moveaxis(y, 0, 1), jnp.moveaxis(dy, 0, 1)
    mean = jnp.stack([jnp.mean(y, axis=2), jnp.mean(y + dy, axis=2)])
    found = _Pair(mean, _product(y, y), _product(y, dy), _product(dy, dy))
    return found, distance.T


def _product(a: Float[Array, "row time path"], b: Float[Array, "row time path"]) -> Array:
    return contract("rtm,rsm->rts", a, b) / a.shape[2]


def _draw(
    key: PRNGKeyArray, theory: Theory, moments: _Pair, num_paths: int, jitter: float
) -> tuple[Float[Array, "time field path"], Float[Array, "time field path"]]:
    """Fields of copy 1 less their means, and how those of copy 2 differ."""
    mean, shift = moments.mean[0], moments.mean[1] - moments.mean[0]

    def covariance(second, a, b):
        return theory.input_covariance(second, a[:, :, None] * b[:, None, :])

    own = covariance(moments.own, mean, mean)
    cross = covariance(moments.cross, mean, shift)
    difference = covariance(moments.difference, shift, shift)
    num_fields, num, _ = own.shape
    # By time, both at each, so that nothing depends on what comes later.
    both = jnp.stack(
        [
            jnp.stack([own, cross], axis=3),
            jnp.stack([jnp.swapaxes(cross, 1, 2), difference], axis=3),
        ],
        axis=2,
    ).reshape(num_fields, 2 * num, 2 * num)
    lower = factor(both, jitter)
    z = jax.vmap(
        lambda step: field_noise(jax.random.fold_in(key, step), theory, (2, num_paths), False)
    )(jnp.arange(num, dtype=jnp.int32))
    z = jnp.moveaxis(z, 1, 0).reshape(num_fields, 2 * num, num_paths)
    drawn = contract("fts,fsm->tfm", lower, z)
    varying = (jnp.diagonal(difference, axis1=1, axis2=2) > 0).T[:, :, None]
    return drawn[0::2], jnp.where(varying, drawn[1::2], 0)
