"""Figures of recordings: the raster itself, and how fine its bins must be."""

import numpy as np

from neurofield.recording import ClockTime, Raster

from ._axes import COLOURS, Axes, axes_of, label_units, names_of


def raster(
    data: Raster,
    ax: Axes | None = None,
    *,
    start: float | int = 0.0,
    duration: float | int = 20.0,
    trial: int = 0,
    title: str | None = None,
) -> Axes:
    """An excerpt of a raster, one row a unit, coloured by population; invalid bins are grey.

    **Arguments:** `start` and `duration` in seconds, counted from the first bin; `trial`: which of
    the leading axes (flattened) to show. The time axis counts from the recording's own zero if
    the raster knows its `start`.

    Raises `ValueError` for an excerpt outside the raster.
    """
    spikes = np.asarray(data.spikes).reshape(-1, data.num_neurons, data.num_bins)
    if not 0 <= trial < len(spikes):
        raise ValueError(f"trial must be from 0 to {len(spikes) - 1}, got {trial}.")
    first = round(start / data.bin_width)
    last = min(first + max(round(duration / data.bin_width), 1), data.num_bins)
    if not 0 <= first < last:
        raise ValueError(
            f"the excerpt [{start}, {start + duration}] s lies outside the raster's "
            f"{data.num_bins * data.bin_width:g} s."
        )
    ax = axes_of(ax, (8, 0.6 + min(0.18 * data.num_neurons, 6)))
    zero = 0.0 if data.start is None else float(np.asarray(data.start).reshape(-1)[trial])
    centre = zero + (np.arange(first, last) + 0.5) * data.bin_width
    window = spikes[trial, :, first:last] > 0
    population = data.populations if data.populations is not None else [0] * data.num_neurons
    population = np.asarray(population)
    for index in np.unique(population):
        units = np.flatnonzero(population == index)
        ax.eventplot(
            [centre[window[unit]] for unit in units],
            lineoffsets=units.tolist(),
            linelengths=0.8,
            linewidths=0.8,
            colors=COLOURS[index % len(COLOURS)],
            label=data.population_names[index] if data.population_names else None,
        )
    if data.mask is not None:
        valid = np.asarray(data.mask).reshape(-1, data.num_bins)[trial, first:last]
        ax.fill_between(
            centre, -0.5, data.num_neurons - 0.5, where=~valid, step="mid", color="0.85", lw=0
        )
    if len(np.unique(population)) > 1 and data.population_names:
        handles, names = ax.get_legend_handles_labels()
        by_name = dict(zip(names, handles, strict=True))
        ax.legend(
            by_name.values(), by_name.keys(), loc="lower left", bbox_to_anchor=(0, 1),
            ncols=6, frameon=False, fontsize=8, borderaxespad=0.2,
        )  # fmt: skip
    label_units(ax.yaxis, names_of(data.labels, data.num_neurons))
    ax.set(
        xlim=(zero + first * data.bin_width, zero + last * data.bin_width),
        ylim=(data.num_neurons - 0.5, -0.5),
        xlabel="time (s)",
        ylabel="unit",
    )
    ax.set_title(title or f"spikes in bins of {1e3 * data.bin_width:g} ms", loc="right")
    return ax


def clock_time(clock: ClockTime, ax: Axes | None = None, *, title: str | None = None) -> Axes:
    """Occupancy and multi-occupancy of bins against bin width, from `recording.clock_time`."""
    ax = axes_of(ax, (5, 3.6))
    milliseconds = 1e3 * clock.bin_width
    for values, label, style, colour in (
        (clock.occupancy, "bins with a spike", "o-", COLOURS[0]),
        (clock.multi_occupancy, "of these, with two or more", "^-", COLOURS[1]),
        (clock.worst_multi_occupancy, "the same, worst unit", "s--", COLOURS[3]),
    ):
        # A logarithmic axis has no zero: such points are left out.
        ax.plot(
            milliseconds, np.where(values > 0, values, np.nan), style, color=colour, label=label
        )
    ax.axhline(0.01, color="0.6", lw=0.8, zorder=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(milliseconds, [f"{ms:g}" for ms in milliseconds])
    ax.minorticks_off()
    ax.set(xlabel="bin width (ms)", ylabel="fraction", title=title or "clock time")
    ax.legend(frameon=False, fontsize=8)
    return ax
