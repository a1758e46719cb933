"""Laplacians against known spectra, and the heat kernel with its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from neurofield.recording import Graph
from neurofield.renorm import diffusion_weights, heat_kernel, laplacian


def cycle(n):
    return np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)


def path(n):
    return np.eye(n, k=1) + np.eye(n, k=-1)


def star(n):
    weights = np.zeros((n, n))
    weights[0, 1:] = weights[1:, 0] = 1
    return weights


def complete(n):
    return np.ones((n, n)) - np.eye(n)


def torus(*sides):
    """Sums of cycles."""
    total = np.zeros((1, 1))
    for n in sides:
        total = np.kron(total, np.eye(n)) + np.kron(np.eye(len(total)), cycle(n))
    return total


def cycle_spectrum(n):
    return 2 - 2 * np.cos(2 * np.pi * np.arange(n) / n)


SPECTRA = {
    "cycle": (cycle(9), cycle_spectrum(9)),
    "path": (path(7), 2 - 2 * np.cos(np.pi * np.arange(7) / 7)),
    "star": (star(6), np.array([0, 1, 1, 1, 1, 6.0])),
    "complete": (complete(5), np.array([0, 5, 5, 5, 5.0])),
    "torus": (torus(4, 5), (cycle_spectrum(4)[:, None] + cycle_spectrum(5)[None]).ravel()),
    "disconnected": (
        scipy.linalg.block_diag(cycle(4), complete(3), [[0.0]]),
        np.array([0, 2, 2, 4, 0, 3, 3, 0.0]),
    ),
}
WEIGHTED = np.abs(np.random.default_rng(5).standard_normal((6, 6)))
DIRECTED_CYCLE = np.roll(np.eye(6), 1, 0)
ONE_WAY = scipy.linalg.block_diag(cycle(3), cycle(3))
ONE_WAY[3, 0] = 1


def spectrum(*args, **kwargs):
    return np.linalg.eigvalsh(np.asarray(laplacian(*args, **kwargs)))


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_combinatorial_spectra(name, dtype):
    weights, expected = SPECTRA[name]
    matrix = laplacian(weights.astype(dtype))
    assert matrix.dtype == dtype
    found = np.linalg.eigvalsh(np.asarray(matrix))
    np.testing.assert_allclose(found, np.sort(expected), atol=40 * np.finfo(dtype).eps)


def test_a_graph_and_its_matrix_have_one_laplacian():
    np.testing.assert_array_equal(laplacian(Graph(star(4))), laplacian(star(4)))


def test_normalised():
    # Star and complete graph: 1 -+ the eigenvalues of the walk, -1, 0 and 1 or -1 / (n - 1) and 1.
    np.testing.assert_allclose(spectrum(star(6), "normalised"), [0, 1, 1, 1, 1, 2], atol=1e-14)
    np.testing.assert_allclose(spectrum(complete(5), "normalised"), [0] + [1.25] * 4, atol=1e-14)
    # A node without edges is a component: eigenvalue 0, and no NaN.
    lone = scipy.linalg.block_diag(complete(3), [[0.0]])
    np.testing.assert_allclose(spectrum(lone, "normalised"), [0, 0, 1.5, 1.5], atol=1e-14)
    weights = np.asarray(diffusion_weights(WEIGHTED))
    degree = weights.sum(1)
    expected = np.eye(6) - weights / np.sqrt(degree[:, None] * degree[None])
    np.testing.assert_allclose(laplacian(weights, "normalised"), expected, atol=1e-14)


def test_signed():
    # Flipping the sign of nodes leaves the spectrum alone: balanced, so its lowest value is 0.
    sign = np.array([1, -1, 1, 1, -1, 1.0])
    weights = np.asarray(diffusion_weights(WEIGHTED))
    flipped = weights * sign[:, None] * sign[None]
    np.testing.assert_allclose(spectrum(flipped, "signed"), spectrum(weights), atol=1e-13)
    # A cycle with one negative edge is not: 2 - 2 cos((2 k + 1) pi / n), twisted by half a turn.
    odd = cycle(5)
    odd[0, 1] = odd[1, 0] = -1
    expected = np.sort(2 - 2 * np.cos((2 * np.arange(5) + 1) * np.pi / 5))
    np.testing.assert_allclose(spectrum(odd, "signed"), expected, atol=1e-14)
    # Self-loops are left out.
    np.testing.assert_array_equal(laplacian(odd - np.eye(5), "signed"), laplacian(odd, "signed"))


@pytest.mark.parametrize("charge", [0.0, 1 / 6, 0.25, 0.4])
def test_directed_cycle_in_a_field(charge):
    found = spectrum(DIRECTED_CYCLE, "magnetic", charge=charge)
    k = np.arange(6)
    expected = 1 - np.cos(2 * np.pi * k / 6 + 2 * np.pi * charge)
    np.testing.assert_allclose(found, np.sort(expected), atol=1e-14)


def test_directions_on_a_tree_are_gauge():
    rng = np.random.default_rng(1)
    tree = np.zeros((9, 9))
    for node in range(1, 9):
        ends = node, rng.integers(node)
        tree[ends if rng.random() < 0.5 else ends[::-1]] = rng.exponential()
    undirected = (tree + tree.T) / 2
    for charge in (0.1, 0.25, 0.45):
        found = spectrum(tree, "magnetic", charge=charge)
        np.testing.assert_allclose(found, spectrum(undirected), atol=1e-14)
    # One more edge closes a cycle, through which a field can be felt.
    tree[0, 8] += 1
    moved = spectrum(tree, "magnetic") - spectrum((tree + tree.T) / 2)
    assert np.abs(moved).max() > 1e-2


def test_magnetic_without_direction_is_combinatorial():
    weights = np.asarray(diffusion_weights(WEIGHTED))
    found = laplacian(weights, "magnetic", charge=0.3)
    np.testing.assert_allclose(found, np.asarray(laplacian(weights)) + 0j, atol=1e-15)
    assert laplacian(weights.astype(np.float32), "magnetic").dtype == np.complex64


def test_walk():
    # On a symmetric graph it is the normalised one.
    weights = np.asarray(diffusion_weights(WEIGHTED))
    np.testing.assert_allclose(
        laplacian(weights, "walk"), laplacian(weights, "normalised"), atol=1e-13
    )
    # On the directed cycle, whose law is uniform, the two directions average.
    expected = np.eye(6) - cycle(6) / 2
    np.testing.assert_allclose(laplacian(DIRECTED_CYCLE, "walk"), expected, atol=1e-14)
    # The law that a walker on a weighted directed graph comes to is its null vector's square.
    step = WEIGHTED / WEIGHTED.sum(0)[None]
    step = 0.9 * step + 0.1 / 6
    law = np.linalg.matrix_power(step, 300)[:, 0]
    null = np.asarray(laplacian(WEIGHTED, "walk", teleport=0.1)) @ np.sqrt(law)
    np.testing.assert_allclose(null, 0, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("combinatorial", {}), ("normalised", {}), ("signed", {}), ("magnetic", {}), ("walk", {})],
)
def test_hermitian_and_non_negative(kind, options):
    directed = kind in ("magnetic", "walk")
    weights = WEIGHTED if directed else np.asarray(diffusion_weights(WEIGHTED))
    matrix = np.asarray(laplacian(weights, kind, **options))
    np.testing.assert_allclose(matrix, matrix.conj().T, atol=1e-15)
    assert np.linalg.eigvalsh(matrix).min() > -1e-13


@pytest.mark.parametrize(
    ("kind", "weights", "options", "match"),
    [
        ("combinatorial", DIRECTED_CYCLE, {}, "symmetric"),
        ("combinatorial", -cycle(5), {}, "not negative"),
        ("normalised", -cycle(5), {}, "not negative"),
        ("signed", DIRECTED_CYCLE, {}, "symmetric"),
        ("magnetic", -DIRECTED_CYCLE, {}, "not negative"),
        ("magnetic", DIRECTED_CYCLE, {"charge": 0.5}, "charge"),
        ("magnetic", np.where(DIRECTED_CYCLE, np.inf, 0), {}, "finite"),
        ("walk", ONE_WAY, {}, "strongly connected"),
        ("walk", scipy.linalg.block_diag(cycle(3), cycle(3)), {}, "strongly connected"),
        ("walk", DIRECTED_CYCLE, {"teleport": 1.0}, "teleport"),
        ("combinatorial", np.ones((2, 3)), {}, "square|Type-check"),
        ("laplacian", cycle(5), {}, "kind must be"),
    ],
)
def test_refusals(kind, weights, options, match):
    with pytest.raises((ValueError, TypeError), match=match):
        laplacian(jnp.asarray(weights), kind, **options)


def test_heat_kernel_refuses_what_is_not_hermitian():
    # The kernel of the symmetric part would be another one.
    with pytest.raises(ValueError, match="Hermitian"):
        heat_kernel(jnp.asarray(np.eye(3) - np.eye(3, k=1)), 1.0)


def test_refusals_under_jit():
    with pytest.raises(Exception, match="symmetric"):
        jax.block_until_ready(jax.jit(laplacian)(jnp.asarray(DIRECTED_CYCLE)))


def fourth_order(fn, step):
    """Central difference of fn(h) at 0."""
    return (8 * (fn(step) - fn(-step)) - (fn(2 * step) - fn(-2 * step))) / (12 * step)


GRADED = {
    # kind: (weights of a vector of parameters, its length)
    "combinatorial": True,
    "normalised": True,
    "signed": True,
    "magnetic": False,
    "walk": False,
}


@pytest.mark.parametrize("kind", GRADED)
def test_gradients_of_laplacians(kind):
    """In the weights, the charge and the teleportation, forward and reverse."""

    def entry(weights, option):
        if GRADED[kind]:
            weights = diffusion_weights(weights)
        options = {"magnetic": {"charge": option}, "walk": {"teleport": option}}.get(kind, {})
        matrix = laplacian(weights, kind, **options)
        probe = jnp.asarray(np.random.default_rng(2).standard_normal((6, 6)))
        return jnp.sum(probe * (matrix.real + 2 * matrix.imag))

    at = jnp.asarray(WEIGHTED), jnp.asarray(0.2)
    change = np.random.default_rng(3).standard_normal((6, 6)), 0.6
    along = jax.jit(lambda h: entry(at[0] + h * change[0], at[1] + h * change[1]))
    expected = fourth_order(lambda h: float(along(h)), 3e-4)
    slope = jax.jit(jax.grad(entry, argnums=(0, 1)))(*at)
    reverse = np.sum(np.asarray(slope[0]) * change[0]) + 0.6 * slope[1]
    np.testing.assert_allclose(jax.jvp(along, (0.0,), (1.0,))[1], expected, rtol=1e-7)
    np.testing.assert_allclose(reverse, expected, rtol=1e-7)


# --- heat kernel ----------------------------------------------------------------------------------

DEGENERATE = {
    "8-cycle": (cycle(8), "combinatorial"),
    "complete": (complete(6), "combinatorial"),
    "disconnected": (SPECTRA["disconnected"][0], "combinatorial"),
    "star": (star(6), "normalised"),
    "magnetic": (DIRECTED_CYCLE, "magnetic"),
}


@pytest.mark.parametrize("time", [0.0, 0.3, 40.0])
@pytest.mark.parametrize("name", DEGENERATE)
def test_heat_kernel(name, time):
    weights, kind = DEGENERATE[name]
    matrix = laplacian(weights, kind)
    expected = scipy.linalg.expm(-time * np.asarray(matrix))
    np.testing.assert_allclose(heat_kernel(matrix, time), expected, atol=1e-13)
    single = laplacian(weights.astype(np.float32), kind)
    kernel = heat_kernel(single, time)
    assert kernel.dtype == single.dtype
    np.testing.assert_allclose(kernel, expected, atol=1e-5)


def hermitian(n, is_complex, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, n)) + 1j * is_complex * rng.standard_normal((n, n))
    x = (x + x.conj().T) / 2
    return x if is_complex else x.real


@pytest.mark.parametrize("name", DEGENERATE)
def test_heat_kernel_derivatives(name):
    """Against differences of SciPy's exponential, on degenerate spectra, under jit and vmap."""
    weights, kind = DEGENERATE[name]
    matrix = np.asarray(laplacian(weights, kind))
    is_complex = np.iscomplexobj(matrix)
    n = len(matrix)
    times = np.array([0.2, 1.5, 6.0])
    change, probe = hermitian(n, is_complex, 1), hermitian(n, is_complex, 2)

    def scalar(matrix, time):
        return jnp.sum(jnp.real(jnp.asarray(probe) * heat_kernel(matrix, time)))

    def reference(matrix, time):
        return np.sum((probe * scipy.linalg.expm(-time * matrix)).real)

    expected = np.array(
        [
            fourth_order(lambda h, t=t: reference(matrix + h * change, t + 0.7 * h), 1e-3)
            for t in times
        ]
    )

    def tangent(time):
        moved = (jnp.asarray(change), 0.7 * jnp.ones(()))
        return jax.jvp(scalar, (jnp.asarray(matrix), time), moved)[1]

    forward = jax.jit(jax.vmap(tangent))(jnp.asarray(times))
    both = jax.jit(jax.vmap(jax.grad(scalar, argnums=(0, 1)), in_axes=(None, 0)))
    slope, by_time = both(jnp.asarray(matrix), jnp.asarray(times))
    # JAX's gradient of a real function of z is the conjugate of the direction of ascent.
    reverse = np.sum(np.real(np.asarray(slope) * change[None]), axis=(1, 2)) + 0.7 * by_time
    scale = np.abs(expected).max()
    np.testing.assert_allclose(forward, expected, rtol=1e-7, atol=1e-9 * scale)
    np.testing.assert_allclose(reverse, expected, rtol=1e-7, atol=1e-9 * scale)
