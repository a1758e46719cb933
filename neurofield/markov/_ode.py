"""The differential equations of the reduction, and their integration by diffrax."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import all_finite
from neurofield._results import RESULTS, choose
from neurofield._types import PyTree

from ._closure import Input, Moments, Nodes, input_of, moment_rates, nodes_of, renewal_rate
from ._finite_volume import (
    State,
    Transport,
    implicit_exchange,
    implicit_transport,
    master_equation,
    transport,
)
from ._grid import Grid
from ._parameters import Parameters
from ._rosenbrock import RosenbrockW

DriveFactor = Callable[[Any], Any]
FIRST_STEP = 1e-5  # seconds
_LONGEST_DRIVEN_STEP = 1e-3  # seconds, under a drive that changes in time


class Field(eqx.Module):
    """The right-hand side of the ordinary differential equations, with its configuration."""

    params: Parameters
    drive_factor: DriveFactor | None
    grid: Grid = eqx.field(static=True)
    closure: str = eqx.field(static=True)
    num_nodes: int = eqx.field(static=True)

    @property
    def nodes(self) -> Nodes:
        return nodes_of(self.closure, self.num_nodes)

    def received(
        self, time: Any, state: State
    ) -> tuple[Input, Transport, Moments, Float[Array, " population"]]:
        """Input, rates between cells, time derivative of the moments, rates in hertz."""
        factor = factor_at(self.drive_factor, time, self.params)
        # The renewal of the chains depends on the spikes that leave now, and these on the input;
        # but the input only carries the renewal, which is put in once it is known.
        none = jnp.zeros_like(self.params.tau)
        received = input_of(self.params, self.closure, self.nodes, state.moments, none, factor)
        rates = transport(self.params, self.grid, received)
        rate = jnp.sum(rates.spiking(state.occupancy), axis=(1, 2))
        change, renewal = moment_rates(self.params, state.moments, self.params.size * rate)
        rate_of_chains = renewal_rate(self.params, self.closure, state.moments, renewal)
        received = eqx.tree_at(lambda r: r.renewal, received, rate_of_chains)
        return received, rates, change, rate

    def __call__(self, time: Any, state: State) -> State:
        """Time derivative of the state, per second."""
        return self.slope(state, *self.received(time, state))

    def slope(
        self,
        state: State,
        received: Input,
        rates: Transport,
        change: Moments,
        rate: Float[Array, " population"],
    ) -> State:
        occupancy, refractory = master_equation(
            self.params, self.grid, self.nodes, received, rates, state
        )
        return State(occupancy, refractory, change, rate)

    def linearise(
        self, time: Any, state: State, step: Any
    ) -> tuple[State, Callable[[State], State]]:
        """The time derivative, and (1 - step W)^-1.

        W is the transport, and apart the exchange of nodes and the decay of the moments: what is
        stiff in the Jacobian.
        """
        found = self.received(time, state)
        received, rates, _, _ = found
        move = implicit_transport(self.params, self.grid, rates, step)
        renewal, loss = step * received.renewal, step / self.params.tau

        def solve(right: State) -> State:
            occupancy = implicit_exchange(self.nodes, renewal, right.occupancy)
            refractory = implicit_exchange(self.nodes, renewal, right.refractory[..., None])
            occupancy, refractory = move(occupancy, refractory[..., 0])
            moments = Moments(
                right.moments.mean / (1 + loss), right.moments.variance / (1 + 2 * loss)
            )
            return State(occupancy, refractory, moments, right.spikes)

        return self.slope(state, *found), solve


TERM = diffrax.ODETerm(lambda t, y, field: field(t, y))
SOLVER = RosenbrockW(lambda t, y, field, step: field.linearise(t, y, step))


def step_controller(
    rtol: float, atol: float, longest: float | None = None
) -> diffrax.AbstractStepSizeController:
    """The choice of adaptive steps, of at most `longest` seconds."""
    return diffrax.PIDController(rtol=rtol, atol=atol, pcoeff=0.2, icoeff=0.5, dtmax=longest)


def factor_at(drive_factor: DriveFactor | None, time: Any, params: Parameters) -> Array | None:
    """The factor on the drive at a time, `[population]`."""
    if drive_factor is None:
        return None
    factor = jnp.asarray(drive_factor(time), params.drive.dtype)
    return jnp.broadcast_to(factor, params.drive.shape)


def initial_state(params: Parameters, grid: Grid, nodes: Nodes, where: str = "reset") -> State:
    """All neurons at the reset, or uniform between reset and threshold; no spike pending."""
    if where not in ("reset", "uniform"):
        raise ValueError(f"initial must be 'reset', 'uniform' or a state; got {where!r}.")
    cells = np.zeros(grid.num_bins)
    if where == "reset":
        cells[grid.reset_bin - 1 : grid.reset_bin + 1] = 0.5
    else:
        cells[grid.reset_bin :] = 1 / (grid.num_bins - grid.reset_bin)
    weight = np.multiply.outer(np.outer(nodes.weight, nodes.weight), cells)
    count, dtype = params.num_populations, params.size.dtype
    occupancy = jnp.broadcast_to(jnp.asarray(weight, dtype)[None], (count, *weight.shape))
    refractory = jnp.zeros((count, *weight.shape[:2]), dtype)
    zero = jnp.zeros((count, count), dtype)
    return State(occupancy, refractory, Moments(zero, zero), jnp.zeros(count, dtype))


class Trace(eqx.Module):
    """What is kept of a state at one time, and the spikes per neuron in the bin that ends then."""

    spikes: Float[Array, " population"]
    moments: Moments
    voltage: Float[Array, " population"]
    refractory: Float[Array, " population"]
    occupancy: Float[Array, "population bin"] | None


def observe(params: Parameters, grid: Grid, state: State, save_occupancy: bool) -> Trace:
    cells = jnp.sum(state.occupancy, axis=(1, 2))
    refractory = jnp.sum(state.refractory, axis=(1, 2))
    centres = jnp.asarray(grid.centres, cells.dtype)
    voltage = jnp.sum(cells * centres[None], axis=1) + refractory * params.reset
    kept = cells if save_occupancy else None
    return Trace(state.spikes, state.moments, voltage, refractory, kept)


def integrate(
    field: Field,
    state: State,
    duration: float,
    save_dt: float,
    *,
    save_occupancy: bool,
    rtol: float,
    atol: float,
    max_steps: int,
    adjoint: str,
    solver: diffrax.AbstractSolver | None,
    controller: diffrax.AbstractStepSizeController | None,
) -> tuple[Trace, State, RESULTS, dict[str, Any]]:
    """Traces at the ends of the bins (the start first), and the last state."""
    num_bins = round(duration / save_dt)
    dtype = field.params.size.dtype
    times = jnp.asarray(save_dt * np.arange(num_bins + 1), dtype)
    if controller is None:
        # At rest steps grow without bound, and would pass over a pulse of the drive.
        longest = None if field.drive_factor is None else min(save_dt, _LONGEST_DRIVEN_STEP)
        controller = step_controller(rtol, atol, longest)

    def keep(t: Any, y: State, args: Field) -> Trace:
        return observe(args.params, args.grid, y, save_occupancy)

    adjoints = {
        "reverse": diffrax.RecursiveCheckpointAdjoint(),
        "forward": diffrax.ForwardMode(),
    }
    if adjoint not in adjoints:
        raise ValueError(f"adjoint must be 'reverse' or 'forward', got {adjoint!r}.")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        solved = diffrax.diffeqsolve(
            TERM,
            SOLVER if solver is None else solver,
            t0=times[0],
            t1=times[-1],
            dt0=jnp.asarray(min(FIRST_STEP, save_dt), dtype),
            y0=state,
            args=field,
            saveat=diffrax.SaveAt(
                subs=[
                    diffrax.SubSaveAt(ts=times, fn=keep),
                    diffrax.SubSaveAt(t1=True),
                ]
            ),
            stepsize_controller=controller,
            adjoint=adjoints[adjoint],
            max_steps=max_steps,
            throw=False,
        )
    saved: Any = solved.ys
    trace, final = saved
    in_bins = jnp.diff(trace.spikes, axis=0, prepend=jnp.zeros_like(trace.spikes[:1]))
    trace = eqx.tree_at(lambda x: x.spikes, trace, in_bins)
    final = jax.tree.map(lambda x: x[0], final)
    return trace, final, _outcome(solved.result, final), dict(solved.stats)


def _outcome(result: Any, final: PyTree) -> RESULTS:
    other = choose(
        result == diffrax.RESULTS.max_steps_reached,
        RESULTS.nonlinear_max_steps_reached,
        RESULTS.nonlinear_divergence,
    )
    well = choose(all_finite(final), RESULTS.successful, RESULTS.nonfinite)
    return choose(result == diffrax.RESULTS.successful, well, other)
