"""Figures of numbers with errors: histories, predictions against measurements, scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import ArrayLike

from ._axes import COLOURS, MARKERS, Axes, axes_of, label_units, names_of


def history(
    values: ArrayLike,
    ax: Axes | None = None,
    *,
    error: ArrayLike | None = None,
    bin_width: float | None = None,
    labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """Own-history couplings `[lag, neuron]` with one standard error.

    One lag: a point a unit. Several: a line a unit over lags, in milliseconds if `bin_width`
    (seconds) is given.
    """
    numbers = np.asarray(values, float)
    if numbers.ndim != 2 or not numbers.size:
        raise ValueError(f"values must be [lag, neuron], got shape {numbers.shape}.")
    num_lags, count = numbers.shape
    errors = np.zeros_like(numbers) if error is None else np.asarray(error, float)
    names = names_of(labels, count)
    ax = axes_of(ax, (5, 3.6))
    ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    if num_lags == 1:
        ax.errorbar(
            range(count), numbers[0], errors[0], fmt="o", color=COLOURS[0], ms=4, capsize=2, lw=1
        )
        label_units(ax.xaxis, names, vertical=True)
        ax.set_xlabel("unit")
    else:
        lags = np.arange(1, num_lags + 1) * (1.0 if bin_width is None else 1e3 * bin_width)
        for unit in range(count):
            ax.errorbar(
                lags, numbers[:, unit], errors[:, unit], marker="o", ms=2.5, lw=0.9, capsize=0,
                color=COLOURS[unit % len(COLOURS)], alpha=0.8, label=names[unit],
            )  # fmt: skip
        if count <= 16:
            ax.legend(frameon=False, fontsize=6.5, ncols=2, title="unit", title_fontsize=7)
        ax.set_xlabel("lag (bins)" if bin_width is None else "lag (ms)")
    ax.set_ylabel("coupling (log-odds)")
    ax.set_title(title or "own history", fontsize=10)
    return ax


def compare(
    measured: ArrayLike,
    predicted: Mapping[str, ArrayLike],
    ax: Axes | None = None,
    *,
    error: ArrayLike | None = None,
    quantity: str = "",
    title: str | None = None,
) -> Axes:
    """Predictions of one or more theories (name to array) against what was measured.

    Every point is one entry; `error`, one standard error of the measurement, is drawn along the
    measured axis (not where infinite). On the grey line they agree.
    """
    x = np.asarray(measured, float).ravel()
    bars = np.zeros_like(x) if error is None else np.asarray(error, float).ravel()
    bars = np.where(np.isfinite(bars), bars, 0.0)
    ax = axes_of(ax, (4.2, 4))
    size = 4.5 if x.size <= 30 else 3.5 if x.size <= 300 else 2.0
    ax.axline((0, 0), slope=1, color="0.6", lw=1, zorder=0)
    for index, (name, values) in enumerate(predicted.items()):
        y = np.asarray(values, float).ravel()
        if y.shape != x.shape:
            raise ValueError(f"{name} predicts {y.size} numbers, but {x.size} were measured.")
        colour = COLOURS[index % len(COLOURS)]
        ax.errorbar(x, y, xerr=bars, fmt="none", ecolor=colour, alpha=0.3, lw=0.7)
        # Open markers, the first the largest: theories that agree are seen one inside the other.
        larger = 1 + 0.45 * (len(predicted) - 1 - index)
        ax.plot(
            x, y, MARKERS[index % len(MARKERS)], ms=size * larger, mfc="none", mec=colour, mew=0.9,
            label=name,
        )  # fmt: skip
    if len(predicted) > 1:
        ax.legend(frameon=False, fontsize=8, loc="upper left")
    ax.set(xlabel=f"measured {quantity}".strip(), ylabel=f"predicted {quantity}".strip())
    ax.set_title(title or "measured and predicted", fontsize=10)
    return ax


def scores(
    values: Mapping[str, tuple[float | int, float | int]],
    ax: Axes | None = None,
    *,
    unit: str = "bits per bin",
    title: str | None = None,
) -> Axes:
    """Held-out scores (name to value and standard error), best at the right; the number beside."""
    ax = axes_of(ax, (5, 0.9 + 0.45 * len(values)))
    for row, (value, error) in enumerate(values.values()):
        colour = COLOURS[row % len(COLOURS)]
        ax.errorbar(
            value, row, xerr=error, fmt=MARKERS[row % len(MARKERS)], ms=6, lw=1.5, capsize=3,
            color=colour,
        )  # fmt: skip
        number = f"{value:.3f} ± {error:.3f}".replace("-", "\N{MINUS SIGN}")
        ax.annotate(
            number, (value, row), xytext=(0, 7), textcoords="offset points", ha="center",
            fontsize=7.5, color=colour,
        )  # fmt: skip
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.5, -0.7)
    ax.margins(x=0.18)
    ax.grid(axis="x", color="0.9", lw=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel(f"{unit} (higher is better)")
    ax.set_title(title or "held-out score", fontsize=10)
    return ax
