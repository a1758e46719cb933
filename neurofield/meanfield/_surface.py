"""Least squares on a smooth surface through a rough theory.

Predictions from paths whose spikes reset jump as parameters change, and each has its Monte-Carlo
error: neither the difference of two nor the least of many tells where the minimum is. Quadratic
polynomials through many points of a box average over both, and what they miss is the theory's own
error (response surfaces, Box & Wilson 1951). The box follows the minimum, and takes the shape of
a few standard errors.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
from jaxtyping import Float
from scipy.stats import qmc

from neurofield.fit import RESULTS

# Half the width of the box in standard errors, and what it may change by from round to round.
_WIDTH, _LEAST, _MOST = 3.5, 0.25, 2.0
# The largest box, relative to the first.
_LARGEST = 1.5
# Points of each round for each coefficient.
_SHARE = 2.0
# The share of noise in the information that corrections can take out, and is not worth more points.
_NOISE = 0.5
# The surface misses points by so much more than their own errors where it has the wrong shape.
_MISFIT = 2.0


@dataclasses.dataclass(frozen=True)
class Data:
    """What is fitted; infinite errors where there is nothing.

    - `apart`: deviations whose products sum to the covariance of the errors; `None`: independent.
    - `reference`: free numbers at which predictions count as zero; `None` for none.
    """

    target: Float[np.ndarray, " datum"]
    error: Float[np.ndarray, " datum"]
    apart: Float[np.ndarray, "part datum"] | None
    reference: Float[np.ndarray, " free"] | None


@dataclasses.dataclass(frozen=True)
class Found:
    """Where the search ended.

    - `predicted`: `[datum]`, by the surface; `origin`: at the reference, else zero.
    - `error`: `[datum]`, of data and surface together; `covariance`: of the free numbers.
    - `stats`: `misfit`, what the surface misses in units of the points' errors; `noise`, the share
      of the information that is noise in its slopes (taken out).
    """

    free: Float[np.ndarray, " free"]
    predicted: Float[np.ndarray, " datum"]
    origin: Float[np.ndarray, " datum"]
    error: Float[np.ndarray, " datum"]
    covariance: Float[np.ndarray, "free free"]
    result: Any  # of `fit.RESULTS`
    stats: dict[str, Any]


def search(
    evaluate: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    start: Float[np.ndarray, " free"],
    data: Data,
    *,
    width: float,
    max_steps: int,
) -> Found:
    """The free numbers whose predictions by the surface fit best.

    - `evaluate`: from points `[point, free]`, and how many there were before, to predictions
      `[point, datum]` (not finite where there are none) and their errors (not finite if unknown).
    - `width`: half that of the first box.

    Raises `ValueError` if most points of the first box have no prediction.
    """
    count, kept = len(start), np.isfinite(data.error)
    num_terms = 1 + count + count * (count + 1) // 2
    num = int(np.ceil(_SHARE * num_terms))
    drawn = qmc.Halton(count, rng=np.random.default_rng(0))
    centre, axes = start, width * np.eye(count)
    points = np.zeros((0, count))
    values = errors = np.zeros((0, len(data.target)))
    result, steps = RESULTS.nonlinear_max_steps_reached, 0
    while True:
        steps += 1
        new = centre[None] + (2 * drawn.random(num) - 1) @ axes.T
        found, spread = evaluate(new, num * (steps - 1))
        fine = np.isfinite(found[:, kept]).all(axis=1)
        if np.mean(fine) < 0.5 and steps == 1:
            raise ValueError(
                "the theory has no finite prediction at most points about the start: start "
                "elsewhere, or take a smaller width."
            )
        points = np.concatenate([points, new[fine]])
        values = np.concatenate([values, np.where(kept[None], found, 0)[fine]])
        errors = np.concatenate([errors, spread[fine]])
        within = np.abs(np.linalg.solve(axes, (points - centre[None]).T)).max(axis=0) <= 1 + 1e-6
        if np.sum(within) < num_terms + 3:
            result = RESULTS.nonfinite
            within = np.ones(len(points), bool)
        surface = _Surface(centre, axes, points[within], values[within], data)
        u, slopes = _minimum(surface, data, kept)
        noise, information = _corrected(surface, u, slopes, kept)
        covariance = _covariance(surface, u, slopes, information, data, kept)
        misfit = _misfit(surface, errors[within], kept)
        spread, turn = np.linalg.eigh(covariance)
        size = np.clip(_WIDTH * np.sqrt(np.maximum(spread, 0)), _LEAST, _MOST)
        edge = bool(np.max(np.abs(u)) > 0.98)
        shaped = misfit < _MISFIT
        after = axes @ turn * size[None]
        length = np.linalg.norm(after, axis=0)
        after = after * np.minimum(1, _LARGEST * width / length)[None]
        ratio = np.linalg.norm(after, axis=0) / np.linalg.norm(axes @ turn, axis=0)
        settled = bool(np.all(ratio > 0.6) and np.max(np.abs(u)) < 0.8)
        if settled and shaped and noise < _NOISE:
            result = RESULTS.successful
        if result != RESULTS.nonlinear_max_steps_reached or steps == max_steps:
            break
        if settled and shaped:
            continue  # with more points in the same box
        if edge and misfit < 2 * _MISFIT:
            after = axes
        elif not shaped:
            after = after * np.minimum(1, 0.7 / ratio)[None]
        centre, axes = centre + axes @ u, after
    return Found(
        surface.centre + surface.axes @ u,
        surface.predicted(u),
        np.broadcast_to(surface.origin @ surface.coefficients, data.target.shape),
        surface.error,
        surface.axes @ covariance @ surface.axes.T,
        result,
        {"num_steps": steps, "num_points": num * steps, "misfit": misfit, "noise": noise},
    )


class _Surface:
    """A quadratic polynomial for each datum, of u in the box x = centre + axes u, |u| <= 1."""

    def __init__(self, centre, axes, points, values, data: Data):
        self.centre, self.axes = centre, axes
        terms = _terms(self._inward(points))
        self.inverse = np.linalg.pinv(terms.T @ terms)
        self.coefficients = self.inverse @ terms.T @ values
        self.missed = values - terms @ self.coefficients
        self.freedom = len(points) - terms.shape[1]
        self.origin = np.zeros(terms.shape[1])
        if data.reference is not None:
            self.origin = _terms(self._inward(data.reference[None]))[0]
        # Of one point; of the surface on average over them.
        self.variance = np.sum(self.missed**2, axis=0) / self.freedom
        off = terms - self.origin[None]
        share = np.mean(np.sum((off @ self.inverse) * off, axis=1))
        self.error = np.sqrt(data.error**2 + share * self.variance)

    def _inward(self, points):
        return np.linalg.solve(self.axes, (points - self.centre[None]).T).T

    def predicted(self, u):
        return _terms(u[None])[0] @ self.coefficients

    def relative(self, u):
        return (_terms(u[None])[0] - self.origin) @ self.coefficients

    def slopes(self, u):
        return _slopes(u).T @ self.coefficients

    def apart(self, u):
        """Deviations `[point, datum]` of the predictions at u."""
        off = _terms(u[None])[0] - self.origin
        return self.missed * (off @ self.inverse @ off / self.freedom) ** 0.5


def _minimum(surface: _Surface, data: Data, kept):
    """The best u in the box, and the slopes of the residuals there, `[datum, free]`."""
    error = surface.error[kept]

    def residual(u):
        return (surface.relative(u) - data.target)[kept] / error

    def jacobian(u):
        return (surface.slopes(u)[:, kept] / error[None]).T

    zero = np.zeros(len(surface.centre))
    options: dict[str, Any] = {"jac": jacobian, "bounds": (-1, 1)}
    u = scipy.optimize.least_squares(residual, zero, **options).x
    return u, jacobian(u)


def _corrected(surface: _Surface, u, slopes, kept):
    """The largest share of noise in the information, and the information without it.

    Noise in the slopes adds its square, and would pass for knowledge where there is little.
    """
    of = _slopes(u)
    relative = np.sum(surface.variance[kept] / surface.error[kept] ** 2)
    added = relative * of.T @ surface.inverse @ of
    information = slopes.T @ slopes
    root = np.linalg.cholesky(information + 1e-12 * np.trace(information) * np.eye(len(u)))
    share = np.linalg.solve(root, np.linalg.solve(root, added).T)
    share, turn = np.linalg.eigh((share + share.T) / 2)
    turn = root @ turn
    return float(share[-1]), turn * np.maximum(1 - share, 0.1)[None] @ turn.T


def _covariance(surface: _Surface, u, slopes, information, data: Data, kept):
    """Of u: the weights of least squares, the errors as they go together."""
    own = np.diag(data.error[kept]) if data.apart is None else data.apart[:, kept]
    apart = np.concatenate([surface.apart(u)[:, kept], own]) / surface.error[kept][None]
    moved = apart @ slopes @ np.linalg.inv(information)
    return moved.T @ moved


def _misfit(surface: _Surface, errors, kept) -> float:
    """What the surface misses relative to the errors of points; zero if they are not known."""
    own = np.mean(errors[:, kept] ** 2, axis=0)
    known = np.isfinite(own) & (own > 0)
    if not known.any():
        return 0.0
    return float(np.sqrt(np.mean(surface.variance[kept][known] / own[known])))


def _terms(u):
    """1, u_i, u_i u_j of each row."""
    a, b = np.triu_indices(u.shape[1])
    return np.concatenate([np.ones((len(u), 1)), u, u[:, a] * u[:, b]], axis=1)


def _slopes(u):
    """Of the terms at one u, `[term, free]`."""
    a, b = np.triu_indices(len(u))
    eye = np.eye(len(u))
    products = eye[a] * u[b][:, None] + eye[b] * u[a][:, None]
    return np.concatenate([np.zeros((1, len(u))), eye, products])
