"""Networks of rate units against their exact laws and the theory of infinitely large ones."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov
from scipy.stats import t

from neurofield import network

TRUTH = json.loads((ROOT / "tests/reference/network_truth.json").read_text())


def described(size, phi, mean, gain, drive=None):
    return network.Network(
        [network.Population("x", network.Rate(phi=phi, tau=1.0), size, drive)],
        [network.Projection("x", "x", network.gaussian(mean, gain))],
    )


def check(samples, expected, num_checks=1):
    """Independent samples (first axis) have the expected mean: a t-test at the level 0.001."""
    samples = np.asarray(samples)
    error = samples.std(0, ddof=1) / len(samples) ** 0.5
    limit = t.isf(0.001 / 2 / num_checks, len(samples) - 1)
    assert np.all(np.abs(samples.mean(0) - expected) < limit * error)


def test_a_linear_network_under_noise_has_its_exact_covariance():
    """The steps are a linear map: their covariance is a Lyapunov equation of the drawn weights."""
    truth, size, dt = TRUTH["linear"], 300, 0.05
    net = network.realise(
        jax.random.key(1),
        described(size, lambda x: x, -2.0, truth["gain"], network.WhiteNoise(2.0)),
    )
    sim = network.simulate(
        jax.random.key(0),
        net,
        600.0,
        dt,
        bin_width=dt,
        warm_up=20.0,
        traces=["x"],
        num_lags=None,
    )
    x = np.asarray(sim.traces["x"]["x"]).reshape(size, 40, -1)  # blocks of 15 time constants
    variance, of_the_mean = (x**2).mean((0, 2)), size * (x.mean(0) ** 2).mean(-1)
    weights = np.asarray(net.projections[0].connectivity.weights).T
    leak, one = np.exp(-dt), np.eye(size)
    exact = solve_discrete_lyapunov(
        leak * one + (1 - leak) * weights, (1 - leak) ** 2 * 2.0 / dt * one
    )
    check(variance, np.trace(exact) / size)
    check(of_the_mean, exact.sum() / size)
    # And these weights are what the theory of large networks takes them for. The trace has a
    # correction of order 1 / N, the single direction a spread of order 1 / sqrt(N).
    limit = solve_continuous_lyapunov(weights - one, -2.0 * one)
    np.testing.assert_allclose(np.trace(limit) / size, truth["variance"], rtol=0.01)
    np.testing.assert_allclose(limit.sum() / size, truth["of_the_mean"], rtol=3 / size**0.5)


@pytest.mark.slow
def test_a_step_of_drive_onto_a_chaotic_network():
    """Against the two-time theory of the same map (exponential Euler steps of 0.1), g = 1.8."""
    truth = TRUTH["step_drive"]
    drive = network.TimeCourse(jnp.array([0.0] * 8 + [1.0]), 1.0)
    net = described(2000, "tanh", 0.0, 1.8, drive)
    found = {name: [] for name in ("m", "var", "cov_with_10")}
    for key in jax.random.split(jax.random.key(4), 12):
        sim = network.simulate(key, net, 20.0, 0.1, bin_width=0.1, traces=["x"], num_lags=None)
        x = np.asarray(sim.traces["x"]["x"])[:, 19::20]  # at 2, 4, ... 20
        m = x.mean(0)
        found["m"].append(m)
        found["var"].append(x.var(0))
        found["cov_with_10"].append((x * x[:, 4:5]).mean(0) - m * m[4])
    for name, samples in found.items():
        check(samples, truth[name][1:], num_checks=30)
    assert np.abs(np.mean(found["m"], 0) - truth["m"][1:]).max() < 0.02
    assert np.abs(np.mean(found["var"], 0) - truth["var"][1:]).max() < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("case", ["scs", "scs_noise"])
def test_the_network_of_sompolinsky_crisanti_and_sommers(case):
    """The autocovariance of tanh units: chaotic at g = 2, expansive but not so at 1.5 with noise.

    Without noise after Sompolinsky, Crisanti & Sommers (1988), with it Schuecker et al. (2018).
    """
    truth = TRUTH[case]
    noise = network.WhiteNoise(truth["density"]) if truth["density"] else None
    net = described(1000, "tanh", 0.0, truth["gain"], noise)
    lags = np.rint(np.array(truth["tau"]) / 0.5).astype(int)
    found = []
    for key in jax.random.split(jax.random.key(5), 8):
        sim = network.simulate(
            key, net, 300.0, 0.05, bin_width=0.5, warm_up=50.0, traces=["x"], num_lags=None
        )
        x = np.asarray(sim.traces["x"]["x"])
        found.append([(x[:, : x.shape[1] - lag] * x[:, lag:]).mean() for lag in lags])
    check(found, truth["covariance"], num_checks=len(lags))
    np.testing.assert_allclose(np.mean(found, 0)[0], truth["covariance"][0], rtol=0.04)
