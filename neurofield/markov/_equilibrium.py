"""Stationary solutions of the reduction, by Newton's method on the populations' rates alone."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._results import RESULTS, choose
from neurofield._types import Arrayish
from neurofield._validate import positive

from ._closure import Input, Moments, Nodes, input_of, moment_rates, nodes_of
from ._finite_volume import State, leaving_rate, reset_share, transport
from ._grid import Grid, voltage_grid
from ._ode import Field
from ._parameters import Parameters

_STARTS = (10.0, 1.0, 40.0, 0.1)  # hertz
_STEPS_OF_START = 40
_OUTCOMES: Any = (RESULTS.successful, RESULTS.nonlinear_max_steps_reached)
_SILENT = 1e-6  # hertz: what is far below it counts as no rate
_PACE_OF_INHIBITION = 10.0
_LONGEST_STEP = 2.0  # in the logarithm of a rate
_FIRST_STEP = 0.3  # of the relaxation that Newton's method is damped by, in its time constants


def equilibrium(
    params: Parameters,
    *,
    closure: str = "coloured",
    num_nodes: int = 4,
    voltage_bin: float = 1.0,
    lowest: float = -40.0,
    initial: Arrayish | None = None,
    rtol: float | None = None,
    max_steps: int = 160,
    throw: bool = True,
) -> "Equilibrium":
    """A stationary solution of the reduction's differential equations, stable or not.

    Under constant rates the input is constant, and each population's density is a linear problem
    that gives its own rate: Newton's method finds rates that bring about themselves. Unknowns are
    the logarithms of the rates, `[population]`; the steps are damped as
    implicit steps of d log r / dt = log r_out - log r, which grow as the residual falls
    (pseudo-transient continuation, Kelley & Keyes 1998).

    - `closure`, `num_nodes`, `voltage_bin`, `lowest`: as of `solve` (static).
    - `initial`: rates `[population]` in hertz to begin from; by default a few are tried in turn.
      Where there are several equilibria, the one that is found depends on it.
    - `rtol`: of the rates; by default eps^(2/3) of their dtype.

    Differentiable to any order, forward and reverse, by the implicit function theorem; under `jit`
    and `vmap`, which makes maps of two parameters:

        def rate(p, s):
            changed = eqx.tree_at(
                lambda q: (q.probability, q.charge),
                params,
                (params.probability.at[0, 1].set(p), params.charge.at[0, 0].set(s)),
            )
            return markov.equilibrium(changed, throw=False).rate

        jax.vmap(jax.vmap(rate, (None, 0)), (0, None))(probabilities, charges)  # [p, s, population]

    Raises `ValueError` for a bad argument; `RuntimeError` under `throw` if none was found: else
    `result` says so, and the rates are the last ones.
    """
    grid = voltage_grid(params, voltage_bin, lowest)
    nodes = nodes_of(closure, num_nodes)
    dtype, count = params.size.dtype, params.num_populations
    starts = _starts(initial, count, dtype)
    tolerance = float(jnp.finfo(dtype).eps) ** (2 / 3) if rtol is None else rtol

    def excess(unknown: Array) -> Array:
        return rate_excess(params, grid, closure, nodes, unknown)

    # Inhibition that follows faster than excitation stabilises what it can.
    pace = jnp.where(params.is_inhibitory, _PACE_OF_INHIBITION, jnp.ones(count, dtype))

    def search(fn: Any, _: Array) -> tuple[Array, tuple[Array, Array]]:
        return _newton(fn, starts, pace, tolerance, max_steps)

    def tangent_solve(fn: Any, right: Array) -> Array:
        return jnp.linalg.solve(jax.jacfwd(fn)(right), right)

    unknown, (residual, num_steps) = jax.lax.custom_root(
        excess, starts[0], search, tangent_solve, has_aux=True
    )
    found = residual <= tolerance
    if throw:
        unknown = eqx.error_if(
            unknown,
            ~found,
            f"markov.equilibrium: no stationary rates within {max_steps} steps of Newton's method. "
            "Give `initial` rates near those expected (a long `solve` shows them), raise "
            "max_steps, or take throw=False and look at `result` and `residual`.",
        )
    outcome = (residual, choose(found, *_OUTCOMES), num_steps.astype(jnp.int32))
    return equilibrium_at(params, grid, closure, num_nodes, unknown, outcome)


def rate_excess(
    params: Parameters, grid: Grid, closure: str, nodes: Nodes, unknown: Array
) -> Array:
    """The unknown that comes of the rates, less the one that was given."""
    received = stationary_input(params, closure, nodes, rate_of(unknown))
    log_rate = stationary_density(params, grid, nodes, received)[0]
    return jnp.logaddexp(log_rate, jnp.full_like(log_rate, np.log(_SILENT))) - unknown


def rate_of(unknown: Array) -> Array:
    """Rates in hertz of the unknowns log(rate + 1e-6 Hz): no search ends in how silent one is."""
    return jnp.exp(unknown) - _SILENT


def unknown_of(rate: Array) -> Array:
    return jnp.log(rate + _SILENT)


def equilibrium_at(
    params: Parameters,
    grid: Grid,
    closure: str,
    num_nodes: int,
    unknown: Float[Array, " population"],
    outcome: Any = None,
) -> "Equilibrium":
    """The state under rates that are stationary; `outcome`: (residual, result, steps) if known."""
    nodes, rate = nodes_of(closure, num_nodes), rate_of(unknown)
    received = stationary_input(params, closure, nodes, rate)
    log_rate, occupancy, refractory = stationary_density(params, grid, nodes, received)
    if outcome is None:
        residual = jnp.max(jnp.abs(unknown_of(jnp.exp(log_rate)) - unknown))
        outcome = (residual, RESULTS.successful, jnp.zeros((), jnp.int32))
    residual, result, num_steps = outcome
    moments = stationary_moments(params, rate)
    return Equilibrium(
        rate=jnp.exp(log_rate),
        state=State(occupancy, refractory, moments, jnp.zeros_like(params.size)),
        residual=residual,
        params=params,
        result=result,
        num_steps=num_steps,
        grid=grid,
        closure=closure,
        num_nodes=num_nodes,
    )


def _starts(initial: Arrayish | None, count: int, dtype: Any) -> Float[Array, "start population"]:
    """The unknowns to begin from."""
    if initial is None:
        return unknown_of(jnp.asarray(_STARTS, dtype))[:, None] * jnp.ones((1, count), dtype)
    rates = jax.lax.stop_gradient(jnp.asarray(initial, dtype))
    if rates.shape != (count,):
        raise ValueError(
            f"initial must be the rates of {count} populations in hertz, got the shape "
            f"{rates.shape}."
        )
    positive("initial", rates)
    return unknown_of(rates)[None]


class _Search(NamedTuple):
    """`behind`: the last accepted point and its residual's norm; `length`: of pseudo-time."""

    x: Array
    behind: Array
    norm: Array
    length: Array
    residual: Array
    since: Array
    step: Array


def _newton(
    fn: Any, starts: Array, pace: Array, tolerance: float, max_steps: int
) -> tuple[Array, tuple[Array, Array]]:
    """A zero of `fn`: the unknowns, and (largest residual, number of steps)."""

    def value_twice(x: Array) -> tuple[Array, Array]:
        value = fn(x)
        return value, value

    def unfinished(now: _Search) -> Array:
        return ~(now.residual <= tolerance) & (now.step < max_steps)

    def improve(now: _Search) -> _Search:
        jacobian, value = jax.jacfwd(value_twice, has_aux=True)(now.x)
        norm, residual = jnp.linalg.norm(value), jnp.max(jnp.abs(value))
        well = jnp.isfinite(norm) & jnp.all(jnp.isfinite(jacobian))
        length = now.length * jnp.where(well, jnp.clip(now.norm / norm, 0.1, 10), 0.1)
        damping = jnp.diag(1 / (pace * length))
        change = jnp.linalg.solve(damping - jacobian, value)
        change = change / jnp.maximum(jnp.max(jnp.abs(change)) / _LONGEST_STEP, 1)
        following = jnp.where(well, now.x + change, (now.x + now.behind) / 2)
        behind = jnp.where(well, now.x, now.behind)
        done = well & (residual <= tolerance)
        # Where this start leads nowhere, the next.
        which = (now.step + 1) // _STEPS_OF_START
        again = (now.since + 1 >= _STEPS_OF_START) & (which < len(starts)) & ~done
        start = starts[jnp.minimum(which, len(starts) - 1)]
        return _Search(
            x=jnp.where(done, now.x, jnp.where(again, start, following)),
            behind=jnp.where(again, start, behind),
            norm=jnp.where(again, jnp.inf, jnp.where(well, norm, now.norm)),
            length=jnp.where(again, _FIRST_STEP / 10, length),
            residual=jnp.where(well, residual, jnp.inf),
            since=jnp.where(again, 0, now.since + 1),
            step=now.step + 1,
        )

    far = jnp.asarray(jnp.inf, starts.dtype)
    # The first comparison, with a norm of infinity, multiplies the length by 10.
    length = jnp.asarray(_FIRST_STEP / 10, starts.dtype)
    zero = jnp.zeros((), jnp.int32)
    search = _Search(starts[0], starts[0], far, length, far, zero, zero)
    end = jax.lax.while_loop(unfinished, improve, search)
    # A whole number would need a tangent of its own kind.
    return end.x, (end.residual, end.step.astype(end.x.dtype))


class Equilibrium(eqx.Module):
    """A stationary solution of the differential equations.

    - `rate`: `[population]`, hertz per neuron.
    - `state`: of the differential equations (its count of spikes is 0), which `solve` takes as
      `initial`.
    - `residual`: largest difference of the logarithms of the rates that the synapses were given and
      that they bring about.
    - `params`: what was solved.
    - `result`: `RESULTS.successful`, or why the search ended.
    - `num_steps`: of Newton's method.
    - `grid`, `closure`, `num_nodes`: static.
    """

    rate: Float[Array, " population"]
    state: State
    residual: Float[Array, ""]
    params: Parameters
    result: RESULTS
    num_steps: Array
    grid: Grid = eqx.field(static=True)
    closure: str = eqx.field(static=True)
    num_nodes: int = eqx.field(static=True)

    @property
    def field(self) -> Field:
        """The right-hand side `field(time, state) -> State` of which this is a zero."""
        return Field(self.params, None, self.grid, self.closure, self.num_nodes)


def stationary_moments(params: Parameters, rate: Float[Array, " population"]) -> Moments:
    """Of the pending spikes, under constant rates in hertz."""
    p = params.probability
    mean = p * params.tau * (params.size * rate)[None]
    return Moments(mean, mean * (2 - p) / 2)


def stationary_input(
    params: Parameters, closure: str, nodes: Nodes, rate: Float[Array, " population"]
) -> Input:
    moments = stationary_moments(params, rate)
    _, renewal = moment_rates(params, moments, params.size * rate)
    return input_of(params, closure, nodes, moments, renewal)


def stationary_density(
    params: Parameters, grid: Grid, nodes: Nodes, received: Input
) -> tuple[Float[Array, " population"], Array, Array]:
    """Logarithm of the rate (Hz) under a constant input, occupancy and refractory fractions.

    Eliminates the cells from the lowest up, nodes together: n_k = below_k n_{k+1} + source_k J, J
    the return from refractoriness by node. What is eliminated conserves neurons, so that each
    diagonal is a sum of positive terms (Grassmann, Taksar & Heyman 1985): no cancellation, however
    rare the spikes. On the way down the occupancies are kept as a mantissa and a logarithm.
    """
    rates = transport(params, grid, received)
    # Nothing is resolved of a density that falls by more than this from cell to cell; a smaller
    # number would be lost in the sum with the rates of the renewal.
    least = 1e3 * jnp.finfo(rates.up.dtype).eps
    down = jnp.pad(rates.down, [(0, 0)] * 3 + [(0, 1)])
    up = jnp.maximum(rates.up, least * down)
    count, nodes_squared = up.shape[0], up.shape[1] * up.shape[2]
    shape = (count, nodes_squared, grid.num_bins)
    log_rate, occupancy, refractory = jax.vmap(_one_population, in_axes=(0, 0, 0, 0, None))(
        up.reshape(shape),
        down.reshape(shape),
        renewal_generator(nodes, received),
        leaving_rate(params),
        reset_share(grid, up.dtype),
    )
    return (
        log_rate,
        occupancy.reshape(rates.up.shape),
        refractory.reshape(rates.up.shape[:-1]),
    )


def renewal_generator(nodes: Nodes, received: Input) -> Float[Array, "population nodes nodes"]:
    """Of the renewal of both fluctuations, on pairs of nodes, hertz."""
    chain, one = nodes.generator, np.eye(len(nodes.value))
    pair = np.stack([np.kron(chain, one), np.kron(one, chain)])
    rate = received.renewal
    return jnp.sum(rate[:, :, None, None] * jnp.asarray(pair, rate.dtype)[None], axis=1)


def _one_population(
    up: Float[Array, "nodes bin"],
    down: Float[Array, "nodes bin"],
    renewing: Float[Array, "nodes nodes"],
    leaving: Float[Array, ""],
    returning: Float[Array, " bin"],
) -> tuple[Float[Array, ""], Float[Array, "nodes bin"], Float[Array, " nodes"]]:
    one = jnp.eye(len(up), dtype=up.dtype)

    def eliminate(carry: tuple[Array, Array], cell: tuple[Array, Array, Array]) -> Any:
        again, brought = carry  # of what goes down from here, and of J: what comes up from below
        up, down, share = cell
        off = (renewing + again) * (1 - one)
        diagonal = up + jnp.sum(off, axis=0)
        right = jnp.concatenate([jnp.diag(down), share * one + brought], axis=1)
        solved = jnp.linalg.solve(jnp.diag(diagonal) - off, right)
        below, source = jnp.split(solved, 2, axis=1)
        return (up[:, None] * below, up[:, None] * source), (below, source)

    zero = jnp.zeros_like(one)
    (_, spikes), (below, source) = jax.lax.scan(eliminate, (zero, zero), (up.T, down.T, returning))
    # J is the stationary distribution of a round: from the reset to a spike, and refractoriness.
    rest = jnp.linalg.solve(leaving * one - renewing, spikes)
    flow = jnp.linalg.solve(one - leaving * rest + 1, jnp.ones_like(up[:, 0]))
    flow = flow / jnp.sum(flow)

    def descend(carry: tuple[Array, Array], cell: tuple[Array, Array]) -> Any:
        above, log_scale = carry
        below, source = cell
        here = below @ above + jnp.exp(-log_scale) * (source @ flow)
        size = jnp.maximum(jnp.sum(here), 1)
        scaled = (here / size, log_scale + jnp.log(size))
        return scaled, scaled

    start = (jnp.zeros_like(flow), jnp.zeros_like(leaving))
    _, (mantissa, log_scale) = jax.lax.scan(descend, start, (below, source), reverse=True)
    refractory = rest @ flow
    highest = jax.lax.stop_gradient(jnp.max(log_scale))
    occupancy = mantissa * jnp.exp(log_scale - highest)[:, None]
    total = jnp.sum(occupancy) + jnp.sum(refractory) * jnp.exp(-highest)
    log_rate = -jnp.log(total) - highest
    return log_rate, occupancy.T / total, refractory * jnp.exp(log_rate)
