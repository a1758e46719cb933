"""Distributions of synaptic weights; a weight that is a number is a distribution of one value."""

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._neuron import Shape, as_parameter


def checked(value: ArrayLike, good: Callable[[Any], Any], message: str) -> Array:
    """`value` as a parameter, finite and `good`: otherwise a `ValueError`, under jit an error."""
    array = as_parameter(value)
    if isinstance(array, Tracer):
        return eqx.error_if(array, ~(jnp.isfinite(array) & good(array)), message)
    concrete = np.asarray(array)
    if not np.all(np.isfinite(concrete) & good(concrete)):
        raise ValueError(f"{message} Got {concrete}.")
    return array


class WeightDistribution(eqx.Module):
    """Independent random weights. Their samples are differentiable in the parameters."""

    @abc.abstractmethod
    def moments(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Mean and variance of a weight."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray, shape: Shape, dtype: Any) -> Float[Array, "..."]:
        """Weights of the given shape."""


class Normal(WeightDistribution):
    """Normal weights; with `dale` those of the wrong sign are drawn again.

    `mean` and `sd` are of the normal distribution before any are drawn again; `moments()` are the
    weights' own. With `dale` the right sign is that of `mean`, and `sd` must be positive. Raises
    `ValueError` for values that are not finite, a negative `sd`, and with `dale` a zero one.
    """

    mean: Float[Array, "..."]
    sd: Float[Array, "..."]
    dale: bool = eqx.field(static=True)

    def __init__(self, mean: ArrayLike, sd: ArrayLike, *, dale: bool = False):
        self.mean = checked(mean, lambda x: x == x, "The mean of weights must be finite.")
        if dale:
            message = "With dale=True the sd of weights must be positive and finite."
            self.sd = checked(sd, lambda x: x > 0, message)
        else:
            message = "The sd of weights must be finite and not negative."
            self.sd = checked(sd, lambda x: x >= 0, message)
        self.dale = bool(dale)

    def moments(self) -> tuple[Array, Array]:
        if not self.dale:
            return self.mean, self.sd**2
        bound = jnp.abs(self.mean) / self.sd  # the other sign begins so many sd from the mean
        hazard = jnp.exp(norm.logpdf(bound) - norm.logcdf(bound))
        mean = _sign(self.mean) * (jnp.abs(self.mean) + self.sd * hazard)
        return mean, self.sd**2 * (1 - bound * hazard - hazard**2)

    def sample(self, key: PRNGKeyArray, shape: Shape, dtype: Any) -> Array:
        if not self.dale:
            return self.mean + self.sd * jax.random.normal(key, shape, dtype)
        bound = (jnp.abs(self.mean) / self.sd).astype(dtype)
        z = jax.random.truncated_normal(key, -bound, jnp.inf, shape, dtype)
        return _sign(self.mean) * jnp.maximum(jnp.abs(self.mean) + self.sd * z, 0)


class LogNormal(WeightDistribution):
    """Log-normal weights, heavy-tailed: `mean` and `sd` are those of the weight itself.

    All weights have the sign of `mean`. Raises `ValueError` for values that are not finite, a mean
    of zero, and an `sd` that is not positive. Widths as of cortex: Song et al. (2005).
    """

    mean: Float[Array, "..."]
    sd: Float[Array, "..."]

    def __init__(self, mean: ArrayLike, sd: ArrayLike):
        message = "The mean of log-normal weights must be finite and not zero: it is their sign."
        self.mean = checked(mean, lambda x: x != 0, message)
        message = "The sd of log-normal weights must be positive and finite."
        self.sd = checked(sd, lambda x: x > 0, message)

    def moments(self) -> tuple[Array, Array]:
        return self.mean, self.sd**2

    def sample(self, key: PRNGKeyArray, shape: Shape, dtype: Any) -> Array:
        variance = jnp.log1p((self.sd / self.mean) ** 2)  # of the logarithm
        logarithm = jnp.sqrt(variance) * jax.random.normal(key, shape, dtype) - variance / 2
        return self.mean * jnp.exp(logarithm)


def _sign(mean: Array) -> Array:
    return jnp.where(mean < 0, -1.0, 1.0)  # weakly typed


Weight: TypeAlias = Float[Array, "..."] | WeightDistribution


def as_weight(value: ArrayLike | WeightDistribution) -> Weight:
    """A finite number or a distribution. Raises `ValueError` for a number that is not finite."""
    if isinstance(value, WeightDistribution):
        return value
    return checked(value, lambda x: x == x, "Weights must be finite.")


def sample_weight(weight: Weight, key: PRNGKeyArray, shape: Shape, dtype: Any) -> Array:
    _check_scalar(weight)
    if isinstance(weight, WeightDistribution):
        return weight.sample(key, shape, dtype).astype(dtype)
    return jnp.broadcast_to(weight, shape).astype(dtype)


def weight_moments(weight: Weight) -> tuple[Array, Array]:
    """Mean and variance of a weight."""
    _check_scalar(weight)
    if isinstance(weight, WeightDistribution):
        return weight.moments()
    return weight, jnp.zeros_like(weight)


def _check_scalar(weight: Weight) -> None:
    for leaf in jax.tree.leaves(weight):
        if jnp.ndim(leaf):
            raise ValueError(
                f"a rule's weights have one value or distribution, got shape {leaf.shape}. For "
                "several networks use jax.vmap; for a matrix of weights from_matrix."
            )


def check_dale(weights: ArrayLike) -> None:
    """Raises `ValueError` if a source has weights of both signs. `weights[post, pre]`."""
    matrix = np.asarray(weights)
    both = np.flatnonzero((matrix > 0).any(0) & (matrix < 0).any(0))
    if both.size:
        raise ValueError(
            f"{both.size} of {matrix.shape[1]} sources excite and inhibit, against Dale's law: "
            f"columns {both[:5].tolist()}{' and more' if both.size > 5 else ''}."
        )
