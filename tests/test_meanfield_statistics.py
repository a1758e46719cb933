"""Statistics, paths, checks and diagnostics of mean-field solutions, against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import meanfield, network
from neurofield import statistics as st
from neurofield.meanfield._check import check
from neurofield.meanfield._diagnose import diagnose
from neurofield.meanfield._diagnostics import Diagnostics, _third, third_cumulants
from neurofield.meanfield._observables import (
    Observables,
    measure_observables,
    observe,
    predict_observables,
)
from neurofield.meanfield._sample_paths import (
    Paths,
    fano_factor,
    interval_density,
    path_intervals,
    path_rates,
    sample_paths,
)
from neurofield.meanfield._statistics import binned_covariance, filters, statistics
from neurofield.meanfield._theory import build_theory
from neurofield.recording import Raster

TAU, SIZE, G, J0 = 0.01, 400, 0.5, -2.0
DENSITY = 0.02
COUPLED = 0.75**0.5  # sqrt(1 - g^2)


def identity(x):
    return x


def linear(dt=1e-3):
    """tau x' = -x + J x + 1 + xi: everything about it is known."""
    drive = network.Drive(network.Constant(1.0), network.WhiteNoise(DENSITY))
    rate = network.Rate(phi=identity, tau=TAU, initial_sd=1.0)
    return network.Network(
        [network.Population("x", rate, SIZE, drive)],
        [network.Projection("x", "x", network.gaussian(J0, G))],
    )


def poisson_network():
    """Escape neurons without memory, at 40 Hz and 20 Hz; their synapses have no weight."""
    kinds = [("a", 40.0, 300), ("b", 20.0, 100)]
    populations = [
        network.Population(
            name,
            network.EscapeLIF(resets=False, hazard="linear", rate=rate, threshold=0.0, width=1.0),
            size,
            network.Constant(1.0),
        )
        for name, rate, size in kinds
    ]
    return network.Network(
        populations, [network.Projection("a", "b", network.erdos_renyi(0.1, 0.0))]
    )


@pytest.fixture(scope="module")
def linear_solution():
    return meanfield.solve(
        linear(), 0.4, 1e-3, method="stationary", key=jax.random.key(0), num_paths=1024,
        num_replicas=8, max_lag=0.08, response=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def poisson_solution():
    return meanfield.solve(
        poisson_network(), 0.4, 1e-3, method="stationary", key=jax.random.key(1), num_paths=512,
        max_lag=0.06, warm_up=0.4, response=False, gradient="none",
    )  # fmt: skip


def within(value, truth, error, sigmas=4.0):
    assert np.all(np.abs(np.asarray(value) - truth) < sigmas * np.asarray(error)), (
        value,
        truth,
        error,
    )


def test_bins_hold_the_sums_of_their_steps(getkey):
    steps, bins, dt = 4, 5, 0.5
    # The covariance of any process: here two random walks forgotten at random rates.
    lag = np.arange(40)
    c = np.array(
        [
            [np.exp(-lag / 3.0), 0.3 * np.exp(-lag / 7.0)],
            [0.3 * np.exp(-lag / 2.0), 2 * np.exp(-lag / 5.0)],
        ]
    )
    kinds = ["spike", "rate"]
    got = binned_covariance(jnp.asarray(c), filters(kinds, steps, dt), bins, steps)

    def cov(p, q, shift):
        return c[p, q, shift] if shift >= 0 else c[q, p, -shift]

    weight = {"spike": dt, "rate": 1 / steps}
    for p in range(2):
        for q in range(2):
            for b in range(bins):
                brute = sum(
                    weight[kinds[p]] * weight[kinds[q]] * cov(p, q, b * steps + i - j)
                    for i in range(steps)
                    for j in range(steps)
                )
                assert float(got[p, q, b]) == pytest.approx(brute, rel=1e-12)
    last = binned_covariance(jnp.asarray(c), filters(["binary"] * 2, steps, dt), bins, steps)
    np.testing.assert_allclose(last, c[:, :, : bins * steps : steps], rtol=1e-12)


def test_statistics_of_a_linear_network_are_its_closed_form(linear_solution):
    found = statistics(linear_solution, bin_width=1e-3, num_lags=40, segment_length=64)
    # Note 2.4: c(t) = D / s exp(-s t), s = sqrt(1 - g^2), in units of tau; D = density / (2 tau).
    s = COUPLED
    lags = np.arange(41) * 1e-3 / TAU
    c = DENSITY / (2 * TAU) / s * np.exp(-s * lags)
    assert found.lagged.shape == (40, 1, 1)
    assert found.rate_error is not None
    within(found.rate, 1 / (1 - J0), found.rate_error)
    # The mean over a bin of the same width as the step, and noise held in a step: 1 % at dt/tau=.1.
    error = np.hypot(found.lagged_error[:, 0, 0], 0.01 * c[:40] / SIZE)
    within(found.lagged[:, 0, 0], c[:40] / SIZE, error)
    np.testing.assert_allclose(found.covariance, found.lagged[0])
    finer = statistics(linear_solution, bin_width=4e-3, num_lags=3)
    # Of sums over steps, from the same solution.
    step = np.asarray(found.lagged[:, 0, 0])
    pairs = sum(step[abs(i - j)] for i in range(4) for j in range(4)) / 16
    assert float(finer.covariance[0, 0]) == pytest.approx(pairs, rel=1e-10)


@pytest.mark.slow
def test_spectrum_is_what_welch_estimates(linear_solution):
    """Of a process drawn with the solution's own covariance, by the measurement's own function."""
    length, num, runs = 32, 256, 3000
    found = statistics(linear_solution, num_lags=64, segment_length=length)
    assert found.lagged is not None
    c = np.asarray(found.lagged[:, 0, 0]) * SIZE
    c = c[0] * np.exp(-np.arange(64) * 0.09)  # positive definite for certain
    index = np.abs(np.arange(num)[:, None] - np.arange(num)[None])
    full = c[0] * np.exp(-index * 0.09)
    draws = np.linalg.cholesky(full) @ np.random.default_rng(0).standard_normal((num, runs))
    welch = jax.vmap(lambda x: st.spectrum(x[None], 1e-3, segment_length=length)[:, 0, 0])
    each = np.asarray(welch(jnp.asarray(draws.T))).real
    known = eqx.tree_at(
        lambda s: (s.covariance, s.quenched, s.replicas),
        linear_solution,
        (jnp.asarray(np.pad(c, (0, 16)))[None], jnp.zeros(1), None),
    )
    truth = statistics(known, segment_length=length)
    density = np.asarray(truth.spectrum)[:, 0, 0].real * SIZE
    np.testing.assert_allclose(truth.frequency, st.frequencies(length, 1e-3))
    # The measurement centres by the mean of the 256 bins, which takes from frequency zero alone.
    z = (each.mean(0) - density)[2:] / (each.std(0)[2:] / runs**0.5)
    assert np.all(np.abs(z) < 4), z


@pytest.mark.slow
def test_statistics_of_poisson_neurons(poisson_solution):
    found = statistics(poisson_solution, bin_width=5e-3, num_lags=2)
    # 1 - exp(-rate dt) spikes a step, independent.
    p = 1 - np.exp(-np.array([40.0, 20.0]) * 1e-3)
    within(found.rate, p / 1e-3, found.rate_error)
    truth = np.diag(5 * p * (1 - p) / np.array([300, 100]))
    assert found.covariance_error is not None
    within(jnp.diagonal(found.covariance), np.diag(truth), jnp.diagonal(found.covariance_error))
    assert float(found.covariance[0, 1]) == 0
    within(found.lagged[1], 0 * truth, found.lagged_error[1] + 1e-30)
    assert found.labels == ("a", "b")


@pytest.mark.slow
def test_paths_of_poisson_neurons(poisson_solution):
    paths = sample_paths(jax.random.key(2), poisson_solution, 2.0, num_paths=100)
    assert paths.output.shape == (2, 100, 2000)
    p = 1 - np.exp(-np.array([40.0, 20.0]) * 1e-3)
    rates = np.asarray(path_rates(paths))
    error = np.sqrt(p * (1 - p) / 2000 / 100) / 1e-3
    within(rates.mean(1), p / 1e-3, error)
    # Geometric intervals: CV^2 = 1 - p; the Fano factor of binomial counts is 1 - p.
    intervals = path_intervals(paths)
    cv = np.asarray(intervals.cv)
    bias = 0.03  # of a CV from 40 intervals or so
    assert np.all(np.abs(cv.mean(1) - np.sqrt(1 - p)) < bias + 4 * cv.std(1) / 100**0.5)
    fano = np.asarray(fano_factor(paths, 0.1))
    within(fano.mean(1), 1 - p, fano.std(1) / 100**0.5)
    edges = jnp.asarray([0.0, 0.01, 0.02, 0.05])
    density, spread = interval_density(paths, edges)
    k = np.array([10, 20, 50])
    below = 1 - (1 - p[:, None]) ** k[None]
    truth = np.diff(np.concatenate([np.zeros((2, 1)), below], 1)) / np.diff(edges)[None]
    # An interval must fit between a spike and the end: a share of 50 ms in 2 s of the longest.
    within(density, truth, np.hypot(spread, 0.025 * truth / 4))


def test_intervals_of_given_trains():
    trains = np.zeros((1, 3, 12))
    trains[0, 0, [1, 4, 9]] = 1
    trains[0, 1, [2]] = 1
    paths = Paths(jnp.asarray(trains) / 0.1, jnp.zeros((1, 3, 12)), names=("a",), fields=(), dt=0.1)
    found = path_intervals(paths)
    np.testing.assert_allclose(found.count[0], [2, 0, 0])
    np.testing.assert_allclose(found.mean[0], [0.4, 0, 0])
    np.testing.assert_allclose(found.cv[0], [np.std([3, 5], ddof=1) / 4, 0, 0])
    density, _ = interval_density(paths, jnp.asarray([0.0, 0.4, 0.6]))
    np.testing.assert_allclose(density[0], [0.5 / 0.4, 0.5 / 0.2])


def test_observables_of_a_raster_are_those_of_brute_force():
    rng = np.random.default_rng(3)
    spikes = rng.poisson(0.3 + 0.2 * rng.random((7, 1)), (7, 400)).astype(np.uint8)
    raster = Raster(
        spikes, 0.01, populations=np.repeat([0, 1], [4, 3]), population_names=("a", "b")
    )
    found = measure_observables(raster, (0, 3), num_blocks=8)
    x = spikes[:4].astype(float)
    np.testing.assert_allclose(found.rate[0], x.mean() / 0.01)
    np.testing.assert_allclose(
        found.autocovariance[0, 1], (x[:, 3:] * x[:, :-3]).mean() - x.mean() ** 2
    )
    halves = np.cov(x[:, :200].mean(1), x[:, 200:].mean(1))[0, 1] / 1e-4
    np.testing.assert_allclose(found.rate_variance[0], halves)
    means = np.stack([x.mean(0), spikes[4:].mean(0)])
    np.testing.assert_allclose(found.population_covariance, np.cov(means, bias=True))
    assert isinstance(found.error, Observables)
    # Neurons differ: the error of the mean rate is at least that of their spread.
    assert float(found.error.rate[0]) >= 0.9 * x.mean(1).std(ddof=1) / 2 / 0.01
    other = Raster(
        spikes[:, ::2], 0.01, populations=raster.populations, population_names=("a", "b")
    )
    both = measure_observables([raster, other], (0, 3), num_blocks=8)
    apart = found.rate - measure_observables(other, (0, 3), num_blocks=8).rate
    np.testing.assert_allclose(both.rate, found.rate - apart / 2)
    # Of two: half of their distance is the standard error of their mean.
    np.testing.assert_allclose(both.error.rate, jnp.abs(apart) / 2)
    with pytest.raises(ValueError, match="two rasters or more"):
        measure_observables([raster], (0,))
    with pytest.raises(ValueError, match="fewer than three"):
        measure_observables(Raster(spikes, 0.01, populations=np.repeat([0, 1], [1, 6])), (0,))


@pytest.mark.slow
def test_errors_of_observables_are_calibrated():
    """Of independent Poisson trains, over many draws: z-scores have unit variance."""
    zs = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        spikes = (rng.random((20, 800)) < 0.2).astype(np.uint8)
        raster = Raster(spikes, 0.01, populations=np.zeros(20, int), population_names=("a",))
        found = measure_observables(raster, (0, 1))
        first, second = found.autocovariance[0], found.error.autocovariance[0]
        z = [(float(found.rate[0]) - 20) / float(found.error.rate[0])]
        z += [(float(first[0]) - 0.16) / float(second[0]), float(first[1]) / float(second[1])]
        zs.append(z)
    size = np.std(np.stack(zs), axis=0)
    # The larger of two errors: on the safe side by up to a fifth, and 16 blocks know it to a fifth.
    assert np.all((size > 0.5) & (size < 1.35)), size


@pytest.mark.slow
def test_check_agrees_with_the_network_and_finds_a_wrong_theory(poisson_solution):
    found = check(jax.random.key(3), poisson_solution, num_networks=4, duration=1.0)
    assert found.disagreements == ()
    text = str(found)
    assert "mean a" in text
    assert "nothing beyond 4 standard errors" in text
    wrong = eqx.tree_at(
        lambda s: (s.mean, s.replicas["mean"]),
        poisson_solution,
        (poisson_solution.mean * 1.2, poisson_solution.replicas["mean"] * 1.2),
    )
    found = check(jax.random.key(3), wrong, num_networks=4, duration=1.0)
    assert "mean a" in found.disagreements
    assert "beyond 4" in str(found)
    with pytest.raises(ValueError, match="two networks"):
        check(jax.random.key(3), poisson_solution, num_networks=1)


@pytest.mark.slow
def test_check_of_a_course_in_time():
    drive = network.Drive(
        network.TimeCourse(jnp.asarray([0.0, 2.0]), 0.01), network.WhiteNoise(DENSITY)
    )
    rate = network.Rate(phi="tanh", tau=TAU)
    net = network.Network(
        [network.Population("x", rate, 200, drive)],
        [network.Projection("x", "x", network.gaussian(-1.0, 1.0))],
    )
    solution = meanfield.solve(net, 0.02, 1e-3, key=jax.random.key(0), num_paths=1024)
    found = check(jax.random.key(1), solution, num_networks=6, times=(0.005, 0.02))
    assert found.quantity[:2] == ("mean x, 5 ms", "mean x, 20 ms")
    assert len(found.quantity) == 2 + 3
    assert found.disagreements == ()
    assert found.simulated[1] > 0.2 > found.simulated[0] + 0.1
    with pytest.raises(ValueError, match="before the last time"):
        check(jax.random.key(1), solution, duration=0.01)
    # Covariances by lag, even if as many as times, are not those of pairs of times.
    cut = meanfield.solve(net, 0.02, 1e-3, key=jax.random.key(0), num_paths=1024, window=0.02)
    found = check(jax.random.key(1), cut, num_networks=2, times=(0.005, 0.02))
    assert found.quantity == ("mean x, 5 ms", "mean x, 20 ms")


def test_diagnostics_of_a_linear_network(linear_solution):
    found = linear_solution.diagnostics
    within(found.gain[0, 0], J0, found.gain_error[0, 0])
    assert found.stable is None  # without response
    # h is J x + noise: Gaussian.
    assert float(found.skewness[0]) == 0
    assert float(found.clipped[0]) < 0.01
    # x = (1 - J)^-1 1: the variance of its mean over draws of J is g^2 Q / (1 - J0)^2 / N with
    # Q = M^2 / (1 - g^2), M = 1 / (1 - J0). (A second term, of the realised mean input, would count
    # the spread of the neurons twice: 4000 matrices of N = 200 gave N Var = .00410(9), and .00412
    # is this formula.)
    mean = 1 / (1 - J0)
    quenched = G**2 * mean**2 / (1 - G**2)
    spread = float(linear_solution.quenched_error[0]) / quenched
    gain = 2 * float(found.gain_error[0, 0]) / (1 - J0)
    truth = quenched / (1 - J0) ** 2 / SIZE
    within(found.finite_size[0, 0] / truth, 1.0, np.hypot(spread, gain))
    # At frequency zero R = 1: S = J0^2 A / ((1 - J0)^2 N), of the private g^2 A.
    share = (J0 / (1 - J0)) ** 2 / SIZE
    share = share / (share + G**2)
    assert float(found.shared_share[0]) == pytest.approx(share, rel=0.2)
    assert "leading_gain" in str(found)


def test_the_leading_gain_is_that_of_the_matrix():
    gain = jnp.asarray([[2.0, -1.0], [1.0, 0.5]])
    found = Diagnostics(gain=gain)
    assert found.leading_gain == pytest.approx(1.25)
    with pytest.raises(ValueError, match="no gain"):
        _ = Diagnostics().leading_gain


RULES = {
    "bernoulli": network.erdos_renyi(0.2, network.LogNormal(0.5, 0.3)),
    "bernoulli normal": network.erdos_renyi(0.3, network.Normal(0.5, 0.2)),
    "multapses": network.fixed_indegree(20, network.LogNormal(0.5, 0.3)),
    "distinct": network.fixed_indegree(20, 0.7, multapses=False),
    "all": network.all_to_all(network.LogNormal(0.1, 0.1)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[] if x == "distinct" else pytest.mark.slow) for x in RULES]
)
def test_third_cumulants_are_those_of_drawn_rows(name):
    """Over targets, for given activities of the sources."""
    rule, num = RULES[name], 60
    rng = np.random.default_rng(5)
    y = rng.gamma(1.0, 1.0, num)
    rows = jax.vmap(lambda k: rule.row(k, 0, 40_000, num))(
        jax.random.split(jax.random.key(4), 40_000)
    )
    sums = np.asarray(rows) @ y
    about = sums - sums.mean()
    drawn, error = (about**3).mean(), (about**3).std() / len(sums) ** 0.5
    a, b, c = (float(x) for x in _third(rule, num))
    one, two, three = y.mean(), (y**2).mean(), (y**3).mean()
    found = a * three + b * two * one + c * one**3
    # Without replacement, and for covariances of draws, there are terms of relative order 1 / N.
    assert abs(found - drawn) < 4 * error + 4 / num * abs(drawn)


@pytest.mark.slow
def test_skewness_of_sparse_input():
    """Shot noise of K Poisson trains of weight j through a leaky integrator (Campbell)."""
    populations = [
        network.Population(
            "a",
            network.EscapeLIF(resets=False, hazard="linear", rate=40.0, threshold=0.0, width=1.0),
            2000,
            network.Constant(1.0, channel="current"),
        ),
        network.Population("b", network.LIF(tau=0.02, threshold=1e6), 100),
    ]
    net = network.Network(
        populations, [network.Projection("a", "b", network.erdos_renyi(0.02, 0.3))]
    )
    solution = meanfield.solve(
        net, 0.4, 1e-3, method="stationary", key=jax.random.key(6), num_paths=512, max_lag=0.05,
        warm_up=0.4,
        response=False, gradient="none",
    )  # fmt: skip
    # The integrator's time is 20 ms: the rate of "b" has tau 20 ms.
    k, nu, tau = 40.0, 40.0, 0.02
    # <y>, <y^2>, <y^3> of one filtered train, in units where its integral is 1.
    k1, k2, k3 = nu, nu / (2 * tau), nu / (3 * tau**2)
    second, third = k2 + k1**2, k3 + 3 * k1 * k2 + k1**3
    p = 0.02
    truth = k * (1 - p) * (1 - 2 * p) * third / (k * (1 - p) * second) ** 1.5
    assert float(solution.diagnostics.skewness[0]) == pytest.approx(truth, rel=0.06)
    theory = build_theory(net, 1e-3)
    assert third_cumulants(net, theory).shape == (1, 1, 3)


@pytest.mark.slow
def test_diagnose_tells_the_changes_with_the_step(linear_solution):
    found = diagnose(jax.random.key(7), linear_solution)
    # A linear network's mean does not know the step.
    within(found.half_step, 0.0, found.half_step_error)
    within(found.more_paths, 0.0, found.more_paths_error)
    assert found.gain is not None


def test_refusals(linear_solution):
    with pytest.raises(ValueError, match="whole number"):
        statistics(linear_solution, bin_width=1.5e-3)
    with pytest.raises(ValueError, match="within the"):
        statistics(linear_solution, num_lags=1000)
    with pytest.raises(ValueError, match="lags must lie"):
        predict_observables(linear_solution, (0, 500))
    closed = eqx.tree_at(lambda s: s.replicas, linear_solution, None)
    assert statistics(closed).rate_error is None
    course = eqx.tree_at(lambda s: s.quenched, linear_solution, None)
    with pytest.raises(ValueError, match="stationary state"):
        statistics(course)


def test_observe_rates_as_they_are():
    x = jnp.asarray(np.random.default_rng(1).random((5, 40)))
    found = observe([x], 0.01, (0,), [True])
    assert float(found["rate"][0]) == pytest.approx(float(x.mean()))
