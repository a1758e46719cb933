"""Fitting: typed parameters, optimisation with checkpoints, standard errors, files.

This room knows no theory: it minimises a function of a pytree.
"""

from neurofield._results import RESULTS as RESULTS
from neurofield._results import is_successful as is_successful

from ._fit import Fit as Fit
from ._fit import FitError as FitError
from ._store import load as load
from ._store import read_header as read_header
from ._store import save as save
