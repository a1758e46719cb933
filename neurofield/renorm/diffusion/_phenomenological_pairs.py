"""Greedy pairing of units by their correlations, level by level; and the sums of a clustering."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neurofield.recording import Activity, Raster


class Pairing(NamedTuple):
    """Pairs of every step, and the covariances on which they were chosen (level 0 first)."""

    pairs: list[np.ndarray]  # [pair, 2]
    covariances: list[np.ndarray]  # [unit, unit]

    @property
    def assignments(self) -> tuple[np.ndarray, ...]:
        """The cluster that each unit of a level goes to; -1 for those left without a partner."""
        found = []
        for pairs, covariance in zip(self.pairs, self.covariances[:-1], strict=True):
            assignment = np.full(len(covariance), -1)
            assignment[pairs] = np.arange(len(pairs))[:, None]
            found.append(assignment)
        return tuple(found)

    @property
    def leaves(self) -> Int[np.ndarray, " unit"]:
        """The units below the clusters of the last level, in an order that keeps clusters whole.

        Cluster c of level l holds the c-th run of 2^l of them.
        """
        order = np.arange(len(self.covariances[-1]))
        for pairs in reversed(self.pairs):
            order = pairs[order].reshape(-1)
        return order


def greedy_pairs(covariance: Float[np.ndarray, "unit unit"]) -> Int[np.ndarray, "pair 2"]:
    """The most correlated pair, then the most correlated of the rest, and so on.

    Units of zero variance, which correlate with nothing, have no partner. Of equal correlations
    the first comes first.
    """
    scale = np.sqrt(np.diagonal(covariance))
    live = np.flatnonzero(scale > 0)
    scale = scale[live]
    correlation = covariance[np.ix_(live, live)] / scale[:, None] / scale[None]
    first, second = np.triu_indices(len(live), 1)
    order = np.argsort(-correlation[first, second], kind="stable")
    free = [True] * len(live)
    pairs = []
    for a, b in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if free[a] and free[b]:
            free[a] = free[b] = False
            pairs.append((a, b))
            if 2 * len(pairs) > len(live) - 2:
                break
    return live[np.array(pairs, int).reshape(-1, 2)]


def pair_levels(covariance: Float[np.ndarray, "unit unit"], num_levels: int) -> Pairing:
    """Pairs of `num_levels - 1` steps, each on the covariance of the sums that the last one made.

    The covariance of sums is that of their members, summed: no data are needed.
    """
    pairing = Pairing([], [covariance])
    for _ in range(num_levels - 1):
        covariance = pairing.covariances[-1]
        pairs = greedy_pairs(covariance)
        first, second = pairs.T
        rows = covariance[first] + covariance[second]
        pairing.pairs.append(pairs)
        pairing.covariances.append(rows[:, first] + rows[:, second])
    return pairing


def sum_units(data: Raster | Activity, assignment: Int[np.ndarray, " unit"]) -> Activity:
    """The activity of clusters: the sum of their units' at every time.

    `assignment[unit]` is the cluster of each unit, or -1 for a unit that is left out; an entry of
    `Flow.assignments`, or `Flow.members(level)`. Differentiable in the values of an `Activity`.
    """
    values = data.spikes if isinstance(data, Raster) else data.values
    if assignment.shape != values.shape[-2:-1]:
        raise ValueError(
            f"assignment must have one entry for each of {values.shape[-2]} units, got "
            f"{assignment.shape}."
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.result_type(float))
    count = int(np.max(assignment, initial=-1)) + 1
    step = data.bin_width if isinstance(data, Raster) else data.sample_interval
    return Activity(_sums(values, jnp.asarray(assignment), count), step, mask=data.mask)


def _sums(values: Float[Array, "*batch unit time"], assignment: Array, count: int) -> Array:
    by_unit = jnp.moveaxis(values, -2, 0)
    return jnp.moveaxis(jax.ops.segment_sum(by_unit, assignment, count), 0, -2)
