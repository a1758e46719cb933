"""Stationary states: the equations at equal distance in time, solved by iteration on samples.

A sweep draws stationary Gaussian fields by FFT, drives paths through the neurons, and measures what
they transmit. Keys stay the same from sweep to sweep (common random numbers), so that the sweep is
a deterministic map of moments to moments, which has a fixed point to any precision.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import contract

from ._intensity import output_noise, stationary_noise, variances
from ._paths import field_noise, init_paths, step_paths, stream_input, world_input
from ._score import step_scores, windowed
from ._theory import Theory

# Sweeps with the means left free, before the iteration.
_STARTS = 3


class Moments(eqx.Module):
    """Moments of what the streams transmit, over neurons and time.

    - `mean`: `[stream]`; `second`: `[stream, lag]`, <y(t) y(t + lag)>; `quenched`: `[stream]`, its
      limit at long lags, the second moment of the neurons' time averages.
    """

    mean: Float[Array, "stream"]
    second: Float[Array, "stream lag"]
    quenched: Float[Array, "stream"]


class Fields(eqx.Module):
    """Law of the fields: mean, covariance at lags 0 .. L - 1, and its static part."""

    mean: Float[Array, "field"]
    covariance: Float[Array, "field lag"]
    static: Float[Array, "field"]


class Sampled(eqx.Module):
    """Paths of a stationary state; time first, without the warm-up."""

    x: Float[Array, "time population path"]
    intensity: Float[Array, "time population path"]  # of x given the past; x where it is not known
    inputs: Float[Array, "time field path"]  # all that enters the channel of the field
    y: Float[Array, "time stream path"]
    h: Float[Array, "time field path"]  # the fields without their means
    clipped: Float[Array, "field"]  # share of the power at frequencies where it was negative
    score: Float[Array, "time population path"] | None  # of the last `num_lags` steps, see `_score`


class Sampling(eqx.Module):
    """How the paths of a sweep are drawn: numbers of steps, lags, paths and worlds."""

    num_steps: int = eqx.field(static=True)
    num_warm: int = eqx.field(static=True)
    num_lags: int = eqx.field(static=True)
    num_paths: int = eqx.field(static=True)
    num_worlds: int = eqx.field(static=True, default=1)
    nested: bool = eqx.field(static=True, default=False)
    shared: bool = eqx.field(static=True, default=False)  # whether fields hold shared inputs
    response: bool = eqx.field(static=True, default=False)  # whether responses are wanted
    probes: tuple[int, ...] = eqx.field(static=True, default=())  # fields to shake for them


def field_law(theory: Theory, moments: Moments) -> Fields:
    """The law of the fields that follows from what the streams transmit (eqs. 4, 5)."""
    squared = moments.mean**2
    covariance = theory.input_covariance(
        moments.second, jnp.broadcast_to(squared[:, None], moments.second.shape)
    )
    static = theory.input_covariance(moments.quenched, squared)
    if theory.white:
        # All power at the level of frequency zero; the static part stays.
        moving = (covariance - static[:, None]) * _taper(covariance.shape[1], theory.dtype)[None]
        level = jnp.maximum(2 * jnp.sum(moving, axis=1) - moving[:, 0], 0)
        covariance = jnp.broadcast_to(jnp.maximum(static, 0)[:, None], covariance.shape)
        covariance = covariance.at[:, 0].add(level)
    return Fields(theory.input_mean(moments.mean), covariance, static)


def moment_scales(moments: Moments) -> Moments:
    """What changes of moments are measured by: of means and quenched parts, the average over lags.

    Themselves they may be zero but for noise. That of all streams is the largest.
    """
    size = jnp.abs(moments.second)
    level = jnp.max(jnp.mean(size, axis=1))
    return Moments(
        jnp.full_like(moments.mean, jnp.sqrt(level)),
        jnp.full_like(moments.second, jnp.max(size)),
        jnp.full_like(moments.quenched, level),
    )


def first_moments(key: PRNGKeyArray, theory: Theory, sampling: Sampling) -> Moments:
    """Where the iteration starts.

    First the variance of what neurons transmit at time 0, decaying; then what paths do whose means
    act on them as they go, so that a balanced network comes to rest as it does in time.
    """
    paths = init_paths(key, theory, sampling.num_paths * sampling.num_worlds)
    y = stream_input(theory, paths)
    mean = jnp.mean(y, axis=1)
    lag = jnp.arange(sampling.num_lags, dtype=theory.dtype) / (sampling.num_lags / 8)
    decay = jnp.exp(-lag)
    spread = jnp.var(y, axis=1)
    if theory.expected:
        # Without the noise around expectations, states could start frozen and stay so.
        values = [
            p.neuron.initial_output(n) for p, n in zip(paths.members, paths.neurons, strict=True)
        ]
        spread = spread + variances(theory, jnp.stack(values).astype(theory.dtype))
    moments = Moments(mean, (mean**2)[:, None] + spread[:, None] * decay[None], mean**2)

    def go(_, moments):
        sampled = sample(key, theory, field_law(theory, moments), sampling, closed=True)
        return stream_moments(theory, sampled, sampling)

    # Nothing depends on the start but the time it takes.
    dynamic, static = eqx.partition(theory, eqx.is_inexact_array)
    theory = eqx.combine(jax.lax.stop_gradient(dynamic), static)
    moments = jax.lax.stop_gradient(moments)
    return jax.lax.fori_loop(0, _STARTS, go, moments)


def sample(
    key: PRNGKeyArray, theory: Theory, law: Fields, sampling: Sampling, closed: bool = False
) -> Sampled:
    """Draw fields of the given law, and the paths of neurons that they drive.

    `closed`: whether the means of the fields are those of the paths as they go, not of the law.
    """
    total = sampling.num_paths * sampling.num_worlds
    num = sampling.num_warm + sampling.num_steps
    field_key = jax.random.split(key, 3)[2]
    h, clipped = draw_fields(field_key, theory, law, num, total, sampling.nested)
    x, intensity, inputs, y, score = drive_paths(
        key, theory, None if closed else law.mean, h, sampling
    )
    first = sampling.num_warm
    if score is not None:
        score = windowed(score, sampling.num_lags)[first:]
    paths = (x[first:], intensity[first:], inputs[first:], y[first:], h[first:])
    return Sampled(*paths, clipped, score)


def drive_paths(
    key: PRNGKeyArray,
    theory: Theory,
    mean: Float[Array, "field"] | None,
    h: Float[Array, "time field path"],
    sampling: Sampling,
) -> tuple[Array, Array, Array, Array, Array | None]:
    """Outputs, intensities, inputs, streams and scores of paths driven by the fields mean + h.

    Without a `mean` it is that of the paths, as they go.
    """
    start_key, run_key, _ = jax.random.split(key, 3)
    total = sampling.num_paths * sampling.num_worlds
    worlds = sampling.num_worlds if sampling.nested else None
    paths = init_paths(start_key, theory, total, worlds)
    places = [(p, theory.populations[p].neuron.channels.index(c)) for p, c in theory.fields]

    def go(paths, now):
        step, h = now
        y = stream_input(theory, paths)
        if sampling.nested:
            fields = h + world_input(theory, y, sampling.num_worlds)
        else:
            now_mean = theory.input_mean(jnp.mean(y, axis=1)) if mean is None else mean
            fields = h + now_mean[:, None]
        paths, output = step_paths(run_key, theory, paths, step, fields, sampling.nested)
        pairs = zip(output.values, output.intensities, strict=True)
        intensity = jnp.stack([x if i is None else i.astype(x.dtype) for x, i in pairs])
        inputs = jnp.stack([output.inputs[p][c] for p, c in places])
        score = step_scores(theory, output) if theory.gradient == "score" else None
        return paths, (jnp.stack(output.values), intensity, inputs, y, score)

    steps = jnp.arange(h.shape[0], dtype=jnp.int32)
    return jax.lax.scan(go, paths, (steps, h))[1]


def sweep(
    key: PRNGKeyArray, theory: Theory, moments: Moments, sampling: Sampling
) -> tuple[Moments, Sampled]:
    """The map of the self-consistency: moments to moments, by way of sampled paths."""
    sampled = sample(key, theory, field_law(theory, moments), sampling)
    return stream_moments(theory, sampled, sampling), sampled


def stream_moments(theory: Theory, sampled: Sampled, sampling: Sampling) -> Moments:
    """Of what the streams of sampled paths transmit, the noise given their input included."""
    score = sampled.score
    if score is not None:
        # At a step, streams hold what was emitted up to the step before.
        score = jnp.pad(score, ((1, 0), (0, 0), (0, 0)))[:-1]
        score = score[:, jnp.asarray(theory.sources, jnp.int32)]
    found = measure_moments(sampled.y, sampling.num_lags, score)
    if not theory.expected:
        return found
    variance = jnp.mean(variances(theory, jnp.moveaxis(sampled.x, 1, 0)), axis=1)
    noise = stationary_noise(theory, variance, sampling.num_steps, sampling.num_lags)
    return Moments(found.mean, found.second + noise, found.quenched)


def output_moments(theory: Theory, sampled: Sampled, sampling: Sampling) -> Moments:
    """The same of the outputs."""
    found = measure_moments(sampled.x, sampling.num_lags, sampled.score)
    if not theory.expected:
        return found
    x = jnp.moveaxis(sampled.x, 1, 0).reshape(sampled.x.shape[1], -1)
    noise = output_noise(theory, x, sampling.num_lags)
    return Moments(found.mean, found.second + noise, found.quenched)


def draw_fields(
    key: PRNGKeyArray,
    theory: Theory,
    law: Fields,
    num_steps: int,
    num_paths: int,
    independent: bool = False,
) -> tuple[Float[Array, "time field path"], Float[Array, "field"]]:
    """Stationary Gaussian paths of the law's covariance, less their mean.

    The covariance is laid on a circle that is longer than the paths by the lags, where its spectrum
    is that of independent Fourier modes; negative power is set to zero, and its share returned.
    """
    num_lags = law.covariance.shape[1]
    length = _fast_length(num_steps + num_lags)
    # The sampled static part may come out below zero where there is none.
    static = jnp.maximum(law.static, 0)
    moving = (law.covariance - static[:, None]) * _taper(num_lags, law.mean.dtype)[None]
    circle = jnp.concatenate(
        [
            moving,
            jnp.zeros((moving.shape[0], length - 2 * num_lags + 1), moving.dtype),
            moving[:, :0:-1],
        ],
        axis=1,
    )
    power = jnp.fft.rfft(circle, axis=1).real
    negative = jnp.maximum(-power, 0)
    clipped = jnp.sum(negative, axis=1) / jnp.maximum(jnp.sum(jnp.abs(power), axis=1), 1e-300)
    amplitude = _root(power)
    static_key, moving_key = jax.random.split(key)
    noise = field_noise(moving_key, theory, (length, num_paths), independent)
    modes, amplitude = jnp.fft.rfft(noise, axis=1), amplitude[:, :, None]
    modes = jax.lax.complex(modes.real * amplitude, modes.imag * amplitude)
    paths = jnp.fft.irfft(modes, n=length, axis=1)[:, :num_steps]
    still = field_noise(static_key, theory, (num_paths,), independent, even=True)
    still = _apart(still, noise[:, :num_steps])
    paths = paths + (_root(static)[:, None] * still)[:, None]
    return jnp.moveaxis(paths, 0, 1), clipped


def _apart(
    still: Float[Array, "field path"], noise: Float[Array, "field time path"]
) -> Float[Array, "field path"]:
    """What is static, without its chance correlation with the noise's averages over both halves.

    That correlation would pass for quenched variance, with an infinite slope where there is none:
    times the root of the variance it enters the second moment of the time averages. A few paths
    have no numbers to spare, and stay as they are.
    """
    if noise.shape[2] < 16:
        return still
    half = noise.shape[1] // 2
    halves = jnp.stack([jnp.mean(noise[:, :half], axis=1), jnp.mean(noise[:, half:], axis=1)], 1)
    halves = halves - jnp.mean(halves, axis=2)[:, :, None]
    inner = contract("fip,fjp->fij", halves, halves)
    share = jnp.linalg.solve(inner, contract("fip,fp->fi", halves, still)[..., None])[..., 0]
    rest = still - contract("fi,fip->fp", share, halves)
    return rest / jnp.sqrt(jnp.mean(rest**2, axis=1))[:, None]


def measure_moments(
    y: Float[Array, "time row path"],
    num_lags: int,
    score: Float[Array, "time row path"] | None = None,
) -> Moments:
    """Means, second moments at lags and quenched second moments of stationary paths.

    `score`: of what was emitted in the last steps, if derivatives go by it (`_score`).
    """
    num_steps, _, num_paths = y.shape
    length = _fast_length(num_steps + num_lags)
    modes = jnp.fft.rfft(y, n=length, axis=0)
    if score is None:
        power = jnp.sum(modes.real**2 + modes.imag**2, axis=2)
    else:
        later = jnp.fft.rfft(y * (1 + score), n=length, axis=0)
        power = jnp.sum(jnp.conj(modes) * later, axis=2)
    sums = jnp.fft.irfft(power, n=length, axis=0)[:num_lags]
    count = (num_steps - jnp.arange(num_lags)).astype(y.dtype) * num_paths
    if score is not None:
        # The baselines: averages over paths and time alike.
        pooled = jnp.cumsum(jnp.sum(score, axis=2)[::-1], axis=0)[::-1][:num_lags]
        sums = sums - jax.lax.stop_gradient(sums / count[:, None]) * pooled
        y = y + jax.lax.stop_gradient(y - jnp.mean(y, axis=(0, 2))[None, :, None]) * score
    # The time averages of two stretches so far apart that only what is static joins them.
    half = max((num_steps - num_lags) // 2, 1)
    early, late = jnp.mean(y[:half], axis=0), jnp.mean(y[-half:], axis=0)
    return Moments(
        jnp.mean(y, axis=(0, 2)), (sums / count[:, None]).T, jnp.mean(early * late, axis=1)
    )


def _taper(num_lags: int, dtype) -> Float[Array, "lag"]:
    """1 over the first half of the lags, falling to 0 over the second."""
    place = jnp.arange(num_lags, dtype=dtype) / num_lags
    return jnp.cos(jnp.pi * jnp.clip(place - 0.5, 0, 0.5)) ** 2


def _root(power: Array) -> Array:
    """The square root of what is positive, else zero, with a derivative everywhere."""
    positive = power > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, power, 1)), 0)


def _fast_length(length: int) -> int:
    """The least even number of the form 2^a 3^b 5^c that is not below `length`."""
    best = 1 << (length - 1).bit_length()
    for fives in range(8):
        for threes in range(8):
            odd = 5**fives * 3**threes
            twos = max(-(-length // odd) - 1, 1).bit_length()
            best = min(best, odd << max(twos, 1))
    return best
