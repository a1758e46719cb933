"""The leaky integrate-and-fire neuron under white noise: stationary rate and irregularity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from neurofield._validate import finite, not_negative, positive

from ._erfcx import ROOT_PI, erfcx, rest
from ._gaussian import gauss_legendre

# Half of sqrt(2) |zeta(1/2)|: the shift of threshold and reset by exponential synapses, in units of
# sd sqrt(synaptic_tau / tau) (Fourcaud & Brunel 2002).
SHIFT = 1.0326265761156016
_RANGE = 40.0  # exp(-40) is below the rounding of float64
_FLAT = 10.0  # sqrt(pi) erfcx(sinh t) cosh t differs from 1 by less than 1e-17 beyond
_RARE = 9.0  # standard deviations, as `sd`, that the mean is below the threshold
_AT_ZERO = 0.39106641913741697  # integral over y > 0 of exp(-y^2) erfcx(y)^2


_NODES, _WEIGHTS = gauss_legendre(40)


def lif_arrays(**values: ArrayLike) -> dict[str, Array]:
    """Parameters of neurons as arrays of one shape and dtype, checked where concrete.

    Raises `ValueError` for shapes that differ (scalars fit all) and for values out of range.
    """
    arrays = {name: _floating(value) for name, value in values.items()}
    shapes = {name: array.shape for name, array in arrays.items() if array.ndim}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"parameters must be scalars or arrays of one shape, got {shapes}.")
    shape = next(iter(shapes.values()), ())
    dtype = jnp.result_type(*arrays.values())
    for name in ("mean", "threshold", "reset", "rest"):
        finite(name, arrays[name])
    for name in ("sd", "refractory", "synaptic_tau"):
        not_negative(name, arrays[name])
    positive("tau", arrays["tau"])
    arrays = {name: jnp.broadcast_to(x.astype(dtype), shape) for name, x in arrays.items()}
    positive("threshold - reset", arrays["threshold"] - arrays["reset"])
    return arrays


def _floating(value: ArrayLike) -> Array:
    value = float(value) if isinstance(value, int | float) else value
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def siegert(
    mean: ArrayLike,
    sd: ArrayLike,
    *,
    tau: ArrayLike,
    threshold: ArrayLike,
    reset: ArrayLike,
    refractory: ArrayLike,
    rest: ArrayLike = 0.0,
    synaptic_tau: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    """Stationary rate in Hz of leaky integrate-and-fire neurons under Gaussian white noise.

    tau dV/dt = rest - V + mean + sd sqrt(tau) xi(t), with <xi xi'> = delta: `sd` (mV) is sqrt(2)
    times the standard deviation that the membrane had without a threshold. For Poisson input of
    delta synapses mean = tau sum(K J rate) and sd^2 = tau sum(K J^2 rate). Elementwise: arguments
    are arrays of one shape, or scalars. Times in s, voltages in mV.

    Siegert (1951), Ricciardi (1977), Brunel (2000). For exponential synapses of time constant
    `synaptic_tau`, threshold and reset are shifted (Fourcaud & Brunel 2002): first order in
    sqrt(synaptic_tau / tau), whose derivative by `synaptic_tau` at 0, infinite, is given as 0.

    To 1e-12 relative in float64 and 1e-5 in float32 at rates above 1e-3 Hz; below, rounding of the
    arguments matters as the square of (threshold - mean) / sd. Without noise, the deterministic
    rate, and 0 for a mean up to the threshold. Derivatives are closed forms.

    Raises `ValueError` for a negative `sd` or time, a threshold not above the reset, and shapes
    that differ.
    """
    p = lif_arrays(
        mean=mean,
        sd=sd,
        tau=tau,
        threshold=threshold,
        reset=reset,
        refractory=refractory,
        rest=rest,
        synaptic_tau=synaptic_tau,
    )
    return jax.jit(_rate)(*_reduced(p))


def coefficient_of_variation(
    mean: ArrayLike,
    sd: ArrayLike,
    *,
    tau: ArrayLike,
    threshold: ArrayLike,
    reset: ArrayLike,
    refractory: ArrayLike,
    rest: ArrayLike = 0.0,
    synaptic_tau: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    """Standard deviation of the inter-spike intervals over their mean; arguments as of `siegert`.

    CV^2 = 2 pi (rate tau)^2 times the integral from reset to threshold of H(x) = exp(x^2) times
    that up to x of exp(y^2) (1 + erf y)^2 (Brunel 2000, appendix A.1). 0 without noise above the
    threshold, where the derivative by `sd` is that from above, and 1 below.
    """
    p = lif_arrays(
        mean=mean,
        sd=sd,
        tau=tau,
        threshold=threshold,
        reset=reset,
        refractory=refractory,
        rest=rest,
        synaptic_tau=synaptic_tau,
    )
    return jax.jit(_variation)(*_reduced(p))


def boundary_shift(tau: Array, synaptic_tau: Array) -> Array:
    """What exponential synapses add to (threshold - mean) / sd."""
    ratio = synaptic_tau / tau
    some = ratio > 0
    return jnp.where(some, SHIFT * jnp.sqrt(jnp.where(some, ratio, 1)), 0)


def spread_limits(p: dict[str, Array]) -> tuple[Array, Array]:
    """Threshold and reset from the mean in units of `sd`, shifted: the limits of the integral."""
    top, low, sd, _, _, shift = _reduced(p)
    return _limits(top, low, sd, shift)[:2]


def _reduced(p: dict[str, Array]) -> tuple[Array, ...]:
    base = p["rest"] + p["mean"]
    shift = boundary_shift(p["tau"], p["synaptic_tau"])
    return p["threshold"] - base, p["reset"] - base, p["sd"], p["tau"], p["refractory"], shift


def least_noise(dtype: Any) -> float:
    """What stands for none, over threshold - reset: all limits are reached, and no overflow is."""
    return 1e-50 if dtype == jnp.float64 else 1e-6


def _noise(top: Array, low: Array, sd: Array) -> Array:
    return jnp.maximum(sd, least_noise(top.dtype) * (top - low))


def _over(nodes: np.ndarray, length: Array) -> Array:
    """Nodes on [0, length] along a new last axis."""
    return length[..., None] * _along(nodes, length[..., None])


def _mean_over(weights: np.ndarray, values: Array) -> Array:
    return jnp.sum(values * _along(weights, values), axis=-1)


def _along(row: np.ndarray, like: Array) -> Array:
    """`row` along the last axis of arrays of as many axes as `like`."""
    return jnp.asarray(row, like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def _climb(top: Array, width: Array, power: int, fn) -> Array:
    """Integral over s in [0, min(width, top)] of exp(-power s (2 top - s)) fn(top - s), top >= 0.

    That is of exp(power (y^2 - top^2)) fn(y), up to what exp(-40) leaves out.
    """
    reach = _RANGE / power
    tiny = jnp.finfo(top.dtype).tiny
    below = jnp.sqrt(jnp.maximum(top**2 - reach, 0))
    length = jnp.minimum(jnp.minimum(width, top), reach / (top + below + tiny))
    s = _over(_NODES, length)
    y = jnp.maximum(top[..., None] - s, 0)
    return length * _mean_over(_WEIGHTS, jnp.exp(-power * s * (top[..., None] + y)) * fn(y))


def _asinh_width(low: Array, high: Array, width: Array) -> Array:
    """asinh(high) - asinh(low) for 0 <= low, high = low + width."""
    return jnp.arcsinh(
        width * ((high + low) / (high * jnp.sqrt(1 + low**2) + low * jnp.sqrt(1 + high**2)))
    )


def _slide(low: Array, width: Array) -> Array:
    """sqrt(pi) times the integral of erfcx over [low, low + width], low >= 0, in t = asinh x."""
    some = width > 0
    width = jnp.where(some, width, 1)
    start, length = jnp.arcsinh(low), _asinh_width(low, low + width, width)
    inner = jnp.clip(_FLAT - start, 0, length)
    near = jnp.zeros_like(length)
    # In two parts, as the integrand settles to 1 within the first.
    for begin, end in ((0.0, 2.5), (2.5, _FLAT)):
        part = jnp.clip(inner, begin, end) - begin
        t = start[..., None] + begin + _over(_NODES, part)
        near = near + part * _mean_over(_WEIGHTS, ROOT_PI * erfcx(jnp.sinh(t)) * jnp.cosh(t))
    return jnp.where(some, near + (length - inner), 0)


def _one_plus_erf(y: Array) -> Array:
    return 2 - jnp.exp(-(y**2)) * erfcx(y)


def _parts(y: Array, step: Array) -> tuple[Array, Array, Array, Array]:
    """Of [y - step, y]: the end above 0, its length there; the start and length below 0 mirrored"""
    top = jnp.maximum(y, 0)
    low = jnp.maximum(-y, 0)
    above = jnp.where(y > 0, jnp.minimum(step, top), 0)
    below = jnp.where(step > top, jnp.where(y > 0, step - top, step), 0)
    return top, above, low, below


@jax.custom_jvp
def _passage(y: Array, step: Array) -> tuple[Array, Array]:
    """exp(-max(y, 0)^2), and it times sqrt(pi) times the integral of erfcx(-x), y - step to y."""
    top, above, low, below = _parts(y, step)
    scale = jnp.exp(-(top**2))
    return scale, ROOT_PI * _climb(top, above, 1, _one_plus_erf) + scale * _slide(low, below)


@_passage.defjvp
def _passage_jvp(primals, tangents):
    (y, step), (dy, dstep) = primals, tangents
    scale, passage = _passage(y, step)
    top = jnp.maximum(y, 0)
    high, base = _scaled_erfcx(y, top), _scaled_erfcx(y - step, top)
    change = ROOT_PI * (high * dy - base * (dy - dstep)) - 2 * top * passage * dy
    return (scale, passage), (-2 * top * scale * dy, change)


def _scaled_erfcx(y: Array, top: Array) -> Array:
    """exp(-top^2) erfcx(-y) for y <= top, top >= 0."""
    # `where`: at 0, `maximum` would halve the derivative.
    up, down = jnp.where(y > 0, y, 0), jnp.where(y > 0, 0, -y)
    rising = jnp.exp((up - top) * (up + top)) * _one_plus_erf(up)
    return jnp.where(y > 0, rising, jnp.exp(-(top**2)) * erfcx(down))


def _scaled_slope(y: Array, top: Array) -> Array:
    """exp(-top^2) (y erfcx(-y) + 1 / sqrt(pi)): the constant is so that it falls to 0 below."""
    down, scale = jnp.where(y > 0, 0, -y), jnp.exp(-(top**2))
    rising = y * _scaled_erfcx(y, top) + scale / ROOT_PI
    return jnp.where(y > 0, rising, scale * rest(down) * erfcx(down))


def _limits(top, low, sd, shift) -> tuple[Array, Array, Array]:
    """The limits of the integral, and how far they are apart."""
    sd = _noise(top, low, sd)
    return top / sd + shift, low / sd + shift, (top - low) / sd


def _silent(top: Array, sd: Array) -> Array:
    """Without noise at or below the threshold."""
    return (sd <= 0) & (top >= 0)


@jax.custom_jvp
def _rate(top: Array, low: Array, sd: Array, tau: Array, refractory: Array, shift: Array) -> Array:
    """Of threshold and reset above the mean."""
    y, _, step = _limits(top, low, sd, shift)
    scale, passage = _passage(y, step)
    return jnp.where(_silent(top, sd), 0, scale / (refractory * scale + tau * passage))


def _log_slope(primals, tangents) -> tuple[Array, Array]:
    """d log rate, and the rate's scaled inverse exp(-max(y, 0)^2) / rate."""
    top, low, sd, tau, refractory, shift = primals
    dtop, dlow, dsd, dtau, drefractory, dshift = tangents
    y, y_low, step = _limits(top, low, sd, shift)
    scale, passage = _passage(y, step)
    inverse = refractory * scale + tau * passage
    level = jnp.maximum(y, 0)
    high, base = _scaled_erfcx(y, level), _scaled_erfcx(y_low, level)
    slope = _scaled_slope(y, level) - _scaled_slope(y_low, level) - shift * (high - base)
    noise = _noise(top, low, sd)
    moved = (high * dtop - base * dlow - slope * dsd) / noise + (high - base) * dshift
    change = drefractory * scale + dtau * passage + tau * ROOT_PI * moved
    return -change / inverse, inverse


@_rate.defjvp
def _rate_jvp(primals, tangents):
    change, inverse = _log_slope(primals, tangents)
    top, low, sd, _, _, shift = primals
    scale = jnp.exp(-(jnp.maximum(_limits(top, low, sd, shift)[0], 0) ** 2))
    return _rate(*primals), change * (scale / inverse)


def _inner_above(y: Array) -> Array:
    """exp(-2 y^2) H(y) for y >= 0, with H as in `coefficient_of_variation`."""
    return jnp.exp(-(y**2)) * _AT_ZERO + _climb(y, y, 1, lambda x: _one_plus_erf(x) ** 2)


def _inner_below(x: Array) -> Array:
    """H(-x) for x >= 0: the integral over s > 0 of exp(-s (s + 2 x)) erfcx(x + s)^2."""
    length = _RANGE / (x + jnp.sqrt(x**2 + _RANGE))
    s, x = _over(_NODES, length), x[..., None]
    return length * _mean_over(_WEIGHTS, jnp.exp(-s * (s + 2 * x)) * erfcx(x + s) ** 2)


@jax.custom_jvp
def _scaled_inner(y: Array, top: Array) -> Array:
    """exp(-2 top^2) H(y) for y <= top, top >= 0."""
    up, down = jnp.maximum(y, 0), jnp.maximum(-y, 0)
    rising = jnp.exp(2 * (up - top) * (up + top)) * _inner_above(up)
    return jnp.where(y > 0, rising, jnp.exp(-2 * top**2) * _inner_below(down))


@_scaled_inner.defjvp
def _scaled_inner_jvp(primals, tangents):
    (y, top), (dy, dtop) = primals, tangents
    value = _scaled_inner(y, top)
    return value, (2 * y * value + _scaled_erfcx(y, top) ** 2) * dy - 4 * top * value * dtop


@jax.custom_jvp
def _scatter(y: Array, step: Array) -> Array:
    """exp(-2 max(y, 0)^2) times the integral of H from y - step to y."""
    top, above, low, below = _parts(y, step)
    rise = _climb(top, above, 2, _inner_above)
    some = below > 0
    below = jnp.where(some, below, 1)
    # H(-x) cosh t falls as exp(-2 t) in t = asinh x.
    length = jnp.minimum(_asinh_width(low, low + below, below), _RANGE / 2)
    fall, begin = jnp.zeros_like(y), 0.0
    for end in (4.0, _RANGE / 2):
        part = jnp.clip(length, begin, end) - begin
        t = jnp.arcsinh(low)[..., None] + begin + _over(_NODES, part)
        fall = fall + part * _mean_over(_WEIGHTS, _inner_below(jnp.sinh(t)) * jnp.cosh(t))
        begin = end
    return rise + jnp.exp(-2 * top**2) * jnp.where(some, fall, 0)


@_scatter.defjvp
def _scatter_jvp(primals, tangents):
    (y, step), (dy, dstep) = primals, tangents
    value, top = _scatter(y, step), jnp.maximum(y, 0)
    high, base = _scaled_inner(y, top), _scaled_inner(y - step, top)
    return value, high * dy - base * (dy - dstep) - 4 * top * value * dy


@jax.custom_jvp
def _variation(top, low, sd, tau, refractory, shift) -> Array:
    y, _, step = _limits(top, low, sd, shift)
    scale, passage = _passage(y, step)
    inverse = refractory * scale + tau * passage
    value = jnp.sqrt(2 * np.pi * _scatter(y, step)) * (tau / inverse)
    return jnp.where(sd > 0, value, jnp.where(top >= 0, jnp.ones_like(value), 0))


@_variation.defjvp
def _variation_jvp(primals, tangents):
    top, low, sd, tau, _, shift = primals
    dtop, dlow, dsd, dtau, _, dshift = tangents
    y, y_low, step = _limits(top, low, sd, shift)
    noise, level = _noise(top, low, sd), jnp.maximum(y, 0)
    change, inverse = _log_slope(primals, tangents)
    high, base = _scaled_inner(y, level), _scaled_inner(y_low, level)
    dy = (dtop - (y - shift) * dsd) / noise + dshift
    dy_low = (dlow - (y_low - shift) * dsd) / noise + dshift
    scatter = _scatter(y, step)
    value = jnp.sqrt(2 * np.pi * scatter) * (tau / inverse)
    relative = (high * dy - base * dy_low) / (2 * scatter) + dtau / tau + change
    # Far below the threshold the terms cancel: intervals are exponential up to exp(-y^2).
    return _variation(*primals), jnp.where(y > _RARE, 0, value * relative)
