"""Lyapunov exponents of the mean-field theory, and two copies of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import meanfield, network
from neurofield.meanfield._lyapunov import lyapunov_exponent
from neurofield.meanfield._replicas import two_replicas


def random_network(g, *, density=None, size=1000):
    drive = network.Drive() if density is None else network.Drive(network.WhiteNoise(density))
    unit = network.Rate(phi="tanh", tau=1.0)
    return network.Network(
        [network.Population("a", unit, size, drive)],
        [network.Projection("a", "a", network.gaussian(0.0, g))],
    )


def stationary(net, duration, dt, num_paths, max_lag, seed=1):
    return meanfield.solve(
        net,
        duration,
        dt,
        method="stationary",
        key=jax.random.key(seed),
        num_paths=num_paths,
        max_lag=max_lag,
        response=False,
    )


@pytest.mark.slow
def test_parting_needs_rates_for_an_exponent():
    neuron = network.Binary(gain=2.0, tau=0.01)
    net = network.Network(
        [network.Population("a", neuron, 100)],
        [network.Projection("a", "a", network.gaussian(0.0, 0.5))],
    )
    solution = stationary(net, 0.1, 0.002, 8, 0.02)
    with pytest.raises(ValueError, match="infinite rate"):
        lyapunov_exponent(solution, key=jax.random.key(0))
    marched = meanfield.solve(
        random_network(1.5), 1.0, 0.25, method="march", key=jax.random.key(0), num_paths=8
    )
    with pytest.raises(ValueError, match="stationary"):
        lyapunov_exponent(marched, key=jax.random.key(0))


# Sompolinsky, Crisanti & Sommers (1988): -1 + sqrt(1 - E0), the ground state of a potential; with
# noise Schuecker, Goedeke & Helias (2018). Solved with SciPy for the reference tables.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("g", "density", "truth"), [(2.0, None, 0.1124582), (1.5, 1.0, -0.1072518)]
)
def test_exponent_of_random_rate_networks(g, density, truth):
    solution = stationary(random_network(g, density=density), 160.0, 0.2, 2048, 40.0)
    found, error = lyapunov_exponent(solution, key=jax.random.key(2))
    # 0.01: the bias of M = 512 paths in each group.
    assert error < 0.012
    assert abs(found - truth) < 3 * error + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("independent", [False, True])
def test_two_copies_part_as_in_networks(independent):
    """Simulated copies of networks of 400 units, with the same kick, at equal weights."""
    g, dt, size, num_steps, kick = 2.0, 0.25, 400, 40, 0.2
    density = 0.25 if independent else None
    net = random_network(g, density=density)
    solution = meanfield.solve(
        net, 4 * dt, dt, method="march", key=jax.random.key(1), num_paths=8, num_replicas=2
    )
    found = two_replicas(
        solution,
        num_steps * dt,
        key=jax.random.key(3),
        epsilon=kick,
        noise="independent" if independent else "same",
        warm_up=2.0,
        num_paths=4096,
    )
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(24):
        weights = g / np.sqrt(size) * rng.standard_normal((size, size))
        x = rng.standard_normal(size)
        decay, sd = np.exp(-dt), 0.0 if density is None else np.sqrt(density / dt)

        def step(x, extra, weights=weights, decay=decay):
            target = weights @ np.tanh(x) + extra
            return target + (x - target) * decay

        for _ in range(8):
            x = step(x, sd * rng.standard_normal(size))
        other, distance = x, []
        for k in range(num_steps):
            noise = sd * rng.standard_normal(size)
            second = sd * rng.standard_normal(size) if independent else noise
            push = kick * rng.standard_normal(size) if k == 0 else 0.0
            x, other = step(x, noise), step(other, second + push)
            distance.append(np.mean((np.tanh(x) - np.tanh(other)) ** 2))
        runs.append(distance)
    mean, error = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1) / np.sqrt(24)
    theirs, their_error = np.asarray(found.distance[0]), np.asarray(found.error[0])
    # Errors from 4 groups are rough, and both sides have a bias of the order of 1 / N: 5 %.
    excess = np.abs(theirs - mean) - 0.05 * mean
    assert np.all(excess < 4 * np.hypot(error, their_error))
    assert np.all(their_error < 0.25 * theirs)


@pytest.mark.slow
def test_equal_copies_stay_equal_and_spikes_part_by_noise():
    neuron = network.EscapeLIF(tau=0.01)
    drive = network.Drive(network.Constant(14.0))
    net = network.Network(
        [network.Population("a", neuron, 100, drive)],
        [network.Projection("a", "a", network.erdos_renyi(0.1, -0.2))],
    )
    solution = meanfield.solve(
        net, 0.004, 0.001, method="march", key=jax.random.key(0), num_paths=8, num_replicas=2
    )

    def distance(epsilon, noise):
        options = {"key": jax.random.key(1), "num_paths": 64, "num_replicas": 2}
        return two_replicas(solution, 0.01, epsilon=epsilon, noise=noise, **options).distance

    assert jnp.all(distance(0.0, "same") == 0)
    rate = 50 * np.exp((14 - 15) / 3)  # at most: hertz
    apart = distance(0.0, "independent")
    assert 0 < jnp.mean(apart) < 4 * 2 * rate / 0.001
    with pytest.raises(ValueError, match="noise"):
        two_replicas(solution, 0.01, key=jax.random.key(1), noise="other")
