"""The numerical tools against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield._numerics import logistic, softplus, standard_error, sum_softplus


@pytest.mark.parametrize("x", [-800.0, -40.0, -1.5, 0.0, 1e-3, 2.0, 40.0, 800.0])
def test_softplus_and_its_derivatives(x):
    """f = log(1 + e^x): f' = p, f'' = p (1 - p), f''' = p (1 - p)(1 - 2 p), p = 1 / (1 + e^-x)."""
    p, q = np.exp(-np.logaddexp(0, -x)), np.exp(-np.logaddexp(0, x))
    fn = softplus
    for order, expected in enumerate([np.logaddexp(0, x), p, p * q, p * q * (q - p)]):
        # Few roundings; NumPy's route to p loses eps |x|, and 1 - p is rounded to eps absolutely.
        eps = np.finfo(float).eps
        atol = 2 * eps if order > 1 else 0
        np.testing.assert_allclose(
            fn(jnp.asarray(x)), expected, rtol=4 * eps * (1 + abs(x)), atol=atol
        )
        fn = jax.grad(fn)


def test_logistic_is_the_sigmoid():
    x = jnp.linspace(-30, 30, 101)
    np.testing.assert_allclose(logistic(x), jax.nn.sigmoid(x), rtol=1e-15)
    assert logistic(x.astype(jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize("rows", [1, 32, 77])
def test_sum_softplus_is_the_sum(rows):
    x = jax.random.normal(jax.random.key(0), (2, rows, 5)) * 300
    expected = np.logaddexp(0, x).sum(axis=-2)
    # An absolute error: 1 + e loses an e below rounding.
    np.testing.assert_allclose(sum_softplus(x), expected, rtol=1e-14, atol=rows * 2e-16)
    slope = jax.grad(lambda y: jnp.sum(sum_softplus(y)))(x)
    np.testing.assert_allclose(slope, jax.nn.sigmoid(x), rtol=1e-12)
    # The largest product of factors, 2^32, is far from overflow also in float32.
    np.testing.assert_allclose(
        sum_softplus(jnp.zeros((rows, 1), jnp.float32)), rows * np.log(2), rtol=1e-6
    )


def test_standard_error_is_that_of_the_mean_and_flat_where_groups_agree():
    x = jax.random.normal(jax.random.key(0), (6, 3))
    expected = np.std(x, axis=0, ddof=1) / 6**0.5
    np.testing.assert_allclose(standard_error(x), expected, rtol=1e-14)
    # The slope of a root of zero would be infinite, and its product with zero no number.
    slope = jax.jacfwd(lambda c: standard_error(c * jnp.stack([x[:, 0], jnp.ones(6)], axis=1)))(2.0)
    np.testing.assert_allclose(slope, [expected[0], 0], rtol=1e-12)
