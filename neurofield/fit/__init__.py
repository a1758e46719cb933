"""Fitting: typed parameters, optimisation with checkpoints, standard errors, files.

This room knows no theory: it minimises a function of a pytree.
"""

from neurofield._results import RESULTS as RESULTS
from neurofield._results import is_successful as is_successful

from ._errors import Uncertainty as Uncertainty
from ._errors import standard_errors as standard_errors
from ._fit import Fit as Fit
from ._fit import FitError as FitError
from ._least_squares import least_squares as least_squares
from ._minimise import minimise as minimise
from ._parameter import AbstractParameter as AbstractParameter
from ._parameter import Fixed as Fixed
from ._parameter import Interval as Interval
from ._parameter import Positive as Positive
from ._parameter import Real as Real
from ._parameter import Shared as Shared
from ._parameter import Simplex as Simplex
from ._parameter import SymmetricHollow as SymmetricHollow
from ._parameter import constrain as constrain
from ._parameter import log_det_jacobian as log_det_jacobian
from ._parameter import unconstrain as unconstrain
from ._store import load as load
from ._store import read_header as read_header
from ._store import save as save
