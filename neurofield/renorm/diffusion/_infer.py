"""infer_graph: who acts on whom, from what neurons did."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from neurofield._types import PRNGKey
from neurofield.recording import Activity, Graph, Raster

from ._correlation import CorrelationStatistics
from ._linear import partial_correlation, var_graph, whitened_graph
from ._significance import circular_shift, significance

Recording = Raster | Activity

LINEAR = ("lagged", "var", "whitened", "partial")
# Whole numbers below this are exact in float32, and so are sums that stay below it.
_EXACT = 2**24


class InferredGraph(eqx.Module):
    """Who acts on whom, as inferred from a recording.

    **Attributes**

    - `graph`: without self-connections; where significance was tested, without pairs that failed.
    - `score`: `[post, pre]`, of all pairs. Its diagonal is a neuron's effect on itself.
    - `p_value`, `significant`: `[post, pre]`, or None if not tested; the diagonal is not tested
      (1 and False), nor are neurons that do not vary.
    - `method`, `notes`, `provenance`: static; what it has to say of the data, and the settings.
    """

    graph: Graph
    score: Float[Array, "post pre"]
    p_value: Float[Array, "post pre"] | None
    significant: Bool[Array, "post pre"] | None
    method: str = eqx.field(static=True)
    notes: tuple[str, ...] = eqx.field(static=True, default=())
    provenance: tuple[tuple[str, str], ...] = eqx.field(static=True, default=())


def infer_graph(
    recording: Recording | Iterable[Recording],
    method: str = "var",
    *,
    num_lags: int | None = None,
    lag_weights: Sequence[float] | None = None,
    shrink: float = 0.02,
    window: float = 0.005,
    key: PRNGKey | None = None,
    num_surrogates: int = 0,
    alternative: str = "two-sided",
    false_discovery: float = 0.05,
) -> InferredGraph:
    """Infer a graph of neurons from their activity (host only).

    C_l is the correlation of x_i(t + l) with x_j(t) (`lagged_correlation`), post before pre, and
    C_0^e = (1 - `shrink`) C_0 + `shrink` I.

    **Methods**

    - `"lagged"`: sum over l = 1..`num_lags` (3) of `lag_weights` (1) C_l.
    - `"var"`: C_1 (C_0^e)^-1, a first-order vector autoregression.
    - `"whitened"`: (C_0^e)^-1/2 C_1 (C_0^e)^-1/2.
    - `"partial"`: partial correlation of counts (of means, for an `Activity`) in windows of
      `window` seconds, or one bin if that is longer: undirected, a baseline like FARCI
      (Meamardoost et al. 2021).

    **Arguments**

    - `recording`: leading axes are trials or epochs; no lag crosses their borders or an invalid
      bin. An iterator gives chunks of one recording `[neuron, time]`, one after the other, of any
      length and never held together; a chunk whose `start` is known to lie elsewhere than at the
      last one's end begins a new stretch.
    - `num_surrogates`: test each pair against so many surrogates (at least 10; 0: no test), drawn
      with `key`. All presynaptic trains are shifted in a circle against the postsynaptic ones, by
      a common offset within each stretch of valid bins: rates, autocorrelations and the zero-lag
      correlations of the presynaptic neurons stay, so that correlated inputs do not pass for
      effects; every lagged relation goes. (For `"partial"`, which has no sides, each train is
      shifted by itself.) Scores are compared in units of the surrogates' spread, a pair's own
      moderated by that of its row and column (Smyth 2004), with the surrogates of all pairs.
    - `alternative`: `"two-sided"`, `"greater"` (excitation) or `"less"` (inhibition).
    - `false_discovery`: rate at which Benjamini and Hochberg (1995) call pairs significant.

    Raises `ValueError` for arguments that do not go together and a recording that is too short. A
    neuron that does not vary has score 0, and a note says so.
    """
    lags, weights = _lags(method, num_lags, lag_weights)
    if not 0 <= shrink <= 1:
        raise ValueError(f"shrink must be in [0, 1], got {shrink}.")
    whole = recording if isinstance(recording, Raster | Activity) else None
    _check_test(whole, key, num_surrogates, alternative, false_discovery)
    if method == "partial":
        if whole is not None:
            whole = recording = _windowed(whole, window)
        else:
            recording = (_windowed(chunk, window) for chunk in recording)  # type: ignore[union-attr]
    statistics, labels, dtype = accumulate(recording, lags)
    with jax.enable_x64(True):
        active = np.asarray(statistics.active)
    zero_lag = method in ("var", "whitened", "partial")
    correlation = _correlation(statistics, 0, dtype) if zero_lag else None
    lagged = [_correlation(statistics, index, dtype) for index in range(zero_lag, len(lags))]
    del statistics
    score_of = partial(_score, method, correlation, weights, shrink)
    score = score_of(lagged)
    del lagged
    if not bool(jnp.all(jnp.isfinite(score))):
        raise ValueError(
            f"the zero-lag correlation with shrink = {shrink} is not positive definite: neurons "
            "repeat each other, or there are more neurons than bins. Raise shrink."
        )
    p_value = significant = None
    if num_surrogates and whole is not None:
        surrogate_scores = np.stack(
            [
                np.asarray(_surrogate(k, whole, lags, dtype, score_of, method))
                for k in jax.random.split(key, num_surrogates)
            ]
        )
        tested = active[:, None] & active[None] & ~np.eye(len(active), dtype=bool)
        if method == "partial":
            tested = np.tril(tested)
        found = significance(
            np.asarray(score), surrogate_scores, tested, alternative, false_discovery
        )
        if method == "partial":
            found = np.minimum(found[0], found[0].T), found[1] | found[1].T
        p_value, significant = jnp.asarray(found[0], dtype), jnp.asarray(found[1])
    return InferredGraph(
        Graph(_edges(score, significant), labels=labels),
        score,
        p_value,
        significant,
        method,
        notes=_notes(active, labels),
        provenance=(
            ("method", method),
            ("lags", str(lags)),
            ("shrink", repr(float(shrink))),
            ("num_surrogates", str(num_surrogates)),
            ("alternative", alternative),
            ("false_discovery", repr(float(false_discovery))),
        ),
    )


def accumulate(
    recording: Recording | Iterable[Recording], lags: Sequence[int], shifted: Any = None
) -> tuple[CorrelationStatistics, tuple[str, ...], Any]:
    """Statistics in float64, the labels, and the dtype that results are to have (host only).

    `shifted` holds surrogate values of the earlier bins of a whole recording.
    """
    chunks = [recording] if isinstance(recording, Raster | Activity) else recording
    default = jnp.result_type(float)
    # Sums over 10^6 bins and more are added up in float64, whatever the products are formed in.
    with jax.enable_x64(True):
        statistics, labels, dtype, expected = None, (), None, None
        for chunk in chunks:
            values, interval = _values(chunk)
            if statistics is None:
                labels, dtype = chunk.labels, values.dtype
                if isinstance(chunk, Raster):
                    dtype = default
                origin = None if isinstance(chunk, Raster) else _mean(values, chunk.mask)
                statistics = CorrelationStatistics.init(
                    values.shape[-2], lags, origin=origin, dtype=jnp.float64
                )
            elif chunk.labels != labels:
                raise ValueError("all chunks must be of the same neurons, with the same labels.")
            start = None if isinstance(chunk, Activity) else chunk.start
            if values.ndim > 2 or not _follows(expected, start, interval):
                statistics = statistics.restart()
            statistics = _absorb(statistics, values, chunk.mask, shifted)
            end = values.shape[-1] * interval
            expected = None if start is None or values.ndim > 2 else float(start) + end
    if statistics is None:
        raise ValueError("the recording has no chunks.")
    pairs = np.asarray(statistics.pairs)
    if pairs.min() < 2:
        raise ValueError(
            f"the recording is too short: lags {statistics.lags} have {pairs.tolist()} pairs of "
            "bins. Take longer trials or fewer lags."
        )
    return statistics, labels, dtype


def _lags(
    method: str, num_lags: int | None, lag_weights: Sequence[float] | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if method not in LINEAR:
        raise ValueError(f"method must be one of {', '.join(LINEAR)}, got {method!r}.")
    if method == "lagged":
        if num_lags is None:
            num_lags = 3 if lag_weights is None else len(lag_weights)
        weights = (1.0,) * num_lags if lag_weights is None else tuple(map(float, lag_weights))
        if num_lags < 1 or len(weights) != num_lags or min(weights) < 0:
            raise ValueError(
                "lagged needs num_lags >= 1 and as many lag_weights, none negative, got "
                f"{num_lags} and {weights}."
            )
        return tuple(range(1, num_lags + 1)), weights
    if lag_weights is not None or num_lags not in (None, 0 if method == "partial" else 1):
        raise ValueError(f"num_lags and lag_weights are for method='lagged', not {method!r}.")
    return ((0,) if method == "partial" else (0, 1)), (1.0,)


def _check_test(
    whole: Recording | None,
    key: PRNGKey | None,
    num_surrogates: int,
    alternative: str,
    false_discovery: float,
) -> None:
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(
            f"alternative must be 'two-sided', 'greater' or 'less', got {alternative!r}."
        )
    if not 0 < false_discovery < 1:
        raise ValueError(f"false_discovery must be in (0, 1), got {false_discovery}.")
    if num_surrogates == 0:
        return
    if num_surrogates < 10:
        raise ValueError(f"num_surrogates must be 0 or at least 10, got {num_surrogates}.")
    if key is None:
        raise ValueError("surrogates are drawn at random: pass key=jax.random.key(seed).")
    if whole is None:
        raise ValueError("surrogates need the whole recording at once, not an iterator of chunks.")


def _values(chunk: Recording) -> tuple[Array, float]:
    if isinstance(chunk, Raster):
        return chunk.spikes, chunk.bin_width
    return chunk.values, chunk.sample_interval


def _mean(values: Array, mask: Array | None) -> Array:
    if mask is not None:
        values = jnp.where(mask[..., None, :], values, 0)
    axes = (*range(values.ndim - 2), values.ndim - 1)
    total = jnp.sum(values, axis=axes, dtype=jnp.float64)
    bins = values.size // values.shape[-2] if mask is None else int(jnp.sum(mask))
    return total / max(bins, 1)


def _follows(expected: float | None, start: Any, interval: float) -> bool:
    if expected is None or start is None:
        return True
    return abs(float(start) - expected) < interval / 2


def _absorb(
    statistics: CorrelationStatistics, values: Array, mask: Array | None, shifted: Array | None
) -> CorrelationStatistics:
    """All of an array, in blocks of time or of epochs."""
    *batch, num_neurons, num_bins = values.shape
    flat = [None if x is None else x.reshape(-1, *x.shape[len(batch) :]) for x in (values, shifted)]
    values, shifted = flat
    mask = jnp.ones((len(values), num_bins), bool) if mask is None else mask.reshape(-1, num_bins)
    # Blocks of some 100 MB at most, short enough for exact sums of whole numbers.
    size = int(np.clip(2**25 // num_neurons, 512, 8192))
    if not jnp.issubdtype(values.dtype, jnp.floating):
        size = max(min(size, _EXACT // max(int(jnp.max(values, initial=0)), 1) ** 2), 1)
    per_block = max(size // max(num_bins, 1), 1)
    for epoch in range(0, len(values), per_block):
        num_epochs = min(per_block, len(values) - epoch)
        if batch:
            statistics = statistics.restart()
        for begin in range(0, num_bins, size):
            # Products apart from the rest, since they alone are worth updating in place.
            rest = eqx.tree_at(lambda s: s.products, statistics, None)
            products, rest = _update(
                statistics.products,
                rest,
                *(values, mask, shifted),
                np.array([epoch, begin], np.int32),
                sizes=(num_epochs, min(size, num_bins - begin)),
                continues=num_epochs == 1,
            )
            statistics = _with_products(rest, products)
    return statistics


@partial(jax.jit, static_argnames=("sizes", "continues"), donate_argnums=0)
def _update(products, rest, values, mask, shifted, first, *, sizes, continues):
    def block(x: Array) -> Array:
        for axis, size in ((0, sizes[0]), (x.ndim - 1, sizes[1])):
            x = jax.lax.dynamic_slice_in_dim(x, first[min(axis, 1)], size, axis)
        return x[0] if continues else x

    statistics = _with_products(rest, products).update(
        block(values), block(mask), earlier=None if shifted is None else block(shifted)
    )
    return statistics.products, eqx.tree_at(lambda s: s.products, statistics, None)


def _with_products(rest: Any, products: Array) -> CorrelationStatistics:
    return eqx.tree_at(lambda s: s.products, rest, products, is_leaf=lambda x: x is None)


def _correlation(statistics: CorrelationStatistics, index: int, dtype: Any) -> Array:
    with jax.enable_x64(True):
        return _cast_correlation(statistics, index, np.dtype(dtype))


@partial(jax.jit, static_argnums=(1, 2))
def _cast_correlation(statistics: CorrelationStatistics, index: int, dtype: np.dtype) -> Array:
    return statistics.correlation(index).astype(dtype)


@partial(jax.jit, static_argnums=0)
def _score(
    method: str, correlation: Any, weights: tuple[float, ...], shrink: float, lagged: list[Array]
) -> Array:
    if method == "lagged":
        return sum((c * w for c, w in zip(lagged, weights, strict=True)), 0 * lagged[0])
    if method == "partial":
        return partial_correlation(correlation, shrink)
    return {"var": var_graph, "whitened": whitened_graph}[method](correlation, lagged[0], shrink)


def _surrogate(
    key: PRNGKey, whole: Recording, lags: Sequence[int], dtype: Any, score_of: Any, method: str
) -> Array:
    values, _ = _values(whole)
    if method == "partial":
        shifted = circular_shift(key, values, whole.mask, common=False)
        moved = accumulate(_replaced(whole, shifted), lags)[0]
        return _score(method, _correlation(moved, 0, dtype), (1.0,), score_of.args[3], [])
    shifted = circular_shift(key, values, whole.mask, common=True)
    lags = [lag for lag in lags if lag > 0]
    moved = accumulate(whole, lags, shifted)[0]
    return score_of([_correlation(moved, index, dtype) for index in range(len(lags))])


def _replaced(whole: Recording, values: Array) -> Recording:
    if isinstance(whole, Raster):
        return replace(whole, spikes=values)
    return replace(whole, values=values)


def _windowed(recording: Recording, window: float) -> Recording:
    """Counts (of an `Activity`, means) in windows of whole bins, cut at the ends of epochs."""
    values, interval = _values(recording)
    size = max(round(window / interval), 1)
    if window > interval and abs(size * interval - window) > 1e-6 * window:
        raise ValueError(
            f"window = {window} s must be a whole number of bins of {interval} s, or less than one."
        )
    if size == 1:
        return recording
    kept = values.shape[-1] // size
    if kept == 0:
        raise ValueError(f"the recording is too short for windows of {size} bins.")
    groups = values[..., : kept * size].reshape(*values.shape[:-1], kept, size)
    mask = recording.mask
    if mask is not None:
        mask = jnp.all(mask[..., : kept * size].reshape(*mask.shape[:-1], kept, size), axis=-1)
    if isinstance(recording, Activity):
        mean = jnp.mean(groups, axis=-1)
        return Activity(mean, size * interval, mask=mask, labels=recording.labels)
    counts = jnp.sum(groups, axis=-1, dtype=jnp.int32)
    if int(jnp.max(counts, initial=0)) > 255:
        raise ValueError(f"a window of {window} s holds more than 255 spikes: take a shorter one.")
    return replace(recording, spikes=counts.astype(jnp.uint8), bin_width=size * interval, mask=mask)


def _edges(score: Array, significant: Array | None) -> Array:
    kept = ~jnp.eye(len(score), dtype=bool)
    return jnp.where(kept if significant is None else kept & significant, score, 0)


def _notes(active: np.ndarray, labels: Sequence[str]) -> tuple[str, ...]:
    silent = [label for label, varies in zip(labels, active, strict=True) if not varies]
    if not silent:
        return ()
    named = ", ".join(silent[:10]) + (", ..." if len(silent) > 10 else "")
    return (f"{len(silent)} neurons do not vary and have score 0: {named}.",)
