"""Labelled arrays for those who work with xarray."""

from typing import Any

import numpy as np

from ._activity import Activity
from ._raster import Raster


def to_xarray(data: Raster | Activity) -> Any:
    """An `xarray.DataArray` with dimensions (trial,) neuron, time.

    Coordinates: `neuron` (labels), `time` in seconds (left edges of bins; from the recording's
    zero if there is one start, from each trial's start if there are several, then with a `start`
    coordinate on trial), `population`, and `mask`. Further leading axes are `batch0`, `batch1`,
    ... Needs xarray (`pip install "neurofield[xarray]"`).
    """
    try:
        import xarray as xr
    except ImportError as error:
        raise ImportError('to_xarray needs xarray: pip install "neurofield[xarray]"') from error
    if isinstance(data, Raster):
        values, step, start = np.asarray(data.spikes), data.bin_width, data.start
        unit = {"bin_width": step}
    elif isinstance(data, Activity):
        values, step, start = np.asarray(data.values), data.sample_interval, None
        unit = {"sample_interval": step}
    else:
        raise ValueError(f"to_xarray takes a Raster or an Activity, got {type(data).__name__}.")
    num_batch = values.ndim - 2
    batch = ["trial"] if num_batch == 1 else [f"batch{i}" for i in range(num_batch)]
    time = np.arange(values.shape[-1]) * step
    coords: dict[str, Any] = {"neuron": list(data.labels)}
    if start is not None and num_batch == 0:
        time = time + float(np.asarray(start))
    elif start is not None:
        coords["start"] = (batch, np.asarray(start), {"units": "s"})
    coords["time"] = ("time", time, {"units": "s"})
    if data.mask is not None:
        coords["mask"] = ([*batch, "time"], np.asarray(data.mask))
    if isinstance(data, Raster) and data.populations is not None:
        index = np.asarray(data.populations)
        names = data.population_names
        coords["population"] = ("neuron", [names[i] for i in index] if names else index)
    return xr.DataArray(values, dims=[*batch, "neuron", "time"], coords=coords, attrs=unit)
