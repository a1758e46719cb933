"""Sample paths: single neurons of each population, driven through Gaussian fields.

A path is one neuron with its own private drive and its own draw of the fields. The step is that of
the direct simulation, so that theory and simulation share their discretisation to the last bit.

Populations use the same random numbers unless they must be independent: at leading order nothing
depends on their joint law, and the errors of excitation and inhibition, whose difference a balanced
network amplifies, then cancel.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from neurofield._types import PyTree
from neurofield.network import Events, Population, TimeCourse

from ._theory import Stream, Theory


class StreamState(eqx.Module):
    kernel: PyTree
    plasticity: PyTree
    ring: Float[Array, "slot path"] | None  # what was transmitted in the last steps
    lags: Int[Array, " path"] | None  # of each path, where delays are distributed


class PathState(eqx.Module):
    """The paths of every population: `neurons[population]`, `drives[population]`, `streams`.

    `members` are the populations of the paths: heterogeneous parameters are those of neurons spread
    evenly over the population.
    """

    members: tuple[Population, ...]
    neurons: tuple[PyTree, ...]
    drives: tuple[PyTree, ...]
    shared: tuple[PyTree, ...]
    streams: tuple[StreamState, ...]


class PathOutput(eqx.Module):
    """What one step gives, a population each: values in hertz for spikes, else as they are.

    `inputs`: all that entered each channel, the drive included.
    """

    values: tuple[Float[Array, " path"], ...]
    intensities: tuple[Float[Array, " path"] | None, ...]
    inputs: tuple[Float[Array, "_ path"], ...]  # [channel, path]


def init_paths(
    key: PRNGKeyArray, theory: Theory, num_paths: int, num_worlds: int | None = None
) -> PathState:
    """`num_paths` neurons of each population at time 0.

    `num_worlds`: how many finite networks the paths make up, each with its own realisation of
    shared noise and with independent populations; `None` for none.
    """
    members, neurons, drives, before = [], [], [], []
    for index, population in enumerate(theory.populations):
        own = key if num_worlds is None else jax.random.fold_in(key, index)
        which, start, drive = jax.random.split(own, 3)
        member = _members(which, population, num_paths)
        state = member.neuron.init(start, (num_paths,))
        members.append(member)
        neurons.append(state)
        drives.append(member.drive.init(drive, num_paths, theory.dt, theory.dtype))
        first = jnp.asarray(member.neuron.initial_output(state)).astype(theory.dtype)
        before.append(jnp.broadcast_to(first, (num_paths,)))
    streams = tuple(
        init_stream(jax.random.fold_in(key, len(members) + i), s, before[s.source], theory.dt)
        for i, s in enumerate(theory.streams)
    )
    num_worlds = num_paths if num_worlds is None else num_worlds
    shared = tuple(
        noise.source.init(
            jax.random.fold_in(key, len(members) + len(streams) + i),
            num_worlds,
            theory.dt,
            theory.dtype,
        )
        for i, noise in enumerate(theory.shared)
    )
    return PathState(tuple(members), tuple(neurons), tuple(drives), shared, streams)


def stream_input(theory: Theory, state: PathState) -> Float[Array, "stream path"]:
    """What each stream contributes, per unit of weight, as the mean over the coming step."""
    rows = [
        stream.kernel.input(own.kernel, theory.dt, stream.level)
        for stream, own in zip(theory.streams, state.streams, strict=True)
    ]
    num_paths = jax.tree.leaves(state.neurons)[0].shape[-1]
    return jnp.stack(rows) if rows else jnp.zeros((0, num_paths), theory.dtype)


def step_paths(
    key: PRNGKeyArray,
    theory: Theory,
    state: PathState,
    step: Int[Array, ""],
    fields: Float[Array, "field path"],
    independent: bool = False,
) -> tuple[PathState, PathOutput]:
    """Go on by one step under the given fields (the recurrent inputs).

    `independent`: whether populations draw numbers of their own.
    """
    dt = theory.dt
    neurons, drives, counts, values, intensities, inputs = [], [], [], [], [], []
    num_keys = 2 * len(theory.populations) + len(theory.shared)
    keys = jax.random.split(jax.random.fold_in(key, step), num_keys)
    shared, common = _step_shared(
        keys[2 * len(theory.populations) :], theory, state.shared, step, fields
    )
    for index, member in enumerate(state.members):
        drive_key, neuron_key = keys[2 * index : 2 * index + 2] if independent else keys[:2]
        drive, driven = member.drive.step(drive_key, state.drives[index], step, dt)
        rows = []
        for channel in member.neuron.channels:
            total = jnp.zeros(fields.shape[1:], theory.dtype)
            if channel in driven:
                total = total + driven[channel].astype(theory.dtype)
            if (index, channel) in theory.fields:
                total = total + fields[theory.fields.index((index, channel))]
            if (index, channel) in common:
                total = total + common[index, channel]
            rows.append(total)
        inputs.append(jnp.stack(rows))
        neuron, output = member.neuron.step(neuron_key, state.neurons[index], inputs[-1], dt)
        neurons.append(neuron)
        drives.append(drive)
        value = output.value.astype(theory.dtype)
        counts.append(value)
        values.append(value / dt if member.neuron.kind == "spike" else value)
        intensities.append(output.intensity)
    streams = tuple(
        step_stream(stream, own, counts[stream.source], step, dt)
        for stream, own in zip(theory.streams, state.streams, strict=True)
    )
    after = PathState(state.members, tuple(neurons), tuple(drives), shared, streams)
    return after, PathOutput(tuple(values), tuple(intensities), tuple(inputs))


def field_noise(
    key: PRNGKeyArray,
    theory: Theory,
    shape: tuple[int, ...],
    independent: bool,
    *,
    even: bool = False,
) -> Float[Array, "field *shape"]:
    """Standard normal numbers for each field, the same for populations unless `independent`.

    `even`: the numbers of a field, along the one axis, are spread over the normal quantiles, which
    makes their distribution exact up to 1 / number.
    """
    rows, ranks = {}, []
    for index, (population, channel) in enumerate(theory.fields):
        rank = [c for p, c in theory.fields if p == population].index(channel)
        rank = index if independent else rank
        ranks.append(rank)
        if rank not in rows:
            own = jax.random.fold_in(key, rank)
            rows[rank] = (_even if even else jax.random.normal)(own, shape, theory.dtype)
    if not ranks:
        return jnp.zeros((0, *shape), theory.dtype)
    return jnp.stack([rows[rank] for rank in ranks])


def _even(key: PRNGKeyArray, shape: tuple[int, ...], dtype) -> Array:
    order, within = jax.random.split(key)
    (num,) = shape
    place = jax.random.permutation(order, num).astype(dtype)
    share = jax.random.uniform(within, shape, dtype, minval=1e-6, maxval=1 - 1e-6)
    return jax.scipy.special.ndtri((place + share) / num)


def world_input(
    theory: Theory, y: Float[Array, "stream path"], num_worlds: int
) -> Float[Array, "field path"]:
    """The mean input of each path, from the population means of its own world.

    A world is as many neurons as the largest population; smaller ones have their mean over the
    first of its paths, as many as they have neurons: so it fluctuates as of one finite network.
    """
    worlds = y.reshape(len(theory.streams), num_worlds, -1)
    means = [
        jnp.mean(worlds[i, :, : theory.sizes[source]], axis=1)
        for i, source in enumerate(theory.sources)
    ]
    return jnp.repeat(theory.input_mean(jnp.stack(means)), worlds.shape[2], axis=1)


def _step_shared(keys, theory: Theory, states: tuple, step: Array, fields: Array):
    """The states of shared noise, and what it adds, by population and channel."""
    after, common = [], {}
    for key, noise, own in zip(keys, theory.shared, states, strict=True):
        own, value = noise.source.step(key, own, step, theory.dt)
        after.append(own)
        value = value.astype(theory.dtype)
        value = jnp.repeat(value, fields.shape[1] // value.shape[0], axis=0)
        for name, weight in noise.weights.items():
            place = (theory.names.index(name), noise.source.channel)
            common[place] = common.get(place, 0.0) + weight * value
    return tuple(after), common


def _members(key: PRNGKeyArray, population: Population, num_paths: int) -> Any:
    """A population of `num_paths` neurons: those of the population, spread evenly over it."""
    size = population.size
    start = jax.random.randint(key, (), 0, size, jnp.int32)
    place = (jnp.arange(num_paths, dtype=jnp.int32) * max(size // num_paths, 1) + start) % size

    def taken(leaf, axis):
        heterogeneous = eqx.is_array(leaf) and leaf.ndim > 0 and leaf.shape[axis] == size > 1
        return jnp.take(leaf, place, axis=axis) if heterogeneous else leaf

    def part(x):
        # The two sources whose neurons are not on the last axis.
        if isinstance(x, Events):
            return eqx.tree_at(lambda e: e.weights, x, taken(x.weights, 0))
        if isinstance(x, TimeCourse):
            return (
                eqx.tree_at(lambda t: t.values, x, taken(x.values, 0)) if x.values.ndim == 2 else x
            )
        return taken(x, -1)

    def apply(tree):
        return jax.tree.map(part, tree, is_leaf=lambda x: isinstance(x, Events | TimeCourse))

    member = eqx.tree_at(
        lambda p: (p.neuron, p.drive),
        population,
        (apply(population.neuron), apply(population.drive)),
    )
    return member


def init_stream(key: PRNGKeyArray, stream: Stream, before: Array, dt: float) -> StreamState:
    """Rates and binary states are taken to have been constant before the start."""
    num_paths, dtype = before.shape[0], before.dtype
    kernel = stream.kernel.settled(before) if stream.level else stream.kernel.init(before)
    plasticity = None
    if stream.plasticity is not None:
        plasticity = stream.plasticity.init((num_paths,), dtype)
    lags, slots = None, stream.lag + 1
    if stream.delay is not None:
        early = 1 - stream.lag
        lags = stream.delay.sample(key, (num_paths,), dt) - early
        slots = stream.delay.max_steps(dt) - early + 1
    ring = None
    if slots > 1:
        ring = jnp.broadcast_to(before[None], (slots, num_paths))
    return StreamState(kernel, plasticity, ring, lags)


def step_stream(
    stream: Stream, state: StreamState, transmitted: Array, step: Int[Array, ""], dt: float
) -> StreamState:
    plasticity, ring = state.plasticity, state.ring
    if stream.plasticity is not None:
        plasticity, transmitted = stream.plasticity.step(plasticity, transmitted, dt)
    if ring is not None:
        slots = ring.shape[0]
        ring = ring.at[step % slots].set(transmitted)
        if state.lags is None:
            transmitted = ring[(step + 1) % slots]
        else:
            place = (step - state.lags) % slots
            transmitted = jnp.take_along_axis(ring, place[None], axis=0)[0]
    # Kernels that draw are refused by `build_theory`: the key is never used.
    kernel = stream.kernel.update(jax.random.key(0), state.kernel, transmitted, dt, stream.level)
    return StreamState(kernel, plasticity, ring, state.lags)
