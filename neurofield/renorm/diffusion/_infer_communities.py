"""Communities straight from activity, where few of the neurons are observed."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neurofield._types import Arrayish, PRNGKey
from neurofield.recording import Activity, Raster

from ._communities import Communities, communities
from ._phenomenological_nulls import flat, stretches

_TIMES = (2, 4, 8, 16, 32, 64)  # bins
_CHUNK = 8192  # bins that are filtered at a time


class InferredCommunities(eqx.Module):
    """Communities of neurons, as inferred from a recording.

    **Attributes**

    - `labels`: `[neuron]`, int32; -1 for neurons that were left out.
    - `communities`: the partition of the others.
    - `score`: `[post, pre]`, of all neurons, at the time constant that was chosen.
    - `time_constants`: `[time]`, seconds, those tried; `time_constant` the one chosen.
    - `evidence`: `[time]`, nats, of communities over a single one.
    """

    labels: Int[Array, " neuron"]
    communities: Communities
    score: Float[Array, "post pre"]
    time_constants: Float[np.ndarray, " time"]
    evidence: Float[np.ndarray, " time"]
    time_constant: float = eqx.field(static=True)


def infer_communities(
    key: PRNGKey,
    recording: Raster | Activity,
    *,
    num_communities: int | None = None,
    neurons: str | Arrayish = "all",
    time_constants: Sequence[float] | None = None,
    num_starts: int = 10,
) -> InferredCommunities:
    """Communities of neurons from their activity, also where most are not recorded (host only).

    The score of a pair is the correlation of neuron i with the fading past of neuron j,
    sum over l >= 1 of e^{-l dt / tau} C_l[i, j] (`fading_correlation`), the block model
    (`communities`) makes communities of the scores of all pairs, and tau is the one whose scores
    give it the most evidence: no labels, and no threshold on edges, enter anywhere.

    Unobserved neurons take away most edges of a community but not its correlated activity: they
    feed its members, over the time that their membranes and the loops between them remember. That
    is more than the lag or two where the edges themselves show.

    **Arguments**

    - `num_communities`: by default the number of most evidence, possibly 1.
    - `neurons`: those to partition: `"all"`, `"excitatory"` (whose scores on all others, at the
      shortest time constant, sum to more than 0) or a mask or indices `[neuron]`. Neurons of
      opposite effect hide the communities of each other.
    - `time_constants`: seconds, to choose from; by default 2, 4, ..., 64 bins.

    Raises `ValueError` as `fading_correlation` and `communities` do, and for fewer than 4 neurons.
    """
    interval = recording.bin_width if isinstance(recording, Raster) else recording.sample_interval
    if time_constants is None:
        time_constants = [bins * interval for bins in _TIMES]
    times = np.asarray(time_constants, float)
    scores = fading_correlation(recording, times)
    chosen = _chosen(neurons, scores[int(np.argmin(times))])
    if len(chosen) < 4:
        raise ValueError(f"communities need at least 4 neurons, got {len(chosen)}.")
    found = [
        communities(
            key,
            score[np.ix_(chosen, chosen)],
            "block_model",
            num_communities=num_communities,
            num_starts=num_starts,
        )
        for score in scores
    ]
    evidence = np.array([float(f.quality) for f in found])
    best = int(np.argmax(evidence))
    labels = np.full(scores.shape[-1], -1)
    labels[chosen] = np.asarray(found[best].labels)
    dtype = recording.values.dtype if isinstance(recording, Activity) else jnp.result_type(float)
    return InferredCommunities(
        jnp.asarray(labels, jnp.int32),
        found[best],
        jnp.asarray(scores[best], dtype),
        times,
        evidence,
        float(times[best]),
    )


def fading_correlation(
    recording: Raster | Activity, time_constants: Sequence[float] | Float[np.ndarray, " time"]
) -> Float[np.ndarray, "time post pre"]:
    """Correlation of x_i(t) with the past of x_j, fading with each time constant (host only).

    sum over l >= 1 of g^l C_l, g = e^{-dt / tau}, in units of the spread sqrt(g^2 / (1 - g^2)) that
    white activity gives the filtered past. No past reaches over an invalid bin or from one epoch
    into the next. 0 for a neuron that does not vary. Raises `ValueError` for times that are not
    positive and recordings of fewer than two valid bins.
    """
    from scipy.signal import lfilter

    interval = recording.bin_width if isinstance(recording, Raster) else recording.sample_interval
    times = np.asarray(time_constants, float)
    if not (times.ndim == 1 and len(times) and np.isfinite(times).all() and (times > 0).all()):
        raise ValueError(f"time_constants must be positive numbers of seconds, got {times}.")
    values, masks = flat(recording)
    count = int(masks.sum())
    if count < 2:
        raise ValueError(f"a correlation needs at least two valid bins, got {count}.")
    runs = stretches(masks)
    mean, square = np.zeros((2, values.shape[1]))
    for epoch, first, stop in runs:
        mean = mean + values[epoch, :, first:stop].sum(1, dtype=float) / count
    for epoch, first, stop in runs:
        square = square + ((values[epoch, :, first:stop] - mean[:, None]) ** 2).sum(1) / count
    spread = np.sqrt(square)
    # Rounding of the mean leaves a neuron that never changes with some spread.
    epoch, start, _ = runs[0]
    first = values[epoch, :, start, None]
    still = (spread == 0) | np.all(
        [(values[e, :, a:b] == first).all(1) for e, a, b in runs], axis=0
    )
    scale = np.where(still, 0, 1 / np.where(still, 1, spread))
    fade = np.exp(-interval / times)
    total = np.zeros((len(times), len(mean), len(mean)))
    for epoch, first, stop in runs:
        state = [np.zeros((len(mean), 1)) for _ in fade]
        for start in range(first, stop, _CHUNK):
            part = values[epoch, :, start : min(start + _CHUNK, stop)]
            part = (part - mean[:, None]) * scale[:, None]
            for index, g in enumerate(fade):
                past, state[index] = lfilter([0, g], [1, -g], part, axis=1, zi=state[index])
                total[index] += part.astype(np.float32) @ past.T.astype(np.float32)
    return total / count / np.sqrt(fade**2 / (1 - fade**2))[:, None, None]


def _chosen(neurons: str | Arrayish, fast: np.ndarray) -> Int[np.ndarray, " chosen"]:
    if isinstance(neurons, str):
        if neurons not in ("all", "excitatory"):
            raise ValueError(
                f'neurons must be "all", "excitatory", a mask or indices, got {neurons!r}.'
            )
        outgoing = fast.sum(0) - np.diag(fast)
        return np.flatnonzero(outgoing > 0) if neurons == "excitatory" else np.arange(len(fast))
    chosen = np.asarray(neurons)
    if chosen.dtype == bool and chosen.shape == (len(fast),):
        return np.flatnonzero(chosen)
    inside = chosen.ndim == 1 and chosen.dtype.kind in "iu" and chosen.size > 0
    if not (inside and chosen.min() >= 0 and chosen.max() < len(fast)):
        raise ValueError(f"neurons must be a mask or indices of {len(fast)} neurons, got {chosen}.")
    return np.unique(chosen)
