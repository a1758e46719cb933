"""Communities of graphs, on graphs whose communities are known."""

from functools import partial

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from neurofield import renorm
from neurofield.recording import Activity, Graph, Raster

METHODS = ["spectral", "modularity", "markov_stability", "diffusion_distance", "block_model"]
KEY = jax.random.key(0)


def planted(seed, sizes, inside, across, noise=0.0):
    """Symmetric weights of blocks, shuffled, and the block of each node."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    same = truth[:, None] == truth[None]
    weights = np.where(same, inside, across) + noise * rng.normal(size=same.shape)
    weights = np.triu(weights, 1)
    return weights + weights.T, truth


@pytest.mark.parametrize("method", METHODS)
def test_blocks_that_stand_out_are_found_with_their_number(method):
    weights, truth = planted(0, (12, 9, 15), 1.0, 0.1, 0.02)
    time = {"diffusion_time": 0.15} if method == "diffusion_distance" else {}
    found = renorm.communities(KEY, weights, method, **time)
    assert found.num_communities == 3
    assert adjusted_rand_score(truth, found.labels) == 1
    # Numbered in the order of first nodes.
    first = [int(np.argmax(np.asarray(found.labels) == label)) for label in range(3)]
    assert first == sorted(first)
    assert found.labels.dtype == jnp.int32


@pytest.mark.parametrize("method", ["spectral", "modularity", "block_model"])
def test_the_same_key_gives_the_same_partition(method):
    weights, _ = planted(1, (18, 18), 0.5, 0.4, 0.3)
    one, two = (renorm.communities(jax.random.key(3), weights, method) for _ in range(2))
    np.testing.assert_array_equal(one.labels, two.labels)


@pytest.mark.parametrize("method", METHODS)
def test_components_and_isolated_nodes(method):
    weights = np.zeros((11, 11))
    weights[:5, :5] = weights[6:, 6:] = 1 - np.eye(5)
    number = {} if method in ("modularity", "markov_stability") else {"num_communities": 2}
    found = renorm.communities(KEY, weights, method, **number)
    assert np.asarray(found.labels).tolist() == [0] * 5 + [1] + [2] * 5
    assert found.num_communities == 3
    assert "1 nodes have no edges" in found.notes[-1]


@pytest.mark.parametrize("method", METHODS)
def test_a_single_node_and_a_graph_without_edges(method):
    for size in (1, 3):
        found = renorm.communities(KEY, np.zeros((size, size)), method)
        assert np.asarray(found.labels).tolist() == list(range(size))


@pytest.mark.parametrize("method", ["spectral", "modularity"])
def test_zacharys_karate_club(method):
    # Spectral bisection misses the split that happened by a node or two; the best known
    # modularity is 0.4198 (Brandes et al. 2008).
    club = networkx.karate_club_graph()
    weights = networkx.to_numpy_array(club, weight=None)
    split = [club.nodes[node]["club"] == "Officer" for node in club]
    if method == "spectral":
        found = renorm.communities(KEY, weights, method, num_communities=2)
        assert adjusted_rand_score(split, found.labels) >= 0.77
    else:
        found = renorm.communities(KEY, weights, method)
        assert 0.40 < float(found.quality) <= 0.4198 + 1e-4
    groups = [set(np.flatnonzero(found.labels == i)) for i in range(found.num_communities)]
    graph = networkx.from_numpy_array(weights)
    np.testing.assert_allclose(
        float(found.quality), networkx.community.modularity(graph, groups), atol=1e-12
    )


def test_markov_stability_is_modularity_of_the_flow_and_to_first_order_of_the_graph():
    weights, truth = planted(2, (6, 7), 1.0, 0.2, 0.1)
    assignment = np.eye(2)[truth]
    groups = [set(np.flatnonzero(truth == i)) for i in range(2)]
    modularity = networkx.community.modularity(networkx.from_numpy_array(weights), groups)

    def stability(time):
        return renorm.markov_stability(weights, assignment, time)

    np.testing.assert_allclose(
        stability(0.0) + jax.jvp(stability, (0.0,), (1.0,))[1], modularity, atol=1e-12
    )
    # e^{-t (I - P)} by its series.
    degree = weights.sum(1)
    walk = weights / degree[:, None]
    power, series = np.eye(13), np.zeros((13, 13))
    for order in range(40):
        series += np.exp(-1.7) * power
        power = power @ walk * 1.7 / (order + 1)
    law = degree / degree.sum()
    flow = law[:, None] * series - np.outer(law, law)
    np.testing.assert_allclose(
        stability(1.7), np.trace(assignment.T @ flow @ assignment), atol=1e-12
    )
    found = renorm.communities(KEY, weights, "markov_stability", diffusion_time=3.0)
    np.testing.assert_array_equal(np.asarray(found.labels) == found.labels[0], truth == truth[0])
    np.testing.assert_allclose(found.quality, stability(3.0), atol=1e-12)


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_derivatives_of_markov_stability(argument):
    # Pairs of equal weights make the spectrum degenerate.
    weights = np.ones((5, 5)) - np.eye(5)
    weights[0, 1] = weights[1, 0] = 2.5
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), 5)
    args = [jnp.asarray(weights), jnp.asarray(shares), jnp.asarray(0.8)]
    change = jnp.asarray(rng.normal(size=args[argument].shape))

    @jax.jit
    def along(step):
        moved = [a + step * change if i == argument else a for i, a in enumerate(args)]
        return renorm.markov_stability(*moved)

    slope = jax.jit(jax.vmap(jax.grad(along)))(jnp.zeros(2))
    finite = (along(1e-4) - along(-1e-4)) / 2e-4
    np.testing.assert_allclose(slope, finite, rtol=1e-6)
    assert abs(finite) > 1e-4


def test_coarser_communities_at_longer_markov_times():
    # A ring of 12 cliques in 3 arcs: the walk leaves cliques long before arcs.
    truth = np.repeat(np.arange(12), 5)
    same = truth[:, None] == truth[None]
    arc = truth[:, None] // 4 == truth[None] // 4
    weights = np.where(same, 1.0, np.where(arc, 0.05, 0.001)) * (1 - np.eye(60))
    fine = renorm.communities(KEY, weights, "markov_stability", diffusion_time=0.5)
    coarse = renorm.communities(KEY, weights, "markov_stability", diffusion_time=20.0)
    assert adjusted_rand_score(truth, fine.labels) == 1
    assert adjusted_rand_score(truth // 4, coarse.labels) == 1
    # The specific heat has a peak between cliques and arcs.
    found = renorm.communities(KEY, weights, "diffusion_distance")
    assert adjusted_rand_score(truth, found.labels) == 1
    assert not any("no scale" in note for note in found.notes)


def test_the_block_model_finds_one_community_where_there_is_none():
    for seed in range(5):
        noise, _ = planted(seed, (60,), 0.0, 0.0, 1.0)
        found = renorm.communities(jax.random.key(seed), noise, "block_model", num_starts=3)
        assert found.num_communities == 1
        assert float(found.quality) == 0


def test_the_block_model_beats_eigenvectors_of_weak_noisy_scores():
    # Gain 20 x 0.8 over an edge of the bulk of 80^0.5: eigenvectors overlap by half, the optimum
    # of the model by more (each node's label is told by 20 scores of 0.8 each).
    gains = []
    for seed in range(6):
        scores, truth = planted(seed, (20,) * 4, 0.8, 0.0, 1.0)
        # Effects of single nodes are no communities.
        offset = np.random.default_rng(seed).normal(size=80)
        scores = scores + offset[:, None] + offset[None]
        ari = [
            adjusted_rand_score(
                truth, renorm.communities(KEY, scores, m, num_communities=4, num_starts=3).labels
            )
            for m in ("block_model", "spectral")
        ]
        gains.append(ari)
    block, spectral = np.mean(gains, 0)
    assert block > 0.6
    assert block > spectral + 0.2


def test_labels_do_not_depend_on_direction_scale_or_type():
    weights, truth = planted(4, (10, 12), 1.0, 0.2, 0.1)
    skew = np.random.default_rng(0).normal(size=weights.shape)
    directed = Graph(jnp.asarray(3 * (weights + skew - skew.T), jnp.float32))
    for method in ("spectral", "block_model"):
        found = renorm.communities(KEY, directed, method, num_communities=2)
        assert adjusted_rand_score(truth, found.labels) == 1
        assert found.quality.dtype == jnp.float32


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("leiden", {}, "method must be"),
        ("modularity", {"num_communities": 2}, "finds the number"),
        ("spectral", {"diffusion_time": 1.0}, "has no diffusion_time"),
        ("markov_stability", {"diffusion_time": -1.0}, "must be positive"),
        ("spectral", {"num_communities": 7}, "between 1 and"),
        ("spectral", {"num_starts": 0}, "num_starts"),
    ],
)
def test_refusals(method, options, match):
    with pytest.raises(ValueError, match=match):
        renorm.communities(KEY, np.ones((6, 6)), method, **options)


# --- from activity --------------------------------------------------------------------------------


def autoregressive(seed, num_bins=20_000, gain=0.1):
    """Three groups of 8 neurons driven by slow signals of their own, under strong noise."""
    rng = np.random.default_rng(seed)
    drive = np.zeros((3, num_bins))
    for t in range(1, num_bins):
        drive[:, t] = 0.9 * drive[:, t - 1] + rng.normal(size=3)
    truth = np.repeat(np.arange(3), 8)
    return gain * drive[truth] + rng.normal(size=(24, num_bins)), truth


def test_fading_correlation_is_the_sum_of_lagged_ones():
    values, _ = autoregressive(0, 300)
    mask = np.ones((2, 150), bool)
    mask[0, 60:70] = False
    epochs = values[:4].reshape(4, 2, 150).swapaxes(0, 1)
    tau, dt = 0.05, 0.01
    found = renorm.fading_correlation(Activity(epochs, dt, mask=mask), [tau])[0]
    # Straight from the definition, bin by bin.
    mean = epochs.swapaxes(0, 1)[:, mask].mean(1)
    spread = epochs.swapaxes(0, 1)[:, mask].std(1)
    z = (epochs - mean[:, None]) / spread[:, None]
    total, g = np.zeros((4, 4)), np.exp(-dt / tau)
    for epoch in range(2):
        past = np.zeros(4)
        for t in range(150):
            if mask[epoch, t]:
                total += np.outer(z[epoch, :, t], past)
                past = g * (past + z[epoch, :, t])
            else:
                past = np.zeros(4)
    expected = total / mask.sum() / np.sqrt(g**2 / (1 - g**2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_neurons_that_never_change_score_nothing():
    values = np.random.default_rng(2).standard_normal((4, 3000))
    values[2] = 0.1  # whose mean is not 0.1, by rounding
    found = renorm.fading_correlation(Activity(values, 0.01), [0.02])[0]
    assert not found[2].any()
    assert not found[:, 2].any()
    assert np.abs(found[0, 1]) > 0


def test_whole_numbers_are_weights_too():
    weights = np.kron(np.eye(2, dtype=int), np.ones((3, 3), int))
    assert float(renorm.communities(KEY, weights).quality) == pytest.approx(0.5)  # not 0, cut off


def test_communities_of_a_recording_and_the_time_they_live_for():
    values, truth = autoregressive(1, gain=0.05)
    found = renorm.infer_communities(KEY, Activity(values, 0.01), num_starts=2)
    assert found.communities.num_communities == 3
    assert adjusted_rand_score(truth, found.labels) == 1
    # The signals' own memory, 9.5 bins, is the matched filter; twice it has 0.935 of its power,
    # half of it 0.836.
    assert found.time_constant in (0.08, 0.16)
    assert np.argmax(found.evidence) == np.flatnonzero(found.time_constants == found.time_constant)
    part = renorm.infer_communities(
        KEY, Activity(values, 0.01), neurons=np.arange(16), time_constants=[0.1], num_starts=2
    )
    assert (np.asarray(part.labels)[16:] == -1).all()
    assert adjusted_rand_score(truth[:16], part.labels[:16]) == 1


def test_silent_neurons_are_communities_of_their_own():
    values, truth = autoregressive(2)
    spikes = np.concatenate([values > 1, np.zeros((1, values.shape[1]), bool)])
    raster = Raster(spikes.astype(np.uint8), 0.01)
    found = renorm.infer_communities(KEY, raster, num_communities=3, num_starts=2)
    assert adjusted_rand_score(truth, found.labels[:24]) == 1
    assert int(found.labels[24]) == 3
    with pytest.raises(ValueError, match="neurons must be"):
        renorm.infer_communities(KEY, raster, neurons=np.array([40]))
    with pytest.raises(ValueError, match="time_constants"):
        renorm.fading_correlation(raster, [0.0])


# --- stability ------------------------------------------------------------------------------------


def graph_fn(recording):
    return renorm.fading_correlation(recording, [0.08])[0]


def three(graph):
    return renorm.communities(KEY, graph, "spectral", num_communities=3)


def test_stability_of_partitions():
    values, truth = autoregressive(3)
    clear = Activity(values, 0.01)
    firm = renorm.stability(KEY, clear, graph_fn, three, block_duration=2.0, num_samples=4)
    np.testing.assert_allclose(firm.rand_index, 1)
    np.testing.assert_allclose(firm.kept, 1)
    np.testing.assert_allclose(firm.co_assignment[0], truth[:, None] == truth[None])
    assert firm.rank_correlation is None
    # Where there is nothing to find, one draw tells of no other.
    fog = Activity(np.random.default_rng(0).normal(size=(24, 2000)), 0.01)
    infer = partial(renorm.infer_graph, method="lagged")
    loose = renorm.stability(KEY, fog, infer, three, block_duration=0.5, num_samples=4)
    assert float(loose.rand_index.mean()) < 0.6
    with pytest.raises(ValueError, match="half the recording"):
        renorm.stability(KEY, fog, infer, three, block_duration=15.0)


def test_stability_of_an_order():
    # Neurons along a line: each shares its drive with its neighbours.
    rng = np.random.default_rng(0)
    place = np.arange(24)
    share = np.exp(-np.abs(place[:, None] - place[None]) / 4)
    drive = np.repeat(rng.normal(size=(24, 1000)), 10, axis=1)
    line = Activity(share @ drive + rng.normal(size=(24, 10_000)), 0.01)
    found = renorm.stability(
        KEY, line, graph_fn, renorm.fiedler_tree, block_duration=2.0, num_samples=3
    )
    assert isinstance(found.full, renorm.FiedlerTree)
    assert abs(np.corrcoef(found.full.order, place)[0, 1]) > 0.98
    assert found.rank_correlation is not None
    assert (np.asarray(found.rank_correlation) > 0.98).all()
    assert found.co_assignment.shape == (6, 24, 24)
    # One block of all, and one of each.
    np.testing.assert_allclose(found.kept[:, jnp.array([0, -1])], 1)
    np.testing.assert_allclose(found.rand_index[:, jnp.array([0, -1])], 1)
    assert (np.asarray(found.kept[:, 1]) > 0.8).all()
    # Share of pairs of the whole recording's halves that are together in each draw.
    halves = np.asarray(found.full.layers[1])
    pairs = (halves[:, None] == halves[None]) & ~np.eye(24, dtype=bool)
    np.testing.assert_allclose(
        np.asarray(found.co_assignment[1])[pairs].mean(), found.kept[:, 1].mean(), rtol=1e-6
    )


def test_trials_are_resampled_whole():
    values, _ = autoregressive(4)
    trials = Activity(values.reshape(24, 20, 1000).swapaxes(0, 1), 0.01)
    seen = []

    def partition_fn(recording):
        seen.append(np.asarray(recording.values))
        return renorm.infer_communities(
            KEY, recording, num_communities=3, time_constants=[0.08], num_starts=1
        )

    found = renorm.stability(KEY, trials, None, partition_fn, num_samples=2)
    np.testing.assert_allclose(found.rand_index, 1)
    whole = {trial.tobytes() for trial in seen[0]}
    for drawn in seen[1:]:
        assert drawn.shape == seen[0].shape
        assert {trial.tobytes() for trial in drawn} < whole
    with pytest.raises(ValueError, match="by trials"):
        renorm.stability(KEY, trials, None, partition_fn, block_duration=1.0)
    with pytest.raises(ValueError, match="needs a block_duration"):
        renorm.stability(KEY, Activity(values, 0.01), None, partition_fn)
