"""The clustered LIF network of the theory note (section 1.2): its map, and what is known of it."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from neurofield import network
from neurofield.recording import Raster

NUM_EXCITATORY, NUM_INHIBITORY, NUM_CLUSTERS = 320, 80, 4
INSIDE, BETWEEN, OTHER = 0.35, 0.12, 0.3  # probability of a connection
WEIGHT = {"E": 0.035, "I": -0.12}
DT = 1e-3


class State(eqx.Module):
    voltage: jax.Array
    refractory: jax.Array


def _init(params, key, shape):
    return State(jax.random.uniform(key, shape), jnp.zeros(shape))


def _step(params, key, state, input, dt):
    noise = 0.08 * jax.random.normal(key, state.voltage.shape, state.voltage.dtype)
    voltage = state.voltage + (1.02 - state.voltage) / 15 + dt * input[0] + noise
    voltage = jnp.where(state.refractory > 0, 0.0, voltage)
    spike = (voltage >= 1).astype(voltage.dtype)
    left = jnp.where(spike > 0, 2.0, jnp.maximum(state.refractory - 1, 0))
    return State(jnp.where(spike > 0, 0.0, voltage), left), network.Output(spike)


def build() -> network.Network:
    """v += (1.02 - v) / 15 + W s(t - 1) + 0.08 xi; spike at 1, then 2 ms at 0."""
    neuron = network.Custom(None, _init, _step, kind="spike", channels=("jump",))
    sizes = {"E": NUM_EXCITATORY, "I": NUM_INHIBITORY}
    probability = (INSIDE + (NUM_CLUSTERS - 1) * BETWEEN) / NUM_CLUSTERS
    projections = []
    for source in sizes:
        for target in sizes:
            if source == target == "E":
                rule = network.clustered(
                    NUM_CLUSTERS, probability, WEIGHT["E"], ratio=INSIDE / BETWEEN, autapses=False
                )
            else:
                rule = network.erdos_renyi(OTHER, WEIGHT[source], autapses=source != target)
            projections.append(network.Projection(source, target, rule))
    populations = [network.Population(name, neuron, size) for name, size in sizes.items()]
    return network.Network(populations, projections)


@functools.cache
def recording(seed: int, duration: float = 200.0) -> tuple[Raster, np.ndarray, np.ndarray]:
    """Raster in bins of 1 ms, whether `[post, pre]` are connected, the cluster of each E neuron."""
    connect_key, run_key = jax.random.split(jax.random.key(seed))
    drawn = network.realise(connect_key, build(), DT, form="dense")
    raster = network.simulate(run_key, drawn, duration, DT, warm_up=0.5, num_lags=None).raster
    assert raster is not None
    blocks = {(p.source, p.target): np.asarray(p.connectivity.weights).T for p in drawn.projections}
    weights = np.block([[blocks[pre, post] for pre in "EI"] for post in "EI"])
    clusters = np.asarray(network.cluster_labels(NUM_EXCITATORY, NUM_CLUSTERS))
    return raster, weights, clusters


def observed(seed: int, subset: int, fraction: float) -> np.ndarray:
    """Indices of a random share of all neurons, in order."""
    size = NUM_EXCITATORY + NUM_INHIBITORY
    draw = np.random.default_rng([seed, subset]).permutation(size)
    return np.sort(draw[: int(size * fraction)])
