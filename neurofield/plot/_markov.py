"""Figures of the Markov reduction: branches, occupancies, attractors, peaks."""

import itertools
from collections.abc import Sequence

import numpy as np

from neurofield.markov import Branch, Cycle, PeakDiagram, Solution, attractor_curve

from ._axes import COLOURS, MARKERS, Axes, axes_of


def branch(
    branches: Branch | Sequence[Branch],
    ax: Axes | None = None,
    *,
    population: int = 0,
    parameter: str = "parameter",
    labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """Rates of equilibria and cycles along a parameter: a bifurcation diagram.

    Stable parts are solid, unstable ones dashed; of a cycle the rate is the mean over a period.
    Bifurcations are marked and named in the legend, `parameter` names the axis and `labels` the
    branches.
    """
    branches = [branches] if isinstance(branches, Branch) else list(branches)
    if labels is not None and len(labels) != len(branches):
        raise ValueError(f"expected {len(branches)} labels, one a branch, got {len(labels)}.")
    ax = axes_of(ax, (5.5, 4))
    kinds = list(dict.fromkeys(point.kind for one in branches for point in one.points))
    for index, one in enumerate(branches):
        colour = COLOURS[index % len(COLOURS)]
        stable, rate = np.asarray(one.stable), np.asarray(one.rate)[population]
        label = None if labels is None else labels[index]
        for part in _runs(stable):
            style = "-" if stable[part.start] else "--"
            # A run goes on to the first point of the next one, so that the curve has no gaps.
            part = slice(part.start, part.stop + 1)
            ax.plot(one.parameter[part], rate[part], style, lw=1.2, color=colour, label=label)
            label = None
    for index, kind in enumerate(kinds):
        found = [p for one in branches for p in one.points if p.kind == kind]
        ax.plot(
            [p.parameter for p in found],
            [p.rate[population] for p in found],
            MARKERS[index % len(MARKERS)],
            ms=6,
            mfc="white",
            color="black",
            label=kind.replace("_", " "),
        )
    ax.set(xlabel=parameter, ylabel="rate (Hz)")
    ax.set_title(title or "stable (solid) and unstable (dashed)", loc="right")
    if kinds or labels is not None:
        ax.legend(frameon=False, fontsize=8)
    return ax


def occupancy(
    solution: Solution, ax: Axes | None = None, *, population: int = 0, title: str | None = None
) -> Axes:
    """The density of a population's voltages in time, as shares of its neurons per millivolt.

    Raises `ValueError` for a batch of solutions, and for one without occupancies.
    """
    if solution.occupancy is None:
        raise ValueError("this solution holds no occupancy: solve with save_occupancy=True.")
    density = np.asarray(solution.occupancy) / solution.grid.width
    if density.ndim != 3:
        raise ValueError(f"occupancy must be [population, bin, time], got {density.shape}.")
    ax = axes_of(ax, (8, 3))
    # In volleys a bin near the threshold holds far more than ever elsewhere.
    top = float(np.quantile(density[population], 0.995)) or None
    edges, last = solution.grid.edges, float(solution.time[-1])
    image = ax.imshow(
        density[population],
        extent=(float(solution.time[0]) - solution.save_dt, last, edges[0], edges[-1]),
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=top,
    )
    ax.figure.colorbar(image, ax=ax, label="density (1 / mV)", extend="max", pad=0.01)
    ax.set(xlabel="time (s)", ylabel="voltage (mV)")
    ax.set_title(title or f"voltages of {solution.params.names[population]}", loc="right")
    return ax


def attractor(
    orbit: Cycle | Solution,
    ax: Axes | None = None,
    *,
    post: int = 0,
    other: int = 1,
    start: int = 0,
    title: str | None = None,
) -> Axes:
    """The curve of `markov.attractor_curve`: two mean numbers of pending spikes, and the rate.

    The plane is that of the pending spikes in population `post`, from itself and from `other`; the
    colour is its rate. `start`: the first sample, after a transient.
    """
    curve = attractor_curve(orbit, post, other)[:, start:]
    if curve.ndim != 2 or curve.shape[1] < 2:
        raise ValueError(f"expected two or more samples of one orbit, got {curve.shape}.")
    from matplotlib.collections import LineCollection

    ax = axes_of(ax, (5, 4))
    own, others, rate = curve
    corners = np.stack([own, others], axis=1)
    lines = LineCollection(
        list(np.stack([corners[:-1], corners[1:]], axis=1)),
        array=(rate[:-1] + rate[1:]) / 2,
        cmap="viridis",
        linewidths=1.2,
    )
    ax.add_collection(lines)
    ax.autoscale_view()
    names = orbit.params.names
    ax.figure.colorbar(lines, ax=ax, label=f"rate of {names[post]} (Hz)")
    ax.set(
        xlabel=f"pending spikes {names[post]} to {names[post]}",
        ylabel=f"pending spikes {names[other]} to {names[post]}",
    )
    ax.set_title(title or "", loc="right")
    return ax


def peak_diagram(
    diagram: PeakDiagram,
    ax: Axes | None = None,
    *,
    parameter: str = "parameter",
    title: str | None = None,
) -> Axes:
    """Differences of successive volleys' heights along a parameter: two rows are period 2.

    In spikes per millisecond of the whole population.
    """
    ax = axes_of(ax, (5.5, 4))
    value = np.repeat(diagram.value, [len(found.difference) for found in diagram.peaks])
    size = np.concatenate([found.difference for found in diagram.peaks]) / 1e3
    ax.plot(value, size, ".", ms=3, color=COLOURS[0], alpha=0.6)
    ax.axhline(0, lw=0.6, color="black")
    ax.set(xlabel=parameter, ylabel="difference of peaks (spikes / ms)")
    ax.set_title(title or "", loc="right")
    return ax


def _runs(stable: np.ndarray) -> list[slice]:
    """The stretches of equal values."""
    turns = np.flatnonzero(np.diff(stable)) + 1
    bounds = [0, *turns.tolist(), len(stable)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]
