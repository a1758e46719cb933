"""What every public function owes its users, from one table: see contract_table.py."""

import importlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_table import CASES, HOST
from helpers import rooms

# Figures and the command line are host code through and through.
HOST_ROOMS = {"plot", "report", "cli"}


def public_functions(room: str) -> set[str]:
    module = importlib.import_module(f"neurofield.{room}")
    return {
        f"{room}.{name}"
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and not isinstance(value, type)
    }


@pytest.mark.parametrize("room", [r for r in rooms() if r.split(".")[0] not in HOST_ROOMS])
def test_every_public_function_has_an_entry(room):
    entered = {case.public for case in CASES.values()}
    missing = public_functions(room) - entered - HOST
    assert not missing, f"give them an entry in contract_table.py, or name them in HOST: {missing}"


def test_the_table_names_only_public_functions():
    public = {name for room in rooms() for name in public_functions(room)}
    entered = {case.public for case in CASES.values()}
    assert entered | HOST <= public
    assert not entered & HOST


def parametrised(cases):
    marked = [pytest.param(c, id=c.name, marks=[pytest.mark.slow] * c.slow) for c in cases]
    return pytest.mark.parametrize("case", marked)


each_case = parametrised(CASES.values())
differentiable = parametrised(case for case in CASES.values() if case.wrt)


def leaves(tree) -> list[np.ndarray]:
    """The numbers of a result as NumPy arrays, random keys as their data."""
    arrays = []
    for leaf in jax.tree.leaves(tree):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        arrays.append(np.asarray(jax.random.key_data(leaf) if is_key else leaf))
    return arrays


def assert_close(got, expected):
    """Equal up to reordered sums: 1e-10 of the largest entry, in float64; discrete ones exactly."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        assert a.dtype == b.dtype
        scale = np.max(np.abs(b[np.isfinite(b)]), initial=0.0) if b.dtype.kind in "fc" else 0.0
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * scale)


@each_case
def test_jit_equals_eager_and_traces_once(case):
    num_traces = 0

    def counted(*args):
        nonlocal num_traces
        num_traces += 1
        return case.fn(*args)

    jitted = jax.jit(counted)
    for seed in (0, 1):
        args = case.args(seed)
        assert_close(jitted(*args), case.fn(*args))
    assert num_traces == 1, "new values of the same shapes cause a new trace"


@each_case
def test_vmap_equals_a_loop(case):
    calls = [case.args(seed) for seed in (0, 1)]

    def stack(*trees):
        return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *trees)

    # Jitted, because a vmapped function that is called eagerly compiles each of its operations.
    mapped = jax.jit(jax.vmap(case.fn))(*stack(*calls))
    assert_close(mapped, stack(*(case.fn(*args) for args in calls)))


@each_case
def test_float32_stays_float32(case):
    args = case.args(dtype=jnp.float32)
    if not any(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(args)):
        pytest.skip("takes no floating number, so that its result has JAX's default precision")
    out = jax.jit(case.fn)(*args)
    dtypes = {leaf.dtype.name for leaf in leaves(out) if leaf.dtype.kind in "fc"}
    assert dtypes <= {"float32", "complex64"}, dtypes


def scalar_loss(case, args):
    """The result as one smooth number: its entries in fixed random proportions.

    Returns the function of the differentiated leaves, and these leaves.
    """
    chosen = tuple(args[i] for i in case.wrt)
    inexact, rest = eqx.partition(chosen, eqx.is_inexact_array)

    def loss(inexact):
        full = list(args)
        for i, arg in zip(case.wrt, eqx.combine(inexact, rest), strict=True):
            full[i] = arg
        out = jax.tree.leaves(eqx.filter(case.fn(*full), eqx.is_inexact_array))
        keys = jax.random.split(jax.random.key(7), len(out))
        total = jnp.zeros(())
        for leaf, key in zip(out, keys, strict=True):
            share = jax.random.normal(key, leaf.shape) / np.sqrt(max(leaf.size, 1))
            total += jnp.sum(share * (leaf.real + leaf.imag))
        return total

    return jax.jit(loss), inexact


@differentiable
def test_gradient_equals_finite_differences(case):
    loss, params = scalar_loss(case, case.args())
    gradient = jax.jit(jax.grad(loss))(params)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        where = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), f"the gradient of {where} is not finite"
        assert leaf.size == 0 or np.any(leaf != 0), f"the gradient of {where} is zero"

    flat, unravel = jax.flatten_util.ravel_pytree(params)
    slope, _ = jax.flatten_util.ravel_pytree(gradient)
    # Fourth-order central differences: with step 1e-3 their error, h^4 = 1e-12, is of the order of
    # the rounding, 1e-16 / h = 1e-13, times the size of the function and its derivatives.
    step = 1e-3
    for direction in np.random.default_rng(3).standard_normal((2, flat.size)):
        direction = direction / np.linalg.norm(direction)

        def along(h, direction=direction):
            return float(loss(unravel(flat + h * direction)))

        differences = (8 * (along(step) - along(-step)) - (along(2 * step) - along(-2 * step))) / (
            12 * step
        )
        np.testing.assert_allclose(slope @ direction, differences, rtol=1e-6, atol=1e-9)
