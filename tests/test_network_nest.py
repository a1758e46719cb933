"""Networks of LIF neurons, against NEST (`bench/peers/brunel_reference.py` made the values)."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from jaxtyping import Array
from scipy.stats import t

from neurofield import network

NEST = json.loads((ROOT / "tests/reference/network_nest.json").read_text())


class StartingLIF(network.LIF):
    """Starts from given voltages."""

    start: Array = eqx.field(default=0.0, converter=jnp.asarray)

    def init(self, key, shape=()):
        return eqx.tree_at(lambda s: s.voltage, super().init(key, shape), self.start)


@pytest.mark.parametrize("method", ["events", "lists", "matmul"])
def test_every_spike_of_a_network_is_that_of_nest(method):
    """Nothing is drawn, so that two engines that do the same arithmetic agree to the step."""
    nest = NEST["exact"]
    size, split = nest["num_neurons"], nest["num_excitatory"]
    sources = np.array(nest["sources"])
    weights = np.where(sources < split, nest["weight"], -nest["g"] * nest["weight"])
    lists = network.from_edges(
        sources.ravel(),
        np.repeat(np.arange(size), sources.shape[1]),
        weights.ravel(),
        num_pre=size,
        num_post=size,
    )
    parameters = {name: nest[name] for name in ("tau", "threshold", "reset", "refractory")}
    neuron = StartingLIF(**parameters, start=np.array(nest["voltage"]))
    drive = network.Drive(network.Constant(np.array(nest["current"])))
    described = network.Network(
        [network.Population("all", neuron, size, drive)],
        [network.Projection("all", "all", lists, delay=nest["delay"])],
    )
    dt = nest["dt"]
    done = network.simulate(
        jax.random.key(0), described, nest["num_steps"] * dt, dt, bin_width=dt, method=method
    )
    expected = np.zeros((size, nest["num_steps"]), int)
    # Step k, and its bin, end at (k + 1) dt.
    expected[nest["spike_neuron"], np.array(nest["spike_step"]) - 1] = 1
    np.testing.assert_array_equal(done.raster.spikes, expected)


@pytest.mark.slow
@pytest.mark.parametrize("nest", NEST["brunel"], ids=lambda nest: str(nest["num_neurons"]))
def test_brunel_rates_and_irregularity_are_those_of_nest(nest):
    """(g, eta) = (5, 2); four networks here, four others there."""
    size, weight = nest["num_neurons"], nest["weight"]
    sizes = {"E": 4 * size // 5, "I": size // 5}
    weights = {"E": weight, "I": -5 * weight}
    neuron = network.LIF()
    drive = network.Drive(network.Poisson(2 * 20.0 / (weight * 0.02), weight=weight))
    described = network.Network(
        [network.Population(name, neuron, sizes[name], drive) for name in sizes],
        [
            network.Projection(
                pre, post, network.fixed_indegree(sizes[pre] // 10, weights[pre]), delay=1.5e-3
            )
            for pre in sizes
            for post in sizes
        ],
    )
    found = {"rate_E": [], "rate_I": [], "cv": []}
    for key in jax.random.split(jax.random.key(1), nest["num_seeds"]):
        done = network.simulate(
            key,
            described,
            nest["duration"],
            1e-4,
            warm_up=nest["warm_up"],
            num_lags=None,
            intervals=True,
        )
        rates = np.asarray(done.raster.spikes, np.uint32).sum(-1) / nest["duration"]
        found["rate_E"].append(rates[: sizes["E"]].mean())
        found["rate_I"].append(rates[sizes["E"] :].mean())
        enough = np.asarray(done.intervals.count) >= 3
        found["cv"].append(np.asarray(done.intervals.cv)[enough].mean())
    for name, values in found.items():
        a, b = np.var(values, ddof=1) / len(values), nest[f"{name}_error"] ** 2
        freedom = (len(values) - 1) * (a + b) ** 2 / (a**2 + b**2)  # Welch (1947)
        difference = abs(np.mean(values) - nest[name])
        assert difference < t.isf(0.001 / 2 / len(found), freedom) * np.sqrt(a + b), name
