"""The grid of voltages on which occupancies live."""

import equinox as eqx
import numpy as np

from ._parameters import Parameters


class Grid(eqx.Module):
    """Cells `[lowest + k width, lowest + (k + 1) width)`, up to the threshold (all static).

    - `num_bins`: K. `reset_bin`: the cell whose lower edge is the reset.
    """

    lowest: float = eqx.field(static=True)  # mV
    width: float = eqx.field(static=True)  # mV
    num_bins: int = eqx.field(static=True)
    reset_bin: int = eqx.field(static=True)

    @property
    def edges(self) -> np.ndarray:
        """`[K + 1]`, mV."""
        return self.lowest + self.width * np.arange(self.num_bins + 1)

    @property
    def centres(self) -> np.ndarray:
        """`[K]`, mV."""
        return self.edges[:-1] + self.width / 2


def voltage_grid(params: Parameters, voltage_bin: float = 1.0, lowest: float = -40.0) -> Grid:
    """Cells of `voltage_bin` mV from `lowest` to the threshold.

    `lowest`: mV; low enough that no neuron comes there. Raises `ValueError` unless the reset and
    the threshold both lie on edges.
    """
    if not voltage_bin > 0:
        raise ValueError(f"voltage_bin must be positive (mV), got {voltage_bin}.")
    below, above = params.reset - lowest, params.threshold - params.reset
    for what, distance in (("lowest to the reset", below), ("the reset to the threshold", above)):
        count = distance / voltage_bin
        if not (distance > 0 and abs(count - round(count)) < 1e-6):
            raise ValueError(
                f"voltage_bin = {voltage_bin} mV must divide the {distance} mV from {what}; the "
                f"reset is {params.reset} mV, the threshold {params.threshold} mV and lowest "
                f"{lowest} mV."
            )
    reset_bin = round(below / voltage_bin)
    return Grid(
        float(lowest), float(voltage_bin), reset_bin + round(above / voltage_bin), reset_bin
    )
