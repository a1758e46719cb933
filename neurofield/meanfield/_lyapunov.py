"""Chaos: the largest Lyapunov exponent, and the parting of two copies of a network.

Two copies of a network with equal weights receive fields of equal law, jointly Gaussian. Of a small
difference, dh is a Gaussian process of covariance vQ <dy dy'>, independent of the path itself, and
dy is linear in it. In a stationary state <dy(t) dy(t')> = exp(rate (t + t')) psi(t - t'), and psi
is mapped to itself: the exponent is the rate at which the leading eigenvalue of the map is 1.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import contract, standard_error

from ._fixed_point import fixed_point
from ._paths import init_paths, step_paths, stream_input
from ._solution import Solution
from ._stationary import Moments, Sampling, _fast_length, _taper, draw_fields, field_law
from ._theory import Theory, build_theory


class _Growth(eqx.Module):
    """`one`: 1 + rate * pace, of the order of 1; `second`: psi, 1 in sum at lag 0."""

    one: Float[Array, ""]
    second: Float[Array, "stream lag"]


def lyapunov_exponent(
    solution: Solution,
    *,
    key: PRNGKeyArray,
    duration: float | None = None,
    num_paths: int | None = None,
    rtol: float = 1e-5,
    max_steps: int = 40,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The largest Lyapunov exponent (1/s) in a stationary solution, and its standard error.

    Of the network in steps of dt, in the limit of infinite populations; noise counts as equal in
    both copies. Positive in chaos. Differences are followed along `num_paths` paths over `duration`
    seconds (by default those of the solution), a quarter of it before the count; correlations of
    differences are kept up to the lags of the solution. Differentiable in the network's parameters
    and the solution's moments.

    Raises `ValueError` for spikes and binary states, of which two copies part at an infinite rate
    (`two_replicas` gives their distance in time), for solutions that are not stationary ones of
    paths at leading order, and RuntimeError where the iteration does not settle.
    After Sompolinsky, Crisanti & Sommers (1988), Schuecker, Goedeke & Helias (2018).
    """
    theory, moments = _of(solution)
    for population in theory.populations:
        if population.neuron.kind != "rate":
            raise ValueError(
                f"population {population.name!r} emits {population.neuron.kind} states: a small "
                "difference between two copies is of the order of its root after one step, so that "
                "it grows at an infinite rate. Take two_replicas for their distance in time."
            )
    settings = dict(solution.settings)
    num_lags, num_replicas = moments.second.shape[2], moments.second.shape[0]
    seconds: float = settings["duration"] if duration is None else duration
    total: int = settings["num_paths"] if num_paths is None else num_paths
    num_steps = max(round(seconds / theory.dt), 2 * num_lags)
    sampling = Sampling(num_steps, num_steps // 4, num_lags, max(total // num_replicas, 2))
    keys = jax.random.split(key, num_replicas)
    found, error = _exponents(theory, moments, keys, sampling, rtol, max_steps)
    found = eqx.error_if(
        found,
        ~(jnp.max(error) <= rtol),
        "lyapunov_exponent: the law of differences did not settle; raise max_steps, num_paths or "
        "the solution's max_lag.",
    )
    return jnp.mean(found), standard_error(found)


@eqx.filter_jit
def _exponents(theory, moments, keys, sampling, rtol, max_steps):
    def one(args):
        key, moments = args

        def advance(args, growth: _Growth) -> _Growth:
            key, theory, moments, pace = args
            rate = (growth.one - 1) / pace
            second = _differences(key, theory, moments, growth.second, rate, sampling)
            size = jnp.sum(second[:, 0])
            # Newton's step in the rate, had the correlations the right form already.
            return _Growth(growth.one + jnp.log(size), second / size)

        lag = jnp.arange(sampling.num_lags, dtype=theory.dtype) / (sampling.num_lags / 8)
        num_streams = len(theory.streams)
        start = jnp.broadcast_to(jnp.exp(-lag) / num_streams, (num_streams, sampling.num_lags))
        _, slope = jax.jvp(
            lambda rate: jnp.log(
                jnp.sum(_differences(key, theory, moments, start, rate, sampling)[:, 0])
            ),
            (jnp.zeros((), theory.dtype),),
            (jnp.ones((), theory.dtype),),
        )
        pace = jax.lax.stop_gradient(-1 / slope)
        end = fixed_point(
            advance,
            (key, theory, moments, pace),
            _Growth(jnp.ones((), theory.dtype), start),
            rtol=rtol,
            max_steps=max_steps,
            damping=1.0,
        )
        return (end.value.one - 1) / pace, end.error

    return jax.lax.map(one, (keys, moments))


def _differences(
    key: PRNGKeyArray,
    theory: Theory,
    moments: Moments,
    second: Float[Array, "stream lag"],
    rate: Array,
    sampling: Sampling,
) -> Float[Array, "stream lag"]:
    """<dy(t) dy(t + lag)> at growth `rate` taken out, given that of the differences before."""
    start_key, run_key, field_key, phase_key = jax.random.split(key, 4)
    law = field_law(theory, moments)
    num, total = sampling.num_warm + sampling.num_steps, sampling.num_paths
    h, _ = draw_fields(field_key, theory, law, num, total)
    dh = _random_phases(phase_key, contract("fs,st->ft", theory.vQ, second), num, total)
    paths = init_paths(start_key, theory, total)
    still = jax.tree.map(jnp.zeros_like, eqx.filter(paths, eqx.is_inexact_array))
    decay = jnp.exp(-rate * theory.dt)

    def go(carry, now):
        paths, difference = carry
        step, h, dh = now
        moving, rest = eqx.partition(paths, eqx.is_inexact_array)

        def advance(moving, fields):
            paths = eqx.combine(moving, rest)
            y = stream_input(theory, paths)
            paths, _ = step_paths(run_key, theory, paths, step, fields)
            moving, other = eqx.partition(paths, eqx.is_inexact_array)
            return (moving, y), other

        (moving, _), (difference, dy), other = jax.jvp(
            advance, (moving, law.mean[:, None] + h), (difference, dh), has_aux=True
        )
        difference = jax.tree.map(lambda d: d * decay, difference)
        return (eqx.combine(moving, other), difference), dy

    steps = jnp.arange(num, dtype=jnp.int32)
    _, dy = jax.lax.scan(go, (paths, still), (steps, h, dh))
    return _correlation(dy[sampling.num_warm :], sampling.num_lags)


def _random_phases(
    key: PRNGKeyArray, covariance: Float[Array, "field lag"], num_steps: int, num_paths: int
) -> Float[Array, "time field path"]:
    """Paths of the given covariance, exactly so on average over the time of each path.

    Fourier modes of fixed modulus and random phase: all that counts of differences, which enter
    linearly, is their covariance.
    """
    num_fields, num_lags = covariance.shape
    length = _fast_length(num_steps + num_lags)
    moving = covariance * _taper(num_lags, covariance.dtype)[None]
    gap = jnp.zeros((num_fields, length - 2 * num_lags + 1), moving.dtype)
    circle = jnp.concatenate([moving, gap, moving[:, :0:-1]], axis=1)
    power = jnp.fft.rfft(circle, axis=1).real
    positive = power > 0
    modulus = jnp.where(positive, jnp.sqrt(jnp.where(positive, power, 1) * length), 0)
    shape = (num_fields, modulus.shape[1], num_paths)
    phase = 2 * jnp.pi * jax.random.uniform(key, shape, covariance.dtype)
    # The first and the last mode are real.
    sign = jnp.where(phase < jnp.pi, 1, -1).astype(phase.dtype)
    ends = jnp.zeros(shape[1], bool).at[jnp.asarray([0, shape[1] - 1])].set(True)[None, :, None]
    real = jnp.where(ends, sign, jnp.cos(phase)) * modulus[:, :, None]
    imaginary = jnp.where(ends, 0, jnp.sin(phase)) * modulus[:, :, None]
    paths = jnp.fft.irfft(jax.lax.complex(real, imaginary), n=length, axis=1)[:, :num_steps]
    return jnp.moveaxis(paths, 0, 1)


def _correlation(y: Float[Array, "time row path"], num_lags: int) -> Float[Array, "row lag"]:
    num_steps, _, num_paths = y.shape
    modes = jnp.fft.rfft(y, n=_fast_length(num_steps + num_lags), axis=0)
    power = jnp.sum(modes.real**2 + modes.imag**2, axis=2)
    sums = jnp.fft.irfft(power, n=_fast_length(num_steps + num_lags), axis=0)[:num_lags]
    count = (num_steps - jnp.arange(num_lags)).astype(y.dtype) * num_paths
    return (sums / count[:, None]).T


def _of(solution: Solution) -> tuple[Theory, Moments]:
    moments = solution.moments
    if moments is None or solution.order != "leading":
        raise ValueError(
            "this takes a stationary solution of paths at leading order: solve(..., "
            f'method="stationary", order="leading"), got method={solution.method!r}, '
            f"order={solution.order!r}."
        )
    return build_theory(solution.network, solution.dt), moments
