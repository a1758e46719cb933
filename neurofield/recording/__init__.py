"""Recordings, and the rasters, signals and graphs that the theories take."""

from ._activity import Activity as Activity
from ._bins import bin_spikes as bin_spikes
from ._bins import raster_bytes as raster_bytes
from ._bins import select as select
from ._clock import ClockTime as ClockTime
from ._clock import clock_time as clock_time
from ._covariates import bin_covariate as bin_covariate
from ._examples import example as example
from ._graph import Graph as Graph
from ._raster import Raster as Raster
from ._read import read as read
from ._read_graph import read_graph as read_graph
from ._recording import Covariate as Covariate
from ._recording import Epoch as Epoch
from ._recording import Recording as Recording
from ._recording import RecordingWarning as RecordingWarning
from ._sparse_graph import SparseGraph as SparseGraph
from ._xarray import to_xarray as to_xarray
