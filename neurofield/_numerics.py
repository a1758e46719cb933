"""Small numerical tools that several rooms share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

HIGHEST = jax.lax.Precision.HIGHEST


def contract(subscripts: str, *operands: Array) -> Array:
    """`jnp.einsum` at full precision: an accelerator's default is below float32."""
    return jnp.einsum(subscripts, *operands, precision=HIGHEST)


def matmul(a: Array, b: Array) -> Array:
    """`jnp.matmul` at full precision, likewise."""
    return jnp.matmul(a, b, precision=HIGHEST)


def as_complex(x: Float[Array, "*shape"]) -> Complex[Array, "*shape"]:
    """Real numbers as complex ones, without promotion of their precision."""
    return jax.lax.complex(x, jnp.zeros_like(x))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all floating numbers of a pytree are finite."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.bool_(True), *(jnp.all(jnp.isfinite(x)) for x in floats)]))


@jax.custom_jvp
def softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + exp(x)) without overflow, with the logistic function as its derivative."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return softplus(x), logistic(x) * dx


@jax.custom_jvp
def sum_softplus(x: Float[Array, "*batch row column"]) -> Float[Array, "*batch column"]:
    """Sum of `softplus` over the rows: sum log(1 + e) as the logarithm of a product.

    One logarithm for 32 rows. The error is that of the sum, rows times the rounding of one.
    """
    small = jnp.exp(-jnp.abs(x))
    total = jnp.sum(jnp.maximum(x, 0), axis=-2)
    # Each factor is at most 2, so that 32 of them cannot overflow.
    for begin in range(0, x.shape[-2], 32):
        total = total + jnp.log(jnp.prod(1 + small[..., begin : begin + 32, :], axis=-2))
    return total


@sum_softplus.defjvp
def _sum_softplus_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return sum_softplus(x), jnp.sum(logistic(x) * dx, axis=-2)


@jax.custom_jvp
def logistic(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 / (1 + exp(-x)) from the exponential that `softplus` takes too, which XLA then shares."""
    small = jnp.exp(-jnp.abs(x))
    return jnp.where(x > 0, 1, small) / (1 + small)


@logistic.defjvp
def _logistic_jvp(primals, tangents):
    # Differentiating |x| would be wrong at 0.
    (x,), (dx,) = primals, tangents
    y = logistic(x)
    return y, y * (1 - y) * dx


def run_age(mask: Bool[Array, "*batch time"]) -> Int[Array, "*batch time"]:
    """How many bins of the same run of valid bins came before; -1 in an invalid bin.

    Bins t and t + l lie in one unbroken run exactly if `run_age[t + l] >= l`.
    """
    time = jnp.arange(mask.shape[-1], dtype=jnp.int32)
    broken = jnp.where(mask, jnp.int32(-1), jnp.broadcast_to(time, mask.shape))
    return jnp.broadcast_to(time, mask.shape) - jax.lax.cummax(broken, axis=mask.ndim - 1) - 1


def standard_error(groups: Float[Array, "group ..."]) -> Float[Array, "..."]:
    """Of the mean over independent groups. Where they are equal it is zero, with a zero slope."""
    variance = jnp.var(groups, axis=0, ddof=1) / groups.shape[0]
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
