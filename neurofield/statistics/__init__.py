"""What was measured, with errors: moments, spectra, error analysis, avalanches, surrogates."""

from ._gamma import Estimate as Estimate
from ._gamma import derived_error as derived_error
from ._gamma import mean_error as mean_error
from ._moments import covariance as covariance
from ._moments import frequencies as frequencies
from ._moments import lagged_covariance as lagged_covariance
from ._moments import spectrum as spectrum
from ._resample import Resampled as Resampled
from ._resample import blocking_error as blocking_error
from ._resample import ess as ess
from ._resample import jackknife as jackknife
from ._resample import split_rhat as split_rhat
from ._resample import stationary_bootstrap as stationary_bootstrap
from ._split import Split as Split
from ._split import split_blocks as split_blocks
from ._statistics import Statistics as Statistics
from ._statistics import measure as measure
