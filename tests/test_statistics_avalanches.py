"""Avalanches and branching ratios against branching processes with exact laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from neurofield import statistics
from neurofield.recording import Raster


def test_runs_by_hand():
    activity = np.array([[0, 2, 1, 0, 1, 1, 0, 3], [1, 0, 1, 1, 1, 0, 1, 0]])
    mask = np.ones((2, 8), bool)
    mask[1, 3] = False
    found = statistics.avalanches(Raster(activity[:, None], 0.01, mask=mask))
    np.testing.assert_array_equal(found.size, [3, 2, 3, 1, 1, 1, 1])
    np.testing.assert_array_equal(found.duration, [2, 2, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(found.epoch, [0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(found.first, [1, 4, 7, 0, 2, 4, 6])
    np.testing.assert_array_equal(found.censored, [0, 0, 1, 1, 1, 1, 0])
    assert len(statistics.avalanches(Raster(np.zeros((2, 9)), 0.01)).size) == 0


def test_borel_values():
    size = jnp.array([1.0, 2, 3, 10, 100])
    expected = [0.3678794412, 0.1353352832, 0.0746806026, 0.0125110036, 3.98610e-4]
    np.testing.assert_allclose(jnp.exp(statistics.borel_log_prob(size, 1.0)), expected, rtol=1e-6)
    assert jnp.exp(statistics.borel_log_prob(1.0, 0.9)) == pytest.approx(0.4065696597, rel=1e-9)
    s = jnp.arange(1.0, 3000)
    p = jnp.exp(statistics.borel_log_prob(s, jnp.full_like(s, 0.9)))
    assert jnp.sum(p) == pytest.approx(1, abs=1e-9)
    assert jnp.sum(p * s) == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize("mu", [0.6, 0.9])
def test_galton_watson_sizes_follow_borel(mu):
    rng = np.random.default_rng(1)
    columns, sizes = [], []
    for _ in range(8000):
        alive = 1
        while alive:
            columns.append(alive)
            alive = rng.poisson(mu * alive)
        columns.append(0)
    activity = np.array(columns)
    # 60 cells that fire as many as are alive: a raster whose column sums are the process.
    width = activity.max()
    raster = Raster((np.arange(width)[:, None] < activity).astype(np.uint8), 0.001)
    found = statistics.avalanches(raster)
    sizes = found.size[~found.censored]
    assert len(sizes) == 8000 - 1  # the first touches the edge
    edges = np.array([1, 2, 3, 4, 6, 9, 15, 30])
    s = np.arange(1, 30.0)
    p = np.exp(statistics.borel_log_prob(s, np.full_like(s, mu)))
    expected = np.append(np.add.reduceat(p, edges[:-1] - 1), 1 - p.sum()) * len(sizes)
    observed = np.histogram(sizes, np.append(edges, np.inf))[0]
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3


@functools.cache
def zeta_survival(exponent, x_min):
    x = np.arange(x_min, x_min + 200_000)
    return scipy.special.zeta(exponent, x) / scipy.special.zeta(exponent, x_min)


def sample_zeta(rng, exponent, x_min, count):
    """Exact draws by inversion of a table so long that no draw passes its end."""
    survival = zeta_survival(exponent, x_min)
    return x_min + np.searchsorted(-survival, -rng.random(count), side="right") - 1


def test_exponent_within_its_error_and_x_min_found():
    rng = np.random.default_rng(2)
    z = []
    for _ in range(40):
        fit = statistics.fit_power_law(sample_zeta(rng, 2.5, 3, 1000), x_min=3)
        z.append((fit.exponent - 2.5) / fit.error)
    assert abs(np.mean(z)) < 4 / np.sqrt(40)
    assert abs(np.std(z) - 1) < 4 / np.sqrt(80)
    below = rng.integers(1, 10, 4000)
    tail = sample_zeta(rng, 2.2, 10, 4000)
    fit = statistics.fit_power_law(np.concatenate([below, tail]))
    assert 7 <= fit.x_min <= 20
    assert abs(fit.exponent - 2.2) < 4 * fit.error
    assert fit.distance < 2 / np.sqrt(fit.num_tail)


def test_likelihood_ratio_tells_lognormal_from_power_law():
    rng = np.random.default_rng(3)
    lognormal = np.maximum(np.round(rng.lognormal(2.5, 0.6, 3000)).astype(int), 1)
    fit = statistics.fit_power_law(lognormal, x_min=3)
    assert fit.log_ratio < 0
    assert fit.p_value < 1e-3
    # Lognormal tails can mimic a power law, so that only "not significantly worse" is sure.
    fit = statistics.fit_power_law(sample_zeta(rng, 2.5, 1, 3000), x_min=1)
    assert fit.log_ratio > 0 or fit.p_value > 0.01
    with pytest.raises(ValueError, match="no tail"):
        statistics.fit_power_law(np.array([5, 5, 5]))
    with pytest.raises(ValueError, match="whole numbers"):
        statistics.fit_power_law(np.array([0, 2]))


def driven_branching(rng, m, h, num_bins, num_runs):
    activity = np.empty((num_runs, num_bins), int)
    a = np.full(num_runs, round(h / (1 - m)))
    for t in range(-300, num_bins):
        a = rng.poisson(m * a + h)
        if t >= 0:
            activity[:, t] = a
    return activity


def test_branching_ratio_survives_subsampling():
    rng = np.random.default_rng(4)
    m, num_runs = 0.9, 40
    activity = driven_branching(rng, m, 5.0, 10_000, num_runs)
    seen = rng.binomial(activity, 0.1)
    fit = jax.vmap(lambda a: statistics.branching_ratio(a, num_lags=30))
    full, part = fit(jnp.asarray(activity)), fit(jnp.asarray(seen))
    for found in (full, part):
        z = np.asarray((found.ratio - m) / found.error)
        # Slopes of finite series are biased down by about (1 + 3 m) / T, far below the error.
        assert abs(z.mean()) < 4 / np.sqrt(num_runs)
        assert abs(z.std() - 1) < 4 / np.sqrt(2 * num_runs)
    # Binomial thinning of a process with variance v and mean a: b = p v / (p v + (1 - p) a).
    v, a = 50 / (1 - m**2), 50
    assert np.mean(full.amplitude) == pytest.approx(1, abs=0.02)
    assert np.mean(part.amplitude) == pytest.approx(0.1 * v / (0.1 * v + 0.9 * a), abs=0.02)
    assert np.mean(part.slopes[:, 0]) < 0.5  # the naive one-step estimate is far off


def test_branching_slopes_stay_within_stretches():
    rng = np.random.default_rng(5)
    activity = rng.poisson(3.0, (2, 300))
    mask = np.ones((2, 300), bool)
    mask[0, 100:103] = mask[1, 250:] = False
    found = statistics.branching_ratio(np.where(mask, activity, 999), 4, mask)
    x = activity - activity[mask].mean()
    products = {k: [] for k in range(5)}
    for row, first, end in [(0, 0, 100), (0, 103, 300), (1, 0, 250)]:
        for k in range(5):
            products[k] += list(x[row, first + k : end] * x[row, first : end - k])
    expected = [np.mean(products[k]) / np.mean(products[0]) for k in range(1, 5)]
    np.testing.assert_allclose(found.slopes, expected, rtol=1e-10)
