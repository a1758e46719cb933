"""Networks whose neurons have Gaussian inputs in theory, in closed form: escape noise and binary.

Single networks depart from the theory of their ensemble by several per cent, by chance: the theory
is told the mean input that each network really has besides the feedback of its mean activities.
"""

import json

import jax
import numpy as np
import pytest
from helpers import ROOT
from scipy.integrate import quad
from scipy.optimize import brentq, fsolve
from scipy.stats import norm

from neurofield import network

TRUTH = json.loads((ROOT / "tests/reference/network_truth.json").read_text())


def single(net):
    """In single precision."""
    return jax.tree.map(lambda x: x.astype(np.float32), net)


def orthant(a, rho):
    """P(x > a, y > a) of two standard normals of correlation rho."""
    start = norm.sf(a) ** 2
    arc = quad(lambda r: np.exp(-(a**2) / (1 + np.sin(r))), 0, np.arcsin(rho))[0]
    return start + arc / (2 * np.pi)


# --- escape noise -------------------------------------------------------------------------------


def escape_theory(mu_ext, rate=100.0, threshold=15.0, width=4.0, tau=0.02, j=0.2, g=5.0):
    """Rate, its standard deviation, mean voltage, its variance and the static part of it.

    Stationary Gaussian voltages, self-consistently: van Meegen & van Albada (2021).
    """
    mean_weight = 400 * j - 100 * g * j
    variance_weight = 0.9 * (400 * j**2 + 100 * (g * j) ** 2)

    def overlap(c, c0, mu):
        total = width**2 + c0
        return rate**2 * orthant((threshold - mu) / total**0.5, c / total)

    def state(c0):
        """Mean voltage, rate and static variance at the total variance c0."""

        def excess(nu):
            mu = mu_ext + tau * mean_weight * nu
            return rate * norm.sf((threshold - mu) / (width**2 + c0) ** 0.5) - nu

        nu = brentq(excess, 0, rate)
        mu = mu_ext + tau * mean_weight * nu

        def gap(c):
            return tau**2 * variance_weight * overlap(c, c0, mu) - c

        # A total variance too small to be has no static part.
        return mu, nu, c0 if gap(c0) >= 0 else brentq(gap, 0, c0)

    def energy(c0):
        mu, nu, static = state(c0)
        kicks = (tau * variance_weight * nu / 2) ** 2 / 2
        area = quad(lambda c: overlap(c, c0, mu), static, c0)[0]
        return kicks - (c0**2 - static**2) / 2 + tau**2 * variance_weight * area

    c0 = brentq(energy, 20, 200)
    mu, nu, static = state(c0)
    return nu, np.sqrt(overlap(static, c0, mu) - nu**2), mu, c0, static


def test_the_theory_of_escape_noise_is_that_of_the_table():
    truth = TRUTH["escape"]["theory"]
    np.testing.assert_allclose(escape_theory(16.0), list(truth.values()), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_an_excitatory_inhibitory_network_with_escape_noise(seed):
    """5,000 neurons, connected at random.

    The rates of such networks spread by 2 Hz: by chance one population's neurons fire faster on
    average, by 0.7 Hz, which is worth 1.4 mV.
    """
    sizes, weights = {"E": 4000, "I": 1000}, {"E": 0.2, "I": -1.0}
    neuron = network.EscapeLIF(
        tau=0.02, threshold=15.0, width=4.0, rate=100.0, hazard="erf", resets=False
    )
    net = network.Network(
        [network.Population(name, neuron, sizes[name], network.Constant(16.0)) for name in sizes],
        [
            network.Projection(pre, post, network.erdos_renyi(0.1, weights[pre]))
            for pre in sizes
            for post in sizes
        ],
    )
    sim = network.simulate(
        jax.random.key(seed),
        single(net),
        4.0,
        1e-4,
        bin_width=0.01,
        warm_up=0.5,
        traces=["voltage"],
        num_lags=None,
    )
    rates = np.asarray(sim.raster.spikes).sum(1) / 4.0
    halves = [x.sum(1) / 2.0 for x in np.array_split(np.asarray(sim.raster.spikes), 2, axis=1)]
    voltage = np.concatenate([sim.traces[name]["voltage"] for name in sizes]).astype(float)
    first, last = (x.mean(1) for x in np.array_split(voltage, 2, axis=1))
    found = np.array(
        [
            rates.mean(),
            np.sqrt((halves[0] * halves[1]).mean() - rates.mean() ** 2),
            voltage.mean(),
            voltage.var(),
            (first * last).mean() - voltage.mean() ** 2,
        ]
    )
    expected = escape_theory(voltage.mean() + 0.02 * 20.0 * rates.mean())
    np.testing.assert_allclose(found[0], TRUTH["escape"]["theory"]["rate_Hz"], atol=8.0)
    np.testing.assert_allclose(found[[0, 2]], np.array(expected)[[0, 2]], rtol=0.015)
    np.testing.assert_allclose(found[[1, 3, 4]], np.array(expected)[[1, 3, 4]], rtol=0.05)


# --- binary neurons ------------------------------------------------------------------------------

SIZES = np.array([8000, 2000])
INDEGREES = 0.1 * SIZES
WEIGHTS = np.array([[1.0, -6.0], [1.0, -5.5]]) / 800**0.5  # [post, pre]
EXTERNAL = np.array([3.0, 2.4])


def binary_theory(external):
    """Mean activity of E and I, and mean over neurons of the squared time-average.

    Van Vreeswijk & Sompolinsky (1998), with the variance of finite connectivity.
    """
    quenched = 0.9 * INDEGREES[None] * WEIGHTS**2

    def above(m):
        mu = external + (INDEGREES[None] * WEIGHTS) @ m
        return (1 - mu) / np.sqrt(quenched @ m)

    mean = fsolve(lambda m: norm.sf(above(m)) - m, [0.2, 0.2], xtol=1e-12)
    a, variance = above(mean), quenched @ mean

    def excess(q):
        return np.array([orthant(x, r) for x, r in zip(a, quenched @ q / variance, strict=True)])

    square = fsolve(lambda q: excess(q) - q, 0.4 * mean, xtol=1e-12)
    return mean, square


def test_the_theory_of_binary_neurons_is_that_of_the_table():
    truth = TRUTH["binary_theory"]
    mean, square = binary_theory(EXTERNAL)
    np.testing.assert_allclose(mean, [truth["m_E"], truth["m_I"]], rtol=1e-6)
    np.testing.assert_allclose(square, [truth["q_E"], truth["q_I"]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_balanced_network_of_binary_neurons(seed):
    """10,000 neurons. Neurons that update together do not see each other: 2 % of correlations."""
    duration, dt = 200.0, 0.025
    neuron = network.Binary(threshold=1.0, tau=1.0, initial=0.2)
    net = network.Network(
        [
            network.Population(name, neuron, int(size), network.Constant(h))
            for name, size, h in zip("EI", SIZES, EXTERNAL, strict=True)
        ],
        [
            network.Projection(pre, post, network.erdos_renyi(0.1, WEIGHTS[i, j]))
            for j, pre in enumerate("EI")
            for i, post in enumerate("EI")
        ],
    )
    sim = network.simulate(
        jax.random.key(seed),
        single(net),
        duration,
        dt,
        bin_width=0.2,
        warm_up=20.0,
        traces=["input"],
        num_lags=None,
    )
    mean, square, covariance, realised = [], [], [], []
    for name, part in zip("EI", np.split(np.asarray(sim.raster.spikes), SIZES[:1]), strict=True):
        first, last = (x.mean(1) for x in np.array_split(part, 2, axis=1))
        mean.append(part.mean())
        square.append((first * last).mean())
        # Of different neurons: that of the population's mean less each neuron's own variance.
        own = (mean[-1] - square[-1]) / len(part)
        covariance.append(part.mean(0).var() - own)
        realised.append(np.asarray(sim.traces[name]["input"][0]).mean(dtype=float))
    feedback = (INDEGREES[None] * WEIGHTS) @ np.array(mean)
    expected = binary_theory(np.array(realised) - feedback)
    np.testing.assert_allclose(mean, expected[0], rtol=0.03)
    # Slow fluctuations common to all, of order 1 / N, are left out: they take 2 to 6 %.
    np.testing.assert_allclose(square, expected[1], rtol=0.08)
    others = [x["c_EE"] for x in TRUTH["binary"]]
    assert 0.75 * min(others) < covariance[0] < 1.25 * max(others)
