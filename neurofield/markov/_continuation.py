"""Equilibria along a parameter, and where they change character."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._results import RESULTS, choose
from neurofield._types import Arrayish

from ._arclength import Point, follow, linearised
from ._branch import Bifurcation, Branch
from ._closure import nodes_of
from ._equilibrium import Equilibrium, equilibrium, equilibrium_at, rate_excess, rate_of, unknown_of
from ._grid import voltage_grid
from ._parameters import Parameters
from ._stability import characteristic, leading_eigenvalues, linear_response

Vary = Callable[[Any], Parameters]


def continuation(
    vary: Vary,
    span: tuple[float, float],
    *,
    closure: str = "coloured",
    num_nodes: int = 4,
    voltage_bin: float = 1.0,
    lowest: float = -40.0,
    initial: Arrayish | None = None,
    num_points: int = 300,
    step: float = 0.03,
    max_step: float = 0.1,
) -> Branch:
    """Follows an equilibrium from `span[0]` through folds until the parameter leaves `span` (host).

        def vary(p):
            return eqx.tree_at(lambda q: q.probability, params, params.probability.at[0, 1].set(p))

        branch = markov.continuation(vary, (0.45, 1.05))

    - `vary`: a function of one number, by JAX, to `Parameters`.
    - `closure`, `num_nodes`, `voltage_bin`, `lowest`: as of `solve`.
    - `initial`: rates `[population]` in hertz to look for the first equilibrium from.
    - `step`, `max_step`: the first and the longest, of arclength in the logarithms of the rates and
      the parameter as a share of `span`.

    The branch's `points` are of the kinds "fold" and "hopf". Raises `ValueError` for a bad
    argument; `RuntimeError` where no first equilibrium is found.
    """
    begin, end = float(span[0]), float(span[1])
    if not abs(end - begin) > 0:
        raise ValueError(f"span must be two different numbers, got {span}.")
    dtype = vary(begin).size.dtype
    grid, nodes = voltage_grid(vary(begin), voltage_bin, lowest), nodes_of(closure, num_nodes)
    # One compilation: its parts alone would take longer.
    first = eqx.filter_jit(
        lambda params: (
            equilibrium(
                params,
                closure=closure,
                num_nodes=num_nodes,
                voltage_bin=voltage_bin,
                lowest=lowest,
                initial=initial,
            ).rate
        )
    )(vary(jnp.asarray(begin, dtype)))

    def residual(unknown: Array, parameter: Array) -> Array:
        unknown, parameter = unknown.astype(dtype), parameter.astype(dtype)
        return rate_excess(vary(parameter), grid, closure, nodes, unknown)

    @eqx.filter_jit
    def at(unknown: Array, parameter: Array) -> Equilibrium:
        return equilibrium_at(vary(parameter), grid, closure, num_nodes, unknown)

    known: dict[bytes, tuple[int, np.ndarray]] = {}

    def spectrum(point: Point) -> tuple[int, np.ndarray]:
        key = point.x.tobytes()
        if key not in known:
            x = jnp.asarray(point.x, dtype)
            known[key] = leading_eigenvalues(at(x[:-1], x[-1]))
        return known[key]

    def nearest_pair(point: Point) -> complex:
        """The pair of eigenvalues nearest to the imaginary axis; NaN where there is none."""
        pairs = [complex(z) for z in spectrum(point)[1] if z.imag > 0]
        return min(pairs, key=lambda z: abs(z.real), default=complex(np.nan, np.nan))

    precision = float(jnp.finfo(dtype).eps)
    curve = follow(
        linearised(residual),
        np.asarray(unknown_of(first), float),
        begin,
        (begin, end),
        direction=1 if end > begin else -1,
        scale=np.append(np.ones(first.shape), abs(end - begin)),
        tests={"hopf": lambda point: nearest_pair(point).real},
        step=step,
        max_step=max_step,
        num_points=num_points,
        tol=10 * precision**0.6,
        locate_tol=10 * precision**0.6,
    )
    spectra = [spectrum(point) for point in curve.points]
    leading = np.array([z[0] if len(z) else np.nan for _, z in spectra], complex)

    def rate(point: Point) -> np.ndarray:
        return np.maximum(np.asarray(rate_of(jnp.asarray(point.unknown))), 0)

    def bifurcation(kind: str, point: Point) -> Bifurcation:
        turn = nearest_pair(point).imag / (2 * np.pi) if kind == "hopf" else np.nan
        return Bifurcation(kind, point.parameter, rate(point), float(turn))

    return Branch(
        parameter=np.array([point.parameter for point in curve.points]),
        rate=np.stack([rate(point) for point in curve.points], axis=1),
        stable=np.array([count == 0 for count, _ in spectra]),
        leading=leading,
        frequency=np.abs(np.imag(leading)) / (2 * np.pi),
        points=tuple(bifurcation(event.kind, event.point) for event in curve.events),
        ended=curve.ended,
    )


class BifurcationPoint(eqx.Module):
    """Where an equilibrium bifurcates, with derivatives.

    - `parameter`; `rate`: `[population]`, hertz; `frequency`: hertz, 0 for a fold.
    - `residual`: of the equations; `result`: `RESULTS.successful`, or why the search ended.
    """

    parameter: Float[Array, ""]
    rate: Float[Array, " population"]
    frequency: Float[Array, ""]
    residual: Float[Array, ""]
    result: RESULTS


def bifurcation_point(
    vary: Vary,
    near: Bifurcation,
    *,
    closure: str = "coloured",
    num_nodes: int = 4,
    voltage_bin: float = 1.0,
    lowest: float = -40.0,
    rtol: float | None = None,
    max_steps: int = 20,
    throw: bool = True,
) -> BifurcationPoint:
    """The Hopf point or fold of equilibria next to one that `continuation` found.

    Solves for rates, parameter and (Hopf) frequency at once: stationary rates, and an eigenvalue on
    the imaginary axis, det(1 - R(i omega)) = 0, or (fold) a singular Jacobian of the rates. The
    location is differentiable by the implicit function theorem, forward and reverse, in all that
    `vary` closes over; under `jit` and `vmap`.

    - `near`: of kind "hopf" or "fold"; other arguments as of `continuation`.
    - `rtol`: of the residuals (the logarithms of the rates, the determinant).

    Raises `ValueError` for another kind; `RuntimeError` under `throw` if none was found.
    """
    if near.kind not in ("hopf", "fold"):
        raise ValueError(f"near must be a 'hopf' or a 'fold' of equilibria, got {near.kind!r}.")
    hopf = near.kind == "hopf"
    start = vary(near.parameter)
    dtype, count = start.size.dtype, start.num_populations
    grid, nodes = voltage_grid(start, voltage_bin, lowest), nodes_of(closure, num_nodes)
    tolerance = float(jnp.finfo(dtype).eps) ** (2 / 3) if rtol is None else rtol
    last = [near.parameter, np.log(2 * np.pi * near.frequency)] if hopf else [near.parameter]
    guess = jnp.concatenate([unknown_of(jnp.asarray(near.rate, dtype)), jnp.asarray(last, dtype)])

    def equations(x: Array) -> Array:
        params, unknown = vary(x[count]), x[:count]

        def excess(unknown: Array) -> Array:
            return rate_excess(params, grid, closure, nodes, unknown)

        if hopf:
            there = equilibrium_at(params, grid, closure, num_nodes, unknown)
            omega = jnp.exp(x[count + 1])
            value = characteristic(linear_response(there), jax.lax.complex(0 * omega, omega))
            conditions = jnp.stack([value.real, value.imag])
        else:
            conditions = jnp.linalg.det(jax.jacfwd(excess)(unknown))[None]
        return jnp.concatenate([excess(unknown), conditions])

    def search(fn: Any, x: Array) -> tuple[Array, Array]:
        def twice(x: Array) -> tuple[Array, Array]:
            value = fn(x)
            return value, value

        def improve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, _, step = carry
            jacobian, value = jax.jacfwd(twice, has_aux=True)(x)
            residual = jnp.max(jnp.abs(value))
            change = jnp.linalg.solve(jacobian, value)
            return jnp.where(residual <= tolerance, x, x - change), residual, step + 1

        begin = (x, jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32))
        x, residual, _ = jax.lax.while_loop(
            lambda carry: ~(carry[1] <= tolerance) & (carry[2] < max_steps), improve, begin
        )
        return x, residual

    def tangent_solve(fn: Any, right: Array) -> Array:
        return jnp.linalg.solve(jax.jacfwd(fn)(right), right)

    x, residual = jax.lax.custom_root(equations, guess, search, tangent_solve, has_aux=True)
    found = residual <= tolerance
    if throw:
        x = eqx.error_if(
            x,
            ~found,
            f"markov.bifurcation_point: no {near.kind} within {max_steps} steps of Newton's "
            "method. Begin nearer to one, with the closure and the grid of the continuation.",
        )
    outcomes: Any = (RESULTS.successful, RESULTS.nonlinear_max_steps_reached)
    return BifurcationPoint(
        parameter=x[count],
        rate=rate_of(x[:count]),
        frequency=jnp.exp(x[count + 1]) / (2 * np.pi) if hopf else jnp.zeros((), dtype),
        residual=residual,
        result=choose(found, *outcomes),
    )
