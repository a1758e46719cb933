"""Whole neurons moved by multinomial draws: the reduction at finite size.

State and order of a step are the map's; the numbers of neurons are whole. A neuron of a bin goes to
another with the probabilities of the map's kernel, independently of the others, so that what
becomes of the n neurons of a bin is a draw from Multinomial(n; P). Drawn neuron by neuron, from
the variables of which the kernel is the distribution: an interval of the bin plus Gaussian noise.

The cost is that of the neurons, however many bins and nodes there are: on one core, in single
precision, 0.3, 2.3, 21 seconds per simulated second for 400, 4,000 and 40,000 of them with the
published closure, 0.5, 3.1, 29 with the coloured one; in double precision 2.5 times that.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from neurofield._numerics import all_finite, contract
from neurofield._results import RESULTS, choose
from neurofield._types import PRNGKey, PyTree

from ._closure import Input, Moments, Nodes, input_of, moment_rates, nodes_of
from ._grid import Grid
from ._map import exchange_kernel, initial_map_state, mean_voltage, require_fine, require_like
from ._ode import DriveFactor, Trace, factor_at
from ._parameters import Parameters
from ._transition import cumulative, moves

# Neurons that are drawn at a time: those of the published network. The draws depend on it.
_AT_ONCE = 400


class Chain(eqx.Module):
    """Where the neurons are, in whole numbers, and the moments of their synapses.

    - `occupancy`: `[population, M, M, K]`, by excitatory node, inhibitory node, and bin.
    - `refractory`: `[population, M, M]`. Its sum with that of the occupancy is the size.
    - `voltage`: `[population, M, M, K]`, mV, mean in each bin.
    - `moments`: of the pending spikes.
    - `last`: `[population]`, spikes in the step before.
    - `step`: steps since the first start, which number the random streams.
    """

    occupancy: Int[Array, "population node node bin"]
    refractory: Int[Array, "population node node"]
    voltage: Float[Array, "population node node bin"]
    moments: Moments
    last: Int[Array, " population"]
    step: Int[Array, ""]


def run_chain(
    params: Parameters,
    duration: float,
    *,
    key: PRNGKey,
    closure: str,
    nodes: Nodes,
    grid: Grid,
    initial: Any,
    drive_factor: DriveFactor | None,
    save_dt: float,
    save_occupancy: bool,
    dt: float,
    refractory: str,
) -> tuple[Trace, Chain, RESULTS, dict[str, Any]]:
    """Traces at the ends of the bins (the start first), and the last state.

    The draws of step n are from `fold_in(key, n)`, and a state knows its n: a solve continued from
    `final` with the same key goes on as the longer solve, and with another key independently.
    """
    if refractory != "exact":
        raise ValueError(
            f"backend 'markov' moves whole neurons, for which refractory={refractory!r} has no "
            "meaning: its bookkeeping loses track of them. Take 'exact'."
        )
    require_fine(params, dt)
    size = _whole(params.size)
    start = start_chain(params, size, grid, nodes, initial) if isinstance(initial, str) else initial
    require_like(start, start_chain(params, size, grid, nodes, "reset"))
    start = _of_size(start, size)
    params, start, drive_factor = _constant((params, start, drive_factor))
    return _run(
        params,
        start,
        key,
        size,
        drive_factor,
        closure,
        len(nodes.value),
        grid,
        (round(duration / save_dt), round(save_dt / dt)),
        dt,
        save_occupancy,
    )


@eqx.filter_jit
def _run(
    params: Parameters,
    start: Chain,
    key: PRNGKey,
    size: Int[Array, " population"],
    drive_factor: DriveFactor | None,
    closure: str,
    num_nodes: int,
    grid: Grid,
    counts: tuple[int, int],
    dt: float,
    save_occupancy: bool,
) -> tuple[Trace, Chain, RESULTS, dict[str, Any]]:
    num_bins, per_bin = counts
    nodes = nodes_of(closure, num_nodes)
    share = 1 / params.size

    def keep(state: Chain, spikes: Int[Array, " population"]) -> Trace:
        dtype = params.size.dtype
        cells = jnp.sum(state.occupancy.astype(dtype), axis=(1, 2)) * share[:, None]
        deaf = jnp.sum(state.refractory, axis=(1, 2)).astype(dtype) * share
        voltage = jnp.sum(state.occupancy.astype(dtype) * state.voltage, axis=(1, 2, 3)) * share
        kept = cells if save_occupancy else None
        at = spikes.astype(dtype) * share
        return Trace(at, state.moments, voltage + params.reset * deaf, deaf, kept)

    def step(i: Any, carry: tuple[Chain, Array]) -> tuple[Chain, Array]:
        state, spikes = carry
        time = i.astype(params.size.dtype) * dt
        factor = _constant(factor_at(drive_factor, time, params))
        change, renewal = moment_rates(params, state.moments, state.last.astype(share.dtype) / dt)
        received = input_of(params, closure, nodes, state.moments, renewal, factor)
        stream = jax.random.fold_in(key, state.step)
        moved = move(stream, params, size, grid, nodes, received, state, dt)
        moments = jax.tree.map(lambda x, rate: x + dt * rate, state.moments, change)
        state = Chain(*moved[:-1], moments, moved[-1], state.step + 1)
        return state, spikes + state.last

    none = jnp.zeros_like(start.last)

    def save_bin(state: Chain, first: Array) -> tuple[Chain, Trace]:
        state, spikes = jax.lax.fori_loop(first, first + per_bin, step, (state, none))
        return state, keep(state, spikes)

    beginnings = per_bin * jnp.arange(num_bins, dtype=jnp.int32)
    final, later = jax.lax.scan(save_bin, start, beginnings)
    first = keep(start, none)
    trace = jax.tree.map(lambda x, rest: jnp.concatenate([x[None], rest]), first, later)
    result = choose(all_finite(final), RESULTS.successful, RESULTS.nonfinite)
    return trace, final, result, {"num_steps": jnp.asarray(num_bins * per_bin, jnp.int32)}


def move(
    key: PRNGKey,
    params: Parameters,
    size: Int[Array, " population"],
    grid: Grid,
    nodes: Nodes,
    received: Input,
    state: Chain,
    dt: float,
) -> tuple[Array, Array, Array, Array]:
    """Occupancy, refractory numbers, mean voltages and spikes after one step of `dt` seconds.

    Each neuron that came to a bin brings the mean voltage of those that come there from its own.
    """
    count, num_pairs, num_bins = params.num_populations, len(nodes.value) ** 2, grid.num_bins
    dtype = params.size.dtype
    # A row of cells for each population and pair of nodes; the last cell is refractory.
    before = jnp.concatenate([state.occupancy, state.refractory[..., None]], axis=-1)
    shape = before.shape
    ends = jnp.cumsum(before.ravel(), dtype=jnp.int32)
    pieces = jnp.stack(moves(params, grid, received, state.voltage, dt), axis=-1)
    pieces = jnp.pad(pieces, [(0, 0)] * 3 + [(0, 1), (0, 0)]).reshape(-1, 4)
    leaving = -jnp.expm1(-dt * params.refractory_rate)
    total = jnp.sum(size, dtype=jnp.int32)
    never_deaf = jnp.isinf(params.refractory_rate)
    jumps = _jumps(nodes, dt * received.renewal)

    def some(i: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        number, voltage, spikes = carry
        uniform, normal, node = jax.random.split(jax.random.fold_in(key, i), 3)
        neuron = i.astype(jnp.int32) * _AT_ONCE + jnp.arange(_AT_ONCE, dtype=jnp.int32)
        there = neuron < total
        source = jnp.searchsorted(ends, neuron, side="right").astype(jnp.int32)
        source = jnp.minimum(source, ends.size - 1)
        bins, pair = source % (num_bins + 1), source // (num_bins + 1)
        population, pair = pair // num_pairs, pair % num_pairs
        u = jax.random.uniform(uniform, (_AT_ONCE,), dtype)

        low, high, mean, deviation = pieces[source].T
        z = jax.random.normal(normal, (_AT_ONCE,), dtype)
        reached = low + (high - low) * u + mean + deviation * z
        fires = reached > params.threshold
        to = jnp.floor((reached - grid.lowest) / grid.width)
        to = jnp.clip(to, 0, num_bins - 1).astype(jnp.int32)
        edge = grid.lowest + grid.width * to.astype(dtype)
        # From the bin's lower edge, so that no digits are lost; the lowest bin has the tail too.
        piece = low - edge, high - edge, mean, deviation
        f, g = cumulative(jnp.full_like(edge, grid.width), *piece)
        f_below, g_below = cumulative(jnp.zeros_like(edge), *piece)
        f, g = jnp.where(to > 0, f - f_below, f), jnp.where(to > 0, g - g_below, g)
        brings = edge + jnp.clip(g / jnp.maximum(f, jnp.finfo(dtype).tiny), 0, grid.width)

        deaf = bins == num_bins
        reset = jnp.where(deaf, u < leaving[population], fires & never_deaf[population])
        to = jnp.where(deaf | fires, num_bins, to)
        to = jnp.where(reset, grid.reset_bin, to)
        brings = jnp.where(reset, params.reset, brings)
        if num_pairs > 1:
            v = jax.random.uniform(node, (_AT_ONCE, 1), dtype)
            pair = jnp.sum(v >= jumps[population, pair], axis=1, dtype=jnp.int32)
        to = (population * num_pairs + pair) * (num_bins + 1) + to
        to = jnp.where(there, to, ends.size)  # beyond the end: nowhere
        return (
            number.at[to].add(1, mode="drop"),
            voltage.at[to].add(brings, mode="drop"),
            spikes.at[population].add((there & ~deaf & fires).astype(jnp.int32)),
        )

    zero = jnp.zeros_like(ends), jnp.zeros(ends.shape, dtype), jnp.zeros(count, jnp.int32)
    rounds = (total + _AT_ONCE - 1) // _AT_ONCE
    number, voltage, spikes = jax.lax.fori_loop(0, rounds, some, zero)
    number, voltage = number.reshape(shape), voltage.reshape(shape)[..., :-1]
    occupancy = number[..., :-1]
    centres = jnp.broadcast_to(jnp.asarray(grid.centres, dtype), voltage.shape)
    mean = jnp.where(occupancy > 0, voltage / jnp.maximum(occupancy, 1).astype(dtype), centres)
    return occupancy, number[..., -1], mean, spikes


def _jumps(
    nodes: Nodes, time: Float[Array, "population 2"]
) -> Float[Array, "population pair less"]:
    """Chances to be at most at a pair of nodes, from another (second axis), after `time`.

    `time`: in units of the chains' correlation times. The last chance is left out: it is 1.
    """
    chance = jnp.maximum(exchange_kernel(nodes, time), 0)
    both = contract("qij,qkl->qjlik", chance[:, 0], chance[:, 1])
    pairs = len(nodes.value) ** 2
    return jnp.cumsum(both.reshape(-1, pairs, pairs), axis=-1)[..., :-1]


def start_chain(
    params: Parameters,
    size: Int[Array, " population"],
    grid: Grid,
    nodes: Nodes,
    where: str,
) -> Chain:
    """All neurons at the reset, or spread evenly between reset and threshold; no spike pending."""
    start = initial_map_state(params, grid, nodes, where)
    # Rounded sums keep the number of neurons, and every part of them within one of its share.
    ends = jnp.cumsum(start.count.reshape(len(size), -1), axis=1)
    ends = jnp.round(ends).astype(jnp.int32).at[:, -1].set(size)
    ends = jnp.minimum(ends, size[:, None])
    number = jnp.diff(jnp.pad(ends, [(0, 0), (1, 0)]), axis=1).reshape(start.count.shape)
    return Chain(
        number,
        jnp.zeros(number.shape[:-1], jnp.int32),
        mean_voltage(grid, start.count, start.voltage),
        start.moments,
        jnp.zeros_like(size),
        jnp.zeros((), jnp.int32),
    )


def _whole(size: Float[Array, " population"]) -> Int[Array, " population"]:
    message = "backend 'markov' moves whole neurons: size must be whole numbers"
    if isinstance(size, Tracer):
        size = eqx.error_if(size, size % 1 != 0, f"{message}.")
    elif np.any(np.asarray(size) % 1):
        raise ValueError(f"{message}, got {size.tolist()}.")
    return size.astype(jnp.int32)


def _of_size(state: Chain, size: Int[Array, " population"]) -> Chain:
    """The state, of which a wrong number of neurons raises."""
    held = jnp.sum(state.occupancy, axis=(1, 2, 3)) + jnp.sum(state.refractory, axis=(1, 2))
    wrong = held != size.astype(held.dtype)
    message = "initial must hold the whole numbers of neurons that size says"
    if isinstance(wrong, Tracer):
        return eqx.error_if(state, wrong, f"{message}.")
    if np.any(wrong):
        raise ValueError(f"{message}, {size.tolist()}; it holds {held.tolist()}.")
    return state


def _constant(tree: PyTree) -> PyTree:
    """The same, of which a derivative raises: that of whole numbers would be 0 without a word."""
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(_same(arrays), rest)


@jax.custom_jvp
def _same(arrays: PyTree) -> PyTree:
    return arrays


@partial(_same.defjvp, symbolic_zeros=True)
def _same_jvp(primals, tangents):

    for tangent in jax.tree.leaves(tangents):
        if not isinstance(tangent, jax.custom_derivatives.SymbolicZero):
            raise TypeError(
                "backend 'markov' moves whole neurons at random and has no derivative. Take "
                "'ode' or 'map', whose gradients are those of an infinite number of draws."
            )
    return primals[0], jax.tree.map(jnp.zeros_like, primals[0])
