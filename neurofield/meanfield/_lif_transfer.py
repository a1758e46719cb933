"""Linear response of the leaky integrate-and-fire neuron under white noise."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex

from neurofield._validate import finite, positive

from ._complex_exp import complex_exp
from ._siegert import lif_arrays, siegert, spread_limits

_NUM_NODES = 40
_DEPTH = 28.0  # the contours end where the integrands are exp(-28) of their largest
_SLOW = 1.0  # omega tau, below which differences from the static limit are taken
_LN2 = float(np.log(2))


def lif_transfer_function(
    frequency: ArrayLike,
    mean: ArrayLike,
    sd: ArrayLike,
    *,
    tau: ArrayLike,
    threshold: ArrayLike,
    reset: ArrayLike,
    refractory: ArrayLike,
    rest: ArrayLike = 0.0,
    synaptic_tau: ArrayLike = 0.0,
    modulation: str = "mean",
) -> Complex[Array, "..."]:
    """Change of the rate per change of the input, `[*parameters, *frequency]`, complex.

    The rate follows a small modulation exp(2 pi i f t), f in Hz, of `mean` (Hz/mV) or of the
    variance sd^2 (Hz/mV^2): `modulation` "mean" or "variance" (static). Other arguments as of
    `siegert`, with `sd` above 0. At f = 0 these are the derivatives of the stationary rate; at high
    f they fall as 1 / sqrt(f) and tend to rate / sd^2. The modulation is that of the current
    itself: for input spikes multiply by the `transfer` of their kernel over its area.

    Brunel & Hakim (1999), Lindner & Schimansky-Geier (2001), with the refractory time; exponential
    synapses shift threshold and reset (Schuecker, Diesmann & Helias 2015), right for frequencies
    far below 1 / (2 pi sqrt(tau synaptic_tau)). The parabolic cylinder functions are integrals over
    paths of steepest descent, with relative errors below 1e-8 in float64 (1e-9 where 2 pi f tau <
    1e3), and in float32 1e-4.

    Raises `ValueError` as `siegert` does, and for an unknown `modulation`.
    """
    if modulation not in ("mean", "variance"):
        raise ValueError(f"modulation must be 'mean' or 'variance', got {modulation!r}.")
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
    positive("sd", p["sd"])
    finite("frequency", frequency)
    frequency = jnp.asarray(frequency).astype(p["sd"].dtype)
    return _response(frequency, p, modulation)


@partial(jax.jit, static_argnames="modulation")
def _response(frequency: Array, p: dict[str, Array], modulation: str) -> Array:
    shape, last = p["sd"].shape + frequency.shape, (1,) * frequency.ndim

    def spread(x: Array) -> Array:
        return jnp.broadcast_to(x.reshape(x.shape + last), shape)

    frequency = jnp.broadcast_to(frequency.reshape((1,) * p["sd"].ndim + frequency.shape), shape)
    negative = frequency < 0
    # `where` and not abs, whose derivative at 0 is 0. Omega is in units of 1 / tau.
    omega = 2 * np.pi * jnp.where(negative, -frequency, frequency) * spread(p["tau"])
    top, low = (spread(x) for x in spread_limits(p))
    # Real numbers meet complex ones here, all of one precision.
    with jax.numpy_dtype_promotion("standard"):
        first, second, below = _boundaries(top, low, omega, spread(p["refractory"] / p["tau"]))
        rate, noise = spread(siegert(**p)), spread(p["sd"])
        if modulation == "mean":
            response = rate / noise * first / ((1 + 1j * omega) * below)
        else:
            response = rate / noise**2 * second / ((2 + 1j * omega) * below)
        return jnp.where(negative, jnp.conj(response), response)


def _boundaries(top: Array, low: Array, omega: Array, refractory: Array):
    """What the boundaries say of psi(y) = integral over t > 0 of t^(i omega - 1) exp(-t^2 + 2 y t).

    psi solves the adjoint Fokker-Planck equation psi'' / 2 - y psi' = i omega psi, bounded below.
    Returns the differences between threshold and reset of psi', of psi'' / 2, and of psi, there
    with the phase of the refractory time at the reset; all over the same number.
    """
    (first, second, whole), scale = _moments(jnp.stack([top, low]), jnp.stack([omega, omega]))
    weight = jnp.exp(scale[1] - scale[0])
    first = 2 * (first[0] - weight * first[1])
    second = 2 * (second[0] - weight * second[1])
    angle = omega * refractory
    phase = _polar(jnp.ones_like(angle), -angle)
    slow = omega < _SLOW
    # (1 - phase) / (i omega), for the pole that psi lacks at slow modulations.
    lost = _polar(refractory * jnp.sinc(angle / (2 * np.pi)), -angle / 2)
    lost = lost * jnp.exp(jnp.where(slow, -scale[0], 0))
    below = whole[0] - phase * weight * whole[1]
    return first, second, jnp.where(slow, below + lost, below)


def _polar(radius: Array, angle: Array) -> Array:
    return jax.lax.complex(radius * jnp.cos(angle), radius * jnp.sin(angle))


def _moments(y: Array, omega: Array) -> tuple[tuple[Array, Array, Array], Array]:
    """psi' / 2, psi'' / 4 and psi over exp(scale), and the scale; psi as of `_boundaries`.

    psi' / 2 and psi'' / 4 are the integrals of t^(i omega) exp(-t^2 + 2 y t) and of t times it.
    Where `omega` is below 1, psi less its pole 1 / (i omega) instead of psi.
    """
    path = jax.lax.stop_gradient(_path(y, omega))
    order = 1 + 1j * omega
    scale = (order * path.log_saddle + path.saddle * (2 * y - path.saddle)).real
    scale = jax.lax.stop_gradient(scale)
    slow = omega < _SLOW
    calm = jnp.where(slow, omega, _SLOW)

    def add(sums: tuple[Array, Array, Array], node: Array):
        log_t, t, step = jax.lax.stop_gradient(path.at(node))
        term = step * complex_exp(2 * y * t - t * t + order * log_t - scale)
        # By parts, psi is the integral of 2 (t - y) exp(-t^2 + 2 y t) times t^(i omega) over
        # i omega, and its pole that of the same without t^(i omega).
        less = (t - y) * term * log_t * _relative_loss(1j * calm * log_t)
        return (sums[0] + term, sums[1] + t * term, sums[2] + 2 * less), None

    nodes = jnp.linspace(0, 1, _NUM_NODES, dtype=y.dtype)
    zero = jnp.zeros_like(order)
    (first, second, without_pole), _ = jax.lax.scan(add, (zero, zero, zero), nodes)
    whole = 2 * (second - y * first) / (1j * jnp.where(slow, 1, omega))
    return (first, second, jnp.where(slow, without_pole, whole)), scale


def _relative_loss(x: Array) -> Array:
    """(1 - exp(-x)) / x, smooth through 0."""
    square = x.real**2 + x.imag**2
    near = square < 0.01
    small, large = jnp.where(near, x, 0), jnp.where(near, 1, x)
    series = jnp.ones_like(x)
    for k in range(10, 1, -1):
        series = 1 - series * small * (1 / k)
    # XLA's complex division guards against overflow, at the cost of the rest.
    inverse = jnp.conj(large) * (1 / jnp.where(near, 1, square))
    return jnp.where(near, series, (1 - complex_exp(-large)) * inverse)


class _Path(eqx.Module):
    """log t = log|saddle| + v + i angle(v), v = (x + 1 - exp(-x)) / 2, from x of `first` on."""

    saddle: Array
    log_saddle: Array
    first: Array
    length: Array
    angle: Array
    turn: Array

    def at(self, node: Array) -> tuple[Array, Array, Array]:
        """log t, t, and the step of log t, at a `node` in [0, 1]."""
        x = self.first + self.length * node
        decay = jnp.exp(-x)
        # It spreads the nodes where the integrand has a long tail.
        v, dv = (x + 1 - decay) / 2, (1 + decay) / 2 * self.length * (1 / (_NUM_NODES - 1))
        # The angle has the steepest slope at the saddle and vanishes for large v.
        grown = jnp.exp(-jnp.abs(self.turn * v))
        soft = jnp.maximum(-self.turn * v, 0) + jnp.log1p(grown)
        share = jnp.where(v > 0, grown, 1) / (1 + grown)
        log_t = jax.lax.complex(self.log_saddle.real + v, self.angle * soft)
        return log_t, complex_exp(log_t), jax.lax.complex(dv, -dv * self.angle * self.turn * share)


def _path(y: Array, omega: Array) -> _Path:
    """A path for `_moments`, in log t.

    The exponent (1 + i omega) log t - t^2 + 2 y t of the integral over log t has one saddle in the
    right half plane. The path leaves it in the direction of steepest descent, turns to the
    positive axis for large t, and winds around 0 for small t, where that makes t^(i omega) small.
    Along it the integrand does not oscillate: the trapezoidal rule converges exponentially.
    """
    order = 1 + 1j * omega
    root = jnp.sqrt(y * y + 2 * order)
    # Of the two forms, the one that does not cancel.
    saddle = jnp.where(y > 0, (y + root) / 2, order / jnp.where(y > 0, root, root - y))
    curvature = 2 * saddle * saddle + order
    log_radius, angle = jnp.log(jnp.abs(saddle)), jnp.angle(saddle)
    size = jnp.abs(curvature)
    slope = curvature.imag / (size + curvature.real)  # of half its angle

    # How far to go. The exponent falls at least as strong (exp|v| - 1 - |v|) above the saddle, as
    # bend (1 - exp v)^2 + tail (exp v - 1 - v) below it.
    # Without the pole, t^(i omega) is not small there.
    strong = size * (1 + slope**2)
    tail = jnp.where(omega < _SLOW, 1, 1 + 2 * slope * omega)
    tiny = jnp.finfo(y.dtype).tiny
    bend = jnp.maximum((strong - tail) / 2, tiny)
    above = _DEPTH / strong
    above = jnp.log1p(above + jnp.sqrt(2 * above))
    near = 0.8 * bend > _DEPTH
    share = jnp.where(near, _DEPTH / bend, 0.5)
    reach = jnp.where(
        near, -jnp.log1p(-jnp.sqrt(share)), jnp.maximum(_DEPTH - 0.8 * bend, 0) / tail + 2.25
    )
    below = _DEPTH / tail
    below = jnp.minimum(reach, below + jnp.sqrt(2 * below))
    first, last = _stretched(-below, -jnp.log1p(2 * below)), _stretched(above, above)
    angle = jnp.maximum(angle, tiny)
    log_saddle = jax.lax.complex(log_radius, angle)
    turn = 2 * _LN2 * slope / angle
    return _Path(saddle, log_saddle, first, last - first, angle / _LN2, turn)


def _stretched(v: Array, x: Array) -> Array:
    """The x of (x + 1 - exp(-x)) / 2 = v, from a start below it, by Newton's method."""
    for _ in range(3):
        decay = jnp.exp(-x)
        x = x - ((x + 1 - decay) / 2 - v) / ((1 + decay) / 2)
    return x
