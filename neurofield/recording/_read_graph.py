"""read_graph: connectomes and couplings from matrices, edge lists and GraphML."""

import csv
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ._files import check_exists, load_npy
from ._graph import Graph
from ._sparse_graph import SparseGraph

_PRE = ("pre", "source", "from", "presynaptic")
_POST = ("post", "target", "to", "postsynaptic")
_WEIGHT = ("weight", "weights", "w", "strength", "count", "synapses")
_EXPECTED = """expected one of
    .csv, .tsv, .txt: an edge list, whose header names columns pre (or source, from), post (or
        target, to) and perhaps weight; or a square matrix [post, pre], a row for each postsynaptic
        node, with or without names in the first row and column;
    .npy: a square matrix [post, pre];
    .npz: weights [post, pre], or pre, post and weights [edge] (indices of nodes), with labels if
        known; or a matrix [post, pre] that scipy.sparse.save_npz wrote;
    .graphml: edges lead from pre to post, with an attribute weight."""


def read_graph(path: str | os.PathLike[str]) -> Graph | SparseGraph:
    """Reads a graph from a file; `weights[post, pre]` is the effect of pre on post (host only).

    A matrix gives a `Graph`, with the postsynaptic nodes as rows; an edge list, a scipy.sparse
    matrix and GraphML give a `SparseGraph`, whose edges lead from pre to post. Edges without a
    weight have weight 1; edges given more than once add up; the edges of an undirected GraphML
    count in both directions. Nodes of edge lists are named, in the order of their numbers or names.

    Raises `FileNotFoundError` naming near matches, and `ValueError` for files that hold no graph,
    saying what was expected.
    """
    path = Path(path).expanduser()
    check_exists(path)
    suffix = path.suffix.lower()
    readers = {".npy": _npy, ".npz": _npz, ".graphml": _graphml}
    readers |= dict.fromkeys((".csv", ".tsv", ".txt"), _text)
    if path.is_dir() or suffix not in readers:
        raise ValueError(f"{path} is not known to hold a graph: {_EXPECTED}")
    try:
        return readers[suffix](path)
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}") from error


def _npy(path: Path) -> Graph:
    return Graph(load_npy(path))


def _npz(path: Path) -> Graph | SparseGraph:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as an npz archive ({error}). It may be cut short: copy it."
        ) from error
    if "indptr" in arrays:
        from scipy.sparse import load_npz

        return SparseGraph.from_scipy(load_npz(path))
    labels = arrays["labels"].astype(str).tolist() if "labels" in arrays else None
    if {"pre", "post"} <= arrays.keys():
        pre, post = arrays["pre"], arrays["post"]
        weights = arrays.get("weights", np.ones(len(pre)))
        count = max(int(ends.max(initial=-1)) + 1 for ends in (pre, post))
        count = count if labels is None else len(labels)
        return SparseGraph(pre, post, weights, int(arrays.get("num_nodes", count)), labels=labels)
    if "weights" not in arrays:
        raise ValueError(f"{path} holds {sorted(arrays)}: {_EXPECTED}")
    return Graph(arrays["weights"], labels=labels)


def _graphml(path: Path) -> SparseGraph:
    import networkx as nx

    try:
        graph: Any = nx.read_graphml(path)
    except Exception as error:  # whatever its parser raises
        raise ValueError(f"{path} cannot be read as GraphML ({error}).") from error
    index = {node: i for i, node in enumerate(graph.nodes)}
    edges = [(index[a], index[b], w) for a, b, w in graph.edges(data="weight", default=1)]
    if not graph.is_directed():
        edges += [(b, a, w) for a, b, w in edges if a != b]
    pre, post = (np.array([edge[i] for edge in edges], int) for i in (0, 1))
    try:
        weights = np.array([edge[2] for edge in edges], float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the attribute weight must be a number ({error}).") from error
    return SparseGraph(pre, post, weights, len(index), labels=[str(node) for node in index])


def _text(path: Path) -> Graph | SparseGraph:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text table: {error}.") from error
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        raise ValueError(f"{path} is empty: {_EXPECTED}")
    delimiter = max(",\t;", key=lines[0].count)
    if delimiter not in lines[0]:
        rows = [line.split() for line in lines]
    else:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    names = [cell.lower() for cell in rows[0]]
    pre, post, weight = (_column(names, known) for known in (_PRE, _POST, _WEIGHT))
    if pre is None or post is None:
        return _matrix(path, rows)
    return _edges(path, rows, pre, post, weight)


def _column(names: list[str], known: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _edges(
    path: Path, rows: list[list[str]], pre: int, post: int, weight: int | None
) -> SparseGraph:
    ends, weights = [], []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise ValueError(f"{path}, row {number}: {row} does not have {len(rows[0])} columns.")
        ends.append((row[pre], row[post]))
        weights.append(1.0 if weight is None else _number(path, number, row[weight]))
    named = {name for pair in ends for name in pair}
    whole = all(name.isdigit() for name in named)
    labels = sorted(named, key=int) if whole else sorted(named)
    index = {name: i for i, name in enumerate(labels)}
    sides = np.array([[index[name] for name in pair] for pair in ends], int).reshape(-1, 2)
    return SparseGraph(sides[:, 0], sides[:, 1], np.array(weights), len(labels), labels=labels)


def _matrix(path: Path, rows: list[list[str]]) -> Graph:
    labels = None
    if not _is_number(rows[0][-1]):
        if len(rows) != len(rows[0]) and len(rows) != len(rows[0]) + 1:
            raise ValueError(f"{path}: the first row is {rows[0][:6]}: {_EXPECTED}")
        labels = rows[0][len(rows[0]) - len(rows) + 1 :]
        if [row[0] for row in rows[1:]] != labels:
            raise ValueError(f"{path}: rows and columns must have the same names, in one order.")
        rows = [row[1:] for row in rows[1:]]
    if {len(row) for row in rows} != {len(rows)}:
        sizes = sorted({len(row) for row in rows})
        raise ValueError(f"{path} has {len(rows)} rows of {sizes} numbers: {_EXPECTED}")
    first = 1 if labels is None else 2
    values = [[_number(path, n, cell) for cell in row] for n, row in enumerate(rows, start=first)]
    return Graph(np.array(values), labels=labels)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(path: Path, row: int, cell: str) -> float:
    if not (_is_number(cell) and np.isfinite(float(cell))):
        raise ValueError(f"{path}, row {row}: {cell!r} is not a weight.")
    return float(cell)
