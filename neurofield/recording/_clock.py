"""The clock time: how fine the time lattice must be for a bin to hold one spike at most."""

import dataclasses

import numpy as np

from ._bins import bin_index, check_bin_width, num_whole_bins, support
from ._recording import Recording


@dataclasses.dataclass(frozen=True, eq=False)
class ClockTime:
    """Occupancy and multi-occupancy of bins; `print` shows a table.

    **Attributes**, one entry a bin width:

    - `bin_width`: seconds.
    - `occupancy`: fraction of (unit, bin) sites with at least one spike.
    - `multi_occupancy`: of the sites with a spike, the fraction with two or more, units pooled.
    - `worst_multi_occupancy`, `worst_unit`: the same of the unit where it is largest, its label.

    `silent_units`: labels of the units without a spike in any epoch.
    """

    bin_width: np.ndarray
    occupancy: np.ndarray
    multi_occupancy: np.ndarray
    worst_multi_occupancy: np.ndarray
    worst_unit: tuple[str, ...]
    silent_units: tuple[str, ...]

    def clock(self, tolerance: float = 0.01) -> float | None:
        """The largest bin width, in seconds, at which every unit's multi-occupancy is at most
        `tolerance`, so that 0 and 1 tell all; `None` if no bin width is that fine."""
        fine = self.bin_width[self.worst_multi_occupancy <= tolerance]
        return float(fine.max()) if fine.size else None

    def __str__(self) -> str:
        lines = [f"{'bin (ms)':>9} {'occupancy':>10} {'multi':>8} {'worst':>8}  worst unit"]
        lines += [
            f"{1e3 * width:>9.4g} {p:>10.4f} {q:>8.4f} {worst:>8.4f}  {unit}"
            for width, p, q, worst, unit in zip(
                self.bin_width,
                self.occupancy,
                self.multi_occupancy,
                self.worst_multi_occupancy,
                self.worst_unit,
                strict=True,
            )
        ]
        clock = self.clock()
        lines.append(
            "Every bin width listed puts two spikes of some unit in over 1% of its filled bins."
            if clock is None
            else f"Up to {1e3 * clock:.4g} ms, at most 1% of any unit's filled bins hold two "
            "spikes or more; wider bins are a coarse-graining."
        )
        if self.silent_units:
            lines.append(f"Silent units: {', '.join(self.silent_units)}.")
        return "\n".join(lines)


def clock_time(
    recording: Recording,
    bin_widths: tuple[float, ...] | list[float] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
) -> ClockTime:
    """Occupancy and multi-occupancy of the recording's bins for several bin widths in seconds.

    Bins are those of `bin_spikes` over all epochs; no raster is made and one unit at a time is
    read. The clock of the lattice is the largest bin width at which a bin is still binary
    (multi-occupancy near 0); any wider bin is a coarse-graining of it.

    Raises `ValueError` for no or non-positive bin widths, and those longer than every epoch.
    """
    widths = [check_bin_width(width) for width in bin_widths]
    stretches = support(recording)
    num_bins = np.array(
        [
            [num_whole_bins(epoch.start, epoch.stop, width) for epoch in stretches]
            for width in widths
        ]
    ).reshape(len(widths), len(stretches))
    if not widths or not num_bins.sum(1).all():
        raise ValueError(
            f"bin_widths must be positive and shorter than the recording, got {bin_widths}."
        )
    filled = np.zeros((len(widths), recording.num_units), np.int64)
    multiple = np.zeros_like(filled)
    for unit in range(recording.num_units):
        times = recording.spike_times[unit]
        for w, width in enumerate(widths):
            for s, epoch in enumerate(stretches):
                index = bin_index(times, epoch.start, width)
                index = index[(index >= 0) & (index < num_bins[w, s])]
                number = np.unique(index, return_counts=True)[1]
                filled[w, unit] += number.size
                multiple[w, unit] += (number > 1).sum()
    per_unit = multiple / np.maximum(filled, 1)
    worst = per_unit.argmax(1)
    return ClockTime(
        bin_width=np.array(widths),
        occupancy=filled.sum(1) / (num_bins.sum(1) * recording.num_units),
        multi_occupancy=multiple.sum(1) / np.maximum(filled.sum(1), 1),
        worst_multi_occupancy=per_unit.max(1),
        worst_unit=tuple(recording.labels[unit] for unit in worst),
        silent_units=tuple(
            recording.labels[unit] for unit in np.flatnonzero(recording.spike_counts == 0)
        ),
    )
