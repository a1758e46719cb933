"""The scaled complementary error function on the positive axis, to all digits."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ROOT_PI = float(np.sqrt(np.pi))
# Chebyshev coefficients of (x + _SCALE) rest(x) in (x - _SCALE) / (x + _SCALE), x from 0 to
# infinity: computed with 40 digits (`tests/reference/meanfield/make_siegert.py`); those left out
# sum to less than 2e-17.
_SCALE = 2.5
_COEFFICIENTS = (
    0.9226001303205192,
    -0.47061021536648173,
    0.03644925900631707,
    0.015885250177916855,
    -0.004107880255827753,
    -0.0005233414804258318,
    0.000316691008768284,
    1.0982911931863593e-05,
    -2.2710258572986588e-05,
    4.187316863983049e-07,
    1.5932969146844906e-06,
    -8.137867145052517e-08,
    -1.1083790963438614e-07,
    7.467220117776004e-09,
    7.638807407320282e-09,
    -5.265218585746417e-10,
    -5.158493204051309e-10,
    2.98951335308817e-11,
    3.344301601396582e-11,
    -1.2757246420787076e-12,
    -2.018238693597126e-12,
    3.079142659031809e-14,
    1.0827446452318774e-13,
    -3.554498685366776e-17,
    -4.7903337821446264e-15,
    1.3037830009623886e-16,
    1.5294874160993825e-16,
    -4.067882003913546e-17,
)


@jax.custom_jvp
def rest(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 / (sqrt(pi) erfcx(x)) - x for x >= 0: from 1 / sqrt(pi), falling as 1 / (2 x).

    What follows x in the continued fraction of erfcx. It gives erfcx and its derivative without
    cancellation, however large x is.
    """
    t = (x - _SCALE) / (x + _SCALE)
    last, value = jnp.zeros_like(t), jnp.zeros_like(t)
    for coefficient in _COEFFICIENTS[:0:-1]:  # Clenshaw (1955)
        last, value = value, 2 * t * value - last + coefficient
    return (t * value - last + _COEFFICIENTS[0]) / (x + _SCALE)


@rest.defjvp
def _rest_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    y = rest(x)
    return y, (2 * y * (x + y) - 1) * dx


@jax.custom_jvp
def erfcx(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """exp(x^2) erfc(x) for x >= 0."""
    return 1 / (ROOT_PI * (x + rest(x)))


@erfcx.defjvp
def _erfcx_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    y = erfcx(x)
    return y, -2 * rest(x) * y * dx
