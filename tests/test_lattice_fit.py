"""Estimators: closed forms, planted truth with calibrated errors, published fits."""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats
from test_lattice_transfer import dense, random_action

from neurofield import lattice, recording
from neurofield._results import RESULTS
from neurofield.fit import FitError
from neurofield.lattice._newton import truncated_newton
from neurofield.recording import Raster

DATA = os.environ.get("NEUROFIELD_DATA")


def sample_chain(action, num_bins, seed):
    """A raster of the stationary theory, from its dense chain."""
    rng = np.random.default_rng(seed)
    s, matrix = dense(action)
    values, vectors = np.linalg.eigh(matrix)
    r = np.abs(vectors[:, -1])
    cumulative = np.cumsum(matrix * r[None, :] / (values[-1] * r[:, None]), axis=1)
    state = np.searchsorted(np.cumsum(r**2), rng.random())
    codes = np.empty(num_bins, int)
    for t, u in enumerate(rng.random(num_bins)):
        codes[t] = state
        state = min(np.searchsorted(cumulative[state], u), len(r) - 1)
    return Raster(s[codes].T, 0.02)


def sample_kinetic(model, num_bins, seed):
    rng = np.random.default_rng(seed)
    field, weight = np.asarray(model.field), np.asarray(model.weight)
    num_lags = weight.shape[0]
    x = np.zeros((len(field), num_bins + num_lags))
    for t, u in enumerate(rng.random((num_bins, len(field))), start=num_lags):
        drive = sum(weight[lag - 1] @ x[:, t - lag] for lag in range(1, num_lags + 1))
        x[:, t] = u < special.expit(field + drive)
    return Raster(x[:, num_lags:], 0.02)


def z_scores(found, truth):
    """(estimate - truth) / error of all free parameters, each once."""
    parts = []
    for name in ("field", "space", "history", "weight"):
        if not hasattr(found.value, name) or getattr(found.value, name).size == 0:
            continue
        estimate, error, true = (
            np.asarray(getattr(m, name)) for m in (found.value, found.error, truth)
        )
        z = (estimate - true) / np.where(error > 0, error, np.inf)
        parts.append(z[np.triu_indices(len(z), 1)] if name == "space" else z.ravel())
    return np.concatenate(parts)


def chi_square_is_plausible(z):
    """Errors neither too small nor too large: both tails, at one in ten thousand."""
    tail = stats.chi2.cdf(np.sum(z**2), z.size)
    return 1e-4 < tail < 1 - 1e-4


# --- planted truth --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_bins", [40_000])
def test_exact_fit_finds_the_planted_action_within_its_errors(num_bins):
    truth = random_action(11, 5)
    raster = sample_chain(truth, num_bins, seed=5)
    found = lattice.fit(raster, "lattice")
    assert bool(found.result == RESULTS.successful)
    assert chi_square_is_plausible(z_scores(found, truth))


def test_pseudo_likelihood_finds_the_planted_action_within_its_errors():
    truth = random_action(11, 5)
    raster = sample_chain(truth, 40_000, seed=6)
    found = lattice.fit(raster, "lattice", method="pseudolikelihood")
    z = z_scores(found, truth)
    assert found.provenance["estimator"] == "pseudolikelihood"
    assert chi_square_is_plausible(z)


def test_pairwise_pseudo_likelihood_agrees_with_the_exact_fit():
    truth = random_action(12, 5)
    static = lattice.Action(truth.field, truth.space)
    raster = sample_chain(lattice.Action(truth.field, truth.space, np.zeros((1, 5))), 40_000, 7)
    exact = lattice.fit(raster, "pairwise")
    pseudo = lattice.fit(raster, "pairwise", method="pseudolikelihood")
    assert chi_square_is_plausible(z_scores(exact, static))
    # Both are consistent: they differ by much less than either's error.
    difference = np.abs(np.asarray(exact.value.space - pseudo.value.space))
    assert (difference <= 0.7 * np.asarray(exact.error.space)).all()


def test_directed_couplings_by_pseudo_likelihood():
    """Transfer is recovered with its direction, from an exactly sampled two-slice weight."""
    rng = np.random.default_rng(8)
    n = 4
    w = rng.normal(size=(1, n, n)) * 0.8 * (1 - np.eye(n))
    truth = lattice.Action(
        rng.normal(size=n) * 0.3 - 0.7, history=[[0.5, -1, 0.3, 0.0]], transfer=w
    )
    s = (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1
    # Rows: the slice at t; columns: the slice at t + 1.
    step = np.exp(
        (s @ np.asarray(truth.field))[None, :]
        + (s @ np.asarray(w[0].T) @ s.T)
        + (s * np.asarray(truth.history[0])) @ s.T
    )
    values, vectors = np.linalg.eig(step)
    right = np.abs(vectors[:, np.argmax(values.real)].real)
    chain = step * right[None, :] / (values.real.max() * right[:, None])
    cumulative, state, codes = np.cumsum(chain, axis=1), 0, []
    for u in rng.random(40_000):
        state = min(np.searchsorted(cumulative[state], u), 2**n - 1)
        codes.append(state)
    found = lattice.fit(Raster(s[codes[100:]].T, 0.02), "lattice", num_transfer_lags=1, num_lags=1)
    error = np.where(np.asarray(found.error.transfer) > 0, found.error.transfer, np.inf)
    z = np.asarray(found.value.transfer - truth.transfer) / error
    z = np.concatenate([z[np.isfinite(error)], z_scores(found, truth)])
    assert chi_square_is_plausible(z[z != 0])


def test_kinetic_fit_finds_the_planted_model_within_its_errors():
    rng = np.random.default_rng(3)
    truth = lattice.Kinetic(rng.normal(size=4) - 1.5, rng.normal(size=(2, 4, 4)) * 0.7)
    found = lattice.fit(sample_kinetic(truth, 40_000, seed=4), "kinetic", num_lags=2)
    assert chi_square_is_plausible(z_scores(found, truth))


# --- closed forms and oracles ---------------------------------------------------------------------


def test_independent_is_the_log_odds_of_the_rates():
    x = np.random.default_rng(0).random((3, 500)) < np.array([[0.1], [0.5], [0.8]])
    found = lattice.fit(Raster(x, 0.01), "independent")
    rate = x.mean(1)
    np.testing.assert_allclose(found.value.field, special.logit(rate), atol=1e-12)
    np.testing.assert_allclose(found.error.field, 1 / np.sqrt(500 * rate * (1 - rate)), rtol=1e-12)
    np.testing.assert_allclose(found.loss, 500 * np.sum(stats.bernoulli.entropy(rate)), rtol=1e-12)


def test_two_neurons_in_closed_form():
    """With two neurons the pairwise model is saturated: log odds of the four cells."""
    x = np.random.default_rng(1).random((2, 3000)) < 0.3
    x[1] |= x[0] & (np.random.default_rng(2).random(3000) < 0.4)
    p = np.array([[np.mean((x[0] == a) & (x[1] == b)) for b in (0, 1)] for a in (0, 1)])
    found = lattice.fit(Raster(x, 0.01), "pairwise")
    np.testing.assert_allclose(
        found.value.space[0, 1], np.log(p[1, 1] * p[0, 0] / (p[1, 0] * p[0, 1])), atol=1e-7
    )
    np.testing.assert_allclose(found.error.space[0, 1], np.sqrt(np.sum(1 / p) / 3000), rtol=1e-6)


def test_firth_is_half_a_count_in_every_cell():
    """Firth (1993) for a saturated logistic regression, and Jeffreys' prior for a pair."""
    x = np.zeros((1, 400), np.uint8)
    x[0, ::7] = 1  # never twice in a row: the estimate without a penalty is minus infinity
    found = lattice.fit(Raster(x, 0.01), "kinetic", firth=True)
    before, after = x[0, :-1], x[0, 1:]
    cell = lambda a, b: np.sum((before == a) & (after == b)) + 0.5  # noqa: E731
    np.testing.assert_allclose(found.value.field[0], np.log(cell(0, 1) / cell(0, 0)), atol=1e-6)
    np.testing.assert_allclose(
        found.value.weight[0, 0, 0],
        np.log(cell(1, 1) / cell(1, 0)) - np.log(cell(0, 1) / cell(0, 0)),
        atol=1e-5,
    )
    alone = lattice.fit(Raster(x, 0.01), "independent", firth=True)
    np.testing.assert_allclose(
        alone.value.field[0], np.log((x.sum() + 0.5) / (400 - x.sum() + 0.5)), atol=1e-12
    )
    pair = np.zeros((2, 400), np.uint8)
    pair[0, ::7], pair[1, 3::5] = 1, 1
    pair[1] &= 1 - pair[0]
    found = lattice.fit(Raster(pair, 0.01), "pairwise", firth=True)
    count = lambda a, b: np.sum((pair[0] == a) & (pair[1] == b)) + 0.5  # noqa: E731
    odds = count(1, 1) * count(0, 0) / (count(1, 0) * count(0, 1))
    np.testing.assert_allclose(found.value.space[0, 1], np.log(odds), atol=1e-6)


def test_ridge_optimum_is_that_of_a_general_optimiser():
    """The penalised kinetic likelihood, maximised by SciPy from NumPy formulas."""
    raster = sample_kinetic(
        lattice.Kinetic([-1.0, -2.0], [[[0.5, -1.0], [1.5, 0.0]]]), 3000, seed=2
    )
    x = np.asarray(raster.spikes, float)

    def loss(vector):
        field, weight = vector[:2], vector[2:].reshape(2, 2)
        h = field[:, None] + weight @ x[:, :-1]
        return np.sum(np.logaddexp(0, h) - x[:, 1:] * h) + 0.5 * 20.0 * np.sum(weight**2)

    best = optimize.minimize(loss, np.zeros(6), tol=1e-12, method="BFGS")
    found = lattice.fit(raster, "kinetic", l2=20.0)
    np.testing.assert_allclose(found.loss, best.fun, rtol=1e-9)
    np.testing.assert_allclose(
        np.concatenate([found.value.field, found.value.weight.ravel()]), best.x, atol=1e-4
    )


def test_exact_fit_matches_the_measured_moments():
    """At the maximum of the likelihood the theory's moments are the data's."""
    raster = sample_chain(random_action(13, 4), 3000, seed=1)
    found = lattice.fit(raster, "lattice")
    x = np.asarray(raster.spikes, float)
    theory = lattice.statistics(found.value, raster.bin_width, 2)
    rate = np.asarray(theory.rate) * raster.bin_width
    # The decrement of 1e-9 nats leaves 1e-5 standard errors, 1e-7 of a moment.
    np.testing.assert_allclose(rate, x.mean(1), atol=1e-6)
    np.testing.assert_allclose(
        theory.covariance, x @ x.T / x.shape[1] - np.outer(rate, rate), atol=1e-6
    )
    again = np.mean(x[:, 1:] * x[:, :-1], axis=1)
    np.testing.assert_allclose(np.diag(theory.lagged[1]) + rate**2, again, atol=1e-6)


def test_covariates_of_the_kinetic_model():
    rng = np.random.default_rng(5)
    c = rng.normal(size=(2, 20_000))
    stimulus = np.array([[0.8, -0.4], [0.0, 0.6]])
    x = rng.random((2, 20_000)) < special.expit(stimulus @ c - 1.0)
    found = lattice.fit(Raster(x, 0.01), "kinetic", num_lags=0, covariates=c)
    z = (np.asarray(found.value.stimulus) - stimulus) / np.asarray(found.error.stimulus)
    assert chi_square_is_plausible(z.ravel())
    # An action with the same covariates, by pseudo-likelihood; no couplings are there to find.
    action = lattice.fit(Raster(x, 0.01), "pairwise", covariates=c)
    np.testing.assert_allclose(action.value.stimulus, found.value.stimulus, atol=0.01)
    assert abs(action.value.space[0, 1]) < 4 * action.error.space[0, 1]


def test_neurons_are_fitted_in_groups_where_all_at_once_would_not_fit(monkeypatch):
    raster = sample_kinetic(
        lattice.Kinetic([-1.0, -2.0, -1.5], 0.5 * np.ones((2, 3, 3))), 2000, seed=2
    )
    at_once = lattice.fit(raster, "kinetic", num_lags=2)
    monkeypatch.setattr(sys.modules["neurofield.lattice._fit_kinetic"], "_INFORMATION", 2 * 7**2)
    grouped = lattice.fit(raster, "kinetic", num_lags=2)
    for a, b in zip(jax.tree.leaves(at_once), jax.tree.leaves(grouped), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_a_basis_of_single_lags_changes_nothing():
    raster = sample_kinetic(lattice.Kinetic([-1.0], [[[0.5]], [[-1.0]], [[0.3]]]), 3000, seed=2)
    free = lattice.fit(raster, "kinetic", num_lags=3)
    same = lattice.fit(raster, "kinetic", num_lags=3, basis=np.eye(3))
    np.testing.assert_allclose(same.value.weight, free.value.weight, atol=1e-9)
    np.testing.assert_allclose(same.error.weight, free.error.weight, atol=1e-9)


def test_raised_cosines_tile_the_lags():
    bumps = np.asarray(lattice.raised_cosine(4, 30))
    assert bumps.shape == (4, 30)
    assert (bumps >= 0).all()
    assert bumps[0, 0] == 1
    assert bumps[-1, -1] == 1
    # Neighbouring bumps of spacing half their half-width sum to 2 between the outermost ones... of
    # a full tiling; with one bump missing on either side the sum lies between 1 and 2.
    assert ((bumps.sum(0) >= 1 - 1e-12) & (bumps.sum(0) <= 2 + 1e-12)).all()
    smooth = lattice.fit(
        sample_kinetic(lattice.Kinetic([-1.0], 0.3 * np.ones((10, 1, 1))), 4000, seed=1),
        "kinetic",
        num_lags=10,
        basis=lattice.raised_cosine(3, 10),
    )
    assert smooth.value.weight.shape == (10, 1, 1)


# --- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["pairwise", pytest.param("lattice", marks=pytest.mark.slow), "kinetic"]
)
def test_masked_bins_and_segments_do_not_count(model):
    """A masked raster gives the fit of its valid stretches, whatever the invalid bins hold."""
    whole = sample_kinetic(lattice.Kinetic([-1.0, -0.5], [[[0.5, -1.0], [1.0, 0.0]]]), 900, seed=2)
    x = np.asarray(whole.spikes)
    garbled = x.copy()
    garbled[:, 400:500] = 1
    mask = np.ones(900, bool)
    mask[400:500] = False
    padded = np.zeros((2, 2, 400), np.uint8)
    padded[0], padded[1] = x[:, :400], x[:, 500:]
    masked = lattice.fit(Raster(garbled, 0.01, mask=mask), model, l2=0.1)
    stacked = lattice.fit(Raster(padded, 0.01), model, l2=0.1)
    for a, b in zip(jax.tree.leaves(masked.value), jax.tree.leaves(stacked.value), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    one, other = (
        lattice.score(masked.value, r, skip=1)
        for r in (Raster(garbled, 0.01, mask=mask), Raster(padded, 0.01))
    )
    assert one.num_bins == other.num_bins == 798
    np.testing.assert_allclose(one.bits_per_bin, other.bits_per_bin, rtol=1e-12)


@pytest.mark.parametrize("model", ["lattice", "kinetic"])
def test_separation_is_an_error_that_names_the_cure(model):
    x = np.zeros((1, 400), np.uint8)
    x[0, ::7] = 1
    with pytest.raises(FitError, match="firth=True or l2 > 0") as caught:
        lattice.fit(Raster(x, 0.01), model)
    assert bool(caught.value.fit.result == RESULTS.separation)
    assert bool(lattice.fit(Raster(x, 0.01), model, throw=False).result == RESULTS.separation)
    assert bool(lattice.fit(Raster(x, 0.01), model, l2=1.0).result == RESULTS.successful)


@pytest.mark.parametrize("lags", [0, 2])
def test_separation_under_the_pseudo_likelihood(lags):
    """Never together, or never within two bins: minus infinity, not a number with an error."""
    x = (np.random.default_rng(0).random((3, 2000)) < 0.1).astype(np.uint8)
    if lags:
        for t in range(1, 2000):
            x[1, t] *= 1 - x[1, max(t - 2, 0) : t].max()
    else:
        x[1] *= 1 - x[0]
    request = {"model": "lattice", "num_lags": lags, "method": "pseudolikelihood"}
    with pytest.raises(FitError, match="firth=True or l2 > 0"):
        lattice.fit(Raster(x, 0.01), **request)
    found = lattice.fit(Raster(x, 0.01), **request, throw=False)
    error = found.error.history[:, 1] if lags else found.error.space[0, 1]
    assert np.isinf(error).all()
    x[2] = 0
    with pytest.raises(ValueError, match=r"neurons \[2\] fire in none"):
        lattice.fit(Raster(x, 0.01), **request)


@pytest.mark.parametrize("num_bins", [60, 300])
def test_pseudo_likelihood_errors_of_short_data(num_bins):
    """Bins are independent here, so that exact and sandwich errors estimate the same."""
    x = np.random.default_rng(0).random((3, num_bins)) < 0.3
    exact = lattice.fit(Raster(x, 0.01), "pairwise").error
    pseudo = lattice.fit(Raster(x, 0.01), "pairwise", method="pseudolikelihood").error
    # A standard error from about 30 blocks is known to 1 / sqrt(60) = 13 %, thrice that here.
    np.testing.assert_allclose(pseudo.field, exact.field, rtol=0.4)


@pytest.mark.slow
def test_num_bins_are_those_of_the_likelihood():
    x = np.random.default_rng(0).random((50, 2, 20)) < 0.2
    count = lambda *a, **k: int(lattice.fit(Raster(x, 0.01), *a, **k).stats["num_bins"])  # noqa: E731
    assert count("independent") == count("lattice") == 1000
    assert count("kinetic", num_lags=5, l2=1.0) == 50 * 15
    assert count("lattice", num_lags=3, l2=1.0) == 50 * 14


def test_too_few_steps_are_reported():
    raster = sample_chain(random_action(13, 3), 2000, seed=1)
    stopped = lattice.fit(raster, "lattice", max_steps=1, throw=False)
    assert not bool(stopped.result == RESULTS.successful)
    with pytest.raises(FitError, match="nats still to be gained"):
        lattice.fit(raster, "lattice", max_steps=1)


def test_a_direction_that_climbs_is_no_convergence():
    """On a concave loss Newton's direction leads uphill: the decrement is negative."""
    climbed = truncated_newton(
        lambda v, _: -jnp.sum(v**2), jnp.ones(2), None, lambda v, _: v, max_steps=5
    )
    assert not bool(climbed.result == RESULTS.successful)


def test_a_raster_without_spikes_has_no_bits_per_spike():
    with pytest.raises(ValueError, match="hold no spike"):
        lattice.score(lattice.Action([-2.0]), Raster(np.zeros((1, 50)), 0.01))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model": "kinetic", "method": "exact"}, "leave out method"),
        ({"model": "pairwise", "basis": np.eye(1)}, "belongs to model='kinetic'"),
        ({"model": "kinetic", "num_transfer_lags": 1}, "belongs to model='lattice'"),
        ({"model": "lattice", "num_lags": 2, "method": "exact"}, "num_lags <= 1"),
        ({"model": "lattice", "l2": -1.0}, "must not be negative"),
        ({"model": "lattice", "method": "pseudolikelihood", "firth": True}, "use l2"),
        ({"model": "kinetic", "basis": np.eye(3)}, "num_basis, num_lags = 1"),
        ({"model": "kinetic", "covariates": np.zeros((1, 7))}, "with 50 bins"),
        ({"model": "kinetic", "covariates": np.full((1, 50), np.nan)}, "NaN or infinity in 50"),
    ],
)
def test_bad_requests_are_refused(kwargs, message):
    x = np.random.default_rng(0).random((2, 50)) < 0.4
    with pytest.raises(ValueError, match=message):
        lattice.fit(Raster(x, 0.01), **kwargs)


def test_silent_neurons_and_counts_are_refused():
    x = np.random.default_rng(0).random((3, 50)) < 0.4
    x[1] = False
    with pytest.raises(ValueError, match=r"neurons \[1\] fire in none"):
        lattice.fit(Raster(x, 0.01), "pairwise")
    with pytest.raises(ValueError, match="counts=False"):
        lattice.fit(Raster(np.array([[0, 2, 1]]), 0.01), "independent")


# --- scores ---------------------------------------------------------------------------------------


def test_score_of_the_independent_model_by_hand():
    x = np.random.default_rng(0).random((2, 300)) < np.array([[0.2], [0.6]])
    raster = Raster(x, 0.01)
    p = np.array([0.25, 0.5])
    model = lattice.Action(special.logit(p))
    by_hand = np.sum(np.where(x, np.log2(p)[:, None], np.log2(1 - p)[:, None]), axis=0)
    found = lattice.score(model, raster)
    np.testing.assert_allclose(found.bits_per_bin, by_hand.mean(), rtol=1e-12)
    own = lattice.fit(raster, "independent").value
    best = lattice.score(own, raster, reference=model)
    gain = (lattice.score(own, raster).bits_per_bin - by_hand.mean()) * 300 / x.sum()
    np.testing.assert_allclose(best.bits_per_spike, gain, rtol=1e-10)
    # White noise: the error is that of independent bins, to the error of an error.
    np.testing.assert_allclose(found.bits_per_bin_error, by_hand.std() / np.sqrt(300), rtol=0.2)
    assert best.num_spikes == x.sum()


def test_score_leaves_out_the_bins_without_a_past():
    """Model and reference are compared on the bins that both can predict."""
    rng = np.random.default_rng(0)
    raster = Raster(rng.random((2, 3, 200)) < 0.3, 0.01)
    one = lattice.Kinetic(rng.normal(size=3), rng.normal(size=(1, 3, 3)))
    three = lattice.Kinetic(rng.normal(size=3), rng.normal(size=(3, 3, 3)))
    found = lattice.score(one, raster, reference=three)
    assert found.num_bins == 2 * 197
    nats = [np.asarray(lattice.bin_log_likelihood(m, raster.spikes))[:, 3:] for m in (one, three)]
    spikes = np.asarray(raster.spikes)[..., 3:].sum()
    np.testing.assert_allclose(found.bits_per_bin, nats[0].mean() / np.log(2), rtol=1e-12)
    np.testing.assert_allclose(
        found.bits_per_spike, (nats[0].sum() - nats[1].sum()) / np.log(2) / spikes, rtol=1e-12
    )
    with pytest.raises(ValueError, match="need 3 bins of past"):
        lattice.score(one, raster, reference=three, skip=1)


def test_goodness_of_fit_accepts_the_truth_and_rejects_a_wrong_model(getkey):
    truth = lattice.Kinetic([-1.0, -1.5], [[[-2.0, 0.8], [1.0, -1.0]], [[-1.0, 0], [0, 0.5]]])
    raster = sample_kinetic(truth, 20_000, seed=3)
    right = lattice.goodness_of_fit(getkey(), truth, raster)
    assert stats.combine_pvalues(right.p_value)[1] > 1e-3
    wrong = lattice.goodness_of_fit(getkey(), lattice.fit(raster, "independent").value, raster)
    assert wrong.p_value.max() < 1e-6


def test_goodness_of_fit_is_fair_to_short_trials():
    """Dropping intervals that trials cut would favour the short ones and reject the truth."""
    model = lattice.Kinetic([np.log(0.02 / 0.98)])
    p_values = []
    for seed in range(12):
        x = np.random.default_rng(seed).random((200, 1, 100)) < 0.02
        found = lattice.goodness_of_fit(jax.random.key(seed), model, Raster(x, 0.02))
        assert found.num_intervals[0] == x.sum() - 1
        p_values.append(found.p_value[0])
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_goodness_of_fit_leaves_out_bins_without_a_valid_past():
    weight = np.zeros((10, 1, 1))
    x, mask = np.zeros((1, 40), np.uint8), np.ones(40, bool)
    mask[15:23] = False
    x[0, [24, 27]] = 1
    found = lattice.goodness_of_fit(
        jax.random.key(0), lattice.Kinetic([0.0], weight), Raster(x, 0.01, mask=mask)
    )
    assert found.num_intervals[0] == 0


# --- real and benchmark rasters -------------------------------------------------------------------


def test_kinetic_model_of_the_shipped_recording():
    """3.1511 nats per bin over 59,999 transitions, in at most 10 Newton steps."""
    raster = recording.bin_spikes(recording.example("head_direction"), bin_width=0.02)
    assert raster.spikes.shape == (15, 60_000)
    found = lattice.fit(raster, "kinetic")
    assert int(found.stats["num_steps"]) <= 10
    np.testing.assert_allclose(found.loss / 59_999, 3.1511, atol=1e-4)
    nats = lattice.log_likelihood(found.value, raster.spikes)
    np.testing.assert_allclose(-nats / 59_999, found.loss / 59_999, rtol=1e-12)
    slope = jax.grad(lattice.log_likelihood)(found.value, raster.spikes)
    assert all(float(jnp.abs(leaf).max(initial=0.0)) < 1e-3 for leaf in jax.tree.leaves(slope))


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="NEUROFIELD_DATA names no folder")
@pytest.mark.parametrize(
    ("model", "options", "low", "high"),
    [
        ("independent", {}, -6.586, -6.582),
        ("pairwise", {"firth": True}, -6.492, -6.488),
        ("lattice", {"firth": True}, -5.975, -5.971),
        ("kinetic", {"l2": 0.1}, -5.888, 0.0),
    ],
)
def test_held_out_bits_of_the_benchmark_raster(model, options, low, high):
    """First half trained, second half tested; exact fits of 15 cells."""
    spikes = np.load(Path(DATA or "") / "maxent15.npz")["raster"]
    train, test = Raster(spikes[:, :20_000], 0.02), Raster(spikes[:, 20_000:], 0.02)
    found = lattice.fit(train, model, **options)
    assert low <= lattice.score(found.value, test).bits_per_bin <= high
