"""`least_squares`: optimistix solvers with typed parameters and standard errors."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from neurofield import __version__
from neurofield._results import RESULTS
from neurofield._types import PyTree

from ._errors import invert_information
from ._fit import Fit, FitError
from ._parameter import Free, constrain, unconstrain


def least_squares(
    residual_fn: Callable[..., Any],
    params: PyTree,
    *,
    args: tuple[Any, ...] = (),
    spec: PyTree = None,
    solver: Any = None,
    max_steps: int = 256,
    atol: float | None = None,
    rtol: float | None = None,
    standardised: bool = False,
    provenance: Mapping[str, Any] | None = None,
    throw: bool = True,
) -> Fit:
    """Minimise half the sum of squares of `residual_fn(params, *args)` (any pytree of arrays).

    **Arguments**

    - `params`, `spec`: the start and its parameter types, as in `minimise`.
    - `solver`: an optimistix least-squares solver; default Levenberg-Marquardt (Levenberg 1944,
      Marquardt 1963) with `rtol`, `atol` (default `eps**(3/4)`) on steps and changes of the loss.
    - `standardised`: residuals are already divided by their known standard deviations. Otherwise
      their common variance is estimated as the sum of squares / (residuals - parameters).

    **Returns** a `Fit` with `error` from the inverse of J'J at the solution (the delta method for
    bounded parameters), or `None`, with `stats["error_known"]` false, where J'J is singular or no
    residual is left to estimate the variance. `loss` is half the sum of squares.

    **Raises** `ValueError` for a bad start; `FitError` under `throw` if it does not converge.
    """
    free = unconstrain(spec, params)
    if not free:
        raise ValueError("params has no floating leaf that is not fixed: nothing to fit.")
    eps = max(float(jnp.finfo(x.dtype).eps) for x in free.values())
    relative, absolute = (float(eps**0.75 if t is None else t) for t in (rtol, atol))
    if solver is None:
        solver = optx.LevenbergMarquardt(rtol=relative, atol=absolute)

    context = (residual_fn, spec, params, args)
    if not np.isfinite(_linearise(free, context)[0]).all():
        raise ValueError("residual_fn is not finite at the start: choose another start.")
    free, outcome, num_steps = _solve(free, context, solver, max_steps)
    residuals, jacobian = _linearise(free, context)
    result: Any = RESULTS.promote(outcome)
    squares = jnp.sum(residuals**2)
    if not np.isfinite(squares):
        result = RESULTS.nonfinite
    value = constrain(spec, free, params)
    error, freedom = None, len(residuals) - jacobian.shape[1]
    if np.isfinite(jacobian).all() and (standardised or freedom > 0):
        information = jnp.matmul(jacobian.T, jacobian, precision=jax.lax.Precision.HIGHEST)
        found = invert_information(information, free, spec, params, throw=False)
        sigma = 1.0 if standardised else float(jnp.sqrt(squares / freedom))
        if found.error is not None:
            error = jax.tree.map(lambda x: sigma * x if eqx.is_inexact_array(x) else x, found.error)
    fit = Fit(
        value,
        error=error,
        loss=0.5 * squares,
        result=result,
        stats={
            "num_steps": num_steps,
            "num_residuals": len(residuals),
            "gradient_norm": jnp.max(
                jnp.abs(jnp.matmul(residuals, jacobian, precision=jax.lax.Precision.HIGHEST))
            ),
            "error_known": error is not None,
        },
        provenance={
            "method": "least_squares",
            "solver": type(solver).__name__,
            "max_steps": max_steps,
            "standardised": standardised,
            "neurofield": __version__,
            "jax": jax.__version__,
            "rtol": relative,
            "atol": absolute,
            **(provenance or {}),
        },
    )
    if throw and not fit.result == RESULTS.successful:
        raise FitError(
            f"least_squares did not converge: {RESULTS[fit.result]} Half the sum of squares is "
            f"{float(fit.loss):.8g}, the gradient's largest component "
            f"{float(fit.stats['gradient_norm']):.3g} after {int(fit.stats['num_steps'])} steps. "
            "Raise max_steps, loosen rtol and atol, or start elsewhere; throw=False takes it as "
            "it is.",
            fit,
        )
    return fit


def _residuals(free: Free, context: tuple[Any, ...]) -> PyTree:
    residual_fn, spec, params, args = context
    return residual_fn(constrain(spec, free, params), *args)


@eqx.filter_jit
def _solve(
    free: Free, context: tuple[Any, ...], solver: Any, max_steps: int
) -> tuple[Free, Any, Any]:
    """Where the solver ends, its outcome and the number of its steps; compiled once for alike fits.

    optimistix keeps its own numbers in the widest dtype: the solver works in that one, while
    residual_fn sees parameters of their own.
    """
    widest = jnp.result_type(float)
    dtypes = {name: x.dtype for name, x in free.items()}

    def narrow(free: Free) -> Free:
        return {name: x.astype(dtypes[name]) for name, x in free.items()}

    def residuals_of(free: Free, context: tuple[Any, ...]) -> PyTree:
        return jax.tree.map(lambda r: r.astype(widest), _residuals(narrow(free), context))

    with jax.numpy_dtype_promotion("standard"):
        solution = optx.least_squares(
            residuals_of,
            solver,
            {name: x.astype(widest) for name, x in free.items()},
            args=context,
            max_steps=max_steps,
            throw=False,
        )
    return narrow(solution.value), solution.result, solution.stats["num_steps"]


@eqx.filter_jit
def _linearise(free: Free, context: tuple[Any, ...]) -> tuple[Array, Array]:
    """Residuals `[residual]` and their Jacobian `[residual, free]`."""
    flat, unravel = ravel_pytree(free)

    def residuals(flat: Array) -> Array:
        return ravel_pytree(_residuals(unravel(flat), context))[0]

    return residuals(flat), jax.jacfwd(residuals)(flat)
