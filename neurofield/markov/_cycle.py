"""Limit cycles by shooting, with their Floquet multipliers and implicit derivatives."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from neurofield._numerics import HIGHEST
from neurofield._results import RESULTS, choose

from ._closure import Moments, nodes_of
from ._finite_volume import State
from ._grid import Grid, voltage_grid
from ._ode import FIRST_STEP, SOLVER, TERM, Field, initial_state, step_controller
from ._parameters import Parameters

_FARTHEST = 0.2  # how far a step of Newton's method changes an unknown
_MAX_STEPS = 16384  # in which a period is looked for
NUM_KRYLOV = 12
_LEAST_SWING = 1e-3  # of the pending spikes along a cycle, relative to their mean
_RTOL, _ATOL = 1e-3, 1e-6  # while settling


class Cycle(eqx.Module):
    """A periodic solution of the equations, from its upward passage of a section.

    **Attributes**

    - `period`: seconds. `mean_rate`: `[population]`, hertz per neuron, over the cycle.
    - `phase`: `[phase]`, fractions of the period, rising from 0 to 1: the mesh of the integration,
      fine where the cycle is fast.
    - `rate`: `[population, phase]`, hertz per neuron, and `mean`, `variance`:
      `[post, pre, phase]`, of the pending spikes.
    - `multipliers`: `[multiplier]`, the leading Floquet multipliers, by falling modulus; that of
      the flow itself, 1, is among them. Perturbations that change a number of neurons are not.
    - `stable`: whether all others lie within the unit circle.
    - `state`: at phase 0, where the pending spikes, as fractions of the populations that sent them,
      have the mean `level`.
    - `residual`: of the shooting equations, the largest.
    - `result`: `RESULTS.successful`, or why there is no cycle.
    """

    period: Float[Array, ""]
    mean_rate: Float[Array, " population"]
    phase: Float[Array, " phase"]
    rate: Float[Array, "population phase"]
    mean: Float[Array, "post pre phase"]
    variance: Float[Array, "post pre phase"]
    multipliers: Complex[Array, " multiplier"]
    stable: Bool[Array, ""]
    state: State
    level: Float[Array, ""]
    residual: Float[Array, ""]
    params: Parameters
    result: RESULTS
    grid: Grid = eqx.field(static=True)
    closure: str = eqx.field(static=True)
    num_nodes: int = eqx.field(static=True)


def limit_cycle(
    params: Parameters,
    *,
    closure: str = "coloured",
    num_nodes: int = 4,
    voltage_bin: float = 2.0,
    lowest: float = -40.0,
    initial: Any = None,
    settle: float = 0.5,
    periods: int = 1,
    longest: float = 0.1,
    num_steps: int = 400,
    num_multipliers: int = 6,
    tol: float | None = None,
    max_steps: int = 20,
    throw: bool = True,
) -> Cycle:
    """The limit cycle that a network settles to, or the one near a given cycle.

    Newton's method solves for the state on a section and for the period, over an integration whose
    `num_steps` steps a cycle are fixed fractions of the period (short where an adaptive integration
    takes short ones): third order in their number. The Jacobian is applied, not formed. Period,
    rates and state are differentiable in `params` by the implicit function theorem, forward and
    reverse; `multipliers`, `phase` and `level` are held constant.

    **Arguments** (static but for `params` and `initial`)

    - `closure`, `num_nodes`, `voltage_bin`, `lowest`: as for `solve(backend="ode")`.
    - `initial`: `None` or `"reset"`, `"uniform"`, or a state: where to settle from, for `settle`
      seconds. Or a `Cycle` of the same closure and grid, at other parameters: nothing is
      integrated first, so that unstable cycles can be followed.
    - `periods`: upward passages of the section that make one period, each at most `longest`
      seconds: 2 for the cycle that a period doubling leaves. (A cycle of period 1 also closes
      after 2.)
    - `tol`, `max_steps`: of Newton's method: the largest residual, in fractions of populations.

    **Raises** `ValueError` for a bad argument; `RuntimeError` under `throw` if the network settles
    to an equilibrium, or Newton's method does not converge.
    """
    # Of one multiplier alone none is left, beside the trivial one, to be unstable.
    if periods < 1 or num_steps < 1 or num_multipliers < 2:
        raise ValueError(
            "periods and num_steps must be at least 1, num_multipliers at least 2; got "
            f"{periods}, {num_steps} and {num_multipliers}."
        )
    eps = float(jnp.finfo(params.size.dtype).eps)
    tol = eps**0.7 if tol is None else tol
    grid = voltage_grid(params, voltage_bin, lowest)
    field = Field(params, None, grid, closure, num_nodes)
    frozen = jax.lax.stop_gradient(field)
    if isinstance(initial, Cycle):
        if (initial.grid, initial.closure, initial.num_nodes) != (grid, closure, num_nodes):
            raise ValueError("initial must be a cycle of the same closure, nodes and grid.")
        begin = jax.lax.stop_gradient(initial)
        guess, period, mesh, level = begin.state, begin.period, begin.phase, begin.level
        found = jnp.isfinite(period)
    else:
        where: Any = "reset" if initial is None else initial
        nodes = nodes_of(closure, num_nodes)
        state = initial_state(params, grid, nodes, where) if isinstance(where, str) else where
        settled = _advance(
            frozen, jax.lax.stop_gradient(state), jnp.asarray(settle, params.size.dtype)
        )
        crossing, period, mesh, level, found = _passages(
            frozen, settled, longest * (periods + 1), periods, num_steps
        )
        guess = _advance(frozen, settled, crossing)
    shooting = Shooting(field, mesh, level)
    packed = jnp.where(found, shooting.pack(guess, jnp.log(period)), jnp.nan)
    unknown, residual, result = _newton(shooting, packed, tol, max_steps)
    multipliers, _ = floquet_multipliers(
        *jax.lax.stop_gradient((shooting, unknown)), num_multipliers
    )
    state, log_period = shooting.unpack(unknown)
    period = jnp.exp(log_period)
    end, (rate, moments) = eqx.filter_jit(shooting.flow)(state, period)
    # An equilibrium closes after any time: what does not move is no cycle.
    height = jax.lax.stop_gradient(jnp.mean(moments.mean / params.size[None, None], axis=(1, 2)))
    found = found & ~(jnp.ptp(height) <= _LEAST_SWING * level)
    result = choose(found, result, RESULTS.nonlinear_divergence)
    # All that is returned: under `jit` an error tied to an unused number would be lost.
    returned = (period, state, end, rate, moments)
    if throw:
        returned = eqx.error_if(
            returned,
            ~found,
            "markov.limit_cycle: no cycle was found after settling: an equilibrium, or passages "
            "further apart than `longest`. Settle longer, or begin elsewhere (`initial`).",
        )
        returned = eqx.error_if(
            returned,
            found & (result != RESULTS.successful),
            "markov.limit_cycle: Newton's method did not converge. Settle longer, begin with a "
            "cycle at parameters nearby, raise num_steps, or take throw=False and look at "
            "`residual`.",
        )
    period, state, end, rate, moments = returned
    # The trivial multiplier is the one nearest 1.
    others = jnp.arange(num_multipliers) != jnp.argmin(jnp.abs(multipliers - 1))
    return Cycle(
        period=period,
        mean_rate=end.spikes / period,
        phase=mesh,
        rate=jnp.moveaxis(rate, 0, -1),
        mean=jnp.moveaxis(moments.mean, 0, -1),
        variance=jnp.moveaxis(moments.variance, 0, -1),
        multipliers=multipliers,
        stable=jnp.all(~others | (jnp.abs(multipliers) < 1)) & (residual <= tol) & found,
        state=state,
        level=level,
        residual=residual,
        params=params,
        result=result,
        grid=grid,
        closure=closure,
        num_nodes=num_nodes,
    )


class Shooting(eqx.Module):
    """The equations of a cycle, in a vector of unknowns: a state, and the logarithm of the period.

    Pending spikes are counted as fractions of the population that sent them, so that all unknowns
    are of order 1. `mesh`: `[S + 1]`, fractions of the period at which steps end.
    """

    field: Field
    mesh: Float[Array, " mesh"]
    level: Float[Array, ""]

    def pack(self, state: State, last: Float[Array, ""]) -> Float[Array, " unknown"]:
        size = self.field.params.size[None]
        mean, variance = state.moments.mean / size, state.moments.variance / size
        leaves = (state.occupancy, state.refractory, mean, variance, last)
        return jnp.concatenate([x.ravel() for x in leaves])

    def unpack(self, unknown: Float[Array, " unknown"]) -> tuple[State, Float[Array, ""]]:
        params, count = self.field.params, self.field.params.num_populations
        nodes, bins = len(self.field.nodes.value), self.field.grid.num_bins
        shapes = [(count, nodes, nodes, bins), (count, nodes, nodes), *[(count, count)] * 2]
        ends = np.cumsum([np.prod(s) for s in shapes])
        *parts, last = jnp.split(unknown, ends)
        occupancy, refractory, mean, variance = (
            x.reshape(s) for x, s in zip(parts, shapes, strict=True)
        )
        moments = Moments(mean * params.size[None], variance * params.size[None])
        zero = jnp.zeros(count, unknown.dtype)
        return State(occupancy, refractory, moments, zero), last[0]

    def flow(self, state: State, period: Float[Array, ""]) -> tuple[State, Any]:
        """State after a period, and rates and moments on the mesh."""
        zero = jnp.zeros_like(period)

        def step(y: State, length: Array) -> tuple[State, Any]:
            end, _, dense, _, _ = SOLVER.step(TERM, zero, length, y, self.field, None, False)
            return end, (dense["k0"].spikes / length, y.moments)

        end, trace = jax.lax.scan(step, state, period * jnp.diff(self.mesh))
        last = self.field(zero, end).spikes, end.moments
        return end, jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), trace, last)

    def residual(self, unknown: Float[Array, " unknown"]) -> Float[Array, " unknown"]:
        """What is 0 on a cycle: the return to the state, 1 neuron per neuron, and the section.

        The flow conserves neurons, so that the return alone would leave their number open: what is
        missing to 1 is added evenly.
        """
        state, log_period = self.unpack(unknown)
        end, _ = self.flow(state, jnp.exp(log_period))
        passage = pending(self.field.params, state.moments) - self.level
        complete = add_evenly(state, occupied(state) - 1)
        return self.pack(end, passage) - self.pack(complete, jnp.zeros_like(passage))

    def monodromy(
        self, unknown: Float[Array, " unknown"], change: Float[Array, " unknown"]
    ) -> Float[Array, " unknown"]:
        """What a small change of the state becomes after a period, less any change of numbers.

        The last entries, of the period, are 0.
        """
        state, log_period = self.unpack(unknown)
        zero = jnp.zeros_like(log_period)
        tangent, _ = self.unpack(change)
        tangent = add_evenly(tangent, -occupied(tangent))

        def flow(vector: Array) -> Array:
            return self.pack(self.flow(self.unpack(vector)[0], jnp.exp(log_period))[0], zero)

        return jax.jvp(flow, (self.pack(state, zero),), (self.pack(tangent, zero),))[1]


def occupied(state: State) -> Float[Array, " population"]:
    """Neurons in all, `[population]`, as a fraction: 1."""
    return jnp.sum(state.occupancy, axis=(1, 2, 3)) + jnp.sum(state.refractory, axis=(1, 2))


def add_evenly(state: State, amount: Float[Array, " population"]) -> State:
    """Adds a fraction of each population to its cells, the same to each."""
    each = amount / float(np.prod(state.occupancy.shape[1:]))
    return eqx.tree_at(lambda s: s.occupancy, state, state.occupancy + each[:, None, None, None])


def pending(params: Parameters, moments: Moments) -> Float[Array, ""]:
    """Pending spikes a synapse and source neuron: what is constant on the section of a cycle."""
    return jnp.mean(moments.mean / params.size[None])


@eqx.filter_custom_jvp
def _newton(
    shooting: Shooting, guess: Float[Array, " unknown"], tol: float, max_steps: int
) -> tuple[Float[Array, " unknown"], Float[Array, ""], RESULTS]:
    return newton_krylov(shooting, guess, tol, max_steps)


@_newton.def_jvp
def _newton_jvp(primals: Any, tangents: Any) -> Any:
    """The implicit function theorem: how the root moves as the equations do."""
    shooting, _, _, _ = primals
    unknown, residual, result = _newton(*primals)
    moved = eqx.filter_jvp(lambda s: s.residual(unknown), (shooting,), tangents[:1])[1]

    def matrix(change: Array) -> Array:
        return jax.jvp(shooting.residual, (unknown,), (change,))[1]

    def solve(matrix_fn: Callable[[Array], Array], right: Array) -> Array:
        """Once more, for what the first Krylov space has left over."""
        first = krylov_solve(matrix_fn, right, 2 * NUM_KRYLOV)
        return first + krylov_solve(matrix_fn, right - matrix_fn(first), 2 * NUM_KRYLOV)

    change = -jax.lax.custom_linear_solve(matrix, moved, solve, solve)
    none = jax.tree.map(lambda _: None, result)
    return (unknown, residual, result), (change, jnp.zeros_like(residual), none)


@eqx.filter_jit
def newton_krylov(
    shooting: Shooting, guess: Float[Array, " unknown"], tol: float, max_steps: int
) -> tuple[Float[Array, " unknown"], Float[Array, ""], RESULTS]:
    """Newton's method; each linear system in a small Krylov space.

    The flow contracts nearly all perturbations to nothing within a period, so that a dozen vectors
    leave less than Newton's own error.
    """

    def size(residual: Array) -> Array:
        return jnp.max(jnp.abs(residual))

    def proceed(carry: tuple[Array, Array, Array]) -> Array:
        _, residual, count = carry
        return (size(residual) > tol) & (count < max_steps)

    def improve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        unknown, residual, count = carry

        def matrix(change: Array) -> Array:
            return jax.jvp(shooting.residual, (unknown,), (change,))[1]

        change = krylov_solve(matrix, residual, NUM_KRYLOV)
        largest = jnp.max(jnp.abs(change))
        change = change * jnp.where(largest > _FARTHEST, _FARTHEST / largest, 1)
        return unknown - change, shooting.residual(unknown - change), count + 1

    begin = guess, shooting.residual(guess), jnp.zeros((), int)
    unknown, residual, _ = jax.lax.while_loop(proceed, improve, begin)
    least = size(residual)
    failed = choose(jnp.isfinite(least), RESULTS.nonlinear_max_steps_reached, RESULTS.nonfinite)
    return unknown, least, choose(least <= tol, RESULTS.successful, failed)


@eqx.filter_jit
def floquet_multipliers(
    shooting: Shooting, unknown: Float[Array, " unknown"], count: int
) -> tuple[Complex[Array, " multiplier"], Complex[Array, "multiplier unknown"]]:
    """The leading eigenvalues of the monodromy, and their vectors, by Arnoldi's method."""
    size = min(3 * count, unknown.size)
    start = np.random.default_rng(0).standard_normal(unknown.size)
    basis, hessenberg = arnoldi(
        lambda change: shooting.monodromy(unknown, change),
        shooting.monodromy(unknown, jnp.asarray(start, unknown.dtype)),
        size,
    )
    values, vectors = jnp.linalg.eig(hessenberg[:-1])
    leading = jnp.argsort(-jnp.abs(values))[:count]
    vectors = jnp.matmul(basis.T.astype(vectors.dtype), vectors[:, leading], precision=HIGHEST)
    return values[leading], vectors.T


def arnoldi(
    matrix_fn: Callable[[Array], Array], start: Float[Array, " n"], size: int
) -> tuple[Float[Array, "size n"], Float[Array, "size+1 size"]]:
    """An orthonormal basis of the Krylov space, and the matrix from it to it and one more vector.

    Where the space is exhausted the basis goes on with vectors of 0.
    """
    tiny = 10 * float(jnp.finfo(start.dtype).eps)

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, columns = carry
        image = matrix_fn(basis[i])
        scale = jnp.linalg.norm(image)
        column = jnp.zeros(size + 1, start.dtype)
        for _ in range(2):  # once more against rounding
            part = jnp.matmul(basis, image, precision=HIGHEST)
            image = image - jnp.matmul(part, basis, precision=HIGHEST)
            column = column + part
        rest = jnp.linalg.norm(image)
        some = rest > tiny * scale
        image = jnp.where(some, image / jnp.where(some, rest, 1), 0)
        column = column.at[i + 1].set(jnp.where(some, rest, 0))
        return basis.at[i + 1].set(image), columns.at[:, i].set(column)

    basis = jnp.zeros((size + 1, start.size), start.dtype)
    norm = jnp.linalg.norm(start)
    basis = basis.at[0].set(start / jnp.where(norm > 0, norm, 1))
    columns = jnp.zeros((size + 1, size), start.dtype)
    basis, columns = jax.lax.fori_loop(0, size, step, (basis, columns))
    return basis[:-1], columns


def krylov_solve(
    matrix_fn: Callable[[Array], Array], right: Float[Array, " n"], size: int
) -> Float[Array, " n"]:
    """x of least |right - matrix x| in the Krylov space of `right`."""
    norm = jnp.linalg.norm(right)
    basis, columns = arnoldi(matrix_fn, right, min(size, right.size))
    first = jnp.zeros(columns.shape[0], right.dtype).at[0].set(norm)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        coefficients = jnp.linalg.lstsq(columns, first)[0]
    return jnp.matmul(coefficients, basis, precision=HIGHEST)


def _integrate(field: Field, state: State, duration: Any, saveat: diffrax.SaveAt) -> Any:
    dtype = state.spikes.dtype
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return diffrax.diffeqsolve(
            TERM,
            SOLVER,
            t0=jnp.zeros((), dtype),
            t1=jnp.asarray(duration, dtype),
            dt0=jnp.asarray(FIRST_STEP, dtype),
            y0=state,
            args=field,
            saveat=saveat,
            stepsize_controller=step_controller(_RTOL, _ATOL),
            adjoint=diffrax.ForwardMode(),
            max_steps=_MAX_STEPS if saveat.subs.steps else 1_000_000,
            throw=False,
        )


@eqx.filter_jit
def _advance(field: Field, state: State, duration: Float[Array, ""]) -> State:
    """The state after a time, in seconds."""
    last = _integrate(field, state, duration, diffrax.SaveAt(t1=True)).ys
    return jax.tree.map(lambda x: x[0], last)


@eqx.filter_jit
def _passages(
    field: Field, state: State, duration: float, periods: int, num_steps: int
) -> tuple[Array, Array, Array, Array, Bool[Array, ""]]:
    """Time to a passage of the section, period from there, mesh, level, and whether there is one.

    The mesh has the same share of the adaptive integration's steps in each of its own.
    """

    def keep(t: Any, y: State, args: Field) -> tuple[Array, Array]:
        return t, pending(args.params, y.moments)

    saved = _integrate(field, state, duration, diffrax.SaveAt(steps=True, t0=True, fn=keep))
    time, height = saved.ys
    step = jnp.diff(time)
    some = jnp.isfinite(step)
    step = jnp.where(some, step, 0)
    level = jnp.sum(step * jnp.where(some, height[:-1], 0)) / duration
    inside = jnp.where(jnp.isfinite(height), height, level)
    upward = some & (inside[:-1] < level) & (inside[1:] >= level)
    swing = jnp.max(inside) - jnp.min(inside)
    at = jnp.flatnonzero(upward, size=periods + 1, fill_value=-1)
    found = (
        (at[-1] >= 0)
        & (swing > _LEAST_SWING * level)
        & (saved.result == diffrax.RESULTS.successful)
    )
    at = jnp.where(found, at, jnp.arange(periods + 1))
    share = (level - inside[at]) / (inside[at + 1] - inside[at])
    index = at.astype(share.dtype) + jnp.where(found, share, 0)
    mesh = jnp.linspace(index[0], index[-1], num_steps + 1)
    times = jnp.interp(mesh, jnp.arange(time.size, dtype=time.dtype), time)
    period = times[-1] - times[0]
    return times[0], period, (times - times[0]) / period, level, found
