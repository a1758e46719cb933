"""Figures of renormalization trajectories."""

import numpy as np

from neurofield.renorm import Flow

from ._axes import COLOURS, MARKERS, Axes, axes_of

# Which exponent belongs to which observable.
_EXPONENTS = {
    "variance": "alpha",
    "free_energy": "beta",
    "spectrum": "mu",
    "correlation_time": "z",
}
_AXES = {
    "spectrum": "rank / size",
    "distribution": "activity (standard deviations)",
    "autocorrelation": "lag (s)",
}
_FIRST = ("specific_heat_curve", "variance")
# What an observable of many numbers a level is a function of: its own places, or these times.
_TIMES = "diffusion_times"


def flow(
    flow: Flow,
    ax: Axes | None = None,
    *,
    quantity: str | None = None,
    nulls: bool = True,
    title: str | None = None,
) -> Axes:
    """One observable of a renormalization trajectory, with errors and beside its nulls.

    An observable of one number a level is drawn against the scale, with its exponent in the legend
    where the flow has one. An observable of many, such as the curve of the specific heat or a
    spectrum, is one curve a level, the microscopic one darkest, and over diffusion times with each
    level's scale as a vertical line; of the nulls the microscopic curve is dashed. Errors are one
    standard error. `quantity`: by default the specific heat of a graph, the variance of activity.

    Raises `ValueError` for a quantity that the flow does not hold.
    """
    known = [k for k in flow.observables if not k.endswith("_at") and k != _TIMES]
    if quantity is None:
        quantity = next((k for k in (*_FIRST, *known) if k in known), "")
    if quantity not in known:
        raise ValueError(f"quantity must be one of {known}, got {quantity!r}.")
    ax = axes_of(ax, (5.5, 4))
    beside = flow.nulls if nulls else {}
    if np.ndim(flow.observables[quantity]) == 1:
        for index, (name, one) in enumerate({"data": flow, **beside}.items()):
            _levels(ax, one, quantity, name, index)
        ax.set(xlabel=flow.scale_name)
    else:
        _curves(ax, flow, quantity)
        ax.set(xlabel=_AXES.get(quantity, flow.scale_name))
        for index, (name, one) in enumerate(beside.items()):
            x, y = _curve(one, quantity, 0)
            colour = COLOURS[(index + 1) % len(COLOURS)]
            ax.plot(x, y, "--", lw=1.2, color=colour, label=_label(one, quantity, name))
    _scale_axes(ax, flow, quantity)
    ax.set(ylabel=quantity.replace("_", " "))
    ax.set_title(title or f"{flow.engine} flow of {flow.size[0]} units", loc="right")
    ax.legend(frameon=False, fontsize=8)
    return ax


def _levels(ax: Axes, flow: Flow, quantity: str, name: str, index: int) -> None:
    colour = COLOURS[index % len(COLOURS)]
    error = flow.errors.get(quantity)
    ax.errorbar(
        np.asarray(flow.scale),
        np.asarray(flow.observables[quantity]),
        yerr=None if error is None else np.nan_to_num(np.asarray(error)),
        fmt=f"{MARKERS[index % len(MARKERS)]}{'--' if index else '-'}",
        ms=5,
        lw=1.2,
        capsize=2,
        color=colour,
        label=_label(flow, quantity, name),
    )


def _curves(ax: Axes, flow: Flow, quantity: str) -> None:
    import matplotlib

    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, flow.num_levels))
    for level, shade in enumerate(shades):
        x, y = _curve(flow, quantity, level)
        name = f"{flow.size[level]} units"
        label = name if level else _label(flow, quantity, name)
        ax.plot(x, y, lw=1.4, marker="." if len(x) == 1 else "", color=shade, label=label)
        if quantity in flow.errors:
            error = np.asarray(flow.errors[quantity])[level]
            error = error[~np.isnan(np.asarray(flow.observables[quantity])[level])]
            ax.fill_between(x, y - error, y + error, color=shade, alpha=0.2, lw=0)
        if level and _has_times(flow, quantity):
            ax.axvline(float(flow.scale[level]), color=shade, lw=0.8, ls=":")


def _curve(flow: Flow, quantity: str, level: int) -> tuple[np.ndarray, np.ndarray]:
    at = _TIMES if _has_times(flow, quantity) else f"{quantity}_at"
    values = np.asarray(flow.observables[quantity])[level]
    known = ~np.isnan(values)
    return np.asarray(flow.observables[at])[level][known], values[known]


def _has_times(flow: Flow, quantity: str) -> bool:
    return f"{quantity}_at" not in flow.observables and _TIMES in flow.observables


def _label(flow: Flow, quantity: str, name: str) -> str:
    exponent = _EXPONENTS.get(quantity)
    if exponent not in flow.exponents:
        return name
    value, error = (float(x[exponent]) for x in (flow.exponents, flow.exponent_errors))
    return rf"{name}: $\{exponent}$" if False else f"{name}: {exponent} = {value:.3f} ± {error:.3f}"


def _scale_axes(ax: Axes, flow: Flow, quantity: str) -> None:
    """Logarithmic where a power law or a diffusion would be looked for."""
    if quantity in _EXPONENTS or quantity == "distribution":
        ax.set_yscale("log")
    if np.ndim(flow.observables[quantity]) > 1:
        if quantity not in ("distribution", "autocorrelation"):
            ax.set_xscale("log")
    elif (np.asarray(flow.scale) > 0).all():
        ax.set_xscale("log", base=2)  # sizes of clusters double
    elif flow.num_levels > 1:  # the microscopic level at 0
        ax.set_xscale("symlog", linthresh=float(np.min(np.asarray(flow.scale)[1:])))
