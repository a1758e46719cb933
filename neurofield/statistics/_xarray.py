"""Labelled arrays for those who work with xarray."""

from typing import Any

import numpy as np

from ._statistics import Statistics

_DIMS = {
    "rate": ("neuron",),
    "covariance": ("neuron", "neuron_from"),
    "lagged": ("lag", "neuron", "neuron_from"),
    "spectrum": ("frequency", "neuron", "neuron_from"),
    "population_count": ("count",),
}


def to_xarray(statistics: Statistics) -> Any:
    """An `xarray.Dataset` of every field that is given (host function).

    Dimensions: `neuron` and `neuron_from` (the labels of i and j), `lag` in seconds, `frequency`
    in hertz, `count`; leading axes are `batch0`, `batch1`, ... Errors and masks are variables of
    their own. Needs xarray (`pip install "neurofield[xarray]"`).
    """
    try:
        import xarray as xr
    except ImportError as error:
        raise ImportError('to_xarray needs xarray: pip install "neurofield[xarray]"') from error
    batch = [f"batch{k}" for k in range(statistics.rate.ndim - 1)]
    labels = list(statistics.labels or map(str, range(statistics.rate.shape[-1])))
    coords: dict[str, Any] = {"neuron": labels}
    variables = {}
    for name, dims in _DIMS.items():
        for field in (name, f"{name}_error", f"{name}_mask"):
            value = getattr(statistics, field, None)
            if value is not None:
                variables[field] = ([*batch, *dims], np.asarray(value))
                coords |= {"neuron_from": labels} if "neuron_from" in dims else {}
    if statistics.lagged is not None:
        lags = np.arange(statistics.lagged.shape[-3]) * statistics.bin_width
        coords["lag"] = ("lag", lags, {"units": "s"})
    if statistics.frequency is not None:
        coords["frequency"] = ("frequency", np.asarray(statistics.frequency), {"units": "Hz"})
    return xr.Dataset(variables, coords, {"bin_width": statistics.bin_width})
