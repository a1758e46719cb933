"""Lagged correlations of recordings, whole or in chunks, block by block."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from neurofield.recording import Activity, Raster

from ._correlation import CorrelationStatistics

Recording = Raster | Activity

# Whole numbers below this are exact in float32, and so are sums that stay below it.
_EXACT = 2**24


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
            values, interval = values_of(chunk)
            if isinstance(recording, Recording) and values.shape[-1] <= lags[-1]:
                bins = values.shape[-1]
                raise ValueError(f"the recording is too short: {bins} bins for {lags[-1]} lags.")
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


def values_of(chunk: Recording) -> tuple[Array, float]:
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
    values = values.reshape(-1, num_neurons, num_bins)
    shifted = None if shifted is None else shifted.reshape(values.shape)
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


def correlation_of(statistics: CorrelationStatistics, index: int, dtype: Any) -> Array:
    with jax.enable_x64(True):
        return _cast_correlation(statistics, index, np.dtype(dtype))


@partial(jax.jit, static_argnums=(1, 2))
def _cast_correlation(statistics: CorrelationStatistics, index: int, dtype: np.dtype) -> Array:
    return statistics.correlation(index).astype(dtype)


def with_values(whole: Recording, values: Array) -> Recording:
    if isinstance(whole, Raster):
        return replace(whole, spikes=values)
    return replace(whole, values=values)


def windowed(recording: Recording, window: float) -> Recording:
    """Counts (of an `Activity`, means) in windows of whole bins, cut at the ends of epochs."""
    values, interval = values_of(recording)
    size = _bins(window, interval)
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


def windowed_chunks(chunks: Iterable[Recording], window: float) -> Iterator[Recording]:
    """`windowed`, where a window runs on from a chunk into the one that follows on it."""
    left, some = None, False
    for chunk in chunks:
        if left is not None and left.labels != chunk.labels:
            raise ValueError("all chunks must be of the same neurons, with the same labels.")
        values, interval = values_of(chunk)
        size = _bins(window, interval)
        if values.ndim > 2:
            yield windowed(chunk, window)
            left, some = None, True
            continue
        if left is not None:
            end = _start(left, values_of(left)[0].shape[-1])
            if _follows(end, None if isinstance(chunk, Activity) else chunk.start, interval):
                chunk = _joined(left, chunk)
        num_bins = values_of(chunk)[0].shape[-1]
        whole = num_bins // size * size
        if whole:
            yield windowed(_between(chunk, 0, whole), window)
            some = True
        left = _between(chunk, whole, num_bins)
    if left is not None and not some:
        raise ValueError(f"the recording is too short for windows of {window} s.")


def _bins(window: float, interval: float) -> int:
    size = max(round(window / interval), 1)
    if window > interval and abs(size * interval - window) > 1e-6 * window:
        raise ValueError(
            f"window = {window} s must be a whole number of bins of {interval} s, or less than one."
        )
    return size


def _start(chunk: Recording, first: int) -> float | None:
    if isinstance(chunk, Activity) or chunk.start is None:
        return None
    return float(chunk.start) + first * chunk.bin_width


def _between(chunk: Recording, first: int, stop: int) -> Recording:
    values = values_of(chunk)[0][:, first:stop]
    mask = None if chunk.mask is None else chunk.mask[first:stop]
    if isinstance(chunk, Activity):
        return replace(chunk, values=values, mask=mask)
    return replace(chunk, spikes=values, mask=mask, start=_start(chunk, first))


def _joined(one: Recording, other: Recording) -> Recording:
    values = [values_of(part)[0] for part in (one, other)]
    mask = None
    if one.mask is not None or other.mask is not None:
        masks = [
            jnp.ones(x.shape[-1], bool) if part.mask is None else part.mask
            for part, x in zip((one, other), values, strict=True)
        ]
        mask = jnp.concatenate(masks)
    whole = jnp.concatenate(values, axis=-1)
    if isinstance(one, Activity):
        return replace(one, values=whole, mask=mask)
    return replace(one, spikes=whole, mask=mask)
