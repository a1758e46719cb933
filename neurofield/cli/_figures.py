"""The figures of the out folder, as PNG bytes, drawn without pyplot."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from neurofield import lattice, plot, recording, statistics

from ._data import Data
from ._models import MAX_EXACT, Row
from ._out import png


def draw(data: Data, rows: list[Row]) -> dict[str, bytes]:
    """File name to content; only the figures for which there is something to show."""
    return {f"{name}.png": png(figure) for name, figure in _figures(data, rows)}


def _figures(data: Data, rows: list[Row]) -> Iterator[tuple[str, Any]]:
    from matplotlib.figure import Figure

    def axes(columns: int, width: float | int, height: float | int, rows: int = 1) -> Any:
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False).ravel()

    figure, (ax,) = axes(1, 9, 1.2 + min(0.2 * data.raster.num_neurons, 6.5))
    plot.raster(data.raster, ax)
    yield "raster", figure
    if data.recording is not None:
        figure, (ax,) = axes(1, 5.2, 3.8)
        plot.clock_time(recording.clock_time(data.recording), ax)
        yield "clock_time", figure
    panels = list(_panels(rows))
    if panels:
        figure, grid = axes(len(panels), 5, 4.4)
        for panel, ax in zip(panels, grid, strict=True):
            panel(ax, data)
        yield "couplings", figure
    theories = {r.model: r for r in rows if _predicts(r)}
    if theories:
        yield "statistics", _statistics(axes, data, theories)
    scored = {row.model: row.score for row in rows if row.score is not None}
    if scored:
        figure, (left, right) = axes(2, 5.2, 0.9 + 0.6 * len(scored))
        bins = {m: (float(s.bits_per_bin), float(s.bits_per_bin_error)) for m, s in scored.items()}
        plot.scores(bins, left, title="held-out log-likelihood")
        gains = {
            m: (float(s.bits_per_spike), float(s.bits_per_spike_error)) for m, s in scored.items()
        }
        plot.scores(gains, right, unit="bits per spike", title="gain over independent units")
        yield "scores", figure


def _panels(rows: list[Row]) -> Iterator[Any]:
    """A function that draws it, for every coupling that was fitted."""
    by_model = {row.model: row.fit for row in rows if row.result == "ok"}
    theory = next((m for m in ("lattice", "pairwise") if m in by_model), None)
    if theory is not None:
        fitted = by_model[theory]

        def space(ax: Any, data: Data) -> None:
            plot.couplings(
                fitted.value.space,
                ax,
                error=None if fitted.error is None else fitted.error.space,
                labels=data.raster.labels,
                title=f"{theory}: couplings at equal times",
                symmetric=True,
            )

        yield space
    if "lattice" in by_model:
        actions = by_model["lattice"]

        def own(ax: Any, data: Data) -> None:
            plot.history(
                actions.value.history,
                ax,
                error=None if actions.error is None else actions.error.history,
                bin_width=data.raster.bin_width,
                labels=data.raster.labels,
                title="lattice: own history",
            )

        yield own
    if "kinetic" in by_model:
        causal = by_model["kinetic"]

        def weight(ax: Any, data: Data) -> None:
            plot.couplings(
                causal.value.weight[0],
                ax,
                error=None if causal.error is None else causal.error.weight[0],
                labels=data.raster.labels,
                title=f"kinetic: effect after {1e3 * data.raster.bin_width:g} ms",
            )

        yield weight


def _predicts(row: Row) -> bool:
    value = row.fit.value
    exact = row.fit.provenance["estimator"] == "likelihood"
    small = isinstance(value, lattice.Action) and value.num_neurons <= MAX_EXACT
    return row.result == "ok" and exact and small


def _statistics(axes: Any, data: Data, theories: dict[str, Row]) -> Any:
    """Rates, covariances and covariances at lag 1 of the test blocks against every theory's."""
    test = data.split.test
    measured = statistics.measure(test, 2)
    predict = jax.jit(lattice.statistics, static_argnames=("bin_width", "num_lags"))
    predicted = {
        name: predict(row.fit.value, bin_width=test.bin_width, num_lags=2)
        for name, row in theories.items()
    }
    above = np.triu_indices(test.num_neurons, 1)
    off = ~np.eye(test.num_neurons, dtype=bool)
    pairs = test.num_neurons > 1
    figure, grid = axes(2, 4.4, 4.2, rows=2 if pairs else 1)
    parts: list[tuple[str, str, Any]] = [("rate (Hz)", "rates", lambda s: s[0])]
    if pairs:
        parts.append(("covariance", "pairs, equal times", lambda s: s[1][above]))
    parts.append(("covariance", "own, one bin later", lambda s: np.diagonal(s[2])))
    if pairs:
        parts.append(("covariance", "pairs, one bin later", lambda s: s[2][off]))
    errors = (measured.rate_error, measured.covariance_error, measured.lagged_error)
    errors = tuple(np.zeros(1) if e is None else np.asarray(e) for e in errors)
    for (quantity, title, pick), ax in zip(parts, grid, strict=True):
        plot.compare(
            pick(_moments(measured)),
            {name: pick(_moments(s)) for name, s in predicted.items()},
            ax,
            error=pick((errors[0], errors[1], errors[2][1])),
            quantity=quantity,
            title=f"held-out {title}",
        )
    return figure


def _moments(s: statistics.Statistics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert s.covariance is not None
    assert s.lagged is not None
    return np.asarray(s.rate), np.asarray(s.covariance), np.asarray(s.lagged)[1]
