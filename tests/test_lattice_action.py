"""The reference instance of the lattice theory (N = 3, T = 4) by enumeration, and both bases."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import lattice

REFERENCE = json.loads((Path(__file__).parent / "reference" / "lattice.json").read_text())
TOY = REFERENCE["toy_lft"]
FIELD = np.array([-0.7, -0.2, -1.0])
SPACE = np.array([[0, 0.5, -0.3], [0.5, 0, 0.2], [-0.3, 0.2, 0]])
TRANSFER = np.array([[[0, 0.3, -0.2], [0.1, 0, 0.5], [0.7, -0.6, 0]]])
EVERY_RASTER = np.array(list(itertools.product((0, 1), repeat=12)), np.uint8).reshape(-1, 3, 4)


def toy(**changes):
    parts = {"field": FIELD, "space": SPACE, "history": np.full((1, 3), 0.4)} | changes
    return lattice.Action(**parts)


VARIANTS = {
    "static": {"history": None},
    "range 1": {},
    "range 2": {"history": np.array([[0.4, 0.4, 0.4], [0.15, 0.15, 0.15]])},
    "range 3": {"history": np.array([[0.4, -0.2, 0.3], [0.1, 0.3, -0.5], [-0.7, 0.2, 0.6]])},
    "directed": {"transfer": TRANSFER},
    "directed alone": {"history": None, "transfer": TRANSFER},
    "driven": {"field": np.random.default_rng(0).normal(size=(3, 4))},
    "driven, range 2": {
        "field": np.random.default_rng(1).normal(size=(3, 4)),
        "history": np.random.default_rng(2).normal(size=(2, 3)),
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("basis", ["gas", "spin"])
@pytest.mark.parametrize("boundary", ["open", "periodic"])
def test_log_partition_is_the_sum_over_all_rasters(variant, basis, boundary):
    action = toy(**VARIANTS[variant], basis=basis)
    summed = jax.nn.logsumexp(lattice.log_weight(action, EVERY_RASTER, boundary))
    np.testing.assert_allclose(lattice.log_partition(action, 4, boundary), summed, rtol=1e-13)


def test_published_reference_values():
    summed = lambda action, boundary: jax.nn.logsumexp(  # noqa: E731
        lattice.log_weight(action, EVERY_RASTER, boundary)
    )
    np.testing.assert_allclose(summed(toy(), "open"), TOY["logZ_open"], atol=1e-12)
    np.testing.assert_allclose(summed(toy(), "periodic"), TOY["logZ_periodic"], atol=1e-12)
    two = toy(**VARIANTS["range 2"])
    np.testing.assert_allclose(summed(two, "open"), TOY["logZ_open_with_b2"], atol=1e-12)
    np.testing.assert_allclose(summed(toy(basis="spin"), "open"), TOY["spin_logZ_open"], atol=1e-12)
    np.testing.assert_allclose(
        jnp.exp(lattice.log_partition_rate(toy())), TOY["lambda_max"], rtol=1e-13
    )


def test_gradients_of_log_partition_are_the_moments():
    """Rates, space and time correlations by automatic differentiation equal the tables."""
    action = toy(field=np.tile(FIELD[:, None], (1, 4)))
    gradient = jax.grad(lattice.log_partition)(action, 4)
    np.testing.assert_allclose(gradient.field, TOY["rates"], atol=1e-12)
    # Wt holds 1/2 A_ij x_i x_j for either order of i and j.
    pairs = np.asarray(gradient.space)
    phi = np.array(TOY["Phi"])
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(2 * pairs[off] / 4, phi[off], atol=1e-12)
    entropy = lattice.log_partition(action, 4) - sum(
        jnp.sum(p * g)
        for p, g in zip(jax.tree.leaves(action), jax.tree.leaves(gradient), strict=True)
    )
    np.testing.assert_allclose(entropy, TOY["entropy"], atol=1e-11)


def test_spin_means_are_gradients_in_the_spin_basis():
    action = toy(field=np.tile(FIELD[:, None], (1, 4)), basis="spin")
    gradient = jax.grad(lattice.log_partition)(action, 4)
    np.testing.assert_allclose(gradient.field, TOY["spin_mean"], atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("boundary", ["open", "periodic"])
@pytest.mark.parametrize(("first", "second"), [("gas", "spin"), ("spin", "gas")])
def test_bases_agree_on_every_raster(variant, boundary, first, second):
    action = toy(**VARIANTS[variant], basis=first)
    other, offset = lattice.to_basis(action, second, 4, boundary)
    assert other.basis == second
    np.testing.assert_allclose(
        lattice.log_weight(action, EVERY_RASTER, boundary),
        lattice.log_weight(other, EVERY_RASTER, boundary) + offset,
        atol=1e-12,
    )


def test_a_constant_field_becomes_time_dependent_at_open_ends_only():
    assert lattice.to_basis(toy(), "spin", 4, "open")[0].field.shape == (3, 4)
    assert lattice.to_basis(toy(), "spin", 4, "periodic")[0].field.shape == (3,)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("boundary", ["open", "periodic"])
def test_local_field_is_the_gradient_of_the_log_weight(variant, boundary, getkey):
    action = toy(**VARIANTS[variant])
    x = jax.random.bernoulli(getkey(), 0.5, (3, 4)).astype(float)
    slope = jax.grad(lambda y: lattice.log_weight(action, y, boundary))(x)
    np.testing.assert_allclose(lattice.local_field(action, x, boundary), slope, atol=1e-12)


def test_local_field_gives_the_conditional_probability():
    """Flipping one site changes the log-weight by (1 - 2 x) h."""
    action = toy(transfer=TRANSFER)
    raster = EVERY_RASTER[1234]
    h = lattice.local_field(action, raster)
    for i, t in itertools.product(range(3), range(4)):
        flipped = raster.copy()
        flipped[i, t] = 1 - flipped[i, t]
        change = lattice.log_weight(action, flipped) - lattice.log_weight(action, raster)
        np.testing.assert_allclose(change, (1.0 - 2.0 * raster[i, t]) * h[i, t], atol=1e-12)


def test_covariates_add_to_the_field(getkey):
    stimulus = jax.random.normal(getkey(), (3, 2))
    covariates = jax.random.normal(getkey(), (2, 4))
    driven = toy(stimulus=stimulus)
    same = toy(field=FIELD[:, None] + stimulus @ covariates)
    np.testing.assert_allclose(
        lattice.log_weight(driven, EVERY_RASTER[:50], covariates=covariates),
        lattice.log_weight(same, EVERY_RASTER[:50]),
        atol=1e-12,
    )
    with pytest.raises(ValueError, match="give covariates"):
        lattice.log_weight(driven, EVERY_RASTER[:2])
    with pytest.raises(ValueError, match="no stimulus weights"):
        lattice.log_weight(toy(), EVERY_RASTER[:2], covariates=covariates)


def test_leading_axes_are_independent_rasters():
    batched = lattice.log_weight(toy(), EVERY_RASTER.reshape(64, 64, 3, 4))
    np.testing.assert_array_equal(batched.reshape(-1), lattice.log_weight(toy(), EVERY_RASTER))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": np.triu(SPACE)}, "symmetric"),
        ({"space": SPACE + np.eye(3)}, "zero diagonal"),
        ({"space": np.zeros((2, 2))}, "space must have shape"),
        ({"history": np.zeros(3)}, "history must have shape"),
        ({"transfer": np.ones((1, 3, 3))}, "lags that history covers"),
        ({"field": np.array([0.0, np.nan, 1.0])}, "NaN"),
        ({"field": np.zeros((1, 3, 4))}, r"\[N\] or \[N, T\]"),
    ],
)
def test_bad_couplings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        toy(**changes)


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match=r"\[\.\.\., 3, time\]"):
        lattice.log_weight(toy(), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="num_steps is 5"):
        lattice.log_partition(toy(**VARIANTS["driven"]), 5)
    with pytest.raises(ValueError, match="shorter than the longest lag"):
        lattice.log_partition(toy(**VARIANTS["range 3"]), 2, "periodic")
    with pytest.raises(ValueError, match="<= 20, got 21"):
        lattice.log_partition_rate(lattice.Action(np.zeros(21)))
    with pytest.raises(ValueError, match="pseudo-likelihood"):
        lattice.log_partition_rate(toy(transfer=TRANSFER))
    with pytest.raises(ValueError, match="range R <= 1"):
        lattice.log_partition_rate(toy(**VARIANTS["range 2"]))
    with pytest.raises(ValueError, match="at one lag"):
        lattice.log_partition(toy(transfer=np.zeros((2, 3, 3)), history=None), 4)


def test_dtype_is_kept_and_integers_become_floats():
    single = lattice.Action(FIELD.astype(np.float32), SPACE.astype(np.float32))
    assert lattice.log_weight(single, EVERY_RASTER[:3]).dtype == jnp.float32
    assert lattice.log_partition(single, 4).dtype == jnp.float32
    assert lattice.Action([0, 1, 2]).field.dtype == jnp.float64
