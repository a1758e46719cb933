"""Fit is a pytree that carries its outcome through jit and vmap."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield.fit import RESULTS, Fit, is_successful


def make_fit(x):
    return Fit(
        {"a": x},
        loss=jnp.sum(x**2),
        result=RESULTS.successful,
        stats={"num_steps": jnp.asarray(3)},
        provenance={"method": "newton", "l2": 0.5},
    )


def test_passes_through_jit_and_vmap():
    fit = jax.jit(make_fit)(jnp.arange(3.0))
    assert fit.provenance == {"method": "newton", "l2": 0.5}
    assert float(fit.loss) == 5.0
    assert is_successful(fit.result)
    assert "3 steps; converged" in fit.summary()
    many = jax.vmap(make_fit)(jnp.ones((4, 3)))
    np.testing.assert_array_equal(many.loss, np.full(4, 3.0))
    assert hash(jax.tree.structure(fit)) == hash(jax.tree.structure(make_fit(jnp.zeros(3))))


def test_outcome_is_told():
    fit = eqx.tree_at(lambda f: f.result, make_fit(jnp.ones(2)), RESULTS.stopped)
    assert not is_successful(fit.result)
    assert "interrupted" in fit.summary()


def test_provenance_must_be_json():
    with pytest.raises(ValueError, match="JSON"):
        Fit(0, loss=0.0, result=RESULTS.successful, provenance={"f": jnp.ones(2)})
    with pytest.raises(ValueError, match="JSON"):
        Fit(0, loss=0.0, result=RESULTS.successful, provenance={"f": float("nan")})
