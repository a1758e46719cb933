"""The Markov reduction: finite spiking networks to differential equations of their populations."""

from neurofield._results import RESULTS as RESULTS

from ._closure import Moments as Moments
from ._grid import Grid as Grid
from ._grid import voltage_grid as voltage_grid
from ._parameters import Parameters as Parameters
from ._parameters import default_parameters as default_parameters
from ._solution import Solution as Solution
from ._solve import solve as solve
from ._to_network import to_network as to_network
