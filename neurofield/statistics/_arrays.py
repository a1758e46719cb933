"""Small array helpers that the estimators share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int


def as_float(x: ArrayLike) -> Float[Array, "..."]:
    """Real arrays keep their dtype; counts and booleans take the default real one."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def all_valid(*shape: int) -> Bool[Array, "..."]:
    """A mask that leaves nothing out."""
    # Behind a barrier, lest XLA spend seconds of compilation on scanning a constant.
    return jax.lax.optimization_barrier(jnp.ones(shape, bool))


def run_age(mask: Bool[Array, "*batch time"]) -> Int[Array, "*batch time"]:
    """How many bins of the same run of valid bins came before; -1 in an invalid bin.

    Bins t and t + l lie in one unbroken run exactly if `run_age[t + l] >= l`.
    """
    time = jnp.arange(mask.shape[-1], dtype=jnp.int32)
    broken = jnp.where(mask, jnp.int32(-1), jnp.broadcast_to(time, mask.shape))
    return jnp.broadcast_to(time, mask.shape) - jax.lax.cummax(broken, axis=mask.ndim - 1) - 1
