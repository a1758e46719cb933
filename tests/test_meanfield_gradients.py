"""Estimators behind derivatives of the mean-field theory, and waveform relaxation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import network
from neurofield.meanfield import (
    gain,
    lyapunov_exponent,
    pair_covariance,
    solve,
    stability,
    transfer_function,
    two_replicas,
)

KEY = jax.random.key(0)


def random_network(g):
    unit = network.Rate(phi="tanh", tau=1.0)
    return network.Network(
        [network.Population("a", unit, 1000)],
        [network.Projection("a", "a", network.gaussian(0.0, g))],
    )


def small(theta, neuron=None):
    """Two kernels, one with a delay; theta: weight, drive, width of the hazard."""
    weight, mu, width = theta
    if neuron is None:
        neuron = network.EscapeLIF(width=width, resets=False)
    drive = network.Drive(network.Constant(mu), network.OrnsteinUhlenbeck(3.0, 0.005))
    return network.Network(
        [network.Population("a", neuron, 100, drive)],
        [
            network.Projection("a", "a", network.fixed_indegree(10, -weight), delay=0.003),
            network.Projection(
                "a",
                "a",
                network.erdos_renyi(0.2, weight),
                kernel=network.Exponential(0.004),
                channel="current",
            ),
        ],
    )


THETA = jnp.asarray([0.5, 12.0, 3.0])


def outcome(solution):
    """A smooth number that all moments enter."""
    return (
        jnp.sum(solution.mean[:, -1])
        + 1e-3 * jnp.sum(solution.covariance[:, -1, -4])
        + 1e-4 * jnp.sum(solution.input_covariance[:, -1, -2:])
    )


def marched(theta, key=KEY, method="march", **options):
    given = {"key": key, "num_paths": 64, "num_replicas": 2, **options}
    return solve(small(theta), 0.016, 0.001, method=method, **given)


@pytest.fixture(scope="module")
def march_value():
    return jax.jit(marched)


@pytest.mark.slow
def test_relaxation_is_the_march(march_value):
    march, relaxed = march_value(THETA), marched(THETA, method="relaxation", rtol=1e-12)
    assert march.gradient == "intensity"
    assert jnp.all(relaxed.stats["num_sweeps"] <= 17)
    for name in ("mean", "covariance", "input_mean", "input_covariance"):
        a, b = getattr(march, name), getattr(relaxed, name)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * float(jnp.max(jnp.abs(b))))


@pytest.mark.slow
def test_march_gradient_is_its_finite_difference(march_value):
    points = jnp.stack([THETA, 1.1 * THETA])
    found = jax.jit(jax.vmap(jax.jacfwd(lambda theta: outcome(marched(theta)))))(points)
    for point, gradient in zip(points, found, strict=True):
        for i in range(3):
            step = 1e-4 * jnp.zeros(3).at[i].set(float(point[i]))
            change = outcome(march_value(point + step)) - outcome(march_value(point - step))
            slope = change / (2 * jnp.sum(step))
            assert abs(gradient[i] - slope) < 1e-3 * abs(slope)


def test_switching_given_the_input_is_exact():
    """Binary neurons without recurrent input: a chain of two states with known covariances."""
    dt, tau, initial = 0.002, 0.01, 0.3
    neuron = network.Binary(gain=1.5, tau=tau, initial=initial, threshold=1.0)
    drive = network.Drive(network.Constant(0.6))
    net = network.Network([network.Population("a", neuron, 100, drive)])
    found = solve(net, 0.02, dt, method="march", key=KEY, num_paths=4, num_replicas=2)
    up, stay = 1 / (1 + np.exp(1.5 * 0.4)), np.exp(-dt / tau)
    p = up + (initial - up) * stay ** np.arange(1, 11)
    lag = np.abs(np.arange(10)[:, None] - np.arange(10)[None])
    first = np.minimum(np.arange(10)[:, None], np.arange(10)[None])
    np.testing.assert_allclose(found.mean[0], p, rtol=1e-12)
    np.testing.assert_allclose(found.covariance[0], stay**lag * (p * (1 - p))[first], rtol=1e-10)


def test_what_estimators_cannot_do_is_refused():
    def run(neuron, **options):
        net = small(THETA, neuron)
        return solve(net, 0.016, 0.001, method="march", key=KEY, num_paths=8, **options)

    lif = network.LIF()
    for gradient, neuron, words in (
        ("score", lif, "deterministic threshold"),
        ("intensity", network.EscapeLIF(), "its spikes act back"),
        ("intensity", network.EscapeLIF(resets=False, refractory=0.01), "act back"),
        ("pathwise", lif, "rate neurons"),
        ("magic", lif, "not one of"),
    ):
        with pytest.raises(ValueError, match=words):
            run(neuron, gradient=gradient)
    with pytest.raises(ValueError, match="finite populations"):
        run(network.EscapeLIF(resets=False), gradient="intensity", order="nested")
    for order, words in (("nested", "act on each other"), ("shared", "have no score")):
        with pytest.raises(ValueError, match=words):
            run(network.EscapeLIF(), gradient="score", order=order)
    with pytest.raises(ValueError, match="expected to transmit"):
        network.Expected(lif)


# --- slow -----------------------------------------------------------------------------------------


class FromReset(network.EscapeLIF):
    def init(self, key, shape=()):
        state = super().init(key, shape)
        return eqx.tree_at(lambda s: s.voltage, state, jnp.zeros_like(state.voltage))


@pytest.mark.slow
def test_score_of_an_escape_neuron():
    """Truth by brute force (central differences over 10^7 paths): see the theory's table 2.9."""

    def rate(theta, key):
        neuron = FromReset(width=3.0, rate=50.0)
        drive = network.Drive(
            network.Constant(theta[0]), network.OrnsteinUhlenbeck(theta[1], 0.005)
        )
        net = network.Network([network.Population("a", neuron, 100, drive)])
        options = {"num_paths": 2000, "num_replicas": 2, "gradient": "score"}
        solution = solve(net, 0.1, 5e-4, method="march", key=key, **options)
        assert solution.gradient == "score"
        return jnp.mean(solution.mean)

    gradient = jax.jit(jax.grad(rate))
    theta = jnp.asarray([14.0, 8.0])
    found = np.stack([gradient(theta, jax.random.key(i)) for i in range(16)])
    mean, spread = found.mean(0), found.std(0, ddof=1)
    error = np.hypot(spread / 4, [0.0070, 0.0049])
    assert np.all(np.abs(mean - [1.9249, 0.3402]) < 4 * error)
    # Of 1000 paths the naive score has .148 and .108, this one .061 and .044.
    assert np.all(spread * np.sqrt(2) < [0.09, 0.07])


@pytest.mark.slow
def test_march_gradient_forward_and_reverse_agree():
    def value(theta):
        return outcome(marched(theta))

    forward, reverse = jax.jacfwd(value)(THETA), jax.grad(value)(THETA)
    np.testing.assert_allclose(reverse, forward, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["march", "stationary"])
def test_score_and_intensity_agree(method):
    """Two estimators of one derivative, through the recurrent input too."""

    def rate(theta, key, gradient):
        options = {"key": key, "num_replicas": 2, "gradient": gradient}
        if method == "march":
            solution = marched(theta, num_paths=2048, **options)
            return jnp.sum(solution.mean[:, -1])
        options |= {"num_paths": 512, "max_lag": 0.03, "warm_up": 0.04, "response": False}
        solution = solve(small(theta), 0.3, 0.001, method=method, **options)
        return jnp.sum(solution.mean)

    def over(gradient, num):
        one = jax.jit(jax.value_and_grad(lambda theta, key: rate(theta, key, gradient)))
        runs = [one(THETA, jax.random.key(i)) for i in range(num)]
        found = np.stack([np.append(gradient, value) for value, gradient in runs])
        return found.mean(0), found.std(0, ddof=1) / np.sqrt(num)

    mean, error = over("intensity", 6)
    other, other_error = over("score", 12)
    assert np.all(np.abs(mean - other) < 4 * np.hypot(error, other_error))
    assert np.all(other_error[:2] < 0.3 * np.abs(mean[:2]))


def glm(theta):
    mu, weight, width = theta
    neuron = network.EscapeLIF(
        tau=0.02, threshold=15.0, width=width, rate=100.0, hazard="erf", resets=False
    )
    drive = network.Drive(network.Constant(mu))
    excite = network.erdos_renyi(0.1, weight)
    inhibit = network.erdos_renyi(0.1, -5 * weight)
    return network.Network(
        [
            network.Population("E", neuron, 4000, drive),
            network.Population("I", neuron, 1000, drive),
        ],
        [
            network.Projection(source, target, rule)
            for source, rule in (("E", excite), ("I", inhibit))
            for target in ("E", "I")
        ],
    )


def settled(net, key, **options):
    given = {"method": "stationary", "key": key, "response": False, **options}
    return solve(net, given.pop("duration"), given.pop("dt"), **given)


@pytest.mark.slow
def test_sensitivities_of_escape_rate_network():
    """Table 2.7: exact d rate of the continuous equations; dt = 0.25 ms is within 2 %."""

    def rate(theta, key):
        options = {"duration": 0.6, "dt": 2.5e-4, "num_paths": 512, "num_replicas": 2}
        return jnp.mean(settled(glm(theta), key, max_lag=0.1, **options).mean)

    theta = jnp.asarray([16.0, 0.2, 4.0])
    value = jax.jit(jax.value_and_grad(rate))
    runs = [value(theta, jax.random.key(i)) for i in range(6)]
    rates = np.array([float(v) for v, _ in runs])
    found = np.stack([g for _, g in runs])
    truth = np.array([1.93716, -15.4929, 0.290348])
    error = found.std(0, ddof=1) / np.sqrt(6)
    assert np.all(np.abs(found.mean(0) - truth) < 3 * error + 0.03 * np.abs(truth))
    assert abs(rates.mean() - 21.121833) < 0.02 * 21.1
    assert np.all(error < 0.1 * np.abs(truth))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["rate", "intensity"])
def test_stationary_gradient_is_its_finite_difference(what):
    options = {"num_paths": 128, "num_replicas": 2, "rtol": 1e-9, "max_steps": 400}
    if what == "rate":
        theta = jnp.asarray([2.0])

        def value(theta):
            found = settled(
                random_network(theta[0]), KEY, duration=40.0, dt=0.2, max_lag=12.0, **options
            )
            return found.covariance[0, 0] + found.input_covariance[0, 5]

    else:
        theta = jnp.asarray([16.0, 0.2, 4.0])

        def value(theta):
            found = settled(glm(theta), KEY, duration=0.3, dt=1e-3, max_lag=0.06, **options)
            return jnp.mean(found.mean) + 1e-6 * jnp.mean(found.input_covariance[:, 3])

    value = jax.jit(value)
    found = jax.jit(jax.grad(value))(theta)
    for i in range(theta.shape[0]):
        step = jnp.zeros_like(theta).at[i].set(3e-4 * float(theta[i]))
        slope = (value(theta + step) - value(theta - step)) / (2 * jnp.sum(step))
        assert abs(found[i] - slope) < 1e-3 * abs(slope)


@pytest.mark.slow
def test_sensitivity_of_random_rate_network():
    """Sompolinsky, Crisanti & Sommers (1988) at g = 2: dDelta0/dg = 2.7539, Delta0 = 1.9248."""

    def variance(g, key):
        options = {"num_paths": 1024, "num_replicas": 2, "max_lag": 25.0, "max_steps": 300}
        solution = settled(random_network(g), key, duration=100.0, dt=0.2, **options)
        # x = the filtered field, of Delta0 = <x^2>, whose spectrum is that of the field over
        # 1 + w^2: here from the covariances of the field on both sides of lag 0.
        c = solution.input_covariance[0]
        lag = 0.2 * jnp.arange(c.shape[0], dtype=c.dtype)
        weight = jnp.where(lag > 0, 2.0, 1.0) * jnp.exp(-lag) * np.tanh(0.1)
        return jnp.sum(weight * c)

    value = jax.jit(jax.value_and_grad(variance))
    runs = np.array([value(2.0, jax.random.key(i)) for i in range(6)])
    mean, error = runs.mean(0), runs.std(0, ddof=1) / np.sqrt(6)
    assert abs(mean[0] - 1.9248) < 4 * error[0] + 0.05
    assert abs(mean[1] - 2.7539) < 4 * error[1] + 0.15
    assert error[1] < 0.3


def loop_of_rates(theta):
    """theta: mean weight, drive; the delay makes it ring."""
    drive = network.Drive(network.Constant(theta[1]), network.OrnsteinUhlenbeck(0.5, 1.0))
    return network.Network(
        [network.Population("a", network.Rate("tanh", tau=1.0), 40, drive)],
        [network.Projection("a", "a", network.gaussian(theta[0], 0.8), delay=1.0)],
    )


def loop_of_spikes(theta):
    """theta: weight, drive; through `Delta`, so that the variance of the input follows too."""
    drive = network.Drive(network.Constant(theta[1]), network.OrnsteinUhlenbeck(3.0, 0.005))
    return network.Network(
        [network.Population("a", network.EscapeLIF(resets=False), 100, drive)],
        [network.Projection("a", "a", network.fixed_indegree(20, theta[0]))],
    )


def fluctuations(solution):
    """All that follows from the order 1 / N and the response."""
    transfer = transfer_function(solution, jnp.asarray([0.05, 0.2]))[:, 0]
    found = stability(solution)
    return jnp.concatenate(
        [
            solution.mean,
            solution.population_covariance[0, 0, :3],
            solution.shared_covariance[0, 0, :3],
            pair_covariance(solution)[0, 0, :2],
            gain(solution),
            jnp.stack([*transfer.real, *transfer.imag, found.least, found.crossing, found.margin]),
        ]
    )


def by_differences(values, step):
    """Slopes `[output, parameter]` from values at the points of `around`."""
    return np.stack(
        [(a - b) / (2 * step) for a, b in zip(values[1::2], values[2::2], strict=True)]
    ).T


def around(theta, step):
    moves = [theta.at[i].add(sign * step) for i in range(len(theta)) for sign in (1, -1)]
    return jnp.stack([theta, *moves])


def of_loop(net, theta, duration, dt, max_lag):
    # Raising would wait for the host in the midst of a map over points.
    return solve(
        net(theta), duration, dt, method="stationary", order="shared", key=KEY,
        num_paths=64, num_replicas=2, max_lag=max_lag, rtol=1e-10, max_steps=400, throw=False,
    )  # fmt: skip


@pytest.mark.slow
def test_shared_covariances_and_responses_have_their_derivatives():
    def value(theta):
        return fluctuations(of_loop(loop_of_rates, theta, 20.0, 0.2, 4.0))

    step = 1e-5
    points = around(jnp.asarray([-2.0, 0.5]), step)
    values, slopes = jax.jit(jax.vmap(lambda t: (value(t), jax.jacfwd(value)(t))))(points)
    truth = by_differences(np.asarray(values), step)
    assert np.all((np.abs(truth) > 1e-7).any(1))
    np.testing.assert_allclose(slopes[0], truth, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_shared_covariances_of_spikes_have_their_derivatives():
    """In reverse, which is the transpose of the forward rule."""
    weights = jnp.arange(1.0, 20.0)

    def value(theta):
        found = fluctuations(of_loop(loop_of_spikes, theta, 0.3, 1e-3, 0.05))
        return found @ weights[: len(found)]

    both = jax.jit(jax.value_and_grad(value))
    step, theta = 1e-4, jnp.asarray([-0.5, 14.0])
    values = [both(point)[0] for point in around(theta, step)]
    truth = by_differences(np.asarray(values)[:, None], step)[0]
    np.testing.assert_allclose(both(theta)[1], truth, rtol=1e-3)


@pytest.mark.slow
def test_worlds_and_copies_have_their_derivatives():
    def value(theta):
        options = {"key": KEY, "num_paths": 80, "num_replicas": 2}
        worlds = solve(loop_of_rates(theta), 2.0, 0.2, method="march", order="nested", **options)
        copies = two_replicas(worlds, 2.0, **options)
        return jnp.concatenate(
            [
                worlds.mean[0, -1:],
                worlds.population_covariance[0, 0, -1, -3:],
                1e6 * copies.distance[0, -2:],
            ]
        )

    step = 1e-5
    points = around(jnp.asarray([-2.0, 0.5]), step)
    values, slopes = jax.jit(jax.vmap(lambda t: (value(t), jax.jacfwd(value)(t))))(points)
    truth = by_differences(np.asarray(values), step)
    np.testing.assert_allclose(slopes[0], truth, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_sensitivity_of_the_lyapunov_exponent():
    """Exact at g = 2 (theory, section 2.1): .1310, with no step; and differences of the paths."""

    def exponent(dt, rtol):
        def of(g, seed):
            # Few and short paths have several self-consistent laws, between which differences jump.
            options = {"num_paths": 2048, "num_replicas": 2, "max_lag": 30.0, "max_steps": 300}
            key, net = jax.random.key(seed), random_network(g)
            solution = settled(net, key, duration=120.0, dt=dt, rtol=rtol, **options)
            own = jax.random.fold_in(key, 1)
            return lyapunov_exponent(solution, key=own, rtol=rtol, max_steps=100)[0]

        return jax.jit(jax.value_and_grad(of))

    coarse, fine = exponent(0.2, 1e-8), exponent(0.1, 1e-6)
    rows = [np.asarray([both(2.0, seed)[1] for seed in range(4)]) for both in (coarse, fine)]
    step = 1e-4
    difference = (coarse(2.0 + step, 0)[0] - coarse(2.0 - step, 0)[0]) / (2 * step)
    assert abs(rows[0][0] / difference - 1) < 1e-3
    errors = [row.std(ddof=1) / np.sqrt(4) for row in rows]
    found, error = 2 * rows[1].mean() - rows[0].mean(), np.hypot(errors[0], 2 * errors[1])
    assert error < 0.02
    assert abs(found - 0.1310) < 3 * error
