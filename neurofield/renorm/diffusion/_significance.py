"""Which scores of pairs are more than chance: circular shifts, and false discoveries."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped
from scipy import optimize, special, stats

from neurofield._numerics import run_age
from neurofield._types import PRNGKey


def circular_shift(
    key: PRNGKey,
    values: Shaped[Array, "*epoch neuron time"],
    mask: Bool[Array, "*epoch time"] | None,
    *,
    common: bool,
) -> Shaped[Array, "*epoch neuron time"]:
    """Each unbroken stretch of valid bins rotated by a random offset, common to all neurons or not.

    (`statistics.surrogates` draws one offset a neuron.)
    """
    *batch, num_neurons, num_bins = values.shape
    flat = (math.prod(batch), num_bins)
    mask = jnp.ones(flat, bool) if mask is None else mask.reshape(flat)
    moved = _rotated(key, values.reshape(flat[0], num_neurons, num_bins), mask, common)
    return moved.reshape(values.shape)


def significance(
    score: Float[np.ndarray, "post pre"],
    surrogates: Float[np.ndarray, "surrogate post pre"],
    tested: Bool[np.ndarray, "post pre"],
    alternative: str,
    false_discovery: float,
) -> tuple[Float[np.ndarray, "post pre"], Bool[np.ndarray, "post pre"]]:
    """p-values and discoveries among the pairs to be tested; 1 and False for the others.

    A score and each surrogate are standardised by the mean and the moderated variance of the
    (other) surrogates of the pair, and counted among the standardised surrogates of all pairs.
    """
    p_value, found = np.ones(score.shape), np.zeros(score.shape, bool)
    if not tested.any():
        return p_value, found
    post, pre = np.nonzero(tested)
    x, null = score[tested].astype(float), surrogates[:, tested].astype(float)
    num = len(null)
    mean, variance = null.mean(0), null.var(0, ddof=1)
    prior, freedom = _prior_variance(variance, num - 1, post, pre)
    observed = _standardised(x, mean, variance, prior, freedom, num)
    others = (num * mean - null) / (num - 1)
    spread = ((num - 1) * variance - (null - mean) ** 2 * num / (num - 1)) / (num - 2)
    null = _standardised(null, others, np.maximum(spread, 0), prior, freedom, num - 1)
    null = np.sort(null.ravel())
    above = (1 + len(null) - np.searchsorted(null, observed, "left")) / (1 + len(null))
    below = (1 + np.searchsorted(null, observed, "right")) / (1 + len(null))
    p = {
        "greater": above,
        "less": below,
        "two-sided": np.minimum(1, 2 * np.minimum(above, below)),
    }[alternative]
    p_value[tested] = p
    found[tested] = stats.false_discovery_control(p) <= false_discovery
    return p_value, found


def _standardised(x, mean, variance, prior, freedom, num):
    """As a prediction from `num` surrogates, so that few of them do not flatter."""
    own = num - 1
    # Infinitely many prior degrees of freedom leave the prior alone.
    share = 1.0 if np.isinf(freedom) else freedom / (freedom + own)
    moderated = share * prior + (1 - share) * variance
    scale = np.sqrt(moderated * (1 + 1 / num))
    return np.where(scale > 0, (x - mean) / np.where(scale > 0, scale, 1), 0)


def _prior_variance(
    variance: np.ndarray, own: int, post: np.ndarray, pre: np.ndarray
) -> tuple[np.ndarray, float]:
    """Variance that row times column predict for each pair, and what it is worth in surrogates.

    Smyth (2004): log variances scatter about their prior mean by trigamma(own / 2) from `own`
    degrees of freedom each, and by trigamma(freedom / 2) from the prior itself.
    """
    # A pair that no surrogate moves (a neuron with a spike or two) says nothing about the others.
    usable = variance > 1e-12 * np.median(variance)
    nodes = int(max(post.max(), pre.max())) + 1
    parameters = len(np.unique(post)) + len(np.unique(pre)) - 1
    if usable.sum() <= parameters:
        return np.zeros_like(variance), 0.0
    log = np.log(variance[usable]) - special.digamma(own / 2) + math.log(own / 2)
    row, column = np.zeros(nodes), np.zeros(nodes)
    for _ in range(20):
        row = _mean_by(log - column[pre[usable]], post[usable], nodes)
        column = _mean_by(log - row[post[usable]], pre[usable], nodes)
    left = log - row[post[usable]] - column[pre[usable]]
    excess = np.sum(left**2) / (usable.sum() - parameters) - special.polygamma(1, own / 2)
    if excess <= 1e-4:  # beyond 20,000 degrees of freedom
        freedom, shift = np.inf, 0.0
    else:
        root = optimize.brentq(lambda h: special.polygamma(1, h) - excess, 1e-6, 1e5)
        half = float(np.asarray(root))
        freedom, shift = 2 * half, float(special.digamma(half)) - math.log(half)
    return np.exp(row[post] + column[pre] + shift), freedom


def _mean_by(values: np.ndarray, group: np.ndarray, nodes: int) -> np.ndarray:
    counts = np.bincount(group, minlength=nodes)
    return np.bincount(group, values, minlength=nodes) / np.maximum(counts, 1)


@partial(jax.jit, static_argnums=3)
def _rotated(key: PRNGKey, values: Array, mask: Array, common: bool) -> Array:
    num_epochs, num_neurons, num_bins = values.shape
    time = jnp.broadcast_to(jnp.arange(num_bins, dtype=jnp.int32), mask.shape)
    first = jnp.where(mask, time - run_age(mask), time)
    ahead = run_age(mask[:, ::-1])[:, ::-1]
    length = jnp.where(mask, time + ahead + 1 - first, 1)
    shape = (num_epochs, 1 if common else num_neurons, num_bins)
    # One draw for each stretch, that of its first bin; 31 bits modulo a length are as good as
    # uniform for any length that fits in memory.
    draws = jax.random.randint(key, shape, 0, jnp.iinfo(jnp.int32).max, jnp.int32)
    time, first, length = (jnp.broadcast_to(x[:, None], shape) for x in (time, first, length))
    offset = jnp.take_along_axis(draws, first, axis=-1) % length
    source = first + (time - first + offset) % length
    return jnp.take_along_axis(values, source, axis=-1)
