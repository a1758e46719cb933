"""Delivery: from what the sources transmit in a step to what arrives at each target.

Spikes are rare, so that delivering them one by one, each a row of its source's targets, costs as
many operations as there are synaptic events: on a CPU a loop over the spikes that there are
(nothing can overflow), elsewhere a list of the spikes in the smallest capacity that holds them,
whose rows are delivered at once. Rates, and gradients, take the matrix product.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int

from neurofield._numerics import contract

Method: TypeAlias = Literal["events", "lists", "matmul"]
_WORD = 32  # bits


class Lists(eqx.Module):
    """Sparse weights: for each source the list of its targets.

    - `targets`: `[pre, K]`, shorter lists filled with `num_post`.
    - `weights`: `[pre, K]`, or `[pre, 1]` where all of a source's synapses are alike.
    - `delays`: `[pre, K]` seconds, or `None`.
    - `num_post`: number of targets (static).
    """

    targets: Int[Array, "pre K"]
    weights: Float[Array, "pre K_or_1"]
    delays: Float[Array, "pre K"] | None
    num_post: int = eqx.field(static=True)


class Dense(eqx.Module):
    """All weights, `[pre, post]`: a source's row is contiguous."""

    weights: Float[Array, "pre post"]

    @property
    def num_post(self) -> int:
        return self.weights.shape[1]


class DelayedLists(eqx.Module):
    """Lists whose synapses have delays of their own: targets in a ring of `num_slots` steps.

    A target's place is slot * (num_post + 1) + target.
    """

    targets: Int[Array, "pre K"]
    weights: Float[Array, "pre K_or_1"]
    lags: Int[Array, "pre K"]  # steps
    num_post: int = eqx.field(static=True)
    num_slots: int = eqx.field(static=True)


Table: TypeAlias = Lists | Dense


def deliver(
    table: Table, values: Float[Array, " pre"], method: Method, capacity: int
) -> Float[Array, " post"]:
    """Sum over sources of weight times value, at each target.

    Zero values cost nothing but with `"matmul"`, which alone has a reverse mode. Under `vmap` with
    one table for the batch, the events of all are delivered in one loop.
    """
    if method == "matmul":
        return _product(table, values)
    if method == "lists":
        return _by_lists(table, values, capacity)
    return _deliver_batch(table, values[None])[0]


def _product(table: Table, values: Array) -> Array:
    if isinstance(table, Dense):
        return contract("ji,j->i", table.weights, values)
    rows = jnp.broadcast_to(table.weights * values[:, None], table.targets.shape)
    total = jnp.zeros(table.num_post + 1, rows.dtype).at[table.targets].add(rows)
    return total[:-1]


@custom_vmap
def _deliver_batch(table: Table, values: Float[Array, "batch pre"]) -> Float[Array, "batch post"]:
    """One loop over the active sources of a batch."""
    num_batch, num_pre = values.shape
    width = table.num_post + isinstance(table, Lists)  # one place more for the lists' filling
    flat = values.reshape(-1)

    def add(total: Array, index: Array) -> Array:
        batch, source = (0, index) if num_batch == 1 else (index // num_pre, index % num_pre)
        begin = batch * width
        if isinstance(table, Dense):
            row = lax.dynamic_slice_in_dim(total, begin, width)
            row = row + table.weights[source] * flat[index]
            return lax.dynamic_update_slice_in_dim(total, row, begin, axis=0)
        rows = table.weights[source] * flat[index]
        places = table.targets[source] + begin
        return total.at[places].add(rows, mode="promise_in_bounds")

    dtype = jnp.result_type(values, table.weights)
    total = for_each(flat != 0, add, jnp.zeros(num_batch * width, dtype))
    return total.reshape(num_batch, width)[:, : table.num_post]


@_deliver_batch.def_vmap
def _(axis_size, in_batched, table, values):
    if not any(jax.tree.leaves(in_batched[0])):
        merged = _deliver_batch(table, values.reshape(-1, values.shape[-1]))
        return merged.reshape(axis_size, -1, merged.shape[-1]), True
    # Tables of its own for each: one after the other, so that none pays for the busiest.
    leaves, treedef = jax.tree.flatten((table, values))
    batched = jax.tree.leaves(in_batched)

    def one(mapped):
        rest = iter(mapped)
        full = [next(rest) if b else x for x, b in zip(leaves, batched, strict=True)]
        return _deliver_batch(*jax.tree.unflatten(treedef, full))

    return lax.map(one, [x for x, b in zip(leaves, batched, strict=True) if b]), True


def deliver_delayed(
    table: DelayedLists,
    values: Float[Array, " pre"],
    ring: Float[Array, " place"],
    slot: Int[Array, ""],
    method: Method,
    capacity: int,
) -> Float[Array, " place"]:
    """Add what the sources transmit to the ring of arrivals, whose current step is at `slot`."""

    def places(source):
        later = (slot + table.lags[source]) % table.num_slots
        return later * (table.num_post + 1) + table.targets[source]

    def rows(source, amount):
        return jnp.broadcast_to(table.weights[source] * amount, table.targets[source].shape)

    if method == "events":
        return for_each(
            values != 0, lambda total, j: total.at[places(j)].add(rows(j, values[j])), ring
        )
    if method == "matmul":
        everyone = jnp.arange(values.shape[0])
        return ring.at[places(everyone)].add(rows(everyone, values[:, None]))
    index, amount = _spike_list(values, capacity)
    return ring.at[places(index)].add(rows(index, amount[:, None]))


def for_each(
    active: Bool[Array, " n"], body_fn: Callable[[Array, Array], Array], total: Array
) -> Array:
    """`total = body_fn(total, i)` for each i where `active`, in order (no reverse mode).

    The flags are packed into words of 32 bits and the words into pages of 32, so that finding the
    next one is looking through few numbers.
    """
    pages = jnp.pad(active, (0, -active.shape[0] % _WORD**2)).reshape(-1, _WORD, _WORD)
    powers = jnp.left_shift(jnp.uint32(1), lax.iota(jnp.uint32, _WORD))
    words = jnp.sum(jnp.where(pages, powers, jnp.uint32(0)), axis=2, dtype=jnp.uint32)
    ends = jnp.cumsum(lax.population_count(words).astype(jnp.int32), axis=1)
    page_ends = jnp.cumsum(ends[:, -1])

    def body(carry):
        rank, total = carry
        page = jnp.sum(page_ends <= rank, dtype=jnp.int32)
        within = rank - (page_ends[page] - ends[page, -1])
        word = jnp.sum(ends[page] <= within, dtype=jnp.int32)
        bits = words[page, word]
        below = within - (ends[page, word] - lax.population_count(bits).astype(jnp.int32))
        index = (page * _WORD + word) * _WORD + _select_bit(bits, below)
        return rank + 1, body_fn(total, index)

    return lax.while_loop(lambda carry: carry[0] < page_ends[-1], body, (jnp.int32(0), total))[1]


def _select_bit(word: Array, rank: Array) -> Array:
    """The place of the set bit that has `rank` set bits below it."""
    place = jnp.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        low = word & jnp.uint32(2**width - 1)
        below = lax.population_count(low).astype(jnp.int32)
        above = rank >= below
        rank = jnp.where(above, rank - below, rank)
        place = jnp.where(above, place + width, place)
        word = jnp.where(above, word >> jnp.uint32(width), low)
    return place


def _capacities(num: int, capacity: int) -> list[int]:
    """Sizes of spike lists: from 64 up by factors of 8, the last the largest allowed."""
    sizes, size = [], 64
    while size < min(num, capacity):
        sizes.append(size)
        size *= 8
    return [*sizes, min(num, capacity)]


def _spike_list(values: Array, size: int) -> tuple[Int[Array, " size"], Array]:
    """Indices and values of the active sources, filled with zero values."""
    num_pre = values.shape[0]
    (index,) = jnp.nonzero(values != 0, size=size, fill_value=num_pre)
    safe = jnp.minimum(index, num_pre - 1)
    return safe, jnp.where(index < num_pre, values[safe], 0)


def _by_lists(table: Table, values: Array, capacity: int) -> Array:
    """All active sources at once, from a list in the smallest capacity that holds them."""
    sizes = _capacities(values.shape[0], capacity)

    def branch(size: int):
        def run(values: Array) -> Array:
            index, amount = _spike_list(values, size)
            if isinstance(table, Dense):
                return contract("ji,j->i", table.weights[index], amount)
            rows = table.weights[index] * amount[:, None]
            rows = jnp.broadcast_to(rows, (size, table.targets.shape[1]))
            total = jnp.zeros(table.num_post + 1, rows.dtype)
            return total.at[table.targets[index]].add(rows)[:-1]

        return run

    count = jnp.sum(values != 0, dtype=jnp.int32)
    place = jnp.sum(count > jnp.asarray(sizes[:-1], jnp.int32), dtype=jnp.int32)
    return lax.switch(place, [branch(size) for size in sizes], values)
