"""Spikes, and what their derivative is: an error unless an estimator was asked for by name.

A spike is a discontinuous function of the voltage, and a sampled spike of its probability. JAX's
own derivative of both is zero, silently; here it is one of three things.

- `"error"` (default): differentiating raises.
- `"score"`: the spike counts as a constant, which is right inside a score-function estimator
  (`score_gradient`), where the derivative goes through the probability of the spikes.
- `"surrogate"`: **biased**. A threshold passes 1 / (2 width) / (1 + |x| / width)^2 (the fast
  sigmoid, after Zenke & Ganguli 2018), a sampled spike the derivative of its probability
  (straight-through).
"""

from functools import partial
from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

SpikeGradient: TypeAlias = Literal["error", "score", "surrogate"]


def _passes(mode: SpikeGradient, what: str) -> bool:
    """Whether a derivative goes through: not for "score", and "error" raises."""
    if mode == "error":
        raise TypeError(
            f"{what} has no derivative. An unbiased gradient takes a neuron with escape noise and "
            'network.score_gradient; spike_gradient="surrogate" asks for a biased one.'
        )
    if mode not in get_args(SpikeGradient):
        raise ValueError(f"spike_gradient={mode!r} is not one of {get_args(SpikeGradient)}.")
    return mode == "surrogate"


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def crossing(x: Float[Array, "*shape"], mode: SpikeGradient, width: float) -> Array:
    """1 where `x` >= 0, else 0, in the dtype of `x`. `width`: of the surrogate, in units of x."""
    return (x >= 0).astype(x.dtype)


@partial(crossing.defjvp, symbolic_zeros=True)
def _crossing_jvp(mode, width, primals, tangents):
    (x,), (dx,) = primals, tangents
    y = crossing(x, mode, width)
    if isinstance(dx, jax.custom_derivatives.SymbolicZero):
        return y, jnp.zeros_like(y)
    if not _passes(mode, "The crossing of a threshold"):
        return y, jnp.zeros_like(y)
    return y, dx / (2 * width * (1 + jnp.abs(x) / width) ** 2)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _below(u: Array, probability: Array, mode: SpikeGradient) -> Array:
    return (u < probability).astype(probability.dtype)


@partial(_below.defjvp, symbolic_zeros=True)
def _below_jvp(mode, primals, tangents):
    (u, probability), (_, dp) = primals, tangents
    y = _below(u, probability, mode)
    if isinstance(dp, jax.custom_derivatives.SymbolicZero):
        return y, jnp.zeros_like(y)
    return y, dp if _passes(mode, "A sampled spike") else jnp.zeros_like(y)


def draw(key: PRNGKeyArray, probability: Float[Array, "*shape"], mode: SpikeGradient) -> Array:
    """1 with the given probability, else 0, in its dtype."""
    # Not `jax.random.uniform`: its grid of 2^-23 in float32 would double the rate of a neuron whose
    # probability is 1e-7 a step. Rounding to nearest keeps 32 bits near 0, and 1 is left out so
    # that probability 1 is sure.
    u = jax.random.bits(key, probability.shape, jnp.uint32).astype(probability.dtype) * 2.0**-32
    return _below(jnp.minimum(u, 1 - jnp.finfo(u.dtype).epsneg), probability, mode)


def log_chance(
    happened: Float[Array, "*shape"], chance: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Log-probability of an outcome, 1 or 0, of which 1 has the given chance."""
    limits = jnp.finfo(chance.dtype)
    chance = jnp.clip(chance, limits.tiny, 1 - limits.epsneg)
    return jnp.where(happened > 0, jnp.log(chance), jnp.log1p(-chance))


def refractory_left(
    spike: Float[Array, "*shape"], left: Float[Array, "*shape"], refractory: Array, dt: float
) -> Float[Array, "*shape"]:
    """The steps that are left of the refractory time (seconds, rounded to whole steps)."""
    return jnp.where(spike > 0, jnp.round(refractory / dt), jnp.maximum(left - 1, 0))


def fresh_unless_refractory(refractory: Array) -> Float[Array, ""] | float | None:
    """`Neuron.memory` of spikes that only a refractory time can join: 0 where there is none.

    The value of a traced refractory time is not known yet: it is checked when it is.
    """
    if not isinstance(refractory, Tracer):
        return None if np.any(np.asarray(refractory) > 0) else 0.0
    return eqx.error_if(
        jnp.zeros((), refractory.dtype),
        jnp.any(refractory > 0),
        "a refractory time was traced and turned out positive, where the neuron's expected output "
        'is known for none: name another estimator (gradient="score" or "none").',
    )
