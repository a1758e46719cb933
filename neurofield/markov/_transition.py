"""Where one step of a uniform piece plus Gaussian noise leaves a neuron: the map's kernel.

A neuron of a bin has a voltage X, uniform on [low, high] within it, and moves by a Gaussian Z to
Y = X + Z. The probability F(x) of Y <= x, and the first moment G(x) of Y there, have closed forms
in integrals of the normal distribution function (Chang, Li, Wang, Tao & Xiao 2025).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._closure import Input
from ._grid import Grid
from ._parameters import Parameters

_LEAST_WIDTH = 1e-4  # mV: of the voltages within a bin, as in the published program
_LEAST_DEVIATION = 1e-6  # mV: without noise the step is a shift
_FAR = 40.0  # standard deviations: beyond, a normal density is 0 in double precision
# Below this ratio of the piece's width to the deviation, integrals over the piece are taken from
# their series about its middle: differences of antiderivatives would lose digits.
_NARROW = {"float32": 0.5, "float64": 0.1}
# Mills' ratio (1 - cdf) / pdf at t >= 0 is p(s) / (t + 6), s = (t - 6) / (t + 6), with p the
# Chebyshev interpolant, here in powers of s: 6e-16 of relative error at most.
_MILLS = (
    *(1.9485319307624096, -1.7571690543441083, 1.4261935116084092, -1.037502431075801),
    *(0.6717118214993473, -0.38271258668215324, 0.1884280492787981, -0.07766866779960255),
    *(0.025141031962779743, -0.005343142935798607, 8.239314429257288e-05, 0.0004546076357785811),
    *(-0.00016230983181152883, 2.6837099074620436e-06, 1.703681897539653e-05),
    *(-4.4887617744654325e-06, -1.0766450945374228e-06, 7.52119148265058e-07),
    *(1.7164141509357416e-08, -9.060390085250309e-08, 7.087974401694541e-09),
    *(6.791804195936474e-09, -9.037209862697326e-10),
)


class _Normal(NamedTuple):
    """The standard normal density, its integral, and that one's integrals less ramps.

    `first` = integral of the cdf to z, less max(z, 0); `second` = integral of `first`, so that the
    cdf's second integral is max(z, 0)^2 / 2 + `second`.
    """

    pdf: Array
    cdf: Array
    first: Array
    second: Array


@jax.custom_jvp
def _normal(z: Array) -> _Normal:
    """For |z| <= 40."""
    t = jnp.abs(z)
    # XLA keeps a quotient's value for all its uses, where it would repeat sums and products: hence
    # divisions at both ends of the polynomial.
    s = (t - 6) / (t + 6)
    mills = jnp.full_like(s, _MILLS[-1])
    for coefficient in _MILLS[-2::-1]:
        mills = mills * s + coefficient
    mills = mills / (t + 6)
    pdf = jnp.exp(-0.5 * t * t) * (2 * np.pi) ** -0.5
    upper = pdf * mills
    second = pdf * ((t * t + 1) * mills - t) / 2
    right = z > 0
    return _Normal(
        pdf,
        jnp.where(right, 1 - upper, upper),
        pdf - t * upper,
        jnp.where(right, 0.5 - second, second),
    )


@_normal.defjvp
def _normal_jvp(primals, tangents):
    (z,), (dz,) = primals, tangents
    out = _normal(z)
    slope = out.cdf - (z > 0).astype(z.dtype)
    return out, _Normal(-z * out.pdf * dz, out.pdf * dz, slope * dz, out.first * dz)


def cumulative(
    x: Float[Array, "*#shape"],
    low: Float[Array, "*#shape"],
    high: Float[Array, "*#shape"],
    mean: Float[Array, "*#shape"],
    deviation: Float[Array, "*#shape"],
) -> tuple[Float[Array, "*#shape"], Float[Array, "*#shape"]]:
    """F(x) = P(Y <= x) and G(x) = E[Y; Y <= x] of Y = U[low, high] + N(mean, deviation^2).

    All in one unit, of shapes that broadcast, with `low <= high` and `deviation >= 0`. The limits,
    where the piece is a point or the noise is none, are taken without loss, and so are their
    derivatives.
    """
    deviation = jnp.maximum(deviation, _LEAST_DEVIATION)
    inverse = 1 / deviation
    width = high - low
    narrow = width < _NARROW[str(width.dtype)] * deviation
    # One evaluation at each end; where the piece is narrow, at its middle instead of its low end.
    from_low = x - (mean + jnp.where(narrow, (low + high) / 2, low))
    from_high = x - (mean + high)
    at_low = _normal(jnp.clip(from_low * inverse, -_FAR, _FAR))
    at_high = _normal(jnp.clip(from_high * inverse, -_FAR, _FAR))
    ramp_low = jnp.where(from_low > 0, from_low, 0)
    ramp_high = jnp.where(from_high > 0, from_high, 0)

    per_width = 1 / jnp.where(narrow, 1, width)
    covered = jnp.where(from_high > 0, 1, ramp_low * per_width)  # 1 without rounding
    scale = deviation * per_width
    f_wide = covered + scale * (at_low.first - at_high.first)
    rest_wide = covered * (ramp_low + ramp_high) / 2 + scale * deviation * (
        at_low.second - at_high.second
    )

    z = jnp.clip(from_low * inverse, -_FAR, _FAR)
    square = z * z
    h = jnp.where(narrow, width * inverse, 0) ** 2
    a, b, c = h / 24, h * h / 1920, h * h * h / 322560
    odd = a + b * (square - 3) + c * (square * (square - 10) + 15)
    even = a + b * (square - 1) + c * (square * (square - 6) + 3)
    f_narrow = at_low.cdf - z * at_low.pdf * odd
    rest_narrow = ramp_low + deviation * (at_low.first + at_low.pdf * even)

    f = jnp.where(narrow, f_narrow, f_wide)
    return f, x * f - jnp.where(narrow, rest_narrow, rest_wide)


class Transition(NamedTuple):
    """What one step makes of a neuron in each source bin.

    - `to`: `[..., source, destination]`, probabilities.
    - `fire`: `[..., source]`, of a spike; the probabilities of a source sum to 1, except that under
      `lowest="drop"` those of the lowest bin and below are missing.
    - `moment`: `[..., source, destination]`, mV, of the voltage reached, with its probability.
    """

    to: Array
    fire: Array
    moment: Array


def within_bin(
    grid: Grid, voltage: Float[Array, "*lead bin"]
) -> tuple[Float[Array, "*lead bin"], Float[Array, "*lead bin"]]:
    """The interval in each bin that, uniformly filled, has the mean `voltage`.

    It begins at the one edge or ends at the other, and is never narrower than 1e-4 mV.
    """
    lead = (None,) * (voltage.ndim - 1)
    edges = jnp.asarray(grid.edges, voltage.dtype)
    lower, upper = edges[:-1][lead], edges[1:][lead]
    below = voltage <= (lower + upper) / 2
    low = jnp.where(below, lower, 2 * voltage - upper)
    high = jnp.where(below, 2 * voltage - lower, upper)
    high = jnp.where(voltage < lower + _LEAST_WIDTH, lower + _LEAST_WIDTH, high)
    return jnp.where(voltage >= upper, upper - _LEAST_WIDTH, low), high


class Moves(NamedTuple):
    """A step's X + Z from each source bin: X uniform on [low, high], Z normal; all in mV."""

    low: Array
    high: Array
    mean: Array
    deviation: Array


def moves(
    params: Parameters,
    grid: Grid,
    received: Input,
    voltage: Float[Array, "population node node bin"],
    dt: float,
) -> Moves:
    """The step of `dt` seconds from bins with mean `voltage`, mV, within them.

    Mean and variance of the step are those at the mean voltage; the leak is in the interval.
    """
    felt = params.felt(voltage)
    inhibition = received.inhibition[:, None, :, None] * felt
    mean = dt * (received.excitation[:, :, None, None] - inhibition)
    variance = dt * (
        received.variance[:, None, None, None]
        + received.inhibitory_variance[:, None, None, None] * felt * felt
    )
    deviation = jnp.sqrt(jnp.maximum(variance, _LEAST_DEVIATION**2))
    low, high = within_bin(grid, voltage)
    stays = jnp.maximum(1 - dt * params.leak, 0)[:, None, None, None]
    return Moves(low * stays, high * stays, mean, deviation)


def transition(grid: Grid, steps: Moves, lowest: Literal["lump", "drop"] = "lump") -> Transition:
    """The probabilities of a step from each bin to each.

    What goes below the lowest bin is lumped into it, or under `"drop"` lost together with what goes
    into that bin.
    """
    lead = (None,) * steps.low.ndim
    edges = jnp.asarray(grid.edges[1:], steps.low.dtype)[lead]
    f, g = cumulative(edges, *(x[..., None] for x in steps))
    to = jnp.maximum(from_below(f), 0)
    moment = from_below(g)
    if lowest == "drop":
        to, moment = to.at[..., 0].set(0), moment.at[..., 0].set(0)
    return Transition(to, jnp.maximum(1 - f[..., -1], 0), moment)


def from_below(cumulative: Float[Array, "*lead bin"]) -> Float[Array, "*lead bin"]:
    """What is in each bin, of what is below its upper edge; the lowest bin has all below it."""
    first = [(0, 0)] * (cumulative.ndim - 1) + [(1, 0)]
    return jnp.diff(jnp.pad(cumulative, first), axis=-1)
