"""The spiking network that the Markov theory reduces, from the same parameters."""

import numpy as np

from neurofield import network

from ._parameters import Parameters


def to_network(params: Parameters) -> network.Network:
    """The network of `MarkovLIF` neurons with annealed connections that `params` describe.

    Simulate it with `network.simulate(key, net, duration, dt=1e-4)`: the theory's reference values
    are for that step; a spike is then felt after two steps. `size` must be whole numbers.

    Raises `ValueError` for other sizes.
    """
    sizes = np.asarray(params.size)
    if np.any(sizes != np.round(sizes)):
        raise ValueError(f"size must be whole numbers of neurons, got {sizes.tolist()}.")
    populations = [
        network.Population(
            name,
            network.MarkovLIF(
                threshold=params.threshold,
                reset=params.reset,
                inhibitory_reversal=params.inhibitory_reversal,
                leak=params.leak[q],
                refractory=1 / params.refractory_rate[q],
            ),
            int(sizes[q]),
            network.Drive(
                network.Constant(value=params.drive[q], channel="drive"),
                network.WhiteNoise(density=params.drive_variance[q], channel="drive"),
            ),
        )
        for q, name in enumerate(params.names)
    ]
    projections = [
        network.Projection(
            source,
            target,
            network.annealed(params.probability[q, r], params.charge[q, r]),
            kernel=network.Pending(params.tau[q, r]),
            channel="inhibitory" if params.inhibitory[r] else "excitatory",
        )
        for r, source in enumerate(params.names)
        for q, target in enumerate(params.names)
    ]
    return network.Network(populations, projections)
