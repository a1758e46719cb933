"""Networks of spiking neurons against published and independently computed numbers."""

import json

import jax
import numpy as np
import pytest
from helpers import ROOT
from scipy.signal import lfilter

from neurofield import network

TRUTH = json.loads((ROOT / "tests/reference/network_truth.json").read_text())


def single(net):
    """In single precision."""
    return jax.tree.map(lambda x: x.astype(np.float32), net)


def brunel(g, eta):
    """Brunel (2000): 12,500 neurons, 1,000 + 250 inputs of 0.1 mV each, multapses allowed."""
    sizes, weights = {"E": 10000, "I": 2500}, {"E": 0.1, "I": -0.1 * g}
    drive = network.Poisson(eta * 20.0 / (0.1 * 0.02), weight=0.1)
    return single(
        network.Network(
            [network.Population(name, network.LIF(), sizes[name], drive) for name in sizes],
            [
                network.Projection(
                    pre, post, network.fixed_indegree(sizes[pre] // 10, weights[pre]), delay=1.5e-3
                )
                for pre in sizes
                for post in sizes
            ],
        )
    )


@pytest.mark.slow
def test_brunel_asynchronous_irregular():
    """37.4 Hz in NEST and in a direct simulation, where Siegert's formula has 37.95."""
    truth = TRUTH["brunel"]["AI"]
    net = brunel(truth["g"], truth["eta"])
    sim = network.simulate(
        jax.random.key(2), net, 4.0, 1e-4, warm_up=0.1, intervals=True, num_lags=None
    )
    spikes = np.asarray(sim.raster.spikes)
    rates = spikes.reshape(12500, 8, -1).sum((0, 2)) / 12500 / 0.5
    # What 1 % is worth: blocks of half a second, between which little is left of correlations.
    assert rates.std(ddof=1) / 8**0.5 < 0.003 * rates.mean()
    np.testing.assert_allclose(rates.mean(), truth["nest"], rtol=0.01)
    cv = np.asarray(sim.intervals.cv)[np.asarray(sim.intervals.count) > 2].mean()
    np.testing.assert_allclose(cv, truth["cv"], atol=0.01)


@pytest.mark.slow
def test_brunel_synchronous_regular():
    """Near 333 Hz: every neuron fires every 3 ms, of which it is refractory for 2."""
    truth = TRUTH["brunel"]["SR"]
    net = brunel(truth["g"], truth["eta"])
    sim = network.simulate(
        jax.random.key(2),
        net,
        0.3,
        1e-4,
        bin_width=5e-4,
        warm_up=0.1,
        intervals=True,
        num_lags=None,
    )
    np.testing.assert_allclose(1 / np.mean(sim.intervals.mean), truth["rate"], rtol=0.002)
    assert np.mean(sim.intervals.cv) < 0.002
    # The same neurons in the same phase, period after period.
    volleys = np.asarray(sim.raster.spikes).sum(0).reshape(-1, 6)
    assert volleys.mean(0).max() > 2 * volleys.mean()


# --- inhibitory networks of neurons of any kind ---------------------------------------------------

INHIBITORY = {
    "HH_inh": (network.HodgkinHuxley(), 300.0, 60.0, 6.0, 8e-3, 1.0),
    "QIF_inh_async": (network.QIF(), 1.0, 2.0, 0.05, 5e-3, 2.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INHIBITORY)
def test_inhibitory_network(name):
    """2,000 neurons with about 100 inputs each; the same numbers come from the mean-field theory.

    A trace jumps by 1 at a spike of its neuron and decays with the time constant of the synapse.
    """
    truth = TRUTH["inhibitory"][name]
    neuron, constant, sd, weight, tau, duration = INHIBITORY[name]
    drive = network.Drive(network.Constant(constant), network.OrnsteinUhlenbeck(sd, 5e-3))
    net = network.Network(
        [network.Population("I", neuron, 2000, drive)],
        [
            network.Projection(
                "I",
                "I",
                network.erdos_renyi(0.05, -weight),
                kernel=network.Exponential(tau),
                delay=1.5e-3,
            )
        ],
    )
    dt = 5e-5
    sim = network.simulate(
        jax.random.key(1), single(net), duration, dt, bin_width=dt, warm_up=0.5, num_lags=None
    )
    spikes = np.asarray(sim.raster.spikes)
    np.testing.assert_allclose(spikes.sum() / 2000 / duration, truth["rate_Hz"], rtol=0.005)
    skip = round(10 * tau / dt)  # until the trace has forgotten where it began
    mean, square, halves = [], [], []
    for part in np.split(spikes, 20):
        trace = lfilter([1.0], [1.0, -np.exp(-dt / tau)], part.astype(float), axis=1)[:, skip:]
        first, last = np.array_split(trace, 2, axis=1)
        mean.append(trace.mean(1))
        square.append((trace**2).mean(1))
        halves.append(first.mean(1) * last.mean(1))
    mean, square, halves = map(np.concatenate, (mean, square, halves))
    np.testing.assert_allclose(mean.mean(), truth["mean_trace"], rtol=0.005)
    np.testing.assert_allclose(square.mean(), truth["Q(0)=E[s^2]"], rtol=0.005)
    # Of the quenched mean squared: halves of the time are independent.
    np.testing.assert_allclose(halves.mean(), truth["Q(inf)"], rtol=0.01)
