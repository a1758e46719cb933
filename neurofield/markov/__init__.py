"""The Markov reduction: finite spiking networks to differential equations of their populations.

Parameters of a network go in; rates, synaptic moments and voltage occupancies come out of `solve`,
by differential equations, the published map, or a Markov chain of whole neurons. Beside it: the
network itself (`to_network`), equilibria, cycles and their bifurcations, readouts, and fits.
"""

from neurofield._results import RESULTS as RESULTS

from ._attractor import CloudDistance as CloudDistance
from ._attractor import attractor_curve as attractor_curve
from ._attractor import cloud_distance as cloud_distance
from ._branch import Bifurcation as Bifurcation
from ._branch import Branch as Branch
from ._closure import Moments as Moments
from ._continuation import BifurcationPoint as BifurcationPoint
from ._continuation import bifurcation_point as bifurcation_point
from ._continuation import continuation as continuation
from ._cycle import Cycle as Cycle
from ._cycle import limit_cycle as limit_cycle
from ._cycle_continuation import cycle_continuation as cycle_continuation
from ._equilibrium import Equilibrium as Equilibrium
from ._equilibrium import equilibrium as equilibrium
from ._fit import Condition as Condition
from ._fit import Directions as Directions
from ._fit import Information as Information
from ._fit import fisher_information as fisher_information
from ._fit import fit as fit
from ._fit import identifiability as identifiability
from ._fit import posterior_draws as posterior_draws
from ._fit import response as response
from ._fit import steady as steady
from ._fit import value_and_jacobian as value_and_jacobian
from ._free import free_values as free_values
from ._free import with_values as with_values
from ._grid import Grid as Grid
from ._grid import voltage_grid as voltage_grid
from ._loss import Volley as Volley
from ._loss import band_power as band_power
from ._loss import centre_frequency as centre_frequency
from ._loss import crossing_time as crossing_time
from ._loss import settle as settle
from ._loss import volley as volley
from ._metastability import Attractors as Attractors
from ._metastability import DwellTimes as DwellTimes
from ._metastability import bistable as bistable
from ._metastability import dwell_times as dwell_times
from ._parameters import Parameters as Parameters
from ._parameters import default_parameters as default_parameters
from ._peaks import PeakDiagram as PeakDiagram
from ._peaks import Peaks as Peaks
from ._peaks import peak_diagram as peak_diagram
from ._peaks import peak_differences as peak_differences
from ._readout import FieldPotential as FieldPotential
from ._readout import binned_rate as binned_rate
from ._readout import coefficient_of_variation as coefficient_of_variation
from ._readout import field_potential as field_potential
from ._readout import mean_rate as mean_rate
from ._readout import spectrum as spectrum
from ._readout import synchrony_index as synchrony_index
from ._solution import Solution as Solution
from ._solve import solve as solve
from ._stability import Stability as Stability
from ._stability import stability as stability
from ._statistics import statistics as statistics
from ._to_network import to_network as to_network
from ._toml import from_config as from_config
from ._toml import read_config as read_config
from ._toml import ready_configs as ready_configs
