"""Goodness of fit by time rescaling."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float
from scipy import stats

from neurofield._types import Arrayish, PRNGKey
from neurofield.lattice._action import Action, Kinetic
from neurofield.lattice._data import segments
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
    Intervals that cross an invalid bin or the end of a segment are left out.
    """
    data = segments(raster, covariates)
    intensity = jax.jit(predict)(model, data.spikes, covariates=data.covariates)
    intensity = np.asarray(intensity, np.float64)
    hazard = -np.log1p(-np.clip(intensity, 0.0, 1 - 1e-15))
    spikes, mask = np.asarray(data.spikes) > 0, np.asarray(data.mask)
    draws = np.asarray(jax.random.uniform(key, spikes.shape), np.float64)
    rescaled = []
    for neuron in range(spikes.shape[1]):
        intervals = [
            _intervals(
                spikes[s, neuron], hazard[s, neuron], draws[s, neuron], mask[s], model.num_lags
            )
            for s in range(spikes.shape[0])
        ]
        rescaled.append(np.sort(-np.expm1(-np.concatenate(intervals))))
    tests = [stats.kstest(u, "uniform") if u.size else None for u in rescaled]
    return GoodnessOfFit(
        np.array([0.0 if t is None else t.statistic for t in tests]),
        np.array([1.0 if t is None else t.pvalue for t in tests]),
        np.array([u.size for u in rescaled]),
        rescaled,
    )


def _intervals(
    spikes: np.ndarray, hazard: np.ndarray, draws: np.ndarray, mask: np.ndarray, num_lags: int
) -> np.ndarray:
    """Rescaled waiting times between successive spikes of one segment."""
    valid = mask.copy()
    valid[:num_lags] = False
    at = np.flatnonzero(spikes & valid)
    if at.size < 2:
        return np.zeros(0)
    spent = np.concatenate([[0.0], np.cumsum(hazard)])
    broken = np.concatenate([[0], np.cumsum(~valid)])
    first, last = at[:-1], at[1:]
    whole = broken[last] == broken[first]
    first, last = first[whole], last[whole]
    # Silence of the bins in between, then the part of the last bin until its spike: given that
    # the bin holds one, its hazard is exponential cut off at the bin's own.
    silence = spent[last] - spent[first + 1]
    within = -np.log1p(-draws[last] * -np.expm1(-hazard[last]))
    return silence + within
