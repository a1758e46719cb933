"""How far a partition or an order of neurons is a matter of chance in the recording."""

from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neurofield._types import PRNGKey
from neurofield.recording import Activity, Raster

from ._communities import Communities
from ._fiedler import FiedlerTree
from ._infer import InferredGraph
from ._infer_communities import InferredCommunities
from ._phenomenological_nulls import host_rng
from ._weights import GraphLike

Recording = Raster | Activity
Found = Communities | FiedlerTree | InferredCommunities


class Stability(eqx.Module):
    """What is left of a partition or a tree when the recording is drawn anew, `sample` times.

    **Attributes**

    - `full`: what the whole recording gives.
    - `co_assignment`: `[layer, node, node]`, the share of samples in which two nodes are in one
      community, or in one block at each depth of the tree (one layer for communities).
    - `rand_index`: `[sample, layer]`, adjusted Rand index to the whole recording's partition: 1 if
      it is the same, 0 on average if unrelated.
    - `kept`: `[sample, layer]`, the share of its pairs (in one community) that stay together.
    - `rank_correlation`: `[sample]`, of the order with the whole recording's, Spearman's, without
      its sign (an order read backwards is the same); `None` for communities.
    """

    full: Found
    co_assignment: Float[Array, "layer node node"]
    rand_index: Float[Array, "sample layer"]
    kept: Float[Array, "sample layer"]
    rank_correlation: Float[Array, " sample"] | None


def stability(
    key: PRNGKey,
    recording: Recording,
    graph_fn: Callable[[Recording], GraphLike | InferredGraph] | None,
    partition_fn: Callable[..., Found],
    *,
    block_duration: float | None = None,
    num_samples: int = 20,
) -> Stability:
    """Resample a recording, infer its graph anew, partition that anew (host only).

    A recording with leading axes is resampled by trials; one without in overlapping blocks of
    `block_duration` seconds (Kunsch 1989), which become epochs, so that no lag crosses their
    borders. Blocks must be much longer than the activity's memory.

    - `graph_fn(recording)`: a graph, such as `infer_graph`'s; `None` hands recordings to
      `partition_fn`.
    - `partition_fn(graph)`: `Communities`, `InferredCommunities` (neurons that are left out then
      count as communities of their own) or a `FiedlerTree`.

    Resampled data repeat some stretches and lack others, so that they tell slightly less than the
    recording: the spread over samples is that of a recording about as long, somewhat larger.

    Raises `ValueError` for blocks that are longer than the recording, a single trial, and fewer
    than two samples.
    """
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, got {num_samples}.")

    def partition(drawn: Recording) -> Found:
        graph = drawn if graph_fn is None else graph_fn(drawn)
        return partition_fn(graph.graph if isinstance(graph, InferredGraph) else graph)

    keys = jax.random.split(key, num_samples)
    draws = [_resample(host_rng(k), recording, block_duration) for k in keys]
    full = partition(recording)
    return _compare(full, [partition(drawn) for drawn in draws])


def _resample(
    rng: np.random.Generator, recording: Recording, block_duration: float | None
) -> Recording:
    name = "spikes" if isinstance(recording, Raster) else "values"
    values = np.asarray(getattr(recording, name))
    mask = None if recording.mask is None else np.asarray(recording.mask)
    num_bins = values.shape[-1]
    if values.ndim > 2:
        if block_duration is not None:
            raise ValueError("a recording of trials is resampled by trials, without blocks.")
        trials = values.reshape(-1, *values.shape[-2:])
        if len(trials) < 2:
            raise ValueError("a recording of a single trial must be [neuron, time], to use blocks.")
        drawn = rng.integers(len(trials), size=len(trials))
        values = trials[drawn]
        mask = None if mask is None else mask.reshape(-1, num_bins)[drawn]
    else:
        if block_duration is None:
            raise ValueError("a recording without trials needs a block_duration.")
        interval = (
            recording.bin_width if isinstance(recording, Raster) else recording.sample_interval
        )
        length = round(block_duration / interval)
        if not 1 <= length <= num_bins // 2:
            raise ValueError(
                "block_duration must be between one bin and half the recording, got "
                f"{block_duration} s, {length} of {num_bins} bins."
            )
        starts = rng.integers(num_bins - length + 1, size=round(num_bins / length))
        values = np.stack([values[:, a : a + length] for a in starts])
        mask = None if mask is None else np.stack([mask[a : a + length] for a in starts])
    mask = None if mask is None else jnp.asarray(mask)
    made = {name: jnp.asarray(values), "mask": mask}
    if isinstance(recording, Raster):
        made["start"] = None
    return replace(recording, **made)


def _compare(full: Found, draws: list[Found]) -> Stability:
    from sklearn.metrics import adjusted_rand_score

    truth = _layers(full)
    found = np.stack([_layers(draw) for draw in draws])
    together = found[..., None] == found[..., None, :]
    before = truth[..., None] == truth[..., None, :]
    pairs = before & ~np.eye(truth.shape[1], dtype=bool)
    kept = (together & pairs).sum((-2, -1)) / np.maximum(pairs.sum((-2, -1)), 1)
    kept[:, pairs.sum((-2, -1)) == 0] = 1
    index = [
        [adjusted_rand_score(a, b) for a, b in zip(truth, draw, strict=True)] for draw in found
    ]
    correlation = None
    if isinstance(full, FiedlerTree):
        place = np.argsort(np.asarray(full.order))
        trees = [np.asarray(draw.order) for draw in draws if isinstance(draw, FiedlerTree)]
        if len(place) > 1:
            # Of ranks without ties Spearman's coefficient is Pearson's.
            ranks = [abs(np.corrcoef(place, np.argsort(order))[0, 1]) for order in trees]
            correlation = jnp.asarray(ranks, float)
    return Stability(
        full,
        jnp.asarray(together.mean(0)),
        jnp.asarray(index, float),
        jnp.asarray(kept),
        correlation,
    )


def _layers(found: Found) -> Int[np.ndarray, "layer node"]:
    if isinstance(found, FiedlerTree):
        return np.asarray(found.layers)
    labels = np.asarray(found.labels)
    # Neurons that were left out are together with no other.
    alone = labels < 0
    labels = np.where(alone, labels.max(initial=0) + np.cumsum(alone), labels)
    return labels[None]
