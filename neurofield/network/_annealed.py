"""Annealed connections: drawn anew for each spike."""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from neurofield._validate import finite

from ._deliver import for_each
from ._neuron import as_parameter
from ._spike import draw


class Annealed(eqx.Module):
    """Each spike reaches each target with `probability`, independently, with `weight`.

    `weight`: one number, or one a target, `[post]`. The number of arrivals at a target is binomial
    in the number of spikes of the step; after Chang et al. (2025), whose networks have no quenched
    disorder.
    """

    probability: Float[Array, ""]
    weight: Float[Array, "..."]


def annealed(probability: ArrayLike, weight: ArrayLike) -> Annealed:
    """Connections redrawn for each spike, which reaches a target with `probability`.

    `weight`: in the unit of the channel (mV for a jump), a scalar or `[post]`. For sources that
    spike; with a `Pending` kernel it multiplies the absorbed spikes. Raises `ValueError` for a
    probability outside [0, 1].
    """
    rule = Annealed(as_parameter(probability), as_parameter(weight))
    finite("weight", rule.weight)
    if not isinstance(rule.probability, jax.core.Tracer) and not 0 <= rule.probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}.")
    return rule


def annealed_arrivals(
    key: PRNGKeyArray, rule: Annealed, spikes: Float[Array, " pre"], num_post: int
) -> Float[Array, " post"]:
    """Number of arrivals at each target."""
    chance = jnp.broadcast_to(rule.probability, (num_post,)).astype(spikes.dtype)

    def add(total, source):
        return total + spikes[source] * draw(jax.random.fold_in(key, source), chance, "error")

    return for_each(spikes != 0, add, jnp.zeros(num_post, spikes.dtype))
