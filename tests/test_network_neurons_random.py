"""Neurons that fire or recover at random, against the exact law of their spikes."""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom, chisquare

from neurofield.network._escape import EscapeLIF, EscapeLIFState
from neurofield.network._glm import GLM
from neurofield.network._markov_lif import MarkovLIF, MarkovLIFState

HAZARDS = {
    "exponential": np.exp,
    "erf": ndtr,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "linear": lambda x: np.maximum(x, 0),
}


@partial(jax.jit, static_argnames=("dt",))
def run(neuron, key, state, inputs, *, dt):
    """States and outputs `[step, ...]` under `inputs[step, channel, ...]`."""

    def step(carry, input):
        key, state = carry
        key, now = jax.random.split(key)
        state, output = neuron.step(now, state, input, dt)
        return (key, state), (state, output)

    return jax.lax.scan(step, (key, state), inputs)[1]


def held(values, num_steps):
    """`inputs[step, channel, ...]` that stay at `values[channel, ...]`."""
    return jnp.broadcast_to(values[None], (num_steps, *values.shape))


def still(num_neurons):
    """Voltage 0, not refractory."""
    return jnp.zeros(num_neurons), jnp.zeros(num_neurons)


def fits(counts, law):
    """Chi-squared p-value of `counts` under probabilities; rare cells are pooled to 10 expected."""
    order = np.argsort(-law)
    cells = counts[order], law[order] / law.sum() * counts.sum()
    last = np.flatnonzero(cells[1] >= 10)[-1]
    observed, expected = (np.append(x[:last], x[last:].sum()) for x in cells)
    return chisquare(observed, expected).pvalue


# --- escape noise


@pytest.mark.parametrize("hazard", HAZARDS)
def test_escape_intervals_follow_the_product_of_survival_probabilities(hazard):
    num, steps, dt, current = 4000, 300, 4e-3, 20.0
    neuron = EscapeLIF(hazard=hazard, refractory=0.012, reset=2.0, rest=1.0)
    state = EscapeLIFState(jnp.full(num, 2.0), jnp.zeros(num))
    inputs = held(jnp.stack([jnp.full(num, current), jnp.zeros(num)]), steps)
    _, output = run(neuron, jax.random.key(1), state, inputs, dt=dt)
    spikes = np.asarray(output.value)
    assert (spikes.sum(0) >= 2).all()
    first, second = np.sort(np.argsort(-spikes, axis=0, kind="stable")[:2], axis=0)
    # The same law, from the closed form of the voltage.
    n = np.arange(1, steps + 1)
    voltage = 21.0 + (2.0 - 21.0) * np.exp(-n * dt / 0.02)
    survive = np.exp(-dt * 50.0 * HAZARDS[hazard]((voltage - 15.0) / 3.0))
    law = np.cumprod(np.append(1, survive[:-1])) * (1 - survive)
    for waited in (first, second - first - 1 - 3):
        assert waited.min() >= 0
        assert fits(np.bincount(waited, minlength=steps), law) > 1e-4


@pytest.mark.parametrize("resets", [True, False])
def test_escape_intensity_is_the_expected_number_of_spikes_a_second(resets):
    num, steps, dt = 200, 2000, 5e-4
    neuron = EscapeLIF(resets=resets, refractory=0.002)
    noise = 10 * jax.random.normal(jax.random.key(2), (steps, num)) + 12
    inputs = jnp.stack([noise, jnp.zeros_like(noise)], axis=1)
    state = EscapeLIFState(*still(num))
    states, output = run(neuron, jax.random.key(3), state, inputs, dt=dt)
    spikes, p = np.asarray(output.value), np.asarray(output.intensity) * dt
    assert spikes.sum() > 2000
    assert abs((spikes - p).sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    # It is the hazard of the voltage that the step ends with, unless a spike has reset that.
    reached = np.asarray(states.voltage)
    free = (spikes == 0) & (p > 0)
    np.testing.assert_allclose(
        p[free], 1 - np.exp(-dt * 50 * np.exp((reached[free] - 15) / 3)), rtol=1e-9
    )
    after = np.asarray([spikes[k : k + 4].sum(0) for k in range(steps - 4)])
    assert (spikes[:-4] * (p[1:-3] + p[2:-2] + p[3:-1] + p[4:]) == 0).all()
    assert (spikes[:-5] * p[5:]).sum() > 0
    assert after.max() == 1


def test_without_reset_the_voltage_does_not_know_the_spikes():
    neuron = EscapeLIF(resets=False, rate=1e9)
    state = EscapeLIFState(*still(3))
    inputs = held(jnp.stack([jnp.full(3, 9.0), jnp.full(3, 400.0)]), 50)
    states, output = run(neuron, jax.random.key(4), state, inputs, dt=1e-3)
    np.testing.assert_array_equal(output.value, 1)
    v, decay = 0.0, np.exp(-1e-3 / 0.02)
    for voltage in np.asarray(states.voltage):
        v = 9 + (v - 9) * decay + 0.4
        np.testing.assert_allclose(voltage, v, rtol=1e-13)


def test_erf_hazard_of_a_gaussian_voltage_is_the_reference_rate():
    """`glm_EI.csv`, erf_J0.2: 21.121833 Hz where V ~ N(7.551267, 70.218077)."""
    neuron = EscapeLIF(resets=False, hazard="erf", rate=100.0, threshold=15.0, width=4.0)
    x = jnp.linspace(-10, 10, 801)  # the trapezoidal rule is spectrally accurate
    weight = np.exp(-(np.asarray(x) ** 2) / 2)
    state = EscapeLIFState(7.551267 + np.sqrt(70.218077) * x, jnp.zeros_like(x))
    rest = jnp.stack([jnp.zeros_like(x)] * 2)
    _, output = neuron.step(jax.random.key(0), state, rest, 1e-10)
    rate = (np.asarray(output.intensity) * weight).sum() / weight.sum()
    # The moments are given to 7 digits; 1 / (2 dt) changes the rate by hazard dt / 2 = 5e-9.
    np.testing.assert_allclose(rate, 21.121833, rtol=3e-7)


@pytest.mark.parametrize("hazard", HAZARDS)
def test_sure_spikes_and_sure_silence_have_finite_derivatives_in_float32(hazard):
    neuron = EscapeLIF(width=0.01, rate=1e6, hazard=hazard, spike_gradient="score")

    def probability(voltage):
        state = EscapeLIFState(voltage, jnp.zeros_like(voltage))
        output = neuron.step(jax.random.key(0), state, jnp.zeros((2, 2), jnp.float32), 1e-3)[1]
        return output.intensity * 1e-3

    voltage = jnp.array([1e6, -1e6], jnp.float32)
    value, slope = jax.jvp(probability, (voltage,), (jnp.ones_like(voltage),))
    np.testing.assert_allclose(value, [1, 0], rtol=1e-6)
    np.testing.assert_array_equal(slope, 0)


@jax.jit
def spikes_and_score(rate, key):
    """Spike counts of a short run and d log-likelihood / d rate of each neuron."""
    num, dt = 20000, 2e-3
    inputs = held(jnp.stack([jnp.full(num, 16.0), jnp.zeros(num)]), 20)

    def log_likelihood(rate):
        neuron = EscapeLIF(rate=rate, spike_gradient="score")
        _, output = run(neuron, key, EscapeLIFState(*still(num)), inputs, dt=dt)
        p = output.intensity * dt
        return jnp.sum(jnp.log(jnp.where(output.value > 0, p, 1 - p)), axis=0), output.value

    _, score, spikes = jax.jvp(log_likelihood, (rate,), (jnp.ones(()),), has_aux=True)
    return spikes.sum(0), score


def test_the_score_has_mean_zero_and_gives_the_derivative_of_the_mean():
    counts, score = map(np.asarray, spikes_and_score(jnp.asarray(50.0), jax.random.key(5)))
    error = score.std() / np.sqrt(score.size)
    assert error > 0
    assert abs(score.mean()) < 4 * error
    # d E[count] / d rate = E[count score], against a finite difference.
    product = (counts - counts.mean()) * score
    more = np.asarray(spikes_and_score(jnp.asarray(60.0), jax.random.key(6))[0])
    less = np.asarray(spikes_and_score(jnp.asarray(40.0), jax.random.key(7))[0])
    difference = (more.mean() - less.mean()) / 20
    spread = np.hypot(product.std(), np.hypot(more.std(), less.std()) / 20) / np.sqrt(counts.size)
    # The count is concave in the rate: the central difference is a little off.
    assert abs(product.mean() - difference) < 4 * spread
    assert product.mean() > 10 * product.std() / np.sqrt(counts.size)


@jax.jit
def rate_and_slope(mean, key):
    """Of 100 ms under Ornstein-Uhlenbeck noise (8 mV, 5 ms): d rate / d mean, one a neuron."""
    num, dt = 4000, 1e-4
    begin, walk, draws = jax.random.split(key, 3)
    noise = jax.random.normal(walk, (1000, num))
    decay = np.exp(-dt / 0.005)

    def step(z, kick):
        z = decay * z + np.sqrt(1 - decay**2) * kick
        return z, z

    noise = 8 * jax.lax.scan(step, jax.random.normal(begin, (num,)), noise)[1]

    def log_likelihood(mean):
        inputs = jnp.stack([mean + noise, jnp.zeros_like(noise)], axis=1)
        neuron = EscapeLIF(spike_gradient="score")
        _, output = run(neuron, draws, EscapeLIFState(*still(num)), inputs, dt=dt)
        p = output.intensity * dt
        steps = jnp.log(jnp.where(output.value > 0, p, 1 - p))
        return jnp.cumsum(steps, axis=0), output.value

    _, score, spikes = jax.jvp(log_likelihood, (mean,), (jnp.ones(()),), has_aux=True)
    # Only earlier steps can have caused a spike.
    causal = (spikes - spikes.mean(1, keepdims=True)) * score
    return causal.sum(0) / 0.1


def test_the_causal_score_gives_the_reference_derivative_of_a_driven_rate():
    """meanfield.md 2.9: d rate / d mean input is 1.9249(70) at mean 14 mV."""
    samples = np.asarray(rate_and_slope(jnp.asarray(14.0), jax.random.key(13)))
    error = samples.std() / np.sqrt(samples.size)
    assert error < 0.06
    assert abs(samples.mean() - 1.9249) < 4 * np.hypot(error, 0.007)


@pytest.mark.parametrize("neuron", [EscapeLIF(), GLM()], ids=["EscapeLIF", "GLM"])
def test_sampled_spikes_have_the_derivative_that_was_asked_for(neuron):
    state = neuron.init(jax.random.key(0), (3,))
    input = jnp.ones((len(neuron.channels), 3))

    def spikes(input, mode):
        asked = eqx.tree_at(lambda n: n.rate, type(neuron)(spike_gradient=mode), jnp.asarray(50.0))
        output = asked.step(jax.random.key(1), state, input, 1e-3)[1]
        return output.value.sum(), output.intensity.sum() * 1e-3

    with pytest.raises(TypeError, match="no derivative"):
        jax.grad(lambda i: spikes(i, "error")[0])(input)
    np.testing.assert_array_equal(jax.grad(lambda i: spikes(i, "score")[0])(input), 0)
    straight = jax.grad(lambda i: spikes(i, "surrogate")[0])(input)
    np.testing.assert_array_equal(straight, jax.grad(lambda i: spikes(i, "score")[1])(input))
    assert (straight[0] > 0).all()


# --- GLM


@pytest.mark.parametrize("hazard", HAZARDS)
def test_a_glm_without_history_is_a_bernoulli_process(hazard):
    neuron = GLM(bias=0.3, rate=40.0, hazard=hazard)
    inputs = held(jnp.full((1, 1000), 0.5), 200)
    state = neuron.init(jax.random.key(0), (1000,))
    _, output = run(neuron, jax.random.key(8), state, inputs, dt=2e-3)
    p = 1 - np.exp(-2e-3 * 40 * HAZARDS[hazard](0.8))
    np.testing.assert_allclose(np.asarray(output.intensity) * 2e-3, p, rtol=1e-12)
    per_neuron = np.asarray(output.value).sum(0).astype(int)
    law = binom.pmf(np.arange(201), 200, p)
    assert fits(np.bincount(per_neuron, minlength=201), law) > 1e-4


def glm_intensity(spikes, drive, weights, taus, rate, dt, refractory_steps):
    """`[step]` spike probabilities per second of one neuron, summed over its past spikes."""
    out = []
    for k in range(len(spikes)):
        u = drive[k]
        past = np.flatnonzero(spikes[:k])
        age = (k - 1 - past) * dt  # at the start of the step; a spike is stamped at a step's end
        for weight, tau in zip(weights, taus, strict=True):
            mean = tau / dt * (np.exp(-age / tau) - np.exp(-(age + dt) / tau))
            u = u + weight * mean.sum()
        dead = ((k - past) <= refractory_steps).any()
        out.append(0.0 if dead else (1 - np.exp(-dt * rate * np.exp(u))) / dt)
    return np.array(out)


def test_glm_intensity_is_the_sum_over_its_own_past_spikes():
    dt, steps = 1e-3, 400
    weights = np.array([[-3.0, -1.0, 2.0], [0.5, 0.2, -0.4]])
    taus = np.array([[0.004, 0.002, 0.01], [0.05, 0.03, 0.1]])
    bias = np.array([0.0, 0.4, -0.3])
    neuron = GLM(bias=bias, rate=60.0, history=weights, history_tau=taus, refractory=0.002)
    drive = jax.random.normal(jax.random.key(9), (steps, 1, 3))
    state = neuron.init(jax.random.key(0), (3,))
    _, output = run(neuron, jax.random.key(10), state, drive, dt=dt)
    spikes = np.asarray(output.value)
    assert (spikes.sum(0) > 10).all()
    for i in range(3):
        u = bias[i] + np.asarray(drive)[:, 0, i]
        expected = glm_intensity(spikes[:, i], u, weights[:, i], taus[:, i], 60.0, dt, 2)
        np.testing.assert_allclose(output.intensity[:, i], expected, rtol=1e-10, atol=1e-10)


def test_glm_patterns_have_the_probability_that_their_intensities_multiply_to():
    """All 32 patterns of five steps, so that likelihoods and samples agree."""
    dt, num = 4e-3, 40000
    weights, taus = np.array([-2.0, 1.5]), np.array([0.005, 0.02])
    neuron = GLM(bias=0.0, rate=100.0, history=weights, history_tau=taus)
    state = neuron.init(jax.random.key(0), (num,))
    inputs = held(jnp.zeros((1, num)), 5)
    _, output = run(neuron, jax.random.key(11), state, inputs, dt=dt)
    codes = (np.asarray(output.value).T @ 2 ** np.arange(5)).astype(int)
    law = np.zeros(32)
    for pattern in itertools.product((0, 1), repeat=5):
        spikes = np.array(pattern)
        p = dt * glm_intensity(spikes, np.zeros(5), weights, taus, 100.0, dt, 0)
        law[spikes @ 2 ** np.arange(5)] = np.where(spikes, p, 1 - p).prod()
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-12)
    assert fits(np.bincount(codes, minlength=32), law) > 1e-4
    sampled = np.log(np.where(output.value > 0, output.intensity * dt, 1 - output.intensity * dt))
    np.testing.assert_allclose(sampled.sum(0), np.log(law)[codes], rtol=1e-10)


def test_glm_refuses_filters_that_do_not_match():
    with pytest.raises(ValueError, match="one time constant"):
        GLM(history=jnp.ones(2), history_tau=jnp.ones(3))
    with pytest.raises(ValueError, match="one time constant"):
        GLM(history=jnp.ones(2))
    assert GLM(history=jnp.ones(2), history_tau=jnp.array([0.1, 0.02])).max_dt() == 0.02


# --- the neuron of the Markov theory


def test_markov_lif_drifts_to_threshold_and_spikes_strictly_above_it():
    dt = 2.0**-10
    neuron = MarkovLIF(refractory=0.0)
    # 25 mV a step are exactly 100 mV, which is no spike, after 4; 0.7 mV a step pass it after 143.
    drive = jnp.array([25.0 / dt, 0.7 / dt])
    inputs = held(jnp.stack([drive, jnp.zeros(2), jnp.zeros(2)]), 300)
    states, output = run(neuron, jax.random.key(0), MarkovLIFState(*still(2)), inputs, dt=dt)
    spikes = np.asarray(output.value)
    np.testing.assert_array_equal(np.flatnonzero(spikes[:, 0]) + 1, np.arange(5, 301, 5))
    np.testing.assert_array_equal(np.flatnonzero(spikes[:, 1]) + 1, [143, 286])
    np.testing.assert_array_equal(states.voltage[3:5, 0], [100.0, 0.0])
    assert output.intensity is None


def test_markov_lif_leaves_refractoriness_at_exponential_times():
    num, dt, tau = 5000, 1e-4, 1e-3
    neuron = MarkovLIF(refractory=tau)
    # 30 mV a step: a spike four steps after the start, and after the end of refractoriness.
    inputs = held(jnp.stack([jnp.full(num, 30.0 / dt), jnp.zeros(num), jnp.zeros(num)]), 200)
    states, output = run(neuron, jax.random.key(12), MarkovLIFState(*still(num)), inputs, dt=dt)
    spikes, busy = np.asarray(output.value), np.asarray(states.refractory)
    np.testing.assert_array_equal(states.voltage[busy > 0], 0)
    first, second = np.sort(np.argsort(-spikes, axis=0, kind="stable")[:2], axis=0)
    np.testing.assert_array_equal(first, 3)
    waited = second - first - 4
    k = np.arange(waited.max() + 1)
    law = np.exp(-k * dt / tau) * (1 - np.exp(-dt / tau))
    law[-1] += 1 - law.sum()
    assert fits(np.bincount(waited), law) > 1e-4
    assert abs(busy[3].mean() - np.exp(-dt / tau)) < 4 * np.sqrt(0.1 * 0.9 / num)


def test_markov_lif_inhibition_is_linear_in_the_voltage_and_the_leak_exponential():
    dt = 1e-4
    v = jnp.array([-66.0, -20.0, 0.0, 17.0, 100.0])
    state = MarkovLIFState(v, jnp.zeros(5))
    inhibition = jnp.stack([jnp.zeros(5), jnp.zeros(5), jnp.full(5, 3000.0)])
    after, _ = MarkovLIF().step(jax.random.key(0), state, inhibition, dt)
    expected = np.array([0, 46 / 166, 66 / 166, 83 / 166, 1]) * -0.3
    np.testing.assert_allclose(after.voltage - v, expected, rtol=1e-10, atol=1e-13)
    # Drive and leak alone: V = (drive / leak) (1 - (1 - leak dt)^n).
    inputs = held(jnp.stack([jnp.full(1, 2000.0), jnp.full(1, 500.0), jnp.zeros(1)]), 300)
    neuron = MarkovLIF(leak=50.0)
    states, _ = run(neuron, jax.random.key(0), MarkovLIFState(*still(1)), inputs, dt=dt)
    n = np.arange(1, 301)
    np.testing.assert_allclose(states.voltage[:, 0], 50 * (1 - 0.995**n), rtol=1e-12)


def test_markov_lif_refuses_to_differentiate_what_no_likelihood_covers():
    def refractory(tau, mode):
        neuron = MarkovLIF(refractory=tau, spike_gradient=mode)
        state = MarkovLIFState(jnp.array([99.0]), jnp.zeros(1))
        input = jnp.array([[1e6], [0.0], [0.0]])
        return neuron.step(jax.random.key(0), state, input, 1e-4)[0].refractory.sum()

    for mode in ("error", "score"):
        with pytest.raises(TypeError, match="no derivative"):
            jax.grad(refractory)(jnp.asarray(0.004), mode)
    # Straight through: d exp(-dt / tau) / d tau; finite where there is no refractoriness.
    slope = jax.grad(refractory)(jnp.asarray(0.004), "surrogate")
    np.testing.assert_allclose(slope, 1e-4 / 0.004**2 * np.exp(-1 / 40), rtol=1e-10)
    assert jax.grad(refractory)(jnp.asarray(0.0), "surrogate") == 0
