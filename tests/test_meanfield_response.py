"""Responses, transfer functions and stability against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import lfilter

from neurofield import network
from neurofield.meanfield._course_response import least_filters
from neurofield.meanfield._response import Responses, causality_scores, regress
from neurofield.meanfield._solve import solve
from neurofield.meanfield._stability import nyquist, stability
from neurofield.meanfield._theory import build_theory
from neurofield.meanfield._transfer import gain, stream_kernels, transfer_function

DT = 0.05
LEAK = np.exp(-DT)


def identity(x):
    return x


def rates(mean, delay=None, phi=identity, size=100):
    return network.Network(
        [network.Population("x", network.Rate(phi=phi, tau=1.0), size, network.WhiteNoise(1.0))],
        [network.Projection("x", "x", network.gaussian(mean, 0.3), delay=delay)],
    )


@pytest.fixture(scope="module")
def linear():
    return solve(
        rates(-2.0), 60.0, DT, method="stationary", key=jax.random.key(0), num_paths=64, rtol=1e-3
    )


def ar1(key, shape, memory):
    noise = np.array(jax.random.normal(key, shape))
    noise[1:] *= np.sqrt(1 - memory**2)
    return jnp.asarray(lfilter([1], [1, -memory], noise, axis=0))


@pytest.mark.slow
def test_a_linear_rate_unit_answers_as_its_step_says(linear):
    lag = np.arange(linear.time.shape[0])
    # Impulses are 12 time constants apart, and the tail of the last one is in the next.
    np.testing.assert_allclose(linear.response[0] * DT, (1 - LEAK) * LEAK**lag, atol=4e-7)
    # What is beyond the last lag is cut.
    np.testing.assert_allclose(gain(linear), 1 - LEAK**lag.size, atol=1e-5)
    frequency = jnp.asarray([0.0, 0.3, 2.0])
    z = np.exp(2j * np.pi * np.asarray(frequency) * DT)
    exact = (1 - LEAK) / (1 - LEAK / z)
    np.testing.assert_allclose(transfer_function(linear, frequency)[:, 0], exact, atol=2e-5)


def test_frequencies_beyond_the_grid_and_missing_responses_are_errors(linear):
    with pytest.raises(Exception, match="at most"):
        transfer_function(linear, jnp.asarray([11.0]))
    with pytest.raises(ValueError, match="one-dimensional"):
        transfer_function(linear, jnp.asarray(1.0))
    bare = eqx.tree_at(lambda s: s.response, linear, None)
    for fn in (gain, stability):
        with pytest.raises(ValueError, match="no response"):
            fn(bare)


def test_regression_finds_the_filter_of_a_noisy_threshold_unit():
    """x = Phi-like step of a filtered Gaussian input: R = density at the threshold times filter."""
    h = ar1(jax.random.key(1), (1200, 1, 200), 0.9)
    weights = 0.8 ** np.arange(30)
    filtered = lfilter(weights, [1], h, axis=0)[60:]
    h, x = h[60:], jnp.asarray(filtered > 1.0, jnp.float64)
    lag = np.arange(30)
    variance = weights @ 0.9 ** np.abs(lag[:, None] - lag) @ weights
    density = np.exp(-0.5 / variance) / np.sqrt(2 * np.pi * variance)
    fit = jax.jit(lambda x, h: regress(x, h, 60)[0])
    groups = np.stack([fit(x[:, :, i::8], h[:, :, i::8]) for i in range(8)])
    error = groups.std(0, ddof=1) / 8**0.5
    exact = np.pad(density * weights, (0, 30))
    # Below the resolution of the late nodes; 0.002 is what linear pieces miss of the curve.
    assert np.all(np.abs(groups.mean(0) - exact) < 5 * error + 2e-3 * density)
    assert np.max(error) < 0.05 * density
    total = groups.sum(1)
    assert abs(total.mean() - exact.sum()) < 4 * total.std(ddof=1) / 8**0.5 + 1e-3


def test_filters_at_each_time_are_causal_and_causality_is_tested():
    num_steps, num_paths = 24, 4000
    h = ar1(jax.random.key(2), (num_steps, 1, num_paths), 0.6)
    kernel = np.tril(0.7 ** np.subtract.outer(np.arange(num_steps), np.arange(num_steps)), 0)
    rows = jnp.moveaxis(h, 0, 1)
    x = jnp.einsum("ts,rsm->rtm", jnp.asarray(np.tril(kernel)), rows)
    lag = np.arange(num_steps)
    gram = jnp.asarray(0.6 ** np.abs(lag[:, None] - lag))[None]
    cross = jnp.einsum("rtm,rsm->rts", x, rows) / num_paths
    response = jax.jit(least_filters)(gram, cross)
    error = np.std(np.asarray(x)) / num_paths**0.5 / 0.8
    assert np.max(np.abs(response[0] - np.tril(kernel))) < 6 * error
    assert np.all(np.triu(np.asarray(response[0]), 1) == 0)
    scores_of = jax.jit(lambda x, h: causality_scores(x, h, 20))
    h = ar1(jax.random.key(3), (400, 1, 100), 0.9)
    x = jnp.tanh(h + 0.5 * jnp.roll(h, 1, axis=0))
    assert np.max(np.abs(scores_of(x[1:-2], h[1:-2]))) < 4.2
    early = x + 0.1 * jnp.roll(h, -2, axis=0)
    assert np.max(np.abs(scores_of(early[1:-2], h[1:-2]))) > 8


@pytest.mark.parametrize("delay", [0.05, 1.0])
def test_encirclements_count_the_roots_outside_the_unit_circle(linear, delay):
    steps = round(delay / DT)
    for coupling in (0.9, 1.5, -0.9, -1.5, -3.0, -12.0):
        theory = build_theory(rates(coupling, delay), DT)
        found = nyquist(theory, Responses(linear.response * DT, None, None), jnp.zeros(1))
        # x_k = leak x_{k-1} + (1 - leak) J x_{k-steps}
        polynomial = np.zeros(steps + 1)
        polynomial[0], polynomial[1] = 1, -LEAK
        polynomial[steps] -= (1 - LEAK) * coupling
        roots = np.roots(polynomial)
        assert int(found.encirclements) == np.sum(np.abs(roots) > 1)
        assert bool(found.stable) == (np.max(np.abs(roots)) < 1)


def test_diagnostics_tell_stability_and_causality(linear):
    found, told = stability(linear), linear.diagnostics
    assert bool(told.stable)
    assert bool(found.stable)
    assert float(told.least_determinant) == pytest.approx(float(found.least))
    assert float(told.crossing_frequency) == pytest.approx(float(found.crossing))
    # 120 scores: their largest has the median 2.76, and is above 4.6 once in 2000 times.
    assert float(told.causality_expected) == pytest.approx(2.761, abs=1e-3)
    assert 1.5 < float(told.causality) < 4.6


def test_the_delayed_loop_turns_unstable_where_its_closed_form_says(linear):
    """x' = -x + J x(t - d): i w + 1 = J exp(-i w d), so J = -sqrt(1 + w^2), w d = pi - atan w."""
    delay = 1.0
    # The input is held over a step, and its own lag is half of one more.
    effective = delay + DT / 2 - DT
    w = 2.0
    for _ in range(100):
        w = 0.5 * w + 0.5 * (np.pi - np.arctan(w)) / effective
    critical = -np.sqrt(1 + w**2)

    def at(coupling):
        theory = build_theory(rates(coupling, delay), DT)
        return nyquist(theory, Responses(linear.response * DT, None, None), jnp.zeros(1))

    assert bool(at(0.99 * critical).stable)
    assert int(at(1.01 * critical).encirclements) == 2
    near = at(critical)
    assert near.near
    assert float(near.least) < 0.02
    np.testing.assert_allclose(near.crossing * 2 * np.pi, w, rtol=0.01)
    np.testing.assert_allclose(near.least_frequency * 2 * np.pi, w, rtol=0.02)


def test_stream_kernels_are_impulse_responses_on_the_grid():
    dt, tau = 1e-3, 5e-3
    lif = network.LIF()
    net = network.Network(
        [network.Population("a", lif, 10)],
        [
            network.Projection(
                "a",
                "a",
                network.all_to_all(1.0),
                kernel=network.Exponential(tau),
                delay=3e-3,
                channel="current",
            ),
            network.Projection("a", "a", network.all_to_all(1.0), delay=2e-3),
            network.Projection(
                "a", "a", network.all_to_all(1.0), delay=network.UniformDelay(2e-3, 6e-3)
            ),
        ],
    )
    kernels = np.asarray(stream_kernels(build_theory(net, dt), 60))
    lag = np.arange(60)
    # Sent at the end of step 0, it arrives at the end of step 3. Then the mean of
    # exp(-t / tau) over the step, times dt, which is what a rate's count is.
    mean = np.exp(-(lag - 4) * dt / tau) * tau * (1 - np.exp(-dt / tau))
    np.testing.assert_allclose(kernels[0], np.where(lag >= 4, mean, 0), rtol=1e-12)
    np.testing.assert_allclose(kernels[1], lag == 2, atol=1e-12)
    np.testing.assert_allclose(kernels[2].sum(), 1, rtol=1e-12)
    # Uniform on [2, 6] steps, rounded: 3 of the 5 values have the probability 1 / 4.
    expected = np.zeros(60)
    expected[2:7] = [0.125, 0.25, 0.25, 0.25, 0.125]
    np.testing.assert_allclose(kernels[2], expected, atol=4 * np.sqrt(0.19 / 4096))
