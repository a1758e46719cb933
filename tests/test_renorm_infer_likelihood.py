"""The point process on a graph, and hidden neurons: against loops, optimality, and known graphs."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats

from neurofield import renorm
from neurofield._results import RESULTS
from neurofield.recording import Activity, Raster

KERNEL = np.array([0.7, 0.3])


def simulated(seed, bias, weights, kernel, num_bins):
    """A draw of the model: `weights` `[window, post, pre]`."""
    rng = np.random.default_rng(seed)
    x = np.zeros((len(bias), num_bins))
    size = -(-num_bins // len(weights))
    for t in range(num_bins):
        past = sum(
            (kernel[lag - 1] * x[:, t - lag] for lag in range(1, min(t, len(kernel)) + 1)),
            np.zeros(len(bias)),
        )
        field = bias + weights[t // size] @ past
        x[:, t] = rng.random(len(bias)) < 1 / (1 + np.exp(-field))
    return Raster(x, 1e-3)


def drawn(seed, num_windows, num_neurons):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(num_windows, num_neurons, num_neurons))
    return -1 + 0.3 * rng.normal(size=num_neurons), weights


def parameters(bias, weights, kernel=KERNEL):
    return renorm.GraphParameters(jnp.asarray(bias), jnp.asarray(weights), jnp.asarray(kernel))


@pytest.fixture(scope="module")
def network():
    bias, weights = drawn(0, 1, 4)
    return bias, weights, simulated(1, bias, weights, KERNEL, 3000)


def test_likelihood_is_the_product_over_bins_with_a_known_past():
    rng = np.random.default_rng(2)
    x, mask = rng.random((2, 3, 11)) < 0.4, rng.random((2, 11)) < 0.9
    bias, weights = drawn(3, 3, 3)
    want = 0.0
    for trial in range(2):
        for t in range(2, 11):
            if mask[trial, t - 2 : t + 1].all():
                past = KERNEL[0] * x[trial, :, t - 1] + KERNEL[1] * x[trial, :, t - 2]
                p = 1 / (1 + np.exp(-(bias + weights[t // 4] @ past)))
                want += np.log(np.where(x[trial, :, t], p, 1 - p)).sum()
    raster = Raster(x, 1e-3, mask=mask)
    params = parameters(bias, weights)
    found = renorm.graph_log_likelihood(params, raster)
    assert math.isclose(float(found), want, rel_tol=1e-13)
    steps = np.diff(weights, axis=0)
    want = 2 * np.abs(weights).sum() + 0.5 * (steps**2).sum()
    assert math.isclose(float(renorm.graph_penalty(params, 2.0, 0.5)), want, rel_tol=1e-13)


def test_likelihood_has_derivatives():
    raster = Raster(np.random.default_rng(4).random((3, 9)) < 0.4, 1e-3)
    params = parameters(*drawn(5, 2, 3))

    def of(params):
        penalty = renorm.graph_penalty(params, 0.3, 0.5)
        return renorm.graph_log_likelihood(params, raster) - penalty

    check_grads(jax.jit(of), (params,), order=1, modes=("fwd", "rev"))


def test_a_network_is_found_within_its_fisher_errors(network):
    bias, weights, raster = network
    found = renorm.infer_graph(raster, "likelihood", num_lags=2, kernel=KERNEL).parameters
    x = np.asarray(raster.spikes, float)
    past = np.stack([np.ones(2998), *(KERNEL[0] * x[:, 1:-1] + KERNEL[1] * x[:, :-2])])
    square = 0.0
    for i in range(4):
        given = np.append(found.bias[i], found.weights[0, i])
        p = 1 / (1 + np.exp(-given @ past))
        error = given - np.append(bias[i], weights[0, i])
        square += np.sum(p * (1 - p) * (error @ past) ** 2)
    assert abs(stats.norm.ppf(stats.chi2.cdf(square, 20))) < 4


@pytest.mark.slow
def test_the_kernel_is_found_too(network):
    """At the optimum on the simplex, the derivatives in all entries of the kernel are the same."""
    raster = network[2]
    found = renorm.infer_graph(raster, "likelihood", num_lags=2)
    params = found.parameters
    assert math.isclose(float(jnp.sum(params.kernel)), 1, rel_tol=1e-12)
    slope = jax.grad(renorm.graph_log_likelihood)(params, raster)
    # Curvature of the kernel's one free number.
    along = jnp.asarray([1.0, -1.0])

    def shifted(step):
        return renorm.graph_log_likelihood(
            replace(params, kernel=params.kernel + step * along), raster
        )

    spread = 1 / np.sqrt(-float(jax.grad(jax.grad(shifted))(0.0)))
    assert abs(float(slope.kernel @ along)) * spread < 1e-3
    assert abs(float(params.kernel[0]) - 0.7) < 5 * spread
    np.testing.assert_array_equal(found.score, params.weights[0])


def test_optimality_conditions_of_a_sparse_graph_that_changes():
    """The slope is l1 times the sign where a weight is not 0, and at most l1 where it is."""
    bias, weights = drawn(6, 3, 4)
    weights = np.where(np.abs(weights) > 0.8, weights, 0)
    raster = simulated(7, bias, weights, KERNEL, 3000)
    mask = np.random.default_rng(8).random(3000) < 0.95
    raster = Raster(raster.spikes, 1e-3, mask=mask)
    l1, smoothness = 6.0, 4.0
    found = renorm.infer_graph(
        raster,
        "likelihood",
        num_lags=2,
        kernel=KERNEL,
        l1=l1,
        smoothness=smoothness,
        num_windows=3,
        tolerance=1e-8,
    )
    assert found.result == RESULTS.successful

    def smooth(params):
        rough = renorm.graph_penalty(params, 0.0, smoothness)
        return renorm.graph_log_likelihood(params, raster) - rough

    slope = jax.grad(smooth)(found.parameters)
    np.testing.assert_allclose(slope.bias, 0, atol=1e-5)
    zero = np.asarray(found.windows) == 0
    assert 0 < zero.sum() < zero.size
    sign = np.sign(np.asarray(found.windows))
    np.testing.assert_allclose(np.asarray(slope.weights)[~zero], l1 * sign[~zero], atol=1e-5)
    assert np.abs(np.asarray(slope.weights)[zero]).max() <= l1 + 1e-5


@pytest.mark.slow
def test_great_smoothness_makes_one_graph_of_all_windows(network):
    raster = replace(network[2], spikes=network[2].spikes[:, :2000])
    options = {"num_lags": 2, "kernel": KERNEL, "tolerance": 1e-7}
    one = renorm.infer_graph(raster, "likelihood", **options)
    many = renorm.infer_graph(raster, "likelihood", num_windows=2, smoothness=1e4, **options)
    for window in many.windows:
        np.testing.assert_allclose(window, one.score, atol=2e-3)


def test_what_did_not_converge_is_not_returned_as_if_it_had(network):
    with pytest.raises(RuntimeError, match="did not converge in 2 steps"):
        renorm.infer_graph(network[2], "likelihood", num_lags=2, kernel=KERNEL, max_steps=2)
    found = renorm.infer_graph(
        network[2], "likelihood", num_lags=2, kernel=KERNEL, max_steps=2, throw=False
    )
    assert found.result == RESULTS.nonlinear_max_steps_reached
    assert np.isfinite(found.score).all()


def test_silent_neurons_stay_out_of_the_likelihood(network):
    raster = replace(network[2], spikes=network[2].spikes.at[1].set(0))
    found = renorm.infer_graph(raster, "likelihood", num_lags=2, kernel=KERNEL)
    still = np.zeros((4, 4), bool)
    still[1] = still[:, 1] = True
    np.testing.assert_array_equal(np.asarray(found.score) == 0, still)
    assert found.notes == ("1 neurons do not vary and have score 0: 1.",)
    assert np.isfinite(found.parameters.bias).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_windows": 0}, "num_windows"),
        ({"kernel": [1.0, 2.0]}, "kernel must have"),
        ({"num_lags": 300}, "too short"),
        ({"num_surrogates": 20}, "linear methods"),
    ],
)
def test_what_the_likelihood_cannot_do_is_refused(change, words):
    raster = Raster(np.random.default_rng(9).random((3, 100)) < 0.3, 1e-3)
    with pytest.raises(ValueError, match=words):
        renorm.infer_graph(raster, "likelihood", **change)


def test_counts_and_chunks_are_not_for_the_likelihood():
    with pytest.raises(ValueError, match="binary"):
        renorm.infer_graph(Raster(np.full((2, 20), 2), 1e-3), "likelihood")
    with pytest.raises(ValueError, match="whole Raster"):
        renorm.infer_graph(Activity(np.eye(4), 1e-3), "likelihood")


@pytest.fixture(scope="module")
def correlation():
    rng = np.random.default_rng(10)
    hidden = rng.normal(size=(400, 1)) * [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    x = rng.normal(size=(400, 6)) @ (np.eye(6) + 0.4 * np.eye(6, k=1)) + 0.8 * hidden
    return jnp.asarray(np.corrcoef(x.T))


def test_without_hidden_neurons_it_is_the_graphical_lasso(correlation):
    from sklearn.covariance import graphical_lasso

    found = renorm.latent_precision(correlation, 0.1, 1e6, tolerance=1e-10)
    assert found.result == RESULTS.successful
    _, want = graphical_lasso(np.asarray(correlation), 0.1, tol=1e-9, enet_tol=1e-9, max_iter=500)
    np.testing.assert_allclose(found.sparse, want, atol=1e-5)
    np.testing.assert_array_equal(found.low_rank, 0)


def test_optimality_of_sparse_minus_low_rank(correlation):
    l1, trace = 0.05, 0.15
    found = renorm.latent_precision(correlation, l1, trace, tolerance=1e-10, max_steps=20_000)
    assert found.result == RESULTS.successful
    sparse, low_rank = np.asarray(found.sparse), np.asarray(found.low_rank)
    slope = np.asarray(correlation) - np.linalg.inv(sparse - low_rank)
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(np.diag(slope), 0, atol=1e-7)
    kept = off & (sparse != 0)
    np.testing.assert_allclose(slope[kept], -l1 * np.sign(sparse[kept]), atol=1e-7)
    assert np.abs(slope[off]).max() <= l1 + 1e-7
    # trace I - slope of L is positive semi-definite, and 0 where L is not.
    left = trace * np.eye(6) - slope
    assert np.linalg.eigvalsh(left).min() > -1e-7
    assert np.linalg.eigvalsh(low_rank).max() > 0.1
    np.testing.assert_allclose(left @ low_rank, 0, atol=1e-6)


def test_optimality_of_a_sparse_plus_low_rank_autoregression(correlation):
    rng = np.random.default_rng(11)
    lagged = jnp.asarray(0.2 * rng.normal(size=(6, 1)) + 0.2 * np.diag(rng.normal(size=6)))
    l1, nuclear = 0.06, 0.15
    found = renorm.latent_var(correlation, lagged, l1, nuclear, shrink=0.1, tolerance=1e-10)
    assert found.result == RESULTS.successful
    sparse, low_rank = np.asarray(found.sparse), np.asarray(found.low_rank)
    shrunk = 0.9 * np.asarray(correlation) + 0.1 * np.eye(6)
    slope = (sparse + low_rank) @ shrunk - np.asarray(lagged)
    kept = sparse != 0
    assert 0 < kept.sum() < 36
    np.testing.assert_allclose(slope[kept], -l1 * np.sign(sparse[kept]), atol=1e-7)
    assert np.abs(slope).max() <= l1 + 1e-7
    assert np.linalg.norm(slope, 2) <= nuclear + 1e-7
    norm = np.linalg.norm(low_rank, "nuc")
    assert norm > 0.01
    assert math.isclose(-np.sum(slope * low_rank), nuclear * norm, rel_tol=1e-6)


def hidden_drivers(seed):
    """Twenty neurons with sparse couplings; two unseen ones with memory that drive all."""
    rng = np.random.default_rng(seed)
    coupling = (rng.random((22, 22)) < 0.15) * rng.normal(size=(22, 22))
    coupling *= 0.8 / np.abs(np.linalg.eigvals(coupling)).max()
    coupling[:20, 20:], coupling[20:, :20] = 0.5 * rng.normal(size=(20, 2)), 0
    coupling[20:, 20:] = 0.8 * np.eye(2)
    values = rng.normal(size=(1000, 22))
    for t in range(1, 1000):
        values[t] += coupling @ values[t - 1]
    return coupling[:20, :20] != 0, values[:, :20].T


@pytest.mark.slow
def test_taking_hidden_drivers_off_finds_more_edges():
    """Against "var", the mean gain in AUC over networks, in its standard errors."""
    from sklearn.metrics import roc_auc_score

    off, gains = ~np.eye(20, dtype=bool), []
    for seed in range(8):
        truth, values = hidden_drivers(seed)
        auc = [
            roc_auc_score(
                truth[off], np.abs(renorm.infer_graph(Activity(values, 1e-3), method).score)[off]
            )
            for method in ("var", "latent")
        ]
        gains.append(auc[1] - auc[0])
    assert np.mean(gains) > 3 * stats.sem(gains)
    assert np.mean(gains) > 0.01
