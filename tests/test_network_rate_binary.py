"""Rate and binary neurons against closed forms, an adaptive integration and exact enumeration."""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import python
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp
from scipy.special import erf, expit, ndtr
from scipy.stats import chi2

from neurofield.network._binary import Binary, BinaryState
from neurofield.network._rate import Rate, RateState

# --- rates


def run_rate(neuron, state, inputs, dt):
    """The state and the outputs `[step, ...]`."""

    def step(state, current):
        state, output = neuron.step(jax.random.key(0), state, current[None], dt)
        return state, output.value

    return jax.lax.scan(step, state, inputs)


@pytest.mark.parametrize(
    ("phi", "reference"),
    [
        ("tanh", np.tanh),
        ("erf", lambda x: erf(np.sqrt(np.pi) / 2 * x)),
        ("relu", lambda x: np.maximum(x, 0)),
        ("logistic", expit),
        (lambda x: x**3, lambda x: x**3),
    ],
)
def test_rate_relaxes_exactly_at_any_step_and_transmits_phi(phi, reference):
    tau, inputs = 0.01, np.array([1.0, -2.0, 0.5])
    neuron, x = Rate(phi, tau=tau, gain=1.5), 0.3
    state = RateState(jnp.array(x), None)
    np.testing.assert_allclose(neuron.initial_output(state), reference(1.5 * x))
    for dt in (0.001, 0.03):
        y, expected = x, []
        for held in inputs:
            y = held + (y - held) * np.exp(-dt / tau)
            expected.append(y)
        state_end, outputs = run_rate(neuron, state, jnp.asarray(inputs), dt)
        np.testing.assert_allclose(state_end.x, y, rtol=1e-12)
        np.testing.assert_allclose(outputs, reference(1.5 * np.array(expected)), rtol=1e-12)


def test_an_unknown_name_is_an_error_without_run_time_types_too():
    """In a fresh process, where nothing but the library looks at a string."""
    code = """
import jax
import jax.numpy as jnp
from neurofield.network import LIF, Binary

bad = LIF(spike_gradient="surogate")
state = bad.init(jax.random.key(0))
spike = lambda I: bad.step(jax.random.key(0), state, jnp.stack([I, I]), 1e-3)[1].value
for wrong in (
    lambda: Binary(update="asynchronous"),
    lambda: Binary(noise="erf"),
    lambda: jax.grad(spike)(jnp.array(1.0)),
):
    try:
        wrong()
    except ValueError as error:
        print(error)
"""
    lines = python("-c", code).splitlines()
    assert [x.split(" is not one of ")[0] for x in lines] == [
        "update='asynchronous'",
        "noise='erf'",
        "spike_gradient='surogate'",
    ]


def test_an_unknown_phi_is_an_error():
    with pytest.raises(ValueError, match=r"phi='sin'.*tanh"):
        Rate("sin")
    with pytest.raises(ValueError, match="tau_adaptation must be finite and positive"):
        Rate(tau_adaptation=-0.1)


def test_rate_starts_from_the_given_normal_law():
    x = Rate(initial_mean=2.0, initial_sd=0.5).init(jax.random.key(1), (10_000,)).x
    assert abs((x.mean() - 2) / 0.5) < 4 / 100
    assert abs(x.std() / 0.5 - 1) < 4 / np.sqrt(2 * 10_000)


def test_adaptation_converges_at_second_order_to_an_adaptive_integration():
    tau, tau_a, b, gain, current = 0.01, 0.03, 2.0, 1.5, 1.2
    neuron = Rate("tanh", tau=tau, gain=gain, adaptation=b, tau_adaptation=tau_a)

    def field(_, y):
        return [(current - y[1] - y[0]) / tau, (b * np.tanh(gain * y[0]) - y[1]) / tau_a]

    exact = solve_ivp(field, (0, 0.04), [-0.5, 0.0], rtol=1e-11, atol=1e-12).y[:, -1]
    errors = []
    for num in (20, 40, 80):
        state = RateState(jnp.array(-0.5), jnp.array(0.0))
        state, _ = run_rate(neuron, state, jnp.full(num, current), 0.04 / num)
        errors.append(np.abs(np.array([state.x, state.adaptation]) - exact))
    assert np.max(errors[-1]) < 1e-3
    # The next order is a share dt / tau, 1/20 at the finest pair, of the ratio 4.
    np.testing.assert_allclose(errors[1] / errors[2], 4, rtol=0.1)


@pytest.mark.parametrize("adaptation", [None, 0.7])
def test_the_gradient_through_a_rate_network_is_that_of_finite_differences(adaptation):
    weights = jax.random.normal(jax.random.key(2), (3, 3))
    neuron = Rate("erf", tau=jnp.array([0.01, 0.02, 0.03]), adaptation=adaptation, initial_mean=0.4)

    @jax.jit
    def loss(theta):
        neuron, weights = theta
        state = neuron.init(jax.random.key(3), (3,))

        def step(carry, _):
            state, rate = carry
            state, output = neuron.step(jax.random.key(0), state, (weights @ rate)[None], 0.002)
            return (state, output.value), jnp.sum(output.value**2)

        return jax.lax.scan(step, (state, neuron.initial_output(state)), length=30)[1].sum()

    theta = (neuron, weights)
    gradient = jax.grad(loss)(theta)
    flat, unravel = ravel_pytree(theta)
    ravelled = ravel_pytree(gradient)[0]
    scale = jnp.maximum(jnp.abs(flat), 1e-3)
    directions = jax.random.normal(jax.random.key(4), (4, flat.size)) * scale[None]
    for direction in directions:
        slope = (
            loss(unravel(flat + 1e-5 * direction)) - loss(unravel(flat - 1e-5 * direction))
        ) / 2e-5
        np.testing.assert_allclose(ravelled @ direction, slope, rtol=1e-6)
    used = [gradient[0].tau, gradient[0].gain, gradient[0].initial_sd]
    assert all(bool(jnp.all(x != 0)) for x in used)


# --- binary


WEIGHTS = np.array([[0.0, 1.5, -1.0], [0.8, 0.0, 1.2], [-2.0, 0.6, 0.0]])
EXTERNAL = np.array([0.3, 0.9, 1.4])
STATES = np.array(list(itertools.product([0.0, 1.0], repeat=3)))


def transitions(update, up, share):
    """The exact 8 x 8 matrix P[from, to] of three coupled neurons."""
    matrix = np.zeros((8, 8))
    for i, before in enumerate(STATES):
        to_one = up(WEIGHTS @ before + EXTERNAL)
        if update == "sequential":
            for unit, value in itertools.product(range(3), (0, 1)):
                after = before.copy()
                after[unit] = value
                j = int(after @ [4, 2, 1])
                matrix[i, j] += (to_one[unit] if value else 1 - to_one[unit]) / 3
        else:
            one = before + share * (to_one - before)
            matrix[i] = np.prod(np.where(STATES == 1, one, 1 - one), axis=1)
    return matrix


@partial(jax.jit, static_argnames=("dt", "num_steps"))
def run_binary(key, neuron, state, *, dt, num_steps):
    """States of the three coupled neurons, `[step, chain, 3]`, and their intensities."""

    def step(state, key):
        current = state.active @ WEIGHTS.T.astype(state.active.dtype) + EXTERNAL[None]
        state, output = neuron.step(key, state, current[None], dt)
        return state, (output.value, output.intensity)

    return jax.lax.scan(step, state, jax.random.split(key, num_steps))[1]


@pytest.mark.parametrize(
    ("neuron", "up", "num_steps"),
    [
        (Binary(0.8, 0.01, gain=2.0), lambda h: expit(2 * (h - 0.8)), 6),
        (
            Binary(0.8, gain=1.3, noise="gaussian", update="parallel"),
            lambda h: ndtr(1.3 * (h - 0.8)),
            4,
        ),
        (Binary(0.8, gain=2.0, update="sequential"), lambda h: expit(2 * (h - 0.8)), 8),
        (Binary(0.8, update="sequential"), lambda h: (h >= 0.8) * 1.0, 5),
    ],
    ids=["glauber", "parallel", "sequential", "sharp"],
)
def test_coupled_binary_neurons_follow_their_exact_markov_chain(neuron, up, num_steps):
    """Independent chains from the law of `init`, at a fixed number of steps: counts of the eight
    states are multinomial with the probabilities of the enumerated chain."""
    num, dt = 20_000, 0.004
    start = eqx.tree_at(lambda n: n.initial, neuron, jnp.array(0.3)).init(
        jax.random.key(5), (num, 3)
    )
    final = run_binary(jax.random.key(6), neuron, start, dt=dt, num_steps=num_steps)[0][-1]
    counts = np.bincount((np.asarray(final) @ [4, 2, 1]).astype(int), minlength=8)
    law = np.prod(np.where(STATES == 1, 0.3, 0.7), axis=1)
    share = 1 - np.exp(-dt / 0.01) if neuron.update == "glauber" else 1.0
    matrix = transitions(neuron.update, up, share)
    expected = num * law @ np.linalg.matrix_power(matrix, num_steps)
    assert np.all(counts[expected == 0] == 0)
    some = expected > 0
    statistic = np.sum((counts[some] - expected[some]) ** 2 / expected[some])
    assert chi2.sf(statistic, some.sum() - 1) > 1e-4


def test_the_stationary_law_in_time_is_that_of_the_enumerated_chain():
    """One long run per chain instead of many ends: time averages, errors from 200 chains."""
    neuron = Binary(0.8, gain=2.0, update="sequential")
    start = neuron.init(jax.random.key(7), (200, 3))
    active, intensity = run_binary(jax.random.key(8), neuron, start, dt=1e-3, num_steps=2000)
    matrix = transitions("sequential", lambda h: expit(2 * (h - 0.8)), None)
    values, vectors = np.linalg.eig(matrix.T)
    law = np.real(vectors[:, np.argmax(values.real)])
    mean = law @ STATES / law.sum()
    for observed in (active, intensity):
        chains = np.asarray(observed[200:]).mean(0)
        z = (chains.mean(0) - mean) / (chains.std(0, ddof=1) / np.sqrt(200))
        assert np.abs(z).max() < 4


def test_a_sharp_parallel_network_is_a_deterministic_map():
    neuron = Binary(0.8, update="parallel")
    active, intensity = run_binary(
        jax.random.key(9), neuron, BinaryState(jnp.asarray(STATES)), dt=1.0, num_steps=10
    )
    state = STATES
    for step in range(10):
        state = (state @ WEIGHTS.T + EXTERNAL >= 0.8) * 1.0
        np.testing.assert_array_equal(active[step], state)
        np.testing.assert_array_equal(intensity[step], state)


def test_a_sequential_step_updates_one_neuron_drawn_uniformly():
    neuron, num = Binary(0.0, update="sequential"), 3000
    zero = BinaryState(jnp.zeros((num, 5)))
    state, output = neuron.step(jax.random.key(10), zero, jnp.ones((1, num, 5)), 1e-3)
    np.testing.assert_array_equal(state.active.sum(-1), 1)
    np.testing.assert_array_equal(output.intensity, state.active)
    counts = np.asarray(state.active.sum(0))
    assert chi2.sf(np.sum((counts - num / 5) ** 2 / (num / 5)), 4) > 1e-4


def test_glauber_relaxes_exponentially_to_its_gain_function_under_a_fixed_input():
    tau, dt, num = 0.01, 0.001, 20_000
    neuron = Binary(1.0, tau, gain=3.0, initial=0.9)
    goal, start = expit(3 * (0.7 - 1.0)), neuron.init(jax.random.key(11), (num,))

    def step(state, key):
        state, output = neuron.step(key, state, jnp.full((1, num), 0.7), dt)
        return state, jnp.stack([output.value.mean(), output.intensity.mean()])

    keys = jax.random.split(jax.random.key(12), 30)
    means = np.asarray(jax.lax.scan(step, start, keys)[1])
    expected = goal + (0.9 - goal) * np.exp(-dt / tau * np.arange(1, 31))
    z = (means[:, 0] - expected) / np.sqrt(expected * (1 - expected) / num)
    assert np.abs(z).max() < 4
    # The intensity averages the last draw out, so that it lies closer.
    assert np.abs(means[:, 1] - expected).max() < 4 * np.sqrt(0.25 / num)


def test_what_a_binary_neuron_refuses():
    with pytest.raises(ValueError, match="tau must be finite and positive"):
        Binary(tau=0.0)
    with pytest.raises(ValueError, match="give a `gain`"):
        Binary(spike_gradient="score")
    neuron = Binary(update="sequential")
    with pytest.raises(ValueError, match="no axis"):
        neuron.step(jax.random.key(0), neuron.init(jax.random.key(0)), jnp.zeros(1), 1e-3)


def test_the_intensity_of_a_binary_neuron_carries_the_gradient():
    start = BinaryState(jnp.array([0.0, 1.0]))

    def value(threshold, mode):
        neuron = Binary(threshold, 0.01, gain=2.0, spike_gradient=mode)
        return neuron.step(jax.random.key(0), start, jnp.ones((1, 2)), 0.004)[1]

    f = expit(2 * (1 - 0.5))
    slope = -(1 - np.exp(-0.4)) * 2 * f * (1 - f)
    jacobian = jax.jacobian(lambda x: value(x, "score"))(0.5)
    np.testing.assert_allclose(jacobian.intensity, [slope, slope], rtol=1e-12)
    np.testing.assert_array_equal(jacobian.value, 0)
    np.testing.assert_allclose(jax.jacobian(lambda x: value(x, "surrogate"))(0.5).value, slope)
    with pytest.raises(TypeError, match="no derivative"):
        jax.jacobian(lambda x: value(x, "error"))(0.5)
