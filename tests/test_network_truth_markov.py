"""The E/I network of the Markov theory against its authors' model, run independently."""

import json
from functools import cache

import jax
import numpy as np
import pytest
from helpers import ROOT
from scipy.stats import t

from neurofield import network

TRUTH = json.loads((ROOT / "tests/reference/network_truth.json").read_text())["markov"]
SIZES = {"e": 300, "i": 100}
# Of the synapse onto the first population from the second: tau in ms, p, s in mV.
DEFAULT = {
    "tau": {"ee": 1.4, "ie": 1.2, "ei": 4.5, "ii": 4.5},
    "p": {"ee": 0.8, "ie": 0.8, "ei": 0.8, "ii": 0.8},
    "s": {"ee": 0.95, "ie": 1.25, "ei": 2.71, "ii": 2.45},
    "refractory": 4e-3,
}
REGIMES = {
    "default": DEFAULT,
    "gamma": DEFAULT | {"p": DEFAULT["p"] | {"ei": 0.7}},
    "async": DEFAULT | {"s": DEFAULT["s"] | {"ei": 3.8}},
    "hom": {
        "tau": DEFAULT["tau"] | {"ee": 4.0},
        "p": {"ee": 0.15, "ie": 0.5, "ei": 0.5, "ii": 0.4},
        "s": {"ee": 5.0, "ie": 2.0, "ei": 4.91, "ii": 4.91},
        "refractory": 2e-3,
    },
}
CHANNELS = {"e": "excitatory", "i": "inhibitory"}


def described(regime):
    drive = network.Drive(
        network.Constant(7000.0, channel="drive"), network.WhiteNoise(7000.0, channel="drive")
    )
    neuron = network.MarkovLIF(refractory=regime["refractory"])
    net = network.Network(
        [network.Population(name, neuron, size, drive) for name, size in SIZES.items()],
        [
            network.Projection(
                pre,
                post,
                network.annealed(regime["p"][post + pre], regime["s"][post + pre]),
                kernel=network.Pending(regime["tau"][post + pre] * 1e-3),
                channel=CHANNELS[pre],
            )
            for post in SIZES
            for pre in SIZES
        ],
    )
    return jax.tree.map(lambda x: x.astype(np.float32), net)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGIMES)
def test_rates_and_synchrony_of_the_network_of_the_markov_theory(name):
    """Welch's test against the reference's eight seeds, 2 s each after 0.5 s."""
    truth, net, num = TRUTH[name], described(REGIMES[name]), 4
    run = jax.jit(
        jax.vmap(lambda key: network.simulate(key, net, 2.0, 1e-4, warm_up=0.5, num_lags=None))
    )
    spikes = np.asarray(run(jax.random.split(jax.random.key(1), num)).raster.spikes, np.uint32)
    per_bin = spikes[:, :300].sum(1)
    found = {"rE": per_bin.sum(1) / 300 / 2.0, "rI": spikes[:, 300:].sum((1, 2)) / 100 / 2.0}
    for quantity, values in found.items():
        a = values.var(ddof=1) / num
        b = truth[f"{quantity}_sd"] ** 2 / truth["n_runs"]
        freedom = (a + b) ** 2 / (a**2 / (num - 1) + b**2 / (truth["n_runs"] - 1))
        difference = abs(values.mean() - truth[f"{quantity}_mean"])
        assert difference < t.isf(0.001 / 2 / 2, freedom) * np.sqrt(a + b), quantity
    # The coefficient of variation of the rate in bins of 1 ms measures synchrony; the reference
    # has no spread of it.
    cv = (per_bin.std(1) / per_bin.mean(1)).mean()
    np.testing.assert_allclose(cv, truth["cv1ms_E"], rtol=0.04)


@cache
def recorded():
    return network.simulate(
        jax.random.key(2),
        described(REGIMES["hom"]),
        1.0,
        1e-4,
        warm_up=0.2,
        traces=["input"],
        num_lags=None,
    )


@pytest.mark.parametrize("post", SIZES)
@pytest.mark.parametrize("pre", SIZES)
def test_moments_of_the_pending_spikes(pre, post):
    """Their mean is p (spikes a second) tau, their variance among neurons mean (2 - p) / (2 - x).

    x = dt / tau: what a birth-death process has in steps, in each of which a Poisson number of
    mean x H is absorbed; (2 - p) / 2 in short ones.
    """
    p, tau, s = (REGIMES["hom"][key][post + pre] for key in ("p", "tau", "s"))
    sim = recorded()  # of one second
    pending = np.asarray(sim.traces[post]["input"][1 + (pre == "i")], float) * tau * 1e-3 / s
    begin, end = {"e": (0, 300), "i": (300, 400)}[pre]
    num_spikes = np.asarray(sim.raster.spikes[begin:end], np.uint32).sum()
    mean, variance = pending.mean(), pending.var(0, ddof=1).mean()
    # Of arrivals, binomial in the spikes, and of the absorbed, a Poisson number: both independent
    # from target to target.
    num_arrivals = p * num_spikes * SIZES[post]
    error = np.sqrt((2 - p) / num_arrivals)
    assert abs(mean / (p * num_spikes * tau * 1e-3) - 1) < 4 * error
    np.testing.assert_allclose(variance, mean * (2 - p) / (2 - 0.1 / tau), rtol=0.03)
