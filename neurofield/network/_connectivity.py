"""Ensembles of connections: the law of a target's weights, drawn row by row from keys."""

import abc
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from neurofield._types import Arrayish
from neurofield.recording import Graph

from ._block_statistics import BlockStatistics, realised_statistics
from ._deliver import Dense, Lists


class Connectivity(eqx.Module):
    """A law of the weights between two populations, `weights[post, pre]`.

    Rows are independent given the rule, and each is drawn from a key of its own, so that a matrix
    need not be held at once. Weights of delta synapses are in millivolts, others in the unit of
    the input that they scale. Rules whose `autapses` is `False` are for connections within one
    population: no neuron connects to itself.
    """

    @abc.abstractmethod
    def row(
        self, key: PRNGKeyArray, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> Float[Array, " pre"]:
        """Weights onto the neuron `post` from each source."""

    @abc.abstractmethod
    def statistics(self, num_post: int, num_pre: int) -> BlockStatistics:
        """Exact values of the ensemble."""

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        """Numbers of targets and of sources that the rule is for; `None` for any."""
        return None, None

    def check(self, num_post: int, num_pre: int) -> None:
        """Raises `ValueError` if the rule is not for these numbers of neurons."""
        name = type(self).__name__
        for expected, got, what in zip(
            self.sizes, (num_post, num_pre), ("targets", "sources"), strict=True
        ):
            if expected is not None and expected != got:
                raise ValueError(f"{name} is for {expected} {what}, got {got}.")
        if not getattr(self, "autapses", True) and num_post != num_pre:
            raise ValueError(
                f"{name} with autapses=False connects a population to itself, got {num_post} "
                f"targets and {num_pre} sources."
            )


def without_self(row: Float[Array, " pre"], post: Int[Array, ""] | int) -> Float[Array, " pre"]:
    own = jnp.arange(row.shape[0], dtype=jnp.int32) == jnp.asarray(post, jnp.int32)
    return jnp.where(own, 0, row)


@jax.custom_jvp
def _below(u: Array, probability: Array) -> Array:
    return (u < probability).astype(probability.dtype)


@partial(_below.defjvp, symbolic_zeros=True)
def _below_jvp(primals, tangents):
    if not isinstance(tangents[1], jax.custom_derivatives.SymbolicZero):
        raise TypeError(
            "Whether two neurons are connected has no derivative with respect to the probability. "
            "Differentiate with respect to the weights alone (eqx.partition), or the statistics "
            "of the ensemble, block_statistics, which are smooth in the probability."
        )
    y = _below(*primals)
    return y, jnp.zeros_like(y)


def connected(key: PRNGKeyArray, probability: Float[Array, " pre"]) -> Float[Array, " pre"]:
    """1 for a connection, else 0. The derivative by the probability raises: it would be zero."""
    return _below(jax.random.uniform(key, probability.shape, probability.dtype), probability)


def block_statistics(
    connectivity: Connectivity | Dense | Lists | Graph | Arrayish,
    num_post: int | None = None,
    num_pre: int | None = None,
) -> BlockStatistics:
    """Mean, vQ and vM of a rule, exact, or of drawn weights `[post, pre]`.

    Of a rule: the expectations over the ensemble for `num_post` targets and `num_pre` sources
    (where the rule fixes them, they may be left out), given what all rows share: positions and
    low-rank factors. Of a matrix, or of what `realise` drew: the realised values, whose
    expectations these are. In the limit of many targets both are those of the mean-field equations
    (Lerchner et al. 2006).

    Raises `ValueError` for missing or wrong numbers, and for a matrix of fewer than two targets.
    """
    if isinstance(connectivity, Lists):
        return _lists_statistics(connectivity)
    if isinstance(connectivity, Dense):
        return realised_statistics(connectivity.weights.T)
    if not isinstance(connectivity, Connectivity):
        weights = connectivity.weights if isinstance(connectivity, Graph) else connectivity
        weights = jnp.asarray(weights)
        if weights.ndim != 2:
            raise ValueError(f"weights must be [post, pre], got shape {weights.shape}.")
        if not jnp.issubdtype(weights.dtype, jnp.floating):
            weights = weights.astype(float)
        return realised_statistics(weights)
    num_post = connectivity.sizes[0] if num_post is None else num_post
    num_pre = connectivity.sizes[1] if num_pre is None else num_pre
    if num_post is None or num_pre is None:
        raise ValueError("an ensemble's statistics depend on sizes: give num_post and num_pre.")
    connectivity.check(num_post, num_pre)
    return connectivity.statistics(num_post, num_pre)


def _lists_statistics(lists: Lists) -> BlockStatistics:
    """As of the matrix, one column of it at a time: multapses of a pair are one weight."""

    def one(sums: Array, source: tuple[Array, Array]) -> tuple[Array, Array]:
        targets, weights = source
        column = jnp.zeros(lists.num_post + 1, weights.dtype).at[targets].add(weights)[:-1]
        return sums + column, jnp.var(column, ddof=1)

    start = jnp.zeros(lists.num_post, lists.weights.dtype)
    weights = jnp.broadcast_to(lists.weights, lists.targets.shape)
    sums, variances = jax.lax.scan(one, start, (lists.targets, weights))
    vQ = jnp.sum(variances)
    return BlockStatistics(jnp.mean(sums), vQ, vQ - jnp.var(sums, ddof=1))
