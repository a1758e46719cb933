"""Lagged correlations of a recording, from sufficient statistics that chunks add up to."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Real

from neurofield._numerics import HIGHEST, run_age
from neurofield._types import Arrayish


class CorrelationStatistics(eqx.Module):
    """What lagged correlations need of a recording; chunks of it are taken in one by one.

    `init` makes it empty, `update` takes in the next chunk of the same recording, `restart` says
    that the next chunk does not follow on the last one, `merge` adds that of another recording.
    `[l, i, j]` is of x_i(t + lags[l]) with x_j(t): later (post) first. Pairs of bins reach across
    neither an invalid bin nor the border of an epoch. Sums are kept in the dtype of `init`.

    **Attributes**

    - `lags`: in bins, increasing (static).
    - `origin`: `[neuron]`, taken off the values before they are multiplied: near the mean for
      signals whose mean is large against their variation, else 0.
    - `count`, `total`, `square`: valid bins, and sums of values and of squares over them.
    - `pairs`: `[lag]`, pairs of bins; `later`, `earlier`: `[lag, neuron]`, sums over the later and
      earlier bins of the pairs; `products`: `[lag, neuron, neuron]`.
    - `tail`, `age`: the last bins, and how many valid ones the last one follows (-1: invalid).
    """

    lags: tuple[int, ...] = eqx.field(static=True)
    origin: Float[Array, " neuron"]
    count: Int[Array, ""]
    total: Float[Array, " neuron"]
    square: Float[Array, " neuron"]
    pairs: Int[Array, " lag"]
    later: Float[Array, "lag neuron"]
    earlier: Float[Array, "lag neuron"]
    products: Float[Array, "lag neuron neuron"]
    tail: Float[Array, "neuron bin"]
    age: Int[Array, ""]

    @classmethod
    def init(
        cls,
        num_neurons: int,
        lags: Sequence[int],
        *,
        origin: Arrayish | None = None,
        dtype: DTypeLike | None = None,
    ) -> "CorrelationStatistics":
        """Nothing seen yet. Raises `ValueError` for lags that are negative or not increasing."""
        lags = tuple(int(lag) for lag in lags)
        if not lags or lags[0] < 0 or any(b <= a for a, b in pairwise(lags)):
            raise ValueError(f"lags must be increasing whole numbers from 0 on, got {lags}.")
        dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
        neuron = jnp.zeros(num_neurons, dtype)
        return cls(
            lags,
            neuron if origin is None else jnp.asarray(origin, dtype),
            jnp.zeros((), jnp.int32),
            neuron,
            neuron,
            jnp.zeros(len(lags), jnp.int32),
            jnp.zeros((len(lags), num_neurons), dtype),
            jnp.zeros((len(lags), num_neurons), dtype),
            jnp.zeros((len(lags), num_neurons, num_neurons), dtype),
            jnp.zeros((num_neurons, lags[-1]), dtype),
            jnp.full((), -1, jnp.int32),
        )

    def restart(self) -> "CorrelationStatistics":
        """The next chunk begins a new stretch: no pair reaches back."""
        return replace(self, age=jnp.full_like(self.age, -1))

    def update(
        self,
        values: Real[Array, "*epoch neuron time"],
        valid: Bool[Array, "*epoch time"] | None = None,
        *,
        earlier: Real[Array, "*epoch neuron time"] | None = None,
    ) -> "CorrelationStatistics":
        """Take in the next chunk `[neuron, time]`, or whole epochs `[..., neuron, time]`.

        With `earlier`, the earlier bin of each pair is taken from that array instead (a surrogate
        of the presynaptic side). Products are formed in float32 for whole numbers, which is exact
        while time times the largest product is below 2^24, else in the dtype of the values.
        """
        *epochs, _, num_bins = values.shape
        valid = jnp.ones((*epochs, num_bins), bool) if valid is None else valid
        age = run_age(valid)
        if epochs:
            begun = self.restart()
        else:
            begun = self
            # Bins before the first break go on from the last chunk.
            going = age == jnp.arange(num_bins, dtype=jnp.int32)
            age = jnp.where(going, age + self.age + 1, age)
        age, reach = age.reshape(-1), self.tail.shape[1]
        post = _flat(values, age, self.origin)
        pre = post if earlier is None else _flat(earlier, age, self.origin)
        window = jnp.concatenate([begun.tail.astype(pre.dtype), pre], axis=1)
        dtype = self.products.dtype

        def add(products, which):
            index, lag = which
            paired = (age >= lag)[None]
            later = jnp.where(paired, post, 0)
            before = jax.lax.dynamic_slice_in_dim(window, reach - lag, post.shape[1], axis=1)
            product = jnp.matmul(later, before.T, precision=HIGHEST)
            return products.at[index].add(product.astype(dtype)), (
                jnp.sum(later, axis=1, dtype=dtype),
                jnp.sum(jnp.where(paired, before, 0), axis=1, dtype=dtype),
                jnp.sum(paired, dtype=jnp.int32),
            )

        which = jnp.arange(len(self.lags), dtype=jnp.int32), jnp.asarray(self.lags, jnp.int32)
        products, (later_sums, earlier_sums, pairs) = jax.lax.scan(add, self.products, which)
        return replace(
            self,
            count=self.count + jnp.sum(age >= 0, dtype=jnp.int32),
            total=self.total + jnp.sum(post, axis=1, dtype=dtype),
            square=self.square + jnp.sum(post**2, axis=1, dtype=dtype),
            pairs=self.pairs + pairs,
            later=self.later + later_sums,
            earlier=self.earlier + earlier_sums,
            products=products,
            tail=window[:, window.shape[1] - reach :].astype(dtype),
            age=age[-1] if not epochs else jnp.full_like(self.age, -1),
        )

    def merge(self, other: "CorrelationStatistics") -> "CorrelationStatistics":
        """Both recordings together; nothing goes on from either."""
        if other.lags != self.lags or other.products.shape != self.products.shape:
            raise ValueError(
                f"both must have the same lags and neurons, got {self.lags} and {other.lags}, "
                f"{len(self.total)} and {len(other.total)} neurons."
            )
        dtype = self.products.dtype
        move = other.origin - self.origin  # the other's values are larger by that, seen from here
        count, pairs = other.count.astype(dtype), other.pairs.astype(dtype)
        products = (
            other.products
            + other.later[:, :, None] * move[None, None]
            + move[None, :, None] * other.earlier[:, None]
            + pairs[:, None, None] * (move[:, None] * move[None])[None]
        )
        return replace(
            self,
            count=self.count + other.count,
            total=self.total + other.total + count * move,
            square=self.square + other.square + 2 * move * other.total + count * move**2,
            pairs=self.pairs + other.pairs,
            later=self.later + other.later + pairs[:, None] * move[None],
            earlier=self.earlier + other.earlier + pairs[:, None] * move[None],
            products=self.products + products,
        ).restart()

    @property
    def active(self) -> Bool[Array, " neuron"]:
        """Whether a neuron's values vary at all."""
        mean, square, _ = self._moments()
        return square - mean**2 > 16 * jnp.finfo(square.dtype).eps * square

    def correlation(self, index: int) -> Float[Array, "neuron neuron"]:
        """C of lag `lags[index]`: 0 for neurons that do not vary.

        Centred by the mean over all valid bins, divided by the number of pairs and by the standard
        deviations over all valid bins.
        """
        mean, square, _ = self._moments()
        active = self.active
        scale = jnp.where(active, 1 / jnp.sqrt(jnp.where(active, square - mean**2, 1)), 0)
        pairs = jnp.maximum(self.pairs[index], 1).astype(mean.dtype)
        later, earlier = self.later[index] / pairs, self.earlier[index] / pairs
        covariance = (
            self.products[index] / pairs
            - mean[:, None] * earlier[None]
            - (later - mean)[:, None] * mean[None]
        )
        covariance = jnp.where(self.pairs[index] > 0, covariance, 0)
        return scale[:, None] * covariance * scale[None]

    def _moments(self) -> tuple[Array, Array, Array]:
        count = jnp.maximum(self.count, 1).astype(self.total.dtype)
        return self.total / count, self.square / count, count


def lagged_correlation(
    values: Real[Array, "*epoch neuron time"],
    lags: Sequence[int],
    mask: Bool[Array, "*epoch time"] | None = None,
) -> Float[Array, "lag neuron neuron"]:
    """`[l, i, j]`: correlation of x_i(t + lags[l]) and x_j(t), pooled over epochs.

    Centred and scaled by mean and variance over all valid bins, each lag divided by its number of
    pairs; 0 for a neuron that does not vary. Differentiable in real values; `lags` is static.
    Raises `ValueError` for a lag that no epoch is long enough for.
    """
    if lags and max(lags) >= values.shape[-1]:
        raise ValueError(f"lags up to {max(lags)} need more than {values.shape[-1]} bins.")
    dtype = values.dtype if jnp.issubdtype(values.dtype, jnp.floating) else None
    origin = None
    if dtype is not None:
        # Of the values alone: its derivative cancels exactly.
        inside = True if mask is None else mask[..., None, :]
        kept = jnp.where(jnp.broadcast_to(inside, values.shape), values, 0)
        axes = (*range(values.ndim - 2), values.ndim - 1)
        weight = values.size // values.shape[-2] if mask is None else jnp.sum(mask, dtype=dtype)
        origin = jax.lax.stop_gradient(jnp.sum(kept, axis=axes) / jnp.maximum(weight, 1))
    start = CorrelationStatistics.init(values.shape[-2], lags, origin=origin, dtype=dtype)
    found = start.update(values, mask)
    return jnp.stack([found.correlation(index) for index in range(len(found.lags))])


def _flat(values: Array, age: Array, origin: Array) -> Array:
    """Epochs laid end to end, `[neuron, bin]`, less the origin; 0 in invalid bins."""
    dtype = values.dtype if jnp.issubdtype(values.dtype, jnp.floating) else jnp.float32
    rows = jnp.moveaxis(values, -2, 0).reshape(values.shape[-2], -1).astype(dtype)
    return jnp.where((age >= 0)[None], rows - origin.astype(dtype)[:, None], 0)
