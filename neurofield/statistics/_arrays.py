"""Small array helpers that the estimators share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from neurofield._numerics import run_age as run_age


def as_float(x: ArrayLike) -> Float[Array, "..."]:
    """Real arrays keep their dtype; counts and booleans take the default real one."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def all_valid(*shape: int) -> Bool[Array, "..."]:
    """A mask that leaves nothing out."""
    # Behind a barrier, lest XLA spend seconds of compilation on scanning a constant.
    return jax.lax.optimization_barrier(jnp.ones(shape, bool))
