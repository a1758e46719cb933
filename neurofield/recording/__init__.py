"""Recordings, and the rasters, signals and graphs that the theories take."""

from ._bins import bin_spikes as bin_spikes
from ._bins import raster_bytes as raster_bytes
from ._bins import select as select
from ._examples import example as example
from ._raster import Raster as Raster
from ._recording import Covariate as Covariate
from ._recording import Epoch as Epoch
from ._recording import Recording as Recording
from ._recording import RecordingWarning as RecordingWarning
