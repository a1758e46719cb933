"""A linearly implicit solver for `diffrax` that takes any approximate Jacobian."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from neurofield._numerics import contract
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
_C = np.eye(4) / _GAMMA - _INVERSE
_M, _LOWER_M = _WEIGHT @ _INVERSE, _LOWER_WEIGHT @ _INVERSE
# Where the slope is taken after each stage: at the next one, and at last at the end of the step.
_NEXT = np.vstack([(_STAGE @ _INVERSE)[1:], _M])
_NEXT_TIME = np.append(_STAGE.sum(axis=1)[1:], 1.0)


class RosenbrockW(diffrax.AbstractAdaptiveSolver):
    """ROS34PW2 (Rang & Angermann 2005): order 3 with any matrix, error estimate of order 2.

    `linearise_fn(t, y, args, step)` gives, at the beginning of a step, the time derivative and a
    function that solves (1 - step W) x = right for a W near the Jacobian. W may depend on the step,
    so that 1 - step W may be a product of simple factors. Where the columns of W sum to 0 over some
    entries, sums that the equation conserves are conserved to rounding.
    """

    linearise_fn: Callable[..., tuple[PyTree, Callable[[PyTree], PyTree]]]

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    def order(self, terms: Any) -> int:
        return 3

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> None:
        return None

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> PyTree:
        return terms.vf(t0, y0, args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        del solver_state, made_jump
        step = t1 - t0
        slope, solve = self.linearise_fn(t0, y0, args, step * _GAMMA)
        table = jax.tree.map(lambda x: jnp.asarray(x, step.dtype), (_C, _NEXT, _NEXT_TIME))

        def stage(carry: PyTree, row: PyTree) -> tuple[PyTree, None]:
            # A loop, for a quarter of the compilation.
            index, slope, stages = carry
            coupled, ahead, when = row
            right = add(step * _GAMMA, slope, weigh(_GAMMA * coupled, stages))
            solved = solve(right)
            stages = jax.tree.map(lambda all, one: all.at[index].set(one), stages, solved)
            slope = terms.vf(t0 + step * when, add(1.0, y0, weigh(ahead, stages)), args)
            return (index + 1, slope, stages), None

        none = jax.tree.map(lambda x: jnp.zeros((len(_M), *x.shape), x.dtype), y0)
        start = (jnp.zeros((), jnp.int32), slope, none)
        (_, after, stages), _ = jax.lax.scan(stage, start, table)
        y1 = add(1.0, y0, weigh(table[1][-1], stages))
        error = weigh(jnp.asarray(_M - _LOWER_M, step.dtype), stages)
        dense = {"y0": y0, "y1": y1, "k0": add(step, slope), "k1": add(step, after)}
        return y1, error, dense, None, diffrax.RESULTS.successful


def weigh(weights: Array, stages: PyTree) -> PyTree:
    """Sum over the leading axis of each leaf, weighted."""
    return jax.tree.map(lambda x: contract("s,s...->...", weights, x), stages)


def add(factor: Any, tree: PyTree, other: PyTree | None = None) -> PyTree:
    """`factor` times a tree, plus another one."""
    scaled = jax.tree.map(lambda x: factor * x, tree)
    return scaled if other is None else jax.tree.map(jnp.add, scaled, other)
