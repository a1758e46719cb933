"""Surrogate rasters: each method keeps some structure exactly and destroys the rest."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from neurofield._types import PRNGKey
from neurofield.recording import Raster

from ._arrays import all_valid, run_age


def surrogates(
    key: PRNGKey,
    raster: Raster,
    method: str = "shift",
    *,
    window: int | None = None,
    smoothing: int | None = None,
) -> Raster:
    """A surrogate of `raster`, of the same shape; `jax.vmap` over keys gives many.

    **Methods** (a stretch is an unbroken run of valid bins; invalid bins stay as they are)

    - `"shift"`: each neuron's stretch is rotated by its own random offset. Keeps every neuron's
      spike count and circular autocorrelation in each stretch; destroys correlations between
      neurons and locking to trials.
    - `"jitter"`: each neuron's bins are permuted within windows of `window` bins. Keeps its
      count in every window; destroys structure finer than the window.
    - `"trial_shuffle"`: each neuron's trials (leading axes) are permuted. Keeps every neuron's
      trials and so its trial average; destroys noise correlations. Only bins that are valid in all
      trials stay valid.
    - `"rate_matched"`: independent Bernoulli spikes at each neuron's mean occupancy or, with
      `smoothing`, at its occupancy averaged over `smoothing` bins to either side, within the
      stretch. Keeps rates on average; destroys all else. Counts become 0 or 1.

    Plain jit works with `method`, `window` and `smoothing` static.
    """
    for name, value, needed_by in (
        ("window", window, "jitter"),
        ("smoothing", smoothing, "rate_matched"),
    ):
        if value is not None and (method != needed_by or value < 1):
            raise ValueError(f"{name} is for method={needed_by!r} and at least 1, got {value}.")
    if method == "jitter" and window is None:
        raise ValueError('method="jitter" needs window, a number of bins.')
    *batch, num_neurons, num_bins = raster.spikes.shape
    spikes = raster.spikes.reshape(math.prod(batch), num_neurons, num_bins)
    mask = all_valid(*batch, num_bins) if raster.mask is None else raster.mask
    mask = mask.reshape(math.prod(batch), num_bins)
    if method == "shift":
        result = _shift(key, spikes, mask)
    elif method == "jitter" and window is not None:
        result = _jitter(key, spikes, mask, window)
    elif method == "rate_matched":
        result = _rate_matched(key, spikes, mask, smoothing)
    elif method == "trial_shuffle":
        if len(spikes) < 2:
            raise ValueError("trial_shuffle needs a leading axis of at least two trials.")
        ranks = jax.random.uniform(key, spikes.shape[:2])
        order = jnp.argsort(ranks, axis=0)
        result = jnp.take_along_axis(spikes, order[:, :, None], axis=0)
        if raster.mask is not None:
            common = jnp.all(mask, axis=0)
            raster = replace(raster, mask=jnp.broadcast_to(common, raster.mask.shape))
    else:
        raise ValueError(
            f"method must be 'shift', 'jitter', 'trial_shuffle' or 'rate_matched', got {method!r}."
        )
    return replace(raster, spikes=result.reshape(raster.spikes.shape))


def _stretches(mask: Bool[Array, "epoch time"]) -> tuple[Array, Array]:
    """First bin and length of the stretch that a bin lies in; an invalid bin is its own."""
    num_bins = mask.shape[-1]
    time = jnp.broadcast_to(jnp.arange(num_bins, dtype=jnp.int32), mask.shape)
    first = jnp.where(mask, time - run_age(mask), time)
    ahead = run_age(mask[:, ::-1])[:, ::-1]
    return first, jnp.where(mask, time + ahead + 1 - first, 1)


def _shift(key: PRNGKey, spikes: Array, mask: Bool[Array, "epoch time"]) -> Array:
    first, length = _stretches(mask)
    first, length = (jnp.broadcast_to(a[:, None], spikes.shape) for a in (first, length))
    time = jnp.broadcast_to(jnp.arange(spikes.shape[-1], dtype=jnp.int32), spikes.shape)
    # One draw for each stretch: that of its first bin. 31 bits modulo a length are as good as
    # uniform for any length that fits in memory.
    draws = jax.random.randint(key, spikes.shape, 0, jnp.iinfo(jnp.int32).max, jnp.int32)
    offset = jnp.take_along_axis(draws, first, axis=-1) % length
    source = first + (time - first + offset) % length
    return jnp.take_along_axis(spikes, source, axis=-1)


def _jitter(key: PRNGKey, spikes: Array, mask: Bool[Array, "epoch time"], window: int) -> Array:
    first, _ = _stretches(mask)
    time = jnp.broadcast_to(jnp.arange(spikes.shape[-1], dtype=jnp.int32), mask.shape)
    group = time - (time - first) % window
    group = jnp.broadcast_to(group[:, None], spikes.shape)
    # Sorted by group, then by chance: groups stay in place, their bins are permuted.
    draws = jax.random.bits(key, spikes.shape, jnp.uint32)
    return jax.lax.sort((group, draws, spikes), dimension=-1, num_keys=2)[2]


def _rate_matched(
    key: PRNGKey,
    spikes: Shaped[Array, "epoch neuron time"],
    mask: Bool[Array, "epoch time"],
    smoothing: int | None,
) -> Array:
    inside = jnp.broadcast_to(mask[:, None], spikes.shape)
    fired = ((spikes > 0) & inside).astype(jnp.int32)
    if smoothing is None:
        total = jnp.sum(fired, axis=(0, 2), keepdims=True)
        rate = _ratio(total, jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1)[None, None, None])
        rate = jnp.broadcast_to(rate, spikes.shape)
    else:
        rate = _moving_average(fired, mask, smoothing)
    draws = jax.random.bernoulli(key, rate).astype(spikes.dtype)
    return jnp.where(inside, draws, spikes)


def _moving_average(fired: Int[Array, "epoch neuron time"], mask: Array, reach: int) -> Array:
    first, length = _stretches(mask)
    time = jnp.broadcast_to(jnp.arange(mask.shape[-1], dtype=jnp.int32), mask.shape)
    low = jnp.maximum(time - reach, first)
    high = jnp.minimum(time + reach + 1, first + length)
    cumulative = jnp.pad(jnp.cumsum(fired, axis=-1, dtype=jnp.int32), [(0, 0), (0, 0), (1, 0)])
    low, high = (jnp.broadcast_to(a[:, None], fired.shape) for a in (low, high))
    at = lambda bins: jnp.take_along_axis(cumulative, bins, axis=-1)  # noqa: E731
    return _ratio(at(high) - at(low), high - low)


def _ratio(part: Int[Array, "..."], whole: Int[Array, "..."]) -> Array:
    dtype = jnp.result_type(float)
    return part.astype(dtype) / whole.astype(dtype)
