"""Thermodynamics of graphs against closed forms, exact spectra and published reference curves."""

import csv
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_renorm_laplacian import (
    DIRECTED_CYCLE,
    SPECTRA,
    complete,
    cycle,
    cycle_spectrum,
    hermitian,
)

from neurofield.renorm import diffusion_weights, laplacian, thermodynamics

TABLES = Path(__file__).parent / "reference" / "renorm"
FIELDS = ("entropy", "specific_heat", "spectral_dimension", "log_partition")


def of_spectrum(values, times):
    """The definitions, from eigenvalues: S, C, d_s, ln Z, each `[time]`."""
    found = []
    for tau in np.asarray(times, float):
        weight = np.exp(-tau * (values - values.min()))
        partition = weight.sum()
        p = weight / partition
        mean = np.sum(p * values)
        entropy = -np.sum(p * np.log(p, where=p > 0, out=np.zeros_like(p)))
        found.append(
            [
                entropy,
                tau**2 * np.sum(p * (values - mean) ** 2),
                2 * tau * mean,
                np.log(partition) - tau * values.min(),
            ]
        )
    return dict(zip(FIELDS, np.array(found).T, strict=True))


TIMES = np.geomspace(1e-2, 1e5, 57)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_known_spectra(name, dtype):
    weights, values = SPECTRA[name]
    found = thermodynamics(laplacian(weights.astype(dtype)), TIMES)
    expected = of_spectrum(values, TIMES)
    # An eigenvalue 0 comes out as about 10 eps: tau times that is the error of d_s at late times.
    bound = np.maximum(1e-13, 20 * TIMES * np.finfo(dtype).eps * len(values))
    for field in FIELDS:
        value = getattr(found, field)
        assert value.dtype == dtype
        good = bound < 0.1
        error = np.abs(np.asarray(value) - expected[field])
        assert np.all((error <= bound + 1e-5 * (dtype == np.float32))[good]), (field, error)


def test_one_edge():
    """Two levels, 0 and 2: C = (tau / cosh tau)^2, at most 0.439229 at tau = 1.199679."""
    times = np.linspace(1.199678, 1.199680, 2001)
    heat = np.asarray(thermodynamics(laplacian(np.array([[0, 1.0], [1, 0]])), times).specific_heat)
    np.testing.assert_allclose(heat, (times / np.cosh(times)) ** 2, atol=1e-14)
    assert abs(heat.max() - 0.439229) < 5e-7
    # The maximum solves tau tanh(tau) = 1, to the six digits quoted.
    assert abs(1.199679 * np.tanh(1.199679) - 1) < 1e-6


@pytest.mark.parametrize("n", [3, 7, 30])
def test_complete_graph(n):
    times = np.geomspace(1e-3, 3, 40)
    boltzmann = (n - 1) * np.exp(-n * times)
    p = boltzmann / (1 + boltzmann)
    found = thermodynamics(laplacian(complete(n)), times)
    np.testing.assert_allclose(found.specific_heat, (n * times) ** 2 * p * (1 - p), atol=1e-12)
    np.testing.assert_allclose(found.log_partition, np.log1p(boltzmann), atol=1e-12)


def test_late_entropy_counts_components():
    weights, _ = SPECTRA["disconnected"]
    found = thermodynamics(laplacian(weights), np.array([1e2, 1e5]))
    np.testing.assert_allclose(found.entropy, np.log(3), atol=1e-9)
    np.testing.assert_allclose(found.specific_heat, 0, atol=1e-9)


def test_gap_without_a_zero_mode():
    """A frustrated signed cycle and a charged directed one, whose lowest eigenvalue is above 0."""
    odd = cycle(5)
    odd[0, 1] = odd[1, 0] = -1
    times = np.geomspace(0.1, 300, 30)
    twisted = 2 - 2 * np.cos((2 * np.arange(5) + 1) * np.pi / 5)
    charged = 1 - np.cos(2 * np.pi * np.arange(6) / 6 + np.pi / 2)
    for matrix, values in (
        (laplacian(odd, "signed"), twisted),
        (laplacian(DIRECTED_CYCLE, "magnetic"), charged),
    ):
        found, expected = thermodynamics(matrix, times), of_spectrum(values, times)
        for field in FIELDS:
            np.testing.assert_allclose(getattr(found, field), expected[field], atol=1e-10)


@pytest.mark.parametrize("time", [2.0, 5.0])
def test_identities_between_the_fields(time):
    """C = -dS/d ln tau and d_s = -2 d ln Z / d ln tau, by differences in tau."""
    matrix = laplacian(diffusion_weights(np.abs(hermitian(7, False, 4))))
    step = 1e-3
    around = time * np.exp(step * np.array([-2, -1, 0, 1, 2]))
    found = thermodynamics(matrix, around)
    stencil = np.array([1, -8, 0, 8, -1]) / (12 * step)
    np.testing.assert_allclose(found.specific_heat[2], -stencil @ found.entropy, rtol=1e-9)
    np.testing.assert_allclose(
        found.spectral_dimension[2], -2 * stencil @ found.log_partition, rtol=1e-9
    )


def test_refuses_what_is_no_state():
    matrix = np.eye(4) - np.eye(4, k=1)
    with pytest.raises(ValueError, match="Hermitian"):
        thermodynamics(jnp.asarray(matrix), np.ones(1))
    with pytest.raises(Exception, match="Hermitian"):
        jax.block_until_ready(jax.jit(thermodynamics)(jnp.asarray(matrix), jnp.ones(1)))


@pytest.mark.parametrize("time", [-1.0, np.inf, np.nan])
def test_refuses_what_is_no_time(time):
    with pytest.raises(ValueError, match="finite and not negative"):
        thermodynamics(laplacian(cycle(4)), np.array([1.0, time]))


DEGENERATE = {
    "8-cycle": laplacian(cycle(8)),
    "complete": laplacian(complete(6)),
    "disconnected": laplacian(SPECTRA["disconnected"][0]),
    "magnetic": laplacian(DIRECTED_CYCLE, "magnetic"),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_gradients_on_degenerate_spectra(name):
    """All four fields, in both modes, against differences of NumPy's eigenvalues."""
    matrix = np.asarray(DEGENERATE[name])
    times = np.array([0.3, 1.0, 4.0])
    change = hermitian(len(matrix), np.iscomplexobj(matrix), 3)
    step = 3e-4

    def reference(h):
        table = of_spectrum(np.linalg.eigvalsh(matrix + h * change), times)
        return np.stack([table[field] for field in FIELDS])

    expected = (
        8 * (reference(step) - reference(-step)) - (reference(2 * step) - reference(-2 * step))
    ) / (12 * step)

    @jax.jit
    def stacked(matrix):
        found = thermodynamics(matrix, times)
        return jnp.stack([getattr(found, field) for field in FIELDS])

    _, forward = jax.jvp(stacked, (jnp.asarray(matrix),), (jnp.asarray(change),))
    slopes = jax.vmap(jax.jacrev(stacked))(jnp.asarray(matrix)[None])[0]
    reverse = np.sum(np.real(np.asarray(slopes) * change[None, None]), axis=(2, 3))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(forward, expected, rtol=1e-7, atol=1e-9 * scale)
    np.testing.assert_allclose(reverse, expected, rtol=1e-7, atol=1e-9 * scale)


def test_gradient_in_the_times():
    def loss(times):
        return jnp.sum(thermodynamics(DEGENERATE["8-cycle"], times).entropy)

    times = jnp.asarray([0.5, 3.0])
    # dS / dtau = -C / tau.
    expected = -thermodynamics(DEGENERATE["8-cycle"], times).specific_heat / times
    np.testing.assert_allclose(jax.grad(loss)(times), expected, rtol=1e-12)


# --- reference curves of the theory note (section 2.3), made with SciPy ---------------------------


def table(name):
    with open(TABLES / name) as file:
        return list(csv.DictReader(file))


def gasket(generation):
    """Sierpinski gasket: three copies that share corners."""
    edges, corners, count = [(0, 1), (1, 2), (0, 2)], (0, 1, 2), 3
    for _ in range(generation):
        copies = np.array(edges)
        a, b, c = corners
        shift = [0, count, 2 * count]
        merged = {a + shift[1]: b, a + shift[2]: c, b + shift[2]: c + shift[1]}
        all_edges = np.concatenate([copies + s for s in shift])
        names = {node: merged.get(node, node) for node in range(3 * count)}
        kept = {node: i for i, node in enumerate(sorted(set(names.values())))}
        edges = [(kept[names[i]], kept[names[j]]) for i, j in all_edges.tolist()]
        corners = kept[a], kept[b + shift[1]], kept[c + shift[2]]
        count = len(kept)
    return edges, count


def flower(short, long, generations):
    """(u, v)-flower: each edge becomes two parallel paths, of u and v edges."""
    edges, count = [(0, 1)], 2
    for _ in range(generations):
        new = []
        for i, j in edges:
            for length in (short, long):
                nodes = [i, *range(count, count + length - 1), j]
                count += length - 1
                new += list(itertools.pairwise(nodes))
        edges = new
    return edges, count


def adjacency(edges, count):
    weights = np.zeros((count, count))
    for i, j in edges:
        weights[i, j] = weights[j, i] = 1
    return weights


def sums(*spectra):
    total = np.zeros(1)
    for values in spectra:
        total = (total[:, None] + values[None]).ravel()
    return total


CURVES = {
    "ring_N1024": lambda: cycle_spectrum(1024),
    "torus2d_64x64": lambda: sums(cycle_spectrum(64), cycle_spectrum(64)),
    "torus3d_16^3": lambda: sums(*[cycle_spectrum(16)] * 3),
    "gasket_g6": lambda: adjacency(*gasket(6)),
    "flower_2_2_n5": lambda: adjacency(*flower(2, 2, 5)),
    "flower_1_2_n6_DGM": lambda: adjacency(*flower(1, 2, 6)),
}
SLOW = {"gasket_g6", "flower_2_2_n5"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CURVES]
)
def test_reference_curves(name):
    rows = table("lrg_reference_C_of_tau.csv")
    times = np.array([float(row["tau"]) for row in rows])
    expected = np.array([float(row[name]) for row in rows])
    graph = CURVES[name]()
    # A diagonal matrix has its spectrum on it: large tori need no eigensolver of ours.
    if graph.ndim == 1:
        heat = of_spectrum(graph, times)["specific_heat"]
        values = np.sort(graph)
    else:
        heat = thermodynamics(laplacian(graph), times).specific_heat
        values = np.linalg.eigvalsh(np.asarray(laplacian(graph)))
    # The table has eight digits of times and values.
    np.testing.assert_allclose(heat, expected, rtol=3e-7, atol=1e-9)
    row = next(r for r in table("lrg_reference_summary.csv") if r["graph"] == name)
    assert len(values) == int(row["N"])
    np.testing.assert_allclose(values[1], float(row["lambda_2(lambda_min+)"]), rtol=1e-8)
    np.testing.assert_allclose(values[-1], float(row["lambda_max"]), rtol=1e-8)
