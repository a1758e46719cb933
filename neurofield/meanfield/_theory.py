"""A network as the theory sees it: streams of transmitted activity, and Gaussian fields.

A *stream* is what one population transmits through one delay, plasticity and kernel; a *field* is
the summed recurrent input of one population in one channel. Field f has the mean
sum_s mean[f, s] <y_s> and the covariance sum_s vQ[f, s] <y_s y_s'> - vM[f, s] <y_s><y_s'> over the
neurons of the streams y. Weights onto different fields are drawn independently, so that fields are
independent Gaussian processes at leading order.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import contract
from neurofield.network import (
    Annealed,
    DelayDistribution,
    Events,
    Function,
    Kernel,
    Lists,
    Network,
    Population,
    Projection,
    SharedNoise,
    TimeCourse,
    TsodyksMarkram,
    block_statistics,
    delay_steps,
    dtype_of,
    is_traced,
    resolve_channel,
)


class Stream(eqx.Module):
    """What the population `source` transmits through one delay, plasticity and kernel.

    `lag`: steps between the output and the kernel's update by it; the least of them where `delay`
    is a distribution, of which each path draws its own.
    """

    kernel: Kernel
    plasticity: TsodyksMarkram | None
    source: int = eqx.field(static=True)
    lag: int = eqx.field(static=True)
    delay: DelayDistribution | None = eqx.field(static=True)
    level: bool = eqx.field(static=True)  # rates and binary states, not spikes


class Theory(eqx.Module):
    """A network ready for the mean-field equations, in steps of `dt` seconds.

    - `fields`: (population, channel) of each field: where recurrent input or shared noise enters.
    - `mean`, `vQ`, `vM`: `[field, stream]`, the statistics of the weights.
    """

    populations: tuple[Population, ...]
    shared: tuple[SharedNoise, ...]
    streams: tuple[Stream, ...]
    mean: Float[Array, "field stream"]
    vQ: Float[Array, "field stream"]
    vM: Float[Array, "field stream"]
    fields: tuple[tuple[int, str], ...] = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    gradient: str = eqx.field(static=True, default="none")  # the estimator, see `with_gradient`
    places: tuple[int, ...] = eqx.field(static=True, default=())  # stream of each projection
    expected: bool = eqx.field(static=True, default=False)  # whether expectations are transmitted
    white: bool = eqx.field(static=True, default=False)  # whether fields are as if they were white

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(population.name for population in self.populations)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(population.size for population in self.populations)

    @property
    def sources(self) -> tuple[int, ...]:
        """The population of each stream."""
        return tuple(stream.source for stream in self.streams)

    def input_mean(self, y: Float[Array, "stream *time"]) -> Float[Array, "field *time"]:
        """Means of the fields from the means of the streams."""
        return contract("fs,s...->f...", self.mean, y)

    def input_covariance(
        self, second: Float[Array, "stream *times"], means: Float[Array, "stream *times"]
    ) -> Float[Array, "field *times"]:
        """Covariances of the fields; `means`: the products <y_s(t)><y_s(t')>."""
        found = contract("fs,s...->f...", self.vQ, second)
        return found - contract("fs,s...->f...", self.vM, means)


def build_theory(network: Network, dt: float) -> Theory:
    """The theory of a network in steps of `dt` seconds.

    Raises `ValueError` for what the theory does not cover: neurons that know of each other
    (sequential updates), annealed or pending synapses, kernels with one time constant a neuron,
    and delays of single synapses.
    """
    dtype = jnp.result_type(*(dtype_of(population.neuron) for population in network.populations))
    for population in network.populations:
        if not population.neuron.elementwise:
            raise ValueError(
                f"neurons of population {population.name!r} know of each other: the theory takes "
                'one neuron at a time (a binary neuron with update="glauber").'
            )
    streams: list[Stream] = []
    places: list[int] = []
    fields: list[tuple[int, str]] = []
    blocks: dict[tuple[int, int], list[Array]] = {}
    for projection in network.projections:
        stream = _stream(network, projection, dt)
        place = next((i for i, s in enumerate(streams) if _same(s, stream)), len(streams))
        if place == len(streams):
            streams.append(stream)
        places.append(place)
        field = (network.names.index(projection.target), resolve_channel(network, projection))
        if field not in fields:
            fields.append(field)
        sizes = (network[projection.target].size, network[projection.source].size)
        found = block_statistics(projection.connectivity, *sizes)  # pyright: ignore
        values = jnp.stack([jnp.asarray(x, dtype) for x in (found.mean, found.vQ, found.vM)])
        blocks.setdefault((fields.index(field), place), []).append(values)
    # Shared noise too makes a field of what it enters.
    for noise in network.shared:
        for name in noise.weights:
            field = (network.names.index(name), noise.source.channel)
            if field not in fields:
                fields.append(field)
    order = sorted(range(len(fields)), key=lambda i: fields[i][0])
    zero = jnp.zeros(3, dtype)
    table = [[sum(blocks.get((f, s), []), start=zero) for s in range(len(streams))] for f in order]
    if order and streams:
        statistics = jnp.moveaxis(jnp.stack([jnp.stack(row) for row in table]), -1, 0)
    else:
        statistics = jnp.zeros((3, len(order), len(streams)), dtype)
    return Theory(
        populations=network.populations,
        shared=network.shared,
        streams=tuple(streams),
        mean=statistics[0],
        vQ=statistics[1],
        vM=statistics[2],
        fields=tuple(fields[i] for i in order),
        dt=float(dt),
        dtype=dtype,
        places=tuple(places),
    )


def _stream(network: Network, projection: Projection, dt: float) -> Stream:
    what = f"projection {projection.name}"
    kernel, source = projection.kernel, network[projection.source].neuron
    if isinstance(projection.connectivity, Annealed) or kernel.draws:
        raise ValueError(
            f"{what}: annealed and pending synapses have no quenched disorder; neurofield.markov "
            "is their theory, and erdos_renyi or fixed_indegree their quenched counterparts."
        )
    if isinstance(projection.connectivity, Lists) and projection.connectivity.delays is not None:
        raise ValueError(
            f"{what} has delays of single synapses: give the projection a delay or a distribution."
        )
    if any(jnp.ndim(leaf) for leaf in jax.tree.leaves((kernel, projection.plasticity))):
        raise ValueError(
            f"{what}: kernels and plasticity take scalar parameters in the theory; split the "
            "population into several."
        )
    # As in a simulation: through Delta, what is sent in step k acts in step k + 1 at the earliest.
    early = 1 if kernel.instantaneous else 0
    delay = projection.delay
    if isinstance(delay, DelayDistribution):
        delay.check(dt)
        lag = 1 - early
    else:
        try:
            lag = 0 if delay is None else delay_steps(delay, dt) - early
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
        delay = None
    return Stream(
        kernel=kernel,
        plasticity=projection.plasticity,
        source=network.names.index(projection.source),
        lag=lag,
        delay=delay,
        level=source.kind != "spike",
    )


def _same(a: Stream, b: Stream) -> bool:
    """Whether two streams are one: equal parameters, or the same traced ones."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return all(x is y or (not is_traced((x, y)) and bool(np.equal(x, y))) for x, y in pairs)


def depends_on_time(network: Network) -> bool:
    """Whether a drive is a function of time, so that no state is stationary."""
    timed = TimeCourse | Function | Events
    drives = [population.drive for population in network.populations]
    sources = (drives, [noise.source for noise in network.shared])
    return any(
        isinstance(x, timed)
        for x in jax.tree.leaves(sources, is_leaf=lambda x: isinstance(x, timed))
    )


def whole_steps(name: str, value: float, dt: float, rounded: bool = False) -> int:
    """`value / dt`, to be a whole number unless `rounded`. Raises `ValueError` naming the two."""
    steps = round(value / dt) if math.isfinite(value) else 0
    if steps < 1 or (not rounded and abs(value / dt - steps) > 1e-6 * steps):
        raise ValueError(f"{name} = {value} s must be a whole number of steps of {dt} s.")
    return steps
