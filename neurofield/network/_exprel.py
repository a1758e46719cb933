"""(exp(x) - 1) / x without its removable singularity."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def exprel(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """(exp(x) - 1) / x, and 1 at x = 0, with derivatives as accurate as the value."""
    # The derivative of the quotient loses digits like 1 / x, so a series takes over well before 0;
    # each branch sees only arguments that it bears, or else its derivative there would be NaN.
    small = jnp.abs(x) < 0.01
    near = jnp.where(small, x, 0)
    far = jnp.where(small, 1, x)
    series = 1 + near / 2 * (1 + near / 3 * (1 + near / 4 * (1 + near / 5 * (1 + near / 6))))
    return jnp.where(small, series, jnp.expm1(far) / far)
