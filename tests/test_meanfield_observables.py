"""Observables: intervals against renewal processes and networks, and fits that use each kind."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from neurofield import meanfield, network
from neurofield import statistics as st
from neurofield.meanfield import measure_observables, predict_observables
from neurofield.recording import Raster


def gamma_raster(rng, cv, duration, rates, dt=1e-3):
    """Spikes of stationary renewal processes with gamma intervals, one population."""
    shape = cv**-2
    spikes = np.zeros((len(rates), round(duration / dt)), np.uint8)
    for row, rate in zip(spikes, rates, strict=True):
        gaps = rng.gamma(shape, 1 / (shape * rate), int(2 * rate * duration) + 200)
        times = np.cumsum(gaps) - rng.uniform(20, 21) / rate
        times = times[(times > 0) & (times < duration)]
        row[(times / dt).astype(int)] = 1
    return Raster(spikes, dt, populations=np.zeros(len(rates), int), population_names=("a",))


def test_intervals_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    spikes = (rng.random((8, 330)) < 0.2 * rng.random((8, 1))).astype(np.uint8)
    spikes[7] = 0
    index = np.repeat([0, 1], [5, 3])
    raster = Raster(spikes, 0.01, populations=index, population_names=("a", "b"))
    found = measure_observables(raster, (0,), num_blocks=4, window=0.8)
    for p in range(2):
        each = []
        for row in spikes[index == p]:
            for start in range(0, 320, 80):
                gaps = np.diff(np.flatnonzero(row[start : start + 80]))
                if len(gaps) >= 5:
                    each.append(gaps.std(ddof=1) / gaps.mean())
        assert float(found.interval_cv[p]) == pytest.approx(np.mean(each), rel=1e-12)
    assert found.window == 0.8
    assert measure_observables(raster, (0,), num_blocks=4).interval_cv is None
    with pytest.raises(ValueError, match="whole number"):
        measure_observables(raster, (0,), window=0.805)
    with pytest.raises(ValueError, match="longer than the raster"):
        measure_observables(raster, (0,), window=8.0)


def test_populations_without_intervals_have_no_say():
    rng = np.random.default_rng(1)
    spikes = (rng.random((6, 400)) < 0.3).astype(np.uint8)
    spikes[3:] = 0
    index = np.repeat([0, 1], 3)
    rasters = [
        Raster(x, 0.01, populations=index, population_names=("a", "b"))
        for x in (spikes, spikes[:, ::-1], np.roll(spikes, 3, axis=0))
    ]
    one = measure_observables(rasters[0], (0,), num_blocks=4, window=1.0)
    assert float(one.interval_cv[1]) == 0
    assert np.isinf(one.error.interval_cv).tolist() == [False, True]
    # Each of the populations is silent in one or two of three networks.
    found = measure_observables(rasters, (0,), num_blocks=4, window=1.0)
    each = [measure_observables(x, (0,), num_blocks=4, window=1.0) for x in rasters[:2]]
    values = np.asarray([float(x.interval_cv[0]) for x in each])
    assert float(found.interval_cv[0]) == pytest.approx(values.mean())
    assert float(found.error.interval_cv[0]) == pytest.approx(abs(np.diff(values)[0]) / 2)
    assert np.isinf(found.error.interval_cv[1])
    assert all(np.isfinite(x).all() for x in found.deviations.values())


@pytest.mark.slow
@pytest.mark.parametrize(("cv", "eight", "one"), [(0.4, 0.995, 0.98), (1.0, 0.994, 0.96)])
def test_intervals_of_gamma_processes(cv, eight, one):
    """Of different rates: the CV in long stretches, and the bias that is stated of short ones."""
    rng = np.random.default_rng(2)
    rates = rng.gamma(2, 15, 300) + 0.5
    raster = gamma_raster(rng, cv, 32.0, rates)
    # Bins hide a second spike: the intervals of Poisson neurons in bins are geometric.
    truth = np.exp(-rates * 0.5e-3).mean() if cv == 1 else cv
    for window, share in ((32.0, 1.0), (8.0, eight), (1.0, one)):
        found = measure_observables(raster, (0,), num_blocks=8, window=window)
        error = np.hypot(float(found.error.interval_cv[0]), 0.002 * cv)
        assert abs(float(found.interval_cv[0]) - share * truth) < 4 * error
        assert error < 0.01 * cv


@pytest.mark.slow
def test_errors_of_intervals_are_calibrated():
    """Over draws of neurons and of time: deviates of unit variance, or less."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        raster = gamma_raster(rng, 0.7, 8.0, rng.gamma(4, 8, 24) + 2, dt=4e-3)
        found.append(measure_observables(raster, (0,), window=1.0))
    values = np.asarray([float(x.interval_cv[0]) for x in found])
    z = (values - values.mean()) / np.asarray([float(x.error.interval_cv[0]) for x in found])
    # The larger of two errors, each known to a fifth.
    assert 0.5 < z.std() < 1.25


def escape_network(values, dtype=jnp.float64):
    """Inhibitory, with escape noise; spikes reset."""
    one = jnp.ones((), dtype)
    neuron = network.EscapeLIF(
        tau=0.02 * one, threshold=15 * one, width=values["width"] * one, rate=50 * one,
        reset=0 * one, rest=0 * one, refractory=2e-3 * one,
    )  # fmt: skip
    drive = network.Drive(
        network.Constant(values["drive"] * one), network.Poisson(2000 * one, 0.3 * one)
    )
    return network.Network(
        [network.Population("I", neuron, 1000, drive)],
        [network.Projection("I", "I", network.erdos_renyi(0.1, -0.3 * one))],
    )


TRUTH = {"drive": 15.0, "width": 2.0}
ESCAPE = {"num_paths": 1024, "num_replicas": 8, "max_lag": 0.06, "method": "stationary"}


@pytest.fixture(scope="module")
def escape_solution():
    return meanfield.solve(
        escape_network(TRUTH), 0.5, 5e-4, key=jax.random.key(0), response=False, **ESCAPE
    )


@pytest.mark.slow
def test_check_compares_intervals(escape_solution):
    found = meanfield.check(jax.random.key(3), escape_solution, num_networks=4)
    assert found.quantity[-1] == "CV of intervals I"
    assert found.disagreements == ()
    assert found.error[-1] < 0.02 * found.predicted[-1]
    # The same neurons at a quarter of the noise are far from it.
    quiet = escape_network(TRUTH | {"width": 0.5})
    wrong = eqx.tree_at(lambda s: s.network, escape_solution, quiet)
    found = meanfield.check(jax.random.key(3), wrong, num_networks=2, duration=1.0)
    assert found.predicted[-1] < 0.8 * 0.37


@pytest.mark.slow
def test_predicted_intervals_are_a_constant_of_the_window_only(escape_solution):
    def cv(window, seed, **options):
        found = predict_observables(
            escape_solution, (0,), window=window, key=jax.random.key(seed), **options
        )
        return float(found.interval_cv[0]), float(found.error.interval_cv[0])

    (a, first), (b, second) = cv(0.5, 1), cv(0.5, 2)
    assert abs(a - b) < 4 * np.hypot(first, second)
    longer, error = cv(4.0, 3)
    # 0.5 s hold 8 intervals.
    assert a < longer - 4 * np.hypot(first, error) < longer < 1.15 * a
    with pytest.raises(ValueError, match="give key"):
        predict_observables(escape_solution, (0,), window=0.5)
    closed = eqx.tree_at(lambda s: s.replicas, escape_solution, None)
    with pytest.raises(ValueError, match="nested"):
        predict_observables(closed, (0,), window=0.5, key=jax.random.key(0))

    def moved(shift):
        other = eqx.tree_at(
            lambda s: s.replicas["input_mean"],
            escape_solution,
            escape_solution.replicas["input_mean"] + shift,
        )
        return predict_observables(other, (0,), window=0.5, key=jax.random.key(0)).interval_cv[0]

    with pytest.raises(TypeError, match="no derivative"):
        jax.grad(moved)(0.0)


@pytest.mark.slow
def test_poisson_neurons_and_rates():
    """Expectations travel (`intensity`), spikes are counted; rates and states have no intervals."""
    memoryless = network.EscapeLIF(
        resets=False, hazard="linear", rate=40.0, threshold=0.0, width=1.0
    )
    net = network.Network(
        [
            network.Population("b", network.Binary(tau=0.01), 50),
            network.Population("a", memoryless, 300, network.Constant(1.0)),
            network.Population("r", network.Rate(phi="tanh", tau=0.01), 50),
        ],
        [network.Projection("a", "r", network.erdos_renyi(0.1, 0.0))],
    )
    solution = meanfield.solve(
        net, 0.4, 1e-3, method="stationary", key=jax.random.key(1), num_paths=512, max_lag=0.06,
        warm_up=0.4, response=False,
    )  # fmt: skip
    p = 1 - np.exp(-0.04)
    rng = np.random.default_rng(0)
    for width, window in ((1e-3, 8.0), (1e-3, 0.5), (5e-3, 1.0)):
        found = predict_observables(
            solution, (0,), bin_width=width, window=window, key=jax.random.key(2)
        )
        assert np.isinf(found.error.interval_cv).tolist() == [True, False, True]
        assert found.interval_cv[0] == found.interval_cv[2] == 0
        steps = round(width / 1e-3)
        spikes = (rng.random((400, 8000 // steps)) < 1 - (1 - p) ** steps).astype(np.uint8)
        raster = Raster(spikes, width, populations=np.zeros(400, int), population_names=("a",))
        measured = measure_observables(raster, (0,), window=window)
        error = np.hypot(found.error.interval_cv[1], measured.error.interval_cv[0])
        assert abs(float(found.interval_cv[1] - measured.interval_cv[0])) < 4 * error
        assert error < 0.03
    assert found.error.rate.shape == (3,)


@pytest.mark.slow
def test_float32(escape_solution):
    net = escape_network(TRUTH, jnp.float32)
    single = meanfield.solve(net, 0.5, 5e-4, key=jax.random.key(0), response=False, **ESCAPE)
    found = predict_observables(single, (0,), window=0.5, key=jax.random.key(1))
    double = predict_observables(escape_solution, (0,), window=0.5, key=jax.random.key(2))
    for x in (found.interval_cv, found.error.interval_cv, found.deviations["interval_cv"]):
        assert x.dtype == jnp.float32
    error = np.hypot(found.error.interval_cv, double.error.interval_cv)
    assert np.all(np.abs(np.asarray(found.interval_cv, float) - double.interval_cv) < 4 * error)


def brunel(connectivity):
    """The asynchronous irregular network of Brunel (2000): g = 5, eta = 2, J = 0.1 mV."""
    neuron = network.LIF(tau=0.02, threshold=20.0, reset=10.0, refractory=2e-3)
    sources = {"E": (10_000, 1000, 0.1), "I": (2500, 250, -0.5)}
    drive = network.Poisson(2 * 20.0 / (0.1 * 0.02), 0.1)
    return network.Network(
        [network.Population(p, neuron, sources[p][0], drive) for p in "EI"],
        [
            network.Projection(s, t, connectivity(size, degree, weight), delay=1.5e-3)
            for t in "EI"
            for s, (size, degree, weight) in sources.items()
        ],
    )


RULES = {
    "fixed indegree": lambda size, degree, weight: network.fixed_indegree(degree, weight),
    "Erdos-Renyi": lambda size, degree, weight: network.erdos_renyi(degree / size, weight),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "theory", "networks"), [("fixed indegree", 0.399, 0.43), ("Erdos-Renyi", 0.402, 0.44)]
)
def test_intervals_of_brunels_network(rule, theory, networks):
    """Mean CVs over 1 s: of the same theory elsewhere (500 paths), of networks within 15 %.

    With white input they would be 0.675.
    """
    solution = meanfield.solve(
        brunel(RULES[rule]), 0.4, 1e-4, method="stationary", key=jax.random.key(0), num_paths=512,
        max_lag=0.06, response=False, throw=False,
    )  # fmt: skip
    found = predict_observables(solution, (0,), window=1.0, key=jax.random.key(1))
    # Either has some 500 paths.
    error = 2**0.5 * np.asarray(found.error.interval_cv)
    assert np.all(error < 0.03)
    assert np.all(np.abs(found.interval_cv - theory) < 4 * error)
    assert np.all(np.abs(found.interval_cv - networks) < 0.15 * networks)


@pytest.mark.slow
def test_intervals_of_simulated_lif_neurons():
    """Few inputs each, and shared ones, which leading order leaves out: within 15 %."""
    neuron = network.LIF(tau=0.02, threshold=20.0, reset=10.0, refractory=2e-3)
    net = network.Network(
        [network.Population("I", neuron, 1000, network.Poisson(20_000.0, 0.1))],
        [network.Projection("I", "I", network.erdos_renyi(0.1, -0.3), delay=1.5e-3)],
    )
    solution = meanfield.solve(
        net, 0.4, 1e-4, method="stationary", key=jax.random.key(0), num_paths=512, max_lag=0.06,
        response=False, throw=False,
    )  # fmt: skip
    found = meanfield.check(
        jax.random.key(2), solution, num_networks=3, duration=0.8, warm_up=0.2, window=0.4
    )
    assert found.quantity[-1] == "CV of intervals I"
    assert found.simulated[-1] == pytest.approx(found.predicted[-1], rel=0.15)
    assert found.error[-1] < 0.05 * found.predicted[-1]


def test_intervals_have_no_derivative():
    """A fit that goes by derivatives says so before it solves anything."""
    raster = gamma_raster(np.random.default_rng(0), 0.5, 4.0, np.full(20, 20.0))
    raster = Raster(raster.spikes, 1e-3, populations=raster.populations, population_names=("I",))
    measured = measure_observables(raster, (0,), num_blocks=4, window=1.0)
    arguments = (escape_network, TRUTH, measured, 0.5, 5e-4)
    with pytest.raises(ValueError, match="no derivative"):
        meanfield.fit(*arguments, key=jax.random.key(0), derivative="forward")
    without = measure_observables(raster, (0,), num_blocks=4)
    with pytest.raises(ValueError, match="use must be of what was measured"):
        meanfield.fit(
            *arguments[:2], without, *arguments[3:], key=jax.random.key(0), use=("interval_cv",)
        )


@pytest.mark.slow
def test_fit_of_rates_and_intervals():
    """Rates alone cannot tell the drive from the width of the threshold; with the CVs they do."""
    rasters = [
        network.simulate(
            key, escape_network(TRUTH), 1.0, 5e-4, bin_width=1e-3, warm_up=0.2, num_lags=None
        ).raster
        for key in jax.random.split(jax.random.key(11), 4)
    ]
    measured = measure_observables(rasters, (0,), num_blocks=2, window=0.5)
    options = {"num_paths": 512, "num_replicas": 4, "max_lag": 0.06, "method": "stationary"}
    found = meanfield.fit(
        escape_network, {"drive": 14.0, "width": 2.3}, measured, 0.4, 5e-4, key=jax.random.key(1),
        use=("rate", "interval_cv"), solve_options=options | {"rtol": 1e-2}, max_steps=12,
    )  # fmt: skip
    assert found.fit.provenance["derivative"] == "surface"
    assert found.residuals.quantity == ("rate 0", "interval_cv 0")
    for name, truth in TRUTH.items():
        value, error = float(found.value[name]), float(found.error[name])
        assert abs(value - truth) < 4 * error
        assert error < 0.1 * truth


def memoryless_network(values):
    """Excitation and inhibition; spikes leave the neurons as they are: smooth predictions."""
    neuron = network.EscapeLIF(
        tau=values["tau"], resets=False, hazard="erf", rate=100.0, threshold=15.0, width=4.0
    )
    drive, gain = network.Constant(14.0), values["gain"]
    sources = {"E": (400, 40, 0.4), "I": (200, 20, -1.6)}
    return network.Network(
        [network.Population(p, neuron, sources[p][0], drive) for p in "EI"],
        [
            network.Projection(s, t, network.fixed_indegree(degree, weight * gain))
            for t in "EI"
            for s, (_, degree, weight) in sources.items()
        ],
    )


@pytest.fixture(scope="module")
def memoryless_statistics():
    """Of 10 simulated networks."""
    truth = {"tau": jnp.asarray(0.02), "gain": jnp.asarray(1.0)}

    @jax.jit
    def spikes(key):
        net = memoryless_network(truth)
        return network.simulate(key, net, 2.0, 1e-3, warm_up=0.2, num_lags=None).raster.spikes

    each = [np.asarray(spikes(key)) for key in jax.random.split(jax.random.key(0), 10)]
    index = np.repeat([0, 1], [400, 200])
    return [
        st.measure(
            Raster(x, 1e-3, populations=index, population_names=("E", "I")),
            num_lags=6,
            populations=True,
            segment_length=32,
        )
        for x in each
    ]


@pytest.mark.slow
@pytest.mark.parametrize("use", [("rate", "spectrum"), ("lagged",)])
def test_fits_of_spectra_and_pair_covariances(memoryless_statistics, use):
    """Of population means, which hold the covariances of pairs; several networks' errors."""
    options = {"num_paths": 256, "num_replicas": 4, "max_lag": 0.04, "method": "stationary"}
    found = meanfield.fit(
        memoryless_network, {"tau": 0.017, "gain": 1.15}, memoryless_statistics, 0.2, 1e-3,
        key=jax.random.key(1), use=use, solve_options=options | {"order": "shared"},
    )  # fmt: skip
    assert found.fit.provenance["derivative"] == "forward"
    for name, truth in (("tau", 0.02), ("gain", 1.0)):
        value, error = float(found.value[name]), float(found.error[name])
        assert abs(value - truth) < 4 * error
        assert error < 0.2 * truth
    # Both tails.
    assert 1e-4 < stats.chi2.sf(float(found.chi_squared), found.freedom) < 1 - 1e-4
