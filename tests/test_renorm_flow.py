"""The Laplacian flow on graphs whose levels are known, its nulls, and its resumption."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from renorm_graphs import matrix, planted, ring_spectrum
from scipy.sparse.csgraph import connected_components

from neurofield import fit
from neurofield.recording import Graph
from neurofield.renorm import Flow, null_graph, rg_flow

NULLS = ("weights", "strength")


@pytest.fixture(scope="module")
def hierarchy():
    """Shuffled blocks of 4 in blocks of 16 in one of 64, and each node's place in them."""
    order = np.random.default_rng(1).permutation(64)
    return Graph(planted()[order][:, order]), order


@pytest.fixture(scope="module")
def flow(hierarchy):
    return rg_flow(hierarchy[0], nulls=NULLS, key=jax.random.key(0))


def same(a: Flow, b: Flow):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_planted_levels_are_found_one_by_one(flow, hierarchy):
    assert flow.size.tolist() == [64, 16, 4]
    for level, size in ((1, 4), (2, 16)):
        pairs = set(zip(flow.members(level), hierarchy[1] // size, strict=True))
        assert len(pairs) == 64 // size
    np.testing.assert_array_equal(flow.members(0), np.arange(64))
    # Each time lies in its gap: between the eigenvalues of its level and of the next.
    seen = flow.observables
    assert 1 / 4.408 < flow.scale[1] < 1 / 0.528
    assert flow.scale[0] == 0
    np.testing.assert_array_equal(seen["diffusion_time"][:2], flow.scale[1:])
    assert np.isnan(seen["diffusion_time"][2])
    assert flow.notes == (flow.notes[0],)
    assert flow.notes[0].startswith("level 2: no scale")
    # Blocks of 4 with 16 times the weight 0.03 between them, then of 16 with 256 times 0.001.
    off = np.asarray(flow.states[2].weights)[~np.eye(4, dtype=bool)]
    np.testing.assert_allclose(off, 0.256, rtol=1e-12)
    np.testing.assert_allclose(seen["lambda_1"], [0.064, 0.256, 4 * 0.256], rtol=1e-10)


def test_what_is_seen_at_each_level(flow):
    seen = flow.observables
    np.testing.assert_allclose(seen["total_weight"], planted().sum(), rtol=1e-13)
    np.testing.assert_array_equal(seen["num_edges"], [64 * 63 / 2, 16 * 15 / 2, 6])
    np.testing.assert_array_equal(seen["mean_degree"], [63, 15, 3])
    np.testing.assert_allclose(seen["largest_share"], [1 / 64, 4 / 64, 16 / 64])
    # S and C at the level's own time, from the spectrum of the last coarse-grained level.
    tau = flow.scale[2]
    hollow = np.asarray(flow.states[1].weights)
    hollow = hollow - np.diag(np.diag(hollow))
    values = np.linalg.eigvalsh(np.diag(hollow.sum(0)) - hollow)
    p = np.exp(-tau * values) / np.exp(-tau * values).sum()
    np.testing.assert_allclose(seen["entropy"][1], -(p * np.log(p)).sum(), rtol=1e-9)
    np.testing.assert_allclose(seen["relative_entropy"][1], seen["entropy"][1] / np.log(16))
    heat = tau**2 * ((p * values**2).sum() - (p * values).sum() ** 2)
    np.testing.assert_allclose(seen["specific_heat"][1], heat, rtol=1e-9)
    # One grid for all levels, from before any maximum of C to after the last.
    times, heats = seen["diffusion_times"], seen["specific_heat_curve"]
    assert (times == times[:1]).all()
    assert (heats[:, 1] > heats[:, 0]).all()
    assert (heats[:, -1] < 1e-3).all()
    np.testing.assert_allclose(seen["entropy_curve"][:, 0], np.log(flow.size), atol=0.1)
    np.testing.assert_allclose(seen["entropy_curve"][:, -1], 0, atol=1e-3)


def test_nulls_have_no_levels(flow):
    assert tuple(flow.nulls) == NULLS
    for null in flow.nulls.values():
        assert null.num_levels == 1
        assert null.notes[0].startswith("level 0: no scale")
        np.testing.assert_allclose(null.observables["total_weight"], planted().sum(), rtol=1e-10)


def test_a_flow_goes_on_where_it_stopped_also_from_a_file(flow, hierarchy, tmp_path):
    short = rg_flow(hierarchy[0], num_levels=2, nulls=NULLS, key=jax.random.key(0))
    assert short.size.tolist() == [64, 16]
    assert short.notes == ()
    same(rg_flow(short), flow)
    path = fit.save(tmp_path / "flow.zip", short)
    loaded = fit.load(path)
    same(loaded, short)
    assert loaded.notes == short.notes
    same(rg_flow(loaded), flow)
    # Nothing more to do.
    same(rg_flow(flow), flow)


def test_a_ring_stays_a_ring_level_by_level():
    ring = matrix(nx.cycle_graph(256))
    none = rg_flow(ring)
    assert none.num_levels == 1
    assert "no scale" in none.notes[0]
    assert "any tau there is as good" in none.notes[0]
    flow = rg_flow(ring, diffusion_time=2.0)
    assert flow.num_levels == 4
    assert "every component" in flow.notes[-1]
    for size, state in zip(flow.size, flow.states, strict=True):
        weights = np.array(state.weights)
        np.fill_diagonal(weights, 0)
        values = np.linalg.eigvalsh(np.diag(weights.sum(0)) - weights)
        np.testing.assert_allclose(values, ring_spectrum(size), atol=1e-10)
    np.testing.assert_array_equal(flow.observables["mean_degree"], 2)
    np.testing.assert_array_equal(flow.observables["total_weight"], 512)
    np.testing.assert_allclose(flow.observables["specific_heat"][:2], 0.6152, atol=1e-4)
    np.testing.assert_allclose(flow.observables["spectral_dimension"][0], 1, atol=0.03)
    # The same by a list of times that ends.
    listed = rg_flow(ring, diffusion_time=[2.0, 2.0])
    np.testing.assert_array_equal(listed.size, flow.size[:3])
    assert listed.notes == ("level 2: no diffusion_time was given for this level.",)


def test_equilibrium_flows_keep_the_stationary_law_at_all_levels():
    rng = np.random.default_rng(0)
    weights = planted((1.0, 0.02, 0.0004)) * rng.uniform(0.5, 1.5, (64, 64))
    flow = rg_flow(weights, method="equilibrium")
    assert flow.size.tolist() == [64, 16, 4]
    for level, size in ((1, 4), (2, 16)):
        np.testing.assert_array_equal(flow.members(level), np.arange(64) // size)

    def law(graph):
        step = np.asarray(graph.weights)
        step = step / step.sum(0)[None]
        return np.linalg.solve(np.eye(len(step)) - step + 1, np.ones(len(step)))

    microscopic = law(flow.states[0])
    for level in (1, 2):
        lumped = np.bincount(flow.members(level), microscopic)
        np.testing.assert_allclose(law(flow.states[level]), lumped, rtol=1e-10)
    np.testing.assert_allclose(flow.observables["total_weight"], weights.sum(), rtol=1e-12)
    assert "steps" in flow.scale_name
    # A walk's time does not change its unit: scales grow.
    assert (np.diff(flow.scale) > 0).all()


def test_no_scale_says_why_and_a_step_that_merges_nothing_ends_the_flow():
    for graph in (matrix(nx.complete_graph(12)), matrix(nx.gnp_random_graph(60, 0.2, seed=0))):
        flow = rg_flow(graph)
        assert flow.num_levels == 1
        assert "diffusion covers the whole" in flow.notes[0]
    stuck = rg_flow(matrix(nx.cycle_graph(12)), method="threshold", diffusion_time=2.0)
    assert stuck.num_levels == 1
    assert "nothing merged" in stuck.notes[0]
    empty = rg_flow(np.zeros((3, 3)), diffusion_time=1.0)
    assert empty.num_levels == 1
    wilson = rg_flow(planted(), method="wilson", num_levels=2)
    assert wilson.size.tolist() == [64, 16]
    assert rg_flow(jnp.asarray(planted(), jnp.float32)).size.tolist() == [64, 16, 4]


def random_graph(seed, directed):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(20, 20)) * (rng.random((20, 20)) < 0.25)
    return weights if directed else np.tril(weights, -1) + np.tril(weights, -1).T


@pytest.mark.parametrize("directed", [False, True])
def test_nulls_keep_what_they_say(directed):
    weights = random_graph(0, directed)
    for kind in ("configuration", "erdos_renyi", "weights"):
        graph = Graph(weights, labels=[f"n{i}" for i in range(20)])
        null = null_graph(jax.random.key(1), graph, kind)
        made = np.asarray(null.weights)
        assert null.labels == graph.labels
        np.testing.assert_array_equal(np.sort(made, axis=None), np.sort(weights, axis=None))
        np.testing.assert_array_equal(np.diag(made), np.diag(weights))
        assert ((made == made.T).all()) == (not directed)
        assert (made != weights).any()
        for axis in (0, 1):
            kept = ((made != 0).sum(axis) == (weights != 0).sum(axis)).all()
            assert kept == (kind != "erdos_renyi")
        assert ((made != 0) == (weights != 0)).all() == (kind == "weights")
        if directed and kind == "configuration":
            # Columns are presynaptic: their weights stay with them.
            np.testing.assert_array_equal(np.sort(made, axis=0), np.sort(weights, axis=0))
        again = null_graph(jax.random.key(1), weights, kind)
        np.testing.assert_array_equal(again.weights, made)
        other = null_graph(jax.random.key(2), weights, kind)
        assert (np.asarray(other.weights) != made).any()
    positive = np.abs(weights)
    dense = np.asarray(null_graph(jax.random.key(0), positive, "strength").weights)
    for axis in (0, 1):
        np.testing.assert_allclose(dense.sum(axis), positive.sum(axis), rtol=1e-9)
    # x_i y_j off the diagonal: all ratios of columns agree.
    np.testing.assert_allclose(dense[2:8, 0] * dense[8, 1], dense[2:8, 1] * dense[8, 0], rtol=1e-9)


def test_edge_swaps_draw_every_graph_with_these_degrees_alike():
    # Degree 2 at 6 nodes: 60 hexagons, 10 pairs of triangles. (networkx's double_edge_swap, which
    # does not count rejections, gives 0.19 instead of 1 / 7.) In- and out-degree 1 at 5 nodes: the
    # 44 derangements, 20 of them a 2- and a 3-cycle.
    ring = matrix(nx.cycle_graph(6)), np.roll(np.eye(5), 1, 0)
    for weights, chance in zip(ring, (1 / 7, 20 / 44), strict=True):
        made = [np.asarray(null_graph(jax.random.key(i), weights).weights) for i in range(500)]
        count = sum(connected_components(x, directed=False)[0] == 2 for x in made)
        assert abs(count - 500 * chance) < 4 * np.sqrt(500 * chance * (1 - chance))


def test_random_places_are_uniform():
    star = matrix(nx.star_graph(4))
    count = sum(
        np.asarray(null_graph(jax.random.key(i), star, "erdos_renyi").weights) for i in range(400)
    )
    # 4 of 10 pairs: each has p = 0.4.
    z = (count[np.triu_indices(5, 1)] - 160) / np.sqrt(400 * 0.4 * 0.6)
    assert (np.abs(z) < 4).all()
    assert (np.abs(z) > 0).any()


def test_wrong_arguments_say_so(flow, hierarchy):
    ring = matrix(nx.cycle_graph(5))
    with pytest.raises(ValueError, match="pass key"):
        rg_flow(ring, nulls=("weights",))
    with pytest.raises(ValueError, match="at least 1"):
        rg_flow(ring, num_levels=0)
    with pytest.raises(ValueError, match="this Flow was made with"):
        rg_flow(flow, method="threshold")
    with pytest.raises(ValueError, match="method must be"):
        rg_flow(ring, method="decimation", diffusion_time=1.0)
    with pytest.raises(ValueError, match="kind must be"):
        null_graph(jax.random.key(0), ring, "uniform")
    with pytest.raises(ValueError, match="no edge can be swapped"):
        null_graph(jax.random.key(0), matrix(nx.complete_graph(6)), "configuration")
    with pytest.raises(ValueError, match="no edge can be swapped"):
        null_graph(jax.random.key(0), np.zeros((5, 5)), "configuration")
    with pytest.raises(ValueError, match="no graph without self-loops"):
        null_graph(jax.random.key(0), matrix(nx.star_graph(4)) * 1.0, "strength")
    with pytest.raises(ValueError, match="negative weights"):
        null_graph(jax.random.key(0), -ring, "strength")
