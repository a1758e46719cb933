"""Figures: each function draws on `ax` (or on new axes of its own) and returns it."""

from ._activity import population_rate as population_rate
from ._activity import spectrum as spectrum
from ._activity import traces as traces
from ._flow import flow as flow
from ._markov import attractor as attractor
from ._markov import branch as branch
from ._markov import occupancy as occupancy
from ._markov import peak_diagram as peak_diagram
from ._matrices import correlations as correlations
from ._matrices import couplings as couplings
from ._meanfield import features as features
from ._meanfield import solution as solution
from ._raster import clock_time as clock_time
from ._raster import raster as raster
from ._scores import compare as compare
from ._scores import history as history
from ._scores import scores as scores
