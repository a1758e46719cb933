"""Small numerical tools that several rooms share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HIGHEST = jax.lax.Precision.HIGHEST


def contract(subscripts: str, *operands: Array) -> Array:
    """`jnp.einsum` at full precision: an accelerator's default is below float32."""
    return jnp.einsum(subscripts, *operands, precision=HIGHEST)


@jax.custom_jvp
def softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + exp(x)) without overflow, with the logistic function as its derivative."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * dx
