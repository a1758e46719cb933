"""Covariances of order 1 / N against linear networks, nested worlds, tables and simulation."""

import csv

import jax
import numpy as np
import pytest
from helpers import ROOT
from scipy.linalg import solve_discrete_lyapunov

from neurofield import network
from neurofield.meanfield._shared import pair_covariance, quenched_shift, share_of_shared
from neurofield.meanfield._solve import solve
from neurofield.meanfield._stability import stability

DT, SIZES = 0.1, (200, 100)
pytestmark = pytest.mark.slow  # a solve compiles for half a minute


LEAK = np.exp(-DT)
# [target, source]: means of the sums of weights, and their spreads.
MEAN = np.array([[0.5, -1.5], [1.0, -1.0]])
GAIN = np.array([[0.3, 0.2], [0.3, 0.2]])
SHARED = network.OrnsteinUhlenbeck(0.1, 2.0)
WEIGHTS = (1.0, 0.5)


def identity(x):
    return x


def rates(shared, quenched=False):
    source = network.Quenched(1.0) if quenched else network.WhiteNoise(2.0)
    names = ("a", "b")
    return network.Network(
        [
            network.Population(name, network.Rate(phi=identity, tau=1.0), size, source)
            for name, size in zip(names, SIZES, strict=True)
        ],
        [
            network.Projection(names[j], names[i], network.gaussian(MEAN[i, j], GAIN[i, j]))
            for i in range(2)
            for j in range(2)
        ],
        [network.SharedNoise(SHARED, dict(zip(names, WEIGHTS, strict=True)))] if shared else [],
    )


@pytest.fixture(scope="module")
def linear():
    return solve(
        rates(True),
        60.0,
        DT,
        method="stationary",
        order="shared",
        key=jax.random.key(0),
        num_paths=1200,
        rtol=1e-4,
    )


def drawn(rng):
    spread = np.repeat(np.repeat(GAIN, SIZES, 0), SIZES, 1)
    mean = np.repeat(np.repeat(MEAN, SIZES, 0), SIZES, 1)
    columns = np.repeat(SIZES, SIZES)[None]
    return mean / columns + spread / np.sqrt(columns) * rng.normal(size=mean.shape)


@pytest.fixture(scope="module")
def exact():
    """Covariances of drawn networks with the noise as one more unit, by Lyapunov equations."""
    rng, total = np.random.default_rng(0), sum(SIZES)
    common = np.repeat(WEIGHTS, SIZES)[:, None]
    averages = np.repeat(np.eye(2), SIZES, 1) / np.repeat(SIZES, SIZES)[None]
    found = []
    for _ in range(6):
        weights = LEAK * np.eye(total) + (1 - LEAK) * drawn(rng)
        ou = np.exp(-DT / 2.0)
        step = np.block([[weights, (1 - LEAK) * common], [np.zeros((1, total)), np.array([[ou]])]])
        noise = np.full(total + 1, (1 - LEAK) ** 2 * 2.0 / DT)
        noise[-1] = 0.01 * (1 - ou**2)
        covariance = solve_discrete_lyapunov(step, np.diag(noise))
        later = (np.linalg.matrix_power(step, 5) @ covariance)[:-1, :-1]
        now = covariance[:-1, :-1]
        means = np.stack([averages @ c @ averages.T for c in (now, later)], -1)
        single = averages @ np.diag(now)
        off = means[..., 0] - np.diag(single / SIZES)
        found.append((single, means, off / (1 - np.eye(2) / np.array(SIZES)[:, None])))
    means = [np.mean([f[i] for f in found], 0) for i in range(3)]
    errors = [np.std([f[i] for f in found], 0, ddof=1) / 6**0.5 for i in range(3)]
    return means, errors


@pytest.mark.slow
def test_two_linear_populations_under_shared_noise_have_their_exact_covariances(linear, exact):
    (single, means, pairs), (single_error, error, pair_error) = exact
    ours = np.asarray(linear.population_covariance)[:, :, [0, 5]]
    own = np.asarray(linear.population_covariance_error)[:, :, [0, 5]]
    # What is left out is of order 1 / N of it.
    allowed = 4 * np.hypot(own, error) + 2 / min(SIZES) * np.abs(means)
    assert np.all(np.abs(ours - means) < allowed)
    # A few percent: the test can fail.
    assert np.all(allowed[..., 0] < 0.12 * np.sqrt(np.outer(means[0, 0, 0], means[1, 1, 0])).max())
    spread = np.hypot(linear.covariance_error[:, 0], single_error)
    assert np.all(np.abs(linear.covariance[:, 0] - single) < 4 * spread + 2 / min(SIZES) * single)
    found = np.asarray(pair_covariance(linear))[:, :, 0]
    single_part = np.diag(np.asarray(linear.covariance_error)[:, 0] / np.array(SIZES))
    allowed = 4 * (np.hypot(own[..., 0], pair_error) + single_part) + 2 / min(SIZES) * np.abs(pairs)
    assert np.all(np.abs(found - pairs) < allowed)


def test_the_shared_input_is_the_mean_field_of_the_population_means(linear):
    """Without its own noise: Cov(dm) at lag 0 from the shared noise and the means."""
    share = share_of_shared(linear)
    own = np.diagonal(np.asarray(linear.shared_covariance)[:, :, 0])
    np.testing.assert_allclose(share, own / linear.input_covariance[:, 0], rtol=1e-12)
    # The state is stable, and the field holds at least the noise of the own means.
    assert bool(stability(linear).stable)
    assert np.all(np.asarray(share) > 0.002)
    asymmetric = np.asarray(linear.shared_covariance)[:, :, 0]
    np.testing.assert_allclose(asymmetric, asymmetric.T, rtol=1e-6)


@pytest.mark.slow
def test_quenched_shifts_are_those_of_drawn_linear_networks():
    """x = (1 - J)^-1 theta; the realised mean weights are in the quenched variance already."""
    solution = solve(
        rates(False, quenched=True),
        100.0,
        DT,
        method="stationary",
        key=jax.random.key(0),
        num_paths=4000,
        num_replicas=4,
    )
    rng, total = np.random.default_rng(1), sum(SIZES)
    means = []
    for _ in range(150):
        x = np.linalg.solve(np.eye(total) - drawn(rng), rng.normal(size=(total, 20)))
        means.append(np.stack([x[: SIZES[0]].mean(0), x[SIZES[0] :].mean(0)]))
    means = np.stack(means)
    groups = (means**2).mean(-1)
    truth, error = groups.mean(0), groups.std(0, ddof=1) / 150**0.5
    ours = np.asarray(quenched_shift(solution)) ** 2
    own = np.asarray(solution.quenched_error / solution.quenched) * ours
    assert np.all(np.abs(ours - truth) < 4 * np.hypot(error, own) + 2 / min(SIZES) * truth)


def balanced():
    """Balanced binary network of the table: tau = 1, 10 % connected, weights over sqrt(800)."""
    root = 800**0.5

    def population(name, size, drive):
        neuron = network.Binary(threshold=1.0, tau=1.0)
        return network.Population(name, neuron, size, network.Constant(drive))

    weights = {("E", "E"): 1, ("E", "I"): 1, ("I", "E"): -6, ("I", "I"): -5.5}
    return network.Network(
        [population("E", 8000, 3.0), population("I", 2000, 2.4)],
        [
            network.Projection(source, target, network.erdos_renyi(0.1, j / root))
            for (source, target), j in weights.items()
        ],
    )


@pytest.mark.slow
def test_the_balanced_binary_network_of_the_table():
    """`binary_EI.csv`: an independent solution of eqs. 5-9 in continuous time, and networks."""
    with open(ROOT / "tests/reference/meanfield/binary_EI.csv") as file:
        rows = {row["source"]: row for row in csv.DictReader(file)}
    theory = rows["theory_ensemble_with_shared_fluct"]
    solution = solve(
        balanced(),
        60.0,
        0.05,
        method="stationary",
        order="shared",
        key=jax.random.key(0),
        num_paths=2000,
        max_lag=12.0,
    )
    means = np.asarray([float(theory["m_E"]), float(theory["m_I"])])
    assert np.all(np.abs(solution.mean / means - 1) < 0.01)
    square = np.asarray(solution.quenched) + np.asarray(solution.mean) ** 2
    quenched = np.asarray([float(theory["q_E"]), float(theory["q_I"])])
    assert np.all(np.abs(square / quenched - 1) < 0.04)
    found = np.asarray(pair_covariance(solution))[:, :, 0]
    networks = [rows[f"sim_N10000_T1200_seed{i}"] for i in range(3)]
    simulated = np.asarray([float(row["coff_EE(GS for theory)"]) for row in networks])
    # The network-to-network spread is 8 %; the table's tolerance is 10 %.
    assert abs(found[0, 0] / simulated.mean() - 1) < 0.1
    assert abs(found[0, 0] / float(theory["spec_totalgain_EE"]) - 1) < 0.1
    assert abs(found[0, 1] / float(theory["spec_totalgain_EI"]) - 1) < 0.2
    assert bool(stability(solution).stable)


def escape(size):
    drive = network.Drive(network.Constant(20.0), network.OrnsteinUhlenbeck(4.0, 0.005))
    return network.Network(
        [network.Population("x", network.EscapeLIF(), size, drive)],
        [
            network.Projection(
                "x", "x", network.fixed_indegree(50, -3.0), kernel=network.Exponential(0.005)
            )
        ],
    )


def count_variance(covariance, dt, window):
    """Variance of the mean rate over `window` seconds, from covariances at lags (last axis)."""
    num = round(window / dt)
    weight = (1 - np.arange(num) / num) * np.where(np.arange(num) == 0, 1, 2)
    return np.asarray(covariance)[..., :num] @ weight / num


@pytest.mark.slow
def test_escape_networks_fluctuate_as_nested_worlds_and_as_simulated():
    dt, size, window = 5e-4, 200, 0.01
    options = {"method": "stationary", "num_paths": 1600, "max_lag": 0.1, "throw": False}
    found = {
        order: solve(escape(size), 2.0, dt, order=order, key=jax.random.key(1), **options)
        for order in ("shared", "nested")
    }
    values, errors = [], []
    for solution in found.values():
        groups = count_variance(solution.replicas["population_covariance"][:, 0, 0], dt, window)
        values.append(groups.mean())
        errors.append(groups.std(ddof=1) / len(groups) ** 0.5)
    independent = count_variance(
        found["shared"].covariance[0] - found["shared"].quenched[0], dt, window
    )
    # Inhibition takes a good part of the fluctuations of independent neurons.
    assert values[0] < 0.9 * independent / size
    assert abs(values[0] - values[1]) < 4 * np.hypot(*errors) + 2 / size * values[0]
    samples = []
    for seed in range(3):
        sim = network.simulate(
            jax.random.key(seed),
            escape(size),
            8.0,
            dt,
            bin_width=window,
            warm_up=0.5,
            num_lags=None,
        )
        assert sim.raster is not None
        mean = np.asarray(sim.raster.spikes, float).mean(0) / window
        samples += [part.var(ddof=1) for part in np.split(mean, 4)]
    samples = np.asarray(samples)
    error = np.hypot(samples.std(ddof=1) / len(samples) ** 0.5, errors[0])
    assert abs(values[0] - samples.mean()) < 4 * error + 0.02 * values[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "current", "sd", "stable"), [(0.05, 1.0, 2.0, True), (0.1, 1.5, 0.5, False)]
)
def test_synchronous_qif_networks_are_flagged(weight, current, sd, stable):
    """The networks of 2.8: the second one oscillates, with 350 times the variance of the first."""
    drive = network.Drive(network.Constant(current), network.OrnsteinUhlenbeck(sd, 0.005))
    net = network.Network(
        [network.Population("x", network.QIF(tau=0.01), 2000, drive)],
        [
            network.Projection(
                "x",
                "x",
                network.erdos_renyi(0.05, -weight),
                kernel=network.Exponential(0.005),
                delay=0.0015,
            )
        ],
    )
    solution = solve(
        net, 2.0, 5e-4, method="stationary", key=jax.random.key(0), num_paths=400, max_lag=0.2
    )
    found, told = stability(solution), solution.diagnostics
    assert bool(found.stable) == bool(told.stable) == stable
    assert float(told.least_determinant) == pytest.approx(float(found.least), rel=1e-9)
    assert float(told.crossing_frequency) == pytest.approx(float(found.crossing), rel=1e-9)
    # Slow changes die out in both: frequency zero alone would not tell.
    assert told.leading_gain < 0
    assert float(told.causality) < float(told.causality_expected) + 2
    assert abs(float(solution.mean[0]) / (23.824 if stable else 21.081) - 1) < 0.02
    if not stable:
        assert int(found.encirclements) == 2
        # Near the rate of the network, 24.3 Hz.
        assert 20 < float(found.crossing) < 35
