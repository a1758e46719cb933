"""One step of a circuit. Strictly causal: step k sees what was transmitted up to step k - 1."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from neurofield._types import PyTree

from ._annealed import Annealed, annealed_arrivals
from ._circuit import Circuit, Group, Pathway, Span
from ._deliver import DelayedLists, Method, deliver, deliver_delayed
from ._neuron import dtype_of


class PathwayState(eqx.Module):
    """What a pathway carries from step to step; `None` where it has no need of it."""

    kernel: PyTree
    plasticity: PyTree
    ring: Float[Array, "slot pre"] | None  # what was transmitted in the last steps
    previous: Float[Array, " pre"] | None  # what binary sources transmitted last
    level: Float[Array, " post"] | None  # what arrives from binary sources
    arrivals: Float[Array, " place"] | None  # of synapses with delays of their own


class CircuitState(eqx.Module):
    neurons: tuple[PyTree, ...]
    sources: tuple[tuple[PyTree, ...], ...]
    shared: tuple[PyTree, ...]
    pathways: tuple[PathwayState, ...]


class StepOutput(eqx.Module):
    """What one step gives, over all neurons."""

    values: tuple[Array, ...]  # one a group, [neuron]
    intensities: tuple[Array | None, ...]
    inputs: tuple[Array, ...]  # [channel, neuron]
    num_active: Int[Array, ""]  # largest number of sources that a pathway delivered from


def init_state(key: PRNGKeyArray, circuit: Circuit, dt: float) -> CircuitState:
    neurons, sources = [], []
    for index, group in enumerate(circuit.groups):
        neuron_key, *source_keys = jax.random.split(
            jax.random.fold_in(key, index), 1 + len(group.sources)
        )
        neurons.append(group.neuron.init(neuron_key, (group.size,)))
        sources.append(
            tuple(
                source.init(k, end - begin, dt, circuit.dtype)
                for k, source, (begin, end) in zip(
                    source_keys, group.sources, group.source_spans, strict=True
                )
            )
        )
    shared_key = jax.random.fold_in(key, len(circuit.groups))
    shared = tuple(
        noise.source.init(jax.random.fold_in(shared_key, i), 1, dt, circuit.dtype)
        for i, noise in enumerate(circuit.shared)
    )
    before = jnp.concatenate(
        [
            jnp.broadcast_to(group.neuron.initial_output(state), (group.size,)).astype(
                circuit.dtype
            )
            for group, state in zip(circuit.groups, neurons, strict=True)
        ]
    )
    pathways = tuple(
        _init_pathway(pathway, before[slice(*pathway.pre)]) for pathway in circuit.pathways
    )
    return CircuitState(tuple(neurons), tuple(sources), shared, pathways)


def num_keys(circuit: Circuit) -> int:
    """How many random keys a step takes."""
    drives = sum(1 + len(group.sources) for group in circuit.groups)
    return drives + len(circuit.shared) + sum(pathway.random for pathway in circuit.pathways)


def step_circuit(
    keys: Key[Array, " num_keys"],
    circuit: Circuit,
    state: CircuitState,
    step: Int[Array, ""],
    dt: float,
    method: Method | None,
    capacity: int,
) -> tuple[CircuitState, StepOutput]:
    """Go on by one step; `keys` are `num_keys(circuit)` fresh ones."""
    fresh = iter(range(num_keys(circuit)))
    neurons, all_sources, values, intensities, inputs = [], [], [], [], []
    common, shared = [], []
    for noise, own in zip(circuit.shared, state.shared, strict=True):
        own, value = noise.source.step(keys[next(fresh)], own, step, dt)
        shared.append(own)
        common.extend(
            (noise.source.channel, span, weight * value)
            for span, weight in zip(noise.spans, noise.weights, strict=True)
        )
    synaptic = [
        (pathway.channel, pathway.post, _synaptic_input(pathway, own, dt))
        for pathway, own in zip(circuit.pathways, state.pathways, strict=True)
    ]
    for group, neuron_state, source_states in zip(
        circuit.groups, state.neurons, state.sources, strict=True
    ):
        driven, new_sources = [], []
        for source, span, own in zip(group.sources, group.source_spans, source_states, strict=True):
            own, value = source.step(keys[next(fresh)], own, step, dt)
            new_sources.append(own)
            driven.append((source.channel, span, value))
        parts = [*driven, *common, *synaptic]
        total = _total_input(group, parts, dtype_of(group.neuron))
        neuron_state, output = group.neuron.step(keys[next(fresh)], neuron_state, total, dt)
        neurons.append(neuron_state)
        all_sources.append(tuple(new_sources))
        values.append(output.value)
        intensities.append(output.intensity)
        inputs.append(total)
    transmitted = jnp.concatenate([value.astype(circuit.dtype) for value in values])
    pathways, num_active = [], jnp.int32(0)
    for pathway, own in zip(circuit.pathways, state.pathways, strict=True):
        own, active = _step_pathway(
            keys[next(fresh)] if pathway.random else keys[0],
            pathway,
            own,
            transmitted[slice(*pathway.pre)],
            step,
            dt,
            method,
            capacity,
        )
        pathways.append(own)
        num_active = jnp.maximum(num_active, active)
    after = CircuitState(tuple(neurons), tuple(all_sources), tuple(shared), tuple(pathways))
    return after, StepOutput(tuple(values), tuple(intensities), tuple(inputs), num_active)


# --- input ----------------------------------------------------------------------------------------


def _total_input(
    group: Group, parts: list[tuple[str, Span, Array]], dtype: Any
) -> Float[Array, "channel neuron"]:
    """The sum of what enters each channel of a group's neurons."""
    rows = []
    for channel in group.neuron.channels:
        total = jnp.zeros(group.size, dtype)
        for name, span, value in parts:
            if name == channel and span[0] < group.span[1] and group.span[0] < span[1]:
                total = total + _onto(value.astype(dtype), span, group.span)
        rows.append(total)
    return jnp.stack(rows)


def _onto(value: Array, span: Span, target: Span) -> Array:
    """The part of an array over one span that lies in another, zero elsewhere."""
    value = jnp.broadcast_to(value, (span[1] - span[0],))
    begin, end = max(span[0], target[0]), min(span[1], target[1])
    part = value[begin - span[0] : end - span[0]]
    return jnp.pad(part, (begin - target[0], target[1] - end))


def _synaptic_input(pathway: Pathway, state: PathwayState, dt: float) -> Array:
    value = pathway.kernel.input(state.kernel, dt, pathway.level)
    # Annealed arrivals are counts: pending spikes are whole numbers.
    return value * pathway.table.weight if isinstance(pathway.table, Annealed) else value


# --- pathways -------------------------------------------------------------------------------------


def _init_pathway(pathway: Pathway, before: Array) -> PathwayState:
    """Rates and binary states are taken to have been constant before the start."""
    table = pathway.table
    like = jnp.zeros(pathway.num_post, before.dtype)
    kernel = pathway.kernel.init(like)
    plasticity = None
    if pathway.plasticity is not None:
        plasticity = pathway.plasticity.init((pathway.num_pre,), before.dtype)
    ring = previous = level = arrivals = None
    if isinstance(table, DelayedLists):
        arrivals = jnp.zeros(table.num_slots * (table.num_post + 1), before.dtype)
    if pathway.lag:
        ring = jnp.broadcast_to(before[None], (pathway.lag + 1, pathway.num_pre))
    if pathway.level:
        assert not isinstance(table, Annealed)
        if isinstance(table, DelayedLists):
            reached = deliver_delayed(
                DelayedLists(table.targets, table.weights, 0 * table.lags, table.num_post, 1),
                before,
                jnp.zeros(pathway.num_post + 1, before.dtype),
                jnp.int32(0),
                "matmul",
                0,
            )[:-1]
        else:
            reached = deliver(table, before, "matmul", 0)
        if pathway.kind == "binary":
            previous, level = before, reached
        elif isinstance(table, DelayedLists):
            arrivals = _constant_history(table, before, arrivals)
        kernel = pathway.kernel.settled(reached)
    return PathwayState(kernel, plasticity, ring, previous, level, arrivals)


def _constant_history(table: DelayedLists, before: Array, ring: Array | None) -> Array:
    """The ring of arrivals after sources have long transmitted `before`."""
    assert ring is not None

    def go(slot, ring):
        ring = deliver_delayed(table, before, ring, slot, "matmul", 0)
        return _take_slot(table, ring, slot)[0]

    return jax.lax.fori_loop(0, table.num_slots, go, ring)


def _take_slot(table: DelayedLists, ring: Array, slot: Array) -> tuple[Array, Array]:
    """Empty one slot of a ring of arrivals, and give what was in it."""
    rows = ring.reshape(table.num_slots, table.num_post + 1)
    arrived = rows[slot, :-1]
    return rows.at[slot].set(0).reshape(-1), arrived


def _step_pathway(
    key: PRNGKeyArray,
    pathway: Pathway,
    state: PathwayState,
    transmitted: Float[Array, " pre"],
    step: Int[Array, ""],
    dt: float,
    method: Method | None,
    capacity: int,
) -> tuple[PathwayState, Int[Array, ""]]:
    """Take in what the sources transmitted in this step, and bring the kernel to its end."""
    plasticity, ring, previous, level, arrivals = (
        state.plasticity,
        state.ring,
        state.previous,
        state.level,
        state.arrivals,
    )
    if pathway.plasticity is not None:
        plasticity, transmitted = pathway.plasticity.step(plasticity, transmitted, dt)
    if ring is not None:
        # Written first, then read: the other way round XLA copies the whole ring in every step.
        num_slots = pathway.lag + 1
        ring = ring.at[step % num_slots].set(transmitted)
        transmitted = ring[(step + 1) % num_slots]
    if previous is not None:
        # What binary units transmit changes rarely: deliver the changes alone.
        previous, transmitted = transmitted, transmitted - previous
    table = pathway.table
    kernel_key = key
    if isinstance(table, Annealed):
        key, kernel_key = jax.random.split(key)
        arrived = annealed_arrivals(key, table, transmitted, pathway.num_post)
    elif isinstance(table, DelayedLists):
        slot = step % table.num_slots
        assert arrivals is not None
        arrivals = _choose(
            method,
            pathway,
            lambda how, a: deliver_delayed(table, transmitted, a, slot, how, capacity),
            arrivals,
        )
        arrivals, arrived = _take_slot(table, arrivals, slot)
    else:
        arrived = _choose(
            method, pathway, lambda how, x: deliver(table, x, how, capacity), transmitted
        )
    if level is not None:
        level = arrived = level + arrived
    kernel = pathway.kernel.update(kernel_key, state.kernel, arrived, dt, pathway.level)
    num_active = jnp.int32(0)
    listed = pathway.kind != "rate" and not (pathway.random or pathway.differentiable)
    if capacity < pathway.num_pre and listed:
        num_active = jnp.sum(transmitted != 0, dtype=jnp.int32)
    return PathwayState(kernel, plasticity, ring, previous, level, arrivals), num_active


def _choose(method: Method | None, pathway: Pathway, run_fn: Any, operand: Array) -> Array:
    """By the method asked for, or by what is fastest; products where gradients must pass."""
    if pathway.kind == "rate" or pathway.differentiable:
        return run_fn("matmul", operand)
    if method is not None:
        return run_fn(method, operand)
    return jax.lax.platform_dependent(
        operand, cpu=lambda x: run_fn("events", x), default=lambda x: run_fn("lists", x)
    )
