"""Error analysis against processes whose autocorrelation is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats

from neurofield import statistics


def ar1(rng, r, shape):
    """Stationary AR(1) of unit variance: Gamma(t) = r^|t|, tau_int = (1 + r) / (1 - r) / 2."""
    noise = rng.normal(size=shape)
    noise[..., 1:] *= np.sqrt(1 - r**2)
    return scipy.signal.lfilter([1.0], [1.0, -r], noise)


@pytest.mark.parametrize(("r", "tau"), [(0.0, 0.5), (0.5, 1.5), (0.9, 9.5), (0.99, 99.5)])
def test_autocorrelation_time_of_ar1_within_its_error(r, tau):
    series = ar1(np.random.default_rng(1), r, (4, 50_000))
    found = statistics.mean_error(series)
    # The automatic window leaves a truncation bias of the order of its error, hence 3 sigma.
    assert abs(found.tau_int - tau) < 3 * found.tau_int_error + 1e-12
    assert found.error == pytest.approx(np.sqrt(2 * tau / series.size), rel=0.1)


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("masked", [False, True])
def test_errors_are_calibrated(r, masked):
    num_seeds, num_bins = 400, 4000
    series = ar1(np.random.default_rng(2), r, (num_seeds, 2, num_bins // 2))
    mask = None
    if masked:
        mask = np.ones((2, num_bins // 2), bool)
        mask[0, 700:720] = mask[1, :150] = mask[1, -1:] = False
        series = np.where(mask, series, np.nan)  # invalid bins must never be read
    found = statistics.mean_error(series, mask, num_replica_axes=1)
    assert found.mean.shape == (num_seeds,)
    z = np.asarray(found.mean / found.error)
    # std of num_seeds normals is 1 +- 1/sqrt(2 num_seeds); the error's own error adds its square.
    spread = float(np.mean(np.asarray(found.error_of_error / found.error) ** 2))
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * num_seeds) + spread
    assert abs(z.mean()) < 4 / np.sqrt(num_seeds)


def test_masked_and_transform_routes_agree_and_no_pair_crosses_a_gap():
    rng = np.random.default_rng(3)
    series = ar1(rng, 0.8, (3, 500))
    plain = statistics.mean_error(series)
    masked = statistics.mean_error(series, np.ones((3, 500), bool))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(masked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    # Two replicas joined by a gap of one invalid bin must be as two separate replicas.
    joined = np.concatenate([series[0], [1e6], series[1]])
    gap = np.ones(1001, bool)
    gap[500] = False
    a = statistics.mean_error(joined, gap)
    b = statistics.mean_error(series[:2], np.ones((2, 500), bool))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_window_formula_against_plain_loop():
    series = ar1(np.random.default_rng(4), 0.9, (2, 3000))
    delta = series - series.mean()
    n = series.size
    gamma = np.array([(delta[:, : 3000 - t] * delta[:, t:]).mean() for t in range(300)])
    for window in range(1, 300):
        tau = 0.5 + gamma[1 : window + 1].sum() / gamma[0]
        decay = 1.5 / np.log((2 * tau + 1) / (2 * tau - 1))
        if np.exp(-window / decay) - decay / np.sqrt(window * n) < 0:
            break
    total = (gamma[0] + 2 * gamma[1 : window + 1].sum()) * (1 + (2 * window + 1) / n)
    found = statistics.mean_error(series)
    assert found.window == window
    assert found.error == pytest.approx(np.sqrt(total / n), rel=1e-10)
    assert found.tau_int == pytest.approx(total / 2 / (gamma[0] + total / n), rel=1e-10)


def test_derived_error_of_a_ratio_sees_correlation_between_series():
    num_seeds = 300
    rng = np.random.default_rng(5)
    common = ar1(rng, 0.7, (num_seeds, 2000))
    top = 2 + common + 0.3 * ar1(rng, 0.7, common.shape)
    bottom = 4 + common
    ratio = jax.vmap(
        lambda a, b: statistics.derived_error(lambda m: m["a"] / m["b"], {"a": a, "b": b})
    )(top, bottom)
    z = np.asarray((ratio.mean - 0.5) / ratio.error)
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * num_seeds)
    # Of one series the identity is the mean itself.
    one = statistics.derived_error(lambda m: m, top[0])
    same = statistics.mean_error(top[0])
    assert one.error == pytest.approx(float(same.error), rel=1e-12)


def test_derived_error_of_vector_functions_and_vector_series():
    x = ar1(np.random.default_rng(6), 0.5, (3, 2, 1000))
    found = statistics.derived_error(
        lambda m: jnp.stack([m[0] + m[1], m[2]]), x, num_replica_axes=1
    )
    assert found.error.shape == (2,)
    expected = statistics.mean_error(x[0] + x[1])
    assert found.error[0] == pytest.approx(float(expected.error), rel=1e-10)


def test_error_analysis_under_jit_keeps_dtype_and_says_no_nan():
    series = jnp.asarray(ar1(np.random.default_rng(7), 0.5, (2, 300)), jnp.float32)
    eager = statistics.mean_error(series)
    jitted = jax.jit(statistics.mean_error)(series)
    assert eager.error.dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    constant = statistics.mean_error(np.full((2, 50), 3.0))
    assert constant.error == 0
    assert constant.tau_int == 0.5
    assert statistics.mean_error(np.arange(20.0)[:, None]).error == pytest.approx(
        np.arange(20.0).std() * np.sqrt((1 + 1 / 20) / 20)
    )
    with pytest.raises(Exception, match="no valid bin"):
        statistics.mean_error(series, jnp.zeros((2, 300), bool)).error.block_until_ready()
    with pytest.raises(ValueError, match="mask has"):
        statistics.mean_error(series, jnp.ones((300,), bool))


def test_blocking_jackknife_and_bootstrap_agree_with_the_exact_error():
    r, num_bins = 0.8, 40_000
    tau = (1 + r) / (1 - r) / 2
    x = ar1(np.random.default_rng(8), r, (num_bins,))
    exact = np.sqrt(2 * tau / num_bins)
    blocks = statistics.blocking_error(x, 200)
    assert blocks.error == pytest.approx(exact, rel=4 / np.sqrt(2 * 200) + 0.05)
    # The jackknife of a mean over blocks is the blocking error, exactly.
    knife = statistics.jackknife(jnp.mean, x.reshape(200, 200))
    assert knife.error == pytest.approx(float(blocks.error), rel=1e-9)
    assert abs(knife.bias) < 1e-10
    boot = statistics.stationary_bootstrap(jax.random.key(0), jnp.mean, x, 200, num_samples=200)
    assert boot.error == pytest.approx(exact, rel=4 / np.sqrt(2 * 200) + 0.05)
    mask = np.ones(num_bins, bool)
    mask[:150] = mask[1000:1190] = False
    masked = statistics.blocking_error(np.where(mask, x, np.nan), 200, mask)
    assert masked.mean == pytest.approx(x[mask].mean())
    assert masked.error == pytest.approx(float(blocks.error), rel=0.05)


def test_jackknife_bias_of_a_square_is_its_variance():
    x = np.random.default_rng(9).normal(size=50)
    knife = statistics.jackknife(lambda s: jnp.mean(s) ** 2, x)
    assert knife.bias == pytest.approx(x.var(ddof=1) / 50, rel=1e-9)
    with pytest.raises(ValueError, match="leading axis"):
        statistics.jackknife(jnp.mean, x[:1])


def test_split_rhat_and_ess():
    rng = np.random.default_rng(10)
    good = ar1(rng, 0.5, (4, 20_000))
    assert abs(float(statistics.split_rhat(good)) - 1) < 2e-3
    assert float(statistics.ess(good, rank_normalise=False)) == pytest.approx(
        good.size / 3, rel=0.06
    )
    assert float(statistics.ess(good)) == pytest.approx(good.size / 3, rel=0.06)
    assert float(statistics.split_rhat(good + np.array([0, 0, 0, 2.0])[:, None])) > 1.2
    # Equal means, one chain of greater spread: only the folded statistic sees it.
    assert float(statistics.split_rhat(good * np.array([1, 1, 1, 3.0])[:, None])) > 1.05
    assert float(statistics.split_rhat(np.ones((2, 10)))) == 1
    assert np.isinf(float(statistics.split_rhat(np.ones((2, 10)) * np.array([[0.0], [1]]))))
    # Classical R-hat of four halves by hand: ranks of a small set without ties.
    x = rng.normal(size=(2, 10))
    halves = x.reshape(4, 5)
    z = scipy.stats.norm.ppf((scipy.stats.rankdata(halves).reshape(4, 5) - 0.375) / (20 + 0.25))
    w = z.var(axis=1, ddof=1).mean()
    bulk = np.sqrt((0.8 * w + z.mean(axis=1).var(ddof=1)) / w)
    assert float(statistics.split_rhat(x)) >= bulk - 1e-12
