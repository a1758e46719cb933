"""Synaptic kernels against their closed forms, and the pending spikes' birth-death process."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from neurofield.network import _kernel as kernels

DT = 2e-3
KEY = jax.random.key(0)
TAU, RISE, DECAY = 0.007, 0.003, 0.011
PEAK = np.log(DECAY / RISE) * RISE * DECAY / (DECAY - RISE)
SCALE = 1 / (np.exp(-PEAK / DECAY) - np.exp(-PEAK / RISE))
# Each kernel with its formula.
FILTERS = {
    "exponential": (kernels.Exponential(TAU), lambda t: np.exp(-t / TAU)),
    "alpha": (kernels.Alpha(TAU), lambda t: t / TAU * np.exp(1 - t / TAU)),
    "double": (
        kernels.DoubleExponential(RISE, DECAY),
        lambda t: SCALE * (np.exp(-t / DECAY) - np.exp(-t / RISE)),
    ),
}
each_filter = pytest.mark.parametrize("name", FILTERS)


@eqx.filter_jit
def respond(kernel, arrivals, dt, level, state=None):
    """Input in the step after each of `arrivals[time, neuron]`, and the states before it."""
    state = kernel.init(arrivals[0]) if state is None else state

    def step(state, arrived):
        state = kernel.update(KEY, state, arrived, dt, level)
        return state, (kernel.input(state, dt, level), state)

    return jax.lax.scan(step, state, arrivals)[1]


def value(kernel, state):
    if isinstance(kernel, kernels.DoubleExponential):
        return kernel._scale() * (state.decaying.value - state.rising.value)
    return state.value


def mean_of(fn, start, dt):
    return quad(fn, start, start + dt, epsabs=1e-14, epsrel=1e-13)[0] / dt


@each_filter
def test_spikes_start_the_kernel_at_their_arrival_and_the_input_is_its_exact_mean(name):
    kernel, formula = FILTERS[name]
    weights = {1: 0.7, 2: -2.0, 9: 1.5}  # step at whose end it arrives: weight
    arrivals = np.zeros((30, 2))
    for step, weight in weights.items():
        arrivals[step] = weight, 3 * weight
    found, states = respond(kernel, jnp.asarray(arrivals), DT, False)
    at_grid, mean = np.zeros(30), np.zeros(30)
    for step, weight in weights.items():
        for k in range(step, 30):
            at_grid[k] += weight * formula((k - step) * DT)
            mean[k] += weight * mean_of(formula, (k - step) * DT, DT)
    columns = [1.0, 3.0]
    np.testing.assert_allclose(value(kernel, states), np.outer(at_grid, columns), atol=1e-12)
    np.testing.assert_allclose(found, np.outer(mean, columns), atol=1e-12)


@each_filter
@pytest.mark.parametrize("dt", [2e-5, 2e-3, 0.1])
def test_all_of_a_spike_is_delivered_whatever_the_step(name, dt):
    kernel, formula = FILTERS[name]
    arrivals = jnp.zeros((round(0.5 / dt), 1)).at[0].set(1.0)
    found, _ = respond(kernel, arrivals, dt, False)
    area = quad(formula, 0, 1, points=[0.02], epsabs=1e-14)[0]
    np.testing.assert_allclose(found.sum() * dt, area, rtol=1e-10)
    np.testing.assert_allclose(kernel.area(), area, rtol=1e-10)


@each_filter
def test_kernels_have_peak_one(name):
    kernel, _ = FILTERS[name]
    dt = 1e-6
    arrivals = jnp.zeros((20_000, 1)).at[0].set(1.0)
    _, states = respond(kernel, arrivals, dt, False)
    # Off the peak by half a step at most: a relative curvature of about (dt / tau)^2.
    np.testing.assert_allclose(value(kernel, states).max(), 1, rtol=1e-6)


@each_filter
@pytest.mark.parametrize("dt", [1e-4, 2e-3])
def test_a_constant_level_is_integrated_exactly(name, dt):
    kernel, formula = FILTERS[name]
    level = jnp.asarray([[2.0, -0.5]])
    # From rest, at a level that has been there since the start.
    start = kernel.init(level[0])
    if name == "double":
        start = eqx.tree_at(lambda s: (s.rising.level, s.decaying.level), start, (level[0],) * 2)
    else:
        start = eqx.tree_at(lambda s: s.level, start, level[0])
    found, states = respond(kernel, jnp.repeat(level, 12, 0), dt, True, start)
    steps = np.array([quad(formula, 0, k * dt, epsabs=1e-16)[0] for k in range(1, 13)])
    np.testing.assert_allclose(value(kernel, states), np.outer(steps, level[0]), rtol=1e-9)
    mean = [mean_of(lambda t: quad(formula, 0, t, epsabs=1e-16)[0], k * dt, dt) for k in (1, 5, 12)]
    np.testing.assert_allclose(found[np.array([0, 4, 11])], np.outer(mean, level[0]), rtol=1e-9)


@each_filter
def test_a_settled_kernel_stays_where_it_is(name):
    kernel, _ = FILTERS[name]
    level = jnp.asarray([2.0, -0.5])
    state = kernel.settled(level)
    after = kernel.update(KEY, state, level, DT, True)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    np.testing.assert_allclose(kernel.input(state, DT, True), kernel.area() * level, rtol=1e-13)


@each_filter
def test_a_smooth_level_is_followed_to_second_order(name):
    kernel, formula = FILTERS[name]

    def level(t):
        return np.sin(200 * t) ** 2

    end = 0.024
    exact = quad(lambda s: formula(end - s) * level(s), 0, end, epsabs=1e-14)[0]

    def exact_mean(dt):
        def at(t):
            return quad(lambda s: formula(t - s) * level(s), 0, t, epsabs=1e-14)[0]

        return mean_of(at, end, dt)

    errors, mean_errors = [], []
    for dt in (2e-4, 1e-4):
        times = dt * np.arange(1, round(end / dt) + 1)
        found, states = respond(kernel, jnp.asarray(level(times)[:, None]), dt, True)
        errors.append(abs(float(value(kernel, states)[-1, 0]) - exact))
        mean_errors.append(abs(float(found[-1, 0]) - exact_mean(dt)))
    # Halving the step divides the error by 4, up to terms of the next order.
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert 3.0 < mean_errors[0] / mean_errors[1] < 5.0


@each_filter
def test_transfer_is_the_fourier_transform(name):
    kernel, formula = FILTERS[name]
    frequency = np.array([0.0, 10.0, 60.0])
    # 0.4 s is 36 time constants of the slowest: what is cut off is below 1e-15.
    t = np.linspace(0, 0.4, 2_000_001)
    for f, found in zip(frequency, kernel.transfer(frequency), strict=True):
        wanted = np.trapezoid(formula(t) * np.exp(-2j * np.pi * f * t), t)
        np.testing.assert_allclose(found, wanted, rtol=1e-8)
    np.testing.assert_allclose(kernel.transfer(0.0), kernel.area(), rtol=1e-14)


def test_transfer_of_heterogeneous_time_constants_has_a_row_for_each():
    tau = np.array([0.005, 0.02])
    frequency = np.array([0.0, 5.0, 10.0])
    found = kernels.Exponential(tau).transfer(frequency)
    assert found.shape == (2, 3)
    for row, one in zip(found, tau, strict=True):
        np.testing.assert_allclose(row, kernels.Exponential(one).transfer(frequency))


def test_heterogeneous_time_constants_are_as_separate_kernels():
    taus = np.array([0.005, 0.02])
    arrivals = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)))
    for level in (False, True):
        for kind in (kernels.Exponential, kernels.Alpha):
            both, _ = respond(kind(taus), arrivals, DT, level)
            for i, tau in enumerate(taus):
                one, _ = respond(kind(tau), arrivals[:, i : i + 1], DT, level)
                np.testing.assert_allclose(both[:, i], one[:, 0], rtol=1e-12)


def test_delta_passes_spikes_as_a_jump_and_levels_as_they_are():
    delta = kernels.Delta()
    arrivals = jnp.asarray([0.3, 0.0, -0.1])
    state = delta.update(KEY, delta.init(arrivals), arrivals, DT, False)
    np.testing.assert_allclose(DT * delta.input(state, DT, False), arrivals, rtol=1e-15)
    np.testing.assert_array_equal(delta.input(state, DT, True), arrivals)
    np.testing.assert_array_equal(delta.transfer(np.array([0.0, 3.0])), [1, 1])
    assert delta.instantaneous
    assert delta.area() == 1


@each_filter
@pytest.mark.parametrize("tau", [7e-3, 0.5])
def test_float32_keeps_its_dtype_and_loses_no_digits_to_short_steps(name, tau):
    kernel, _ = FILTERS[name]
    kernel = jax.tree.map(lambda x: jnp.asarray(x * tau / 7e-3), kernel)
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), kernel)
    arrivals = jnp.asarray(np.random.default_rng(0).random((50, 3)))
    for level in (False, True):
        found, _ = respond(narrow, arrivals.astype(jnp.float32), 1e-4, level)
        wanted, states = respond(kernel, arrivals, 1e-4, level)
        assert found.dtype == jnp.float32
        # One rounding a step, of the two exponentials where their difference is taken.
        double = isinstance(kernel, kernels.DoubleExponential)
        terms = kernel._scale() * states.decaying.value if double else wanted
        largest = float(jnp.abs(terms).max())
        np.testing.assert_allclose(found, wanted, atol=50 * 1.2e-7 * largest)


@each_filter
def test_gradients_equal_finite_differences(name):
    kernel, _ = FILTERS[name]
    arrivals = jnp.asarray(np.random.default_rng(1).random((15, 2)))

    for level in (False, True):

        @jax.jit
        def loss(factor, level=level):
            scaled = jax.tree.map(lambda x: x * factor, kernel)
            return jnp.sum(respond(scaled, arrivals * factor, DT, level)[0] ** 2)

        h = 1e-6
        found = jax.grad(loss)(1.0)
        wanted = (loss(1 + h) - loss(1 - h)) / (2 * h)
        assert abs(wanted) > 1e-6
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_pending_spikes_are_a_birth_death_process():
    tau, rate, dt, num = 0.0045, 900.0, 1e-5, 4000
    kernel = kernels.Pending(tau)

    @jax.jit
    def run(key):
        def step(state, key):
            arrive, absorb = jax.random.split(key)
            arrivals = jax.random.poisson(arrive, rate * dt, (num,)).astype(state.dtype)
            state = kernel.update(absorb, state, arrivals, dt, False)
            return state, None

        # 10 time constants: the start is forgotten to e^-10 of the mean, far below an error.
        keys = jax.random.split(key, round(10 * tau / dt))
        return jax.lax.scan(step, kernel.init(jnp.zeros(num)), keys)[0]

    pending = np.asarray(run(jax.random.key(3)))
    mean = rate * tau  # Poisson distributed, corrections of order dt / tau = 0.2 %
    np.testing.assert_array_equal(pending, np.round(pending))
    assert pending.min() >= 0
    assert abs(pending.mean() - mean) < 4 * np.sqrt(mean / num) + 0.003 * mean
    fourth = mean * (1 + 3 * mean)
    error = np.sqrt((fourth - mean**2) / num)
    assert abs(pending.var() - mean) < 4 * error + 0.003 * mean
    np.testing.assert_allclose(kernel.input(jnp.asarray(pending), dt, False), pending / tau)


def test_pending_spikes_decay_with_their_time_constant():
    tau, dt, num = 0.01, 1e-4, 20_000
    kernel = kernels.Pending(tau)
    state = jnp.full(num, 20.0)

    def step(state, key):
        return kernel.update(key, state, jnp.zeros(num), dt, False), None

    state, _ = jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 50))
    # Of the map's own mean, (1 - dt / tau)^k; binomial at small dt.
    left = (1 - dt / tau) ** 50
    error = np.sqrt(20 * left * (1 - left) / num)
    assert abs(float(state.mean()) - 20 * left) < 4 * error
    np.testing.assert_allclose(kernel.transfer(0.0), kernel.area())


def test_impossible_kernels_are_refused():
    for kind in (kernels.Exponential, kernels.Alpha, kernels.Pending):
        for tau in (0.0, -1.0, np.nan, np.array([0.1, np.inf])):
            with pytest.raises(ValueError, match="tau must be finite and positive"):
                kind(tau)
    with pytest.raises(ValueError, match="Alpha is the kernel of equal ones"):
        kernels.DoubleExponential(0.01, 0.01)
    with pytest.raises(ValueError, match="decay - rise"):
        kernels.DoubleExponential(0.02, 0.01)
    pending = kernels.Pending(0.01)
    with pytest.raises(ValueError, match="need a filter or Delta"):
        pending.update(KEY, jnp.zeros(2), jnp.zeros(2), DT, True)
