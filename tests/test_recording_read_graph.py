"""Graphs from files: every format gives the same weights[post, pre], and says what is wrong."""

import networkx as nx
import numpy as np
import pytest
from scipy import sparse

from neurofield.recording import Graph, SparseGraph, read_graph

# a acts on b with 2, b on c with -1.5, c on a with 1.
WEIGHTS = np.array([[0, 0, 1], [2, 0, 0], [0, -1.5, 0]])
NAMES = ("a", "b", "c")


def dense(graph):
    return graph if isinstance(graph, Graph) else graph.to_dense()


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_edge_list_leads_from_pre_to_post(tmp_path):
    path = written(
        tmp_path, "e.csv", "Weight,pre,post\n2,a,b\n-1,b,c\n# no edge\n-0.5,b,c\n1,c,a\n"
    )
    graph = read_graph(path)
    assert isinstance(graph, SparseGraph)
    assert graph.labels == NAMES
    np.testing.assert_array_equal(dense(graph).weights, WEIGHTS)


def test_edge_list_without_weights_and_with_numbered_nodes(tmp_path):
    graph = read_graph(written(tmp_path, "e.tsv", "source\ttarget\n10\t9\n9\t2\n10\t9\n"))
    assert graph.labels == ("2", "9", "10")
    np.testing.assert_array_equal(dense(graph).weights, [[0, 1, 0], [0, 0, 2], [0, 0, 0]])


@pytest.mark.parametrize(
    "text",
    [
        "0,0,1\n2,0,0\n0,-1.5,0\n",
        ",a,b,c\na,0,0,1\nb,2,0,0\nc,0,-1.5,0\n",
        "0 0 1\n2 0 0\n0 -1.5 0",
    ],
)
def test_text_matrix(tmp_path, text):
    graph = read_graph(written(tmp_path, "m.csv", text))
    np.testing.assert_array_equal(graph.weights, WEIGHTS)
    assert graph.labels == (NAMES if "a" in text else ("0", "1", "2"))


def test_numpy_files(tmp_path):
    np.save(tmp_path / "m.npy", WEIGHTS)
    np.savez(tmp_path / "m.npz", weights=WEIGHTS, labels=NAMES)
    post, pre = np.nonzero(WEIGHTS)
    np.savez(tmp_path / "e.npz", pre=pre, post=post, weights=WEIGHTS[post, pre])
    sparse.save_npz(tmp_path / "s.npz", sparse.csr_array(WEIGHTS))
    for name in ("m.npy", "m.npz", "e.npz", "s.npz"):
        graph = dense(read_graph(tmp_path / name))
        np.testing.assert_array_equal(graph.weights, WEIGHTS)
    assert read_graph(tmp_path / "m.npz").labels == NAMES
    assert isinstance(read_graph(tmp_path / "s.npz"), SparseGraph)


def test_graphml_directed_and_undirected(tmp_path):
    graph = nx.DiGraph()
    graph.add_nodes_from(NAMES)
    graph.add_weighted_edges_from([("a", "b", 2.0), ("b", "c", -1.5), ("c", "a", 1.0)])
    nx.write_graphml(graph, tmp_path / "g.graphml")
    found = read_graph(tmp_path / "g.graphml")
    np.testing.assert_array_equal(dense(found).weights, WEIGHTS)
    assert found.labels == NAMES
    nx.write_graphml(nx.path_graph(3), tmp_path / "u.graphml")
    line = dense(read_graph(tmp_path / "u.graphml")).weights
    np.testing.assert_array_equal(line, [[0, 1, 0], [1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "is empty: expected one of"),
        ("a.csv", "unit,time\n1,0.5\n2,0.25\n3,1\n", "the first row is"),
        ("a.csv", "1,2,3\n4,5,6\n", "2 rows of"),
        ("a.csv", "pre,post,weight\na,b,heavy\n", "row 2: 'heavy' is not a weight"),
        ("a.csv", "pre,post,weight\na,b\n", "does not have 3 columns"),
        ("a.csv", ",a,b\nb,0,1\na,1,0\n", "the same names, in one order"),
        ("a.csv", "1,nan\n1,2\n", "'nan' is not a weight"),
        ("a.graphml", "<graph", "cannot be read as GraphML"),
        ("a.dat", "1", "is not known to hold a graph"),
    ],
)
def test_files_that_hold_no_graph(tmp_path, name, text, said):
    path = written(tmp_path, name, text)
    with pytest.raises(ValueError, match=said) as caught:
        read_graph(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_wrong_arrays(tmp_path):
    np.save(tmp_path / "graph.npy", np.ones((2, 3)))
    with pytest.raises(FileNotFoundError, match=r"did you mean graph\.npy"):
        read_graph(tmp_path / "graph.npz")
    with pytest.raises(ValueError, match=r"graph\.npy: weights must be square"):
        read_graph(tmp_path / "graph.npy")
    np.savez(tmp_path / "r.npz", raster=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"holds \['raster'\]: expected one of"):
        read_graph(tmp_path / "r.npz")
