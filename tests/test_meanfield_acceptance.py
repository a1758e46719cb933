"""The solver by paths against the tables of closed forms and of networks.

Tables: tests/reference/meanfield, computed for this project with independent numpy and scipy code;
hh_qif.csv and brunel_siegert.csv have simulations of the full networks. Tolerances are those of the
project's notes: three standard errors of closed forms in rates, two per cent in hertz; networks of
asynchronous QIF neurons within .3 %, of LIF neurons 2 % in rate and 15 % in variability.
"""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import network
from neurofield.meanfield import solve

pytestmark = pytest.mark.slow

REFERENCE = Path(__file__).parent / "reference" / "meanfield"


def rows(name):
    with open(REFERENCE / name) as file:
        return list(csv.DictReader(file))


def random_rates(phi, gain, drive):
    units = network.Population("x", network.Rate(phi, tau=1.0), 1000, drive)
    return network.Network([units], [network.Projection("x", "x", network.gaussian(0.0, gain))])


def variance_of(phi, noise, **options):
    """Variance of the output and its error, by gain, with one compilation for all."""

    @jax.jit
    def of(gain):
        drive = network.Constant(0.0) if noise is None else network.WhiteNoise(noise)
        given = {"method": "stationary", "key": jax.random.key(0), "response": False} | options
        found = solve(random_rates(phi, gain, drive), given.pop("duration"), **given)
        return found.covariance[0, 0], found.covariance_error[0, 0]

    return of


@pytest.mark.parametrize("phi", ["tanh", "erf"])
def test_random_rate_networks(phi):
    """Table 2.1: <phi^2> of Sompolinsky, Crisanti & Sommers (1988)."""
    options = {"duration": 200.0, "dt": 0.1, "num_paths": 4096, "num_replicas": 8, "max_lag": 40.0}
    of = variance_of(phi, None, **options)
    for row in rows("scs_theory.csv"):
        if row["phi"] == phi and float(row["g"]) >= 2:
            value, error = of(jnp.asarray(float(row["g"])))
            truth = float(row["q0=<phi^2>"])
            assert abs(value - truth) < 3 * error, (row["g"], value, error, truth)
            assert error < 0.01 * truth


def test_linear_networks():
    """Table 2.4 (its closed form on the grid, which tends to the table's)."""
    dt = 0.1
    options = {"duration": 100.0, "dt": dt, "num_paths": 2048, "num_replicas": 8, "max_lag": 20.0}
    of = variance_of(lambda x: x, 2.0, **options)

    def exact(gain, dt):
        w = np.linspace(-np.pi, np.pi, 400_001)[:-1]
        power = abs((1 - np.exp(-dt)) / (np.exp(1j * w) - np.exp(-dt))) ** 2
        return np.mean(power * 2 / dt / (1 - gain**2 * power))

    for row in rows("linear_net.csv"):
        gain, truth = float(row["g"]), float(row["c0_theory(D=1)"])
        assert exact(gain, 1e-3) == pytest.approx(truth, rel=1e-3)
        if gain < 0.85:
            value, error = of(jnp.asarray(gain))
            assert abs(value - exact(gain, dt)) < 3 * error, (gain, value, error)
            assert error < 0.02 * truth


def test_escape_rate_networks():
    """Table 2.7; steps of a quarter millisecond take 1 % off the rate."""
    truth = rows("glm_EI.csv")[0]
    neuron = network.EscapeLIF(
        tau=0.02, threshold=15.0, width=4.0, rate=100.0, hazard="erf", resets=False
    )
    sizes = {"E": (4000, 0.2), "I": (1000, -1.0)}
    net = network.Network(
        [network.Population(n, neuron, k, network.Constant(16.0)) for n, (k, _) in sizes.items()],
        [
            network.Projection(source, target, network.erdos_renyi(0.1, sizes[source][1]))
            for source in sizes
            for target in sizes
        ],
    )

    def found(dt):
        given = {"method": "stationary", "key": jax.random.key(0), "response": False}
        options = {"num_paths": 1600, "num_replicas": 8, "warm_up": 0.2, "max_lag": 0.1}
        solution = solve(net, 0.6, dt, **given, **options)
        groups = solution.replicas
        spread = jnp.sqrt(groups["quenched"][:, 0])
        return np.asarray([groups["mean"][:, 0], spread])

    coarse, fine = found(5e-4), found(2.5e-4)
    # What is left of the step is as much as halving it took, with the same random numbers.
    limit = 2 * fine - coarse
    value, error = limit.mean(1), limit.std(1, ddof=1) / 8**0.5
    exact = np.asarray([float(truth["rate_Hz"]), float(truth["sd_rate_neurons_Hz"])])
    assert np.all(np.abs(value - exact) < 3 * error)
    assert np.all(np.abs(fine.mean(1) / exact - 1) < 0.02)


def test_asynchronous_qif_neurons():
    """Table 2.8: the network of 2,000 fires at 23.805 Hz."""
    drive = network.Drive(network.Constant(1.0), network.OrnsteinUhlenbeck(2.0, 5e-3))
    inhibition = network.Projection(
        "x", "x", network.erdos_renyi(0.05, -0.05), kernel=network.Exponential(5e-3), delay=1.5e-3
    )
    net = network.Network(
        [network.Population("x", network.QIF(tau=0.01), 2000, drive)], [inhibition]
    )
    found = solve(net, 2.0, 1e-4, key=jax.random.key(0), num_paths=800, max_lag=0.1, response=False)
    row = next(
        r for r in rows("hh_qif.csv") if r["source"] == "network_N2000" and "async" in r["model"]
    )
    rate, error = float(found.mean[0]), float(found.mean_error[0])
    assert abs(rate - float(row["rate_Hz"])) < 3 * error + 0.003 * rate
    assert error < 0.002 * rate
