"""Fitting parameters of a network to what was measured, by generalised least squares."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import contract
from neurofield.fit import RESULTS, AbstractParameter, Fit, FitError, is_successful
from neurofield.network import Network
from neurofield.statistics import Statistics

from ._check import Check
from ._fit_data import join, known_data, prediction
from ._observables import Observables
from ._solve import solve
from ._surface import Data, search

Values = dict[str, Float[Array, ""]]
# What has derivatives; predictions of spikes that reset are rough.
_SMOOTH = ("pathwise", "intensity", "score", "implicit")


class Scaled(AbstractParameter):
    """Numbers of the sign of `reference`: value = reference exp(free)."""

    reference: Float[Array, ""]

    @property
    def domain(self):
        return "finite numbers of the sign of the start, not zero"

    def forward(self, free):
        return self.reference * jnp.exp(free)

    def inverse(self, value):
        return jnp.log(value / self.reference)

    def contains(self, value):
        return jnp.all(jnp.isfinite(value) & (value * self.reference > 0))

    def log_det_jacobian(self, free):
        return jnp.sum(free + jnp.log(jnp.abs(self.reference)))


class Fitted(eqx.Module):
    """A fit of a network to measured statistics.

    - `value`, `error`: the free numbers and their standard errors, by name; the errors are those of
      the measurement and of the theory's paths, and too small where the theory does not fit.
    - `covariance`: `[free, free]`, of the free coordinates (logarithms, unless `spec` says else),
      in the order of `names`.
    - `chi_squared`, `freedom`: the sum of squared residuals, and of how many degrees of freedom.
    - `residuals`: a `Check` of the measured (as the simulated) and the fitted; `print` it for what
      the theory cannot explain.
    - `fit`: how the search ended.
    """

    value: Values
    error: dict[str, Any] | None
    covariance: Float[Array, "free free"]
    chi_squared: Float[Array, ""]
    residuals: Check
    fit: Fit
    problem: Any
    types: dict[str, AbstractParameter]
    freedom: int = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    def __str__(self) -> str:
        error = self.error or dict.fromkeys(self.names, math.nan)
        lines = [f"{n} = {float(self.value[n]):.5g} +- {float(error[n]):.2g}" for n in self.names]
        found = f"chi squared {float(self.chi_squared):.4g} of {self.freedom} degrees of freedom"
        return "\n".join([*lines, found, str(self.residuals)])


class _Problem(eqx.Module):
    """All that residuals need besides the free numbers."""

    key: PRNGKeyArray
    target: Float[Array, " datum"]
    error: Float[Array, " datum"]
    network_fn: Callable[[Values], Network]
    predict_fn: Callable[[Network], dict[str, Array]] | None
    options: dict[str, Any]
    use: tuple[str, ...] = eqx.field(static=True)
    shape: Any = eqx.field(static=True)  # lags or frequencies, see `_shape`
    step: float | None = eqx.field(static=True)  # of finite differences; `None` for derivatives


def fit(
    network_fn: Callable[[Values], Network],
    start: Mapping[str, float],
    measured: Observables | Statistics | Sequence[Statistics],
    duration: float,
    dt: float,
    *,
    key: PRNGKeyArray,
    use: Sequence[str] | None = None,
    spec: Mapping[str, AbstractParameter] | None = None,
    predict_fn: Callable[[Network], dict[str, Array]] | None = None,
    derivative: str = "auto",
    step: float = 0.05,
    width: float = 0.15,
    reference: tuple[Mapping[str, Any], Any] | None = None,
    max_steps: int = 24,
    rtol: float = 0.05,
    throw: bool = True,
    solve_options: Mapping[str, Any] | None = None,
) -> Fitted:
    """Fit free numbers of a network to measured moments, with the theory in place of simulations.

    Weighted least squares: each datum counts by the standard errors of the measurement and of the
    theory. The errors of the result know how those of `Observables` go together
    (the sandwich of White 1982), and those of several `Statistics`, each of a network or stretch of
    its own. Data of one `Statistics` are taken as independent, which neighbouring lags and
    frequencies are not: there the errors are too small.
    What one finite network does differently from the next of its law is in neither
    (`Diagnostics.shift` tells how much), unless the errors are those between networks.

    - `network_fn`: from the free numbers, by name, to a network.
    - `start`: their values at the start; they keep its sign and move on a logarithmic scale, unless
      `spec` gives another type of parameter (`fit.Interval(...)`, ...).
    - `measured`: `measure_observables(...)` of neurons by population, or `Statistics` of population
      means (`statistics.measure(raster, num_lags, populations=True)`), with errors, or several of
      them, whose mean and spread count; populations in the network's order.
    - `use`: the fields that are fitted; by default those that `measured` has but the spectrum.
      `"interval_cv"`, of `measure_observables(..., window=...)`, is counted on sampled spikes and
      has no derivative: with it `"auto"` is `"surface"`, and `"forward"` is refused.
    - `duration`, `dt`, `key`, `solve_options`: of `solve`.
    - `predict_fn`: from a network to the fields used, in place of `solve`, such as the closed form
      of a neuron's rates.
    - `derivative`: `"forward"`, those of the solver, for closed forms, rates and neurons that do
      not reset, and of `predict_fn`; `"surface"`, of quadratic polynomials through solutions, each
      of its own random numbers, at points spread over a box of free coordinates, which starts with
      half the width `width` and follows the minimum: for spikes that reset; `"finite"`, differences
      over the share `step` of each number with common random numbers: quick and rough, with errors
      that are too small where the theory's exceed those differences. `"auto"` takes the first if
      the solution's estimator can, else the second.
    - `reference`: values of the free numbers, and what simulations of their network measured, as
      `measured` of the data: what the theory misses there (finite size and indegree) is added to
      its predictions, with the errors of those simulations. Fit once without, simulate at what was
      found, and fit again.
    - `max_steps`, `rtol`: of Levenberg's and Marquardt's search, which ends at a step below `rtol`
      standard errors of the free numbers. With `"surface"`, `max_steps` rounds of points; converged
      is a minimum inside of a box of 3.5 standard errors, through whose points the surface passes
      within twice their errors.

    Host function. Raises `ValueError` for bad arguments, `FitError` under `throw` if the search
    does not converge.
    """
    names = tuple(start)
    dtype = jnp.result_type(float)
    values = {name: jnp.asarray(x, dtype) for name, x in start.items()}
    if derivative not in ("auto", "forward", "surface", "finite"):
        raise ValueError(
            f"derivative must be 'auto', 'forward', 'surface' or 'finite', got {derivative!r}."
        )
    unknown = sorted(set(spec or {}) - set(names))
    if unknown:
        raise ValueError(f"spec has {unknown}, which are not in start.")
    types = {name: (spec or {}).get(name, Scaled(x)) for name, x in values.items()}
    first = network_fn(values)
    known = known_data(measured, first, use)
    sampled = "interval_cv" in known.use and predict_fn is None
    if sampled and derivative == "forward":
        raise ValueError(
            "interval_cv is counted on sampled spikes and has no derivative: leave it out of use, "
            'or take derivative="surface".'
        )
    target, error, apart = known.target, known.error, known.apart
    if reference is not None:
        values_there, simulated = reference
        there = known_data(simulated, first, known.use)
        if set(values_there) != set(names) or there.shape != known.shape:
            raise ValueError(f"reference must be of values of {list(names)}, measured as the data.")
        target, error = target - there.target, jnp.hypot(error, there.error)
        also = there.apart
        apart = None if apart is None or also is None else jnp.concatenate([apart, also])
        at = {name: jnp.asarray(values_there[name], dtype) for name in names}
    else:
        at = None
    options = {"method": None, "duration": duration, "dt": dt, "response": False}
    options |= dict(solve_options or {})
    if sampled and derivative == "auto":
        derivative = "surface"
    found = None
    if predict_fn is None and derivative != "surface":
        found = solve(first, key=key, **options)
    smooth = predict_fn is not None or (found is not None and found.gradient in _SMOOTH)
    if derivative == "auto":
        derivative = "forward" if smooth else "surface"
    problem = _Problem(
        key=key,
        target=target,
        error=error,
        network_fn=network_fn,
        predict_fn=predict_fn,
        options=options | {"throw": False},
        use=known.use,
        shape=known.shape,
        step=None if derivative == "forward" else step,
    )
    free = jnp.stack([types[name].inverse(values[name]) for name in names])
    if derivative == "surface":
        origin = None if at is None else jnp.stack([types[n].inverse(at[n]) for n in names])
        ended = search(
            partial(_at_points, problem=problem, types=types, names=names),
            np.asarray(free, float),
            Data(
                np.asarray(target, float),
                np.asarray(error, float),
                None if apart is None else np.asarray(apart, float),
                None if origin is None else np.asarray(origin, float),
            ),
            width=width,
            max_steps=max_steps,
        )
        free, covariance = jnp.asarray(ended.free, dtype), jnp.asarray(ended.covariance, dtype)
        error = jnp.asarray(ended.error, dtype)
        target = target + jnp.asarray(ended.origin, dtype)
        residual = (jnp.asarray(ended.predicted, dtype) - target) / error
        residual = jnp.where(jnp.isfinite(error), residual, 0)
        result, stats = ended.result, ended.stats
    else:
        if at is not None:
            target = target + _predict(network_fn(at), problem, key)[0]
        if found is not None:
            _, own, theirs = prediction(found, known.use, known.shape, key)
            if own is not None:
                error = jnp.hypot(error, jnp.where(jnp.isfinite(error), own, 0))
            apart = apart if apart is None or theirs is None else jnp.concatenate([apart, theirs])
        problem = dataclasses.replace(problem, target=target, error=error)
        free, residual, jacobian, result, steps = _search(
            free, problem, types, names, max_steps, rtol
        )
        covariance = jnp.linalg.inv(contract("rf,rg->fg", jacobian, jacobian))
        if apart is not None:
            # The weights of least squares, the errors as they go together.
            scaled = jnp.where(jnp.isfinite(error)[None], apart / error[None], 0)
            moved = contract("fg,rg,pr->pf", covariance, jacobian, scaled)
            covariance = contract("pf,pg->fg", moved, moved)
        stats = {"num_steps": steps}
    problem = dataclasses.replace(problem, target=target, error=error)
    value = {name: types[name].forward(free[i]) for i, name in enumerate(names)}
    slope = {name: jax.grad(types[name].forward)(free[i]) for i, name in enumerate(names)}
    spread = jnp.sqrt(jnp.diagonal(covariance))
    outcome = Fit(
        value,
        error={name: jnp.abs(slope[name]) * spread[i] for i, name in enumerate(names)},
        loss=0.5 * jnp.sum(residual**2),
        result=result,
        stats=stats,
        provenance={
            **{"theory": "meanfield", "use": list(known.use), "derivative": derivative},
            **{"max_steps": max_steps, "rtol": rtol},
        },
    )
    if throw and not is_successful(result):
        raise FitError(
            f"meanfield.fit did not converge ({stats}): {RESULTS[result]} Half the sum of squares "
            f"is {float(outcome.loss):.6g}. Raise max_steps or num_paths, loosen rtol, or start "
            "elsewhere; throw=False takes it as it is.",
            outcome,
        )
    counted = int(np.isfinite(np.asarray(error)).sum())
    kept = np.isfinite(np.asarray(error))
    predicted = known.target + residual * jnp.where(kept, error, 0)
    rows = [np.asarray(x, float)[kept] for x in (predicted, known.target, error, residual)]
    return Fitted(
        value=outcome.value,
        error=outcome.error,
        covariance=covariance,
        chi_squared=jnp.sum(residual**2),
        residuals=Check(
            *rows,
            quantity=tuple(label for label, keep in zip(known.labels, kept, strict=True) if keep),
            num_networks=1,
            duration=math.nan,
            source="measured, with the standard errors of measurement and theory",
        ),
        fit=outcome,
        problem=problem,
        types=types,
        freedom=counted - len(names),
        names=names,
    )


def posterior_draws(
    key: PRNGKeyArray,
    fitted: Fitted,
    num_draws: int,
    *,
    method: str = "laplace",
    num_warm: int = 20,
) -> dict[str, Float[Array, " draw"]]:
    """Draws of the free numbers from the posterior, `[draw]` by name; the prior is flat in the free
    coordinates.

    `method`: `"laplace"`, the Gaussian about the fit; `"hmc"`, Hamiltonian Monte Carlo after
    `num_warm` draws, three solves and their derivatives for each: for posteriors that are not
    Gaussian.
    """
    names = fitted.names
    centre = jnp.stack([fitted.types[n].inverse(fitted.value[n]) for n in names])
    root = jnp.linalg.cholesky(fitted.covariance)
    if method == "laplace":
        z = jax.random.normal(key, (num_draws, len(names)), root.dtype)
    elif method == "hmc":
        z = _hmc(key, fitted, centre, root, num_draws, num_warm)
    else:
        raise ValueError(f"method must be 'laplace' or 'hmc', got {method!r}.")
    free = centre[None] + contract("dg,fg->df", z, root)
    return {n: jax.vmap(fitted.types[n].forward)(free[:, i]) for i, n in enumerate(names)}


def _hmc(key, fitted: Fitted, centre: Array, root: Array, num: int, num_warm: int) -> Array:
    """Hamiltonian Monte Carlo in coordinates in which Laplace's approximation is standard normal.

    Trajectories are of 3 leaps of 0.5, so about a quarter turn of the harmonic motion.
    """

    def potential(z: Array) -> Array:
        free = centre + contract("fg,g->f", root, z)
        values = {n: fitted.types[n].forward(free[i]) for i, n in enumerate(fitted.names)}
        return 0.5 * jnp.sum(_residuals(values, fitted.problem) ** 2)

    value_and_grad = jax.value_and_grad(potential)

    def one(state, key):
        z, energy, slope = state
        draw, choose = jax.random.split(key)
        momentum = jax.random.normal(draw, z.shape, z.dtype)

        def leap(carry, _):
            x, p, _, g = carry
            p = p - 0.25 * g
            x = x + 0.5 * p
            u, g = value_and_grad(x)
            return (x, p - 0.25 * g, u, g), None

        end = jax.lax.scan(leap, (z, momentum, energy, slope), length=3)[0]
        gained = energy - end[2] + 0.5 * (jnp.sum(momentum**2) - jnp.sum(end[1] ** 2))
        # A trajectory where the theory has no solution is not taken.
        taken = jnp.log(jax.random.uniform(choose, (), z.dtype)) < gained
        new = (end[0], end[2], end[3])
        state = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, state)
        return state, state[0]

    @eqx.filter_jit
    def run(keys):
        start = jnp.zeros_like(centre)
        return jax.lax.scan(one, (start, *value_and_grad(start)), keys)[1]

    return run(jax.random.split(key, num + num_warm))[num_warm:]


# --- residuals ------------------------------------------------------------------------------------


def _plain(values: Values, problem: _Problem) -> Float[Array, " datum"]:
    """(predicted - measured) / error; zero where nothing is known."""
    predicted, _ = _predict(problem.network_fn(values), problem, problem.key)
    difference = (predicted - problem.target) / problem.error
    return jnp.where(jnp.isfinite(problem.error), difference, 0)


def _predict(network: Network, problem: _Problem, key: PRNGKeyArray) -> tuple[Array, Array | None]:
    """Predictions and their errors."""
    if problem.predict_fn is not None:
        found = problem.predict_fn(network)
        return join([found[name] for name in problem.use]), None
    solution = solve(network, key=key, **problem.options)
    found, error, _ = prediction(solution, problem.use, problem.shape, key)
    if error is not None:
        # Of neurons that are silent nothing follows for intervals.
        found = jnp.where(jnp.isinf(error), jnp.nan, found)
    return found, error


@eqx.filter_jit
def _at(free: Array, key: PRNGKeyArray, problem: _Problem, types, names) -> tuple[Array, Array]:
    values = {n: types[n].forward(free[i]) for i, n in enumerate(names)}
    predicted, error = _predict(problem.network_fn(values), problem, key)
    return predicted, jnp.full_like(predicted, jnp.nan) if error is None else error


def _at_points(points: np.ndarray, before: int, *, problem: _Problem, types, names):
    """Predictions and their errors, `[point, datum]`, each point with random numbers of its own."""
    each = []
    for index, free in enumerate(points):
        key = jax.random.fold_in(problem.key, before + index)
        each.append(_at(jnp.asarray(free, problem.error.dtype), key, problem, types, names))
    found, errors = zip(*each, strict=True)
    return np.asarray(jnp.stack(found), float), np.asarray(jnp.stack(errors), float)


def _value_and_jacobian(
    flat: Float[Array, " free"], names: tuple[str, ...], problem: _Problem
) -> tuple[Array, Array]:
    def of(flat: Array) -> Array:
        return _plain({n: flat[i] for i, n in enumerate(names)}, problem)

    if problem.step is None:
        jacobian, found = jax.jacfwd(lambda x: (of(x), of(x)), has_aux=True)(flat)
        return found, jacobian
    size = problem.step * jnp.maximum(jnp.abs(flat), 1e-12)
    shift = jnp.diag(size)
    points = jnp.concatenate([flat[None], flat[None] + shift, flat[None] - shift])
    each = jax.lax.map(of, points)
    count = len(names)
    return each[0], ((each[1 : count + 1] - each[count + 1 :]) / (2 * size[:, None])).T


@eqx.filter_custom_jvp
def _residuals(values: Values, problem: _Problem) -> Float[Array, " datum"]:
    """`_plain`, with a derivative that is a matrix, so that it can be taken in reverse."""
    return _plain(values, problem)


@_residuals.def_jvp
def _residuals_jvp(primals, tangents):
    values, problem = primals
    names = tuple(values)
    flat = jnp.stack([values[n] for n in names])
    moved = [jnp.zeros_like(values[n]) if tangents[0][n] is None else tangents[0][n] for n in names]
    found, jacobian = _value_and_jacobian(flat, names, problem)
    return found, contract("rf,f->r", jacobian, jnp.stack(moved))


@eqx.filter_jit
def _linearised(free: Array, problem: _Problem, types, names) -> tuple[Array, Array]:
    """Residuals, and their Jacobian by the free coordinates."""
    flat = jnp.stack([types[n].forward(free[i]) for i, n in enumerate(names)])
    slope = jnp.stack([jax.grad(types[n].forward)(free[i]) for i, n in enumerate(names)])
    found, jacobian = _value_and_jacobian(flat, names, problem)
    return found, jacobian * slope[None]


def _search(free: Array, problem: _Problem, types, names, max_steps: int, rtol: float):
    """Levenberg (1944) and Marquardt (1963), with one compiled function for all steps."""
    residual, jacobian = _linearised(free, problem, types, names)
    if not np.isfinite(residual).all() or not np.isfinite(jacobian).all():
        raise ValueError("the theory has no finite prediction or derivative at the start.")
    damping, growth, result, steps = 1e-3, 2.0, RESULTS.nonlinear_max_steps_reached, 0
    while steps < max_steps:
        steps += 1
        information = contract("rf,rg->fg", jacobian, jacobian)
        scale = jnp.diag(jnp.diagonal(information))
        slope = contract("rf,r->f", jacobian, residual)
        move = -jnp.linalg.solve(information + damping * scale, slope)
        length = float(jnp.sqrt(contract("f,fg,g->", move, information, move)))
        if not math.isfinite(length):
            result = RESULTS.singular
            break
        there = jnp.stack([types[n].forward(free[i] + move[i]) for i, n in enumerate(names)])
        share, new, theirs = -math.inf, residual, jacobian
        # Far out on a logarithmic scale there are no numbers left.
        if bool(jnp.isfinite(there).all()):
            new, theirs = _linearised(free + move, problem, types, names)
            if bool(jnp.isfinite(new).all() & jnp.isfinite(theirs).all()):
                expected = damping * contract("f,fg,g->", move, scale, move) - slope @ move
                share = float((jnp.sum(residual**2) - jnp.sum(new**2)) / expected)
        better = share > 0
        if better:
            free, residual, jacobian = free + move, new, theirs
            # By how well the decrease was foreseen (Nielsen 1999): no see-saw along curved valleys.
            damping, growth = damping * max(1 / 10, 1 - (2 * share - 1) ** 3), 2.0
        else:
            damping, growth = damping * growth, 2 * growth
        # A step that is short because it is damped tells nothing.
        if length < rtol and (better or damping < 1):
            result = RESULTS.successful
            break
        if damping > 1e6:
            result = RESULTS.stalled
            break
    return free, residual, jacobian, result, steps
