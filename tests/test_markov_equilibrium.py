"""Equilibria and their stability: published rates, residuals, dense Jacobians, differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from neurofield._results import RESULTS
from neurofield.markov import default_parameters, solve
from neurofield.markov._equilibrium import equilibrium
from neurofield.markov._stability import stability


@pytest.fixture(scope="module")
def coarse():
    """`default` by the published closure on cells of 5 mV."""
    find = eqx.filter_jit(lambda p: equilibrium(p, closure="published", voltage_bin=5.0))
    return find(default_parameters())


@pytest.fixture(scope="module")
def coloured():
    """`default` by the coloured closure on cells of 10 mV: two nodes a sign."""
    find = eqx.filter_jit(
        lambda p: equilibrium(p, closure="coloured", num_nodes=2, voltage_bin=10.0)
    )
    return find(default_parameters())


def dense_eigenvalues(found):
    flat, unravel = ravel_pytree(found.state)
    field = found.field
    jacobian = jax.jit(jax.jacfwd(lambda x: ravel_pytree(field(0.0, unravel(x)))[0]))(flat)
    values = np.linalg.eigvals(np.asarray(jacobian))
    # A conserved sum and a count of spikes of each population.
    zero = np.argsort(np.abs(values))[: 2 * found.rate.size]
    assert np.abs(values[zero]).max() < 1e-7
    values = np.delete(values, zero)
    return values[np.argsort(-values.real)]


@pytest.mark.parametrize("which", ["coarse", pytest.param("coloured", marks=pytest.mark.slow)])
def test_field_vanishes_and_neurons_are_conserved(which, request):
    found = request.getfixturevalue(which)
    change = found.field(0.0, found.state)
    assert np.abs(change.occupancy).max() < 1e-9
    assert np.abs(change.refractory).max() < 1e-9
    # Pending spikes come and go at 1e4 a second.
    assert np.abs(change.moments.mean).max() < 1e-9 * 1e4
    assert np.abs(change.moments.variance).max() < 1e-9 * 1e4
    np.testing.assert_allclose(change.spikes, found.rate, rtol=1e-9)
    total = found.state.occupancy.sum((1, 2, 3)) + found.state.refractory.sum((1, 2))
    np.testing.assert_allclose(total, 1, atol=1e-12)
    assert (np.asarray(found.state.occupancy) >= 0).all()
    assert found.result == RESULTS.successful


def test_rates_of_the_published_closure():
    """`fokker_planck_fv.csv`, cells of 1 mV; its time steps (0.025 ms) shift rates by < 0.5 %."""
    params = [default_parameters(name) for name in ("hom", "async")]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
    rate = jax.jit(jax.vmap(lambda p: equilibrium(p, closure="published").rate))(stacked)
    np.testing.assert_allclose(rate, [[14.79, 44.81], [1.35, 28.65]], rtol=5e-3)


@pytest.mark.parametrize("which", ["coarse", pytest.param("coloured", marks=pytest.mark.slow)])
def test_eigenvalues_are_those_of_the_dense_jacobian(which, request):
    found = request.getfixturevalue(which)
    dense = dense_eigenvalues(found)
    result = stability(found)
    assert result.num_unstable == np.sum(dense.real > 0) == 2
    assert not result.stable
    leading = result.eigenvalues[:4]
    np.testing.assert_allclose(np.sort(np.real(leading)), np.sort(np.real(dense[:4])), rtol=1e-6)
    np.testing.assert_allclose(np.sort(np.imag(leading)), np.sort(np.imag(dense[:4])), rtol=1e-6)
    assert abs(result.frequency - abs(dense[0].imag) / (2 * np.pi)) < 1e-6


@pytest.mark.slow
def test_gradient_forward_and_reverse_equals_differences():
    """In the drive, a charge, a probability and a refractory rate at once, along one direction."""
    params = default_parameters("async")

    def rate(amount):
        changed = eqx.tree_at(
            lambda q: (q.drive, q.charge, q.probability, q.refractory_rate),
            params,
            (
                params.drive * (1 + amount),
                params.charge.at[0, 0].add(amount),
                params.probability.at[0, 1].add(amount / 3),
                params.refractory_rate * (1 + amount / 2),
            ),
        )
        return equilibrium(changed, closure="published", voltage_bin=5.0).rate

    value = jax.jit(rate)
    step = 1e-3
    # Differences of order 4: error of order step^4, and 1e-10 / step of the solve.
    near, far = (value(k * step) - value(-k * step) for k in (1, 2))
    expected = (8 * near - far) / (12 * step)
    forward = jax.jit(jax.jacfwd(rate))(0.0)
    np.testing.assert_allclose(forward, expected, rtol=1e-6)
    reverse = jax.jit(jax.grad(lambda x: rate(x)[0]))(0.0)
    np.testing.assert_allclose(reverse, forward[0], rtol=1e-10)


def test_failure_is_told():
    params = default_parameters()
    options = {"closure": "published", "voltage_bin": 10.0, "max_steps": 2}
    failed = jax.jit(lambda p: equilibrium(p, throw=False, **options))(params)
    assert failed.result != RESULTS.successful
    with pytest.raises(ValueError, match="has no stability"):
        stability(failed)
    with pytest.raises(ValueError, match="rates of 2 populations"):
        equilibrium(params, initial=[1.0])
    with pytest.raises(ValueError, match="initial must be finite and positive"):
        equilibrium(params, initial=[1.0, -1.0])


@pytest.mark.slow
def test_single_precision(coarse):
    params = jax.tree.map(lambda x: x.astype(jnp.float32), default_parameters())
    found = jax.jit(lambda p: equilibrium(p, closure="published", voltage_bin=5.0))(params)
    assert found.rate.dtype == jnp.float32
    np.testing.assert_allclose(found.rate, coarse.rate, rtol=1e-3)


@pytest.mark.slow
def test_failure_is_raised():
    with pytest.raises(RuntimeError, match="no stationary rates within 2 steps"):
        jax.block_until_ready(
            equilibrium(default_parameters(), closure="published", voltage_bin=10.0, max_steps=2)
        )


@pytest.mark.slow
@pytest.mark.parametrize("closure", ["published", "coloured"])
@pytest.mark.parametrize("regime", ["hom", "async"])
def test_long_solve_comes_to_the_equilibrium(closure, regime):
    params = default_parameters(regime)
    found = equilibrium(params, closure=closure, voltage_bin=2.0)
    solution = solve(params, 0.6, closure=closure, voltage_bin=2.0, rtol=1e-5, atol=1e-8)
    # The slowest modes decay at 48 to 150 per second: to e^-29 at least; the solver's own error.
    np.testing.assert_allclose(solution.rate[:, -1], found.rate, rtol=1e-3)


@pytest.mark.slow
def test_rates_of_the_coloured_closure():
    """Every regime is found from the default start; stability as seen in long solutions."""
    find = eqx.filter_jit(equilibrium)
    # `fast` lies on the Hopf point, where the grid decides.
    unstable = {"default": 2, "gamma": 2, "multi": 2}
    for name in ("hom", "async", "meta", "reg", "syn", *unstable):
        found = find(default_parameters(name), num_nodes=3, voltage_bin=2.0)
        assert found.result == RESULTS.successful
        assert stability(found).num_unstable == unstable.get(name, 0)
