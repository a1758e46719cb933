"""`simulate`: the direct simulation of a network, the microscopic truth."""

import os
from collections.abc import Mapping, Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from tqdm import tqdm

from neurofield._numerics import all_finite
from neurofield.recording import Raster
from neurofield.statistics import Statistics

from ._check import check_end, check_network, whole_steps
from ._circuit import Circuit, build_circuit
from ._deliver import Method
from ._measure import measure_rates, measure_spikes
from ._network import Network
from ._realise import is_traced, realise
from ._spike import log_chance
from ._step import CircuitState, StepOutput, init_state, num_keys, step_circuit
from ._store import Checkpoint
from ._traces import Trace, choose_traces, record


class Intervals(eqx.Module):
    """Interspike intervals of each neuron: their number, mean (s) and coefficient of variation.

    Mean and variation are 0 where there are fewer than one and two intervals.
    """

    count: Float[Array, "*batch neuron"]
    mean: Float[Array, "*batch neuron"]
    cv: Float[Array, "*batch neuron"]


class Simulation(eqx.Module):
    """What `simulate` returns.

    - `raster`: spike counts of the neurons that spike, or the states of binary ones at the ends of
      the bins, `[neuron, bin]`; `None` if there are only rates.
    - `traces`: `traces[population][name]`, `[neuron, bin]` (an input: `[channel, neuron, bin]`),
      at the ends of the bins.
    - `statistics`: by population, of the raster; for rates, of the population's mean rate; `None`
      if `num_lags` is.
    - `log_prob`: `[bin]`, log-probability of what the neurons emitted given the past, in nats; the
      first bin's also of the states that binary neurons start from. `None` unless asked for.
    - `intervals`: `Intervals`, or `None` unless asked for.
    - `info`: `finite`, whether every state and input is; `num_active`, the most sources delivered
      from in one step, counted only where `capacity` is given (else 0).
    """

    raster: Raster | None
    traces: dict[str, dict[str, Array]]
    statistics: Statistics | None
    log_prob: Float[Array, "*batch bin"] | None
    intervals: Intervals | None
    info: dict[str, Array]


class _Options(eqx.Module):
    """What the compiled loop must know besides the circuit."""

    dt: float = eqx.field(static=True)
    steps_per_bin: int = eqx.field(static=True)
    chunk: int = eqx.field(static=True)  # bins
    first: int = eqx.field(static=True)  # bin that is recorded
    stop: int = eqx.field(static=True)  # first bin that is not; the last chunk may go on
    traces: tuple[Trace, ...] = eqx.field(static=True)
    spans: tuple[tuple[int, int], ...] = eqx.field(static=True)
    discrete: tuple[tuple[int, int], ...] = eqx.field(static=True)  # spans that the raster holds
    method: Method | None = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    intervals: bool = eqx.field(static=True)
    log_prob: bool = eqx.field(static=True)


class _IntervalState(eqx.Module):
    since: Float[Array, " neuron"]  # steps since the last spike; negative before the first
    count: Float[Array, " neuron"]
    mean: Float[Array, " neuron"]  # in steps
    squares: Float[Array, " neuron"]  # sum of squared deviations, in steps


class _Carry(eqx.Module):
    circuit: CircuitState
    intervals: _IntervalState | None
    num_active: Int[Array, ""]
    finite: Array


class _Bins(eqx.Module):
    """What a bin gives; of a chunk, with time first."""

    counts: Array  # uint8 [bin, neuron]
    means: Array  # [bin, population]
    traces: dict[str, dict[str, Array]]
    log_prob: Array | None
    most: Array  # [bin], largest count


def simulate(
    key: PRNGKeyArray,
    network: Network,
    duration: float,
    dt: float,
    *,
    bin_width: float | None = None,
    warm_up: float = 0.0,
    traces: Sequence[str] | Mapping[str, Sequence[str]] = (),
    trace_neurons: int | None = None,
    num_lags: int | None = 1,
    intervals: bool = False,
    log_prob: bool = False,
    method: Method | None = None,
    capacity: int | None = None,
    num_chunks: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
    throw: bool = True,
) -> Simulation:
    """Simulate a network for `duration` seconds in steps of `dt` seconds.

    Weights that are not drawn yet are drawn from the key first (`realise`). The same key gives the
    same result, whichever way the time is cut into chunks. Works under `jit`, and under `vmap` over
    keys and parameters; for many realisations of the noise on one connectivity, `realise` first.

    **Main arguments**

    - `bin_width`: seconds, of the raster and the traces; by default 1 ms, or `dt` if longer.
    - `warm_up`: seconds simulated before the recording begins.
    - `traces`: names of what to record, for all populations that have it, or by population:
      fields of a neuron's state such as `"voltage"`, `"output"`, `"input"`, `"intensity"`.
      `trace_neurons`: how many of each population, the first ones; all by default.
    - `num_lags`: lags of the statistics, in bins; `None` to leave the statistics out.
    - `intervals`: whether to measure interspike intervals, exact to a step.
    - `log_prob`: whether to return the log-probability of sampled spikes and states.

    **Other arguments**

    - `method`: how spikes are delivered: `"events"` (a loop over them), `"lists"` (all at once, in
      lists of bucketed capacity), `"matmul"` (the only one with a reverse mode, always used for
      rates and with `spike_gradient`); by default events on a CPU, lists elsewhere.
    - `capacity`: the longest spike list of a step that `"lists"` may meet; by default every neuron,
      so that nothing can overflow. More spikes than that are an error, never lost.
    - `num_chunks`: pieces that time is cut into, by default about the root of the number of bins;
      a gradient stores the states between chunks and steps through one chunk at a time.
    - `checkpoint`: a folder, for what is done so far, written after each chunk; `resume=True` goes
      on from it and gives the same spikes as an unbroken run. `progress`: a bar. For both the call
      must not be traced.
    - `throw`: raise if a state or an input becomes infinite or NaN; else see `info["finite"]`.

    **Gradients.** Exact for networks of rates (reverse mode, checkpointed by chunks). Spikes and
    sampled states raise `TypeError` under differentiation unless their neurons ask for an estimator
    by `spike_gradient`; see `score_gradient`. A raster is of whole numbers: it and its statistics
    have no derivative, the trace `"output"` has.

    **Raises** `ValueError` for parameters that are not finite, steps too coarse for a neuron,
    delays below `dt` or off its grid, durations and bins that are no whole number of steps, spike
    lists that overflow, more than 255 spikes of a neuron in a bin; `FloatingPointError` for states
    that are not finite.
    """
    if bin_width is None:
        bin_width = max(1e-3, dt)
    network = check_network(network, dt)
    if capacity is not None and method != "lists":
        raise ValueError(f'capacity is for method="lists", got method={method!r}.')
    steps_per_bin = whole_steps("bin_width", bin_width, dt)
    num_warm = whole_steps("warm_up", warm_up, bin_width, least=0, unit="bin_width")
    num_bins = num_warm + whole_steps("duration", duration, bin_width, unit="bin_width")
    connect_key, init_key, run_key = jax.random.split(key, 3)
    network = realise(connect_key, network, dt)
    circuit = build_circuit(network, dt)
    traced = is_traced((key, network))
    num_chunks = round(num_bins**0.5) if num_chunks is None else num_chunks
    if not 1 <= num_chunks <= num_bins:
        raise ValueError(f"num_chunks must lie in 1 .. {num_bins} (the bins), got {num_chunks}.")
    chunk = -(-num_bins // num_chunks)
    spans = tuple(network.span(name) for name in network.names)
    kinds = [population.neuron.kind for population in network.populations]
    options = _Options(
        dt=float(dt),
        steps_per_bin=steps_per_bin,
        chunk=chunk,
        first=num_warm,
        stop=num_bins,
        traces=choose_traces(network, circuit, traces, trace_neurons),
        spans=spans,
        discrete=tuple(s for s, kind in zip(spans, kinds, strict=True) if kind != "rate"),
        method=method,
        capacity=network.size if capacity is None else int(capacity),
        intervals=intervals,
        log_prob=log_prob,
    )
    start = carry = _start(init_key, circuit, options)
    starts = range(0, num_bins, chunk)
    if traced:
        if checkpoint is not None or progress:
            raise ValueError("checkpoint and progress are for calls outside of jit, vmap and grad.")
        run = jax.checkpoint(partial(_run_chunk, options))
        carry, bins = jax.lax.scan(
            lambda c, first: run(circuit, c, run_key, first), carry, jnp.asarray(starts, jnp.int32)
        )
        bins = jax.tree.map(lambda x: _joined(x)[num_warm:num_bins], bins)
    else:
        store = Checkpoint.open(checkpoint, resume, (key, network), options, num_bins)
        carry, bins = _run_all(circuit, carry, run_key, starts, options, store, progress)
        bins = jax.tree.map(
            lambda *x: jnp.asarray(np.concatenate(x)[num_warm:num_bins]), bins[0], *bins[1:]
        )
    if log_prob and num_warm == 0:
        # What the neurons start from precedes what they emit in the first bin.
        states = zip(circuit.groups, start.circuit.neurons, strict=True)
        drawn = [group.neuron.initial_log_prob(state) for group, state in states]
        added = jnp.sum(jnp.stack([jnp.asarray(x).astype(circuit.dtype) for x in drawn]))
        bins = eqx.tree_at(lambda b: b.log_prob, bins, bins.log_prob.at[0].add(added))
    return _finish(network, carry, bins, options, bin_width, num_lags, throw)


def _run_all(circuit, carry, key, starts, options, store, progress):
    first = jnp.int32(starts[0])
    like = jax.eval_shape(partial(_run_chunk, options), circuit, carry, key, first)[1]
    done, carry = store.load(carry, like)
    for first in tqdm(starts[len(done) :], disable=not progress, unit="chunk"):
        carry, bins = _run_chunk_jit(options, circuit, carry, key, jnp.int32(first))
        done.append(jax.tree.map(np.asarray, bins))
        store.save(carry, done[-1])
    return carry, done


def _start(key: PRNGKeyArray, circuit: Circuit, options: _Options) -> _Carry:
    state = init_state(key, circuit, options.dt)
    intervals = None
    if options.intervals:
        zeros = jnp.zeros(circuit.size, circuit.dtype)
        intervals = _IntervalState(zeros - 1, zeros, zeros, zeros)
    return _Carry(state, intervals, jnp.int32(0), jnp.bool(True))


def _run_chunk(
    options: _Options, circuit: Circuit, carry: _Carry, key: PRNGKeyArray, first_bin: Array
) -> tuple[_Carry, _Bins]:
    return jax.lax.scan(
        lambda c, b: _run_bin(options, circuit, c, key, b),
        carry,
        first_bin + jnp.arange(options.chunk, dtype=jnp.int32),
    )


_run_chunk_jit = jax.jit(_run_chunk)


def _run_bin(
    options: _Options, circuit: Circuit, carry: _Carry, key: PRNGKeyArray, bin_index: Array
) -> tuple[_Carry, _Bins]:
    steps = bin_index * options.steps_per_bin + jnp.arange(options.steps_per_bin, dtype=jnp.int32)
    keys = jax.vmap(lambda s: jax.random.split(jax.random.fold_in(key, s), num_keys(circuit)))(
        steps
    )
    zeros = jnp.zeros(circuit.size, circuit.dtype)
    wanted = bin_index < options.stop  # of a chunk's last bins nothing is asked, not even sense
    recorded = (bin_index >= options.first) & wanted
    has_binary = any(group.neuron.kind == "binary" for group in circuit.groups)

    def one(loop, x):
        carry, total, log_prob, bad, _ = loop
        step, own_keys = x
        state, out = step_circuit(
            own_keys, circuit, carry.circuit, step, options.dt, options.method, options.capacity
        )
        values = jnp.concatenate([value.astype(circuit.dtype) for value in out.values])
        intervals = carry.intervals
        if intervals is not None:
            intervals = _count_intervals(intervals, values, recorded)
        if options.log_prob:
            log_prob = log_prob + _log_prob(circuit, out, options.dt)
        active = jnp.maximum(carry.num_active, jnp.where(wanted, out.num_active, 0))
        # Each step's input too: a binary neuron that is fed NaN is 0, and shows nothing of it. They
        # are noted one by one, and looked over at the end of the bin: a reduction a step is slow.
        bad = tuple(b | ~jnp.isfinite(x) for b, x in zip(bad, out.inputs, strict=True))
        carry = _Carry(state, intervals, active, carry.finite)
        last = (values if has_binary else None, out if options.traces else None)
        return (carry, total + values, log_prob, bad, last), None

    # The last step's output is kept where it is asked for; its shape is that of any step's.
    good = tuple(
        jnp.zeros((len(group.neuron.channels), group.size), bool) for group in circuit.groups
    )
    first = (carry, zeros, zeros[0], good, None)
    shape = jax.eval_shape(lambda: one(first, (steps[0], keys[0]))[0][-1])
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
    (carry, total, log_prob, bad, (last, out)), _ = jax.lax.scan(
        one, (carry, zeros, jnp.zeros((), circuit.dtype), good, blank), (steps, keys)
    )
    content = []
    for group in circuit.groups:
        begin, end = group.span
        binary = group.neuron.kind == "binary"
        content.append((last if binary else total)[begin:end])
    counts = jnp.concatenate(content)
    kept = [counts[begin:end] for begin, end in options.discrete]
    discrete = jnp.concatenate(kept) if kept else jnp.zeros(0, circuit.dtype)
    discrete = jax.lax.stop_gradient(discrete)
    means = [jnp.mean(total[begin:end]) / options.steps_per_bin for begin, end in options.spans]
    sound = all_finite((carry.circuit.neurons, total)) & ~jnp.any(
        jnp.stack([jnp.any(b) for b in bad])
    )
    finite = carry.finite & (sound | ~wanted)
    return eqx.tree_at(lambda c: c.finite, carry, finite), _Bins(
        counts=discrete.astype(jnp.uint8),
        means=jnp.stack(means),
        traces=record(options.traces, carry.circuit, out) if options.traces else {},
        log_prob=log_prob if options.log_prob else None,
        most=jnp.max(discrete, initial=0),
    )


def _count_intervals(state: _IntervalState, spikes: Array, recorded: Array) -> _IntervalState:
    """Welford's running mean and variance of the intervals, for the neurons that spike now."""
    spikes = jnp.where(recorded, spikes, 0)
    since = jnp.where(state.since >= 0, state.since + 1, state.since)
    ended = jnp.where(since > 0, spikes, 0)
    count = state.count + ended
    deviation = since - state.mean
    mean = state.mean + ended * deviation / jnp.maximum(count, 1)
    squares = state.squares + ended * deviation * (since - mean)
    return _IntervalState(jnp.where(spikes > 0, 0, since), count, mean, squares)


def _log_prob(circuit: Circuit, out: StepOutput, dt: float) -> Array:
    """Log-probability of the step's sampled outputs, by neurons that know their intensity."""
    total = jnp.zeros((), circuit.dtype)
    for group, value, intensity in zip(circuit.groups, out.values, out.intensities, strict=True):
        if intensity is None or group.neuron.kind == "rate":
            continue
        chance = intensity * dt if group.neuron.kind == "spike" else intensity
        log_prob = log_chance(jax.lax.stop_gradient(value).astype(chance.dtype), chance)
        total = total + jnp.sum(log_prob).astype(circuit.dtype)
    return total


# --- result ---------------------------------------------------------------------------------------


def _finish(
    network: Network,
    carry: _Carry,
    bins: _Bins,
    options: _Options,
    bin_width: float,
    num_lags: int | None,
    throw: bool,
) -> Simulation:
    # All that is returned passes through, so that a compiled caller cannot drop the check.
    result = (bins, carry.intervals, carry.num_active, carry.finite)
    bins, found, num_active, finite = check_end(
        result, carry.finite, carry.num_active, bins.most, options.capacity, options.dt, throw
    )
    kinds = [population.neuron.kind for population in network.populations]
    raster = None
    if options.discrete:
        inside = [i for i, kind in enumerate(kinds) if kind != "rate"]
        sizes = [network.populations[i].size for i in inside]
        raster = Raster(
            bins.counts.T,
            bin_width,
            populations=np.repeat(np.arange(len(inside)), sizes),
            population_names=[network.names[i] for i in inside],
        )
    statistics = None
    if num_lags is not None:
        if raster is not None:
            statistics = measure_spikes(raster, num_lags)
        else:
            statistics = measure_rates(bins.means.T, network.names, bin_width, num_lags)
    intervals = None
    if found is not None:
        variance = found.squares / jnp.maximum(found.count - 1, 1)
        cv = jnp.sqrt(variance) / jnp.where(found.mean > 0, found.mean, 1)
        intervals = Intervals(found.count, found.mean * options.dt, cv)
    return Simulation(
        raster=raster,
        traces=jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), bins.traces),
        statistics=statistics,
        log_prob=bins.log_prob,
        intervals=intervals,
        info={"num_active": num_active, "finite": finite},
    )


def _joined(chunks: Array) -> Array:
    """`[chunk, bin, ...]` as `[bin, ...]`."""
    num_chunks, chunk, *rest = chunks.shape
    return chunks.reshape(num_chunks * chunk, *rest)
