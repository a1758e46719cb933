"""What hiding neurons does to an inferred graph."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from neurofield._types import PRNGKey
from neurofield.recording import Activity, Raster

from ._infer import infer_graph
from ._weights import GraphLike, weights_of


class Subsampling(eqx.Module):
    """Graphs inferred from random subsets of the neurons, beside the graph of all; printable.

    **Attributes** (`[fraction, repeat]`, None where there was nothing to compare with)

    - `fractions`: `[fraction]`, of the neurons that were kept.
    - `correlation`: of the scores of surviving pairs with their scores when all are seen.
    - `auc`: area under the curve of |score| for the edges of the truth, or of those that are
      significant when all neurons are seen: the chance that an edge scores above a non-edge.
    - `rand_index`: adjusted Rand index of communities with those of the full graph, restricted to
      the neurons that were kept.
    """

    fractions: Float[np.ndarray, " fraction"]
    correlation: Float[np.ndarray, "fraction repeat"]
    auc: Float[np.ndarray, "fraction repeat"] | None
    rand_index: Float[np.ndarray, "fraction repeat"] | None

    def __str__(self) -> str:
        columns = {
            "score correlation": self.correlation,
            "AUC of edges": self.auc,
            "ARI of communities": self.rand_index,
        }
        columns = {name: x for name, x in columns.items() if x is not None}
        lines = ["kept    " + "  ".join(f"{name:>18}" for name in columns)]
        for row, fraction in enumerate(self.fractions):
            cells = (f"{x[row].mean():.3f} +- {x[row].std():.3f}" for x in columns.values())
            lines.append(f"{fraction:6.1%}  " + "  ".join(f"{cell:>18}" for cell in cells))
        return "\n".join(lines)


def subsampling(
    key: PRNGKey,
    recording: Raster | Activity,
    fractions: Sequence[float] = (0.5, 0.25),
    *,
    num_repeats: int = 3,
    truth: GraphLike | None = None,
    communities_fn: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Subsampling:
    """What hiding neurons does to edges and to communities (host only).

    `options` are those of `infer_graph`, `method` among them. `truth` is a graph whose non-zero
    weights are the edges, if they are known. `communities_fn(graph)` returns a label for each node,
    or an object with `labels`. Raises `ValueError` for fractions that keep fewer than 3 neurons.
    """
    from sklearn.metrics import adjusted_rand_score, roc_auc_score

    num_neurons = len(recording.labels)
    kept = [round(num_neurons * float(fraction)) for fraction in fractions]
    if not kept or min(kept) < 3 or max(kept) > num_neurons or num_repeats < 1:
        raise ValueError(
            f"fractions must keep 3 to {num_neurons} neurons and num_repeats be at least 1, got "
            f"{list(fractions)} and {num_repeats}."
        )
    full = infer_graph(recording, **options)
    score, edges = np.asarray(full.score), None
    if truth is not None:
        edges = np.asarray(weights_of(truth)) != 0
    elif full.significant is not None:
        edges = np.asarray(full.significant)
    parts = None if communities_fn is None else _labels(communities_fn(full.graph))
    found = np.full((3, len(kept), num_repeats), np.nan)
    for row, count in enumerate(kept):
        for repeat, k in enumerate(jax.random.split(jax.random.fold_in(key, row), num_repeats)):
            seen = np.sort(np.asarray(jax.random.permutation(k, num_neurons))[:count])
            graph = infer_graph(_restricted(recording, seen), **options)
            pairs = ~np.eye(count, dtype=bool)
            among = np.ix_(seen, seen)
            new, old = np.asarray(graph.score)[pairs], score[among][pairs]
            if new.std() > 0 and old.std() > 0:
                found[0, row, repeat] = np.corrcoef(new, old)[0, 1]
            if edges is not None and 0 < edges[among][pairs].mean() < 1:
                found[1, row, repeat] = roc_auc_score(edges[among][pairs], np.abs(new))
            if communities_fn is not None and parts is not None:
                labels = _labels(communities_fn(graph.graph))
                found[2, row, repeat] = adjusted_rand_score(parts[seen], labels)
    return Subsampling(
        np.asarray(fractions, float),
        found[0],
        None if edges is None else found[1],
        None if parts is None else found[2],
    )


def _labels(found: Any) -> np.ndarray:
    return np.asarray(getattr(found, "labels", found))


def _restricted(recording: Raster | Activity, seen: np.ndarray) -> Raster | Activity:
    labels = tuple(recording.labels[i] for i in seen)
    if isinstance(recording, Activity):
        return replace(recording, values=recording.values[..., seen, :], labels=labels)
    populations = None if recording.populations is None else recording.populations[seen]
    spikes = recording.spikes[..., seen, :]
    return replace(recording, spikes=spikes, labels=labels, populations=populations)
