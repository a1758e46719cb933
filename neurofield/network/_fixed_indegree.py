"""Connections whose number is the same for every target."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from ._block_statistics import BlockStatistics, exchangeable_statistics
from ._connectivity import Connectivity
from ._neuron import dtype_of
from ._weights import Weight, WeightDistribution, as_weight, sample_weight, weight_moments


class FixedIndegree(Connectivity):
    """See `fixed_indegree`."""

    indegree: int = eqx.field(static=True)
    weight: Weight
    multapses: bool = eqx.field(static=True)
    autapses: bool = eqx.field(static=True)

    def check(self, num_post: int, num_pre: int) -> None:
        super().check(num_post, num_pre)
        num = self._num_sources(num_pre)
        if num < 1 or not (self.multapses or self.indegree <= num):
            raise ValueError(
                f"{self.indegree} sources cannot be drawn from {num}"
                f"{'' if self.multapses else ' without multapses'}."
            )

    def _num_sources(self, num_pre: int) -> int:
        return num_pre if self.autapses else num_pre - 1

    def inputs(
        self, key: PRNGKeyArray, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> tuple[Int[Array, " K"], Float[Array, " K"]]:
        """The sources of the neuron `post` and their weights; with multapses some occur twice."""
        self.check(num_post, num_pre)
        key_source, key_weight = jax.random.split(key)
        num = self._num_sources(num_pre)
        if self.multapses:
            sources = jax.random.randint(key_source, (self.indegree,), 0, num, jnp.int32)
        else:
            sources = distinct(key_source, self.indegree, num)
        if not self.autapses:
            sources = sources + (sources >= jnp.asarray(post, jnp.int32)).astype(jnp.int32)
        weights = sample_weight(self.weight, key_weight, (self.indegree,), dtype_of(self))
        return sources, weights

    def row(
        self, key: PRNGKeyArray, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> Float[Array, " pre"]:
        sources, weights = self.inputs(key, post, num_post, num_pre)
        return jnp.zeros(num_pre, weights.dtype).at[sources].add(weights)

    def statistics(self, num_post: int, num_pre: int) -> BlockStatistics:
        self.check(num_post, num_pre)
        mean, variance = weight_moments(self.weight)
        num, indegree = self._num_sources(num_pre), self.indegree
        # A pair's number of synapses is binomial, or 0 or 1: its variance over its mean.
        dispersion = 1 - (1 if self.multapses else indegree) / num
        return exchangeable_statistics(
            indegree / num * mean,
            indegree / num * (variance + dispersion * mean**2),
            num_pre,
            autapses=self.autapses,
            sum_variance=indegree * variance,
        )


def fixed_indegree(
    indegree: int | float,
    weight: ArrayLike | WeightDistribution,
    *,
    multapses: bool = True,
    autapses: bool = True,
) -> FixedIndegree:
    """Every target has `indegree` synapses from sources drawn uniformly, as in Brunel (2000).

    With `multapses` a source may be drawn several times; its weights add up. `weight` is a number
    or a distribution of independent weights, one a synapse. Raises `ValueError` for an in-degree
    below one, and at use for one above the number of sources where it must not be.
    """
    if isinstance(indegree, bool) or int(indegree) != indegree or indegree < 1:
        raise ValueError(f"indegree must be a whole number of at least one, got {indegree}.")
    return FixedIndegree(int(indegree), as_weight(weight), bool(multapses), bool(autapses))


def distinct(key: PRNGKeyArray, num: int, below: int) -> Int[Array, " num"]:
    """`num` different integers in [0, below): a uniformly random set.

    Draws those again that repeat others, until none does. No step prefers an integer to another,
    so that all sets are equally likely. Where most would repeat, a permutation is faster.
    """
    if 2 * num > below:
        return jax.random.permutation(key, jnp.arange(below, dtype=jnp.int32))[:num]

    def repeated(values):
        return jnp.concatenate([jnp.zeros(1, bool), values[1:] == values[:-1]])

    def again(carry):
        key, values = carry
        key, key_now = jax.random.split(key)
        fresh = jax.random.randint(key_now, (num,), 0, below, jnp.int32)
        return key, jnp.sort(jnp.where(repeated(values), fresh, values))

    key, key_first = jax.random.split(key)
    values = jnp.sort(jax.random.randint(key_first, (num,), 0, below, jnp.int32))
    return lax.while_loop(lambda carry: repeated(carry[1]).any(), again, (key, values))[1]
