"""Figures of mean-field solutions."""

import numpy as np

from neurofield.meanfield import FeatureComparison, Solution

from ._axes import COLOURS, Axes, axes_of


def solution(
    solution: Solution, ax: Axes | None = None, *, inputs: bool = False, title: str | None = None
) -> Axes:
    """What a mean-field solution says of each population, or, with `inputs`, of each field.

    Of a stationary state the covariance of one neuron over lags, with a band of two standard
    errors, and dashed the variance between neurons, which is its limit (of spikes without lag 0,
    where their own variance stands). Of a course in time the mean, with a band of one standard
    deviation over neurons and noise.
    """
    ax = axes_of(ax, (5.5, 3.6))
    part = "input_" if inputs else ""
    names = [" ".join(field) for field in solution.fields] if inputs else list(solution.names)
    mean, covariance = (np.asarray(getattr(solution, part + x)) for x in ("mean", "covariance"))
    error = getattr(solution, f"{part}covariance_error")
    spikes = [population.neuron.kind == "spike" for population in solution.network.populations]
    unit = " (Hz$^2$)" if all(spikes) and not inputs else ""
    time = 1e3 * np.asarray(solution.time)
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        if not solution.stationary:
            ax.plot(time, mean[index], color=colour, lw=1.2, label=name)
            if covariance.shape[1] == covariance.shape[2]:
                spread = np.sqrt(np.maximum(np.diagonal(covariance[index]), 0))
                if inputs or not spikes[index]:
                    band = (mean[index] - spread, mean[index] + spread)
                    ax.fill_between(time, *band, color=colour, alpha=0.2, lw=0)
            continue
        first = 0 if inputs or not spikes[index] else 1
        values = covariance[index, first:]
        ax.plot(time[first:], values, color=colour, lw=1.2, label=name)
        if error is not None:
            spread = 2 * np.asarray(error)[index, first:]
            band = (values - spread, values + spread)
            ax.fill_between(time[first:], *band, color=colour, alpha=0.2, lw=0)
        limit = np.asarray(getattr(solution, f"{part}quenched"))[index]
        ax.axhline(limit, color=colour, lw=0.8, ls="--")
    what = "input" if inputs else "output"
    if solution.stationary:
        ax.set(xlabel="lag (ms)", ylabel=f"covariance of the {what}{unit}")
    else:
        ax.set(xlabel="time (ms)", ylabel=f"mean {what}{' (Hz)' if unit else ''}")
    ax.set_title(title or f"{solution.method}, {solution.order} order", loc="right")
    ax.legend(frameon=False, fontsize=8)
    return ax


def features(
    comparison: FeatureComparison,
    ax: Axes | None = None,
    *,
    quantity: str = "mean",
    title: str | None = None,
) -> Axes:
    """One quantity of a network with single features switched off, a bar for each population.

    Error bars are standard errors; the dashed line is the network as it is. Raises `ValueError` for
    a quantity that the comparison does not hold.
    """
    if quantity not in comparison.quantities:
        raise ValueError(f"quantity must be one of {comparison.quantities}, got {quantity!r}.")
    ax = axes_of(ax, (5.5, 3.6))
    place = comparison.quantities.index(quantity)
    count = len(comparison.populations)
    rows = np.arange(len(comparison.variants))
    for index, name in enumerate(comparison.populations):
        values = comparison.value[:, place, index]
        error = comparison.error[:, place, index]
        colour = COLOURS[index % len(COLOURS)]
        height = rows + 0.8 * ((index + 0.5) / count - 0.5)
        ax.barh(height, values, 0.8 / count, xerr=error, color=colour, label=name)
        ax.axvline(values[0], color=colour, lw=0.8, ls="--")
    ax.set_yticks(rows, comparison.variants)
    ax.invert_yaxis()
    ax.set(xlabel=quantity)
    ax.set_title(title or "", loc="right")
    ax.legend(frameon=False, fontsize=8)
    return ax
