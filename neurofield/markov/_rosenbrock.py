"""A linearly implicit solver for `diffrax` that takes any approximate Jacobian."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import numpy as np

from neurofield._types import PyTree

# Rang & Angermann (2005), method ROS34PW2: 4 stages, order 3 whatever the matrix, L-stable where it
# is the Jacobian; the second row of weights is of order 2.
_GAMMA = 0.43586652150845900
_STAGE = np.array(
    [
        [0, 0, 0, 0],
        [0.87173304301691801, 0, 0, 0],
        [0.84457060015369423, -0.11299064236484185, 0, 0],
        [0, 0, 1, 0],
    ]
)
_COUPLING = np.array(
    [
        [_GAMMA, 0, 0, 0],
        [-0.87173304301691801, _GAMMA, 0, 0],
        [-0.90338057013044082, 0.054180672388095326, _GAMMA, 0],
        [0.24212380706095346, -1.2232505839045147, 0.54526025533510214, _GAMMA],
    ]
)
_WEIGHT = np.array([0.24212380706095346, -1.2232505839045147, 1.5452602553351020, _GAMMA])
_LOWER_WEIGHT = np.array([0.37810903145819369, -0.096042292212423178, 0.5, 0.21793326075422950])
# In the unknowns u = coupling k, which need no product with the matrix.
_INVERSE = np.linalg.inv(_COUPLING)
_A, _C = _STAGE @ _INVERSE, np.eye(4) / _GAMMA - _INVERSE
_M, _LOWER_M = _WEIGHT @ _INVERSE, _LOWER_WEIGHT @ _INVERSE
_TIMES = _STAGE.sum(axis=1)


class RosenbrockW(diffrax.AbstractAdaptiveSolver):
    """ROS34PW2 (Rang & Angermann 2005): order 3 with any matrix, error estimate of order 2.

    `solve_fn(t, y, args) -> (step, rhs) -> x` gives, at the beginning of a step, a solver of
    (1 - step W) x = rhs for a W near the Jacobian; x need only be a rational function of step W to
    first order, so that W may be split into factors. Where the columns of W sum to 0 over some
    entries, sums that the equation conserves are conserved to rounding.
    """

    solve_fn: Callable[..., Callable[[Any, PyTree], PyTree]]

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    def order(self, terms: Any) -> int:
        return 3

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> PyTree:
        return terms.vf(t0, y0, args)

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> PyTree:
        return terms.vf(t0, y0, args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        slope = jax.lax.cond(made_jump, lambda: terms.vf(t0, y0, args), lambda: solver_state)
        step = t1 - t0
        solve = self.solve_fn(t0, y0, args)
        stages: list[PyTree] = []
        for i in range(len(_M)):
            if i == 0:
                right = combine([step * _GAMMA], [slope])
            else:
                y = combine([1.0, *_A[i, :i]], [y0, *stages])
                there = terms.vf(t0 + step * _TIMES[i], y, args)
                right = combine([step * _GAMMA, *(_GAMMA * _C[i, :i])], [there, *stages])
            stages.append(solve(step * _GAMMA, right))
        y1 = combine([1.0, *_M], [y0, *stages])
        error = combine(list(_M - _LOWER_M), stages)
        after = terms.vf(t1, y1, args)
        dense = {"y0": y0, "y1": y1, "k0": combine([step], [slope]), "k1": combine([step], [after])}
        return y1, error, dense, after, diffrax.RESULTS.successful


def combine(factors: list[Any], trees: list[PyTree]) -> PyTree:
    """The sum of pytrees, each times a number."""

    def total(*leaves: jax.Array) -> jax.Array:
        first, *rest = (
            leaf * (factor if isinstance(factor, jax.Array) else float(factor))
            for factor, leaf in zip(factors, leaves, strict=True)
            if isinstance(factor, jax.Array) or factor
        )
        return sum(rest, first)

    return jax.tree.map(total, *trees)
