"""Graphs from lagged correlations: against direct sums, known laws, and in chunks of any size."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import linalg, stats

from neurofield import renorm, statistics
from neurofield.recording import Activity, Raster

OFF = {n: ~np.eye(n, dtype=bool) for n in (4, 8)}


def spikes(seed, *shape, rate=0.3):
    return np.random.default_rng(seed).random(shape) < rate


def autoregression(seed, coefficients, num_bins, noise=None):
    """x(t) = A x(t-1) + noise with the covariance `noise`."""
    num = len(coefficients)
    factor = np.eye(num) if noise is None else np.linalg.cholesky(noise)
    values = np.random.default_rng(seed).normal(size=(num_bins, num)) @ factor.T
    for t in range(1, num_bins):
        values[t] += coefficients @ values[t - 1]
    return values.T


@pytest.fixture(scope="module")
def masked():
    """Three trials with invalid bins."""
    mask = spikes(1, 3, 40, rate=0.9)
    return Raster(spikes(0, 3, 4, 40), 1e-3, mask=mask)


def test_correlations_are_the_covariances_over_the_deviations(masked):
    values = masked.spikes.astype(float)
    found = renorm.lagged_correlation(values, (0, 1, 3), masked.mask)
    covariance = np.asarray(statistics.lagged_covariance(values, 4, masked.mask))
    deviation = np.sqrt(np.diag(covariance[0]))
    want = covariance[[0, 1, 3]] / (deviation[:, None] * deviation)
    np.testing.assert_allclose(found, want, atol=1e-13)
    lagged = renorm.infer_graph(masked, "lagged", lag_weights=(2.0, 0.0, 0.5))
    np.testing.assert_allclose(lagged.score, 2 * want[1] + want[2] / 2, atol=1e-13)


def test_scores_are_what_they_are_called(masked):
    c0, c1 = np.asarray(renorm.lagged_correlation(masked.spikes.astype(float), (0, 1), masked.mask))
    shrunk = 0.9 * c0 + 0.1 * np.eye(4)
    root = linalg.inv(linalg.sqrtm(shrunk))
    precision = linalg.inv(shrunk)
    deviation = np.sqrt(np.diag(precision))
    want = {
        "var": c1 @ precision,
        "whitened": root @ c1 @ root,
        "partial": np.eye(4) - precision / (deviation[:, None] * deviation),
    }
    for method, score in want.items():
        found = renorm.infer_graph(masked, method, shrink=0.1, window=1e-3)
        np.testing.assert_allclose(found.score, score, atol=1e-12)
        np.testing.assert_array_equal(found.graph.weights, np.where(np.eye(4), 0, found.score))


def test_partial_correlation_counts_spikes_in_whole_windows(masked):
    """Windows of three bins begin at each trial's start; those with an invalid bin do not count."""
    counts = np.asarray(masked.spikes)[..., :39].reshape(3, 4, 13, 3).sum(-1)
    whole = np.asarray(masked.mask)[..., :39].reshape(3, 13, 3).all(-1)
    rows = np.moveaxis(counts, 1, 2)[whole].T
    want = renorm.partial_correlation(jnp.asarray(np.corrcoef(rows)))
    found = renorm.infer_graph(masked, "partial", window=3e-3)
    np.testing.assert_allclose(found.score, want, atol=1e-12)


@pytest.mark.parametrize("cuts", [(60,), (1, 2, 3, 60)])
def test_chunks_of_any_size_give_the_same_graph(cuts):
    x, mask = spikes(2, 3, 120), spikes(3, 120, rate=0.9)
    edges = [0, *cuts, 120]
    chunks = (Raster(x[:, a:b], 1e-3, mask=mask[a:b]) for a, b in pairwise(edges))
    whole = renorm.infer_graph(Raster(x, 1e-3, mask=mask), "lagged")
    np.testing.assert_allclose(renorm.infer_graph(chunks, "lagged").score, whole.score, atol=1e-14)


def test_windows_run_on_from_chunk_to_chunk():
    values = spikes(5, 4, 333)
    mask = np.random.default_rng(6).random(333) > 0.02
    whole = Raster(values, 0.01, mask=mask, start=2.0)
    cuts = [0, 1, 3, 10, 11, 57, 300, 333]
    chunks = [
        Raster(values[:, a:b], 0.01, mask=mask[a:b], start=2.0 + 0.01 * a)
        for a, b in pairwise(cuts)
    ]
    found = renorm.infer_graph(iter(chunks), "partial", window=0.05)
    want = renorm.infer_graph(whole, "partial", window=0.05)
    np.testing.assert_allclose(found.score, want.score, atol=1e-12)
    # Bin 10 lies elsewhere: it is in no whole window, and windows begin anew after it.
    chunks[3] = Raster(values[:, 10:11], 0.01, mask=mask[10:11], start=50.0)
    found = renorm.infer_graph(iter(chunks), "partial", window=0.05)
    kept = np.r_[0:10, 11:331]
    want = Raster(values[:, kept], 0.01, mask=mask[kept])
    want = renorm.infer_graph(want, "partial", window=0.05)
    np.testing.assert_allclose(found.score, want.score, atol=1e-12)
    with pytest.raises(ValueError, match="too short"):
        renorm.infer_graph(iter([chunks[0]]), "partial", window=0.05)


def test_a_chunk_that_starts_elsewhere_begins_a_new_stretch():
    x = spikes(4, 3, 120)
    trials = Raster(x.reshape(3, 2, 60).swapaxes(0, 1), 1e-3)
    for start, same in ((5.07, trials), (5.06, Raster(x, 1e-3))):
        halves = [Raster(x[:, :60], 1e-3, start=5.0), Raster(x[:, 60:], 1e-3, start=start)]
        found = renorm.infer_graph(iter(halves), "lagged").score
        want = renorm.infer_graph(same, "lagged").score
        np.testing.assert_allclose(found, want, atol=1e-14)


def test_statistics_merge_whatever_their_origins():
    x = np.random.default_rng(5).normal(1e3, 1, size=(2, 3, 50))
    halves = [
        renorm.CorrelationStatistics.init(3, (0, 2), origin=origin).update(jnp.asarray(part))
        for origin, part in zip(([1e3, 1e3, 1e3], [999.0, 1001.0, 1002.0]), x, strict=True)
    ]
    merged = halves[0].merge(halves[1])
    want = renorm.lagged_correlation(jnp.asarray(x), (0, 2))
    for index in range(2):
        np.testing.assert_allclose(merged.correlation(index), want[index], atol=1e-12)


def test_a_known_autoregression_is_found_within_its_errors():
    """T tr(N^-1 D G D^T) is chi-squared: error D, covariances N of noise and G of activity."""
    coefficients = 0.2 * np.random.default_rng(6).normal(size=(8, 8))
    noise = np.eye(8) + 0.5
    num_bins = 1000
    values = autoregression(7, coefficients, num_bins, noise)
    found = renorm.infer_graph(Activity(values, 1e-3), shrink=0.0).score
    deviation = values.std(axis=1)
    error = np.asarray(found) * (deviation[:, None] / deviation) - coefficients
    activity = linalg.solve_discrete_lyapunov(coefficients, noise)
    square = num_bins * np.trace(linalg.solve(noise, error @ activity @ error.T))
    assert abs(stats.norm.ppf(stats.chi2.cdf(square, 64))) < 4


@pytest.mark.parametrize("method", ["lagged", "var", "whitened", "latent", "partial"])
def test_silent_neurons_score_nothing_and_are_named(method):
    x = spikes(8, 4, 120)
    x[1], x[2] = False, True
    found = renorm.infer_graph(Raster(x, 1e-3, labels="abcd"), method, window=1e-3)
    assert np.isfinite(found.score).all()
    still = np.zeros((4, 4), bool)
    still[[1, 2]] = still[:, [1, 2]] = True
    assert (np.asarray(found.score)[still] == 0).all()
    assert (np.asarray(found.score)[~still & OFF[4]] != 0).all()
    assert found.notes == ("2 neurons do not vary and have score 0: b, c.",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "granger"}, "method must be one of"),
        ({"num_lags": 2}, "num_lags is for"),
        ({"lag_weights": (1.0,)}, "lag_weights are for"),
        ({"method": "lagged", "lag_weights": (-1.0,)}, "none negative"),
        ({"method": "lagged", "num_lags": 40}, "too short"),
        ({"method": "partial", "window": 1.5e-3}, "whole number of bins"),
        ({"shrink": 1.5}, "shrink"),
        ({"num_surrogates": 20}, "key"),
        ({"num_surrogates": 5}, "at least 10"),
        ({"alternative": "both"}, "alternative"),
        ({"false_discovery": 0.0}, "false_discovery"),
        ({"l1": -1.0}, "l1"),
    ],
)
def test_what_cannot_be_is_refused(masked, options, words):
    with pytest.raises(ValueError, match=words):
        renorm.infer_graph(masked, **options)


def test_neurons_that_repeat_each_other_need_shrinkage():
    x = np.repeat(spikes(9, 1, 100), 3, axis=0)
    with pytest.raises(ValueError, match="shrink"):
        renorm.infer_graph(Raster(x, 1e-3), shrink=0.0)
    with pytest.raises(ValueError, match="at once"):
        renorm.infer_graph(iter([Raster(x, 1e-3)]), key=jax.random.key(0), num_surrogates=20)


def uniform(p):
    """z-score of the Kolmogorov-Smirnov test."""
    return stats.norm.isf(stats.kstest(p, "uniform").pvalue)


def inferred(values, seed, **options):
    recording = values if isinstance(values, Raster) else Activity(values, 1e-3)
    options = {"key": jax.random.key(seed), "num_surrogates": 24} | options
    return renorm.infer_graph(recording, **options)


def test_independent_neurons_have_uniform_p_values():
    """Of different rates, in trials with a rate of their own, and with refractory bins."""
    p, discoveries = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rate = rng.uniform(0.05, 0.3, (2, 8, 1))
        x = rng.random((2, 8, 1000)) < rate
        x[..., 1:] &= ~x[..., :-1]
        x[:, 7] = False
        found = inferred(Raster(x, 1e-3), seed)
        p.append(np.asarray(found.p_value)[:7, :7][OFF[8][:7, :7]])
        discoveries.append(int(found.significant.sum()))
        assert (np.asarray(found.p_value)[7] == 1).all()
    assert uniform(np.concatenate(p)) < 4
    # One false discovery in twenty recordings, or so.
    assert np.count_nonzero(discoveries) <= 3


@pytest.mark.parametrize(
    "method",
    ["var", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lagged", "partial"))],
)
def test_p_values_are_uniform_where_inputs_are_correlated_or_slow(method):
    """Instant correlations of 0.7 ("var"); memories that differ ("lagged"); neither ("partial")."""
    p = []
    for seed in range(4):
        noise = np.eye(8) if method == "partial" else 0.3 * np.eye(8) + 0.7
        memory = np.zeros(8) if method == "var" else np.linspace(0, 0.8, 8)
        if method == "lagged":
            noise = np.eye(8)
        values = autoregression(seed, np.diag(memory), 1000, noise)
        found = inferred(values, seed, method=method)
        pairs = np.tril(OFF[8]) if method == "partial" else OFF[8]
        p.append(np.asarray(found.p_value)[pairs])
    assert uniform(np.concatenate(p)) < 4


def test_strong_edges_are_found_and_few_others():
    """Effects of 8 standard errors each; the false discovery proportion is near its rate."""
    rng = np.random.default_rng(10)
    missed, false, found_all = 0, 0, 0
    for seed in range(6):
        coefficients = np.zeros((8, 8))
        edges = rng.choice(np.flatnonzero(OFF[8].ravel()), 12, replace=False)
        coefficients.flat[edges] = 8 / np.sqrt(1000) * rng.choice([-1, 1], 12)
        found = inferred(autoregression(seed, coefficients, 1000), seed)
        missed += int((~np.asarray(found.significant) & (coefficients != 0)).sum())
        false += int((np.asarray(found.significant) & (coefficients == 0)).sum())
        found_all += int(found.significant.sum())
        kept = np.asarray(found.graph.weights) != 0
        np.testing.assert_array_equal(kept, found.significant)
    assert missed == 0
    # At a rate of 0.05, binomial to within 4 sigma.
    assert false <= 0.05 * found_all + 4 * np.sqrt(0.05 * found_all)


def test_one_sided_tests_know_the_sign():
    coefficients = np.zeros((8, 8))
    coefficients[0, 1], coefficients[1, 2] = 0.4, -0.4
    values = autoregression(11, coefficients, 1000)
    for alternative, edge in (("greater", (0, 1)), ("less", (1, 2))):
        found = inferred(values, 0, alternative=alternative)
        assert np.asarray(found.significant)[edge]
        assert not np.asarray(found.significant)[coefficients * coefficients[edge] < 0].any()
        p = np.asarray(found.p_value)[coefficients * coefficients[edge] < 0]
        assert (p > 0.99).all()


@pytest.mark.parametrize("name", ["var_graph", "whitened_graph", "partial_correlation"])
def test_scores_have_derivatives_at_degenerate_spectra_too(name):
    rng = np.random.default_rng(12)
    mixed = rng.normal(size=(4, 4))
    near = np.eye(4) + 0.1 * (mixed + mixed.T)
    lagged = jnp.asarray(rng.normal(size=(4, 4)))
    for correlation in (jnp.eye(4), jnp.asarray(near)):

        def of(change, base=correlation):
            c = base + change + change.T
            one = (c,) if name == "partial_correlation" else (c, lagged)
            return getattr(renorm, name)(*one)

        check_grads(jax.jit(jax.vmap(of)), (jnp.zeros((2, 4, 4)),), order=1, modes=("fwd", "rev"))


def test_correlations_have_derivatives():
    values = jnp.asarray(np.random.default_rng(13).normal(5.0, 1.0, size=(2, 3, 12)))
    mask = jnp.asarray(spikes(14, 2, 12, rate=0.8))
    of = jax.jit(lambda x: renorm.lagged_correlation(x, (0, 1), mask))
    check_grads(of, (values,), order=1, modes=("fwd", "rev"))
    np.testing.assert_allclose(
        jax.vmap(of)(values[None])[0], renorm.lagged_correlation(values, (0, 1), mask), atol=1e-13
    )


def test_results_keep_the_dtype_of_an_activity():
    values = np.random.default_rng(15).normal(100, 1, size=(3, 200))
    single = renorm.infer_graph(Activity(values.astype(np.float32), 1e-3))
    assert single.score.dtype == single.graph.weights.dtype == jnp.float32
    want = renorm.infer_graph(Activity(values.astype(np.float32).astype(float), 1e-3))
    np.testing.assert_allclose(single.score, want.score, atol=1e-6)


def test_hiding_neurons_is_reported():
    x = autoregression(16, 0.6 * np.roll(np.eye(8), 1, axis=0), 1000)
    truth = np.roll(np.eye(8), 1, axis=0)
    found = renorm.subsampling(
        jax.random.key(1),
        Activity(x, 1e-3),
        (1.0, 0.5),
        num_repeats=2,
        truth=truth,
        communities_fn=lambda graph: np.arange(graph.num_nodes) % 2,
    )
    np.testing.assert_allclose(found.correlation[0], 1)
    np.testing.assert_array_equal(found.auc[0], 1)
    np.testing.assert_array_equal(found.rand_index[0], 1)
    assert (found.correlation[1] < 1).all()
    assert (found.correlation[1] > 0.5).all()
    lines = str(found).splitlines()
    assert lines[0].split()[0] == "kept"
    assert lines[1].split() == ["100.0%", *(3 * ["1.000", "+-", "0.000"])]
    with pytest.raises(ValueError, match="fractions"):
        renorm.subsampling(jax.random.key(1), Activity(x, 1e-3), (0.1,))
