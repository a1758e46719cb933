"""Ensembles of connections: what is drawn has the moments, degrees and overlaps that it should."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from sampling import assert_frequencies, assert_mean, rows

from neurofield.network._bernoulli import (
    cluster_labels,
    clustered,
    erdos_renyi,
    grid_positions,
    spatial,
)
from neurofield.network._block_statistics import independent_statistics
from neurofield.network._connectivity import block_statistics
from neurofield.network._dense import all_to_all, from_matrix, gaussian, low_rank
from neurofield.network._fixed_indegree import distinct, fixed_indegree
from neurofield.network._weights import LogNormal, Normal
from neurofield.recording import Graph

RNG = np.random.default_rng(5)
LEFT, RIGHT = RNG.normal(size=(16, 2)), RNG.normal(size=(16, 2)) + 1
PLACES = RNG.uniform(size=(9, 2)), RNG.uniform(size=(25, 2))
MATRIX = RNG.normal(size=(9, 25))
# For each: the rule, number of targets, number of sources.
CASES = {
    "gaussian": (gaussian(-1.5, 2.0), 9, 25),
    "gaussian, no autapses": (gaussian(-1.5, 2.0, autapses=False), 16, 16),
    "all to all": (all_to_all(0.3, autapses=False), 16, 16),
    "all to all, normal": (all_to_all(Normal(0.3, 0.2)), 9, 25),
    "Erdos-Renyi": (erdos_renyi(0.3, 0.5), 9, 25),
    "Erdos-Renyi, Dale": (erdos_renyi(0.3, Normal(0.5, 0.7, dale=True)), 9, 25),
    "Erdos-Renyi, log-normal": (erdos_renyi(0.6, LogNormal(-0.5, 0.3), autapses=False), 16, 16),
    "multapses": (fixed_indegree(7, 0.5), 9, 25),
    "multapses, normal": (fixed_indegree(7, Normal(0.5, 0.2), autapses=False), 16, 16),
    "simple": (fixed_indegree(5, -0.5, multapses=False), 9, 25),
    "simple, normal": (fixed_indegree(9, Normal(0.5, 0.2), multapses=False), 9, 25),
    "simple, no autapses": (fixed_indegree(3, 0.5, multapses=False, autapses=False), 16, 16),
    "ring": (spatial(0.8, 0.1, 0.5, autapses=False), 16, 16),
    "torus": (spatial(0.9, 0.2, 0.5, profile="exponential", dimensions=2), 9, 25),
    "places": (spatial(0.9, 0.2, Normal(0.5, 0.1), positions=PLACES), 9, 25),
    "clustered": (clustered(4, 0.2, 0.5, ratio=2.5, weight_factor=1.9, autapses=False), 16, 16),
    "clustered, normal": (clustered(3, 0.2, Normal(0.5, 0.2), ratio=4.0), 9, 25),
    "low rank": (low_rank(LEFT, RIGHT, 0.7), 16, 16),
    "low rank, no autapses": (low_rank(LEFT, RIGHT, 0.7, autapses=False), 16, 16),
    "matrix": (from_matrix(MATRIX), 9, 25),
}


@eqx.filter_jit
def realisations(rule, key, num_post, num_pre, number):
    keys = jax.random.split(key, number)
    return jax.vmap(lambda key: rows(rule, key, num_post, num_pre))(keys)


realised_statistics = jax.jit(jax.vmap(block_statistics))


# --- block statistics -----------------------------------------------------------------------------


# The rest are variations of these.
MAIN = {
    "gaussian, no autapses",
    "Erdos-Renyi, Dale",
    "multapses, normal",
    "simple, normal",
    "torus",
    "clustered",
    "low rank",
}


def marked(cases):
    return [pytest.param(case, marks=[pytest.mark.slow] * (case not in MAIN)) for case in cases]


@pytest.mark.parametrize("case", marked(CASES))
def test_ensemble_statistics_are_the_expected_realised_ones(case):
    rule, num_post, num_pre = CASES[case]
    weights = realisations(rule, jax.random.key(1), num_post, num_pre, 2000)
    realised = realised_statistics(weights)
    exact = block_statistics(rule, num_post, num_pre)
    for name in ("mean", "vQ", "vM"):
        assert_mean(getattr(realised, name), getattr(exact, name))


def test_statistics_give_the_variance_of_the_input():
    """Over targets, of the sum of independent random inputs: vQ Q - vM M^2, by enumeration."""
    weights = MATRIX[:, :6] + np.arange(6)
    states = np.array(list(itertools.product((0, 2.0), repeat=6)))
    chance = 0.3 ** (states > 0).sum(1) * 0.7 ** (states == 0).sum(1)
    variance = chance @ (states @ weights.T).var(axis=1, ddof=1)
    mean, square = 0.3 * 2, 0.3 * 4
    found = block_statistics(weights)
    np.testing.assert_allclose(found.vQ * square - found.vM * mean**2, variance, rtol=1e-12)
    np.testing.assert_allclose(found.mean, weights.sum(1).mean(), rtol=1e-12)


@pytest.mark.parametrize(
    ("rule", "expected", "rtol"),
    [
        (gaussian(1.5, 2.0), (1.5, 4.0, 0.0), 1e-12),
        (gaussian(1.5, 2.0, autapses=False), (1.5, 4.0, 0.0), 1e-5),
        (all_to_all(1e-6), (1.0, 0.0, 0.0), 1e-12),
        (erdos_renyi(1e-3, Normal(0.5, 0.2)), (500, 1000 * (0.999 * 0.25 + 0.04), 0), 1e-12),
        (fixed_indegree(1000, Normal(0.5, 0.2)), (500, 290, 250), 1e-5),
        (
            fixed_indegree(200_000, Normal(0.5, 0.2), multapses=False),
            (1e5, 2e5 * (0.8 * 0.25 + 0.04), 2e5 * 0.8 * 0.25),
            1e-12,
        ),
        (
            fixed_indegree(200_000, Normal(0.5, 0.2), multapses=False, autapses=False),
            (1e5, 2e5 * (0.8 * 0.25 + 0.04), 2e5 * 0.8 * 0.25),
            1e-5,
        ),
    ],
)
def test_table_of_mean_field_theory(rule, expected, rtol):
    """The textbook values, exact or up to terms of order 1/N, at N = 10^6."""
    found = block_statistics(rule, 10**6, 10**6)
    values = found.mean, found.vQ, found.vM
    np.testing.assert_allclose(values, expected, rtol=rtol, atol=1e-11)


def test_statistics_row_by_row_agree_with_closed_forms():
    """Clusters that make no difference, and a profile that is flat, are Erdos-Renyi."""
    weight = Normal(0.5, 0.2)
    for autapses in (True, False):
        exact = block_statistics(erdos_renyi(0.3, weight, autapses=autapses), 12, 12)
        others = (
            clustered(3, 0.3, weight, autapses=autapses),
            spatial(0.3, 1e9, weight, autapses=autapses),
        )
        for other in others:
            found = block_statistics(other, 12, 12)
            for name in ("mean", "vQ", "vM"):
                a, b = getattr(found, name), getattr(exact, name)
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_low_rank_statistics():
    found = block_statistics(low_rank(LEFT, RIGHT, 0.7))
    spread = np.cov(LEFT.T)  # of the targets' factors
    total = RIGHT.sum(0)
    between = np.trace(spread @ RIGHT.T @ RIGHT) / 16**2
    np.testing.assert_allclose(found.mean, LEFT.mean(0) @ total / 16, rtol=1e-12)
    np.testing.assert_allclose(found.vQ, 0.49 + between, rtol=1e-12)
    np.testing.assert_allclose(found.vM, between - total @ spread @ total / 16**2, rtol=1e-12)


def test_statistics_of_a_matrix_and_of_its_rule_and_graph_agree():
    square = MATRIX[:, :9]
    exact = block_statistics(square)
    for other in (from_matrix(square), Graph(square), jnp.asarray(square), square.tolist()):
        found = block_statistics(other)
        assert eqx.tree_equal(found, exact)
    one = independent_statistics(lambda i: (jnp.asarray(square)[i], jnp.zeros(9)), 9)
    for name in ("mean", "vQ", "vM"):
        np.testing.assert_allclose(getattr(one, name), getattr(exact, name), rtol=1e-12)


def test_one_target_has_the_variance_within_it():
    found = block_statistics(clustered(1, 0.3, Normal(0.5, 0.2)), 1, 10)
    np.testing.assert_allclose(found.vQ, 10 * 0.3 * (0.7 * 0.25 + 0.04), rtol=1e-12)
    assert found.vM == 0


# --- degrees, weights, overlaps -------------------------------------------------------------------


def test_erdos_renyi_degrees_weights_and_shared_inputs():
    weights = np.asarray(
        realisations(erdos_renyi(0.2, Normal(3.0, 0.5)), jax.random.key(3), 4, 50, 5000)
    )
    there = weights != 0
    degree = there.sum(2)
    assert_mean(degree[:, 0], 50 * 0.2)
    assert_mean((degree[:, 0] - 10) ** 2, 50 * 0.2 * 0.8)
    assert_mean((there[:, 0] & there[:, 1]).sum(1), 50 * 0.2**2)
    assert_mean(there.sum(1)[:, 7], 4 * 0.2)  # out-degree
    drawn = weights[there]
    assert_mean(drawn, 3.0)
    assert_mean((drawn - 3.0) ** 2, 0.25)


@pytest.mark.parametrize("autapses", [True, False])
@pytest.mark.parametrize("multapses", [True, False])
def test_fixed_indegree_degrees_and_shared_inputs(multapses, autapses):
    num, indegree = 20, 4
    rule = fixed_indegree(indegree, 1.0, multapses=multapses, autapses=autapses)
    count = np.asarray(realisations(rule, jax.random.key(4), num, num, 4000))
    assert (count.sum(2) == indegree).all()
    assert multapses == (count.max() > 1)
    others = num if autapses else num - 1
    p = indegree / others
    # Of the targets i and k, sources other than both have p each in either.
    shared = (count[:, 3] * count[:, 8]).sum(1)
    assert_mean(shared, others * p**2 if autapses else (num - 2) * p**2)
    out = count.sum(1)[:, 7]
    one = p * (1 - 1 / others) if multapses else p * (1 - p)
    assert_mean(out, others * p)
    assert_mean((out - others * p) ** 2, others * one)
    if not multapses and autapses:  # hypergeometric
        variance = indegree * p * (1 - p) * (num - indegree) / (num - 1)
        assert_mean((shared - indegree * p) ** 2, variance)
    if not autapses:
        assert (np.diagonal(count, axis1=1, axis2=2) == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("below", [12, 5])  # drawn again, and permuted
def test_all_sets_of_sources_are_equally_likely(below):
    sets = list(itertools.combinations(range(below), 3))
    keys = jax.random.split(jax.random.key(6), 40 * len(sets))
    drawn = np.sort(np.asarray(jax.jit(jax.vmap(lambda key: distinct(key, 3, below)))(keys)), 1)
    index = {one: i for i, one in enumerate(sets)}
    counts = np.bincount([index[tuple(row)] for row in drawn.tolist()], minlength=len(sets))
    assert_frequencies(counts, np.full(len(sets), 1 / len(sets)))


@pytest.mark.parametrize("multapses", [True, False])
def test_row_holds_the_inputs(multapses):
    rule = fixed_indegree(6, Normal(1.0, 0.3), multapses=multapses, autapses=False)
    for post in range(9):
        key = jax.random.fold_in(jax.random.key(7), post)
        sources, weights = rule.inputs(key, post, 9, 9)
        assert sources.shape == weights.shape == (6,)
        assert sources.dtype == jnp.int32
        expected = np.zeros(9)
        np.add.at(expected, np.asarray(sources), np.asarray(weights))
        np.testing.assert_allclose(rule.row(key, post, 9, 9), expected, rtol=1e-13)
    all_rows = rows(rule, jax.random.key(7), 9, 9)
    np.testing.assert_array_equal(all_rows[8], rule.row(key, 8, 9, 9))


def torus_distance(a, b):
    apart = np.abs(a[:, None] - b[None])
    return np.sqrt((np.minimum(apart, 1 - apart) ** 2).sum(2))


def expected_probability(case):
    """The same for each pair by NumPy."""
    if case == "ring":
        x = np.arange(16)[:, None] / 16
        return 0.8 * np.exp(-(torus_distance(x, x) ** 2) / 0.02) * (1 - np.eye(16))
    if case == "torus":
        grid = lambda n: np.array(list(itertools.product(np.arange(n) / n, repeat=2)))  # noqa: E731
        return 0.9 * np.exp(-torus_distance(grid(3), grid(5)) / 0.2)
    if case == "places":
        return 0.9 * np.exp(-(torus_distance(*PLACES) ** 2) / 0.08)
    labels = [np.repeat(range(4), 4)] * 2
    inside, outside, none = 0.2 * 2.5 * 4 / 5.5, 0.2 * 4 / 5.5, 1 - np.eye(16)
    if case == "clustered, normal":
        labels = np.repeat(range(3), 3), np.repeat(range(3), [9, 8, 8])
        inside, outside, none = 0.2 * 4 * 3 / 6, 0.2 * 3 / 6, 1
    return np.where(labels[0][:, None] == labels[1][None], inside, outside) * none


@pytest.mark.parametrize("case", ["ring", "torus", "places", "clustered", "clustered, normal"])
def test_each_pair_is_connected_with_its_probability(case):
    rule, num_post, num_pre = CASES[case]
    number = 4000
    there = np.asarray(realisations(rule, jax.random.key(8), num_post, num_pre, number)) != 0
    p = expected_probability(case)
    assert (there.sum(0)[p == 0] == 0).all()
    inner = p > 0
    z = (there.sum(0) - number * p)[inner] / np.sqrt(number * p * (1 - p))[inner]
    assert abs((z**2).sum() - inner.sum()) < 4 * np.sqrt(
        2 * inner.sum() + (1 / (p * (1 - p))[inner]).sum() / number
    )
    # Pairs are independent: the total is binomial.
    total = there.sum((1, 2))
    assert_mean(total, p.sum())
    assert_mean((total - p.sum()) ** 2, (p * (1 - p)).sum())


def test_clusters_keep_the_average_probability_and_scale_weights():
    labels = cluster_labels(1000, 50)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(50), 20))
    np.testing.assert_array_equal(np.bincount(cluster_labels(25, 3)), [9, 8, 8])
    rule = clustered(50, 0.2, 0.1, ratio=2.5, weight_factor=1.9)  # Litwin-Kumar and Doiron (2012)
    p_in, p_out = 0.2 * 2.5 * 50 / 51.5, 0.2 * 50 / 51.5
    np.testing.assert_allclose(p_in / 50 + p_out * 49 / 50, 0.2, rtol=1e-14)
    found = block_statistics(rule, 1000, 1000)
    np.testing.assert_allclose(found.mean, 20 * p_in * 0.19 + 980 * p_out * 0.1, rtol=1e-12)
    key, post = jax.random.key(9), 130
    row = np.asarray(rule.row(key, post, 1000, 1000))
    own = labels == labels[post]
    assert set(np.unique(row[own])) == {0, 0.19}
    assert set(np.unique(row[~own])) == {0, 0.1}


def test_spatial_indegrees_are_integrals_of_the_profile():
    """Sums over a fine grid are integrals: exactly (to rounding) for a smooth periodic profile."""
    degree = lambda rule, n: float(block_statistics(rule, n, n).mean)  # noqa: E731
    np.testing.assert_allclose(
        degree(spatial(0.5, 0.05, 1.0), 400), 400 * 0.5 * np.sqrt(2 * np.pi) * 0.05, rtol=1e-12
    )
    np.testing.assert_allclose(
        degree(spatial(0.5, 0.08, 1.0, dimensions=2), 400), 400 * np.pi * 0.08**2, rtol=1e-8
    )
    # A kink: the trapezoidal rule's relative error is about (spacing / width)^2 / 12.
    exponential = 400 * 0.5 * 2 * 0.05 * (1 - np.exp(-0.5 / 0.05))
    np.testing.assert_allclose(
        degree(spatial(0.5, 0.05, 1.0, profile="exponential"), 400), exponential, rtol=3e-4
    )


def test_grid_positions():
    np.testing.assert_allclose(grid_positions(4), [[0], [0.25], [0.5], [0.75]])
    np.testing.assert_allclose(grid_positions(4, 2), [[0, 0], [0, 0.5], [0.5, 0], [0.5, 0.5]])


@pytest.mark.parametrize("case", [name for name, one in CASES.items() if one[1] == one[2]])
def test_no_autapses(case):
    rule, num, _ = CASES[case]
    if case == "low rank":
        return
    weights = realisations(rule, jax.random.key(10), num, num, 200)
    assert (np.diagonal(weights, axis1=1, axis2=2) == 0).all()
    off = np.asarray(weights != 0).mean(0)[~np.eye(num, dtype=bool)]
    assert off.mean() > 0.1
    with pytest.raises(ValueError, match=r"autapses=False|is for 16 sources"):
        rows(rule, jax.random.key(0), num, num + 1)


def test_dense_gaussian_moments():
    weights = np.asarray(realisations(gaussian(-3.0, 2.0), jax.random.key(11), 2, 8, 20000))
    flat = weights.ravel()
    assert_mean(flat, -3 / 8)
    assert_mean((flat + 3 / 8) ** 2, 4 / 8)
    assert scipy.stats.kstest(flat, scipy.stats.norm(-3 / 8, np.sqrt(0.5)).cdf).pvalue > 1e-4
    # Rows, and columns, are independent.
    assert_mean((weights[:, 0, 3] + 3 / 8) * (weights[:, 1, 3] + 3 / 8), 0)
    assert_mean((weights[:, 0, 3] + 3 / 8) * (weights[:, 0, 5] + 3 / 8), 0)


def test_low_rank_rows():
    noiseless = rows(low_rank(LEFT, RIGHT), jax.random.key(0), 16, 16)
    np.testing.assert_allclose(noiseless, LEFT @ RIGHT.T / 16, rtol=1e-12, atol=1e-15)
    weights = realisations(low_rank(LEFT, RIGHT, 0.7), jax.random.key(12), 16, 16, 200)
    rest = (np.asarray(weights) - LEFT @ RIGHT.T / 16).ravel()
    assert scipy.stats.kstest(rest, scipy.stats.norm(0, 0.7 / 4).cdf).pvalue > 1e-4


# --- transformations ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    marked(
        [
            "Erdos-Renyi, Dale",
            "Erdos-Renyi, log-normal",
            "places",
            "clustered, normal",
            "matrix",
            "low rank, no autapses",
            "gaussian",
            "all to all",
            "multapses, normal",
            "simple, no autapses",
        ]
    ),
)
def test_jit_and_single_precision(case):
    rule, num_post, num_pre = CASES[case]
    key = jax.random.key(16)
    jitted = rows(rule, key, num_post, num_pre)
    assert jitted.shape == (num_post, num_pre)
    assert jitted.dtype == jnp.float64
    eager = rule.row(jax.random.fold_in(key, 3), 3, num_post, num_pre)
    np.testing.assert_allclose(jitted[3], eager, rtol=1e-12, atol=1e-15)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), rule)
    assert rows(single, key, num_post, num_pre).dtype == jnp.float32
    found, exact = (block_statistics(one, num_post, num_pre) for one in (single, rule))
    for name in ("mean", "vQ", "vM"):
        assert getattr(found, name).dtype == jnp.float32
        atol = 1e-5 * float(exact.vQ)  # vM is a difference
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), 1e-5, atol)


WEIGHTED = {
    "number": (lambda w: erdos_renyi(0.4, w), 0.5),
    "normal": (lambda w: fixed_indegree(6, Normal(w, 0.3)), 0.5),
    "normal sd": (lambda w: fixed_indegree(3, Normal(0.4, w), multapses=False), 0.5),
    "Dale": (lambda w: clustered(3, 0.3, Normal(w, 0.7, dale=True)), -0.5),
    "Dale sd": (lambda w: all_to_all(Normal(0.3, w, dale=True)), 0.5),
    "log-normal": (lambda w: spatial(0.8, 0.2, LogNormal(w, 0.3)), -0.5),
    "log-normal sd": (lambda w: spatial(0.8, 0.2, LogNormal(0.4, w)), 0.5),
    "factor": (lambda w: clustered(3, 0.3, 0.2, weight_factor=w), 1.9),
    "mean": (lambda w: gaussian(w, 2.0), 0.5),
    "gain": (lambda w: gaussian(0.3, w, autapses=False), 0.5),
    "left": (lambda w: low_rank(w * LEFT[:12], RIGHT[:12], 0.2), 0.5),
    "matrix": (lambda w: from_matrix(w * MATRIX[:, :9]), 0.5),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * (not case.startswith(("n", "D", "g", "f"))))
        for case in WEIGHTED
    ],
)
def test_derivative_and_vmap_over_weights(case):
    build, at = WEIGHTED[case]
    num = 9 if case == "matrix" else 12
    key, test = jax.random.key(17), jnp.asarray(RNG.normal(size=(num, num)))

    def total(w):
        return jnp.sum(test * rows(build(w), key, num, num))

    step = 1e-5
    several = jax.jit(jax.vmap(total))(jnp.array([at - step, at, at + step]))
    value, slope = jax.jit(jax.value_and_grad(total))(at)
    np.testing.assert_allclose(value, several[1], rtol=1e-12)
    numeric = (several[2] - several[0]) / (2 * step)
    assert abs(numeric) > 1e-3
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


def test_rules_with_a_batch_of_weights_are_for_vmap():
    rule = fixed_indegree(5, jnp.array([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"shape \(2,\).*vmap"):
        rule.row(jax.random.key(0), 0, 10, 10)
    with pytest.raises(ValueError, match=r"shape \(2,\).*vmap"):
        block_statistics(rule, 10, 10)
    found = jax.vmap(lambda one: block_statistics(one, 10, 10))(rule)
    np.testing.assert_allclose(found.mean, [0.5, 1.0], rtol=1e-12)
    assert jax.vmap(lambda one: one.row(jax.random.key(0), 0, 10, 10))(rule).shape == (2, 10)


@pytest.mark.parametrize(
    "build",
    [
        lambda p: erdos_renyi(p, 0.5),
        lambda p: clustered(3, p, 0.5, ratio=2.0),
        lambda p: clustered(3, 0.2, 0.5, ratio=p),
        lambda p: spatial(p, 0.2, 0.5),
        lambda p: spatial(0.8, p, 0.5),
    ],
)
def test_probabilities_have_no_derivative_but_in_the_statistics(build):
    key = jax.random.key(18)
    with pytest.raises(TypeError, match=r"no derivative with respect to the probability"):
        jax.grad(lambda p: rows(build(p), key, 9, 9).sum())(0.3)
    statistics = jax.jit(lambda p: block_statistics(build(p), 9, 9).vQ)
    numeric = (statistics(0.3 + 1e-5) - statistics(0.3 - 1e-5)) / 2e-5
    assert abs(numeric) > 1e-3
    np.testing.assert_allclose(jax.grad(statistics)(0.3), numeric, rtol=1e-6)


# --- errors ---------------------------------------------------------------------------------------


def test_sparse_matrix_and_graph():
    sparse = scipy.sparse.random_array((9, 25), density=0.3, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(from_matrix(sparse.tocsr()).weights, sparse.toarray())
    square = MATRIX[:, :9]
    rule = from_matrix(Graph(square))
    np.testing.assert_array_equal(rows(rule, jax.random.key(0), 9, 9), square)
    np.testing.assert_array_equal(from_matrix([[0, 1], [2, 3]]).weights, [[0.0, 1], [2, 3]])


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: erdos_renyi(1.1, 0.5), r"\[0, 1\]. Got 1.1"),
        (lambda: erdos_renyi(-0.1, 0.5), r"\[0, 1\]"),
        (lambda: erdos_renyi(float("nan"), 0.5), r"\[0, 1\]"),
        (lambda: erdos_renyi(0.1, float("inf")), r"finite"),
        (lambda: gaussian(0.0, -1.0), r"not negative"),
        (lambda: gaussian(float("nan"), 1.0), r"finite"),
        (lambda: fixed_indegree(0, 0.5), r"at least one"),
        (lambda: fixed_indegree(2.5, 0.5), r"whole number"),
        (lambda: fixed_indegree(11, 0.5, multapses=False).row(KEY, 0, 10, 10), r"11 .* from 10"),
        (
            lambda: block_statistics(
                fixed_indegree(10, 0.5, multapses=False, autapses=False), 10, 10
            ),
            r"10 sources cannot be drawn from 9 without multapses",
        ),
        (lambda: fixed_indegree(1, 0.5, autapses=False).row(KEY, 0, 1, 1), r"from 0"),
        (lambda: clustered(0, 0.2, 0.5), r"at least 1"),
        (lambda: clustered(3, 0.9, 0.5, ratio=5.0), r"within and between"),
        (lambda: clustered(3, 0.9, 0.5, ratio=-1.0), r"ratio"),
        (lambda: clustered(11, 0.2, 0.5).row(KEY, 0, 10, 10), r"between 1 and the 10"),
        (lambda: spatial(0.5, 0.0, 0.5), r"width"),
        (lambda: spatial(2.0, 0.1, 0.5), r"\[0, 1\]"),
        (lambda: spatial(0.5, 0.1, 0.5, profile="box"), r"'gaussian' or 'exponential'"),
        (lambda: spatial(0.5, 0.1, 0.5, dimensions=3), r"1 or 2"),
        (lambda: spatial(0.5, 0.1, 0.5, dimensions=2).row(KEY, 0, 10, 9), r"square number"),
        (lambda: spatial(0.5, 0.1, 0.5, positions=(PLACES[0], PLACES[1][:, 0])), r"shapes"),
        (lambda: spatial(0.5, 0.1, 0.5, positions=(PLACES[0], 2 * PLACES[1])), r"\[0, 1\]"),
        (lambda: spatial(0.5, 0.1, 0.5, positions=PLACES).row(KEY, 0, 9, 9), r"25 sources, got 9"),
        (lambda: low_rank(LEFT, RIGHT[:, :1]), r"rank"),
        (lambda: low_rank(LEFT * np.nan, RIGHT), r"finite"),
        (lambda: low_rank(LEFT, RIGHT).row(KEY, 0, 15, 16), r"16 targets, got 15"),
        (lambda: from_matrix(np.zeros(3)), r"\[post, pre\], got shape \(3,\)"),
        (lambda: from_matrix(np.full((2, 2), np.nan)), r"finite"),
        (lambda: from_matrix(scipy.sparse.csr_array((2**15, 2**14))), r"too many to hold"),
        (lambda: Normal(0.1, -0.1), r"not negative"),
        (lambda: Normal(0.1, 0.0, dale=True), r"positive"),
        (lambda: LogNormal(0.0, 0.1), r"not zero"),
        (lambda: LogNormal(0.1, 0.0), r"positive"),
        (lambda: block_statistics(erdos_renyi(0.1, 0.5)), r"give num_post and num_pre"),
        (lambda: block_statistics(np.zeros(3)), r"\[post, pre\]"),
        (lambda: block_statistics(np.zeros((1, 3))), r"needs two"),
        (lambda: block_statistics(from_matrix(MATRIX), 9, 24), r"25 sources, got 24"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_probabilities_are_checked():
    with pytest.raises(Exception, match=r"must lie in \[0, 1\]"):
        jax.jit(lambda p: rows(erdos_renyi(p, 0.5), KEY, 3, 3))(1.5).block_until_ready()
