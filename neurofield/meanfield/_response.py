"""Linear response of neurons to their fields, from the sampled paths themselves.

Any causal neuron under a Gaussian input h has E[x(t) h(s)] = sum_u R(t, u) E[h(u) h(s)], with R the
mean functional derivative of x (Furutsu 1963, Novikov 1965): R is what least squares finds for x
from the past of h. The regression leaves nothing but the neuron's own randomness as noise, and is
exact for linear neurons. Neurons that are smooth are differentiated instead.
"""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import contract
from neurofield._types import PyTree
from neurofield.network import (
    Constant,
    OrnsteinUhlenbeck,
    Quenched,
    Source,
    WhiteNoise,
    is_traced,
)

from ._stationary import Fields, Sampled, Sampling, draw_fields, drive_paths, sample
from ._theory import Theory

# Standard deviation of a probe, as a share of the input's root mean square.
_PROBE = 0.2


class Responses(eqx.Module):
    """Changes of mean outputs per unit of a field in one step, at lags of steps from 0.

    - `output`: `[field, lag]`, of the field's own population.
    - `variance`: `[field, lag]`, per unit of variance of the field in one step; `None` where
      variance is not carried from step to step as white noise.
    - `stream`: `[stream, field, lag]`, of what the streams transmit, where that is not linear in
      the output (plasticity), else zero; `None` where no stream is plastic.
    """

    output: Float[Array, "field lag"]
    variance: Float[Array, "field lag"] | None
    stream: Float[Array, "stream field lag"] | None


def measure_responses(
    key: PRNGKeyArray,
    theory: Theory,
    law: Fields,
    sampled: Sampled,
    sampling: Sampling,
    probes: tuple[int, ...] = (),
) -> Responses:
    """The responses of neurons in a stationary state, from its paths.

    `probes`: the fields that do not fluctuate (see `still_fields`); they are shaken by white noise,
    a fifth as large as the input, on paths drawn for the purpose.
    """
    num_lags = sampling.num_lags
    plastic = any(stream.plasticity is not None for stream in theory.streams)
    kinds = [population.neuron.kind for population in theory.populations]
    smooth = theory.gradient in ("pathwise", "intensity")
    if probes and not smooth:
        law = _probed(theory, law, sampled, probes)
        sampled = sample(key, theory, law, sampling)
    h = regressors(theory, law, sampled)
    seen, emitted = sampled.x if theory.expected else sampled.intensity, sampled.y
    if sampled.score is not None:
        # What was emitted has the derivative of its probability (`_score`); the fields have theirs.
        seen = _scored(seen, sampled.score)
        # At a step, streams hold what was emitted up to the step before.
        score = jnp.pad(sampled.score, ((1, 0), (0, 0), (0, 0)))[:-1]
        emitted = _scored(emitted, score[:, jnp.asarray(theory.sources, jnp.int32)])
    x = jnp.stack([seen[:, p] for p, _ in theory.fields], axis=1)
    output = _differentiated(key, theory, law, sampling) if smooth else regress(x, h, num_lags)
    stream = None
    if plastic:
        rows = []
        for index, one in enumerate(theory.streams):
            own = jnp.asarray([p == one.source for p, _ in theory.fields], h.dtype)
            target = jnp.broadcast_to(emitted[:, index][:, None], h.shape)
            rows.append(regress(target, h, num_lags) * own[:, None])
        stream = jnp.stack(rows)
    variance = None
    if any(carries_variance(one) and kinds[one.source] != "rate" for one in theory.streams):
        variance = jnp.stack(
            [
                _variance_response(kinds[p], x[:, f], h[:, f], num_lags)
                for f, (p, _) in enumerate(theory.fields)
            ]
        )
    return Responses(output, variance, stream)


def _scored(x: Array, score: Array) -> Array:
    """The same values, whose products with fields have the derivative of their expectation."""
    return x + jax.lax.stop_gradient(x - jnp.mean(x, axis=(0, 2))[None, :, None]) * score


def carries_variance(stream) -> bool:
    """Whether a stream's variance at a step follows its mean at once: as white or 0/1 noise."""
    return stream.kernel.instantaneous and stream.plasticity is None


def still_fields(theory: Theory) -> tuple[int, ...]:
    """Fields whose channel has no Gaussian input: all-to-all coupling under other drives."""
    if is_traced(theory.vQ):
        return ()
    vQ = np.asarray(theory.vQ)
    return tuple(
        f
        for f, (p, channel) in enumerate(theory.fields)
        if not vQ[f].any() and not _gaussian_noise(theory, p, channel)
    )


def regressors(theory: Theory, law: Fields, sampled: Sampled) -> Float[Array, "time field path"]:
    """The Gaussian input of each field's channel.

    That is the field, and the private noise with it where that is Gaussian too: the response to
    both is the same, and the more the input moves the better it is seen.
    """
    rows = []
    for f, (p, channel) in enumerate(theory.fields):
        gaussian = all(_is_gaussian(source) for source in _sources(theory, p, channel))
        rows.append(sampled.inputs[:, f] if gaussian else sampled.h[:, f] + law.mean[f])
    h = jnp.stack(rows, axis=1)
    return h


def regress(
    x: Float[Array, "time row path"], h: Float[Array, "time row path"], num_lags: int
) -> Float[Array, "row lag"]:
    """Least squares of x(t) on h(t), h(t - 1), ..., as a filter that grows smoother with its lag.

    The filter is linear between nodes, which are every lag at first and 5 % of the lag apart later;
    it is zero from lag `num_lags` on. Each path is taken about its own means: what differs between
    neurons for good would be noise here.
    """
    x, h = x - jnp.mean(x, axis=0)[None], h - jnp.mean(h, axis=0)[None]
    basis = jnp.asarray(_hats(num_lags), x.dtype)
    gram, cross = _normal_equations(x, h, num_lags)
    gram = contract("lk,rlm,mn->rkn", basis, gram, basis)
    cross = contract("lk,rl->rk", basis, cross)
    scale = jnp.sqrt(jnp.diagonal(gram, axis1=1, axis2=2))
    scale = jnp.where(scale > 0, scale, 1)
    eps = jnp.finfo(x.dtype).eps
    ridge = jnp.asarray(max(1e-9, 300 * float(eps)), x.dtype) * jnp.eye(
        basis.shape[1], dtype=x.dtype
    )
    unit = gram / (scale[:, :, None] * scale[:, None, :]) + ridge[None]
    found = jax.vmap(lambda a, b: cho_solve(cho_factor(a), b))(unit, cross / scale) / scale
    return contract("lk,rk->rl", basis, found)


def causality_scores(
    x: Float[Array, "time row path"], h: Float[Array, "time row path"], num_lags: int
) -> Float[Array, "row lag"]:
    """z-scores of E[x(t) e(t + l)] = 0, l = 1 .. num_lags / 2, e the innovations of stationary h.

    The innovation is what the last `num_lags` of h do not predict; a causal neuron that forgets
    within half of them cannot know it. Over paths, which are independent. Among n scores the
    largest is about sqrt(2 log n) by chance.
    """
    return scores(causality_sums(x, h, num_lags))


def scores(sums: Float[Array, "lag row path"]) -> Float[Array, "row lag"]:
    """z-scores of the means over paths; 0 where nothing varies."""
    mean, spread = jnp.mean(sums, axis=2), jnp.std(sums, axis=2, ddof=1)
    return (mean / jnp.where(spread > 0, spread, 1)).T * float(np.sqrt(sums.shape[2]))


def causality_sums(
    x: Float[Array, "time row path"], h: Float[Array, "time row path"], num_lags: int
) -> Float[Array, "lag row path"]:
    """Sums over time of what `causality_scores` is about."""
    h = h - jnp.mean(h, axis=(0, 2))[None, :, None]
    gram, cross = _normal_equations(
        jnp.roll(h, -1, axis=0).at[-1].set(0), h, num_lags
    )  # of h(t + 1) on h(t), ...
    power = jnp.diagonal(gram, axis1=1, axis2=2)[:, 0]
    eye = jnp.eye(num_lags, dtype=x.dtype)[None]
    ridge = jnp.asarray(max(1e-9, 300 * float(jnp.finfo(x.dtype).eps)), x.dtype)
    gram = gram + (ridge * power + 1e-30)[:, None, None] * eye
    weights = jax.vmap(lambda a, b: cho_solve(cho_factor(a), b))(gram, cross)
    length = h.shape[0] + num_lags
    predicted = _filtered(weights, h, length)[: h.shape[0] - 1]
    innovation = (h[1:] - predicted)[num_lags:]  # at steps num_lags + 1, ...
    x = (x - jnp.mean(x, axis=(0, 2))[None, :, None])[num_lags + 1 :]
    n = 2 * x.shape[0]
    product = _times(jnp.conj(jnp.fft.rfft(x, n=n, axis=0)), jnp.fft.rfft(innovation, n=n, axis=0))
    return jnp.fft.irfft(product, n=n, axis=0)[1 : max(num_lags // 2, 1) + 1]


def _differentiated(key, theory: Theory, law: Fields, sampling: Sampling) -> Array:
    """The derivative along each path, for impulses that are `num_lags` apart."""
    num_lags = sampling.num_lags
    num = sampling.num_warm + sampling.num_steps
    total = sampling.num_paths * sampling.num_worlds
    field_key = jax.random.split(key, 3)[2]
    h, _ = draw_fields(field_key, theory, law, num, total, sampling.nested)
    num_pulses = sampling.num_steps // num_lags
    first = num - num_pulses * num_lags
    step = jnp.arange(num, dtype=jnp.int32) - first
    pulse = jnp.where((step >= 0) & (step % num_lags == 0), 1, 0).astype(h.dtype)
    # Populations do not see each other's paths: their first fields are shaken at once, and so on.
    ranks = [sum(q == p for q, _ in theory.fields[:f]) for f, (p, _) in enumerate(theory.fields)]
    found: list[Array] = [jnp.zeros(0, h.dtype)] * len(ranks)
    for rank in sorted(set(ranks)):
        own = jnp.asarray([r == rank for r in ranks], h.dtype)
        shaken = jnp.broadcast_to((pulse[:, None] * own[None])[:, :, None], h.shape)
        _, slope = jax.jvp(
            lambda h: drive_paths(key, theory, law.mean, h, sampling)[0], (h,), (shaken,)
        )
        means = jnp.mean(slope[first:], axis=2).reshape(num_pulses, num_lags, -1)
        for f, (p, _) in enumerate(theory.fields):
            if ranks[f] == rank:
                found[f] = jnp.mean(means[:, :, p], axis=0)
    return jnp.stack(found)


def _variance_response(kind: str, x: Array, h: Array, num_lags: int) -> Array:
    """dE[x(t)] / dC(t - l, t - l) of one field, `[lag]`."""
    x, h = x[:, None], h[:, None]
    if kind == "binary":
        # A memoryless use of the input: E[x (h^2 - C)] = sum of dE[x]/dC_uu times 2 C(u - s)^2,
        # which is what least squares on the squares solves.
        return regress(x, (h - jnp.mean(h)) ** 2, num_lags)[0]
    x, h = x - jnp.mean(x, axis=0)[None], h - jnp.mean(h, axis=0)[None]
    # E[x (u u^T - C^-1)] = E[d^2 x / dh dh], of which half the diagonal is wanted; u = C^-1 h.
    reach = min(num_lags, 48)
    gram, _ = _normal_equations(h, h, 2 * reach + 1)
    steps = h.shape[0] - 2 * reach - 1
    toeplitz = gram[0] / (steps * h.shape[2])
    size = 2 * reach + 1
    eye = jnp.eye(size, dtype=h.dtype)
    ridge = jnp.asarray(max(1e-9, 300 * float(jnp.finfo(h.dtype).eps)), h.dtype)
    factor = cho_factor(toeplitz + (ridge * toeplitz[0, 0] + 1e-30) * eye)
    middle = cho_solve(factor, eye[reach])
    u = _filtered(middle[None], h, h.shape[0] + size)
    u = u[2 * reach : h.shape[0]]  # u(t) for t from reach on
    x = x[reach : h.shape[0] - reach]
    squares = u**2 - jnp.mean(u**2)
    n = x.shape[0] + num_lags
    product = _times(jnp.fft.rfft(x, n=n, axis=0), jnp.conj(jnp.fft.rfft(squares, n=n, axis=0)))
    sums = jnp.fft.irfft(jnp.sum(product, axis=(1, 2)), n=n)[:num_lags]
    found = sums / ((x.shape[0] - jnp.arange(num_lags, dtype=x.dtype)) * x.shape[2]) / 2
    basis = _hats(num_lags)
    smooth = basis @ np.linalg.solve(basis.T @ basis, basis.T)
    return contract("lm,m->l", jnp.asarray(smooth, x.dtype), found)


def _normal_equations(x: Array, h: Array, num_lags: int) -> tuple[Array, Array]:
    """Sums over t >= num_lags and paths of h(t - i) h(t - j) and of x(t) h(t - i)."""
    num_steps = h.shape[0]
    late = (jnp.arange(num_steps, dtype=jnp.int32) >= num_lags).astype(h.dtype)[:, None, None]
    length = 2 * (-(-(num_steps + num_lags) // 2))
    modes = jnp.conj(jnp.fft.rfft(h, n=length, axis=0))

    def sums(a: Array) -> Array:
        power = jnp.sum(_times(jnp.fft.rfft(a * late, n=length, axis=0), modes), axis=2)
        return jnp.fft.irfft(power, n=length, axis=0)[:num_lags].T

    first, cross = sums(h), sums(x)
    # Down a diagonal the sum loses its last step and gains one before its first.
    begin = h[num_lags - 1 :: -1] if num_lags == num_steps else h[num_lags - 1 :: -1][:num_lags]
    end = h[num_steps - 1 : num_steps - 1 - num_lags : -1]
    change = contract("irm,jrm->rij", begin, begin) - contract("irm,jrm->rij", end, end)

    def down(row, now):
        head, change = now
        row = jnp.concatenate([head[:, None], (row + change)[:, :-1]], axis=1)
        return row, row

    rest = (first.T[1:], jnp.moveaxis(change, 1, 0)[:-1])
    _, rows = jax.lax.scan(down, first, rest)
    return jnp.concatenate([first[:, None], jnp.moveaxis(rows, 0, 1)], axis=1), cross


def _filtered(weights: Float[Array, "row lag"], h: Array, length: int) -> Array:
    """sum_l weights(l) h(t - l), `[time, row, path]`."""
    modes = jnp.fft.rfft(weights.T, n=length, axis=0)[:, :, None]
    product = _times(jnp.fft.rfft(h, n=length, axis=0), modes)
    return jnp.fft.irfft(product, n=length, axis=0)[: h.shape[0]]


def _times(a: Array, b: Array) -> Array:
    shape = jnp.broadcast_shapes(a.shape, b.shape)
    return jnp.broadcast_to(a, shape) * jnp.broadcast_to(b, shape)


@cache
def _hats(num_lags: int, growth: float = 0.05) -> np.ndarray:
    """`[lag, node]`: piecewise linear functions of the lag, 1 at their own node.

    Nodes are a step apart, or the share `growth` of their lag.
    """
    nodes = [0.0]
    while nodes[-1] < num_lags:
        nodes.append(nodes[-1] + max(1.0, round(growth * nodes[-1])))
    nodes[-1] = float(num_lags)
    unit = np.eye(len(nodes))
    lag = np.arange(num_lags)
    return np.stack([np.interp(lag, nodes, row) for row in unit], axis=1)[:, :-1]


def _probed(theory: Theory, law: Fields, sampled: Sampled, probes: tuple[int, ...]) -> Fields:
    size = jnp.sqrt(jnp.mean(sampled.inputs**2, axis=(0, 2)))
    chosen = jnp.asarray([f in probes for f in range(len(theory.fields))], law.mean.dtype)
    extra = chosen * (_PROBE * size) ** 2
    covariance = law.covariance.at[:, 0].add(extra)
    return Fields(law.mean, covariance, law.static)


def _sources(theory: Theory, population: int, channel: str) -> list[Source]:
    name = theory.populations[population].name
    private = theory.populations[population].drive.sources
    shared = [noise.source for noise in theory.shared if name in noise.weights]
    return [source for source in (*private, *shared) if source.channel == channel]


def _is_gaussian(source: Source) -> bool:
    """Whether it is a Gaussian process, the same for all neurons."""
    parameters: PyTree = jax.tree.leaves(source)
    kinds = WhiteNoise | OrnsteinUhlenbeck | Quenched | Constant
    return isinstance(source, kinds) and all(jnp.ndim(leaf) == 0 for leaf in parameters)


def _gaussian_noise(theory: Theory, population: int, channel: str) -> bool:
    sources = _sources(theory, population, channel)
    moving = any(isinstance(source, WhiteNoise | OrnsteinUhlenbeck) for source in sources)
    return moving and all(_is_gaussian(source) for source in sources)
