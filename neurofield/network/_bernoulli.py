"""Independent connections of given probabilities: Erdos-Renyi, clustered, spatial."""

import abc
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from neurofield._types import Arrayish

from ._block_statistics import BlockStatistics, exchangeable_statistics, independent_statistics
from ._connectivity import Connectivity, connected, without_self
from ._neuron import dtype_of
from ._weights import (
    Weight,
    WeightDistribution,
    as_weight,
    checked,
    sample_weight,
    weight_moments,
)

Profile: TypeAlias = Literal["gaussian", "exponential"]


class Bernoulli(Connectivity):
    """Each pair is connected independently, with a probability and a weight of its own."""

    weight: Weight
    autapses: bool = eqx.field(static=True)

    @abc.abstractmethod
    def chances(
        self, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> tuple[Float[Array, " pre"], Float[Array, " pre"]]:
        """Probability of a connection from each source to `post`, and factor of its weight."""

    def row(
        self, key: PRNGKeyArray, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> Float[Array, " pre"]:
        self.check(num_post, num_pre)
        dtype, key_pair, key_weight = dtype_of(self), *jax.random.split(key)
        probability, factor = self.chances(post, num_post, num_pre)
        weights = factor * sample_weight(self.weight, key_weight, (num_pre,), dtype)
        row = connected(key_pair, probability) * weights
        return row if self.autapses else without_self(row, post)

    def statistics(self, num_post: int, num_pre: int) -> BlockStatistics:
        self.check(num_post, num_pre)
        mean, variance = weight_moments(self.weight)

        def moments(post):
            probability, factor = self.chances(post, num_post, num_pre)
            one = _connection_moments(probability, factor * mean, factor**2 * variance)
            if self.autapses:
                return one
            return without_self(one[0], post), without_self(one[1], post)

        return independent_statistics(moments, num_post)


def _connection_moments(probability: Array, mean: Array, variance: Array) -> tuple[Array, Array]:
    """Mean and variance of a weight that is there with a probability, and else zero."""
    return probability * mean, probability * (variance + (1 - probability) * mean**2)


class ErdosRenyi(Bernoulli):
    """See `erdos_renyi`."""

    probability: Float[Array, "..."]

    def chances(
        self, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> tuple[Float[Array, " pre"], Float[Array, " pre"]]:
        ones = jnp.ones(num_pre, dtype_of(self))
        return self.probability * ones, ones

    def statistics(self, num_post: int, num_pre: int) -> BlockStatistics:
        self.check(num_post, num_pre)
        one = _connection_moments(self.probability, *weight_moments(self.weight))
        return exchangeable_statistics(*one, num_pre, autapses=self.autapses)


def erdos_renyi(
    probability: ArrayLike, weight: ArrayLike | WeightDistribution, *, autapses: bool = True
) -> ErdosRenyi:
    """Each pair is connected with `probability`, independently, with `weight`.

    `weight` is a number or a distribution of independent weights. Raises `ValueError` for a
    probability outside [0, 1]; `TypeError` when the drawn weights are differentiated with respect
    to it.
    """
    return ErdosRenyi(as_weight(weight), bool(autapses), _probability(probability))


def _probability(value: ArrayLike) -> Array:
    return checked(value, lambda p: (p >= 0) & (p <= 1), "A probability must lie in [0, 1].")


class Clustered(Bernoulli):
    """See `clustered`."""

    num_clusters: int = eqx.field(static=True)
    probability: Float[Array, "..."]
    ratio: Float[Array, "..."]
    weight_factor: Float[Array, "..."]

    def chances(
        self, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> tuple[Float[Array, " pre"], Float[Array, " pre"]]:
        outside, inside = _cluster_probabilities(self.probability, self.ratio, self.num_clusters)
        own = jnp.asarray(cluster_labels(num_post, self.num_clusters))[post]
        same = jnp.asarray(cluster_labels(num_pre, self.num_clusters)) == own
        return jnp.where(same, inside, outside), jnp.where(same, self.weight_factor, 1)


def _cluster_probabilities(probability: Array, ratio: Array, num: int) -> tuple[Array, Array]:
    outside = probability * num / (num - 1 + ratio)
    return outside, ratio * outside


def cluster_labels(num_neurons: int, num_clusters: int) -> np.ndarray:
    """The cluster of each neuron, `[num_neurons]`: contiguous, sizes differing by one at most.

    Raises `ValueError` unless there are 1 to `num_neurons` clusters.
    """
    if not 1 <= num_clusters <= num_neurons:
        raise ValueError(
            f"num_clusters must be between 1 and the {num_neurons} neurons, got {num_clusters}."
        )
    return (np.arange(num_neurons) * num_clusters // num_neurons).astype(np.int32)


def clustered(
    num_clusters: int,
    probability: ArrayLike,
    weight: ArrayLike | WeightDistribution,
    *,
    ratio: ArrayLike = 1.0,
    weight_factor: ArrayLike = 1.0,
    autapses: bool = True,
) -> Clustered:
    """Connections more probable, and stronger, within clusters than between them.

    `ratio` is the probability within a cluster over that between clusters, `probability` their
    average over all pairs of equal clusters: p_out = p C / (C - 1 + ratio), p_in = ratio p_out.
    Weights within clusters are multiplied by `weight_factor`. Neurons of a cluster are contiguous
    (`cluster_labels`), in the targets and in the sources. After Litwin-Kumar and Doiron (2012).

    Raises `ValueError` for a probability outside [0, 1], also within clusters, a negative ratio,
    and more clusters than neurons.
    """
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be at least 1, got {num_clusters}.")
    rule = Clustered(
        as_weight(weight),
        bool(autapses),
        int(num_clusters),
        _probability(probability),
        checked(ratio, lambda x: x >= 0, "The ratio must be finite and not negative."),
        checked(weight_factor, lambda x: x == x, "The weight factor must be finite."),
    )
    for value in _cluster_probabilities(rule.probability, rule.ratio, rule.num_clusters):
        message = "The probabilities within and between clusters must lie in [0, 1]."
        checked(value, lambda p: p <= 1, message)
    return rule


class Spatial(Bernoulli):
    """See `spatial`."""

    probability: Float[Array, "..."]
    width: Float[Array, "..."]
    places: tuple[Float[Array, "post dimension"], Float[Array, "pre dimension"]] | None
    profile: Profile = eqx.field(static=True)
    dimensions: int = eqx.field(static=True)

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        if self.places is None:
            return None, None
        return self.places[0].shape[0], self.places[1].shape[0]

    def chances(
        self, post: Int[Array, ""] | int, num_post: int, num_pre: int
    ) -> tuple[Float[Array, " pre"], Float[Array, " pre"]]:
        if self.places is None:
            grids = [grid_positions(n, self.dimensions) for n in (num_post, num_pre)]
            targets, sources = (jnp.asarray(grid, self.width.dtype) for grid in grids)
        else:
            targets, sources = self.places
        apart = sources - targets[post][None]
        square = jnp.sum((apart - jnp.round(apart)) ** 2, axis=1)
        if self.profile == "gaussian":
            profile = jnp.exp(-square / (2 * self.width**2))
        else:
            profile = jnp.exp(-jnp.sqrt(square) / self.width)
        return self.probability * profile, jnp.ones_like(profile)


def grid_positions(num_neurons: int, dimensions: int = 1) -> np.ndarray:
    """Positions `[num_neurons, dimensions]` in [0, 1) of neurons on a regular ring or torus.

    In two dimensions neuron i is at (i // side, i % side) / side. Raises `ValueError` where
    `num_neurons` is then not a square, and for other dimensions than 1 and 2.
    """
    if dimensions not in (1, 2):
        raise ValueError(f"dimensions must be 1 or 2, got {dimensions}.")
    side = num_neurons if dimensions == 1 else math.isqrt(num_neurons)
    if side**dimensions != num_neurons:
        raise ValueError(
            f"a grid in two dimensions needs a square number of neurons, got {num_neurons}; give "
            "positions instead."
        )
    return np.stack(np.unravel_index(np.arange(num_neurons), (side,) * dimensions), 1) / side


def spatial(
    probability: ArrayLike,
    width: ArrayLike,
    weight: ArrayLike | WeightDistribution,
    *,
    profile: str = "gaussian",
    dimensions: int = 1,
    positions: Sequence[Arrayish] | None = None,
    autapses: bool = True,
) -> Spatial:
    """Connections whose probability falls with the distance d on a ring or torus.

    It is `probability` times exp(-d^2 / (2 width^2)) or, with `profile="exponential"`,
    exp(-d / width). Each coordinate is periodic in [0, 1), so `width` is a share of the
    circumference; d is the shortest way. Neurons are on a grid (`grid_positions`), or at
    `positions`, a pair `[num_post, dimension]`, `[num_pre, dimension]` (random ones are
    `jax.random.uniform`), which also sets `dimensions`.

    Raises `ValueError` for a probability outside [0, 1], a width that is not positive, and
    positions of other shapes or outside [0, 1].
    """
    if profile not in ("gaussian", "exponential"):
        raise ValueError(f"profile must be 'gaussian' or 'exponential', got {profile!r}.")
    places = None
    if positions is not None:
        message = "Positions must lie in [0, 1]."
        targets, sources = (
            checked(jnp.asarray(x), lambda x: (x >= 0) & (x <= 1), message) for x in positions
        )
        if targets.ndim != 2 or sources.ndim != 2 or targets.shape[1] != sources.shape[1]:
            raise ValueError(
                "positions must be [num_post, dimension] and [num_pre, dimension], got shapes "
                f"{targets.shape} and {sources.shape}."
            )
        places, dimensions = (targets, sources), targets.shape[1]
    if dimensions not in (1, 2):
        raise ValueError(f"dimensions must be 1 or 2, got {dimensions}.")
    width = checked(width, lambda x: x > 0, "The width must be positive and finite.")
    return Spatial(
        as_weight(weight),
        bool(autapses),
        _probability(probability),
        width,
        places,
        profile,
        int(dimensions),
    )
