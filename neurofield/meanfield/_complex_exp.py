"""The exponential of complex arrays, in operations that vectorise."""

from functools import cache
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex


@cache
def _quarter_turn(bits: int) -> tuple[float, float, float]:
    """pi / 2 in three parts, whose multiples by up to 2^`bits` the first two have exactly."""
    # To 107 bits: the double, and what it leaves.
    double, left = np.pi / 2, 6.123233995736766e-17
    first = np.ldexp(np.round(np.ldexp(double, bits)), -bits)
    double = (double - first) + left
    second = np.ldexp(np.round(np.ldexp(double, 2 * bits)), -2 * bits)
    return float(first), float(second), float(double - second)


def _circle(angle: Array) -> tuple[Array, Array]:
    """Cosine and sine: to rounding for angles below 1e5 (1e3 in float32).

    XLA calls a scalar routine for each on a CPU, which takes five times as long.
    """
    turns = jnp.round(angle * (2 / np.pi))
    double = angle.dtype == jnp.float64
    for part in _quarter_turn(32 if double else 10):
        angle = angle - turns * part
    square, num = angle * angle, 8 if double else 5
    cosine, sine = jnp.zeros_like(angle), jnp.zeros_like(angle)
    for k in range(num, -1, -1):
        sign = (-1) ** k
        cosine = cosine * square + sign / factorial(2 * k)
        sine = sine * square + sign / factorial(2 * k + 1)
    sine = sine * angle
    # Quadrants by the turns modulo 4, as floats.
    quadrant = turns - 4 * jnp.floor(turns / 4)
    odd = (quadrant == 1) | (quadrant == 3)
    cosine, sine = jnp.where(odd, sine, cosine), jnp.where(odd, cosine, sine)
    cosine = jnp.where((quadrant == 1) | (quadrant == 2), -cosine, cosine)
    return cosine, jnp.where(quadrant >= 2, -sine, sine)


@jax.custom_jvp
def complex_exp(z: Complex[Array, "*shape"]) -> Complex[Array, "*shape"]:
    """exp(z), as exact as exp, cosine and sine of angles below 1e5 (1e3 in complex64)."""
    size = jnp.exp(z.real)
    cosine, sine = _circle(z.imag)
    return jax.lax.complex(size * cosine, size * sine)


@complex_exp.defjvp
def _complex_exp_jvp(primals, tangents):
    y = complex_exp(*primals)
    return y, y * tangents[0]
