"""Synthetic recordings: what is planted in them is there, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from neurofield.network._synthetic_branching import branching_process
from neurofield.network._synthetic_clusters import clustered_lif
from neurofield.network._synthetic_poisson import log_normal_modulation, poisson_null
from neurofield.statistics import branching_ratio

KEY = jax.random.key(8)


def z_mean(samples, expected, axis=0):
    """z-scores of the mean of independent samples."""
    samples = np.asarray(samples, float)
    error = samples.std(axis, ddof=1) / np.sqrt(samples.shape[axis])
    return (samples.mean(axis) - expected) / error


# --- clustered network ----------------------------------------------------------------------------


def contrast(found, window=10):
    """Mean count correlation within clusters less that between them."""
    excitatory = np.asarray(found.raster.populations) == 0
    spikes = np.asarray(found.raster.spikes)[excitatory].astype(float)
    counts = spikes.reshape(len(spikes), -1, window).sum(-1)
    active = counts.std(1) > 0
    assert active.mean() > 0.8
    label = np.asarray(found.communities)[excitatory][active]
    correlation = np.corrcoef(counts[active])
    same = label[:, None] == label[None]
    return correlation[same & ~np.eye(len(label), dtype=bool)].mean() - correlation[~same].mean()


@pytest.fixture(scope="module")
def clusters():
    return [clustered_lif(jax.random.fold_in(KEY, i), 4.0) for i in range(6)]


@pytest.fixture(scope="module")
def unclustered():
    return [clustered_lif(jax.random.fold_in(KEY, i), 4.0, ratio=1.0) for i in range(3)]


def test_counts_correlate_within_the_clusters(clusters, unclustered):
    """Between independent networks the contrast varies little; without clusters there is none."""
    assert z_mean([contrast(found) for found in clusters], 0.0) > 4
    assert np.abs([contrast(found) for found in unclustered]).max() < 0.01
    # Against shuffled labels, one network is enough.
    one = clusters[0]
    rng = np.random.default_rng(0)
    shuffled = []
    for _ in range(50):
        labels = np.array(one.communities)
        labels[:400] = rng.permutation(labels[:400])
        shuffled.append(contrast(type(one)(one.raster, jnp.asarray(labels), one.graph)))
    assert (contrast(one) - np.mean(shuffled)) / np.std(shuffled) > 4


def test_the_clustered_network_is_as_described(clusters):
    one = clusters[0]
    assert one.raster.spikes.shape == (500, 800)
    assert one.raster.population_names == ("E", "I")
    np.testing.assert_array_equal(one.communities, np.repeat(np.arange(6), [80] * 5 + [100]))
    weights = np.asarray(one.graph.weights)
    assert (np.diag(weights) == 0).all()
    label = np.asarray(one.communities)
    excitatory = label < 5
    same = label[:, None] == label[None]
    outside = 0.2 * 5 / (4 + 2.5)
    off = ~np.eye(500, dtype=bool)
    post, pre = excitatory[:, None], excitatory[None]
    # Probability and weight (in units of the threshold, for 5000 neurons) of each block.
    blocks = [
        (post & pre & same, 2.5 * outside, 0.024),
        (post & pre & ~same, outside, 0.024),
        (~post & pre, 0.5, 0.014),
        (post & ~pre, 0.5, -0.045),
        (~post & ~pre, 0.5, -0.057),
    ]
    for block, probability, weight in blocks:
        values = weights[block & off]
        z = (np.mean(values != 0) - probability) / np.sqrt(
            probability * (1 - probability) / values.size
        )
        assert abs(z) < 4
        np.testing.assert_allclose(values[values != 0], weight * 15 * np.sqrt(10), rtol=1e-6)
    for rate in (
        np.asarray(one.raster.spikes)[part].mean() / 5e-3 for part in (label < 5, label == 5)
    ):
        assert 2 < rate < 30


def test_the_graph_points_the_right_way(clusters):
    """Rates rise with the excitatory in-degree and fall with the inhibitory; out-degrees: none."""
    z = []
    for found in clusters:
        rate = np.asarray(found.raster.spikes)[:400].mean(1)
        weights = np.asarray(found.graph.weights)[:, :400][:400], found.graph.weights[:400, 400:]
        degrees = [weights[0].sum(1), weights[1].sum(1), weights[0].sum(0)]
        # Within clusters, whose rates differ for reasons of their own.
        parts = [x.reshape(5, 80) for x in map(np.asarray, (rate, *degrees))]
        rate, *degrees = ((x - x.mean(1)[:, None]).ravel() for x in parts)
        z.append([np.corrcoef(rate, degree)[0, 1] * np.sqrt(395) for degree in degrees])
    total = np.sum(z, axis=0) / np.sqrt(len(z))
    assert total[0] > 4
    assert total[1] > 4  # of weights, which are negative
    assert abs(total[2]) < 4


def test_mean_excitation_does_not_depend_on_the_clusters(unclustered):
    strong = clustered_lif(KEY, 4.0, weight_factor=1.9)
    sums = [np.asarray(x.graph.weights)[:400, :400].sum(1) for x in (unclustered[0], strong)]
    z = (sums[0].mean() - sums[1].mean()) / np.sqrt(sum(x.var() / 400 for x in sums))
    assert abs(z) < 4


@pytest.mark.slow  # compiles long
def test_clustered_networks_in_a_batch_are_as_one_by_one():
    def run(key):
        return clustered_lif(key, 0.05, num_excitatory=20, num_inhibitory=5, warm_up=0.0)

    keys = jax.random.split(KEY, 2)
    batch = jax.jit(jax.vmap(run))(keys)
    for i, key in enumerate(keys):
        one = run(key)
        np.testing.assert_array_equal(batch.raster.spikes[i], one.raster.spikes)
        np.testing.assert_allclose(batch.graph.weights[i], one.graph.weights, rtol=1e-12)


# --- Poisson units --------------------------------------------------------------------------------

RATES = jnp.asarray([2.0, 10.0, 0.0, 40.0, 150.0])


@pytest.mark.parametrize("binary", [False, True])
def test_units_are_independent_given_the_modulation(binary):
    modulation = 1 + 0.9 * jnp.sin(jnp.arange(40_000) / 300)
    found = poisson_null(KEY, 800.0, RATES, 0.02, modulation=modulation, binary=binary)
    assert found.raster.spikes.dtype == jnp.uint8
    counts = np.asarray(found.raster.spikes, float)
    assert not counts[2].any()
    counts = np.delete(counts, 2, axis=0)
    mean = np.delete(np.asarray(RATES), 2)[:, None] * 0.02 * np.asarray(modulation)
    if binary:
        mean = -np.expm1(-mean)
        variance = mean * (1 - mean)
        assert counts.max() == 1
    else:
        variance = mean
        assert counts.max() > 10
    # The residuals have mean 0 and variance 1 in each bin, and neither do units nor neighbours in
    # time correlate.
    residual = (counts - mean) / np.sqrt(variance)
    num = residual.shape[1]
    z = [residual.mean(1) * np.sqrt(num), z_mean((residual**2).T, 1.0)]
    z += [residual[i] @ residual[j] / np.sqrt(num) for i in range(4) for j in range(i)]
    z += [residual[:, 1:] @ residual[:, :-1].T / np.sqrt(num - 1)]
    assert np.abs(np.concatenate([np.ravel(x) for x in z])).max() < 4


def test_counts_of_one_bin_are_poisson():
    found = poisson_null(KEY, 400.0, jnp.asarray([30.0, 700.0]), 0.02)
    for counts, mean in zip(np.asarray(found.raster.spikes), (0.6, 14.0), strict=True):
        edge = int(stats.poisson.isf(1e-3, mean))
        observed = np.bincount(np.minimum(counts, edge + 1), minlength=edge + 2)
        expected = np.append(
            stats.poisson.pmf(np.arange(edge + 1), mean), stats.poisson.sf(edge, mean)
        )
        assert stats.chisquare(observed, expected * counts.size).pvalue > 1e-4
    np.testing.assert_array_equal(found.modulation, np.ones(20_000))


def test_log_normal_modulation_has_its_moments():
    sd, tau, width = 0.6, 0.1, 0.02
    draw = jax.jit(jax.vmap(lambda key: log_normal_modulation(key, 20.0, width, sd, tau)))
    found = np.asarray(draw(jax.random.split(KEY, 200)))
    assert np.abs(z_mean(found.mean(1), 1.0)) < 4
    for lag in (0, 1, 5, 20):
        products = (found[:, lag:] - 1) * (found[:, : found.shape[1] - lag] - 1)
        expected = np.expm1(sd**2 * np.exp(-lag * width / tau))
        assert np.abs(z_mean(products.mean(1), expected)) < 4
    # Stationary from the first bin on.
    assert stats.kstest(np.log(found[:, 0]), "norm", (-(sd**2) / 2, sd)).pvalue > 1e-4


def test_shared_modulation_makes_the_covariance_it_should():
    sd, rates = 0.5, jnp.asarray([20.0, 30.0])

    def run(key):
        key_m, key_n = jax.random.split(key)
        modulation = log_normal_modulation(key_m, 10.0, 0.02, sd, 0.05)
        return poisson_null(key_n, 10.0, rates, 0.02, modulation=modulation).raster.spikes

    counts = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(KEY, 200)), float)
    mean = np.asarray(rates) * 0.02
    product = ((counts[:, 0] - mean[0]) * (counts[:, 1] - mean[1])).mean(1)
    assert np.abs(z_mean(product, mean.prod() * np.expm1(sd**2))) < 4
    assert z_mean(product, 0.0) > 4


# --- branching process ----------------------------------------------------------------------------

M, H, UNITS, SEEN = 0.9, 2.0, 20, 5
MEAN, VARIANCE = H / (1 - M), H / ((1 - M) * (1 - M**2))


@pytest.fixture(scope="module")
def cascades():
    """Independent recordings, `[trial, ...]`."""
    run = jax.jit(
        jax.vmap(
            lambda key: branching_process(
                key, 8.0, M, H, 0.004, num_units=UNITS, num_observed=SEEN, warm_up=200
            )
        )
    )
    return run(jax.random.split(KEY, 64))


def test_activity_is_stationary_with_the_moments_of_the_process(cascades):
    activity = np.asarray(cascades.activity)
    assert activity.shape == (64, 2000)
    deviation = activity - MEAN
    assert np.abs(z_mean(deviation.mean(1), 0.0)) < 4
    z = []
    for lag in (0, 1, 2, 5, 10, 30):
        products = deviation[:, lag:] * deviation[:, : 2000 - lag]
        z.append(z_mean(products.mean(1), VARIANCE * M**lag))
    assert np.abs(z).max() < 4


def test_each_step_is_a_poisson_number_around_its_mean(cascades):
    activity = np.asarray(cascades.activity)
    mean = M * activity[:, :-1] + H
    # Martingale differences of variance 1: the sum's variance is exactly their number.
    residual = (activity[:, 1:] - mean) / np.sqrt(mean)
    assert abs(residual.sum() / np.sqrt(residual.size)) < 4
    assert np.abs(z_mean((residual**2).mean(1), 1.0)) < 4


def test_observed_units_are_a_binomial_thinning(cascades):
    share = SEEN / UNITS
    assert cascades.fraction == share
    counts = np.asarray(cascades.raster.spikes, float)
    assert counts.shape == (64, SEEN, 2000)
    activity, seen = np.asarray(cascades.activity), counts.sum(1)
    assert (seen <= activity).all()
    residual = seen - share * activity
    variance = share * (1 - share) * activity
    assert abs(residual.sum() / np.sqrt(variance.sum())) < 4
    assert np.abs(z_mean((residual**2 - variance).mean(1), 0.0)) < 4
    # No unit is special, and two of them exclude each other as in a multinomial: given A, the mean
    # of n_i n_j is A (A - 1) / N^2.
    pairs = counts[:, 0] * counts[:, 1] - activity * (activity - 1) / UNITS**2
    assert np.abs(z_mean(pairs.mean(1), 0.0)) < 4
    per_unit = counts.sum((0, 2))
    assert stats.chisquare(per_unit).pvalue > 1e-4


def test_the_branching_ratio_is_found_in_a_part_of_the_units(cascades):
    share = SEEN / UNITS
    amplitude = share / (share + (1 - share) * (1 - M**2))
    seen = jnp.sum(cascades.raster.spikes, axis=-2, dtype=jnp.int32).astype(float)
    found = branching_ratio(seen, 30)
    assert found.error < 0.01
    assert abs(found.ratio - M) < 4 * found.error
    assert abs(found.amplitude - amplitude) < 4 * found.amplitude_error
    # The naive estimate, the slope at lag 1, is off by far.
    assert found.slopes[0] < M - 20 * found.error


def test_no_branching_is_a_poisson_process():
    found = branching_process(KEY, 20.0, 0.0, 3.0, 0.004, num_units=4, warm_up=0)
    counts = np.asarray(found.raster.spikes).ravel()
    observed = np.bincount(np.minimum(counts, 4), minlength=5)
    expected = np.append(stats.poisson.pmf(np.arange(4), 0.75), stats.poisson.sf(3, 0.75))
    assert stats.chisquare(observed, expected * counts.size).pvalue > 1e-4


# --- keys, dtypes, errors -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtypes_stay(dtype):
    m, h = jnp.asarray(0.5, dtype), jnp.asarray(1.0, dtype)
    assert branching_process(KEY, 0.04, m, h, 0.004, warm_up=1).activity.dtype == dtype
    modulation = log_normal_modulation(KEY, 0.1, 0.02, jnp.asarray(0.5, dtype), 0.1)
    assert modulation.dtype == dtype
    found = poisson_null(KEY, 0.1, jnp.ones(2, dtype), 0.02, modulation=modulation)
    assert found.rates.dtype == found.modulation.dtype == dtype
    assert poisson_null(KEY, 0.1, jnp.ones(2, dtype), 0.02).modulation.dtype == dtype


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="not a whole number of bin_width"):
        poisson_null(KEY, 0.11, jnp.asarray([1.0]), 0.02)
    with pytest.raises(ValueError, match="rates must be"):
        poisson_null(KEY, 0.1, 1.0, 0.02)
    with pytest.raises(ValueError, match="modulation"):
        poisson_null(KEY, 0.1, jnp.asarray([1.0]), 0.02, modulation=jnp.ones(4))
    with pytest.raises(ValueError, match="rates must be finite and not negative"):
        poisson_null(KEY, 0.1, jnp.asarray([-1.0]), 0.02)
    with pytest.raises(ValueError, match="more than 255"):
        poisson_null(KEY, 0.1, jnp.asarray([1e5]), 0.02)
    with pytest.raises(Exception, match="more than 255"):
        jax.jit(lambda rate: poisson_null(KEY, 0.1, rate, 0.02).raster.spikes)(jnp.ones(1) * 1e5)
    with pytest.raises(Exception, match="negative"):
        jax.jit(lambda rate: poisson_null(KEY, 0.1, rate, 0.02).raster.spikes)(-jnp.ones(1))
    with pytest.raises(ValueError, match="1 - branching_ratio"):
        branching_process(KEY, 0.04, 1.0, 1.0, 0.004)
    with pytest.raises(ValueError, match="drive"):
        branching_process(KEY, 0.04, 0.5, 0.0, 0.004)
    with pytest.raises(ValueError, match="num_observed"):
        branching_process(KEY, 0.04, 0.5, 1.0, 0.004, num_units=4, num_observed=5)
    with pytest.raises(ValueError, match="more than 255"):
        branching_process(KEY, 0.04, 0.5, 1000.0, 0.004, num_units=1)
    with pytest.raises(ValueError, match="num_clusters must be between 1 and the 5"):
        clustered_lif(KEY, 0.01, num_excitatory=5, num_clusters=6)
