"""`solve`: the march against exact two-time theory, methods against each other, refusals.

Tables: tests/reference/meanfield, from the project's notes on mean-field theory, section 2.
"""

import csv
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import meanfield, network
from neurofield._results import is_successful

TABLES = Path(__file__).parent / "reference" / "meanfield"


def table(name: str) -> dict[str, np.ndarray]:
    with (TABLES / name).open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


def random_rates(gain: float = 1.8, size: int = 100_000, mean: float = 0.0) -> network.Network:
    """The network of Sompolinsky, Crisanti & Sommers, its drive switched on at t = 8."""
    drive = network.Function(lambda t: jnp.where(t > 8, 1.0, 0.0))
    rates = network.Population("x", network.Rate("tanh", tau=1.0), size, drive)
    return network.Network([rates], [network.Projection("x", "x", network.gaussian(mean, gain))])


def noisy_pair(size: int = 200) -> network.Network:
    """Excitation and inhibition by rates, with delays and a filter."""
    pair = [
        network.Population(
            name, network.Rate("tanh", tau=1.0), n, network.OrnsteinUhlenbeck(0.5, 1.0)
        )
        for name, n in (("E", size), ("I", size // 2))
    ]
    return network.Network(
        pair,
        [
            network.Projection("E", "E", network.gaussian(0.5, 0.8), delay=0.4),
            network.Projection("I", "E", network.gaussian(-1.0, 0.8)),
            network.Projection(
                "E", "I", network.gaussian(0.7, 0.5), kernel=network.Exponential(0.5)
            ),
        ],
    )


@pytest.fixture(scope="module")
def marched():
    """Twelve independent marches of the two-time case 2.3."""
    key = jax.random.key(1)
    return meanfield.solve(random_rates(), 16.0, 0.1, key=key, num_paths=12 * 256, num_replicas=12)


def test_the_march_follows_the_exact_two_time_theory(marched):
    exact = table("twotime_step_drive_g1.8.csv")
    assert marched.method == "march"
    assert marched.gradient == "pathwise"
    scores = []
    for t in (2, 4, 6, 8, 9, 10, 12, 14, 16):
        place = int(np.argmin(abs(exact["t"] - t)))
        step = round(t / 0.1) - 1
        expected = exact["phimean_th"][place]
        scores.append((marched.mean[0, step] - expected) / marched.mean_error[0, step])
    # Each error has eleven degrees of freedom; the times depend on each other.
    assert np.max(np.abs(scores)) < 4.5, scores
    assert np.mean(np.square(scores)) < 3, scores


@pytest.mark.slow
def test_a_march_with_a_window_of_everything_is_the_march():
    key, net = jax.random.key(2), noisy_pair()
    options = {"key": key, "num_paths": 64, "num_replicas": 2, "method": "march"}
    whole = meanfield.solve(net, 4.0, 0.2, **options)
    windowed = meanfield.solve(net, 4.0, 0.2, window=4.0, **options)
    np.testing.assert_allclose(windowed.mean, whole.mean, rtol=1e-6, atol=1e-9)
    # With a window, the second time is counted backwards from the first.
    np.testing.assert_allclose(
        windowed.covariance[:, -1, :10], whole.covariance[:, -1, ::-1][:, :10], rtol=1e-6, atol=1e-9
    )


@pytest.mark.slow
def test_a_long_march_settles_in_the_stationary_state():
    net, key = noisy_pair(), jax.random.key(3)
    late = meanfield.solve(net, 24.0, 0.2, key=key, num_paths=2400, method="march")
    still = meanfield.solve(
        net, 60.0, 0.2, key=key, num_paths=1200, method="stationary", max_lag=12.0
    )
    variance = jnp.diagonal(late.covariance, axis1=1, axis2=2)
    tail = slice(60, None)
    found, error = variance[:, tail].mean(1), late.replicas["covariance"]
    error = jnp.diagonal(error, axis1=2, axis2=3)[:, :, tail].mean(2).std(0, ddof=1) / 2
    z = (found - still.covariance[:, 0]) / jnp.hypot(error, still.covariance_error[:, 0])
    assert np.all(np.abs(z) < 5), z


@pytest.mark.slow
def test_worlds_of_finite_networks_fluctuate_as_linear_theory_says():
    """N Var X of a linear network with a mean coupling, on the grid: the integral of
    A(w) / |1 - J0 H(w)|^2, A = |H|^2 S / (1 - g^2 |H|^2), H = (1 - a) / (e^{iw} - a), a = e^{-dt}.
    """
    g, coupling, size, dt = 0.5, -2.0, 100, 0.1
    units = network.Population(
        "x", network.Rate(lambda x: x, tau=1.0), size, network.WhiteNoise(2.0)
    )
    net = network.Network([units], [network.Projection("x", "x", network.gaussian(coupling, g))])
    found = meanfield.solve(
        net, 100.0, dt, key=jax.random.key(4), order="nested", method="stationary",
        num_paths=3200, num_replicas=8, max_lag=10.0,
    )  # fmt: skip
    w = np.linspace(-np.pi, np.pi, 100_001)
    transfer = (1 - np.exp(-dt)) / (np.exp(1j * w) - np.exp(-dt))
    power = abs(transfer) ** 2
    spectrum = power * 2 / dt / (1 - g**2 * power)
    variance = np.mean(spectrum[:-1])
    exact = np.mean((spectrum / abs(1 - coupling * transfer) ** 2)[:-1])
    z = (found.covariance[0, 0] - variance) / found.covariance_error[0, 0]
    assert abs(z) < 5, z
    value, error = found.population_covariance[0, 0, 0], found.population_covariance_error[0, 0, 0]
    # Corrections of the next order are of the relative size 1 / N.
    assert abs(size * value - exact) < 4 * size * error + exact / size, (size * value, exact)


@pytest.mark.slow
def test_the_same_key_gives_the_same_solution_whatever_is_traced():
    net, key = noisy_pair(), jax.random.key(5)

    def mean(gain):
        changed = eqx.tree_at(lambda n: n.projections[0].connectivity.gain, net, gain)
        return meanfield.solve(
            changed, 2.0, 0.2, key=key, num_paths=32, num_replicas=2, method="march"
        ).mean

    gains = jnp.array([0.5, 0.8])
    once = jax.jit(mean)(gains[1])
    np.testing.assert_allclose(once, mean(gains[1]), rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(mean)(gains)[1], once, rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "newton"}, "method='newton' is not one of"),
        ({"order": "second"}, "order='second' is not one of"),
        ({"key": None}, "draws paths"),
        ({"num_replicas": 1}, "num_replicas must lie between 2"),
        ({"method": "analytic"}, "does not cover this network"),
        ({"method": "relaxation", "order": "shared"}, "is for stationary states"),
        ({"max_lag": 1.5}, "half of duration"),
        ({"dt": 0.3}, "must be a whole number"),
        ({"method": "march", "jitter": -1.0}, "jitter must"),
    ],
)
def test_what_solve_refuses(change, message):
    options = {"key": jax.random.key(0), "num_paths": 64, "method": "stationary", "dt": 0.2}
    options.update(change)
    dt = options.pop("dt")
    with pytest.raises(ValueError, match=message):
        meanfield.solve(noisy_pair(), 2.0, dt, **options)


def test_networks_that_the_theory_does_not_cover():
    key = jax.random.key(0)
    rates = network.Population("x", network.Rate(tau=1.0), 10)
    spikes = network.Population("s", network.LIF(), 10)
    annealed = network.Projection("s", "s", network.annealed(0.1, 1.0))
    with pytest.raises(ValueError, match="no quenched disorder"):
        meanfield.solve(network.Network([spikes], [annealed]), 0.1, 1e-3, key=key)
    slow = network.Exponential(jnp.full(10, 0.5))
    filtered = network.Projection("x", "x", network.gaussian(0.0, 1.0), kernel=slow)
    with pytest.raises(ValueError, match="scalar parameters"):
        meanfield.solve(network.Network([rates], [filtered]), 2.0, 0.1, key=key)
    shared = network.SharedNoise(network.WhiteNoise(0.1), {"x": 1.0})
    dense = network.Projection("x", "x", network.gaussian(0.0, 1.0))
    with pytest.raises(ValueError, match="noise shared"):
        meanfield.solve(network.Network([rates], [dense], [shared]), 2.0, 0.1, key=key)


@pytest.mark.slow
def test_what_did_not_converge_says_so():
    net, key = noisy_pair(), jax.random.key(6)
    options = {
        "key": key,
        "num_paths": 32,
        "num_replicas": 2,
        "method": "stationary",
        "max_steps": 2,
        "response": False,
    }
    with pytest.raises(RuntimeError, match="found no solution"):
        jax.block_until_ready(meanfield.solve(net, 20.0, 0.2, **options).mean)
    found = meanfield.solve(net, 20.0, 0.2, throw=False, **options)
    assert not is_successful(found.result)
    assert np.all(np.asarray(found.stats["num_sweeps"]) == 2)
