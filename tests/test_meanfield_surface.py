"""Least squares on a surface through rough predictions: calibrated where each has its own noise."""

import numpy as np
import pytest
from scipy import stats

from neurofield.fit import RESULTS, is_successful
from neurofield.meanfield._surface import Data, search

TRUTH = np.array([0.3, -0.2])
ERROR = np.array([0.05, 0.04, 0.06, 0.05, 0.08])


def smooth(x):
    a, b = x[..., 0], x[..., 1]
    return np.stack([np.exp(a), a + b, np.exp(b - a), a * b + 0.5 * b, np.sin(a)], axis=-1)


def rough(rng, level):
    def evaluate(points, _):
        noise = level * ERROR[None] * rng.standard_normal((len(points), len(ERROR)))
        return smooth(points) + noise, np.broadcast_to(level * ERROR[None], noise.shape)

    return evaluate


def fitted(rng, level, correlated=True, **options):
    # Part of the errors is common to all data, which the deviations know.
    parts = np.concatenate([np.diag(0.8 * ERROR), 0.6 * ERROR[None]])
    target = smooth(TRUTH) + rng.standard_normal(len(parts)) @ parts
    data = Data(target, ERROR, parts if correlated else None, None)
    start = TRUTH + rng.choice([-0.2, 0.2], 2)
    settings = {"width": 0.2, "max_steps": 12} | options
    return search(rough(rng, level), start, data, **settings)


@pytest.mark.parametrize("level", [0.2, 1.0])
def test_errors_are_calibrated(level):
    """Deviates of 150 data sets, with noise of the theory below and as that of the data."""
    rng = np.random.default_rng(int(10 * level))
    squares, converged = [], 0
    for _ in range(150):
        found = fitted(rng, level)
        converged += is_successful(found.result)
        off = found.free - TRUTH
        squares.append(off @ np.linalg.solve(found.covariance, off))
    assert converged > 140
    # Of two numbers each; both tails.
    p = stats.chi2.cdf(np.sum(squares), 2 * len(squares))
    assert 1e-3 < p < 1 - 1e-3
    assert np.max(squares) < stats.chi2.isf(1e-5, 2)


def test_without_noise_it_is_least_squares():
    found = fitted(np.random.default_rng(0), 0.0, correlated=False)
    assert is_successful(found.result)
    slopes = np.stack([smooth(found.free + d) - smooth(found.free - d) for d in 1e-5 * np.eye(2)])
    slopes = slopes / 2e-5 / ERROR[None]
    np.testing.assert_allclose(found.predicted, smooth(found.free), atol=0.02 * ERROR.min())
    np.testing.assert_allclose(found.covariance, np.linalg.inv(slopes @ slopes.T), rtol=0.05)


def test_what_is_wrong_with_the_theory_is_taken_off_at_the_reference():
    rng = np.random.default_rng(1)
    there, missing = TRUTH + np.array([0.05, -0.05]), 10 * ERROR
    target = smooth(TRUTH) - smooth(there)  # both with `missing`, which cancels
    data = Data(target, ERROR, None, there)

    def evaluate(points, before):
        found, error = rough(rng, 0.3)(points, before)
        return found - missing[None], error

    found = search(evaluate, there, data, width=0.2, max_steps=12)
    off = found.free - TRUTH
    assert off @ np.linalg.solve(found.covariance, off) < 0.5  # the data have no noise
    np.testing.assert_allclose(found.origin, smooth(there) - missing, atol=3 * 0.3 * ERROR.max())


def test_a_minimum_it_does_not_reach_is_no_result():
    found = fitted(np.random.default_rng(2), 0.2, width=0.01, max_steps=2)
    assert found.result == RESULTS.nonlinear_max_steps_reached
    nothing = np.full((1, len(ERROR)), np.nan)
    data = Data(smooth(TRUTH), ERROR, None, None)
    with pytest.raises(ValueError, match="no finite prediction"):
        search(
            lambda p, _: (np.repeat(nothing, len(p), 0),) * 2, TRUTH, data, width=0.1, max_steps=2
        )
