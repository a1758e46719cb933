"""Lattice field theory of spike rasters: action, exact solution, inference, held-out scores."""

from ._action import Action as Action
from ._action import Kinetic as Kinetic
from ._action import to_basis as to_basis
from ._fit import fit as fit
from ._fit_kinetic import raised_cosine as raised_cosine
from ._goodness import GoodnessOfFit as GoodnessOfFit
from ._goodness import goodness_of_fit as goodness_of_fit
from ._likelihood import bin_log_likelihood as bin_log_likelihood
from ._likelihood import log_likelihood as log_likelihood
from ._likelihood import pseudo_log_likelihood as pseudo_log_likelihood
from ._predict import predict as predict
from ._score import Score as Score
from ._score import score as score
from ._statistics import statistics as statistics
from ._transfer import log_partition as log_partition
from ._transfer import log_partition_rate as log_partition_rate
from ._weight import local_field as local_field
from ._weight import log_weight as log_weight
