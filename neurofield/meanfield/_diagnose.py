"""`diagnose`: a solution solved again, at half the step and with twice the paths."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from neurofield._numerics import standard_error

from ._diagnostics import Diagnostics
from ._solution import Solution
from ._solve import solve


def diagnose(key: PRNGKeyArray, solution: Solution) -> Diagnostics:
    """The diagnostics of a solution with its changes at half the step and with twice the paths.

    Changes are of the mean outputs (of a course: of its mean over time), half step or more paths
    less the solution, with standard errors of the difference; random numbers are new. Costs six
    times the solve. Raises `ValueError` for a closed form, which draws nothing.
    """
    settings: dict[str, Any] = dict(solution.settings)
    if not settings:
        raise ValueError("this solution drew no paths: there is no step and no number to change.")
    own = solution.diagnostics
    found = Diagnostics() if own is None else own
    fields = ("half_step", "half_step_error", "more_paths", "more_paths_error")
    finer = {**settings, "dt": settings["dt"] / 2}
    larger = {**settings, "num_paths": 2 * settings["num_paths"]}
    values: list[Array] = []
    for one, changed in zip(jax.random.split(key), (finer, larger), strict=True):
        values += _change(solution, solve(solution.network, key=one, **changed))
    return eqx.tree_at(
        lambda d: [getattr(d, name) for name in fields],
        found,
        values,
        is_leaf=lambda x: x is None,
    )


def _change(solution: Solution, other: Solution) -> list[Array]:
    def of(x: Solution) -> tuple[Array, Array]:
        assert x.replicas is not None
        groups = x.replicas["mean"]
        groups = jnp.mean(groups.reshape(*groups.shape[:2], -1), axis=-1)
        return jnp.mean(groups, 0), standard_error(groups)

    (mean, error), (new, new_error) = of(solution), of(other)
    return [new - mean, jnp.hypot(error, new_error)]
