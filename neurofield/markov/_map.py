"""The published discrete-time map: occupancies and mean voltages of bins, in explicit steps."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from neurofield._numerics import all_finite, contract
from neurofield._results import RESULTS, choose
from neurofield._types import PyTree

from ._closure import Input, Moments, Nodes, input_of, moment_rates
from ._grid import Grid
from ._ode import DriveFactor, Trace, factor_at
from ._parameters import Parameters
from ._transition import cumulative, from_below, moves, transition

Refractory = Literal["exact", "published"]

_EMPTY = 1e-10  # neurons: a bin with no more has the mean voltage of its centre
_DECIMALS = 1e10  # the published program rounds numbers of neurons to ten decimals
_START = 1e-4  # mV: the sum of the published program's voltages at the start


class MapState(eqx.Module):
    """Numbers of neurons in the bins, their summed voltages, and the moments of their synapses.

    - `count`: `[population, M, M, K]`, neurons by excitatory node, inhibitory node, and bin.
    - `voltage`: `[population, M, M, K]`, mV, summed over the neurons of the bin.
    - `refractory`: `[population, M, M]`, neurons.
    - `moments`: of the pending spikes.
    - `flow`: `[population]`, spikes per second of the whole population in the last step.
    - `spikes`: `[population]`, spikes per neuron since the start.
    """

    count: Float[Array, "population node node bin"]
    voltage: Float[Array, "population node node bin"]
    refractory: Float[Array, "population node node"]
    moments: Moments
    flow: Float[Array, " population"]
    spikes: Float[Array, " population"]


class _Step(eqx.Module):
    """The map, with its configuration."""

    params: Parameters
    drive_factor: DriveFactor | None
    closure: str = eqx.field(static=True)
    grid: Grid = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    refractory: Refractory = eqx.field(static=True)

    def __call__(self, nodes: Nodes, time: Any, state: MapState) -> MapState:
        """All that moves depends on the state before: spikes are felt two steps later."""
        params, dt = self.params, self.dt
        change, renewal = moment_rates(params, state.moments, state.flow)
        factor = factor_at(self.drive_factor, time, params)
        received = input_of(params, self.closure, nodes, state.moments, renewal, factor)
        mean = mean_voltage(self.grid, state.count, state.voltage)
        published = self.refractory == "published"
        move = _rounded if published else _moved
        count, voltage, fired = move(params, self.grid, received, mean, dt, state)
        leaving = (_published_return if published else _return)(params, dt, state, fired)
        refractory = state.refractory + fired - leaving
        at = self.grid.reset_bin
        count = count.at[..., at].add(leaving)
        if params.reset != 0:
            voltage = voltage.at[..., at].add(leaving * params.reset)
        if len(nodes.value) > 1:
            kernel = exchange_kernel(nodes, dt * received.renewal)
            both = jnp.concatenate([count, voltage, refractory[..., None]], axis=-1)
            both = contract("qij,qjlk->qilk", kernel[:, 0], both)
            both = contract("qij,qljk->qlik", kernel[:, 1], both)
            bins = self.grid.num_bins
            count, voltage = both[..., :bins], both[..., bins:-1]
            refractory = both[..., -1]
        fired = jnp.sum(fired, axis=(1, 2))
        return MapState(
            count,
            voltage,
            refractory,
            jax.tree.map(lambda x, rate: x + dt * rate, state.moments, change),
            fired / dt,
            state.spikes + fired / params.size,
        )


def mean_voltage(
    grid: Grid,
    count: Float[Array, "population node node bin"],
    voltage: Float[Array, "population node node bin"],
) -> Float[Array, "population node node bin"]:
    """Of the neurons in each bin, mV: within the bin, and at its centre where there are none."""
    some = count > _EMPTY
    edges = jnp.asarray(grid.edges, count.dtype)[(None,) * 3]
    mean = jnp.clip(voltage / jnp.where(some, count, 1), edges[..., :-1], edges[..., 1:])
    return jnp.where(some, mean, jnp.asarray(grid.centres, count.dtype)[(None,) * 3])


def _moved(
    params: Parameters, grid: Grid, received: Input, mean: Array, dt: float, state: MapState
) -> tuple[Array, Array, Array]:
    """Neurons and summed voltages after the step, and the neurons that spiked.

    Summed over the sources before the difference between edges: so the matrices of `transition`
    need not be made, at a quarter of the time. Empty bins come out as 0 to rounding, of either
    sign. What goes below the lowest bin is lumped into it.
    """
    steps = moves(params, grid, received, mean, dt)
    edges = jnp.asarray(grid.edges[1:], mean.dtype)[(None,) * 4]
    below, moment = cumulative(edges, *(x[..., None] for x in steps))
    fired = jnp.sum(state.count * (1 - below[..., -1]), axis=-1)
    return (
        from_below(contract("qijk,qijkl->qijl", state.count, below)),
        from_below(contract("qijk,qijkl->qijl", state.count, moment)),
        fired,
    )


def _rounded(
    params: Parameters, grid: Grid, received: Input, mean: Array, dt: float, state: MapState
) -> tuple[Array, Array, Array]:
    """The same with the published program's rounding, and what goes to the lowest bin lost."""
    steps = moves(params, grid, received, mean, dt)
    to, fire, moment = transition(grid, steps, lowest="drop")
    possible = to >= _EMPTY
    moved = _round(state.count[..., None] * jnp.where(possible, to, 0))
    reached = jnp.where(possible, moment / jnp.where(possible, to, 1), 0)
    fired = _round(state.count * jnp.where(fire >= _EMPTY, fire, 0))
    return jnp.sum(moved, axis=-2), jnp.sum(moved * reached, axis=-2), jnp.sum(fired, axis=-1)


@jax.custom_jvp
def _round(count: Array) -> Array:
    """To ten decimals, the smallest such number to none; with the derivative of the identity."""
    units = jnp.round(count * _DECIMALS)
    return jnp.where(units > 1, units / _DECIMALS, 0)


_round.defjvps(lambda tangent, out, count: tangent)


def _return(params: Parameters, dt: float, state: MapState, fired: Array) -> Array:
    """Neurons whose refractoriness ends in a step, `[population, M, M]`."""
    rate = params.refractory_rate[:, None, None]
    old = state.refractory * -jnp.expm1(-dt * rate)
    return jnp.where(jnp.isinf(rate), state.refractory + fired, old)


def _published_return(params: Parameters, dt: float, state: MapState, fired: Array) -> Array:
    """As in the published program: spikes of a step are taken from a flow, both per millisecond."""
    rate = params.refractory_rate[:, None, None]
    none = jnp.isinf(rate)
    flow = fired - (state.refractory + fired) * (1e-3 * jnp.where(none, 0, rate))
    return jnp.where(none, fired, jnp.abs(flow) * (1e3 * dt))


def exchange_kernel(nodes: Nodes, time: Float[Array, "population 2"]) -> Array:
    """`[population, 2, M, M]`: the chain of nodes over a time in units of its renewal, exactly."""
    left, decay, right = (
        jnp.asarray(x, time.dtype) for x in (nodes.left, nodes.decay, nodes.right)
    )
    return contract("ij,qsj,jk->qsik", left, jnp.exp(-time[..., None] * decay[None, None]), right)


def initial_map_state(
    params: Parameters, grid: Grid, nodes: Nodes, where: Any = "reset"
) -> MapState:
    """All neurons at the reset, or uniform between reset and threshold; no spike pending."""
    if where not in ("reset", "uniform"):
        raise ValueError(f"initial must be 'reset', 'uniform' or a state; got {where!r}.")
    cells, mean = np.zeros(grid.num_bins), np.array(grid.centres)
    if where == "reset":
        cells[grid.reset_bin], mean[grid.reset_bin] = 1, params.reset
    else:
        cells[grid.reset_bin :] = 1 / (grid.num_bins - grid.reset_bin)
    weight = np.multiply.outer(np.outer(nodes.weight, nodes.weight), cells)
    size = params.size[:, None, None, None]
    count = size * jnp.asarray(weight, size.dtype)[None]
    zero = jnp.zeros_like(params.probability)
    return MapState(
        count,
        count * jnp.asarray(mean, size.dtype)[None, None, None],
        jnp.zeros_like(count[..., 0]),
        Moments(zero, zero),
        jnp.zeros_like(params.size),
        jnp.zeros_like(params.size),
    )


def _counting_from(spikes: Array, state: MapState) -> MapState:
    return eqx.tree_at(lambda s: s.spikes, state, spikes)


def _filled(params: Parameters, state: MapState) -> MapState:
    """A state whose neurons are as many as `params.size` says, none of which has spiked.

    The state's own may be those of other parameters, or held constant in a derivative by the size.
    """
    held = jnp.sum(state.count, axis=(1, 2, 3)) + jnp.sum(state.refractory, axis=(1, 2))
    factor = params.size / held
    return MapState(
        state.count * factor[:, None, None, None],
        state.voltage * factor[:, None, None, None],
        state.refractory * factor[:, None, None],
        state.moments,
        state.flow * factor,
        jnp.zeros_like(state.spikes),
    )


def require_like(state: PyTree, like: PyTree) -> None:
    """Raises `ValueError` unless a state has the structure and the shapes of another."""
    same = jax.tree.structure(state) == jax.tree.structure(like)
    shapes = [jnp.shape(x) for x in jax.tree.leaves(state)]
    wanted = [jnp.shape(x) for x in jax.tree.leaves(like)]
    if not same or shapes != wanted:
        raise ValueError(
            "initial must be the final state of a solution by the same back end, closure, nodes "
            f"and grid: leaves of shapes {wanted}, got {shapes}."
        )


def require_fine(params: Parameters, dt: float) -> None:
    """Raises `ValueError` where an explicit step of `dt` seconds overshoots a decay."""
    # `np.asarray`: a constant under `jit` is no tracer, but a reduction of it would be one.
    if not isinstance(params.tau, Tracer) and np.asarray(params.tau).min() < 2 * dt:
        raise ValueError(
            f"dt = {dt} s must be at most half of each tau, for variances of pending spikes decay "
            f"at 2 / tau in explicit steps; the shortest tau is "
            f"{np.asarray(params.tau).min():.6g} s."
        )
    if not isinstance(params.leak, Tracer) and np.asarray(params.leak).max() * dt > 1:
        raise ValueError(
            f"dt = {dt} s must be at most 1 / leak; the largest leak is "
            f"{np.asarray(params.leak).max():.6g} Hz."
        )


def run_map(
    params: Parameters,
    duration: float,
    *,
    closure: str,
    nodes: Nodes,
    grid: Grid,
    initial: Any,
    drive_factor: DriveFactor | None,
    save_dt: float,
    save_occupancy: bool,
    dt: float,
    refractory: Refractory,
) -> tuple[Trace, MapState, RESULTS, dict[str, Any]]:
    """Traces at the ends of the bins (the start first), and the last state.

    Under reverse mode the steps of one bin are kept in memory, of the others one state a bin.
    """
    if refractory not in ("exact", "published"):
        raise ValueError(f"refractory must be 'exact' or 'published', got {refractory!r}.")
    num_bins, steps = round(duration / save_dt), round(save_dt / dt)
    step = _Step(params, drive_factor, closure, grid, dt, refractory)
    require_fine(params, dt)
    state = initial_map_state(params, grid, nodes, initial) if isinstance(initial, str) else initial
    require_like(state, initial_map_state(params, grid, nodes))
    state = _filled(params, state)
    dtype = params.size.dtype

    def observe(state: MapState) -> Trace:
        refractory = jnp.sum(state.refractory, axis=(1, 2))
        voltage = jnp.sum(state.voltage, axis=(1, 2, 3)) + refractory * params.reset
        cells = jnp.sum(state.count, axis=(1, 2)) / params.size[:, None]
        return Trace(
            state.spikes,
            state.moments,
            voltage / params.size,
            refractory / params.size,
            cells if save_occupancy else None,
        )

    def one(state: MapState, count: Array) -> tuple[MapState, None]:
        return step(nodes, dt * count.astype(dtype), state), None

    @jax.checkpoint
    def one_bin(state: MapState, index: Array) -> tuple[MapState, Trace]:
        # Spikes are counted anew in each bin: a long sum would lose the small terms in rounding.
        before, state = state.spikes, _counting_from(0 * state.spikes, state)
        state, _ = jax.lax.scan(one, state, index * steps + jnp.arange(steps))
        return _counting_from(before + state.spikes, state), observe(state)

    final, later = jax.lax.scan(one_bin, state, jnp.arange(num_bins))
    trace = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), observe(state), later
    )
    result = choose(all_finite(final), RESULTS.successful, RESULTS.nonfinite)
    return trace, final, result, {"num_steps": jnp.asarray(num_bins * steps)}
