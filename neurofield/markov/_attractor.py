"""The geometry of an attractor: a cycle against the cloud of a network's noisy trajectory."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ._cycle import Cycle
from ._solution import Solution


class CloudDistance(NamedTuple):
    """How far the phase average of a trajectory lies from a closed curve.

    - `distance`: the root mean square over phases, in units of the curve's extent along each axis.
    - `average`: `[axis, phase]`, the trajectory's mean at each phase, NaN where it never is, and
      `curve`: `[axis, phase]`, the curve's. `num_samples`: `[phase]`, samples.
    """

    distance: float
    average: Float[np.ndarray, "axis phase"]
    curve: Float[np.ndarray, "axis phase"]
    num_samples: Int[np.ndarray, " phase"]


def attractor_curve(orbit: Cycle | Solution, post: int = 0, other: int = 1) -> np.ndarray:
    """A cycle or a solution in the space of mean pending spikes and rate, `[3, time or phase]`.

    Mean pending spikes in population `post` from itself, and from `other`, and its rate in hertz.
    """
    mean = np.asarray(orbit.mean)
    return np.stack([mean[post, post], mean[post, other], np.asarray(orbit.rate)[post]])


def cloud_distance(curve: Any, trajectory: Any, num_phases: int = 48) -> CloudDistance:
    """Distance of a closed curve `[axis, point]` to the mean of a trajectory `[axis, sample]`.

    Axes are divided by the curve's extent. Each sample has the phase (arclength) of the curve's
    point nearest to it; samples of one of `num_phases` phases are averaged, which leaves out the
    noise, and what remains is compared with the curve's mean there. A host function.

    Raises `ValueError` for shapes that do not fit.
    """
    curve, trajectory = np.asarray(curve, float), np.asarray(trajectory, float)
    if curve.ndim != 2 or trajectory.ndim != 2 or len(curve) != len(trajectory):
        raise ValueError(
            "curve and trajectory must be [axis, point] of the same axes, got the shapes "
            f"{curve.shape} and {trajectory.shape}."
        )
    extent = np.ptp(curve, axis=1)
    extent = np.where(extent > 0, extent, 1)[:, None]
    closed = np.concatenate([curve, curve[:, :1]], axis=1) / extent
    length = np.append(0, np.cumsum(np.linalg.norm(np.diff(closed), axis=0)))
    # Many points a phase, so that the nearest one is as good as the nearest of the curve.
    phase = (np.arange(32 * num_phases) + 0.5) / (32 * num_phases)
    fine = np.stack([np.interp(phase * length[-1], length, x) for x in closed])
    squares = np.sum(fine**2, axis=0)[:, None] - 2 * fine.T @ (trajectory / extent)
    at = np.argmin(squares, axis=0) // 32
    num_samples = np.bincount(at, minlength=num_phases)
    total = np.stack([np.bincount(at, x, num_phases) for x in trajectory / extent])
    average = np.where(num_samples > 0, total / np.maximum(num_samples, 1), np.nan)
    middle = fine.reshape(len(fine), num_phases, 32).mean(axis=2)
    apart = np.sum((average - middle) ** 2, axis=0)[num_samples > 0]
    distance = float(np.sqrt(apart.mean())) if apart.size else np.nan
    return CloudDistance(distance, average * extent, middle * extent, num_samples)
