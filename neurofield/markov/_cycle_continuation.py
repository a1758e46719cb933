"""Limit cycles along a parameter, with period doublings, folds and tori."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._arclength import Curve, Point, follow
from ._branch import Bifurcation, Branch
from ._cycle import NUM_KRYLOV, Cycle, Shooting, floquet_multipliers, krylov_solve, limit_cycle
from ._ode import Field
from ._parameters import Parameters


class CycleFamily(eqx.Module):
    """The shooting equations of a cycle at any value of a parameter: x = (unknown, parameter)."""

    vary: Callable[[Any], Parameters]
    like: Cycle

    def shooting(self, parameter: Float[Array, ""]) -> Shooting:
        like = self.like
        field = Field(self.vary(parameter), None, like.grid, like.closure, like.num_nodes)
        return Shooting(field, like.phase, like.level)

    def residual(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        return self.shooting(x[-1]).residual(x[:-1])

    @eqx.filter_jit
    def correct(
        self, guess: Float[Array, " n"], across: Float[Array, " n"], tol: float, max_newton: int
    ) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, ""]]:
        """Newton's method in the plane across a direction: the point, its tangent, the last step.

        Both linear systems of a step, that of Newton's and that of the tangent, are solved in
        small Krylov spaces, side by side.
        """
        last = jnp.zeros_like(guess).at[-1].set(1)

        def bordered(x: Array) -> Array:
            along = jnp.sum(across * (x - guess), keepdims=True)
            return jnp.concatenate([self.residual(x), along])

        def proceed(carry: tuple[Array, Array, Array, Array]) -> Array:
            _, _, step, count = carry
            return (step >= tol) & (count < max_newton)

        def improve(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            x, _, _, count = carry
            right = jnp.stack([-bordered(x), last])
            change, tangent = jax.vmap(
                lambda r: krylov_solve(lambda v: jax.jvp(bordered, (x,), (v,))[1], r, NUM_KRYLOV)
            )(right)
            return x + change, tangent, jnp.linalg.norm(change), count + 1

        start = guess, across, jnp.full_like(guess[0], jnp.inf), jnp.zeros((), int)
        x, tangent, step, _ = jax.lax.while_loop(proceed, improve, start)
        return x, tangent / jnp.linalg.norm(tangent), step

    @eqx.filter_jit
    def multipliers(self, x: Float[Array, " n"], count: int) -> Array:
        return floquet_multipliers(self.shooting(x[-1]), x[:-1], count)[0]

    @eqx.filter_jit
    def mean_rate(self, x: Float[Array, " n"]) -> Float[Array, " population"]:
        shooting = self.shooting(x[-1])
        state, log_period = shooting.unpack(x[:-1])
        end, _ = shooting.flow(state, jnp.exp(log_period))
        return end.spikes / jnp.exp(log_period)


def cycle_continuation(
    vary: Callable[[Any], Parameters],
    span: tuple[float, float],
    *,
    closure: str = "coloured",
    num_nodes: int = 4,
    voltage_bin: float = 2.0,
    lowest: float = -40.0,
    initial: Any = None,
    periods: int = 1,
    num_steps: int = 400,
    num_points: int = 200,
    step: float = 0.02,
    max_step: float = 0.1,
    num_multipliers: int = 6,
) -> Branch:
    """Follows a limit cycle from `span[0]` through folds until the parameter leaves `span` (host).

    - `vary`: a function of one number, by JAX, to `Parameters`.
    - `closure`, `num_nodes`, `voltage_bin`, `lowest`, `periods`, `num_steps`: as of `limit_cycle`,
      which finds the first cycle from `initial`. Its section and its steps, as fractions of the
      period, are kept on the whole branch.
    - `step`, `max_step`: the first and the longest, of arclength in fractions of populations, the
      logarithm of the period, and the parameter as it is.

    The branch's `points` are of the kinds "period_doubling" (a multiplier goes through -1), "fold"
    (through 1) and "torus" (a pair leaves the unit circle). No Jacobian is formed, so that the
    closure "coloured" is followed as well. Raises `RuntimeError` where no first cycle is found.
    """
    begin, end = float(span[0]), float(span[1])
    if not abs(end - begin) > 0:
        raise ValueError(f"span must be two different numbers, got {span}.")
    cycle = limit_cycle(
        vary(jnp.asarray(begin)),
        closure=closure,
        num_nodes=num_nodes,
        voltage_bin=voltage_bin,
        lowest=lowest,
        initial=initial,
        periods=periods,
        num_steps=num_steps,
        num_multipliers=num_multipliers,
    )
    family = CycleFamily(vary, cycle)
    dtype = cycle.period.dtype
    tol = float(jnp.finfo(dtype).eps) ** 0.5
    known: dict[bytes, np.ndarray] = {}

    def correct(guess: np.ndarray, across: np.ndarray) -> Point | None:
        x, tangent, last = (
            np.asarray(y, float)
            for y in family.correct(jnp.asarray(guess, dtype), jnp.asarray(across, dtype), tol, 8)
        )
        good = np.all(np.isfinite(x)) and np.all(np.isfinite(tangent)) and last < tol
        return Point(x, tangent, np.empty((0, 0))) if good else None

    def others(point: Point) -> np.ndarray:
        """The leading multipliers but the trivial one."""
        at = point.x.tobytes()
        if at not in known:
            values = np.asarray(family.multipliers(jnp.asarray(point.x, dtype), num_multipliers))
            known[at] = np.delete(values, np.argmin(np.abs(values - 1)))
        return known[at]

    def doubling(point: Point) -> float:
        return float(np.real(np.prod(1 + others(point))))

    def torus(point: Point) -> float:
        values = others(point)
        pairs = np.abs(values[np.abs(np.imag(values)) > 1e-6])
        return float(np.max(pairs, initial=0)) - 1 if len(pairs) else np.nan

    shooting = family.shooting(jnp.asarray(begin, dtype))
    curve = follow(
        None,
        np.asarray(shooting.pack(cycle.state, jnp.log(cycle.period)), float),
        begin,
        (begin, end),
        direction=1 if end > begin else -1,
        corrector=correct,
        tests={"period_doubling": doubling, "torus": torus},
        step=step,
        max_step=max_step,
        num_points=num_points,
        locate_tol=1e-6,
    )
    return _branch(curve, family, others, dtype)


def _branch(
    curve: Curve, family: CycleFamily, others: Callable[[Point], np.ndarray], dtype: np.dtype
) -> Branch:
    def rate(point: Point) -> np.ndarray:
        return np.asarray(family.mean_rate(jnp.asarray(point.x, dtype)), float)

    def frequency(point: Point) -> float:
        return float(np.exp(-point.x[-2]))

    leading = np.array([others(q)[0] for q in curve.points], complex)
    return Branch(
        parameter=np.array([q.parameter for q in curve.points]),
        rate=np.stack([rate(q) for q in curve.points], axis=1),
        stable=np.abs(leading) < 1,
        leading=leading,
        frequency=np.array([frequency(q) for q in curve.points]),
        points=tuple(
            Bifurcation(e.kind, e.point.parameter, rate(e.point), frequency(e.point))
            for e in curve.events
        ),
        ended=curve.ended,
    )
