"""neurofield: differentiable field theories of neural activity in JAX.

Rooms: `recording` (spikes and rasters), `statistics` (what was measured, with errors), `network`
(neurons simulated), `lattice` (maximum entropy with time), `meanfield` (Gaussian processes),
`markov` (spiking networks as differential equations), `renorm` (graphs and their
renormalization), `fit` (optimisation, checkpoints), `plot`.
Importing the package imports nothing else: each room is loaded when first touched.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "recording",
        "statistics",
        "network",
        "lattice",
        "meanfield",
        "markov",
        "renorm",
        "fit",
        "plot",
        "cli",
    ],
)
