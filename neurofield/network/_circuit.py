"""A network made ready to run: like neurons in one group, like projections in one pathway.

A step of a network of eight populations so takes one group of neurons and one loop over spikes, not
eight and sixty-four. What draws random numbers is merged by its structure alone, not by its
values, so that a traced network draws as a concrete one does.
"""

import itertools
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._types import PyTree

from ._annealed import Annealed
from ._delay import DelayDistribution, delay_steps
from ._deliver import DelayedLists, Dense, Lists
from ._drive import Function, Source
from ._kernel import Kernel
from ._network import Network, Projection, resolve_channel
from ._neuron import Kind, Neuron, dtype_of
from ._plasticity import TsodyksMarkram
from ._realise import is_traced

Span: TypeAlias = tuple[int, int]


class Group(eqx.Module):
    """Neurons that are stepped together, with their drives, each on a span of the network."""

    neuron: Neuron
    sources: tuple[Source, ...]
    source_spans: tuple[Span, ...] = eqx.field(static=True)
    span: Span = eqx.field(static=True)

    @property
    def size(self) -> int:
        return self.span[1] - self.span[0]


class Pathway(eqx.Module):
    """Synapses that are delivered together.

    - `lag`: steps between a source's output and the update of the kernel by it (static).
    """

    table: Lists | Dense | DelayedLists | Annealed
    kernel: Kernel
    plasticity: TsodyksMarkram | None
    channel: str = eqx.field(static=True)
    pre: Span = eqx.field(static=True)
    post: Span = eqx.field(static=True)
    lag: int = eqx.field(static=True)
    kind: Kind = eqx.field(static=True)
    differentiable: bool = eqx.field(static=True)

    @property
    def level(self) -> bool:
        return self.kind != "spike"

    @property
    def random(self) -> bool:
        return isinstance(self.table, Annealed)

    @property
    def num_pre(self) -> int:
        return self.pre[1] - self.pre[0]

    @property
    def num_post(self) -> int:
        return self.post[1] - self.post[0]


class Shared(eqx.Module):
    """A source of noise with its factors, each on a span of the network."""

    source: Source
    weights: tuple[Array, ...]
    spans: tuple[Span, ...] = eqx.field(static=True)


class Circuit(eqx.Module):
    groups: tuple[Group, ...]
    pathways: tuple[Pathway, ...]
    shared: tuple[Shared, ...]
    size: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)


def build_circuit(network: Network, dt: float) -> Circuit:
    """The circuit of a network whose weights are drawn. Raises `ValueError` for delays off dt."""
    dtype = jnp.result_type(*(dtype_of(population.neuron) for population in network.populations))
    pieces = [_piece(network, projection, dt, dtype) for projection in network.projections]
    spans = [network.span(name) for name in network.names]
    shared = tuple(
        Shared(
            noise.source,
            tuple(noise.weights.values()),
            tuple(network.span(name) for name in noise.weights),
        )
        for noise in network.shared
    )
    return Circuit(
        groups=_groups(network, spans),
        pathways=_merge_pathways(network, pieces),
        shared=shared,
        size=network.size,
        dtype=dtype,
    )


# --- groups ---------------------------------------------------------------------------------------


def _groups(network: Network, spans: list[Span]) -> tuple[Group, ...]:
    runs: list[list[int]] = []
    for index, population in enumerate(network.populations):
        last = network.populations[runs[-1][-1]] if runs else None
        if last is not None and _alike(last.neuron, population.neuron):
            runs[-1].append(index)
        else:
            runs.append([index])
    groups = []
    for run in runs:
        members = [network.populations[i] for i in run]
        sizes = [population.size for population in members]
        span = (spans[run[0]][0], spans[run[-1]][1])
        sources, source_spans = _merge_sources(
            [(spans[i], network.populations[i].drive.sources) for i in run]
        )
        neuron = _merge([population.neuron for population in members], sizes)
        groups.append(Group(neuron, sources, source_spans, span))
    return tuple(groups)


def _alike(a: Neuron, b: Neuron) -> bool:
    """Whether two neurons differ in nothing but scalars and arrays over neurons."""
    if not (a.elementwise and b.elementwise) or jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(jnp.ndim(leaf) <= 1 for leaf in jax.tree.leaves((a, b)))


def _merge(modules: list[PyTree], sizes: list[int]) -> PyTree:
    """One module for all: equal scalars stay scalars, others become arrays over the neurons."""
    if len(modules) == 1:
        return modules[0]

    def leaf(*values):
        scalars = all(jnp.ndim(v) == 0 for v in values) and not is_traced(values)
        if scalars and len({np.asarray(v).item() for v in values}) == 1:
            return values[0]
        parts = [jnp.broadcast_to(v, (n,)) for v, n in zip(values, sizes, strict=True)]
        return jnp.concatenate(parts)

    return jax.tree.map(leaf, *modules)


def _merge_sources(
    drives: list[tuple[Span, tuple[Source, ...]]],
) -> tuple[tuple[Source, ...], tuple[Span, ...]]:
    """One source for like sources of all the populations; else each on its own span."""
    first = drives[0][1]
    merged, spans = [], []
    # What a user's function of time gives may be an array over its own population.
    functions = any(
        isinstance(part, Function)
        for part in jax.tree.leaves(drives, is_leaf=lambda x: isinstance(x, Function))
    )
    same = (
        not functions
        and all(len(sources) == len(first) for _, sources in drives)
        and all(
            jax.tree.structure(a) == jax.tree.structure(b)
            and all(jnp.ndim(x) == 0 for x in jax.tree.leaves((a, b)))
            for _, sources in drives
            for a, b in zip(first, sources, strict=False)
        )
    )
    if same:
        sizes = [end - begin for (begin, end), _ in drives]
        span = (drives[0][0][0], drives[-1][0][1])
        for alike in zip(*(sources for _, sources in drives), strict=True):
            merged.append(_merge(list(alike), sizes))
            spans.append(span)
    else:
        for span, sources in drives:
            merged.extend(sources)
            spans.extend([span] * len(sources))
    return tuple(merged), tuple(spans)


# --- pathways -------------------------------------------------------------------------------------


def _piece(network: Network, projection: Projection, dt: float, dtype: Any) -> Pathway:
    """The pathway of one projection."""
    source = network[projection.source].neuron
    kernel = projection.kernel
    if isinstance(projection.delay, DelayDistribution):
        raise ValueError(
            f"projection {projection.name} has drawn weights and distributed delays: give delays "
            "to from_edges, or an ensemble of weights."
        )
    # A spike at the end of step k acts, through Delta, in the voltage at the end of step k + 1 at
    # the earliest; through other kernels their variable may jump at once.
    early = 1 if kernel.instantaneous else 0
    if projection.delay is None:
        lag = 0
    else:
        try:
            lag = delay_steps(projection.delay, dt) - early
        except ValueError as error:
            raise ValueError(f"projection {projection.name}: {error}") from None
    table = projection.connectivity
    assert isinstance(table, Lists | Dense | Annealed)
    if isinstance(table, Lists) and table.delays is not None:
        if projection.delay is not None:
            raise ValueError(
                f"projection {projection.name} has a delay and delays of its synapses: drop one."
            )
        steps = np.asarray(table.delays, float) / dt
        filled = np.asarray(table.targets) == table.num_post
        if (steps[~filled] < 1 - 1e-6).any():
            raise ValueError(
                f"projection {projection.name}: a synapse has a delay below dt = {dt} s; use a "
                "smaller dt or larger delays."
            )
        if (np.abs(steps - np.rint(steps))[~filled] > 1e-3).any():
            raise ValueError(
                f"projection {projection.name}: a synapse has a delay that is no whole number of "
                f"steps of dt = {dt} s; round the delays to the grid."
            )
        lags = np.where(filled, 0, np.rint(steps) - early).astype(np.int32)
        table = DelayedLists(
            table.targets, table.weights, jnp.asarray(lags), table.num_post, int(lags.max()) + 1
        )
    table = jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, table
    )
    return Pathway(
        table=table,
        kernel=kernel,
        plasticity=projection.plasticity,
        channel=resolve_channel(network, projection),
        pre=network.span(projection.source),
        post=network.span(projection.target),
        lag=lag,
        kind=source.kind,
        differentiable=getattr(source, "spike_gradient", "error") != "error",
    )


def _signature(pathway: Pathway) -> tuple | None:
    """Equal for pathways that may be merged; `None` if this one may not."""
    parts = (pathway.kernel, pathway.plasticity)
    leaves = jax.tree.leaves(parts)
    if pathway.random:
        return None
    if is_traced((leaves, pathway.table)) or any(jnp.ndim(leaf) for leaf in leaves):
        return None
    if jax.tree.leaves(pathway.table)[0].ndim != 2:
        return None
    return (
        type(pathway.table),
        jax.tree.structure(parts),
        tuple(np.asarray(leaf).item() for leaf in leaves),
        pathway.channel,
        pathway.lag,
        pathway.kind,
        pathway.differentiable,
    )


def _merge_pathways(network: Network, pieces: list[Pathway]) -> tuple[Pathway, ...]:
    # Sources with others in between are merged only if those are of the same kind: the rates of
    # units among neurons that spike would count as spikes, with resources to release.
    kinds = [population.neuron.kind for population in network.populations]
    runs = {
        network.span(name): sum(a != b for a, b in itertools.pairwise(kinds[: i + 1]))
        for i, name in enumerate(network.names)
    }
    merged: dict[Any, list[Pathway]] = {}
    for index, piece in enumerate(pieces):
        signature = _signature(piece)
        place = index if signature is None else (runs[piece.pre], *signature)
        merged.setdefault(place, []).append(piece)
    return tuple(_merge_alike(alike) for alike in merged.values())


def _merge_alike(pieces: list[Pathway]) -> Pathway:
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    pre = (min(p.pre[0] for p in pieces), max(p.pre[1] for p in pieces))
    post = (min(p.post[0] for p in pieces), max(p.post[1] for p in pieces))
    combine = _merge_dense if isinstance(first.table, Dense) else _merge_lists
    return Pathway(
        table=combine(pieces, pre, post),
        kernel=first.kernel,
        plasticity=first.plasticity,
        channel=first.channel,
        pre=pre,
        post=post,
        lag=first.lag,
        kind=first.kind,
        differentiable=first.differentiable,
    )


def _merge_dense(pieces: list[Pathway], pre: Span, post: Span) -> Dense:
    weights = np.zeros((pre[1] - pre[0], post[1] - post[0]), _dtype(pieces))
    for piece in pieces:
        rows = slice(piece.pre[0] - pre[0], piece.pre[1] - pre[0])
        columns = slice(piece.post[0] - post[0], piece.post[1] - post[0])
        weights[rows, columns] += np.asarray(_weights(piece))
    return Dense(jnp.asarray(weights))


def _merge_lists(pieces: list[Pathway], pre: Span, post: Span) -> Lists | DelayedLists:
    """The lists of each source, of all its projections, one after the other."""
    num_post = post[1] - post[0]
    rows: dict[Span, list[tuple[Pathway, Lists | DelayedLists]]] = {}
    for piece in pieces:
        assert isinstance(piece.table, Lists | DelayedLists)
        rows.setdefault(piece.pre, []).append((piece, piece.table))
    width = max(sum(table.targets.shape[1] for _, table in row) for row in rows.values())
    targets = np.full((pre[1] - pre[0], width), num_post, np.int32)
    lags = np.zeros_like(targets)
    # One weight a source, if all of its projections have the same.
    single = all(
        _single(piece) is not None and _single(piece) == _single(row[0][0])
        for row in rows.values()
        for piece, _ in row
    )
    weights = np.zeros((pre[1] - pre[0], 1 if single else width), _dtype(pieces))
    for (begin, end), row in rows.items():
        sources = slice(begin - pre[0], end - pre[0])
        column = 0
        for piece, table in row:
            own = np.asarray(table.targets)
            place = slice(column, column + own.shape[1])
            shifted = own + piece.post[0] - post[0]
            targets[sources, place] = np.where(own == piece.num_post, num_post, shifted)
            weights[sources, slice(None) if single else place] = np.asarray(table.weights)
            if isinstance(table, DelayedLists):
                lags[sources, place] = np.asarray(table.lags)
            column += own.shape[1]
    merged = (jnp.asarray(targets), jnp.asarray(weights))
    if isinstance(pieces[0].table, DelayedLists):
        return DelayedLists(*merged, jnp.asarray(lags), num_post, int(lags.max()) + 1)
    return Lists(*merged, None, num_post)


def _weights(pathway: Pathway) -> Float[Array, "pre post"]:
    assert isinstance(pathway.table, Lists | Dense | DelayedLists)
    return pathway.table.weights


def _dtype(pieces: list[Pathway]) -> Any:
    return np.result_type(*(np.asarray(_weights(piece)).dtype for piece in pieces))


def _single(pathway: Pathway) -> float | None:
    """The weight of all synapses, if they are alike."""
    weights = np.asarray(_weights(pathway))
    if weights.shape[1] != 1 or not (weights == weights[0, 0]).all():
        return None
    return float(weights[0, 0])
