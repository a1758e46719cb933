"""The description of a network: populations of neurons, projections between them, shared noise."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from ._annealed import Annealed
from ._connectivity import Connectivity
from ._delay import DelayDistribution
from ._deliver import Dense, Lists
from ._drive import Drive, Source
from ._kernel import Delta, Kernel, Pending
from ._neuron import Neuron, as_parameter
from ._plasticity import TsodyksMarkram

# Ensembles of weights, and weights that were drawn.
Weights: TypeAlias = Connectivity | Annealed | Lists | Dense


class Population(eqx.Module):
    """`size` neurons of one model under one drive. Every noise of the drive is private.

    - `neuron`: its parameters are scalars, or arrays whose last axis is the neurons.
    - `drive`: a `Drive`, a single source such as `Constant(5.0)`, or `None`.

    Raises `ValueError` for an empty population, parameters of another number of neurons, and a
    drive of channels that the neuron does not have.
    """

    name: str = eqx.field(static=True)
    neuron: Neuron
    size: int = eqx.field(static=True)
    drive: Drive

    def __init__(self, name: str, neuron: Neuron, size: int, drive: Drive | Source | None = None):
        self.name, self.neuron, self.size = str(name), neuron, int(size)
        if not isinstance(drive, Drive):
            drive = Drive() if drive is None else Drive(drive)
        self.drive = drive
        if self.size < 1:
            raise ValueError(f"population {name!r} must have at least one neuron, got {size}.")
        for leaf in jax.tree.leaves(neuron):
            if (
                isinstance(leaf, jax.Array | np.ndarray)
                and leaf.ndim
                and (leaf.shape[-1] not in (1, self.size))
            ):
                raise ValueError(
                    f"a parameter of population {name!r} has shape {leaf.shape}: heterogeneous "
                    f"parameters end with the neurons, here {self.size}."
                )
        for source in self.drive.sources:
            check_channel(source.channel, neuron, f"a drive of population {name!r}")


class Projection(eqx.Module):
    """Synapses from the population `source` to the population `target`.

    - `connectivity`: an ensemble (`erdos_renyi(...)`, ...), `Annealed`, or drawn weights
      (`Lists`, `Dense`; see `realise`). A weight is the peak of a synapse's effect.
    - `kernel`: its time course, `Delta()` by default: a jump of the voltage for spikes, the level
      itself for rates and binary states.
    - `delay`: seconds, at least one step and a whole number of steps; a distribution
      (`UniformDelay`, `NormalDelay`), drawn for each synapse; or `None`, the least that causality
      allows: a spike at the end of one step acts in the next.
    - `channel`: input channel of the target; by default `jump` for spikes through `Delta`, if the
      target has it, else its first.
    - `plasticity`: `TsodyksMarkram(...)` of the source's synapses, or `None`.
    """

    source: str = eqx.field(static=True)
    target: str = eqx.field(static=True)
    connectivity: Weights
    kernel: Kernel
    # Static: a whole number of steps has no derivative.
    delay: float | DelayDistribution | None = eqx.field(static=True)
    channel: str | None = eqx.field(static=True)
    plasticity: TsodyksMarkram | None

    def __init__(
        self,
        source: str,
        target: str,
        connectivity: Weights,
        *,
        kernel: Kernel | None = None,
        delay: float | DelayDistribution | None = None,
        channel: str | None = None,
        plasticity: TsodyksMarkram | None = None,
    ):
        self.source, self.target, self.connectivity = source, target, connectivity
        self.kernel = Delta() if kernel is None else kernel
        self.delay = delay
        self.channel, self.plasticity = channel, plasticity

    @property
    def name(self) -> str:
        return f"{self.source} -> {self.target}"


class SharedNoise(eqx.Module):
    """One realisation of a source of noise that whole populations share.

    `weights` maps names of populations to factors; the channel is that of the source. The
    covariance between populations a and b is weight_a weight_b times that of the source.
    """

    source: Source
    weights: dict[str, Array]

    def __init__(self, source: Source, weights: Mapping[str, float | Array]):
        self.source = source
        self.weights = {name: as_parameter(weight) for name, weight in weights.items()}


class Network(eqx.Module):
    """Populations, the projections between them, and the noise that populations share.

    Raises `ValueError` for unknown or repeated names, channels that a neuron does not have, drawn
    weights of the wrong size, and plasticity or pending spikes on sources that do not spike.
    """

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    shared: tuple[SharedNoise, ...]

    def __init__(
        self,
        populations: Sequence[Population],
        projections: Sequence[Projection] = (),
        shared: Sequence[SharedNoise] = (),
    ):
        self.populations = tuple(populations)
        self.projections = tuple(projections)
        self.shared = tuple(shared)
        names = self.names
        if not names or len(set(names)) < len(names):
            raise ValueError(f"populations must have names of their own, got {list(names)}.")
        for projection in self.projections:
            _check_projection(self, projection)
        for noise in self.shared:
            for name in noise.weights:
                check_channel(noise.source.channel, self[name].neuron, f"noise shared by {name!r}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(population.name for population in self.populations)

    @property
    def size(self) -> int:
        """Number of neurons."""
        return sum(population.size for population in self.populations)

    def __getitem__(self, name: str) -> Population:
        for population in self.populations:
            if population.name == name:
                return population
        raise ValueError(f"no population is called {name!r}; there are {list(self.names)}.")

    def span(self, name: str) -> tuple[int, int]:
        """First and last + 1 of a population's neurons in the order of the whole network."""
        place = self.names.index(name)
        begin = sum(population.size for population in self.populations[:place])
        return begin, begin + self.populations[place].size


def resolve_channel(network: Network, projection: Projection) -> str:
    """The input channel that a projection enters."""
    neuron = network[projection.target].neuron
    if projection.channel is not None:
        return projection.channel
    spikes = network[projection.source].neuron.kind == "spike"
    if spikes and projection.kernel.instantaneous:
        return "jump" if "jump" in neuron.channels else neuron.channels[0]
    return neuron.channels[0]


def check_channel(channel: str, neuron: Neuron, what: str) -> None:
    if channel not in neuron.channels:
        raise ValueError(
            f"{what} enters the channel {channel!r}, but {type(neuron).__name__} has "
            f"{list(neuron.channels)}."
        )


def _check_projection(network: Network, projection: Projection) -> None:
    source, target = network[projection.source], network[projection.target]
    what = f"projection {projection.name}"
    check_channel(resolve_channel(network, projection), target.neuron, what)
    weights = projection.connectivity
    shape = (source.size, target.size)
    if isinstance(weights, Dense) and weights.weights.shape[-2:] != shape:
        raise ValueError(
            f"{what}: drawn weights must be [pre, post] = {shape}, got {weights.weights.shape}."
        )
    if isinstance(weights, Lists) and (weights.targets.shape[-2], weights.num_post) != shape:
        raise ValueError(
            f"{what}: lists must be of {shape[0]} sources and {shape[1]} targets, got "
            f"{weights.targets.shape[-2]} and {weights.num_post}."
        )
    if source.neuron.kind != "spike":
        for part in (projection.plasticity, weights, projection.kernel):
            if isinstance(part, TsodyksMarkram | Annealed | Pending):
                raise ValueError(
                    f"{what}: {type(part).__name__} is for sources that spike, and "
                    f"{type(source.neuron).__name__} is a {source.neuron.kind} unit."
                )
    if isinstance(projection.kernel, Pending) and not isinstance(weights, Annealed):
        raise ValueError(
            f"{what}: pending spikes are counted, which takes annealed connections; "
            "use annealed(probability, weight)."
        )
