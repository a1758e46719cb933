"""Linear response of neurons on a course in time: R(t, s) of the mean output at t to a field at s.

By E[x(t) h(s)] = sum_u R(t, u) E[h(u) h(s)] for Gaussian h (Furutsu 1963, Novikov 1965), which is
R = E[x z^T] L^-1 for h = L z: least squares of x(t) on the past of h, here over the paths at each t
and among filters that grow smoother with the lag, without which the errors of single entries would
drown their sums. Neurons that are smooth are differentiated instead, along paths; and so are those
whose spikes have a probability, each path weighted by the change of its own.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import contract, matmul
from neurofield.network import Function

from ._intensity import with_scores
from ._march import factor
from ._paths import field_noise, init_paths, step_paths, stream_input
from ._response import _PROBE, _hats, _is_gaussian, _sources, carries_variance
from ._score import step_scores
from ._theory import Theory
from ._transfer import plastic_streams, stream_kernels

# Impulses that are followed at once.
_IMPULSES = 128
# How much farther apart the nodes of a filter are at a longer lag.
_GROWTH = 0.15


class CourseResponses(eqx.Module):
    """Changes at a step (third index) per unit of a field at an earlier one (fourth).

    - `output`: `[field, time, time]`, of the mean output of the field's own population.
    - `stream`: `[stream, field, time, time]`, of what the streams transmit, zero of other sources.
    - `output_variance`, `stream_variance`: per unit of the field's variance in one step; `None`
      where no variance follows the means at once.
    """

    output: Float[Array, "field time time"]
    stream: Float[Array, "stream field time time"]
    output_variance: Float[Array, "field time time"] | None
    stream_variance: Float[Array, "stream field time time"] | None


class Driven(eqx.Module):
    """Paths of a course driven again; `intensity` and `inputs` as in `_stationary.Sampled`."""

    x: Float[Array, "population time path"]
    y: Float[Array, "stream time path"]
    intensity: Float[Array, "population time path"]
    inputs: Float[Array, "field time path"]


def drive_course(
    key: PRNGKeyArray,
    theory: Theory,
    mean: Float[Array, "field time"],
    h: Float[Array, "field time path"],
) -> Driven:
    """The paths of a march or relaxation with this key, from their fields."""
    places = [(p, theory.populations[p].neuron.channels.index(c)) for p, c in theory.fields]
    start_key, run_key, _ = jax.random.split(key, 3)

    def go(paths, now):
        step, fields = now
        y = stream_input(theory, paths)
        paths, output = step_paths(run_key, theory, paths, step, fields)
        pairs = zip(output.values, output.intensities, strict=True)
        intensity = jnp.stack([x if i is None else i.astype(x.dtype) for x, i in pairs])
        inputs = [output.inputs[p][c] for p, c in places]
        inputs = jnp.stack(inputs) if inputs else fields
        return paths, (jnp.stack(output.values), y, intensity, inputs)

    steps = jnp.arange(h.shape[1], dtype=jnp.int32)
    fields = jnp.moveaxis(h + mean[:, :, None], 1, 0)
    _, found = jax.lax.scan(go, init_paths(start_key, theory, h.shape[2]), (steps, fields))
    return Driven(*(jnp.moveaxis(x, 0, 1) for x in found))


def course_responses(
    key: PRNGKeyArray,
    theory: Theory,
    mean: Float[Array, "field time"],
    h: Float[Array, "field time path"],
    covariance: Float[Array, "field time time"],
    num_slopes: int,
    jitter: float,
) -> CourseResponses:
    """The responses of one group of paths, driven by the fields mean + h.

    `covariance`: of h. `num_slopes`: along how many paths smooth neurons are differentiated.
    """
    kinds = [population.neuron.kind for population in theory.populations]
    varied = any(carries_variance(s) and kinds[s.source] != "rate" for s in theory.streams)
    if theory.gradient in ("pathwise", "intensity"):
        return _differentiated(key, theory, mean, h[:, :, :num_slopes], varied)
    scored = with_scores(theory)
    if scored is not None:
        # Scores are noisier than derivatives of smooth neurons.
        return _differentiated(key, scored, mean, h[:, :, : 4 * num_slopes], varied)
    return _regressed(key, theory, mean, h, covariance, varied, jitter)


def causality_of_course(
    x: Float[Array, "row time path"],
    h: Float[Array, "row time path"],
    covariance: Float[Array, "row time time"],
    jitter: float,
) -> Float[Array, "lag row path"]:
    """Sums over t of x(t) z(t + l), l = 1 .. T / 2, whose means are zero; h = L z of covariance C.

    For `_response.scores`.
    """
    z = jax.vmap(lambda a, b: solve_triangular(a, b, lower=True))(factor(covariance, jitter), h)
    x = x - jnp.mean(x, axis=2)[:, :, None]
    num = x.shape[1]
    modes = [jnp.fft.rfft(v, n=2 * num, axis=1) for v in (x, z)]
    sums = jnp.fft.irfft(jnp.conj(modes[0]) * modes[1], n=2 * num, axis=1)
    return jnp.moveaxis(sums[:, 1 : max(num // 2, 1) + 1], 1, 0)


def _differentiated(key, theory: Theory, mean, h, varied: bool) -> CourseResponses:
    """Derivatives along paths by impulses at each step, of first and perhaps second order."""
    num_steps = h.shape[1]
    steps = jnp.arange(num_steps, dtype=jnp.int32)
    start_key, run_key, _ = jax.random.split(key, 3)
    start = init_paths(start_key, theory, h.shape[2])
    sources = jnp.asarray(theory.sources, jnp.int32)
    fields = jnp.moveaxis(h + mean[:, :, None], 1, 0)

    def means(shift: Float[Array, "time field"]) -> tuple[Array, Array]:
        def go(carry, now):
            paths, score = carry
            step, fields, shift = now
            y = stream_input(theory, paths)
            paths, output = step_paths(run_key, theory, paths, step, fields + shift[:, None])
            x = jnp.stack(output.values)
            if score is None:
                return (paths, None), (jnp.mean(x, axis=1), jnp.mean(y, axis=1))
            pairs = zip(output.values, output.intensities, strict=True)
            x = jnp.stack([v if i is None else i.astype(v.dtype) for v, i in pairs])
            found = (_weighted(x, score), _weighted(y, score[sources]))
            return (paths, score + step_scores(theory, output)), found

        score = jnp.zeros((len(theory.populations), h.shape[2]), theory.dtype)
        carry = (start, score if theory.gradient == "score" else None)
        return jax.lax.scan(go, carry, (steps, fields, shift))[1]

    # Populations do not see each other's paths: their first fields are shaken at once, and so on.
    ranks = [sum(q == p for q, _ in theory.fields[:f]) for f, (p, _) in enumerate(theory.fields)]
    by_rank = {}
    for rank in sorted(set(ranks)):
        own = jnp.asarray([r == rank for r in ranks], theory.dtype)

        def one(step, own=own):
            impulse = jnp.where(steps == step, 1, 0).astype(theory.dtype)[:, None] * own[None]
            rest = jnp.zeros_like(impulse)

            def first(shift):
                return jax.jvp(means, (shift,), (impulse,))[1]

            return jax.jvp(first, (rest,), (impulse,)) if varied else (first(rest), None)

        found = jax.lax.map(jax.checkpoint(one), steps, batch_size=min(_IMPULSES, num_steps))
        by_rank[rank] = jax.tree.map(lambda x: jnp.transpose(x, (2, 1, 0)), found)

    def gathered(order: int) -> tuple[Array, Array]:
        outputs, streams = [], []
        for (p, _), rank in zip(theory.fields, ranks, strict=True):
            x, y = by_rank[rank][order]
            outputs.append(x[p])
            own = jnp.asarray([s.source == p for s in theory.streams], theory.dtype)
            streams.append(y * own[:, None, None])
        return jnp.stack(outputs), jnp.stack(streams, axis=1)

    if not varied:
        return CourseResponses(*gathered(0), None, None)
    second = [x / 2 for x in gathered(1)]
    return CourseResponses(*gathered(0), *second)


def _weighted(x: Float[Array, "row path"], score: Float[Array, "row path"]) -> Array:
    """Means with derivatives of every order, `score` being zero with those of log-probabilities."""
    base = jax.lax.stop_gradient(jnp.mean(x, axis=1))
    return base + jnp.mean((x - base[:, None]) * jnp.exp(score), axis=1)


def _regressed(
    key, theory: Theory, mean, h, covariance, varied: bool, jitter: float
) -> CourseResponses:
    num_steps, num_paths = h.shape[1:]
    # Of a channel whose inputs are all Gaussian, the response to each is the same.
    known = [
        all(_is_gaussian(s) or isinstance(s, Function) for s in _sources(theory, p, channel))
        for p, channel in theory.fields
    ]
    known = jnp.asarray(known)[:, None, None]
    driven = drive_course(key, theory, mean, h)
    seen = _centred(jnp.where(known, driven.inputs, h))
    # Where nothing moves, it is shaken.
    size = jnp.mean(driven.inputs**2, axis=(1, 2))[:, None]
    still = jnp.mean(seen**2, axis=2) < 1e-4 * size
    probe = jnp.where(still, _PROBE**2 * size, 0)
    noise_key = jax.random.split(key, 5)[4]
    noise = field_noise(noise_key, theory, (num_steps, num_paths), False)
    h = h + jnp.sqrt(probe)[:, :, None] * noise
    covariance = covariance + probe[:, :, None] * jnp.eye(num_steps, dtype=h.dtype)[None]
    driven = drive_course(key, theory, mean, h)
    owner = np.asarray([p for p, _ in theory.fields], np.int32)
    x = (driven.x if theory.expected else driven.intensity)[owner]
    seen = _centred(jnp.where(known, driven.inputs, h))
    gram = contract("rsm,rum->rsu", seen, seen) / num_paths

    def fitted(x: Array, h: Array, gram: Array) -> Array:
        return least_filters(gram, contract("rtm,rsm->rts", _centred(x), h) / num_paths)

    output = fitted(x, seen, gram)
    plastic = plastic_streams(theory)
    kernels = stream_kernels(theory, num_steps)
    passes = jax.vmap(_toeplitz)(kernels)
    stream = jnp.zeros((len(theory.streams), len(theory.fields), num_steps, num_steps), h.dtype)
    for s, one in enumerate(theory.streams):
        own = jnp.asarray([p == one.source for p, _ in theory.fields], h.dtype)[:, None, None]
        if s in plastic:
            # At a step, streams hold what was sent up to the step before.
            later = jnp.roll(driven.y[s], -1, axis=0).at[-1].set(0)
            answer = fitted(jnp.broadcast_to(later[None], seen.shape), seen, gram)
            answer = jnp.roll(answer, 1, axis=1).at[:, 0].set(0)
        else:
            answer = contract("tu,fus->fts", passes[s], output)
        stream = stream.at[s].set(own * answer)
    if not varied:
        return CourseResponses(output, stream, None, None)
    factors = factor(covariance, jitter)
    rows = []
    for f, (p, _) in enumerate(theory.fields):
        here = slice(f, f + 1)
        if theory.populations[p].neuron.kind == "binary":
            # As the input is used without memory, least squares on the squares solves for it.
            squares = _centred(seen[here] ** 2)
            own = contract("rsm,rum->rsu", squares, squares) / num_paths
            rows.append(fitted(x[here], squares, own)[0])
            continue
        # E[x (u u^T - C^-1)] = E[d^2 x / dh dh], of which half the diagonal is wanted; u = C^-1 h.
        squares = _centred(cho_solve((factors[f], True), h[f])[None] ** 2) / 2
        eye = jnp.eye(num_steps, dtype=h.dtype)[None]
        rows.append(fitted(x[here], squares, eye)[0])
    variance = jnp.stack(rows)
    own = np.equal.outer(theory.sources, owner) & ~np.isin(np.arange(len(passes)), plastic)[:, None]
    own = jnp.asarray(own, h.dtype)[:, :, None, None]
    return CourseResponses(
        output, stream, variance, own * contract("stu,fuv->sftv", passes, variance)
    )


def _centred(x: Float[Array, "row time path"]) -> Array:
    return x - jnp.mean(x, axis=2)[:, :, None]


def _toeplitz(kernel: Float[Array, " lag"]) -> Float[Array, "time time"]:
    step = jnp.arange(kernel.shape[0], dtype=jnp.int32)
    lag = step[:, None] - step[None]
    return jnp.where(lag >= 0, kernel[jnp.maximum(lag, 0)], 0)


def least_filters(
    gram: Float[Array, "row time time"], cross: Float[Array, "row time time"]
) -> Float[Array, "row time time"]:
    """At each t the filter r with sum_s r(s) gram(s, u) = cross(t, u), u <= t, by least squares.

    It is linear in the lag t - s between nodes.
    """
    num = cross.shape[1]
    basis = jnp.asarray(_hats(num, _GROWTH), cross.dtype)
    eps = jnp.finfo(cross.dtype).eps
    ridge = jnp.asarray(max(1e-9, 300 * float(eps)), cross.dtype)
    eye = jnp.eye(basis.shape[1], dtype=cross.dtype)
    step = jnp.arange(num, dtype=jnp.int32)
    # Backwards, so that lags from t begin at num - 1 - t.
    back = jnp.pad(gram[:, ::-1, ::-1], ((0, 0), (0, num), (0, num)))
    aside = jnp.pad(cross[:, :, ::-1], ((0, 0), (0, 0), (0, num)))

    def one(gram: Array, cross: Array, t: Array) -> Array:
        first = num - 1 - t
        own = jax.lax.dynamic_slice(gram, (first, first), (num, num))
        right = matmul(basis.T, jax.lax.dynamic_slice(cross, (first,), (num,)))
        own = contract("lk,lm,mn->kn", basis, own, basis)
        scale = jnp.sqrt(jnp.diagonal(own))
        scale = jnp.where(scale > 0, scale, 1)
        unit = own / (scale[:, None] * scale[None]) + ridge * eye
        found = matmul(basis, cho_solve(cho_factor(unit), right / scale) / scale)
        lag = t - step
        return jnp.where(lag >= 0, found[jnp.maximum(lag, 0)], 0)

    def row(args: tuple[Array, Array]) -> Array:
        gram, cross = args
        return jax.lax.map(lambda now: partial(one, gram)(*now), (cross, step))

    return jax.lax.map(row, (back, aside))
