"""Self-consistent Gaussian-process equations of networks of causal neurons."""

from ._check import Check as Check
from ._check import check as check
from ._diagnose import diagnose as diagnose
from ._diagnostics import Diagnostics as Diagnostics
from ._observables import Observables as Observables
from ._observables import measure_observables as measure_observables
from ._observables import predict_observables as predict_observables
from ._sample_paths import Paths as Paths
from ._sample_paths import fano_factor as fano_factor
from ._sample_paths import interval_density as interval_density
from ._sample_paths import path_intervals as path_intervals
from ._sample_paths import path_rates as path_rates
from ._sample_paths import sample_paths as sample_paths
from ._solution import Solution as Solution
from ._solve import solve as solve
from ._statistics import statistics as statistics
from ._toml import from_config as from_config
from ._toml import read_config as read_config
from ._toml import ready_configs as ready_configs
