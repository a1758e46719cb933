"""The follower of curves against closed forms, and the branches of equilibria."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield.markov import Parameters, default_parameters
from neurofield.markov._arclength import follow, linearised
from neurofield.markov._continuation import bifurcation_point, continuation

COARSE = {"closure": "published", "voltage_bin": 5.0}


def test_circle_is_closed_and_has_two_folds():
    curve = follow(linearised(lambda u, p: u**2 + p**2 - 1), np.array([1.0]), 0.0, (-2.0, 2.0))
    assert curve.ended == "closed"
    points = np.array([point.x for point in curve.points])
    np.testing.assert_allclose((points**2).sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(points[0], points[-1])
    found = [(event.kind, *event.point.x) for event in curve.events]
    assert [kind for kind, *_ in found] == ["fold", "fold"]
    np.testing.assert_allclose([x for _, *x in found], [[0, 1], [0, -1]], atol=2e-8)
    # Tangents are across the radius, and events stand between the points around them.
    for point in curve.points:
        assert abs(point.tangent @ point.x) < 1e-8
    for event in curve.events:
        around = points[event.after : event.after + 2, 0]
        assert around.min() < event.point.x[0] < around.max()


def test_cubic_fold_locations_and_borders():
    curve = follow(
        linearised(lambda u, p: u**3 - u + p),
        np.array([-1.3]),
        0.9,
        (-0.8, 0.95),
        direction=-1,
    )
    assert curve.ended == "span"
    assert abs(curve.points[-1].parameter + 0.8) < 1e-9
    expected = [[-(3**-0.5), -2 / 27**0.5], [3**-0.5, 2 / 27**0.5]]
    np.testing.assert_allclose([e.point.x for e in curve.events], expected, atol=2e-8)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_hopf_normal_form(scale):
    """u' = (p + i) u - |u|^2 u about a centre that moves with p: the pair crosses at p = 0."""

    def field(u, p):
        x = u / scale - jnp.stack([jnp.sin(p), p**2])
        turn = jnp.stack([p * x[0] - x[1], x[0] + p * x[1]])
        return turn - jnp.sum(x**2) * x

    def leading(point):
        return np.linalg.eigvals(point.jacobian[:, :2] * scale).real.max()

    curve = follow(
        linearised(field),
        scale * np.array([-0.3, 0.1]),
        -0.4,
        (-0.5, 0.5),
        scale=np.array([scale, scale, 1.0]),
        tests={"hopf": leading, "jump": lambda point: np.sign(point.parameter - 0.3)},
    )
    assert [event.kind for event in curve.events] == ["hopf"]
    assert abs(curve.events[0].point.parameter) < 1e-8
    p = curve.events[0].point.parameter
    values = np.linalg.eigvals(curve.events[0].point.jacobian[:, :2] * scale)
    np.testing.assert_allclose(sorted(values.imag), [-1, 1], atol=1e-7)
    assert abs(p) < 1e-8


def test_start_off_the_curve_is_refused():
    with pytest.raises(RuntimeError, match="no solution was found near the start"):
        follow(linearised(lambda u, p: u**2 + 1 + p**2), np.array([0.5]), 0.0, (-1.0, 1.0))


@pytest.mark.slow
def test_folds_of_a_population_that_excites_itself():
    """Leaky, driven below the threshold: the silent state ends where its real eigenvalue is 0."""
    base = Parameters(
        [300.0],
        [[0.8]],
        [[0.5]],
        [[5e-3]],
        drive=[5000.0],
        drive_variance=[20000.0],
        leak=80.0,
        inhibitory=[False],
    )

    def vary(drive):
        return eqx.tree_at(lambda q: q.drive, base, jnp.full(1, drive))

    branch = continuation(vary, (5300.0, 5600.0), max_step=0.3, **COARSE)
    assert branch.ended == "span"
    (fold,) = branch.points
    assert fold.kind == "fold"
    # No equilibrium of the branch lies beyond the fold; it is stable before, and has one unstable
    # real eigenvalue behind.
    assert (branch.parameter < fold.parameter).all()
    before = branch.rate[0] < fold.rate[0]
    assert 0 < before.sum() < len(before)
    np.testing.assert_array_equal(branch.stable, before)
    near = np.abs(branch.rate[0] / fold.rate[0] - 1) < 0.5
    assert (np.imag(branch.leading)[near] == 0).all()
    # Where the equations of a fold hold, and the branch is a parabola.
    point = jax.jit(lambda: bifurcation_point(vary, fold, **COARSE))()
    np.testing.assert_allclose(point.parameter, fold.parameter, rtol=1e-8)
    np.testing.assert_allclose(point.rate, fold.rate, rtol=1e-4)


def _inhibited(p, charge=0.95):
    params = default_parameters()
    return eqx.tree_at(
        lambda q: (q.probability, q.charge),
        params,
        (params.probability.at[0, 1].set(p), params.charge.at[0, 0].set(charge)),
    )


@pytest.mark.slow
def test_hopf_points_in_the_probability_of_inhibition():
    """Between them the equilibrium is unstable: the network oscillates."""
    branch = continuation(_inhibited, (0.45, 1.02), **COARSE)
    assert [point.kind for point in branch.points] == ["hopf", "hopf"]
    low, high = (point.parameter for point in branch.points)
    outside = (branch.parameter < low) | (branch.parameter > high)
    np.testing.assert_array_equal(branch.stable, outside)
    for near in branch.points:

        def locate(charge, near=near):
            found = bifurcation_point(lambda p: _inhibited(p, charge), near, **COARSE)
            return jnp.stack([found.parameter, found.frequency])

        value = jax.jit(locate)
        np.testing.assert_allclose(value(0.95), [near.parameter, near.frequency], rtol=1e-6)
        # Error of the differences: the square of the step, 1e-6 of the derivatives.
        expected = (value(0.95 + 2e-4) - value(0.95 - 2e-4)) / 4e-4
        forward = jax.jit(jax.jacfwd(locate))(0.95)
        np.testing.assert_allclose(forward, expected, rtol=1e-5)
        reverse = jax.jit(jax.grad(lambda x, f=locate: f(x)[0]))(0.95)
        np.testing.assert_allclose(reverse, forward[0], rtol=1e-8)
