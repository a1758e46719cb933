"""What a continuation returns."""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Complex, Float


class Bifurcation(NamedTuple):
    """A point where a branch changes character.

    - `kind`: "fold", "hopf", "period_doubling", "torus", "end".
    - `parameter`; `rate`: `[population]`, hertz (of a cycle: the mean over a period).
    - `frequency`: hertz, of the oscillation: of the critical pair, or of the cycle; NaN where there
      is none.
    """

    kind: str
    parameter: float
    rate: np.ndarray
    frequency: float


class Branch(eqx.Module):
    """Equilibria or cycles along one parameter, in the order of travel (host arrays).

    - `parameter`: `[point]`.
    - `rate`: `[population, point]`, hertz; of a cycle the mean over a period.
    - `stable`: `[point]`.
    - `leading`: `[point]`, what decides stability: of an equilibrium the eigenvalue of largest real
      part (1/s), of a cycle the Floquet multiplier of largest modulus but for the trivial one.
    - `frequency`: `[point]`, hertz: of the leading pair of eigenvalues, 0 where it is real; of a
      cycle, its own.
    - `points`: the bifurcations, in the order of travel.
    - `ended`: "span", "closed", "num_points" or "stuck" (static).
    """

    parameter: Float[np.ndarray, " point"]
    rate: Float[np.ndarray, "population point"]
    stable: Bool[np.ndarray, " point"]
    leading: Complex[np.ndarray, " point"]
    frequency: Float[np.ndarray, " point"]
    points: tuple[Bifurcation, ...]
    ended: str = eqx.field(static=True)
