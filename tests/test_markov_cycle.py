"""Limit cycles: against an independent integration, the dense monodromy, finite differences."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

from neurofield._results import RESULTS
from neurofield.markov import default_parameters
from neurofield.markov._cycle import Shooting, limit_cycle
from neurofield.markov._cycle_continuation import cycle_continuation
from neurofield.markov._ode import Field

COARSE: dict[str, Any] = {"closure": "published", "voltage_bin": 5.0, "num_steps": 150}


def along_p_ei(value):
    params = default_parameters("gamma")
    return eqx.tree_at(lambda p: p.probability, params, params.probability.at[0, 1].set(value))


@pytest.fixture(scope="module")
def cycle():
    return limit_cycle(along_p_ei(0.7), **COARSE)


@pytest.mark.slow
def test_independent_integration_returns_after_the_period(cycle):
    field = Field(cycle.params, None, cycle.grid, "published", 1)
    start, unravel = ravel_pytree(cycle.state)
    slope = jax.jit(lambda y: ravel_pytree(field(0.0, unravel(y)))[0])
    jacobian = jax.jit(jax.jacfwd(slope))
    solved = solve_ivp(
        lambda t, y: np.asarray(slope(y)),
        (0, float(cycle.period)),
        np.asarray(start),
        method="BDF",
        jac=lambda t, y: np.asarray(jacobian(y)),
        rtol=1e-7,
        atol=1e-10,
    )
    end = unravel(jnp.asarray(solved.y[:, -1]))
    scale = float(jnp.max(cycle.mean))
    # Third order in 150 steps: the period of 300 steps differs by 4e-6 (the slow test below).
    np.testing.assert_allclose(end.occupancy, cycle.state.occupancy, atol=2e-4)
    np.testing.assert_allclose(end.moments.mean, cycle.state.moments.mean, atol=2e-3 * scale)
    np.testing.assert_allclose(end.spikes / cycle.period, cycle.mean_rate, rtol=1e-4)


@pytest.mark.slow
def test_the_cycle_is_one_and_stable(cycle):
    assert float(cycle.residual) < 1e-10
    # The flow along the cycle neither grows nor shrinks; a mesh that does not move with it leaves
    # the error of the integration.
    assert abs(complex(cycle.multipliers[0]) - 1) < 1e-4
    assert bool(cycle.stable)
    assert abs(complex(cycle.multipliers[1])) < 0.5
    # Reference: 57 Hz, 67.4 and 78.7 Hz of the white-noise network, within 3 % at 5 mV.
    assert abs(1 / float(cycle.period) - 57.5) < 1.5
    np.testing.assert_allclose(cycle.mean_rate, [67.4, 78.7], rtol=0.03)
    # The mesh's own quadrature of the rate, and one period from section to section.
    weights = np.diff(np.asarray(cycle.phase, float))
    rate = np.asarray(cycle.rate)
    middle = (rate[:, 1:] + rate[:, :-1]) / 2
    np.testing.assert_allclose((middle * weights).sum(axis=1), cycle.mean_rate, rtol=5e-3)
    np.testing.assert_allclose(cycle.mean[..., 0], cycle.mean[..., -1], rtol=1e-8)
    np.testing.assert_allclose(cycle.state.occupancy.sum() + cycle.state.refractory.sum(), 2)


@pytest.mark.slow
def test_derivatives_by_the_implicit_function_theorem(cycle):
    def period_and_rate(value):
        found = limit_cycle(along_p_ei(value), initial=cycle, **COARSE)
        return jnp.append(found.mean_rate, found.period)

    at, step = jnp.asarray(0.7), 1e-4
    _, slope = jax.jvp(period_and_rate, (at,), (jnp.ones(()),))
    up, down = period_and_rate(at + step), period_and_rate(at - step)
    # Same mesh and section: what is left is the second-order error of the difference.
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-5)


@pytest.mark.slow
def test_an_equilibrium_is_no_cycle():
    # A decaying oscillation is a start for Newton's method, which then finds no cycle.
    params = default_parameters("hom")
    found = limit_cycle(params, throw=False, settle=0.3, **COARSE)
    assert found.result != RESULTS.successful
    assert not bool(found.stable)
    with pytest.raises(ValueError, match="at least 1"):
        limit_cycle(params, periods=0, **COARSE)
    with pytest.raises(ValueError, match="num_multipliers at least 2"):
        limit_cycle(params, num_multipliers=1, **COARSE)


def test_cycles_of_another_grid_are_refused(cycle):
    with pytest.raises(ValueError, match="same closure, nodes and grid"):
        limit_cycle(along_p_ei(0.7), initial=cycle, closure="published", voltage_bin=4.0)


@pytest.mark.slow
def test_multipliers_are_those_of_the_dense_monodromy(cycle):
    field = Field(cycle.params, None, cycle.grid, "published", 1)
    shooting = Shooting(field, cycle.phase, cycle.level)
    unknown = shooting.pack(cycle.state, jnp.log(cycle.period))
    dense = jax.jit(jax.vmap(lambda v: shooting.monodromy(unknown, v)))(jnp.eye(unknown.size))
    values = np.linalg.eigvals(np.asarray(dense).T)
    values = values[np.argsort(-abs(values))]
    np.testing.assert_allclose(abs(values[:4]), abs(np.asarray(cycle.multipliers[:4])), rtol=1e-6)


@pytest.mark.slow
def test_reverse_mode_is_forward_mode(cycle):
    def period(value):
        return limit_cycle(along_p_ei(value), initial=cycle, **COARSE).period

    at = jnp.asarray(0.7)
    _, slope = jax.jvp(period, (at,), (jnp.ones(()),))
    np.testing.assert_allclose(jax.grad(period)(at), slope, rtol=1e-6)


@pytest.mark.slow
def test_third_order_in_the_number_of_steps(cycle):
    doubled: dict[str, Any] = COARSE | {"num_steps": 300}
    fine = limit_cycle(along_p_ei(0.7), **doubled)
    doubled["num_steps"] = 600
    finer = limit_cycle(along_p_ei(0.7), **doubled)
    ratio = (cycle.period - fine.period) / (fine.period - finer.period)
    print(cycle.period, fine.period, finer.period, ratio)
    assert 5 < float(ratio) < 12


@pytest.mark.slow
def test_period_doubling_is_located_along_the_branch():
    """Between p = 0.795 and 0.800 for the published map at 4 mV with exact refractoriness."""
    branch = cycle_continuation(
        along_p_ei, (0.78, 0.8), closure="published", voltage_bin=4.0, num_steps=200
    )
    assert branch.ended == "span"
    (doubling,) = branch.points
    assert doubling.kind == "period_doubling"
    assert 0.795 < doubling.parameter < 0.8
    before = branch.parameter < doubling.parameter
    np.testing.assert_array_equal(branch.stable, before)
    # The multiplier falls through -1, and the frequency falls with p (50.8 to 48.8 Hz there).
    assert np.all(np.diff(branch.leading.real) < 0)
    assert np.all(np.diff(branch.frequency) < 0)
    assert abs(doubling.frequency - 50) < 1
    # Another integration of the network on either side: one closes after a period, one after two.
    options: dict[str, Any] = {"closure": "published", "voltage_bin": 4.0, "num_steps": 200}
    single = limit_cycle(along_p_ei(0.79), **options)
    double = limit_cycle(along_p_ei(0.81), periods=2, **options)
    assert bool(single.stable)
    assert bool(double.stable)
    heights = np.sort(np.asarray(double.rate[0])[peaks_of(double.rate[0])])[-2:]
    assert heights[1] > 1.5 * heights[0]


def peaks_of(rate):
    rate = np.asarray(rate)
    return 1 + np.flatnonzero((rate[1:-1] > rate[:-2]) & (rate[1:-1] >= rate[2:]))
