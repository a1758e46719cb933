"""Goodness of fit by time rescaling."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float
from scipy import stats

from neurofield._types import Arrayish, PRNGKey
from neurofield.lattice._action import Action, Kinetic
from neurofield.lattice._data import segments
from neurofield.lattice._likelihood import known_past
from neurofield.lattice._predict import predict
from neurofield.recording import Raster


class GoodnessOfFit(eqx.Module):
    """Kolmogorov-Smirnov distance of every neuron's rescaled intervals from their law.

    `distance[N]` and `p_value[N]` (0 and 1 for a neuron with no complete interval), and
    `num_intervals[N]`. `rescaled`: each neuron's rescaled intervals, uniform on (0, 1) if the
    model is right, sorted.
    """

    distance: Float[np.ndarray, " neuron"]
    p_value: Float[np.ndarray, " neuron"]
    num_intervals: np.ndarray
    rescaled: list[np.ndarray]


def goodness_of_fit(
    key: PRNGKey,
    model: Action | Kinetic,
    raster: Raster,
    *,
    covariates: Arrayish | None = None,
) -> GoodnessOfFit:
    """Time-rescaling test of the conditional intensity (host function).

    The interval between two spikes, measured in integrated hazard -log(1 - p), is exponential if
    the model is right. Bins are wide, so that the hazard spent within the spike's own bin is drawn
    from its exact law (Haslinger, Pipa and Brown 2010, eqs 12-13): `key` makes these draws.
    Bins without a valid past are left out and time runs on over them and from one segment to the
    next: rescaled time has no memory, while dropping the intervals that a gap cuts would favour the
    short ones.
    """
    data = segments(raster, covariates)
    intensity = jax.jit(predict)(model, data.spikes, covariates=data.covariates)
    intensity = np.asarray(intensity, np.float64)
    hazard = -np.log1p(-np.clip(intensity, 0.0, 1 - 1e-15))
    known = np.asarray(known_past(data.mask, model.num_lags))
    spikes = np.asarray(data.spikes) > 0
    draws = np.asarray(jax.random.uniform(key, spikes.shape), np.float64)
    rescaled = [
        np.sort(
            -np.expm1(-_intervals(spikes[:, i][known], hazard[:, i][known], draws[:, i][known]))
        )
        for i in range(spikes.shape[1])
    ]
    tests = [stats.kstest(u, "uniform") if u.size else None for u in rescaled]
    return GoodnessOfFit(
        np.array([0.0 if t is None else t.statistic for t in tests]),
        np.array([1.0 if t is None else t.pvalue for t in tests]),
        np.array([u.size for u in rescaled]),
        rescaled,
    )


def _intervals(spikes: np.ndarray, hazard: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Rescaled waiting times between successive spikes of the bins that are known, in order."""
    at = np.flatnonzero(spikes)
    spent = np.concatenate([[0.0], np.cumsum(hazard)])
    first, last = at[:-1], at[1:]
    # Silence of the bins in between, then the part of the last bin until its spike: given that
    # the bin holds one, its hazard is exponential cut off at the bin's own.
    silence = spent[last] - spent[first + 1]
    within = -np.log1p(-draws[last] * -np.expm1(-hazard[last]))
    return silence + within
