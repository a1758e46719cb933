"""The logistic point process on a directed (temporal) graph: its likelihood, and sparse fits."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofield._numerics import HIGHEST, contract, run_age, softplus
from neurofield._types import RealScalar
from neurofield.recording import Raster

# Steps after which the metric of the descent is taken at the present parameters.
_ROUND = 1000


class GraphParameters(eqx.Module):
    """A logistic point process on a graph that may change from window to window.

    logit p(x_i(t) = 1 | past) = bias_i + sum_{l, j} kernel_l weights[w(t), i, j] x_j(t - l),
    lag l = 1, 2, .. at index l - 1. The windows cut the time axis of each epoch into equal parts
    (the last may be shorter).

    **Attributes**: `bias` `[neuron]`, `weights` `[window, post, pre]`, `kernel` `[lag]`.
    """

    bias: Float[Array, " neuron"]
    weights: Float[Array, "window post pre"]
    kernel: Float[Array, " lag"]


def graph_log_likelihood(params: GraphParameters, raster: Raster) -> Float[Array, ""]:
    """log p(spikes) in nats of all bins whose past of `len(kernel)` bins is known.

    Spikes are independent given the past. Pure and differentiable in `params`. The raster must be
    binary.
    """
    num_windows = len(params.weights)
    num_lags, dtype = len(params.kernel), params.weights.dtype
    spikes, mask = _epochs(raster)
    num_epochs, num_neurons, num_bins = spikes.shape
    x = jnp.where(mask[:, None], spikes, 0).astype(dtype)
    past = jnp.pad(x, [(0, 0), (0, 0), (num_lags, 0)])
    drive = jnp.zeros_like(x)
    for lag in range(1, num_lags + 1):
        begin = num_lags - lag
        drive = drive + params.kernel[lag - 1] * past[:, :, begin : begin + num_bins]
    size = -(-num_bins // num_windows)
    shape = (num_epochs, num_neurons, num_windows, size)
    ends = [(0, 0), (0, 0), (0, num_windows * size - num_bins)]
    drive, x = (jnp.pad(a, ends).reshape(shape) for a in (drive, x))
    counted = jnp.pad(run_age(mask) >= num_lags, [ends[0], ends[2]])
    counted = counted.reshape(num_epochs, 1, num_windows, size)
    field = contract("wij,ejwt->eiwt", params.weights, drive) + params.bias[None, :, None, None]
    return jnp.sum(jnp.where(counted, x * field - softplus(field), 0))


def graph_penalty(
    params: GraphParameters, l1: RealScalar, smoothness: RealScalar
) -> Float[Array, ""]:
    """l1 sum |weights| + smoothness sum_w |weights[w] - weights[w - 1]|^2."""
    dtype = params.weights.dtype
    sparse = jnp.asarray(l1, dtype) * jnp.sum(jnp.abs(params.weights))
    return sparse + _roughness(params.weights, jnp.asarray(smoothness, dtype))


class Descent(eqx.Module):
    """Where a fit is: free coordinates, Nesterov's extrapolation, and how far from the optimum.

    `residual` is the largest proximal step in the metric, in standard errors of the parameters.
    """

    point: tuple[Array, Array, Array]
    ahead: tuple[Array, Array, Array]
    momentum: Float[Array, ""]
    scale: Float[Array, ""]
    residual: Float[Array, ""]
    num_steps: Array


def fit_graph(
    raster: Raster,
    *,
    num_windows: int,
    num_lags: int,
    kernel: Float[Array, " lag"] | None,
    l1: float,
    smoothness: float,
    max_steps: int,
    tolerance: float,
) -> tuple[GraphParameters, Descent, Bool[Array, " neuron"]]:
    """The penalised maximum by accelerated proximal gradients, and which neurons vary.

    Beck and Teboulle (2009) with backtracking and restarts (O'Donoghue and Candes 2015), in the
    metric of the diagonal Fisher information. A kernel that is not given is fitted last, as a
    softmax: it is positive and its sum is 1.
    """
    if kernel is None and num_lags == 1:
        kernel = jnp.ones(1)
    spikes, mask = _epochs(raster)
    counted = (run_age(mask) >= num_lags)[:, None]
    num_counted = jnp.sum(counted, dtype=jnp.int32)
    fired = jnp.sum(jnp.where(counted, spikes, 0), axis=(0, 2), dtype=jnp.int32)
    active = (fired > 0) & (fired < num_counted)
    rate = (fired.astype(float) + 0.5) / (num_counted.astype(float) + 1)
    num = len(rate)
    shape = jnp.zeros(num_lags) if kernel is None else jnp.asarray(kernel, rate.dtype)
    total = 1.0 if kernel is None else jnp.sum(shape)
    problem = (raster, rate * total, active, jnp.asarray(l1), jnp.asarray(smoothness))
    point = (jnp.log(rate / (1 - rate)), jnp.zeros((num_windows, num, num)), shape)
    one, zero = jnp.asarray(1.0), jnp.zeros((), jnp.int32)
    state = Descent(point, point, one, one, jnp.asarray(jnp.inf), zero)
    for stage in ("given",) if kernel is not None else ("uniform", "fitted"):
        state = eqx.tree_at(lambda s: s.residual, state, jnp.asarray(jnp.inf))
        while state.residual > tolerance and state.num_steps < max_steps:
            until = jnp.minimum(state.num_steps + _ROUND, max_steps)
            state = _descend(state, problem, until, jnp.asarray(tolerance), stage)
    return _params(state.point, problem[1], kernel is None), state, active


@partial(jax.jit, static_argnums=4)
def _descend(state: Descent, problem, until: Array, tolerance: Array, stage: str) -> Descent:
    raster, mean, active, l1, smoothness = problem
    softmax = stage != "given"
    either = active[:, None] & active[None]

    def smooth(point):
        params = _params(point, mean, softmax)
        rough = _roughness(params.weights, smoothness)
        return rough - graph_log_likelihood(params, raster)

    def gradient(point):
        value, (bias, weights, shape) = jax.value_and_grad(smooth)(point)
        free = jnp.zeros_like(shape) if stage != "fitted" else shape
        return value, (jnp.where(active, bias, 0), jnp.where(either[None], weights, 0), free)

    metric = _information(_params(state.point, mean, softmax), raster, softmax)
    metric = (metric[0], metric[1] + 8 * smoothness, metric[2])
    metric = jax.tree.map(lambda h: jnp.where(h > 1e-9, h, 1), metric)

    def propose(point, slope, scale):
        bias, weights, shape = jax.tree.map(
            lambda x, g, h: x - g / (scale * h), point, slope, metric
        )
        bound = l1 / (scale * metric[1])
        weights = jnp.sign(weights) * jnp.maximum(jnp.abs(weights) - bound, 0)
        return bias, weights, shape

    def inner(a, b):
        return sum(jnp.sum(h * x * y) for h, x, y in zip(metric, a, b, strict=True))

    def step(state):
        value, slope = gradient(state.ahead)

        def too_far(carry):
            scale, found, move = carry
            linear = sum(jnp.sum(g * d) for g, d in zip(slope, move, strict=True))
            bound = value + linear + scale / 2 * inner(move, move)
            # Rounding of the sum over bins is no reason to take smaller steps.
            slack = 8 * jnp.finfo(value.dtype).eps * jnp.abs(value)
            return (smooth(found) > bound + slack) & (scale < 1e6)

        def trial(scale):
            found = propose(state.ahead, slope, scale)
            return scale, found, jax.tree.map(jnp.subtract, found, state.ahead)

        first = trial(jnp.maximum(0.9 * state.scale, 1e-3))
        scale, found, move = jax.lax.while_loop(too_far, lambda c: trial(2 * c[0]), first)
        residual = jnp.max(
            jnp.stack(
                [
                    jnp.max(scale * jnp.sqrt(h) * jnp.abs(d), initial=0)
                    for h, d in zip(metric, move, strict=True)
                ]
            )
        )
        last = jax.tree.map(jnp.subtract, found, state.point)
        back = inner(move, last) < 0
        momentum = jnp.where(back, 1, (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2)
        push = jnp.where(back, 0, (state.momentum - 1) / momentum)
        ahead = jax.tree.map(lambda x, d: x + push * d, found, last)
        return Descent(found, ahead, momentum, scale, residual, state.num_steps + 1)

    start = Descent(
        state.point,
        state.point,
        jnp.ones_like(state.momentum),
        jnp.ones_like(state.scale),
        jnp.full_like(state.residual, jnp.inf),
        state.num_steps,
    )
    go_on = lambda s: (s.residual > tolerance) & (s.num_steps < until)  # noqa: E731
    return jax.lax.while_loop(go_on, step, start)


def _params(point, mean: Array, softmax: bool) -> GraphParameters:
    """The bias is free at the mean drive, where it hardly depends on the weights."""
    bias, weights, shape = point
    drive = jnp.matmul(jnp.mean(weights, axis=0), mean, precision=HIGHEST)
    return GraphParameters(bias - drive, weights, jax.nn.softmax(shape) if softmax else shape)


def _information(params, raster, softmax) -> tuple[Array, Array, Array]:
    """Diagonal of the Fisher information in the free coordinates, roughly.

    Mean p (1 - p) of a neuron times the mean square of what its field is multiplied by.
    """
    spikes, mask = _epochs(raster)
    counted = (run_age(mask) >= len(params.kernel))[:, None]
    count = jnp.maximum(jnp.sum(counted, dtype=params.bias.dtype), 1)
    rate = jnp.sum(jnp.where(counted, spikes, 0), axis=(0, 2), dtype=params.bias.dtype) / count
    spread = count * rate * (1 - rate)
    kernel = params.kernel
    # Variance of the drive if bins were independent.
    drive = jnp.sum(kernel**2) * rate * (1 - rate)
    windows = len(params.weights)
    weights = spread[:, None] * drive[None] / windows
    mixed = jnp.mean(params.weights, axis=0)
    field = jnp.sum(spread * jnp.matmul(mixed**2, rate * (1 - rate), precision=HIGHEST))
    shape = field * kernel * (1 - kernel) if softmax else jnp.ones_like(kernel)
    return spread, jnp.broadcast_to(weights[None], params.weights.shape), shape


def _roughness(weights: Array, smoothness: Array) -> Array:
    return smoothness * jnp.sum(jnp.diff(weights, axis=0) ** 2)


def _epochs(raster: Raster) -> tuple[Array, Array]:
    spikes = raster.spikes.reshape(-1, *raster.spikes.shape[-2:])
    mask = raster.mask
    if mask is None:
        return spikes, jnp.ones((len(spikes), raster.num_bins), bool)
    return spikes, mask.reshape(-1, raster.num_bins)
