"""Changes of variables are exact both ways, differentiable, and know their Jacobian."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield.fit import (
    Fixed,
    Interval,
    Positive,
    Real,
    Shared,
    Simplex,
    SymmetricHollow,
    constrain,
    log_det_jacobian,
    unconstrain,
)

SYMMETRIC = np.array([[0, 1, 2], [1, 0, -3], [2, -3, 0]], float)
CASES = [
    (Real(), np.array([-1e10, 0.0, 3.0]), 3),
    (Positive(), np.array([1e-12, 0.3, 1.0, 50.0, 1e6]), 5),
    (Positive(-2.0), np.array([[-1.999, 0.0], [3.0, 100.0]]), 4),
    (Interval(-1.0, 3.0), np.array([-0.9999, 0.0, 1.0, 2.9999]), 4),
    (Simplex(), np.array([[0.2, 0.5, 0.3], [1e-6, 0.4, 0.6 - 1e-6]]), 4),
    (SymmetricHollow(), SYMMETRIC, 3),
    (SymmetricHollow(), np.stack([SYMMETRIC, 2 * SYMMETRIC]), 6),
]


def independent(parameter, value):
    """The entries of a value that determine the others."""
    if isinstance(parameter, Simplex):
        return value[..., :-1].ravel()
    if isinstance(parameter, SymmetricHollow):
        return value[(..., *np.triu_indices(value.shape[-1], 1))].ravel()
    return value.ravel()


@pytest.mark.parametrize(("parameter", "value", "size"), CASES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_round_trip(parameter, value, size, dtype):
    value = jnp.asarray(value, dtype)
    if isinstance(parameter, Simplex):
        value = value / jnp.sum(value, -1, keepdims=True)
    assert parameter.contains(value)
    free = parameter.inverse(value)
    assert free.size == size
    assert free.dtype == dtype
    again = parameter.forward(free)
    assert again.dtype == dtype
    # A relative error eps of free is an error free * eps of log(value), the worst being 1e-12.
    tolerance = 4 * float(jnp.finfo(dtype).eps) * max(1.0, float(jnp.log(1e12)))
    np.testing.assert_allclose(again, value, rtol=tolerance, atol=tolerance * 0.01)


@pytest.mark.parametrize(("parameter", "value", "size"), CASES)
def test_gradient_and_log_det(parameter, value, size):
    # Away from the extremes, where central differences of step 1e-6 say nothing.
    del value
    shape = {
        "SymmetricHollow": (size // 3, 3),
        "Simplex": (2, 2),
    }.get(type(parameter).__name__, (size,))
    free = jax.random.normal(jax.random.key(1), shape, jnp.float64)

    def entries(flat):
        return independent(parameter, parameter.forward(flat.reshape(free.shape)))

    jacobian = jax.jacobian(entries)(free.ravel())
    step = 1e-6
    columns = [(entries(free.ravel() + e) - entries(free.ravel() - e)) / (2 * step)
               for e in step * jnp.eye(free.size)]  # fmt: skip
    np.testing.assert_allclose(jacobian, jnp.stack(columns, 1), atol=1e-8)
    expected = np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(parameter.log_det_jacobian(free), expected, rtol=1e-12, atol=1e-12)


class Model(eqx.Module):
    rate: jax.Array
    weight: jax.Array
    lags: jax.Array
    name: str = eqx.field(static=True)


MODEL = Model(jnp.array([1.0, 2.0], jnp.float32), jnp.asarray(SYMMETRIC), jnp.arange(3), "m")


def test_trees():
    spec = {"a": Model(Positive(), SymmetricHollow(), None, "m"), "b": Fixed(), "c": None}
    params = {"a": MODEL, "b": {"x": jnp.ones(3)}, "c": [jnp.ones(2), None]}
    free = unconstrain(spec, params)
    assert set(free) == {"params['a'].rate", "params['a'].weight", "params['c'][0]"}
    assert free["params['a'].rate"].dtype == jnp.float32
    again = jax.jit(lambda f: constrain(spec, f, params))(free)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=1e-6)
    assert set(unconstrain(None, MODEL)) == {"params.rate", "params.weight"}
    assert set(unconstrain(None, jnp.ones(2))) == {"params"}


def test_shared_leaves_stay_equal_and_count_once():
    params = {"a": jnp.array([0.5, 2.0]), "b": jnp.array([0.5, 2.0]), "c": jnp.ones(())}
    spec = {"a": Shared("tau", Positive()), "b": Shared("tau", Positive()), "c": Interval(0, 3)}
    free = unconstrain(spec, params)
    assert set(free) == {"tau", "params['c']"}
    free = jax.tree.map(lambda x: x + 0.3, free)
    moved = constrain(spec, free, params)
    np.testing.assert_array_equal(moved["a"], moved["b"])
    expected = Positive().log_det_jacobian(free["tau"]) + Interval(0, 3).log_det_jacobian(
        free["params['c']"]
    )
    np.testing.assert_allclose(log_det_jacobian(spec, free, params), expected, rtol=1e-14)
    with pytest.raises(ValueError, match=r"params\['b'\] and params\['a'\] share the name 'tau'"):
        unconstrain(spec, params | {"b": jnp.ones(2)})


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (Real(), jnp.array([0.0, jnp.nan]), "finite"),
        (Positive(), jnp.array([1.0, 0.0]), "above 0"),
        (Interval(0.0, 1.0), jnp.array(1.5), "between 0 and 1"),
        (Simplex(), jnp.array([0.5, 0.6]), "sum to one"),
        (SymmetricHollow(), jnp.eye(2), "zero diagonal"),
        (SymmetricHollow(), jnp.ones(2), "matrices"),
    ],
)
def test_a_bad_start_names_leaf_and_domain(parameter, value, message):
    with pytest.raises(ValueError, match=rf"params\['x'\] must be .*{message}"):
        unconstrain({"x": parameter}, {"x": value})


def test_bad_specifications():
    with pytest.raises(ValueError, match="parallel"):
        unconstrain({"y": Real()}, {"x": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"spec at params\['x'\]"):
        unconstrain({"x": 3}, {"x": jnp.ones(2)})
    with pytest.raises(ValueError, match="complex"):
        unconstrain(None, {"x": jnp.ones(2) * (1 + 1j)})
    with pytest.raises(ValueError, match="lower < upper"):
        Interval(1.0, 1.0)
