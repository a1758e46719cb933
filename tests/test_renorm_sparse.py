"""Laplacians and thermodynamics of sparse graphs, against the dense ones and exact spectra."""

import csv
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
import scipy.sparse
from test_renorm_laplacian import cycle_spectrum, torus
from test_renorm_thermodynamics import FIELDS, of_spectrum

from neurofield.recording import SparseGraph
from neurofield.renorm import diffusion_weights, laplacian, thermodynamics
from neurofield.renorm.diffusion import _traces
from neurofield.renorm.diffusion._lanczos import BLOCK, low_modes

RNG = np.random.default_rng(0)
NUM_NODES = 90


def directed():
    """With a hub whose row is cut into pieces, self-loops, and a node without edges."""
    weights = (RNG.random((NUM_NODES,) * 2) < 0.05) * RNG.exponential(size=(NUM_NODES,) * 2)
    weights[0, 1:80] = 1
    np.fill_diagonal(weights, RNG.random(NUM_NODES))
    weights[-1] = weights[:, -1] = 0
    return weights


DIRECTED = directed()
SYMMETRIC = (DIRECTED + DIRECTED.T) / 2
FRUSTRATED = SYMMETRIC * np.sign(np.add.outer(*[RNG.standard_normal(NUM_NODES)] * 2))
SIGNS = np.where(RNG.random(NUM_NODES) < 0.5, -1.0, 1.0)
BALANCED = SYMMETRIC * SIGNS[:, None] * SIGNS[None]
KINDS = {
    "combinatorial": (SYMMETRIC, "combinatorial"),
    "normalised": (SYMMETRIC, "normalised"),
    "frustrated": (FRUSTRATED, "signed"),
    "balanced": (BALANCED, "signed"),
    "magnetic": (DIRECTED, "magnetic"),
}


# Everything compiles once a kind: the other kinds run with the slow tests.
some_kinds = pytest.mark.parametrize(
    "name",
    [pytest.param(k, marks=[pytest.mark.slow] * (k != "combinatorial")) for k in KINDS],
)


def sparse(weights):
    return SparseGraph.from_scipy(scipy.sparse.coo_array(weights))


def grid(*sides):
    """A torus too large for a matrix."""
    nodes = np.arange(np.prod(sides)).reshape(sides)
    pairs = [(nodes.ravel(), np.roll(nodes, 1, axis).ravel()) for axis in range(len(sides))]
    pre, post = np.concatenate(pairs, axis=1)
    ends = np.r_[pre, post], np.r_[post, pre]
    return SparseGraph(*ends, np.ones(len(pre) * 2), nodes.size)


def grid_spectrum(first, second):
    return (cycle_spectrum(first)[:, None] + cycle_spectrum(second)[None]).ravel()


@pytest.mark.parametrize("name", KINDS)
def test_product_is_that_of_the_matrix(name):
    weights, kind = KINDS[name]
    matrix, operator = laplacian(weights, kind), laplacian(sparse(weights), kind)
    x = RNG.standard_normal((NUM_NODES, 5))
    expected = np.asarray(matrix) @ x
    np.testing.assert_allclose(operator @ jnp.asarray(x), expected, atol=1e-12)
    np.testing.assert_allclose(operator @ jnp.asarray(x[:, 0]), expected[:, 0], atol=1e-12)
    values = np.linalg.eigvalsh(matrix)
    assert float(operator.bound()) >= values[-1]
    # Null modes: as many as there are, except that a magnetic Laplacian says nothing of them.
    assert operator.num_null == (0 if kind == "magnetic" else np.sum(values < 1e-10))
    if operator.num_null:
        ones = jnp.eye(NUM_NODES)
        inside = np.asarray(ones - operator.without_null(ones))
        assert np.trace(inside) == pytest.approx(operator.num_null)
        np.testing.assert_allclose(operator.product(jnp.asarray(inside)), 0, atol=1e-12)
    single = laplacian(sparse(weights.astype(np.float32)), kind)
    assert (single @ jnp.asarray(x, jnp.float32)).dtype == np.asarray(single.hops[0]).dtype
    assert single.dtype in (np.float32, np.complex64)


@some_kinds
def test_product_is_differentiable_in_the_weights(name):
    weights, kind = KINDS[name]
    graph = sparse(weights)
    x = jnp.asarray(RNG.standard_normal((NUM_NODES, 3)))

    def through(make):
        def loss(values):
            matrix = make(values)
            y = matrix @ x.astype(matrix.dtype)
            return jnp.sum(y.real**2) + jnp.sum(y.imag)

        return np.asarray(jax.grad(loss)(graph.weights))

    def symmetric(matrix):
        return matrix if kind == "magnetic" else (matrix + matrix.T) / 2

    def by_matrix(values):
        dense = jnp.zeros((NUM_NODES,) * 2).at[graph.post, graph.pre].set(values)
        return laplacian(symmetric(dense), kind)

    @jax.jit
    def by_edges(values):
        return laplacian(eqx.tree_at(lambda g: g.weights, graph, values), kind)

    np.testing.assert_allclose(through(by_edges), through(by_matrix), rtol=1e-9, atol=1e-11)


def test_diffusion_weights():
    found = diffusion_weights(sparse(DIRECTED - 0.3)).to_dense().weights
    np.testing.assert_allclose(found, diffusion_weights(DIRECTED - 0.3), atol=1e-15)


def test_refusals():
    graph = sparse(DIRECTED)
    with pytest.raises(ValueError, match="symmetric"):
        laplacian(graph)
    with pytest.raises(ValueError, match="not negative"):
        laplacian(sparse(-SYMMETRIC))
    with pytest.raises(ValueError, match="kind"):
        laplacian(graph, "walk")
    with pytest.raises(ValueError, match="charge"):
        laplacian(graph, "magnetic", charge=0.7)
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(laplacian)(graph)
    operator = laplacian(graph, "magnetic")
    with pytest.raises(ValueError, match="key"):
        thermodynamics(operator, np.ones(1))
    with pytest.raises(ValueError, match="num_probes"):
        thermodynamics(operator, np.ones(1), key=jax.random.key(0), num_probes=1)


@some_kinds
def test_all_modes_give_the_exact_result(name):
    """With every mode asked for, nothing is left to the probes."""
    weights, kind = KINDS[name]
    times = np.geomspace(1e-2, 1e3, 9)
    exact = thermodynamics(laplacian(weights, kind), times)
    found = thermodynamics(
        laplacian(sparse(weights), kind), times, key=jax.random.key(0), num_low_modes=NUM_NODES
    )
    for field in FIELDS:
        expected = np.asarray(getattr(exact, field))
        np.testing.assert_allclose(getattr(found, field), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["combinatorial", "frustrated", "magnetic"])
def test_probes_are_unbiased(name):
    """Errors of 30 independent runs have the size that their error bars say."""
    weights, kind = KINDS[name]
    times = np.array([0.05, 0.5, 3.0])
    exact = thermodynamics(laplacian(weights, kind), times)
    operator = laplacian(sparse(weights), kind)
    runs = [
        thermodynamics(operator, times, key=key, num_probes=16, num_steps=60, num_low_modes=6)
        for key in jax.random.split(jax.random.key(1), 30)
    ]
    for field in FIELDS:
        values = np.stack([getattr(run, field) for run in runs])
        errors = np.stack([getattr(run, field + "_error") for run in runs])
        spread = values.std(axis=0, ddof=1)
        z = (values.mean(axis=0) - np.asarray(getattr(exact, field))) / (spread / np.sqrt(30))
        assert np.all(np.abs(z) < 4), (field, z)
        # The variance of 30 runs is known to sqrt(2 / 29), that of the jackknife is better.
        ratio = np.sqrt(np.mean(errors**2, axis=0)) / spread
        assert np.all((ratio > 0.55) & (ratio < 1.8)), (field, ratio)


# --- gradients ------------------------------------------------------------------------------------


def hadamard(size):
    rows = np.ones((1, 1))
    while len(rows) < size:
        rows = np.block([[rows, rows], [rows, -rows]])
    return rows


SMALL = torus(8, 8) * np.exp(0.3 * RNG.standard_normal((64, 64)))
SMALL = (SMALL + SMALL.T) / 2
TIMES = np.array([0.2, 1.0, 6.0])


@pytest.mark.parametrize("num_modes", [0, 15])
@pytest.mark.parametrize(
    "kind",
    [
        "combinatorial",
        pytest.param("normalised", marks=pytest.mark.slow),
        pytest.param("magnetic", marks=pytest.mark.slow),
    ],
)
def test_gradient_with_a_complete_set_of_probes(kind, num_modes, monkeypatch):
    """Probes whose outer products add up to the identity leave no noise: it is the exact one."""
    signs = jnp.asarray(hadamard(64))

    def complete_set(key, index, operator, modes):
        block = jax.lax.dynamic_slice_in_dim(signs, BLOCK * index, BLOCK, axis=1)
        return modes.project_out(operator.without_null(block.astype(operator.dtype)))

    monkeypatch.setattr(_traces, "_probes", complete_set)
    weights = SMALL * RNG.uniform(0.5, 1.5, SMALL.shape) if kind == "magnetic" else SMALL
    graph = sparse(weights)
    share = RNG.standard_normal((4, len(TIMES)))

    def total(found):
        return sum(jnp.sum(c * getattr(found, f)) for c, f in zip(share, FIELDS, strict=True))

    def estimate(values):
        operator = laplacian(eqx.tree_at(lambda g: g.weights, graph, values), kind)
        sizes = {"num_probes": 64, "num_steps": 50, "num_low_modes": num_modes}
        return total(thermodynamics(operator, TIMES, key=jax.random.key(0), **sizes))

    def exact(values):
        dense = jnp.zeros((64, 64)).at[graph.post, graph.pre].set(values)
        dense = dense if kind == "magnetic" else (dense + dense.T) / 2
        return total(thermodynamics(laplacian(dense, kind), TIMES))

    value, slope = jax.jit(jax.value_and_grad(estimate))(graph.weights)
    expected, expected_slope = jax.value_and_grad(exact)(graph.weights)
    assert float(value) == pytest.approx(float(expected), rel=1e-9)
    scale = np.abs(expected_slope).max()
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-7, atol=1e-7 * scale)


@pytest.mark.slow
def test_gradient_is_unbiased():
    """Derivatives along one change of the weights, over 30 sets of probes."""
    graph = sparse(SYMMETRIC)
    change = RNG.uniform(0.2, 1, (NUM_NODES,) * 2)
    change = (change + change.T)[np.asarray(graph.post), np.asarray(graph.pre)]
    time = np.array([0.7])

    def entropy(values, key):
        operator = laplacian(eqx.tree_at(lambda g: g.weights, graph, values))
        options = {"num_probes": 8, "num_steps": 50, "num_low_modes": 4}
        return thermodynamics(operator, time, key=key, **options).entropy[0]

    slopes = jax.jit(jax.grad(entropy))
    keys = jax.random.split(jax.random.key(3), 30)
    found = np.array([np.sum(slopes(graph.weights, key) * change) for key in keys])

    def exact(h):
        dense = graph.to_dense().weights.at[graph.post, graph.pre].add(h * change)
        return thermodynamics(laplacian((dense + dense.T) / 2), time).entropy[0]

    z = (found.mean() - jax.grad(exact)(0.0)) / (found.std(ddof=1) / np.sqrt(30))
    # S is not linear in the traces: a bias of the order of 1 / num_probes of the spread remains.
    assert abs(z) < 4
    assert found.std(ddof=1) < abs(found.mean())


@pytest.mark.slow
def test_gradient_in_the_times():
    operator = laplacian(sparse(FRUSTRATED), "signed")

    def estimate(times):
        options = {"num_probes": 8, "num_steps": 40, "num_low_modes": 4}
        return thermodynamics(operator, times, key=jax.random.key(0), **options)

    times = jnp.asarray([0.3, 2.0])
    found = estimate(times)
    for field, slope in (
        ("entropy", -found.specific_heat / times),
        ("log_partition", -found.spectral_dimension / (2 * times)),
    ):
        gradient = jax.grad(lambda t, field=field: jnp.sum(getattr(estimate(t), field)))(times)
        np.testing.assert_allclose(gradient, slope, rtol=1e-9)


def test_a_single_node():
    graph = SparseGraph(np.zeros(0, int), np.zeros(0, int), np.zeros(0), 1)
    found = thermodynamics(laplacian(graph), np.array([1.0]), key=jax.random.key(0))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), 0.0)


@pytest.mark.slow
def test_single_precision_and_vmap():
    times = np.geomspace(0.1, 100, 5)
    graph = grid(30, 31)
    single = SparseGraph(graph.pre, graph.post, graph.weights.astype(np.float32), graph.num_nodes)
    options = {"num_probes": 16, "num_steps": 40, "num_low_modes": 16}

    def entropy(graph, key):
        return thermodynamics(laplacian(graph), times, key=key, **options).entropy

    keys = jax.random.split(jax.random.key(0), 2)
    double = jnp.stack([entropy(graph, key) for key in keys])
    short = jax.vmap(lambda key: entropy(single, key))(keys)
    assert short.dtype == np.float32
    # The probes are the same; single precision has 1e-7 of 930 nodes' traces.
    np.testing.assert_allclose(short, double, atol=2e-3)


# --- accuracy -------------------------------------------------------------------------------------

LATE = np.geomspace(1e-2, 1e5, 141)


def test_low_modes_of_a_torus():
    operator = laplacian(grid(60, 61))
    modes = low_modes(jax.random.key(0), operator, 40, 60)
    expected = np.sort(grid_spectrum(60, 61))[1:41]
    assert np.all(modes.found)
    # Residuals within 2 % of the eigenvalue: its own error is the square of that, over the gap to
    # the modes that were filtered out.
    np.testing.assert_allclose(modes.values, expected, rtol=2e-3)
    vectors = np.asarray(modes.vectors)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(40), atol=1e-10)
    image = np.asarray(operator.product(modes.vectors))
    residual = np.linalg.norm(image - vectors * np.asarray(modes.values)[None], axis=0)
    assert np.all(residual <= 0.02 * modes.values)


def errors(operator, values, **options):
    found = thermodynamics(operator, LATE, key=jax.random.key(2), **options)
    exact = of_spectrum(values, LATE)
    return [
        np.abs(np.asarray(getattr(found, field)) - exact[field]).max()
        for field in ("entropy", "specific_heat")
    ]


SIZES = {
    "n4k": (64, 65),
    "n20k": (141, 142),
    "n100k": (316, 317),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["n4k", "n20k", "n100k"])
def test_tori(name):
    """S within 0.02 at all times, of graphs whose spectrum is known."""
    sides = SIZES[name]
    entropy, _ = errors(laplacian(grid(*sides)), grid_spectrum(*sides))
    assert entropy < 0.02


def random_tree(n, seed):
    """A uniform one, from its Pruefer code."""
    code = np.random.default_rng(seed).integers(n, size=n - 2).tolist()
    return networkx.from_prufer_sequence(code)


ACCURACY = {
    "torus64": lambda: (grid(64, 64), grid_spectrum(64, 64)),
    "BA1024_m3": lambda: of_networkx(networkx.barabasi_albert_graph(1024, 3, seed=0)),
    "random_tree1024": lambda: of_networkx(random_tree(1024, 0)),
}


def of_networkx(graph):
    matrix = networkx.to_scipy_sparse_array(graph, dtype=float)
    weights = matrix.toarray()
    values = np.linalg.eigvalsh(np.diag(weights.sum(1)) - weights)
    return SparseGraph.from_scipy(matrix), values


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCURACY)
def test_not_worse_than_the_reference(name):
    """The mean over runs of the largest errors of S and C, at the table's numbers of everything."""
    path = Path(__file__).parent / "reference" / "renorm" / "lrg_slq_accuracy.csv"
    with open(path) as file:
        rows = list(csv.DictReader(file))
    row = next(
        r
        for r in rows
        if r["graph"] == name and r["method"].startswith("64") and r["probes"] == "40"
    )
    graph, values = ACCURACY[name]()
    operator, exact = laplacian(graph), of_spectrum(values, LATE)
    worst = []
    for key in jax.random.split(jax.random.key(0), 8):
        options = {"num_probes": 40, "num_steps": 40, "num_low_modes": 64}
        found = thermodynamics(operator, LATE, key=key, **options)
        worst.append(
            [
                np.abs(np.asarray(getattr(found, f)) - exact[f]).max()
                for f in ("entropy", "specific_heat")
            ]
        )
    mean, spread = np.mean(worst, axis=0), np.std(worst, axis=0, ddof=1) / np.sqrt(8)
    table = np.array([float(row["mean max|S-S_exact| (nats)"]), float(row["mean max|C-C_exact|"])])
    # The table's entries are means of few runs themselves.
    assert np.all(mean < table + 3 * spread), (mean, spread, table)
