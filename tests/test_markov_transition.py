"""The map's kernel: exact values, independent quadrature, both limits, derivatives, one step."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from neurofield import markov
from neurofield.markov import _transition as kernel

# 36 values in arithmetic of 40 digits, and one step of the published program run in Octave
# (github.com/changjie98/dsODE, Chang et al. 2025).
_REFERENCE = Path(__file__).parent / "reference" / "markov"

_cumulative = jax.jit(kernel.cumulative)


def _table(name):
    return np.loadtxt(_REFERENCE / name, delimiter=",", skiprows=1)


@pytest.mark.parametrize(
    ("dtype", "f_error", "g_error"), [("float64", 2e-15, 1e-13), ("float32", 3e-6, 3e-4)]
)
def test_exact_values(dtype, f_error, g_error):
    """In single precision the rows at 96 mV have voltages to 8e-6 mV, at densities of up to 0.4."""
    low, high, mean, deviation, x, f, g = _table("kernel_test.csv").T.astype(dtype)
    found = _cumulative(*(jnp.asarray(a) for a in (x, low, high, mean, deviation)))
    assert found[0].dtype == dtype
    assert np.max(np.abs(found[0] - f)) < f_error
    assert np.max(np.abs(found[1] - g)) < g_error


def _by_quadrature(x, low, high, mean, deviation):
    """Over the piece: of the normal distribution function and its partial expectation."""

    def below(u):
        return stats.norm.cdf((x - mean - u) / deviation)

    def part(u):
        z = (x - mean - u) / deviation
        return (mean + u) * stats.norm.cdf(z) - deviation * stats.norm.pdf(z)

    jumps = x - mean + deviation * np.array([-7, -3, -1, 0, 1, 3, 7])
    inside = [p for p in jumps if low < p < high]
    ends = [low, *inside, high]
    pairs = list(itertools.pairwise(ends))
    return [
        sum(integrate.quad(what, *pair, epsabs=1e-16, epsrel=1e-13)[0] for pair in pairs)
        / (high - low)
        for what in (below, part)
    ]


@pytest.mark.parametrize("width", [1e-4, 0.03, 0.5, 4.0])
@pytest.mark.parametrize("deviation", [1e-3, 0.05, 1.0, 30.0])
def test_quadrature(width, deviation):
    """From a piece that is a point to the noise to one beside which the noise is none."""
    low, mean = 1.0, 0.25
    scale = max(width, deviation)
    x = low + mean + scale * np.array([-5.0, -1.2, 0.0, 0.4, 1.0, 2.5])
    args = [jnp.full(x.shape, a) for a in (low, low + width, mean, deviation)]
    found = np.array(_cumulative(jnp.asarray(x), *args))
    expected = [_by_quadrature(a, low, low + width, mean, deviation) for a in x]
    # The rounding of x - mean - low, felt against the density, and the quadrature's own error.
    tolerance = (1 + np.abs(x).max()) * (1e-15 / min(scale, 1) + 1e-12)
    np.testing.assert_allclose(found, np.array(expected).T, rtol=0, atol=tolerance)


def test_limits():
    """No noise: a clipped ramp. No width: a normal distribution. Neither: a step."""
    x = jnp.linspace(-3, 3, 13) + 0.01
    zero = jnp.zeros_like(x)
    ramp, first = _cumulative(x, zero - 1, zero + 1, zero + 0.5, zero)
    top = np.clip(x - 0.5, -1, 1)
    np.testing.assert_allclose(ramp, (top + 1) / 2, atol=1e-14)
    np.testing.assert_allclose(first, ((top + 0.5) ** 2 - 0.25) / 4, atol=1e-12)
    normal, first = _cumulative(x, zero + 1, zero + 1, zero + 0.5, zero + 2)
    z = (np.asarray(x) - 1.5) / 2
    np.testing.assert_allclose(normal, stats.norm.cdf(z), atol=1e-15)
    np.testing.assert_allclose(first, 1.5 * stats.norm.cdf(z) - 2 * stats.norm.pdf(z), atol=1e-14)
    step, first = _cumulative(x, zero + 1, zero + 1, zero, zero)
    np.testing.assert_array_equal(step, x > 1)
    np.testing.assert_allclose(first, x > 1, atol=1e-14)


def _pieces(dtype, number=4000):
    """x, low, high, mean, deviation over many decades, around where the mass is."""
    rng = np.random.default_rng(7)
    low = rng.uniform(-40, 96, number)
    width = 10 ** rng.uniform(-4, 0.6, number)
    mean = 10 * rng.normal(size=number)
    deviation = 10 ** rng.uniform(-4, 1.7, number)
    x = low + mean + 3 * np.maximum(width, deviation) * rng.normal(size=number)
    return [jnp.asarray(a, dtype) for a in (x, low, low + width, mean, deviation)]


def test_derivatives():
    """Closed forms: with the density f of Y, dF/dx = f, dG/dx = x f, and their fellows.

    An edge of the piece moves F by the normal distribution function there: dF/dlow =
    (F - Phi(z_low)) / width; the noise's variance acts as diffusion: dF/ddeviation =
    deviation df/dx.
    """
    args = _pieces("float64")
    x, low, high, mean, deviation = (np.asarray(a) for a in args)

    def jacobian(which):
        one = lambda *a: kernel.cumulative(*a)[which]  # noqa: E731
        return np.array(jax.jit(jax.vmap(jax.grad(one, argnums=range(5))))(*args))

    f = np.asarray(_cumulative(*args)[0])
    width = high - low
    z_low, z_high = (x - mean - low) / deviation, (x - mean - high) / deviation
    cdf, pdf = stats.norm.cdf, stats.norm.pdf
    density = (
        np.where(z_low + z_high > 0, cdf(-z_high) - cdf(-z_low), cdf(z_low) - cdf(z_high)) / width
    )
    slope = (pdf(z_low) - pdf(z_high)) / (deviation * width)
    truth = [
        density,
        (f - cdf(z_low)) / width,
        (cdf(z_high) - f) / width,
        -density,
        deviation * slope,
    ]
    found = jacobian(0)
    assert np.all(np.isfinite(found))
    # The truths lose digits to the narrower of both scales, of x - mean - low and of differences.
    scale = np.minimum(width, deviation)
    error = np.abs(found - truth) * np.maximum(width, deviation)
    assert np.max(error / (1e-11 + 1e-12 / scale)) < 1
    found_g = jacobian(1)
    assert np.all(np.isfinite(found_g))
    np.testing.assert_allclose(found_g[0], x * found[0], atol=1e-9 / scale.min())


def test_derivatives_are_finite_in_single_precision_and_at_the_limits():
    args = _pieces("float32")
    zero = [a * 0 for a in args]
    one = lambda *a: sum(kernel.cumulative(*a))  # noqa: E731
    gradient = jax.jit(jax.vmap(jax.grad(one, argnums=range(5))))
    for pieces in (args, [*args[:4], zero[4]], [args[0], args[1], args[1], *args[3:]], zero):
        gradients = gradient(*pieces)
        assert all(np.all(np.isfinite(g)) for g in gradients)


def test_transition_conserves_mass_and_mean():
    """A neuron goes somewhere or spikes; the moments of all, below and above, sum to the mean."""
    grid = markov.voltage_grid(markov.default_parameters(), 5.0)
    rng = np.random.default_rng(3)
    voltage = jnp.asarray(grid.centres + rng.uniform(-2.5, 2.5, (2, 1, 1, grid.num_bins)))
    low, high = (np.asarray(x) for x in kernel.within_bin(grid, voltage))
    np.testing.assert_allclose((low + high) / 2, voltage, atol=1e-4)
    assert np.all(low >= grid.edges[:-1])
    assert np.all(high <= grid.edges[1:])
    mean, deviation = jnp.full_like(voltage, -3.0), jnp.full_like(voltage, 4.0)
    moves = kernel.Moves(jnp.asarray(low), jnp.asarray(high), mean, deviation)
    transition = jax.jit(kernel.transition, static_argnums=(0, 2))
    found = jax.tree.map(np.asarray, transition(grid, moves, "lump"))
    np.testing.assert_allclose(jnp.sum(found.to, axis=-1) + found.fire, 1, atol=1e-14)
    assert np.all(found.to >= 0)
    assert np.all(found.fire >= 0)
    far = 20  # bins below the threshold: none spikes
    np.testing.assert_allclose(
        jnp.sum(found.moment, axis=-1)[..., :-far], ((low + high) / 2 - 3)[..., :-far], atol=1e-11
    )
    dropped = transition(grid, moves, "drop")
    np.testing.assert_array_equal(dropped.to[..., 0], 0)
    np.testing.assert_array_equal(dropped.to[..., 1:], found.to[..., 1:])
    inside = found.to > 1e-6  # there the mean reached is within the destination's bin
    reached = np.where(inside, found.moment / np.where(inside, found.to, 1), grid.centres)
    assert np.all(reached[..., 1:] >= grid.edges[1:-1] - 1e-6)
    assert np.all(reached <= grid.edges[1:] + 1e-6)


def test_published_step():
    """One step of 0.1 ms of the excitatory neurons at 50 ms, before its return of neurons too."""
    _, n, m, mean, variance, n_after, m_after = _table("onestep_default_E_t50ms.csv").T
    refractory, refractory_after, flow = 153.589882307, 150.000339734, 2.3274835844
    params = markov.default_parameters()
    grid = markov.voltage_grid(params, 4.0)
    voltage = jnp.asarray(np.where(n > 0, m / np.where(n > 0, n, 1), grid.centres))
    low, high = kernel.within_bin(grid, voltage)
    steps = kernel.Moves(low, high, jnp.asarray(mean), jnp.sqrt(jnp.asarray(variance)))
    found = jax.jit(kernel.transition, static_argnums=(0, 2))(grid, steps, "drop")
    fired = n @ found.fire
    np.testing.assert_allclose(fired / 0.1, flow, rtol=0, atol=1e-8)
    leaving = refractory + fired - refractory_after
    moved = (n @ found.to).at[grid.reset_bin].add(leaving)
    np.testing.assert_allclose(moved, n_after, rtol=0, atol=1e-8)
    # Numbers rounded to 1e-10 from about ten sources carry voltages of up to 100 mV.
    np.testing.assert_allclose(n @ found.moment, m_after, rtol=1e-10, atol=1e-8)
