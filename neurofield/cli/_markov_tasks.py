"""What `neurofield markov` does: solves, sweeps, bifurcations; each gives a summary and files."""

from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from neurofield import markov
from neurofield._toml import call

from ._log import Log
from ._out import png
from ._tables import finite, rows_to_csv

_READOUTS = ("rate", "cv", "synchrony", "frequency")


# --- solve ----------------------------------------------------------------------------------------


def _solve(
    params: markov.Parameters,
    own: dict[str, Any],
    discard: float | int,
    seed: int,
    place: str,
    log: Log,
) -> tuple[dict[str, Any], dict[str, Any]]:
    log.step(f"solving {own['duration']:g} s")
    keyed = {"key": jax.random.key(seed)} if own.get("backend") == "markov" else {}
    given = {"params": params, "save_occupancy": True} | own | keyed
    solution = jax.block_until_ready(call(markov.solve, given, place))
    rows = _rows(params.names, _readouts(solution, discard))
    done = {
        **{"duration": own["duration"], "discard": discard, "backend": solution.backend},
        **{"closure": solution.closure, "save_dt": solution.save_dt},
        "cv_bin_width": _cv_bin(solution, discard),
        "populations": rows,
    }
    log.step("drawing the solution")
    pictures = _solution_figures(solution, discard)
    return done, {"solution.npz": solution, "solution.csv": rows_to_csv(rows), **pictures}


@eqx.filter_jit
def _readouts(solution: markov.Solution, discard: float | int) -> dict[str, Any]:
    """Of each population, by name of the readout: `[population]`. Those that do not exist are NaN.

    The frequency is that of the highest peak of the spectrum, between its bins by a parabola
    through the logarithms of three.
    """
    width = _cv_bin(solution, discard)
    rate = markov.mean_rate(solution, discard=discard)
    cv = markov.coefficient_of_variation(solution, bin_width=width, discard=discard)
    nothing = jnp.full_like(rate, jnp.nan)
    found = {"rate": rate, "cv": cv, "synchrony": nothing, "frequency": nothing}
    reach = 5e-4 / solution.save_dt
    if round(reach) >= 1 and abs(reach - round(reach)) < 1e-6:
        found["synchrony"] = markov.synchrony_index(solution, discard=discard)
    count = round((solution.rate.shape[-1] * solution.save_dt - discard) / width)
    length = min(count, max(round(0.5 / width), 8))
    if length >= 8:
        frequency, density = markov.spectrum(
            solution, segment_length=length, bin_width=width, discard=discard
        )
        power = jnp.log(jnp.maximum(jnp.diagonal(density, axis1=-2, axis2=-1).real.T, 1e-30))[:, 1:]
        top = jnp.clip(jnp.argmax(power, axis=1), 1, power.shape[1] - 2)
        at = jnp.arange(len(top))
        left, middle, right = (power[at, top + k] for k in (-1, 0, 1))
        bend = left - 2 * middle + right
        shift = jnp.where(bend < 0, (left - right) / (2 * jnp.where(bend < 0, bend, 1)), 0)
        # A rate that is constant has none.
        peak = frequency[top + 1] + jnp.clip(shift, -0.5, 0.5) * frequency[1]
        found["frequency"] = jnp.where(cv > 1e-3, peak, jnp.nan)
    return found


def _cv_bin(solution: markov.Solution, discard: float | int) -> float:
    """1 ms, if bins of the solution make it up and what is left divides into it."""
    step = solution.save_dt
    count, kept = round(1e-3 / step), solution.rate.shape[-1] - round(discard / step)
    fits = count >= 1 and abs(count * step - 1e-3) < 1e-9 and kept % count == 0
    return 1e-3 if fits else step


def _rows(names: Sequence[str], found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"population": name, **{key: finite(float(value[k])) for key, value in found.items()}}
        for k, name in enumerate(names)
    ]


def _solution_figures(solution: markov.Solution, discard: float | int) -> dict[str, bytes]:
    from neurofield import plot

    names, shown = solution.params.names, solution.occupancy is not None
    figure, axes = _figure(9, 2.6, 1 + len(names) * shown)
    plot.traces(
        solution.rate, solution.save_dt, axes[0], labels=names, quantity="rate (Hz)",
        title=f"{solution.backend}, {solution.closure} closure",
    )  # fmt: skip
    for index, ax in enumerate(axes[1:]):
        plot.occupancy(solution, ax, population=index)
    pictures = {"solution.png": png(figure)}
    start = round(discard / solution.save_dt)
    if len(names) > 1 and len(solution.time) - start > 1:
        figure, (ax,) = _figure(5.5, 4)
        plot.attractor(solution, ax, start=start)
        pictures["attractor.png"] = png(figure)
    return pictures


def _figure(width: float | int, height: float | int, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, 1, squeeze=False).ravel()


# --- sweep ----------------------------------------------------------------------------------------


def _sweep(
    params: markov.Parameters,
    own: dict[str, Any],
    discard: float | int,
    seed: int,
    place: str,
    log: Log,
) -> tuple[dict[str, Any], dict[str, Any]]:
    axes, options = own["axes"], {**own["solve"], "save_occupancy": False, "throw": False}
    shape = tuple(len(values) for values in axes.values())
    points = np.stack([x.ravel() for x in np.meshgrid(*axes.values(), indexing="ij")], axis=1)
    log.step(f"solving {options['duration']:g} s at {len(points)} points")
    keys = jax.random.split(jax.random.key(seed), len(points))

    def one(point: jax.Array, key: jax.Array) -> dict[str, Any]:
        keyed = {"key": key} if options.get("backend") == "markov" else {}
        given = {"params": own["vary"](*point)} | options | keyed
        return _readouts(call(markov.solve, given, place), discard)

    found = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jnp.asarray(points), keys))
    rows = [
        dict(zip(axes, point.tolist(), strict=True))
        | {
            f"{key}_{name}": finite(float(found[key][i, k]))
            for key in _READOUTS
            for k, name in enumerate(params.names)
        }
        for i, point in enumerate(points)
    ]
    num_failed = int(np.sum(~np.all(np.isfinite(found["rate"]), axis=1)))
    if num_failed:
        log.note(f"{place}: {num_failed} of {len(points)} solves did not end well; their cells "
                 "are empty.")  # fmt: skip
    rate = found["rate"].reshape(*shape, len(params.names))
    done = {"axes": {key: v.tolist() for key, v in axes.items()}, "num_failed": num_failed}
    done |= {"duration": options["duration"], "discard": discard}
    picture = png(_sweep_figure(axes, rate, params.names))
    return done, {"sweep.csv": rows_to_csv(rows), "sweep.png": picture}


def _sweep_figure(axes: dict[str, np.ndarray], rate: np.ndarray, names: Sequence[str]) -> Any:
    """A line a population, or a map each."""
    (name, values), *others = axes.items()
    figure, panels = _figure(6, 3.6, len(names) if others else 1)
    if not others:
        panels[0].plot(values, rate, "o-", ms=3, lw=1, label=names)
        panels[0].set(xlabel=name, ylabel="rate (Hz)", ylim=(0, None))
        panels[0].legend(frameon=False, fontsize=8)
        return figure
    ((other, across),) = others
    for index, ax in enumerate(panels):
        # With ordinary ticks at the values: nothing is assumed of their spacing.
        image = ax.pcolormesh(across, values, rate[..., index], shading="nearest")
        figure.colorbar(image, ax=ax, label=f"rate of {names[index]} (Hz)")
        ax.set(xlabel=other, ylabel=name)
    return figure


# --- bifurcation ----------------------------------------------------------------------------------


def _bifurcation(
    params: markov.Parameters,
    own: dict[str, Any],
    discard: float | int,
    seed: int,
    place: str,
    log: Log,
) -> tuple[dict[str, Any], dict[str, Any]]:
    from neurofield import plot

    del discard, seed
    name, names = own["parameter"], params.names
    log.step(f"following equilibria along {name}")
    branches = {"equilibria": call(markov.continuation, own["equilibria"], place)}
    if "cycles" in own:
        log.step(f"following cycles along {name}")
        branches["cycles"] = call(markov.cycle_continuation, own["cycles"], f"{place} cycles")
    figure, axes = _figure(6, 3.6, len(names))
    for index, ax in enumerate(axes):
        plot.branch(
            list(branches.values()), ax, population=index, parameter=name, labels=list(branches),
            title=f"rate of {names[index]}",
        )  # fmt: skip
    rows = [row for key, branch in branches.items() for row in _points(key, name, branch, names)]
    files: dict[str, Any] = {"branch.csv": rows_to_csv(rows), "branch.png": png(figure)}
    done = {
        "parameter": name,
        "branches": {
            key: {
                "num_points": len(branch.parameter),
                "ended": branch.ended,
                "bifurcations": [_bifurcation_row(point, names) for point in branch.points],
            }
            for key, branch in branches.items()
        },
    }
    if "peaks" in own:
        log.step(f"peaks at {len(own['peaks']['values'])} values of {name}")
        diagram = markov.peak_diagram(**own["peaks"])
        figure, (ax,) = _figure(6, 4)
        plot.peak_diagram(diagram, ax, parameter=name)
        files |= {"peaks.csv": rows_to_csv(_peak_rows(name, diagram)), "peaks.png": png(figure)}
    return done, files


def _points(
    key: str, name: str, branch: markov.Branch, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Of equilibria `leading` is an eigenvalue in 1/s, of cycles a Floquet multiplier."""
    for i, parameter in enumerate(branch.parameter):
        yield {
            "branch": key,
            name: float(parameter),
            **{f"rate_{q}": float(branch.rate[k, i]) for k, q in enumerate(names)},
            "stable": bool(branch.stable[i]),
            "leading_real": finite(float(branch.leading[i].real)),
            "leading_imag": finite(float(branch.leading[i].imag)),
            "frequency": finite(float(branch.frequency[i])),
        }


def _bifurcation_row(point: markov.Bifurcation, names: Sequence[str]) -> dict[str, Any]:
    rate = dict(zip(names, np.asarray(point.rate, float).tolist(), strict=True))
    return {
        "kind": point.kind,
        "parameter": float(point.parameter),
        "rate": rate,
        "frequency": finite(float(point.frequency)),
    }


def _peak_rows(name: str, diagram: markov.PeakDiagram) -> list[dict[str, Any]]:
    return [
        {
            name: float(value),
            "num_peaks": len(found.height),
            "mean_difference": finite(float(found.mean_difference)),
            "mean_interval": finite(float(found.mean_interval)),
        }
        for value, found in zip(diagram.value, diagram.peaks, strict=True)
    ]


TASKS = {"solve": _solve, "sweep": _sweep, "bifurcation": _bifurcation}
