"""Figures of simulations: population rates, their spectra, traces."""

from collections.abc import Sequence

import numpy as np

from neurofield._types import Arrayish
from neurofield.recording import Raster
from neurofield.statistics import Statistics

from ._axes import COLOURS, Axes, axes_of


def population_rate(
    data: Raster,
    ax: Axes | None = None,
    *,
    start: float | int = 0.0,
    duration: float | int = 1.0,
    title: str | None = None,
) -> Axes:
    """The mean rate of each population's neurons in every bin of an excerpt, in hertz.

    `start` and `duration` are in seconds from the first bin of a raster of one trial. Raises
    `ValueError` for an excerpt outside of it and for several trials.
    """
    spikes = np.asarray(data.spikes)
    if spikes.ndim != 2:
        raise ValueError(
            f"the raster must be [neuron, time], got {spikes.shape}: choose one trial."
        )
    first = round(start / data.bin_width)
    last = min(first + max(round(duration / data.bin_width), 1), data.num_bins)
    if not 0 <= first < last:
        raise ValueError(
            f"the excerpt [{start}, {start + duration}] s lies outside the raster's "
            f"{data.num_bins * data.bin_width:g} s."
        )
    ax = axes_of(ax, (8, 3))
    centre = (np.arange(first, last) + 0.5) * data.bin_width
    index = np.zeros(data.num_neurons, int) if data.populations is None else data.populations
    index = np.asarray(index)
    names = data.population_names or tuple(map(str, range(index.max() + 1)))
    for place in np.unique(index):
        rate = spikes[index == place, first:last].mean(0) / data.bin_width
        ax.plot(centre, rate, lw=0.8, color=COLOURS[place % len(COLOURS)], label=names[place])
    if len(np.unique(index)) > 1:
        ax.legend(frameon=False, fontsize=8, ncols=4)
    ax.set(xlabel="time (s)", ylabel="rate (Hz)", xlim=(centre[0], centre[-1]), ylim=(0, None))
    ax.set_title(title or f"population rate in bins of {1e3 * data.bin_width:g} ms", loc="right")
    return ax


def spectrum(statistics: Statistics, ax: Axes | None = None, *, title: str | None = None) -> Axes:
    """Power spectra of the rows of `statistics` as rates, in hertz (that is Hz^2 per Hz).

    N independent Poisson processes of rate r are flat at r / N. A band is one standard error.
    Raises `ValueError` for statistics without a spectrum.
    """
    if statistics.spectrum is None or statistics.frequency is None:
        raise ValueError("these statistics hold no spectrum: measure(raster, ...) gives one.")
    ax = axes_of(ax, (5, 3.6))
    frequency = np.asarray(statistics.frequency)[1:]
    power = np.einsum("fkk->fk", np.real(np.asarray(statistics.spectrum)))[1:]
    power = power / statistics.bin_width**2
    count = power.shape[1]
    for k in range(count):
        colour = COLOURS[k % len(COLOURS)]
        label = statistics.labels[k] if statistics.labels else str(k)
        line = np.where(power[:, k] > 0, power[:, k], np.nan)
        ax.plot(frequency, line, lw=1, color=colour, label=label)
        if statistics.spectrum_error is not None:
            error = np.asarray(statistics.spectrum_error)[1:, k, k] / statistics.bin_width**2
            error = np.where(np.isfinite(error), error, 0)
            low = np.where(line > error, line - error, np.nan)
            ax.fill_between(frequency, low, line + error, color=colour, alpha=0.25, lw=0)
    if (power > 0).any():  # a logarithmic axis has no zero
        ax.set_xscale("log")
        ax.set_yscale("log")
    ax.set(xlabel="frequency (Hz)", ylabel="power of the rate (Hz)")
    ax.set_title(title or "spectrum of population rates", loc="right")
    if count > 1:
        ax.legend(frameon=False, fontsize=8)
    return ax


def traces(
    values: Arrayish,
    bin_width: float,
    ax: Axes | None = None,
    *,
    labels: Sequence[str] | None = None,
    quantity: str = "",
    title: str | None = None,
) -> Axes:
    """Time courses, `[neuron, bin]`, at the ends of bins of `bin_width` seconds."""
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"traces must be [neuron, bin], got {values.shape}.")
    ax = axes_of(ax, (8, 3))
    time = (np.arange(values.shape[1]) + 1) * bin_width
    for index, row in enumerate(values):
        label = None if labels is None else labels[index]
        ax.plot(time, row, lw=0.9, color=COLOURS[index % len(COLOURS)], label=label)
    if labels is not None:
        ax.legend(frameon=False, fontsize=8)
    ax.set(xlabel="time (s)", ylabel=quantity, xlim=(0, time[-1]))
    ax.set_title(title or "", loc="right")
    return ax
