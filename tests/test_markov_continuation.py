"""The follower of curves against closed forms, and the branches of equilibria."""

import jax.numpy as jnp
import numpy as np
import pytest

from neurofield.markov._arclength import follow, linearised


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
