"""Figures of matrices over pairs of units."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike

from neurofield.statistics import Statistics

from ._axes import Axes, axes_of, label_units, names_of


def couplings(
    matrix: ArrayLike,
    ax: Axes | None = None,
    *,
    error: ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    unit: str = "log-odds",
    limit: float | None = None,
    symmetric: bool = False,
) -> Axes:
    """A matrix of couplings `[post, pre]` in colour, blue below and red above zero.

    **Arguments**

    - `error`: standard errors of the same shape; entries beyond two of them bear a dot.
    - `limit`: end of the colour scale; by default the 99th percentile of the off-diagonal sizes,
      so that a few strong entries do not hide the rest (the colour bar's ends then point outwards).
    - `symmetric`: the axes are named "unit" rather than post and pre, and the diagonal is grey.
    """
    values = np.array(matrix, float)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"matrix must be [neuron, neuron], got shape {values.shape}.")
    count = len(values)
    ax = axes_of(ax, (5, 4.2))
    if symmetric:
        np.fill_diagonal(values, np.nan)
    sizes = np.abs(values[~np.eye(count, dtype=bool)])
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    if limit is None:
        limit = float(np.percentile(sizes, 99)) if sizes.size else largest
    limit = limit or largest or 1.0
    cut = largest > limit * (1 + 1e-9)
    import matplotlib

    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.88")
    image = ax.imshow(values, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest")
    label = unit if error is None else f"{unit}   (dot: beyond 2 standard errors)"
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.85, extend="both" if cut else "neither")
    if error is not None:
        sure = np.abs(values) > 2 * np.asarray(error)
        post, pre = np.nonzero(sure)
        ax.plot(pre, post, "o", color="black", ms=min(3.0, 45 / count), mew=0, ls="none")
    names = names_of(labels, count)
    label_units(ax.xaxis, names, vertical=True)
    label_units(ax.yaxis, names)
    ax.set(xlabel="unit" if symmetric else "pre (past)", ylabel="unit" if symmetric else "post")
    ax.set_title(title or "couplings", fontsize=10)
    return ax


def correlations(
    statistics: Statistics, ax: Axes | None = None, *, title: str | None = None
) -> Axes:
    """Pearson correlations of all pairs at equal times; a dot where beyond two standard errors.

    Raises `ValueError` if the statistics hold no covariance `[K, K]`.
    """
    if statistics.covariance is None or statistics.covariance.ndim != 2:
        raise ValueError("correlations needs statistics with a covariance [K, K].")
    covariance = np.asarray(statistics.covariance)
    scale = np.sqrt(np.diagonal(covariance))
    product = np.outer(scale, scale)
    product = np.where(product > 0, product, np.inf)  # a silent unit correlates with nothing
    error = statistics.covariance_error
    return couplings(
        covariance / product,
        ax,
        error=None if error is None else np.asarray(error) / product,
        labels=statistics.labels,
        title=title or f"correlations in bins of {1e3 * statistics.bin_width:g} ms",
        unit="correlation",
        symmetric=True,
    )
