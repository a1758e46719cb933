"""Connections between all pairs: alike, Gaussian, of low rank, or given as a matrix."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from neurofield._types import Arrayish
from neurofield.recording import Graph

from ._block_statistics import (
    BlockStatistics,
    exchangeable_statistics,
    independent_statistics,
    realised_statistics,
)
from ._connectivity import Connectivity, without_self
from ._neuron import dtype_of
from ._weights import (
    Weight,
    WeightDistribution,
    as_weight,
    checked,
    sample_weight,
    weight_moments,
)

_MAX_ENTRIES = 2**28  # of a dense matrix: 1 GiB in single precision


class AllToAll(Connectivity):
    """See `all_to_all`."""

    weight: Weight
    autapses: bool = eqx.field(static=True)

    def row(
        self, key: PRNGKeyArray, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> Float[Array, " pre"]:
        self.check(num_post, num_pre)
        row = sample_weight(self.weight, key, (num_pre,), dtype_of(self))
        return row if self.autapses else without_self(row, post)

    def statistics(self, num_post: int, num_pre: int) -> BlockStatistics:
        self.check(num_post, num_pre)
        return exchangeable_statistics(
            *weight_moments(self.weight), num_pre, autapses=self.autapses
        )


def all_to_all(weight: ArrayLike | WeightDistribution, *, autapses: bool = True) -> AllToAll:
    """Every pair is connected with `weight`, each J_ij: a number or independent random weights.

    The weight is not divided by the number of sources: for an input that stays finite in large
    populations give j / num_pre. Raises `ValueError` for a weight that is not finite.
    """
    return AllToAll(as_weight(weight), bool(autapses))


class LowRank(Connectivity):
    """See `low_rank`."""

    left: Float[Array, "post rank"]
    right: Float[Array, "pre rank"]
    gain: Float[Array, "..."]
    autapses: bool = eqx.field(static=True)

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.left.shape[0], self.right.shape[0]

    def moments(
        self, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> tuple[Float[Array, " pre"], Float[Array, " pre"]]:
        """Mean and variance of each weight onto `post`."""
        self.check(num_post, num_pre)
        mean = jnp.sum(self.left[post][None] * self.right, axis=1) / num_pre
        variance = jnp.broadcast_to(self.gain**2 / num_pre, (num_pre,)).astype(mean.dtype)
        if self.autapses:
            return mean, variance
        return without_self(mean, post), without_self(variance, post)

    def row(
        self, key: PRNGKeyArray, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> Float[Array, " pre"]:
        mean, _ = self.moments(post, num_post, num_pre)
        noise = jax.random.normal(key, (num_pre,), dtype_of(self))
        row = mean + self.gain / num_pre**0.5 * noise
        return row if self.autapses else without_self(row, post)

    def statistics(self, num_post: int, num_pre: int) -> BlockStatistics:
        return independent_statistics(lambda post: self.moments(post, num_post, num_pre), num_post)


def low_rank(
    left: Arrayish, right: Arrayish, gain: ArrayLike = 0.0, *, autapses: bool = True
) -> LowRank:
    """J = left right^T / num_pre + noise: a low-rank structure, and a Gaussian part of sd
    `gain` / sqrt(num_pre).

    `left` is `[num_post, rank]`, `right` is `[num_pre, rank]`. Mastrogiuseppe and Ostojic (2018).
    The three numbers of `block_statistics` take the factors as given; a mean-field theory of such
    networks needs the overlaps of activity and `right` besides. Raises `ValueError` for other
    shapes and values that are not finite.
    """
    message = "The factors of a low-rank matrix must be finite."
    left = checked(jnp.asarray(left), lambda x: x == x, message)
    right = checked(jnp.asarray(right), lambda x: x == x, message)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(
            "left and right must be [num_post, rank] and [num_pre, rank], got shapes "
            f"{left.shape} and {right.shape}."
        )
    gain = checked(gain, lambda x: x >= 0, "The gain must be finite and not negative.")
    return LowRank(left, right, gain, bool(autapses))


class Gaussian(Connectivity):
    """See `gaussian`."""

    mean: Float[Array, "..."]
    gain: Float[Array, "..."]
    autapses: bool = eqx.field(static=True)

    def row(
        self, key: PRNGKeyArray, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> Float[Array, " pre"]:
        self.check(num_post, num_pre)
        noise = jax.random.normal(key, (num_pre,), dtype_of(self))
        row = self.mean / num_pre + self.gain / num_pre**0.5 * noise
        return row if self.autapses else without_self(row, post)

    def statistics(self, num_post: int, num_pre: int) -> BlockStatistics:
        self.check(num_post, num_pre)
        mean, variance = self.mean / num_pre, self.gain**2 / num_pre
        return exchangeable_statistics(mean, variance, num_pre, autapses=self.autapses)


def gaussian(mean: ArrayLike, gain: ArrayLike, *, autapses: bool = True) -> Gaussian:
    """Dense Gaussian weights of mean `mean` / num_pre and variance `gain`^2 / num_pre.

    Sompolinsky, Crisanti and Sommers (1988) for `mean` zero. Raises `ValueError` for values that
    are not finite and a negative gain.
    """
    mean = checked(mean, lambda x: x == x, "The mean must be finite.")
    gain = checked(gain, lambda x: x >= 0, "The gain must be finite and not negative.")
    return Gaussian(mean, gain, bool(autapses))


class Matrix(Connectivity):
    """See `from_matrix`."""

    weights: Float[Array, "post pre"]

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.weights.shape[0], self.weights.shape[1]

    def row(
        self, key: PRNGKeyArray, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> Float[Array, " pre"]:
        self.check(num_post, num_pre)
        return self.weights[post]

    def statistics(self, num_post: int, num_pre: int) -> BlockStatistics:
        self.check(num_post, num_pre)
        return realised_statistics(self.weights)


def from_matrix(weights: Graph | Arrayish | Any) -> Matrix:
    """Given weights, `weights[i, j]` the effect of source j on target i.

    A matrix `[post, pre]`, a `recording.Graph`, or a scipy sparse matrix, which is held dense.
    Raises `ValueError` for other shapes, values that are not finite, and more than 2^28 entries.
    """
    given: Any = weights.weights if isinstance(weights, Graph) else weights
    shape = tuple(np.shape(given))  # of a sparse matrix too
    if len(shape) != 2:
        raise ValueError(f"weights must be [post, pre], got shape {shape}.")
    if shape[0] * shape[1] > _MAX_ENTRIES:
        raise ValueError(
            f"weights of shape {shape} have more than {_MAX_ENTRIES} entries, too many to hold "
            "dense; use a rule that draws its rows, or fewer neurons."
        )
    dense = given.toarray() if hasattr(given, "toarray") else given
    return Matrix(checked(jnp.asarray(dense), lambda x: x == x, "Weights must be finite."))
