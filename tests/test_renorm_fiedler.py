"""Fiedler bisection, on graphs whose order is known."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from neurofield import renorm
from neurofield.recording import Graph, SparseGraph


def path(size):
    return np.diag(np.ones(size - 1), 1) + np.diag(np.ones(size - 1), -1)


def dyson(levels, decay=1.5):
    """Hierarchical couplings: 2^(-decay l) where l is the level at which two leaves meet."""
    index = np.arange(2**levels)
    level = np.array([[(i ^ j).bit_length() for j in index.tolist()] for i in index.tolist()])
    return np.where(level > 0, 2.0 ** (-decay * level), 0)


def blocks_of(tree):
    return [
        {frozenset(np.flatnonzero(layer == block).tolist()) for block in range(layer.max() + 1)}
        for layer in np.asarray(tree.layers)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 37])
def test_a_path_comes_out_in_order(size):
    weights = path(size)
    tree = renorm.fiedler_tree(weights)
    assert np.asarray(tree.order).tolist() == list(range(size))
    shuffle = np.random.default_rng(size).permutation(size)
    order = shuffle[np.asarray(renorm.fiedler_tree(weights[np.ix_(shuffle, shuffle)]).order)]
    assert order.tolist() in (list(range(size)), list(range(size))[::-1])


@pytest.mark.parametrize("levels", [3, 6])
def test_a_hierarchy_comes_back_at_every_level(levels):
    shuffle = np.random.default_rng(levels).permutation(2**levels)
    weights = dyson(levels)[np.ix_(shuffle, shuffle)]
    tree = renorm.fiedler_tree(Graph(jnp.asarray(weights, jnp.float32)))
    for depth, found in enumerate(blocks_of(tree)):
        true = shuffle // 2 ** (levels - depth)
        expected = {frozenset(np.flatnonzero(true == b).tolist()) for b in range(2**depth)}
        assert found == expected


@pytest.mark.parametrize("size", [1, 5, 12, 23])
def test_the_tree_is_balanced_and_nested(size):
    rng = np.random.default_rng(size)
    tree = renorm.fiedler_tree(rng.exponential(size=(size, size)))
    layers, order = np.asarray(tree.layers), np.asarray(tree.order)
    assert len(layers) == 1 + int(np.ceil(np.log2(size)))
    assert sorted(order.tolist()) == list(range(size))
    np.testing.assert_array_equal(layers[-1][order], np.arange(size))
    for coarse, fine in itertools.pairwise(layers):
        # In the linear order blocks are runs, halved from one layer to the next.
        assert (np.diff(coarse[order]) >= 0).all()
        for block in range(coarse.max() + 1):
            sizes = np.unique(fine[coarse == block], return_counts=True)[1].tolist()
            total = sum(sizes)
            assert sizes == ([1] if total == 1 else [(total + 1) // 2, total // 2])

    def leaves(part):
        return [part] if isinstance(part, int) else leaves(part[0]) + leaves(part[1])

    assert leaves(tree.tree) == order.tolist()


def test_components_stay_whole():
    weights = np.zeros((10, 10))
    weights[np.ix_([0, 2, 4, 6], [0, 2, 4, 6])] = 1
    weights[np.ix_([1, 3, 5], [1, 3, 5])] = 1
    order = np.asarray(renorm.fiedler_tree(weights).order)
    # The largest first, then by the first node; single nodes last.
    assert set(order[:4].tolist()) == {0, 2, 4, 6}
    assert set(order[4:7].tolist()) == {1, 3, 5}
    assert order[7:].tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    "weights",
    [np.zeros((6, 6)), np.ones((6, 6)), np.ones((7, 7)), np.roll(np.eye(12), 1, 0)],
    ids=["empty", "even", "odd", "cycle"],
)
def test_degenerate_spectra_have_one_answer(weights):
    order = np.asarray(renorm.fiedler_tree(weights).order)
    # The vector closest to the nodes' own order: it stays as it is.
    assert order.tolist() == list(range(len(weights)))
    # Rounding, which turns bases of degenerate spaces around, changes nothing.
    noise = 1e-13 * np.random.default_rng(0).normal(size=weights.shape)
    assert (
        np.asarray(renorm.fiedler_tree(weights + weights * noise).order).tolist() == order.tolist()
    )


def test_a_star_and_mirror_images():
    star = np.zeros((5, 5))
    star[2] = star[:, 2] = 1
    order = np.asarray(renorm.fiedler_tree(star).order)
    assert sorted(order.tolist()) == list(range(5))
    # The Fiedler vector of this path, numbered from the middle, is at right angles to the ramp.
    mirrored = path(4)[np.ix_([1, 0, 3, 2], [1, 0, 3, 2])]
    assert np.asarray(renorm.fiedler_tree(mirrored).order).tolist() in ([1, 0, 3, 2], [2, 3, 0, 1])


def test_sparse_graphs_give_the_dense_order():
    matrix = sparse.random_array((700, 700), density=0.01, rng=np.random.default_rng(0)).tocsr()
    graph = SparseGraph.from_scipy(matrix)
    few = renorm.fiedler_tree(graph)
    all_ = renorm.fiedler_tree(graph.to_dense())
    np.testing.assert_array_equal(few.layers[1], all_.layers[1])


def test_refusals():
    with pytest.raises(ValueError, match="without nodes"):
        renorm.fiedler_tree(np.zeros((0, 0)))
    with pytest.raises(ValueError, match="finite"):
        renorm.fiedler_tree(np.full((3, 3), np.inf))


@pytest.mark.slow
def test_two_thousand_nodes():
    size = 2000
    shuffle = np.random.default_rng(0).permutation(size)
    ends = np.argsort(shuffle)
    graph = SparseGraph(ends[:-1], ends[1:], np.ones(size - 1), size)
    order = shuffle[np.asarray(renorm.fiedler_tree(graph).order)].tolist()
    assert order in (list(range(size)), list(range(size))[::-1])
