"""Coarse-graining of activity by its own correlations: exponents of known data, and nulls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import fit, renorm
from neurofield.recording import Activity, Raster
from neurofield.renorm.diffusion._phenomenological_nulls import null_data
from neurofield.renorm.diffusion._phenomenological_pairs import greedy_pairs, pair_levels

KEY = jax.random.key(0)
BIN = 0.02


def z_score(flow, name, truth):
    return float((flow.exponents[name] - truth) / flow.exponent_errors[name])


def dyson(num_levels, alpha):
    """A covariance under which 2^l units of a block, summed, have the variance 2^(l alpha)."""
    index = np.arange(2**num_levels)
    step = np.array([[(i ^ j).bit_length() for j in index.tolist()] for i in index.tolist()])
    # Siblings of 2^k units each: V_{k+1} = 2 V_k + 2 (2^k)^2 c, with V_k = 2^(k alpha).
    siblings = 2.0 ** ((step - 1) * (alpha - 2)) * (2 ** (alpha - 1) - 1)
    return np.where(step == 0, 1.0, siblings)


def gaussian(seed, covariance, num_bins, memory=0.0):
    """Units of a covariance, each a first-order autoregression with the same memory."""
    rng = np.random.default_rng(seed)
    x = np.linalg.cholesky(covariance) @ rng.standard_normal((len(covariance), num_bins))
    if memory:
        for t in range(1, num_bins):
            x[:, t] = memory * x[:, t - 1] + np.sqrt(1 - memory**2) * x[:, t]
    return Activity(x, BIN)


# --- the core -------------------------------------------------------------------------------------


def test_greedy_pairs_take_the_largest_correlation_of_those_left():
    rng = np.random.default_rng(1)
    data = rng.standard_normal((9, 40)) * rng.uniform(0.1, 10, 9)[:, None]
    data[3] = 0  # never changes: no partner
    covariance = data @ data.T
    correlation = np.corrcoef(data[[i for i in range(9) if i != 3]])
    left, expected = [i for i in range(9) if i != 3], []
    table = {(a, b): correlation[i, j] for i, a in enumerate(left) for j, b in enumerate(left)}
    while len(left) > 1:
        best = max(((a, b) for a in left for b in left if a < b), key=table.__getitem__)
        expected.append(best)
        left = [i for i in left if i not in best]
    assert list(map(tuple, greedy_pairs(covariance).tolist())) == expected


def test_covariance_of_sums_is_that_of_the_summed_activity():
    activity = gaussian(2, dyson(4, 1.3), 300)
    pairing = pair_levels(np.cov(activity.values, bias=True), 4)
    for covariance, assignment in zip(pairing.covariances[1:], pairing.assignments, strict=True):
        activity = renorm.sum_units(activity, assignment)
        np.testing.assert_allclose(np.cov(activity.values, bias=True), covariance, rtol=1e-12)


def test_sum_units_drops_what_is_left_out_and_has_a_gradient():
    values = jnp.asarray(np.random.default_rng(3).standard_normal((2, 5, 7)))
    assignment = np.array([1, -1, 0, 1, 0])
    summed = renorm.sum_units(Activity(values, BIN), assignment)
    np.testing.assert_allclose(summed.values[:, 0], values[:, 2] + values[:, 4])
    np.testing.assert_allclose(summed.values[:, 1], values[:, 0] + values[:, 3])
    loss = lambda v: jnp.sum(renorm.sum_units(Activity(v, BIN), assignment).values ** 2)  # noqa: E731
    slope = jax.jit(jax.grad(loss))(values)
    np.testing.assert_allclose(slope[:, [3, 0]], 2 * summed.values[:, [1, 1]])
    assert not slope[:, 1].any()
    spikes = Raster(np.ones((3, 4)), BIN)
    assert (renorm.sum_units(spikes, np.zeros(3, int)).values == 3).all()
    with pytest.raises(ValueError, match="one entry for each of 5"):
        renorm.sum_units(Activity(values, BIN), assignment[:4])


# --- anchors --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def independent():
    spikes = np.random.default_rng(4).random((64, 12000)) < 0.1
    raster = Raster(spikes, BIN)
    return {
        cross: renorm.phenomenological_flow(KEY, raster, cross_validate=cross, nulls=["shift"])
        for cross in (True, False)
    }


def test_independent_units_have_trivial_exponents(independent):
    flow = independent[True]
    assert flow.size.tolist() == [64, 32, 16, 8, 4, 2]
    for one in (flow, flow.nulls["shift"]):
        assert abs(z_score(one, "alpha", 1)) < 4
        assert abs(z_score(one, "beta", 1)) < 4
        assert abs(z_score(one, "mu", 0)) < 4
    assert flow.exponent_errors["alpha"] < 0.01
    theory = -(flow.scale * np.log(0.9))
    z = (flow.observables["free_energy"] - theory) / flow.errors["free_energy"]
    assert np.abs(z).max() < 4
    assert "z" not in flow.exponents
    assert any("within one bin" in note for note in flow.notes)


def test_pairs_chosen_where_they_are_measured_look_correlated(independent):
    """The bias that cross-validation takes away; the null of the same steps shares it."""
    flow = independent[False]
    null = flow.nulls["shift"]
    assert z_score(flow, "alpha", 1) > 3
    assert z_score(null, "alpha", 1) > 3
    error = np.hypot(flow.exponent_errors["alpha"], null.exponent_errors["alpha"])
    assert abs(flow.exponents["alpha"] - null.exponents["alpha"]) < 4 * error
    assert z_score(flow, "mu", 0) > 4


@pytest.mark.parametrize("cross_validate", [True, False])
def test_identical_units_have_alpha_two(cross_validate):
    one = np.random.default_rng(5).random(400) < 0.3
    flow = renorm.phenomenological_flow(
        KEY, Raster(np.tile(one, (16, 1)), BIN), cross_validate=cross_validate, nulls=()
    )
    assert abs(float(flow.exponents["alpha"]) - 2) < 1e-6
    assert abs(float(flow.exponents["beta"])) < 1e-12
    np.testing.assert_allclose(flow.observables["kurtosis"], flow.observables["kurtosis"][0])


@pytest.fixture(scope="module")
def planted():
    activity = gaussian(6, dyson(5, 1.4), 20000, memory=0.8)
    return renorm.phenomenological_flow(KEY, activity, num_levels=5, block_duration=5.0)


def test_planted_hierarchy_is_found_with_its_exponent(planted):
    blocks = planted.members(4)
    assert len(set(blocks[:16].tolist())) == len(set(blocks[16:].tolist())) == 1
    z = (planted.observables["variance"] - planted.scale**1.4) / planted.errors["variance"]
    assert np.abs(z).max() < 4
    assert abs(z_score(planted, "alpha", 1.4)) < 4
    assert planted.exponent_errors["alpha"] < 0.05


def test_spectrum_inside_clusters_is_that_of_the_planted_covariance(planted):
    exact = dyson(5, 1.4)
    points = []
    for level, size in enumerate([1, 2, 4, 8, 16]):
        values = np.linalg.eigvalsh(exact[:size, :size])[::-1]
        error = planted.errors["spectrum"][level, :size]
        z = (planted.observables["spectrum"][level, :size] - values) / error
        # Modes of one planted eigenvalue mix; measured along them it stays what it is.
        assert np.abs(z).max() < 4.5, (level, z)
        if size >= 4:
            rank = np.arange(1, size // 2 + 1)
            points.append(np.log([size / rank, values[: len(rank)]]))
    assert np.isnan(planted.observables["spectrum"][2, 4:]).all()
    x, y = np.concatenate(points, axis=1)
    assert abs(z_score(planted, "mu", np.polyfit(x, y, 1)[0])) < 4


def test_correlation_time_and_kurtosis_of_gaussian_autoregressions(planted):
    # Between lags the autocorrelation is taken to be straight.
    bins = np.log(np.exp(-1)) / np.log(0.8)
    low = int(bins)
    exact = low + (0.8**low - np.exp(-1)) / (0.8**low - 0.8 ** (low + 1))
    z = (planted.observables["correlation_time"] - BIN * exact) / planted.errors["correlation_time"]
    assert np.abs(z).max() < 4
    assert abs(z_score(planted, "z", 0)) < 4
    z = planted.observables["kurtosis"] / planted.errors["kurtosis"]
    assert np.abs(z).max() < 4
    centre = planted.observables["distribution_at"][0]
    density = np.exp(-(centre**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(planted.observables["distribution"][0], density, atol=0.01)


def test_errors_are_those_of_repetitions():
    flows = [
        renorm.phenomenological_flow(
            KEY, gaussian(seed, dyson(3, 1.2), 1600), nulls=(), num_levels=3, num_bootstrap=60
        )
        for seed in range(40)
    ]
    z = np.array([z_score(flow, "alpha", 1.2) for flow in flows])
    assert abs(z.mean()) < 4 / np.sqrt(40)
    # Twenty blocks know their own spread to one part in six.
    assert 0.6 < z.std() < 1.6


# --- momentum space -------------------------------------------------------------------------------


def test_modes_of_independent_units_are_flat_and_ever_more_gaussian():
    spikes = np.random.default_rng(7).random((32, 8000)) < 0.05
    flow = renorm.phenomenological_flow(KEY, Raster(spikes, BIN), space="momentum", nulls=())
    assert flow.size.tolist() == [32, 16, 8, 4, 2]
    assert abs(z_score(flow, "mu", 0)) < 4
    # Half of the modes keep half of the variance; a unit's variance is p (1 - p).
    z = (flow.observables["variance"] - 0.0475 / flow.scale) / flow.errors["variance"]
    assert np.abs(z).max() < 4
    exact = (1 - 6 * 0.0475) / 0.0475
    kurtosis = flow.observables["kurtosis"]
    assert abs(kurtosis[0] - exact) < 4 * flow.errors["kurtosis"][0]
    # Sums of many units are nearly Gaussian; the last modes may sit on few units.
    assert kurtosis[1] < kurtosis[0] / 2
    assert kurtosis[2] < kurtosis[1] / 2
    assert [mode.shape for mode in flow.states] == [(32, k) for k in flow.size]


def test_a_loud_non_gaussian_mode_survives_the_projection():
    rng = np.random.default_rng(8)
    latent = rng.choice([0.0, 6.0], 6000, p=[0.9, 0.1])
    values = rng.standard_normal((16, 6000)) + latent[None] * rng.uniform(0.5, 1.5, 16)[:, None]
    flow = renorm.phenomenological_flow(
        KEY, Activity(values, BIN), space="momentum", nulls=["gaussian"]
    )
    exact = (1 - 6 * 0.09) / 0.09  # of the latent variable alone
    assert abs(flow.observables["kurtosis"][-1] - exact) < 4 * flow.errors["kurtosis"][-1] + 0.2
    null = flow.nulls["gaussian"]
    assert np.abs(null.observables["kurtosis"] / null.errors["kurtosis"]).max() < 4.5
    loud = [one.observables["spectrum"][0, 0] for one in (flow, null)]
    error = np.hypot(*(one.errors["spectrum"][0, 0] for one in (flow, null)))
    assert abs(loud[0] - loud[1]) < 4 * error


# --- nulls ----------------------------------------------------------------------------------------


def driven():
    """Units that follow one rate, in two trials, with invalid bins that hold nonsense."""
    rng = np.random.default_rng(9)
    rate = 0.1 * (1 + 0.9 * np.sin(np.arange(3000) / 15))
    spikes = (rng.random((2, 16, 3000)) < rate * rng.uniform(0.5, 1.5, 16)[:, None]).astype(int)
    mask = np.ones((2, 3000), bool)
    mask[0, 1000:1100] = mask[1, 2900:] = False
    spikes[:, :, 1000:1100][0] = 7
    spikes[1, :, 2900:] = 9
    return Raster(spikes, BIN, mask=mask), mask


def test_nulls_of_spikes_keep_what_they_promise():
    raster, mask = driven()
    inside = lambda r: np.moveaxis(np.asarray(r.spikes, int), 1, 0)[:, mask]  # noqa: E731
    before = inside(raster)
    made = {name: null_data(KEY, raster, name) for name in ("shift", "rate_matched", "shared_rate")}
    for null in made.values():
        outside = np.asarray(null.spikes)[0, :, 1000:1100]
        assert (outside == 7).all()
    shift = inside(made["shift"])
    assert (shift != before).any()
    np.testing.assert_array_equal(shift.sum(1), before.sum(1))
    shared = inside(made["shared_rate"])
    np.testing.assert_array_equal(shared.sum(0), before.sum(0))
    np.testing.assert_array_equal(shared.sum(1), before.sum(1))
    assert shared.max() == 1
    assert (shared != before).mean() > 0.1
    rate, wanted = inside(made["rate_matched"]).mean(1), before.mean(1)
    z = (rate - wanted) / np.sqrt(wanted * (1 - wanted) / before.shape[1])
    assert np.abs(z).max() < 4.5


def test_shared_rate_null_explains_units_that_only_share_a_rate():
    raster, _ = driven()
    flow = renorm.phenomenological_flow(KEY, raster, num_levels=4)
    alpha = {k: float(f.exponents["alpha"]) for k, f in flow.nulls.items()}
    error = np.hypot(
        flow.exponent_errors["alpha"], flow.nulls["shared_rate"].exponent_errors["alpha"]
    )
    assert abs(flow.exponents["alpha"] - alpha["shared_rate"]) < 4 * error
    assert z_score(flow, "alpha", alpha["rate_matched"]) > 5
    assert z_score(flow, "alpha", alpha["shift"]) > 5
    assert flow.observables["variance"][0] < 0.3  # the nonsense was not looked at


def test_shared_rate_draws_uniformly_among_rasters_of_the_same_margins():
    """Two spikes in a 3 x 3 table with one in rows and columns: its six permutations."""
    raster = Raster(np.eye(3, dtype=int), BIN)
    counts: dict[bytes, int] = {}
    for key in jax.random.split(KEY, 240):
        drawn = np.asarray(null_data(key, raster, "shared_rate").spikes)
        counts[drawn.tobytes()] = counts.get(drawn.tobytes(), 0) + 1
    assert len(counts) == 6
    chi2 = sum((n - 40) ** 2 / 40 for n in counts.values())
    assert chi2 < 20.5  # 0.999 quantile at 5 degrees of freedom


def test_nulls_of_activity_keep_what_they_promise():
    activity = gaussian(10, dyson(3, 1.5), 501, memory=0.5)
    x = np.asarray(activity.values)
    made = {
        n: np.asarray(null_data(KEY, activity, n).values)
        for n in ("shift", "phase", "gaussian", "shared_rate")
    }
    np.testing.assert_allclose(np.sort(made["shift"]), np.sort(x))
    power = np.abs(np.fft.rfft(x)) ** 2
    for name in ("phase", "gaussian"):
        np.testing.assert_allclose(
            np.abs(np.fft.rfft(made[name])) ** 2, power, rtol=1e-9, atol=1e-9
        )
    np.testing.assert_allclose(np.cov(made["gaussian"]), np.cov(x), atol=1e-12)
    np.testing.assert_allclose(made["shared_rate"].mean(0), x.mean(0), atol=1e-12)
    shared = np.corrcoef(made["phase"])
    assert np.abs(shared[np.triu_indices(8, 1)]).max() < 0.35  # memory leaves some 170 free bins
    assert np.corrcoef(x)[0, 1] > 0.35


# --- bookkeeping ----------------------------------------------------------------------------------


def test_units_left_out_are_told_and_every_level_describes_the_same_units():
    rng = np.random.default_rng(11)
    spikes = rng.random((11, 4000)) < 0.2
    spikes[4] = False
    flow = renorm.phenomenological_flow(KEY, Raster(spikes, BIN), num_levels=3, nulls=())
    assert flow.size.tolist() == [11, 5, 2]
    assert flow.members(1)[4] == -1
    inside = np.flatnonzero(flow.members(2) >= 0)
    assert len(inside) == 8
    assert any("1 units never change" in note for note in flow.notes)
    assert any("[0, 1] of [11, 5]; 8 of 11 units" in note for note in flow.notes)
    mean = spikes[inside].mean()
    assert abs(flow.observables["variance"][0] - mean * (1 - mean)) < 0.01


def test_settings_and_data_that_make_no_sense():
    raster = Raster(np.random.default_rng(12).random((4, 200)) < 0.3, BIN)
    flow = lambda **settings: renorm.phenomenological_flow(KEY, raster, **settings)  # noqa: E731
    for settings, said in [
        ({"space": "imaginary"}, "space must be one of"),
        ({"nulls": ["phase"]}, "the nulls of a Raster are"),
        ({"num_levels": 4}, "4 levels need clusters of 8 units, there are 4"),
        ({"num_levels": 1}, "num_levels must be at least 2"),
        ({"num_bootstrap": 1}, "num_bootstrap"),
        ({"block_duration": 2.0}, "expected at least four"),
        ({"block_duration": 0.02}, "at least two bins"),
    ]:
        with pytest.raises(ValueError, match=said):
            flow(**settings)
    still = Raster(np.zeros((4, 200)), BIN)
    with pytest.raises(ValueError, match="4 of 4 never change"):
        renorm.phenomenological_flow(KEY, still)


def test_flow_keeps_the_dtype_and_survives_a_file(tmp_path):
    activity = gaussian(13, dyson(3, 1.5), 400)
    activity = Activity(np.asarray(activity.values, np.float32), BIN)
    flow = renorm.phenomenological_flow(KEY, activity, num_bootstrap=10)
    floats = [x for x in jax.tree.leaves(flow) if x.dtype.kind == "f"]
    assert {x.dtype for x in floats} == {np.dtype(np.float32)}
    back = fit.load(fit.save(tmp_path / "flow.npz", flow))
    assert back.notes == flow.notes
    assert set(back.nulls) == {"shift", "shared_rate", "phase", "gaussian"}
    np.testing.assert_array_equal(back.observables["variance"], flow.observables["variance"])


def test_a_level_that_does_not_vary_says_nothing_of_the_blocks():
    values = np.random.default_rng(0).standard_normal((4, 1000))
    values[1], values[3] = -values[0], -values[2]  # the sum of all is 0
    flow = renorm.phenomenological_flow(
        jax.random.key(0), Activity(values, 0.01), num_levels=3, num_bootstrap=5, nulls=[]
    )
    assert flow.observables["variance"][2] == pytest.approx(0, abs=1e-20)
    assert not any("blocks of" in note for note in flow.notes)
