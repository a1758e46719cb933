"""Coarse-graining against the tables of the published rule, exact identities and planted blocks."""

import jax
import jax.numpy as jnp
import jax.test_util
import networkx as nx
import numpy as np
import pytest
from renorm_graphs import (
    RANDOM,
    curves,
    matrix,
    modules,
    planted,
    ring_spectrum,
    spectrum,
    table,
)

from neurofield import renorm
from neurofield.recording import Graph
from neurofield.renorm import (
    aggregate,
    coarse_grain,
    diffusion_weights,
    laplacian,
    soft_assignment,
)

GRAPHS = {
    "path_8": nx.path_graph(8),
    "cycle_8": nx.cycle_graph(8),
    "star_8": nx.star_graph(7),
    "karate": nx.karate_club_graph(),
    "balanced_tree_2_4": nx.balanced_tree(2, 4),
    "BA_128_1_seed42": nx.barabasi_albert_graph(128, 1, seed=42),
    "BA_128_3_seed42": nx.barabasi_albert_graph(128, 3, seed=42),
    "grid_8x8": nx.grid_2d_graph(8, 8),
}


def signed_directed(num_nodes, dtype=jnp.float64):
    weights = np.random.default_rng(3).normal(0.2, 1, (num_nodes, num_nodes))
    return jnp.asarray(weights, dtype)


def one_hot(labels):
    return jnp.asarray(np.eye(np.max(labels) + 1)[labels])


def test_the_published_rule_gives_the_table():
    # Eigenvalues that equal 1 / tau are one degenerate level: rounding puts a part of it below in
    # the table, and here none is.
    split = []
    for row in table("lrg_kadanoff_steps.csv"):
        name, _, time, entropy, heat, supernodes, modes, largest = row.values()
        weights, tau = matrix(GRAPHS[name]), float(time)
        values = spectrum(GRAPHS[name])
        here = curves(values, np.array([tau]))
        np.testing.assert_allclose(here.entropy[0], float(entropy), atol=1e-9)
        np.testing.assert_allclose(here.specific_heat[0], float(heat), atol=1e-9)
        coarse = coarse_grain(weights, tau, "threshold")
        found = coarse.graph.num_nodes, np.bincount(coarse.assignment).max()
        tie = np.isclose(values, 1 / tau, rtol=1e-9).sum()
        if tie:
            split.append((name, tau))
            assert coarse.num_modes <= int(modes) <= coarse.num_modes + tie
        else:
            assert coarse.num_modes == int(modes)
        if name == "star_8" and tau >= 5:
            # rho_ij - rho_ii from the hub is -e^{-8 tau} / Z exactly: nothing merges at any time.
            # At tau = 5 that is 4e-18, and the table's rule merges all by rounding.
            assert (int(supernodes), int(largest)) == (1, 8)
            assert found == (8, 1)
        else:
            assert found == (int(supernodes), int(largest)), (name, tau)
    assert len(split) == 7
    assert ("star_8", 1.0) in split


@pytest.mark.parametrize("time", [0.01, 1.0, 30.0, 1e4])
def test_the_published_rule_merges_nothing_where_all_nodes_are_alike(time):
    graphs = nx.cycle_graph(9), nx.complete_graph(7), nx.grid_2d_graph(4, 5, periodic=True)
    for graph in (*graphs, nx.petersen_graph(), nx.circulant_graph(12, [1, 3])):
        coarse = coarse_grain(matrix(graph), time, "threshold")
        assert coarse.graph.num_nodes == len(graph)
        assert "nothing merged" in coarse.notes[0]
        assert "all alike" in coarse.notes[0]


def test_the_published_rule_keeps_the_mean_degree_of_trees_alone():
    kept = {}
    for m in (1, 2):
        before, after = [], []
        for seed in range(6):
            weights = matrix(nx.barabasi_albert_graph(512, m, seed=seed))
            coarse = coarse_grain(weights, 1.0, "threshold").graph.weights
            before.append((weights > 0).sum() / len(weights))
            after.append(float((coarse > 0).sum()) / len(coarse))
        kept[m] = np.mean(before), np.mean(after)
    np.testing.assert_allclose(kept[1], (1.996, 1.989), atol=5e-4)
    np.testing.assert_allclose(kept[2], (3.98, 2.62), atol=5e-3)


def test_its_giant_supernode_is_reported():
    notes = coarse_grain(matrix(GRAPHS["BA_128_3_seed42"]), 0.5, "threshold").notes
    assert "giant supernode holds 95 of 128" in notes[0]
    assert "supernodes: 34, but eigenvalues below 1 / tau: 15" in notes[1]


def test_aggregation_keeps_totals_strengths_and_stationary_laws_exactly():
    weights, labels = np.asarray(signed_directed(30)), np.random.default_rng(0).integers(0, 5, 30)
    soft = np.exp(weights[:, :5])
    soft /= soft.sum(1, keepdims=True)
    hard = np.eye(5)[labels]
    aggregated = jax.jit(aggregate)
    for share in (hard, soft):
        between, within = map(np.asarray, aggregated(weights, share))
        assert not np.diagonal(between).any()
        np.testing.assert_allclose(between.sum() + within.sum(), weights.sum(), rtol=1e-13)
        for axis in (0, 1):
            strength = share.T @ weights.sum(axis)
            np.testing.assert_allclose(between.sum(axis) + within, strength, rtol=1e-12)
    between, within = map(np.asarray, aggregated(weights, hard))
    by_hand = [[weights[labels == a][:, labels == b].sum() for b in range(5)] for a in range(5)]
    np.testing.assert_allclose(between + np.diag(within), by_hand, rtol=1e-12)
    # A symmetric graph's walk: pi is strength over total, and lumps.
    symmetric = np.abs(weights + weights.T)
    between, within = map(np.asarray, aggregated(symmetric, hard))
    flow = np.asarray(between + np.diag(within))
    law = flow.sum(0) / flow.sum()
    np.testing.assert_allclose(flow @ (law / flow.sum(0)), law, rtol=1e-12)
    lumped = hard.T @ symmetric.sum(0) / symmetric.sum()
    np.testing.assert_allclose(law, lumped, rtol=1e-12)


def test_aggregation_is_differentiable_in_weights_and_shares():
    weights, share = signed_directed(6), jax.nn.softmax(signed_directed(6)[:, :3], axis=1)

    def scalar(weights, share):
        between, within = aggregate(weights, share)
        return (between**3).sum() + jnp.sin(within).sum()

    jax.test_util.check_grads(jax.jit(scalar), (weights, share), order=1, modes=["rev"], rtol=1e-6)


def test_linkage_finds_planted_blocks_at_both_scales():
    weights, truth = planted(), np.arange(64)
    order = np.random.default_rng(1).permutation(64)
    shuffled = weights[order][:, order]
    # Gaps of the spectrum: 4 and 16 eigenvalues below 1 / tau.
    for time, size in ((0.6, 4), (3.0, 16)):
        labels = coarse_grain(shuffled, time).assignment
        blocks = truth[order] // size
        assert len(set(zip(labels, blocks, strict=True))) == 64 // size == labels.max() + 1
        # Numbered as they come.
        _, first = np.unique(labels, return_index=True)
        assert (np.diff(first) > 0).all()


def test_linkage_finds_random_blocks_and_cliques():
    for name, time, size in (
        ("SBM_8x64_pin.25_pout.004", 0.392, 64),
        ("HMN_64mod_x8_N512", 0.417, 8),
    ):
        coarse = coarse_grain(matrix(RANDOM[name](0)), time)
        np.testing.assert_array_equal(coarse.assignment, np.arange(512) // size)
        assert coarse.notes == ()


def test_a_coarse_ring_is_a_ring():
    ring = matrix(nx.cycle_graph(512))
    coarse = coarse_grain(ring, 1.26)
    weights = np.asarray(coarse.graph.weights)
    count = (ring_spectrum(512) < 1 / 1.26).sum()
    assert len(weights) == count == coarse.num_modes
    assert set(np.bincount(coarse.assignment)) <= {2, 3, 4}
    np.testing.assert_allclose(
        np.linalg.eigvalsh(np.diag(weights.sum(0)) - weights), ring_spectrum(count), atol=1e-12
    )
    assert float(weights.sum() + coarse.self_weight.sum()) == ring.sum()


def test_directions_and_signs_live_on():
    weights = np.kron([[0, 0.3], [0, 0]], np.ones((4, 4))) * 0.1
    weights[:4, :4] = weights[4:, 4:] = 1
    weights[0, 5] = -2.0
    graph = Graph(weights - np.diag(np.diag(weights)))
    coarse = coarse_grain(graph, 1.0)
    np.testing.assert_array_equal(coarse.assignment, [0] * 4 + [1] * 4)
    np.testing.assert_allclose(coarse.graph.weights, [[0, 15 * 0.03 - 2], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(coarse.self_weight, [12, 12])


def test_components_never_merge():
    weights = matrix(nx.disjoint_union(nx.path_graph(6), nx.path_graph(5)))
    for method in ("linkage", "threshold", "wilson"):
        coarse = coarse_grain(weights, 1e3, method)
        assert not set(coarse.assignment[:6]) & set(coarse.assignment[6:])
        assert coarse.graph.num_nodes == (4 if method == "threshold" else 2)
        assert any("2 components" in note for note in coarse.notes)
    # Where even the longest time joins nothing that is not connected.
    assert coarse_grain(np.zeros((3, 3)), 10.0, "threshold").graph.num_nodes == 3
    assert coarse_grain(np.zeros((3, 3)), 10.0).graph.num_nodes == 3


def test_the_wilson_step():
    weights = matrix(modules(0, 8, 8))
    time = 0.5
    coarse = coarse_grain(weights, time, "wilson")
    assert coarse.num_modes == coarse.graph.num_nodes == 8
    # Straight from the definition.
    full = np.diag(weights.sum(0)) - weights
    values, vectors = np.linalg.eigh(full)
    kept = sum(v * np.outer(x, x) for v, x in zip(values[:8], vectors.T[:8], strict=True))
    blocks = np.eye(8)[coarse.assignment] / np.sqrt(8)
    expected = time * blocks.T @ kept @ blocks
    between = np.asarray(coarse.graph.weights)
    rebuilt = np.diag(between.sum(1) + np.asarray(coarse.self_weight)) - between
    np.testing.assert_allclose(rebuilt, expected, atol=1e-13)
    # Equal blocks: the constant vector is in their span, so that it is a Laplacian.
    np.testing.assert_allclose(coarse.self_weight, 0, atol=1e-13)
    # The blocks nearly span the slow modes: its spectrum is theirs, in units of 1 / tau.
    np.testing.assert_allclose(np.linalg.eigvalsh(rebuilt)[1:], time * values[1:8], rtol=0.1)
    assert any("negative weights" in note for note in coarse.notes)
    assert (between < -1e-12).any()


def test_equilibrium_flows_keep_the_stationary_law():
    rng = np.random.default_rng(2)
    inside = np.kron(np.eye(4), np.ones((6, 6)))
    weights = rng.exponential(1, (24, 24)) * (inside + 0.02 * (rng.random((24, 24)) < 0.3))
    for teleport in (0.0, 0.1):
        coarse = coarse_grain(weights, 5.0, "equilibrium", teleport=teleport)
        np.testing.assert_array_equal(coarse.assignment, np.arange(24) // 6)
        step = (1 - teleport) * weights / weights.sum(0)[None] + teleport / 24
        law = np.linalg.matrix_power(step, 2000)[:, 0]
        flow = np.asarray(coarse.graph.weights) + np.diag(coarse.self_weight)
        walk = np.linalg.matrix_power(flow / flow.sum(0)[None], 5000)[:, 0]
        np.testing.assert_allclose(walk, law.reshape(4, 6).sum(1), rtol=1e-10)
        np.testing.assert_allclose(flow.sum(), weights.sum(), rtol=1e-12)
        np.testing.assert_allclose(flow.sum(0), flow.sum(1), rtol=1e-12)  # what comes in goes out
    # On a symmetric graph the flows are the weights.
    symmetric = weights + weights.T
    coarse = coarse_grain(symmetric, 5.0, "equilibrium")
    between, within = jax.jit(aggregate)(symmetric, np.eye(4)[coarse.assignment])
    np.testing.assert_allclose(coarse.graph.weights, between, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(coarse.self_weight, within, rtol=1e-9)


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(4)
    weights = np.kron(np.eye(2), np.ones((4, 4))) + 0.1 * rng.random((8, 8))
    return diffusion_weights(jnp.asarray(weights)), one_hot(np.arange(8) // 4)


def test_soft_assignments(small):
    weights, members = small
    soft = jax.jit(lambda t, temp: soft_assignment(laplacian(weights), members, t, temp))
    np.testing.assert_allclose(soft(0.5, 1.0).sum(1), 1, rtol=1e-14)
    # At temperature 1: the odds of a walk to end at any one member.
    values, vectors = np.linalg.eigh(np.asarray(laplacian(weights)))
    mean = (vectors * np.exp(-0.5 * values)) @ vectors.T @ np.asarray(members) / 4
    np.testing.assert_allclose(soft(0.5, 1.0), mean / mean.sum(1, keepdims=True), rtol=1e-12)
    # The hard one in the limit, also from one centre in each.
    np.testing.assert_allclose(soft(0.5, 1e-3), members, atol=1e-12)
    centres = jnp.zeros((8, 2)).at[1, 0].set(1.0).at[6, 1].set(1.0)
    cold = soft_assignment(laplacian(weights), centres, 0.5, 1e-3)
    np.testing.assert_allclose(cold, members, atol=1e-12)


def test_gradients_through_soft_assignments(small):
    weights, members = small

    def scalar(change, time, temperature):
        graph = diffusion_weights(weights + change)
        share = soft_assignment(laplacian(graph), members, time, temperature)
        between, within = aggregate(graph, share)
        return between[0, 1] / within[0]

    one = jnp.zeros((8, 8)).at[0, 5].set(1e-5).at[2, 1].set(2e-5)
    slopes = jax.jit(jax.grad(scalar, argnums=(0, 1, 2)))(jnp.zeros((8, 8)), 0.5, 0.7)
    value = jax.jit(scalar)

    def difference(plus, minus, width):
        return (value(*plus) - value(*minus)) / width

    here = jnp.zeros((8, 8)), 0.5, 0.7
    np.testing.assert_allclose(
        (slopes[0] * one).sum(), difference((one, 0.5, 0.7), (-one, 0.5, 0.7), 2), rtol=1e-7
    )
    np.testing.assert_allclose(
        slopes[1], difference((here[0], 0.501, 0.7), (here[0], 0.499, 0.7), 2e-3), rtol=1e-5
    )
    np.testing.assert_allclose(
        slopes[2], difference((here[0], 0.5, 0.701), (here[0], 0.5, 0.699), 2e-3), rtol=1e-5
    )
    assert (jnp.abs(slopes[0]) > 0).any()
    both = jax.vmap(value, (None, 0, None))(here[0], jnp.array([0.5, 0.6]), 0.7)
    np.testing.assert_allclose(both[0], value(*here), rtol=1e-12)


def test_single_precision_stays():
    coarse = coarse_grain(jnp.asarray(planted(), jnp.float32), 0.6)
    assert coarse.graph.weights.dtype == coarse.self_weight.dtype == jnp.float32
    assert coarse.graph.num_nodes == 16


def test_wrong_arguments_say_so():
    ring = matrix(nx.cycle_graph(6))
    with pytest.raises(ValueError, match="method must be one of"):
        coarse_grain(ring, 1.0, "kadanoff")
    with pytest.raises(ValueError, match="diffusion_time"):
        coarse_grain(ring, 0.0)
    with pytest.raises(ValueError, match="finds its own"):
        coarse_grain(ring, 1.0, "threshold", num_clusters=2)
    with pytest.raises(ValueError, match="between the number of components, 1, and of nodes, 6"):
        coarse_grain(ring, 1.0, num_clusters=7)
    with pytest.raises(ValueError, match="strongly connected"):
        # Nothing leads to node 0.
        coarse_grain(np.array([[0.0, 0, 0], [1, 0, 1], [0, 1, 0]]), 1.0, "equilibrium")
    with pytest.raises(ValueError, match="not negative"):
        coarse_grain(-ring, 1.0, "equilibrium")
    assert coarse_grain(ring, 1.0, num_clusters=3).graph.num_nodes == 3


def test_weights_that_are_not_finite_are_refused():
    weights = jnp.ones((4, 4)).at[0, 1].set(jnp.nan)
    for verb in (lambda w: coarse_grain(w, 1.0), renorm.rg_flow):
        with pytest.raises(ValueError, match="finite"):
            verb(weights)
