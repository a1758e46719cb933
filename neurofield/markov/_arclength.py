"""Curves of F(u, p) = 0 by pseudo-arclength, on the host."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

# x = (u, p) -> (F [d], dF/dx [d, d + 1]).
Linearise = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Point(NamedTuple):
    """A point of a curve: x = (u, p) `[d + 1]`, its unit tangent (in scaled coordinates), dF/dx."""

    x: np.ndarray
    tangent: np.ndarray
    jacobian: np.ndarray

    @property
    def unknown(self) -> np.ndarray:
        return self.x[:-1]

    @property
    def parameter(self) -> float:
        return float(self.x[-1])


# A guess and a direction, in scaled coordinates: the point of the curve in the plane through the
# guess across the direction, or None.
Corrector = Callable[[np.ndarray, np.ndarray], Point | None]


class Event(NamedTuple):
    """Where a test function named `kind` goes through zero, behind point number `after`."""

    kind: str
    point: Point
    after: int


class Curve(NamedTuple):
    """Points in the order of travel, events likewise, and why it ended.

    `ended`: "span" (the parameter left it; the last point lies on its border), "closed" (back at
    the start), "num_points", or "stuck" (the corrector failed at the smallest step).
    """

    points: tuple[Point, ...]
    events: tuple[Event, ...]
    ended: str


def linearised(residual: Callable[[jax.Array, jax.Array], jax.Array]) -> Linearise:
    """What `follow` takes, of a JAX function F(u, p): the Jacobian by forward mode, compiled."""

    @eqx.filter_jit
    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def value(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = residual(x[:-1], x[-1])
            return out, out

        jacobian, out = jax.jacfwd(value, has_aux=True)(x)
        return out, jacobian

    def linearise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out, jacobian = both(jnp.asarray(x))
        return np.asarray(out, float), np.asarray(jacobian, float)

    return linearise


def follow(
    linearise: Linearise | None,
    unknown: np.ndarray,
    parameter: float,
    span: tuple[float, float],
    *,
    direction: float | int = 1,
    corrector: Corrector | None = None,
    scale: np.ndarray | None = None,
    tests: Mapping[str, Callable[[Point], float]] | None = None,
    step: float = 0.05,
    max_step: float = 0.2,
    min_step: float = 1e-6,
    num_points: int = 500,
    tol: float = 1e-9,
    max_newton: int = 8,
    max_turn: float = 0.3,
    locate_tol: float = 1e-9,
) -> Curve:
    """Follows F(u, p) = 0 from (u, p) until p leaves `span`.

    Steps along the tangent, then Newton's method on F and the plane across the tangent (Keller
    1977). A step is halved where Newton fails or the tangent turns by more than `max_turn` (rad).

    - `unknown`, `parameter`: a start near the curve; it is corrected at constant p.
    - `direction`: the sign of dp at the start.
    - `corrector`: in place of Newton's method with `linearise`, which may then be `None`; the
      Jacobian of its points is its own affair.
    - `scale`: `[d + 1]`: arclength, steps and `tol` are measured in x / scale.
    - `tests`: functions of a `Point` by name. Their sign changes are located to `locate_tol` of
      arclength and returned as events, as those of "fold" (dp along the curve) always are. NaN
      says that a test does not apply; a jump through zero without a zero is no event.
    - `tol`: of Newton's last step.

    Raises `RuntimeError` where the start cannot be corrected.
    """
    start = np.append(np.asarray(unknown, float), float(parameter))
    scale = np.ones_like(start) if scale is None else np.asarray(scale, float)
    low, high = min(span), max(span)

    def newton(guess: np.ndarray, across: np.ndarray) -> Point | None:
        """Newton in scaled coordinates within the plane across a direction through the guess."""
        x = guess
        for _ in range(max_newton):
            assert linearise is not None
            value, jacobian = linearise(x * scale)
            if not (np.all(np.isfinite(value)) and np.all(np.isfinite(jacobian))):
                return None
            bordered = np.vstack([jacobian * scale, across])
            right = np.append(-value, -across @ (x - guess))
            try:
                change, tangent = np.linalg.solve(
                    bordered, np.stack([right, np.eye(len(x))[-1]], axis=1)
                ).T
            except np.linalg.LinAlgError:
                return None
            x = x + change
            if np.linalg.norm(change) < tol:
                return Point(x * scale, tangent / np.linalg.norm(tangent), jacobian)
        return None

    correct = newton if corrector is None else corrector
    only_parameter = np.eye(len(start))[-1]
    first = correct(start / scale, only_parameter)
    if first is None:
        raise RuntimeError(
            f"no solution was found near the start u = {start[:-1]}, p = {start[-1]}: begin "
            "nearer to one."
        )
    if direction * first.tangent[-1] < 0:
        first = first._replace(tangent=-first.tangent)

    def travel(begin: Point, distance: float) -> Point | None:
        return correct(begin.x / scale + distance * begin.tangent, begin.tangent)

    measures: dict[str, Callable[[Point], float]] = {"fold": lambda q: float(q.tangent[-1])}
    measures |= dict(tests or {})
    points, events, ended = [first], [], "num_points"
    values = {kind: float(test(first)) for kind, test in measures.items()}
    while len(points) < num_points:
        here, there = points[-1], travel(points[-1], step)
        turn = np.inf if there is None else 1 - here.tangent @ there.tangent
        if there is None or turn > 1 - np.cos(max_turn):
            step /= 2
            if step < min_step:
                ended = "stuck"
                break
            continue
        length = step
        outside = not low <= there.parameter <= high
        if outside:
            border = low if there.parameter < low else high
            found = _locate(travel, here, length, lambda q, b=border: q.parameter - b, locate_tol)
            if found is None:
                ended = "stuck"
                break
            there, length = found
        closing = (first.x - here.x) / scale
        closed = len(points) > 2 and (
            0 < closing @ here.tangent <= length
            and np.linalg.norm(closing) < 2 * length
            and first.tangent @ here.tangent > 0
        )
        if closed:
            there, length = first, float(closing @ here.tangent)
        new = {kind: float(test(there)) for kind, test in measures.items()}
        passed = []
        for kind, test in measures.items():
            if values[kind] * new[kind] < 0:
                found = _locate(travel, here, length, test, locate_tol)
                # A test that goes through zero is small there; one that jumps is not.
                if found is not None and abs(test(found[0])) < 1e-2 * max(
                    abs(values[kind]), abs(new[kind])
                ):
                    passed.append((found[1], Event(kind, found[0], len(points) - 1)))
        events += [event for _, event in sorted(passed, key=lambda pair: pair[0])]
        points.append(there)
        values = new
        if outside or closed:
            ended = "span" if outside else "closed"
            break
        if turn < (1 - np.cos(max_turn)) / 8:
            step = min(1.5 * step, max_step)
    return Curve(tuple(points), tuple(events), ended)


def _locate(
    travel: Callable[[Point, float], Point | None],
    begin: Point,
    length: float,
    test: Callable[[Point], float],
    tol: float,
) -> tuple[Point, float] | None:
    """The point within `length` behind `begin` where a test changes sign, and its distance."""

    def value(distance: float) -> float:
        point = travel(begin, distance)
        return np.nan if point is None else float(test(point))

    ends = value(0.0), value(length)
    if not ends[0] * ends[1] <= 0:
        return None
    try:
        distance = scipy.optimize.root_scalar(
            value, bracket=(0.0, length), method="brentq", xtol=tol, maxiter=60
        ).root
    except (RuntimeError, ValueError):
        return None
    point = travel(begin, distance)
    return None if point is None else (point, distance)
