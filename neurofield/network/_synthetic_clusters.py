"""A balanced network of LIF neurons whose excitatory ones form clusters: known communities."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int, PRNGKeyArray

from neurofield.recording import Graph, Raster

from ._bernoulli import cluster_labels, clustered, erdos_renyi
from ._deliver import Dense
from ._drive import Constant
from ._kernel import Exponential
from ._lif import LIF
from ._network import Network, Population, Projection
from ._neuron import as_parameter
from ._realise import realise
from ._simulate import simulate

# Litwin-Kumar and Doiron (2012), with 15 mV between reset and threshold.
_THRESHOLD = 15.0  # mV
_TAU = {"E": 0.015, "I": 0.010}  # s
_SYNAPSE = {"E": 0.003, "I": 0.002}  # s
_DRIVE = {"E": (1.1, 1.2), "I": (1.0, 1.05)}  # thresholds
_WEIGHT = {("E", "E"): 0.024, ("E", "I"): 0.014, ("I", "E"): -0.045, ("I", "I"): -0.057}
_PROBABILITY = {("E", "E"): 0.2, ("E", "I"): 0.5, ("I", "E"): 0.5, ("I", "I"): 0.5}
_SIZE = 5000  # neurons for which the weights are meant


class ClusteredLIF(eqx.Module):
    """A raster of a clustered network, and what made it.

    - `raster`: spike counts; its populations are E and I.
    - `communities`: `[neuron]`, the cluster of each neuron; the inhibitory ones are the last.
    - `graph`: the weights that were drawn, `[post, pre]`, in mV: what a spike adds to the voltage
      when its current has run out, without leak.
    """

    raster: Raster
    communities: Int[Array, " neuron"]
    graph: Graph


def clustered_lif(
    key: PRNGKeyArray,
    duration: float,
    *,
    bin_width: float = 5e-3,
    num_excitatory: int = 400,
    num_inhibitory: int = 100,
    num_clusters: int = 5,
    ratio: ArrayLike = 2.5,
    weight_factor: ArrayLike = 1.0,
    dt: float = 1e-4,
    warm_up: float = 0.5,
) -> ClusteredLIF:
    """Simulate a balanced network of LIF neurons, the excitatory ones in clusters.

    Within a cluster connections are `ratio` times as probable, and `weight_factor` times as strong,
    as between clusters; the mean excitatory input stays what it is without clusters. With the
    defaults the activity of the clusters waxes and wanes: counts in windows of 50 ms correlate by
    0.12 on average within a cluster and by -0.02 between clusters, at rates of 8 Hz (E) and 12 Hz
    (I); 1 for both factors is the null, without communities.

    Neurons, drive, connection probabilities and weights of Litwin-Kumar and Doiron (2012), Nat.
    Neurosci. 15, 1498, the weights scaled by sqrt(5000 / number of neurons); synapses are
    exponential, without their rise. `duration`, `bin_width`, `dt` and `warm_up` are in seconds.

    Raises `ValueError` as `clustered` and `simulate` do.
    """
    sizes = {"E": num_excitatory, "I": num_inhibitory}
    drive_key, connect_key, run_key = jax.random.split(key, 3)
    populations = []
    for (name, size), own_key in zip(sizes.items(), jax.random.split(drive_key), strict=True):
        low, high = (_THRESHOLD * level for level in _DRIVE[name])
        drive = Constant(value=jax.random.uniform(own_key, (size,), minval=low, maxval=high))
        neuron = LIF(
            tau=as_parameter(_TAU[name]),
            threshold=as_parameter(_THRESHOLD),
            reset=as_parameter(0.0),
            refractory=as_parameter(0.005),
        )
        populations.append(Population(name, neuron, size, drive))
    scale = _THRESHOLD * (_SIZE / (num_excitatory + num_inhibitory)) ** 0.5
    projections = []
    for source, target in _WEIGHT:
        probability = _PROBABILITY[source, target]
        peak = scale * _WEIGHT[source, target] / _area(source, target)
        if source == target == "E":
            share = ratio / (num_clusters - 1 + ratio)  # of the connections, within clusters
            rule = clustered(
                num_clusters,
                probability,
                peak / (1 + (weight_factor - 1) * share),
                ratio=ratio,
                weight_factor=weight_factor,
                autapses=False,
            )
        else:
            rule = erdos_renyi(probability, peak, autapses=source != target)
        projections.append(Projection(source, target, rule, kernel=Exponential(_SYNAPSE[source])))
    network = realise(connect_key, Network(populations, projections), form="dense")
    simulation = simulate(
        run_key, network, duration, dt, bin_width=bin_width, warm_up=warm_up, num_lags=None
    )
    assert simulation.raster is not None
    communities = np.full(num_excitatory + num_inhibitory, num_clusters, np.int32)
    communities[:num_excitatory] = cluster_labels(num_excitatory, num_clusters)
    return ClusteredLIF(simulation.raster, jnp.asarray(communities), _graph(network))


def _area(source: str, target: str) -> float:
    """What a current of peak 1 adds to the voltage, without leak: mV for a peak of 1 mV."""
    return _SYNAPSE[source] / _TAU[target]


def _graph(network: Network) -> Graph:
    blocks = {}
    for projection in network.projections:
        ends, weights = (projection.source, projection.target), projection.connectivity
        assert isinstance(weights, Dense)
        blocks[ends] = weights.weights.T * _area(*ends)
    return Graph(jnp.block([[blocks[pre, post] for pre in "EI"] for post in "EI"]))
