"""Fitting parameters to what was recorded under several conditions, and what data can tell.

Two rates do not determine four parameters, and at one drive only products of charge and
probability enter the mean input: record under several drives, or the course of a response.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float

from neurofield import fit as fitting
from neurofield._numerics import HIGHEST
from neurofield._types import PRNGKey, PyTree
from neurofield.fit import AbstractParameter, Fit
from neurofield.statistics import Statistics

from ._free import Values, free_values, parameter_types, with_values
from ._loss import settle
from ._parameters import Parameters
from ._readout import binned_rate, mean_rate
from ._solution import Solution
from ._solve import solve
from ._statistics import statistics

# A tangent of forward mode costs about what the solve does, reverse mode about five solves for each
# number that is looked at, and memory for its checkpoints.
_REVERSE_COST = 5


class Condition(eqx.Module):
    """What was measured under one condition, and how the model predicts it.

    `steady` and `response` make the usual ones.

    - `target`: a pytree of arrays.
    - `error`: its standard errors, in the same structure; infinite where nothing is known.
    - `predict_fn`: from a `Solution` to a pytree like `target`.
    - `drive`: multiplies the drive and its variance: a number, `[population]`, or a function of
      time in seconds.
    - `covariance`: `[datum, datum]`, of the entries of `target` in the order of `ravel_pytree`,
      in place of `error`; `None` for independent errors.
    - `duration`, `save_dt`: seconds, of the solve (static); `settling`: seconds before it, at the
      drive of its start, without derivative (static).
    """

    target: PyTree
    error: PyTree
    predict_fn: Callable[[Solution], PyTree]
    drive: Any = 1.0
    covariance: Float[Array, "datum datum"] | None = None
    duration: float = eqx.field(static=True, default=0.5)
    save_dt: float = eqx.field(static=True, default=1e-3)
    settling: float = eqx.field(static=True, default=0.0)


class _Steady(eqx.Module):
    names: tuple[str, ...] = eqx.field(static=True)
    discard: float = eqx.field(static=True)
    num_lags: int = eqx.field(static=True)
    segment_length: int | None = eqx.field(static=True)

    def __call__(self, solution: Solution) -> dict[str, Array]:
        if self.names == ("rate",):
            return {"rate": mean_rate(solution, discard=self.discard)}
        found = statistics(
            solution,
            discard=self.discard,
            num_lags=self.num_lags,
            segment_length=self.segment_length,
            finite_size=True,
        )
        return {name: getattr(found, name) for name in self.names}


class _Course(eqx.Module):
    def __call__(self, solution: Solution) -> Array:
        return binned_rate(solution)


def steady(
    measured: Statistics,
    drive: Any = 1.0,
    *,
    use: Sequence[Literal["rate", "covariance", "lagged", "spectrum"]] = ("rate",),
    duration: float = 0.5,
    discard: float = 0.2,
    rate_covariance: ArrayLike | None = None,
) -> Condition:
    """A stationary recording, or one of the spiking network, as a condition of a fit.

    - `measured`: of populations: `statistics.measure(raster, num_lags, populations=True)` or
      `network.simulate(...).statistics`, with errors.
    - `drive`: factor of the drive in this condition.
    - `use`: the fields that are fitted; what is symmetric counts once. Covariances and spectra are
      those of the deterministic course with independent Poisson counts added
      (`statistics(..., finite_size=True)`): right where the network oscillates, too small where
      fluctuations are shared but not oscillating. Spectra from few segments are correlated between
      frequencies, which the errors leave out.
    - `duration`, `discard`: seconds the model is solved for, and left out at its beginning.
    - `rate_covariance`: `[population, population]`, of the errors of the rates, which synchrony
      correlates, in place of `measured.rate_error`; then `use` must be the rate alone.

    Raises `ValueError` where a field or its error was not measured.
    """
    names = tuple(use)
    target, error = {}, {}
    for name in names:
        value, spread = getattr(measured, name), getattr(measured, f"{name}_error")
        if value is None or (spread is None and rate_covariance is None):
            raise ValueError(f"measured has no {name} with an error: measure it, or leave it out.")
        mask = getattr(measured, f"{name}_mask")
        spread = jnp.ones(value.shape) if spread is None else spread
        target[name] = jnp.asarray(value)
        spread = spread if mask is None else jnp.where(mask, spread, jnp.inf)
        error[name] = _once(name, measured, spread)
    if rate_covariance is not None and names != ("rate",):
        raise ValueError(f"rate_covariance is for use=('rate',), got {names}.")
    length = None
    if "spectrum" in names:
        assert measured.frequency is not None
        length = round(1 / (float(measured.frequency[1]) * measured.bin_width))
    lagged = target.get("lagged")
    return Condition(
        target,
        error,
        _Steady(names, discard, 1 if lagged is None else lagged.shape[-3], length),
        _factor(drive),
        None if rate_covariance is None else jnp.asarray(rate_covariance),
        duration=duration,
        save_dt=measured.bin_width if names != ("rate",) else _rate_bin(duration, discard),
    )


def response(
    rate: Float[Array, "population bin"],
    error: Float[Array, "population bin"],
    drive: Any,
    *,
    bin_width: float,
    settling: float = 0.0,
) -> Condition:
    """The time course of the rates, such as the response to a step, as a condition of a fit.

    - `rate`, `error`: hertz per neuron, mean over trials and its standard error, in bins of
      `bin_width` seconds from the beginning of the solve.
    - `drive`: factor of the drive, a function of time: an `eqx.Module` where it has arrays.
    - `settling`: seconds of the model before, at the drive of its start, without derivative.
    """
    duration = rate.shape[-1] * bin_width
    return Condition(
        rate,
        error,
        _Course(),
        _factor(drive),
        duration=duration,
        save_dt=bin_width,
        settling=settling,
    )


def value_and_jacobian(
    observe_fn: Callable[[Solution], Any],
    params: Parameters,
    duration: float,
    *,
    free: Sequence[str],
    mode: Literal["auto", "forward", "reverse"] = "auto",
    **solve_options: Any,
) -> tuple[PyTree, dict[str, PyTree]]:
    """`observe_fn(solve(params, duration, ...))`, and its derivative by each free number.

    - `observe_fn`: from a `Solution` to a pytree of real arrays: one number is a loss.
    - `free`: names of entries, as in `fit`; the derivatives are by their values.
    - `mode`: `"forward"`, whose cost grows with the free numbers, `"reverse"` with checkpoints,
      whose cost grows with the numbers observed, or the cheaper of both.
    - `solve_options`: what `solve` takes, but for `adjoint`.

    Works under `jit`.
    """
    values = free_values(params, free)
    flat, unravel = ravel_pytree(values)

    def observed(flat: Array, adjoint: str) -> tuple[PyTree, PyTree]:
        found = with_values(params, unravel(flat))
        observed = observe_fn(solve(found, duration, adjoint=adjoint, **solve_options))
        return observed, observed

    if mode == "auto":
        outputs = jax.tree.leaves(jax.eval_shape(lambda x: observed(x, "reverse")[0], flat))
        num_outputs = sum(x.size for x in outputs)
        mode = "forward" if len(flat) <= _REVERSE_COST * num_outputs else "reverse"
    if mode == "forward":
        jacobian, value = jax.jacfwd(lambda x: observed(x, "forward"), has_aux=True)(flat)
    elif mode == "reverse":
        jacobian, value = jax.jacrev(lambda x: observed(x, "reverse"), has_aux=True)(flat)
    else:
        raise ValueError(f"mode must be 'auto', 'forward' or 'reverse', got {mode!r}.")
    # `ravel_pytree` takes a dict in the order of its keys.
    columns = {
        name: jax.tree.map(lambda x, i=i: x[..., i], jacobian)
        for i, name in enumerate(sorted(values))
    }
    return value, {name: columns[name] for name in values}


def fit(
    params: Parameters,
    conditions: Sequence[Condition],
    *,
    free: Sequence[str],
    spec: Mapping[str, AbstractParameter] | None = None,
    solver: Any = None,
    max_steps: int = 64,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    throw: bool = True,
    **solve_options: Any,
) -> Fit:
    """Fit free entries of the parameters to what was measured under several conditions.

    Weighted least squares with forward-mode Jacobians: each datum counts by its standard error (or
    the covariance of its condition).

    - `params`: the start, and what stays as it is.
    - `conditions`: from `steady`, `response`, or `Condition`. As many data as free numbers at
      least; `identifiability` says which combinations they leave open.
    - `free`: what is fitted; each name is one number. `"charge[E,I]"` is one entry (post, pre),
      `"tau[:,I]"` all of a column, tied, `"drive & drive_variance"` both fields, tied.
    - `spec`: types of free numbers by name (`fit.Interval(...)`, ...); by default they are positive
      and move on a logarithmic scale, probabilities within (0, 1), the reversal anywhere.
    - `solver`: an optimistix least-squares solver; by default Powell's dogleg, whose steps along
      sloppy directions are long, with `rtol` and `atol` on steps in free coordinates and on half
      the sum of squares.
    - `solve_options`: what `solve` takes, such as `backend`, `closure`, `voltage_bin`, `initial`;
      for every condition.

    **Returns** a `Fit` whose `value` and `error` are `Parameters`: the errors are of the given
    standard errors alone, zero for what is fixed. `loss` is half the sum of squares, of which twice
    is a chi-squared variable of (data of finite error - free numbers) degrees of freedom if the
    model is right: a loss far above says that it is not, and the errors are then too small. Where
    the network has several attractors, or a bifurcation nearby, start close. Host function.

    **Raises** `ValueError` for a bad argument; `FitError` under `throw` if it does not converge.
    """
    values, types = free_values(params, free), parameter_types(free, spec)
    if solver is None:
        solver = optx.Dogleg(rtol=rtol, atol=atol)
    found = fitting.least_squares(
        _tabulated,
        values,
        args=(params, tuple(conditions), _Options(solve_options)),
        spec=types,
        solver=solver,
        max_steps=max_steps,
        rtol=rtol,
        atol=atol,
        standardised=True,
        provenance={"theory": "markov", "free": list(free)},
        throw=throw,
    )
    error = None
    if found.error is not None:
        zero = jax.tree.map(jnp.zeros_like, params)
        error = with_values(zero, found.error)
    value = with_values(params, found.value)
    return eqx.tree_at(
        lambda f: (f.value, f.error), found, (value, error), is_leaf=lambda x: x is None
    )


class Information(eqx.Module):
    """What data tell of free numbers near some values: a Gaussian in free coordinates.

    - `matrix`: `[free, free]`, Fisher's information of the free coordinates: of the logarithms
      where the type is the usual one, so that errors are relative.
    - `coordinates`: `[free]`, where the numbers are, in free coordinates.
    - `names`: of the free numbers (static); `types`: their parameter types.
    - `params`: all parameters.
    """

    matrix: Float[Array, "free free"]
    coordinates: Float[Array, " free"]
    types: tuple[AbstractParameter, ...]
    params: Parameters
    names: tuple[str, ...] = eqx.field(static=True)

    def covariance(self) -> Float[Array, "free free"]:
        """Of the free coordinates; raises `RuntimeError` if the data leave a direction open."""
        directions = identifiability(self)
        smallest, largest = directions.information[0], directions.information[-1]
        tolerance = len(self.names) * float(jnp.finfo(self.matrix.dtype).eps)
        root = directions.vectors / jnp.sqrt(directions.information)[None]
        return eqx.error_if(
            jnp.matmul(root, root.T, precision=HIGHEST),
            ~(smallest > tolerance * largest),
            "the data leave a combination of the free numbers open: look at identifiability(...), "
            "fix one of them, or add conditions.",
        )

    def at(self, coordinates: Float[Array, " free"]) -> Parameters:
        """The parameters at free coordinates."""
        values = {
            name: kind.forward(x)
            for name, kind, x in zip(self.names, self.types, coordinates, strict=True)
        }
        return with_values(self.params, values)


class Directions(eqx.Module):
    """Combinations of free numbers from the least to the best determined.

    - `information`: `[direction]`, eigenvalues of the information matrix, ascending: the standard
      error along a direction is 1 / sqrt, in free coordinates.
    - `vectors`: `[free, direction]`, of length 1.
    - `names`: of the free numbers (static).
    """

    information: Float[Array, " direction"]
    vectors: Float[Array, "free direction"]
    names: tuple[str, ...] = eqx.field(static=True)


def fisher_information(
    params: Parameters,
    conditions: Sequence[Condition],
    *,
    free: Sequence[str],
    spec: Mapping[str, AbstractParameter] | None = None,
    **solve_options: Any,
) -> Information:
    """Fisher's information of free numbers in data with Gaussian errors: J' C^-1 J.

    J is the derivative of what the conditions predict, C the covariance of their errors; targets
    are not looked at, so that an experiment can be judged before it is made. Arguments as of
    `fit`; at the fitted parameters the inverse is the covariance of the fit. Raises `ValueError`
    for a bad argument, and for a number that is no inner point of its type's domain.
    """
    values, types = free_values(params, free), parameter_types(free, spec)
    fitting.unconstrain(types, values)  # at the border of a domain the information would be 0
    kinds = tuple(types[name] for name in values)
    start = jnp.stack([kind.inverse(x) for kind, x in zip(kinds, values.values(), strict=True)])
    options = _Options(solve_options)
    jacobian = _jacobian(start, tuple(values), kinds, params, tuple(conditions), options)
    matrix = jnp.matmul(jacobian.T, jacobian, precision=HIGHEST)
    return Information(matrix, start, kinds, params, tuple(values))


def identifiability(information: Information) -> Directions:
    """Which combinations of the free numbers the data determine, and which are sloppy."""
    eigenvalues, vectors = jnp.linalg.eigh(information.matrix)
    return Directions(eigenvalues, vectors, information.names)


def posterior_draws(key: PRNGKey, information: Information, num_draws: int) -> Parameters:
    """Parameters with a leading axis of draws from the Gaussian of Laplace's approximation.

    Gaussian in free coordinates, with a prior flat in them: `information` is
    `fisher_information(fit(...).value, ...)`. Good for `vmap` over `solve`: predictions with their
    uncertainty. Raises `RuntimeError` if the data leave a direction open.
    """
    spread = jnp.linalg.cholesky(information.covariance())
    dtype = spread.dtype
    normal = jax.random.normal(key, (num_draws, len(information.names)), dtype)
    free = information.coordinates[None] + jnp.matmul(normal, spread.T, precision=HIGHEST)
    return jax.vmap(information.at)(free)


class _Options(eqx.Module):
    """Keywords of `solve`, as a pytree: its arrays may be traced, the rest is static."""

    keywords: dict[str, Any]


@eqx.filter_jit
def _jacobian(
    start: Array,
    names: tuple[str, ...],
    types: tuple[AbstractParameter, ...],
    params: Parameters,
    conditions: tuple[Condition, ...],
    options: _Options,
) -> Float[Array, "datum free"]:
    def residuals(coordinates: Array) -> Array:
        values = {
            name: kind.forward(x) for name, kind, x in zip(names, types, coordinates, strict=True)
        }
        return _residuals(values, params, conditions, options)

    return jax.jacfwd(residuals)(start)


def _residuals(
    values: Values, params: Parameters, conditions: tuple[Condition, ...], options: _Options
) -> Float[Array, " datum"]:
    """(predicted - measured) / error of all conditions. Alike conditions are compiled once."""
    params = with_values(params, values)
    groups: dict[Any, list[int]] = {}
    parts = [eqx.partition(condition, eqx.is_array) for condition in conditions]
    for index, (arrays, rest) in enumerate(parts):
        shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(arrays))
        fixed, structure = jax.tree.flatten(rest)
        kind = (jax.tree.structure(arrays), shapes, structure, tuple(fixed))
        groups.setdefault(kind, []).append(index)
    found: dict[int, Array] = {}
    for members in groups.values():
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(parts[i][0] for i in members))
        rest = parts[members[0]][1]

        def one(arrays: Condition, rest: Condition = rest) -> Array:
            return _residual(params, eqx.combine(arrays, rest), options.keywords)

        rows = jax.lax.map(one, stacked)
        found |= {i: rows[k] for k, i in enumerate(members)}
    return jnp.concatenate([found[i] for i in range(len(conditions))])


@eqx.filter_custom_jvp
def _tabulated(
    values: Values, params: Parameters, conditions: tuple[Condition, ...], options: _Options
) -> Float[Array, " datum"]:
    """`_residuals`, with a derivative that is a matrix: a solver may transpose it.

    The loop of an adaptive solve in forward mode has no transpose.
    """
    return _residuals(values, params, conditions, options)


@_tabulated.def_jvp
def _tabulated_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    values, *rest = primals
    flat, unravel = ravel_pytree(values)

    def residuals(flat: Array) -> tuple[Array, Array]:
        found = _residuals(unravel(flat), *rest)
        return found, found

    jacobian, found = jax.jacfwd(residuals, has_aux=True)(flat)
    moved = ravel_pytree(tangents[0])[0]
    return found, jnp.matmul(jacobian, moved, precision=HIGHEST)


def _residual(params: Parameters, condition: Condition, keywords: dict[str, Any]) -> Array:
    keywords = {"adjoint": "forward", **keywords}
    factor = condition.drive
    if callable(factor):
        keywords["drive_factor"] = factor
    else:
        params = _driven(params, factor)
    if condition.settling > 0:
        before = params if not callable(factor) else _driven(params, factor(0.0))
        plain = {name: x for name, x in keywords.items() if name != "drive_factor"}
        keywords["initial"] = settle(before, condition.settling, **plain)
    solution = solve(params, condition.duration, save_dt=condition.save_dt, **keywords)
    predicted = condition.predict_fn(solution)
    difference = _flat(jax.tree.map(jnp.subtract, predicted, condition.target))
    if condition.covariance is not None:
        root = jnp.linalg.cholesky(condition.covariance)
        return jax.scipy.linalg.solve_triangular(root, difference, lower=True)

    def spread(target: Array, error: Array) -> Array:
        # Of a complex datum the error is that of the modulus: half its square in each part.
        if jnp.iscomplexobj(target):
            half = error * 0.5**0.5  # not of the complex number: infinity times 0 i is NaN
            return jax.lax.complex(half, half)
        return error

    error = _flat(jax.tree.map(spread, condition.target, condition.error))
    return difference / error  # an infinite error leaves the datum out


def _once(name: str, measured: Statistics, error: Array) -> Array:
    """Errors under which each number counts once.

    What is symmetric (Hermitian) is left out below the diagonal, of lags that of 0; and what is
    real in a spectrum, on the diagonal and at the ends of the frequencies, has all of its error in
    the real part, where `_residual` puts half of the variance.
    """
    if name == "rate":
        return error
    count = error.shape[-1]
    again = np.tril(np.ones((count, count), bool), -1)
    if name == "lagged":
        again = again[None] & (np.arange(error.shape[-3]) == 0)[:, None, None]
    if name == "spectrum":
        turns = np.asarray(measured.frequency) * measured.bin_width
        ends = (turns < 1e-6) | (turns > 0.5 - 1e-6)
        real = np.eye(count, dtype=bool)[None] | ends[:, None, None]
        error = jnp.where(jnp.asarray(np.broadcast_to(real, error.shape)), error * 2**0.5, error)
    return jnp.where(jnp.asarray(np.broadcast_to(again, error.shape)), jnp.inf, error)


def _flat(tree: PyTree) -> Array:
    """All numbers as one real vector: real parts, then imaginary parts, leaf by leaf."""
    parts = []
    for x in jax.tree.leaves(tree):
        parts += [jnp.ravel(y) for y in ((x.real, x.imag) if jnp.iscomplexobj(x) else (x,))]
    return jnp.concatenate(parts)


def _driven(params: Parameters, factor: Any) -> Parameters:
    factor = jnp.broadcast_to(jnp.asarray(factor, params.drive.dtype), params.drive.shape)
    return eqx.tree_at(
        lambda p: (p.drive, p.drive_variance),
        params,
        (params.drive * factor, params.drive_variance * factor),
    )


def _factor(drive: Any) -> Any:
    """Numbers as arrays, so that conditions which differ by them alone are alike."""
    return drive if callable(drive) else jnp.asarray(drive, jnp.result_type(float))


def _rate_bin(duration: float, discard: float) -> float:
    """The longest bins that the duration and what is discarded both consist of, about."""
    microseconds = np.gcd(round(duration * 1e6), round(discard * 1e6))
    return float(microseconds) * 1e-6
