"""Estimators behind derivatives; and the noise of spikes and switching given the input.

The derivative of a moment of sampled spikes is not that of the samples, which is zero. Where what a
neuron emits is known in expectation given its input (`network.Expected`), the paths transmit that,
and the rest, n = x - <x | input>, is put back into the second moments exactly: it is independent
from neuron to neuron and known in law. It is <n(t) n(t')> = memory^|t - t'| v(min(t, t')), with
v = <p (1 - p)>, p the probability of a spike in the step or of the binary state 1: an
autoregression whose innovations pass linearly through delay and kernel.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import contract
from neurofield.network import Expected, Population

from ._paths import PathState, StreamState, init_stream, step_stream
from ._theory import Stream, Theory

GRADIENTS = ("pathwise", "intensity", "score", "surrogate", "none")


def with_gradient(theory: Theory, gradient: str | None, order: str) -> Theory:
    """The theory with its paths as an estimator needs them, the best one by default.

    Raises `ValueError` for unknown names, and for what the neurons do not allow.
    """
    if gradient is not None and gradient not in GRADIENTS:
        raise ValueError(f"gradient={gradient!r} is not one of {GRADIENTS}.")
    random = [i for i, p in enumerate(theory.populations) if p.neuron.kind != "rate"]
    if not random or gradient == "pathwise":
        if random:
            raise ValueError(
                'gradient="pathwise" is for networks of rate neurons; where neurons spike or '
                'switch take "intensity" or "score".'
            )
        if gradient not in (None, "pathwise", "none"):
            raise ValueError(f'gradient={gradient!r}: rate neurons are smooth, take "pathwise".')
        return _renewed(theory, {}, "pathwise")
    refused = _refused(theory, random, order == "nested")
    if gradient is None:
        modes = {getattr(theory.populations[i].neuron, "spike_gradient", None) for i in random}
        gradient = "intensity" if refused is None else modes.pop() if len(modes) == 1 else "none"
        gradient = gradient if gradient in GRADIENTS else "none"
        gradient = "none" if order != "leading" and gradient == "score" else gradient
    if gradient == "score" and order != "leading":
        why = {
            "nested": "paths of a world act on each other, which the causal score of single paths "
            "leaves out",
            "shared": "the spectra of single neurons and their responses, which shared covariances "
            "are made of, have no score here",
        }
        raise ValueError(f'gradient="score": {why[order]}; take order="leading".')
    if gradient == "intensity":
        if refused is not None:
            raise ValueError(f'gradient="intensity": {refused}')
        wrapped = {i: Expected(theory.populations[i].neuron) for i in random}
        smooth = all(getattr(w.neuron, "gain", True) is not None for w in wrapped.values())
        # The expectation of a sharp threshold has no derivative either, and raises.
        return _renewed(theory, wrapped, "intensity" if smooth else "none", expected=True)
    changed = {}
    if gradient in ("score", "surrogate"):
        for i in random:
            neuron = theory.populations[i].neuron
            if not hasattr(neuron, "spike_gradient"):
                raise ValueError(
                    f"gradient={gradient!r}: {type(neuron).__name__} of population "
                    f"{theory.populations[i].name!r} has no spike_gradient."
                )
            changed[i] = dataclasses.replace(neuron, spike_gradient=gradient)
    if gradient == "score":
        _check_scores(theory, changed)
    if gradient == "none":
        # What neurons ask for of themselves would be a part of the derivative, and silent.
        for i in random:
            neuron = theory.populations[i].neuron
            if hasattr(neuron, "spike_gradient"):
                changed[i] = dataclasses.replace(neuron, spike_gradient="error")
    return _renewed(theory, changed, gradient)


def with_scores(theory: Theory) -> Theory | None:
    """The theory with paths that know the probability of what they emit; `None` if it has none."""
    if theory.expected:
        return None
    try:
        return with_gradient(theory, "score", "leading")
    except ValueError:
        return None


def _check_scores(theory: Theory, neurons: dict) -> None:
    for i, neuron in neurons.items():
        name = theory.populations[i].name

        def one(neuron):
            state = neuron.init(jax.random.key(0), (1,))
            nothing = jnp.zeros((len(neuron.channels), 1), theory.dtype)
            return neuron.step(jax.random.key(0), state, nothing, theory.dt)[1]

        if jax.eval_shape(one, neuron).intensity is None:
            raise ValueError(
                f'gradient="score": {type(neuron).__name__} of population {name!r} fires at a '
                "deterministic threshold, and its spikes have no probability to differentiate: "
                "take neurons with escape noise, such as EscapeLIF or GLM, or "
                'gradient="surrogate", which is biased.'
            )


def _renewed(theory: Theory, neurons: dict, gradient: str, expected: bool = False) -> Theory:
    populations = tuple(
        Population(p.name, neurons[i], p.size, p.drive) if i in neurons else p
        for i, p in enumerate(theory.populations)
    )
    return dataclasses.replace(
        theory, populations=populations, gradient=gradient, expected=expected
    )


def _refused(theory: Theory, random: list[int], nested: bool) -> str | None:
    """Why expectations cannot be transmitted; `None` where they can."""
    if nested:
        return "worlds of finite populations fluctuate by the very spikes that it averages over."
    for i in random:
        if theory.populations[i].neuron.memory(theory.dt) is None:
            return (
                f"the expected output of population {theory.populations[i].name!r} given its input "
                "is not known: its spikes act back on it, or its neurons differ in their memory."
            )
    for stream in theory.streams:
        if stream.source in random and stream.plasticity is not None:
            return "what plastic synapses release is not linear in the spikes."
        if stream.source in random and stream.level and stream.delay is not None:
            return "binary states through distributed delays are not covered."
    return None


class OwnNoise(eqx.Module):
    """What is needed of the noise of streams given the input, over `time` steps from the start.

    - `response`: `[stream, time]`, the stream after an innovation of the first step; `start`: after
      a deviation of the state at time 0.
    - `memory`: `[stream]`.
    - `spread`: a stream each, the distribution of its delay over steps beyond `response`'s.
    - `initial`: `[stream]`, the variance of the state at time 0.
    """

    response: Float[Array, "stream time"]
    start: Float[Array, "stream time"]
    memory: Float[Array, " stream"]
    initial: Float[Array, " stream"]
    spread: tuple[Float[Array, " lag"], ...]


def own_noise(theory: Theory, paths: PathState, num_steps: int) -> OwnNoise | None:
    """Of paths at time 0, where they transmit expectations."""
    if not theory.expected or not theory.streams:
        return None
    response, start, memories, initial, spread = [], [], [], [], []
    for stream, state in zip(theory.streams, paths.streams, strict=True):
        neuron = theory.populations[stream.source].neuron
        random = neuron.kind != "rate"
        memory = jnp.asarray(neuron.memory(theory.dt) if random else 0.0, theory.dtype)
        # Neurons that spike have sent nothing before the start.
        p = paths.members[stream.source].neuron.initial_output(paths.neurons[stream.source])
        first = jnp.mean(p * (1 - p)) if random and stream.level else jnp.zeros((), theory.dtype)
        response.append(_response(theory, stream, memory, num_steps, False))
        start.append(_response(theory, stream, memory, num_steps, True))
        memories.append(memory)
        initial.append(first.astype(theory.dtype))
        spread.append(_spread(state, theory.dtype))
    return OwnNoise(
        jnp.stack(response),
        jnp.stack(start),
        jnp.stack(memories),
        jnp.stack(initial),
        tuple(spread),
    )


def _spread(state: StreamState, dtype) -> Array:
    if state.lags is None:
        return jnp.ones(1, dtype)
    slots = jnp.arange(0 if state.ring is None else state.ring.shape[0], dtype=jnp.int32)
    return jnp.mean((state.lags[None] == slots[:, None]).astype(dtype), axis=1)


def _response(theory: Theory, stream: Stream, memory: Array, num_steps: int, start: bool) -> Array:
    """The stream at steps 0 .. after 1 was emitted in the first step, or was the state at 0."""
    if stream.delay is not None:
        stream = dataclasses.replace(stream, delay=None, lag=0)
    one = jnp.full((1,), 1.0 if start else 0.0, theory.dtype)
    state = init_stream(jax.random.key(0), stream, one, theory.dt)

    def go(carry, step):
        state, emitted = carry
        y = stream.kernel.input(state.kernel, theory.dt, stream.level)
        state = step_stream(stream, state, emitted, step, theory.dt)
        return (state, emitted * memory), y[0]

    first = memory * one if start else jnp.ones((1,), theory.dtype)
    steps = jnp.arange(num_steps, dtype=jnp.int32)
    return jax.lax.scan(go, (state, first), steps)[1]


def variances(theory: Theory, values: Float[Array, "population *path"]) -> Array:
    """<p (1 - p)> of each stream's source, from what paths transmit at one step or at many."""
    rows = []
    for stream in theory.streams:
        p = values[stream.source]
        p = p if stream.level else p * theory.dt
        random = theory.populations[stream.source].neuron.kind != "rate"
        rows.append(jnp.mean(p * (1 - p), axis=-1) if random else jnp.zeros(p.shape[:-1], p.dtype))
    return jnp.stack(rows)


def emit(
    noise: OwnNoise,
    arrivals: Float[Array, "stream time"],
    step: Array,
    before: Float[Array, " stream"],
    now: Float[Array, " stream"],
) -> Float[Array, "stream time"]:
    """`arrivals`, the variances of innovations by the step of arrival, with those of `step`."""
    innovation = now - noise.memory**2 * before
    rows = []
    for row, value, spread in zip(arrivals, innovation, noise.spread, strict=True):
        place = step + jnp.arange(spread.shape[0], dtype=jnp.int32)
        rows.append(row.at[place].add(value * spread, mode="drop"))
    return jnp.stack(rows)


def response_table(noise: OwnNoise, window: int, block: int) -> Array:
    """`[stream, row, ago]`: what `noise_row` takes `window + block` rows of."""
    ago = jnp.arange(window + block, dtype=jnp.int32)
    row = jnp.arange(window + 2 * block, dtype=jnp.int32)
    since = ago[None] + row[:, None] - (window + block)
    return jnp.where(since[None] > 0, noise.response[:, jnp.maximum(since, 0)], 0)


def noise_row(
    noise: OwnNoise,
    table: Float[Array, "stream shift ago"],
    arrivals: Float[Array, "stream time"],
    step: Array,
    place: Array,
    block: int,
) -> Float[Array, "stream row"]:
    """<n(t) n(step)> of the streams at the times of the window and the block, 0 after `step`.

    `place`: of the step in its block; `arrivals` after `step` must be zero. Summed directly: the
    zeros of the start, where nothing has arrived yet, must be exact.
    """
    num = table.shape[2]
    ago = step - jnp.arange(num, dtype=jnp.int32)
    now = jnp.where(ago[None] >= 0, arrivals[:, jnp.maximum(ago, 0)], 0) * noise.response[:, :num]
    shifted = jax.lax.dynamic_slice_in_dim(table, block - place, num, axis=1)
    row = contract("sra,sa->sr", shifted, now)
    times = step - place + jnp.arange(num, dtype=jnp.int32) - (num - block)
    start = noise.start[:, jnp.maximum(times, 0)] * jnp.take(noise.start, step, axis=1)[:, None]
    row = row + noise.initial[:, None] * start
    return jnp.where(((times >= 0) & (times <= step))[None], row, 0)


def noise_by_lag(
    noise: OwnNoise, values: Float[Array, "stream time"], num_lags: int
) -> Float[Array, "stream time lag"]:
    """<n(t) n(t - lag)> of the streams, from the variances <p (1 - p)> of all steps."""
    num = values.shape[1]
    arrivals = _arrivals(noise, values)

    def one(lag):
        def shifted(x):
            padded = jnp.pad(x[:, :num], ((0, 0), (num, 0)))
            return jax.lax.dynamic_slice_in_dim(padded, num - lag, num, axis=1)

        response, start = noise.response[:, :num], noise.start[:, :num]
        found = _convolve(response * shifted(response), arrivals)
        return found + noise.initial[:, None] * start * shifted(start)

    return jnp.moveaxis(jax.lax.map(one, jnp.arange(num_lags, dtype=jnp.int32)), 0, -1)


def noise_two_time(
    noise: OwnNoise, values: Float[Array, "stream time"]
) -> Float[Array, "stream time time"]:
    """<n(t) n(t')> of the streams, from the variances <p (1 - p)> of all steps."""
    num = values.shape[1]
    ago = jnp.arange(num, dtype=jnp.int32)
    ago = ago[:, None] - ago[None]
    response = jnp.where(ago[None] > 0, noise.response[:, jnp.maximum(ago, 0)], 0)
    found = contract("stj,srj->str", response * _arrivals(noise, values)[:, None], response)
    start = noise.start[:, :num]
    return found + noise.initial[:, None, None] * start[:, :, None] * start[:, None, :]


def noise_across(
    theory: Theory, noise: OwnNoise, values: Float[Array, "stream time"]
) -> Float[Array, "stream time time"]:
    """<n_x(t) n_y(t')> of each stream y and the output x of its source, in their units."""
    num = values.shape[1]
    step = jnp.arange(num, dtype=jnp.int32)
    before = jnp.concatenate([noise.initial[:, None], values[:, :-1]], axis=1)
    innovation = values - noise.memory[:, None] ** 2 * before
    ago = step[:, None] - step[None]
    rows = []
    for s, stream in enumerate(theory.streams):
        memory = noise.memory[s]
        spikes = theory.populations[stream.source].neuron.kind == "spike"
        power = jnp.where(ago > 0, memory ** jnp.maximum(ago, 1).astype(theory.dtype), 1)
        held = jnp.where(ago >= 0, power, 0)
        response = noise.response[s, :num].at[0].set(0)
        sent = jnp.convolve(response, noise.spread[s])[:num]
        sent = jnp.where(ago >= 0, sent[jnp.maximum(ago, 0)], 0)
        row = contract("tj,j,sj->ts", held, innovation[s], sent)
        begin = memory ** (step + 1).astype(theory.dtype)
        row = row + noise.initial[s] * begin[:, None] * noise.start[s, :num][None]
        rows.append(row / theory.dt if spikes else row)
    return jnp.stack(rows)


def _arrivals(noise: OwnNoise, values: Float[Array, "stream time"]) -> Array:
    """The variances of innovations by the step of arrival."""
    num = values.shape[1]
    before = jnp.concatenate([noise.initial[:, None], values[:, :-1]], axis=1)
    innovation = values - noise.memory[:, None] ** 2 * before
    rows = [jnp.convolve(i, s)[:num] for i, s in zip(innovation, noise.spread, strict=True)]
    return jnp.stack(rows)


def two_time(by_lag: Float[Array, "row time lag"]) -> Float[Array, "row time time"]:
    """[t, t'] from [t, lag], all lags given."""
    time = jnp.arange(by_lag.shape[1], dtype=jnp.int32)
    later = jnp.maximum(time[:, None], time[None])
    return by_lag[:, later, jnp.abs(time[:, None] - time[None])]


def stationary_noise(
    theory: Theory, variance: Float[Array, " stream"], num_steps: int, num_lags: int
) -> Float[Array, "stream lag"]:
    """<n(t) n(t + lag)> of the streams in a stationary state, their responses over `num_steps`."""
    rows = []
    for stream, value in zip(theory.streams, variance, strict=True):
        neuron = theory.populations[stream.source].neuron
        if neuron.kind == "rate":
            rows.append(jnp.zeros(num_lags, theory.dtype))
            continue
        memory = jnp.asarray(neuron.memory(theory.dt), theory.dtype)
        plain = dataclasses.replace(stream, delay=None, lag=0)
        response = _response(theory, plain, memory, num_steps, False)
        modes = jnp.fft.rfft(response, n=2 * num_steps)
        power = jnp.fft.irfft(modes.real**2 + modes.imag**2, n=2 * num_steps)[:num_lags]
        rows.append(power * value * (1 - memory**2))
    return jnp.stack(rows)


def output_noise(
    theory: Theory, x: Float[Array, "population *time path"], num_lags: int
) -> Float[Array, "population *time lag"]:
    """<n(t) n(t - lag)> of the outputs, in their unit."""
    rows = []
    for population, values in zip(theory.populations, x, strict=True):
        neuron = population.neuron
        lag = jnp.arange(num_lags, dtype=jnp.int32)
        if neuron.kind == "rate":
            rows.append(jnp.zeros((*values.shape[:-1], num_lags), theory.dtype))
            continue
        scale = theory.dt if neuron.kind == "spike" else 1.0
        p = values * scale
        v = jnp.mean(p * (1 - p), axis=-1)
        memory = jnp.asarray(neuron.memory(theory.dt), theory.dtype)
        decay = jnp.where(lag == 0, 1, memory ** jnp.maximum(lag, 1).astype(theory.dtype))
        if v.ndim:
            time = jnp.arange(v.shape[0], dtype=jnp.int32)
            at = time[:, None] - lag[None]
            v = jnp.where(at >= 0, v[jnp.maximum(at, 0)], 0)
            rows.append(v * decay[None] / scale**2)
        else:
            rows.append(v * decay / scale**2)
    return jnp.stack(rows)


def _convolve(a: Float[Array, "row time"], b: Float[Array, "row time"]) -> Array:
    """sum over j of a(t - j) b(j), over the times of b."""
    num = b.shape[1]
    modes = jnp.fft.rfft(a, n=2 * num, axis=1) * jnp.fft.rfft(b, n=2 * num, axis=1)
    return jnp.fft.irfft(modes, n=2 * num, axis=1)[:, :num]
