"""The infinite-time solution: against dense matrices, closed forms and the reference instance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_lattice_action import FIELD, REFERENCE, SPACE, toy

from neurofield import lattice


def dense(action):
    """The transfer matrix with its slices, written out."""
    n = action.num_neurons
    s = (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1
    energy = s @ np.asarray(action.field) + 0.5 * np.einsum(
        "ai,ij,aj->a", s, np.asarray(action.space), s
    )
    over_time = (s * np.asarray(action.history[0])) @ s.T
    return s, np.exp(0.5 * energy[:, None] + over_time + 0.5 * energy[None, :])


def random_action(seed, n, history_mean=0.0):
    rng = np.random.default_rng(seed)
    space = rng.normal(size=(n, n)) * 0.4
    space = np.triu(space, 1) + np.triu(space, 1).T
    return lattice.Action(rng.normal(size=n) - 1, space, rng.normal(size=(1, n)) + history_mean)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("history_mean", [0.0, -4.0, 3.0])
def test_rate_is_the_top_eigenvalue(n, history_mean):
    action = random_action(n, n, history_mean)
    expected = np.log(np.linalg.eigvalsh(dense(action)[1])[-1])
    np.testing.assert_allclose(lattice.log_partition_rate(action), expected, rtol=1e-12)


def test_rate_is_the_growth_of_log_partition():
    action = random_action(3, 4)
    growth = lattice.log_partition(action, 61) - lattice.log_partition(action, 60)
    np.testing.assert_allclose(lattice.log_partition_rate(action), growth, rtol=1e-12)
    spins = toy(basis="spin")
    growth = lattice.log_partition(spins, 61) - lattice.log_partition(spins, 60)
    np.testing.assert_allclose(lattice.log_partition_rate(spins), growth, rtol=1e-12)


def test_first_and_second_derivatives_of_the_rate():
    """Against central differences of the dense eigenvalue, which knows no eigenvectors."""
    action = random_action(4, 4, -1.0)
    flat, unflatten = ravel_pytree((action.field, action.history))
    directions = np.random.default_rng(0).normal(size=(3, flat.size))

    def rate(vector):
        field, history = unflatten(vector)
        return lattice.log_partition_rate(lattice.Action(field, action.space, history))

    def dense_rate(vector):
        field, history = unflatten(jnp.asarray(vector))
        changed = lattice.Action(field, action.space, history)
        return np.log(np.linalg.eigvalsh(dense(changed)[1])[-1])

    gradient = jax.jit(jax.grad(rate))(flat)
    hessian = jax.jit(jax.hessian(rate))(flat)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-10)
    for d in directions:
        step = 1e-4
        ahead, here, behind = (dense_rate(flat + k * step * d) for k in (1, 0, -1))
        slope = jnp.dot(gradient, d)
        # Truncation is step^2 / 6 of a third derivative of order one (|d|^3 about 20).
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6)
        # The second difference rounds at eps / step^2 = 2e-8.
        np.testing.assert_allclose(
            d @ hessian @ d, (ahead - 2 * here + behind) / step**2, rtol=1e-5
        )


def test_third_derivative_by_differences_of_the_second():
    action = random_action(6, 2)
    b = action.history[0]

    def slope(h):
        rate = lambda c: lattice.log_partition_rate(  # noqa: E731
            lattice.Action(action.field, action.space, c[None])
        )
        return jax.grad(rate)(h)

    along = lambda fn, v: lambda h: jax.jvp(fn, (h,), (v,))[1]  # noqa: E731
    v, w = jnp.array([1.0, -0.5]), jnp.array([0.3, 0.8])
    second = jax.jit(along(slope, v))
    third = jax.jit(along(along(slope, v), w))(b)
    step = 1e-4
    difference = (second(b + step * w) - second(b - step * w)) / (2 * step)
    np.testing.assert_allclose(third, difference, atol=1e-7)


def test_stationary_statistics_of_the_reference_instance():
    found = lattice.statistics(toy(), bin_width=0.5, num_lags=3)
    rate = found.rate * 0.5
    np.testing.assert_allclose(rate, [0.4781200109, 0.6455958363, 0.3232909707], atol=1e-9)
    np.testing.assert_allclose(found.covariance[0, 1] + rate[0] * rate[1], 0.3367003509, atol=1e-9)
    np.testing.assert_allclose(found.lagged[1, 1, 1] + rate[1] ** 2, 0.4383330205, atol=1e-9)
    np.testing.assert_allclose(found.lagged[0], found.covariance, atol=1e-14)
    np.testing.assert_allclose(jnp.sum(found.population_count), 1, atol=1e-13)


@pytest.mark.parametrize("history", [None, np.array([[0.4, -1.0, 0.7]])])
def test_statistics_are_those_of_the_dense_chain(history):
    action = lattice.Action(FIELD, SPACE, history)
    padded = lattice.Action(FIELD, SPACE, np.zeros((1, 3)) if history is None else history)
    s, matrix = dense(padded)
    values, vectors = np.linalg.eigh(matrix)
    r, top = np.abs(vectors[:, -1]), values[-1]
    chain = matrix * r[None, :] / (top * r[:, None])
    pi = r**2
    mean = pi @ s
    found = lattice.statistics(action, bin_width=1.0, num_lags=4)
    for lag in range(4):
        # lagged[l, i, j] = cov(x_i(t + l), x_j(t))
        later = np.linalg.matrix_power(chain, lag) @ s
        expected = later.T @ (pi[:, None] * s) - np.outer(mean, mean)
        np.testing.assert_allclose(found.lagged[lag], expected, atol=1e-12)
    counts = np.bincount(s.sum(1), weights=pi)
    np.testing.assert_allclose(found.population_count, counts, atol=1e-12)


def test_single_neuron_closed_form():
    known = REFERENCE["single_neuron_gas"]
    action = lattice.Action([known["I"]], history=[[known["b"]]])
    np.testing.assert_allclose(lattice.log_partition_rate(action), known["log_lambda"], atol=1e-13)
    silent, active = np.array([[0, 0]]), np.array([[1, 0]])
    np.testing.assert_allclose(lattice.predict(action, silent)[0, 1], known["P01"], atol=1e-12)
    np.testing.assert_allclose(lattice.predict(action, active)[0, 1], known["P11"], atol=1e-12)
    np.testing.assert_allclose(lattice.predict(action, silent)[0, 0], known["rate"], atol=1e-12)


def test_entropy_rate_by_the_causal_likelihood():
    """- <log P(x(t+1) | x(t))> over the exact two-slice law; 1.9482647676 nats per bin."""
    s, matrix = dense(toy())
    values, vectors = np.linalg.eigh(matrix)
    r = np.abs(vectors[:, -1])
    pairs = np.stack(np.broadcast_arrays(s[:, None, :], s[None, :, :]), axis=-1)
    log_p = lattice.log_likelihood(toy(), pairs.reshape(-1, 3, 2)).reshape(8, 8)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, atol=1e-12)
    two_slice = r[:, None] * matrix * r[None, :] / values[-1]
    np.testing.assert_allclose(-np.sum(two_slice * log_p), 1.9482647676, atol=1e-9)


def test_predict_is_the_marginal_of_the_chain():
    action = random_action(9, 4, -2.0)
    s, matrix = dense(action)
    values, vectors = np.linalg.eigh(matrix)
    r = np.abs(vectors[:, -1])
    chain = matrix * r[None, :] / (values[-1] * r[:, None])
    raster = np.random.default_rng(1).integers(0, 2, (4, 30))
    code = (2 ** np.arange(3, -1, -1)) @ raster
    intensity = lattice.predict(action, raster)
    np.testing.assert_allclose(intensity[:, 1:], (chain[code[:-1]] @ s).T, atol=1e-12)


@pytest.mark.parametrize("history", [None, np.array([[0.4, -1.0, 0.7]])])
def test_both_bases_give_the_same_likelihood(history):
    action = lattice.Action(FIELD, SPACE, history)
    spins, _ = lattice.to_basis(action, "spin", 1, "periodic")
    raster = np.random.default_rng(1).integers(0, 2, (3, 40))
    np.testing.assert_allclose(
        lattice.bin_log_likelihood(spins, raster),
        lattice.bin_log_likelihood(action, raster),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        lattice.predict(spins, raster), lattice.predict(action, raster), atol=1e-12
    )


def test_likelihood_gradient_reaches_through_the_eigenvector():
    """The causal likelihood depends on the couplings also through psi."""
    raster = np.random.default_rng(1).integers(0, 2, (3, 7))
    step = 1e-5

    def value(b):
        return lattice.log_likelihood(lattice.Action(FIELD, SPACE, b[None]), raster)

    b = jnp.array([0.4, -1.0, 0.7])
    value = jax.jit(value)
    slope = jax.jit(jax.grad(value))(b)
    for i in range(3):
        shift = step * jnp.eye(3)[i]
        np.testing.assert_allclose(
            slope[i], (value(b + shift) - value(b - shift)) / (2 * step), rtol=1e-7
        )


def test_an_eigenvalue_out_of_reach_is_an_error():
    with pytest.raises(Exception, match="did not converge"):
        jax.block_until_ready(
            jax.jit(lambda b: lattice.log_partition_rate(lattice.Action(FIELD, SPACE, b)))(
                jnp.full((1, 3), jnp.nan)
            )
        )
