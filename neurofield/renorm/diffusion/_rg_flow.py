"""The Laplacian renormalization flow of a graph."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from neurofield._flow import Flow
from neurofield._types import PRNGKey
from neurofield.recording import Graph

from ._coarse_grain import coarse_grain
from ._laplacian import laplacian
from ._null_graph import null_graph
from ._scales import diffusion_scales
from ._thermodynamics import of_spectrum
from ._weights import GraphLike, diffusion_weights, weights_of


def rg_flow(
    graph: GraphLike | Flow,
    *,
    method: str = "linkage",
    diffusion_time: float | Sequence[float] | None = None,
    num_levels: int = 10,
    diffusion_times: Any = None,
    prominence: float = 0.15,
    fall: float = 0.5,
    teleport: float = 0.0,
    nulls: Sequence[str] = (),
    key: PRNGKey | None = None,
) -> Flow:
    """Coarse-grain a graph again and again, each time at its own scale (host only).

    At each level the scale is the smallest that `diffusion_scales` finds (`prominence`, `fall`),
    or the given `diffusion_time`, one for all levels or one a level; `coarse_grain(method)` makes
    the next level. The flow ends where there is no scale, where nothing merges, where each
    component would become one node, or at `num_levels` levels. Where C stays level (lattices,
    trees) no time is special, and one has to be given.

    The weights within a supernode are kept on the diagonal of the next level's matrix: they do not
    diffuse, but totals, strengths and stationary laws are those of level 0. Times of a level are
    in units of its own weights (steps for `"equilibrium"`).

    **Observables**, by level: `num_edges` (connected pairs), `total_weight`, `mean_degree`
    (neighbours), `diffusion_time` (the level's scale, NaN if none), `entropy` and `specific_heat`
    there, `relative_entropy` S / ln N (levels have different N: compare these, not S),
    `spectral_dimension` (twice the plateau of C, NaN without one), `lambda_1` and `lambda_max`
    (least positive and largest eigenvalue), `largest_share` (of level 0's nodes in one supernode);
    `entropy_curve` and `specific_heat_curve` on `diffusion_times`, a grid common to all levels
    (from before any maximum to after all of them, 30 a decade, if not given).

    A Flow given as `graph` is continued from its last level, with its grid and its nulls: with
    the same settings the result is that of one longer run. `nulls` names kinds of `null_graph`
    (`key` required), whose flows, by the same settings, come along in `Flow.nulls`.

    Raises `ValueError` for settings out of range, a Flow of another engine or other settings, and
    nulls without a key.
    """
    if diffusion_time is not None:
        several = isinstance(diffusion_time, Sequence)
        diffusion_time = [float(t) for t in diffusion_time] if several else float(diffusion_time)
    settings: dict[str, Any] = {
        "method": method,
        "diffusion_time": diffusion_time,
        "prominence": prominence,
        "fall": fall,
        "teleport": teleport,
    }
    provenance = (("verb", "rg_flow"), *((name, repr(value)) for name, value in settings.items()))
    if num_levels < 1:
        raise ValueError(f"num_levels must be at least 1, got {num_levels}.")
    missing = [k for k in nulls if not (isinstance(graph, Flow) and k in graph.nulls)]
    if missing and key is None:
        raise ValueError(f"the nulls {missing} are drawn: pass key=jax.random.key(...).")
    null_times = diffusion_times

    if isinstance(graph, Flow):
        if graph.provenance != provenance:
            raise ValueError(
                f"this Flow was made with {dict(graph.provenance)}, not {dict(provenance)}: go on "
                "with its settings, or start anew from flow.states[-1]."
            )
        states, assignments = list(graph.states), list(graph.assignments)
        scale = np.asarray(graph.scale).tolist()
        last = graph.num_levels - 1
        rows = [{k: v[level] for k, v in graph.observables.items()} for level in range(last)]
        notes = [note for note in graph.notes if not note.startswith(f"level {last}:")]
        members = graph.members(last)
        diffusion_times = graph.observables["diffusion_times"][0]
        old_nulls = graph.nulls
    else:
        labels = graph.labels if isinstance(graph, Graph) else None
        # NumPy's, since a Graph takes JAX's as they are.
        states, assignments = [Graph(np.asarray(weights_of(graph)), labels=labels)], []
        scale, rows, notes = [0.0], [], []
        members, old_nulls = np.arange(states[0].num_nodes), {}

    while True:
        level = len(states) - 1
        given = _time_of(diffusion_time, level)
        row, said, diffusion_times = _measure(
            states[-1], method, teleport, diffusion_times, given, prominence, fall
        )
        row["largest_share"] = np.bincount(members).max() / len(members)
        rows.append(row)
        if said:
            notes.append(f"level {level}: {said}")
        if len(states) >= num_levels or np.isnan(row["diffusion_time"]):
            break
        coarse = coarse_grain(states[-1], float(row["diffusion_time"]), method, teleport=teleport)
        notes += [f"level {level}: {note}" for note in coarse.notes]
        if any(note.startswith(("nothing merged", "every component")) for note in coarse.notes):
            break
        between = np.asarray(coarse.graph.weights)
        if method != "wilson":  # whose diagonal is no weight
            between = between + np.diag(np.asarray(coarse.self_weight))
        states.append(Graph(between))
        assignments.append(coarse.assignment)
        scale.append(float(row["diffusion_time"]))
        members = coarse.assignment[members]

    made: dict[str, Flow | Graph] = dict(old_nulls)
    if key is not None:
        for index, kind in enumerate(nulls):
            if kind in missing:
                made[kind] = null_graph(jax.random.fold_in(key, index), states[0], kind)
    flows = {
        kind: rg_flow(null, num_levels=num_levels, diffusion_times=null_times, **settings)
        for kind, null in made.items()
    }
    return Flow(
        engine="laplacian",
        scale_name="diffusion time (steps)"
        if method == "equilibrium"
        else "diffusion time (1 / weight)",
        scale=np.array(scale),
        size=np.array([state.num_nodes for state in states]),
        states=tuple(states),
        assignments=tuple(assignments),
        observables={name: np.array([row[name] for row in rows]) for name in rows[0]},
        nulls=flows,
        notes=tuple(notes),
        provenance=provenance,
    )


def _time_of(diffusion_time: float | Sequence[float] | None, level: int) -> float | None:
    if not isinstance(diffusion_time, Sequence):
        return diffusion_time
    return diffusion_time[level] if level < len(diffusion_time) else float("nan")


def _measure(
    state: Graph,
    method: str,
    teleport: float,
    times: Any,
    given: float | None,
    prominence: float,
    fall: float,
) -> tuple[dict[str, Any], str, np.ndarray]:
    """What is to be known of one level: observables, why it has no scale, the common grid."""
    weights = np.asarray(state.weights, float)
    num_nodes = len(weights)
    if method == "equilibrium":
        matrix = np.asarray(laplacian(state, "walk", teleport=teleport))
    else:
        hollow = np.asarray(jax.jit(diffusion_weights)(state.weights), float)
        matrix = np.diag(hollow.sum(1)) - hollow
    values = np.linalg.eigvalsh(matrix.astype(float))
    tiny = num_nodes * np.finfo(matrix.dtype).eps * max(values[-1], 0)
    positive = values[values > tiny]
    if times is None:
        times = _grid(positive, 2.0 if method == "equilibrium" else np.trace(matrix))
    times = np.asarray(times, float)
    curves = _curves(jnp.asarray(values), jnp.asarray(times))
    scales = diffusion_scales(curves, prominence=prominence, fall=fall)
    tau = given if given is not None else (scales.times[0] if len(scales.times) else float("nan"))
    point = _curves(jnp.asarray(values), jnp.asarray([tau]))
    entropy = float(point.entropy[0])
    pairs = (weights != 0) | (weights != 0).T
    num_edges = int(np.triu(pairs, 1).sum())
    dimension = scales.spectral_dimension
    row = {
        "num_edges": num_edges,
        "total_weight": weights.sum(),
        "mean_degree": 2 * num_edges / num_nodes,
        "diffusion_time": tau,
        "entropy": entropy,
        "specific_heat": float(point.specific_heat[0]),
        "relative_entropy": entropy / np.log(num_nodes) if num_nodes > 1 else float("nan"),
        "spectral_dimension": float("nan") if dimension is None else dimension,
        "lambda_1": positive[0] if len(positive) else float("nan"),
        "lambda_max": values[-1],
        "diffusion_times": times,
        "entropy_curve": np.asarray(curves.entropy),
        "specific_heat_curve": np.asarray(curves.specific_heat),
    }
    said = ""
    if np.isnan(tau):
        said = scales.reason if given is None else "no diffusion_time was given for this level."
    return row, said, times


_curves = jax.jit(of_spectrum)


def _grid(positive: np.ndarray, bound: float) -> np.ndarray:
    """From before the first maximum of C to after the last, at this and all coarser levels.

    Every maximum lies beyond 2 / lambda_max, and C dies out by 20 / lambda_1. Aggregation never
    takes lambda_max above the trace or lambda_1 below what it was.
    """
    if not len(positive):
        return np.geomspace(1, 10, 31)
    low, high = 1 / bound, 20 / positive[0]
    return np.geomspace(low, high, int(np.ceil(30 * np.log10(high / low))) + 1)
