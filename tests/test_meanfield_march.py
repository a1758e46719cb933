"""Courses in time: diagnostics, two-time responses and covariances of order 1 / N.

Against closed forms of linear networks on the grid, brute force, and many simulated networks.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import meanfield, network
from neurofield._results import is_successful
from neurofield.meanfield._course_response import causality_of_course, drive_course
from neurofield.meanfield._shared import share_of_shared
from neurofield.meanfield._theory import build_theory

DT = 0.1
LEAK = np.exp(-DT)
GAIN, COUPLING, SIZE, STEPS = 0.5, -2.0, 100, 40


def identity(x):
    return x


def linear(coupling=COUPLING, gain=GAIN, phi=identity, source=None):
    source = network.WhiteNoise(2.0) if source is None else source
    units = network.Population("x", network.Rate(phi, tau=1.0), SIZE, source)
    return network.Network(
        [units], [network.Projection("x", "x", network.gaussian(coupling, gain))]
    )


def kernel(num=STEPS):
    lag = np.subtract.outer(np.arange(num), np.arange(num))
    return np.where(lag >= 0, (1 - LEAK) * LEAK ** np.abs(lag), 0)


@pytest.fixture(scope="module")
def marched():
    return meanfield.solve(
        linear(), STEPS * DT, DT, method="march", key=jax.random.key(0), num_paths=512
    )


def test_a_march_of_linear_units_has_their_response(marched):
    np.testing.assert_allclose(marched.response[0] * DT, kernel(), atol=1e-14)
    assert np.max(marched.response_error) < 1e-13


def test_a_march_says_how_far_it_can_be_trusted(marched):
    found = marched.diagnostics
    assert found.mean_error.shape == (1, STEPS)
    error = np.std(marched.replicas["mean"], axis=0, ddof=1) / 2
    np.testing.assert_allclose(found.mean_error, error / np.abs(marched.mean))
    # Gaussian weights: nothing is skewed. What the noise of the last step adds is not small.
    np.testing.assert_array_equal(found.skewness, np.zeros((1, STEPS)))
    assert np.all(np.asarray(found.clipped) == 0)
    # 20 scores: the median of their largest is 2.12.
    assert float(found.causality_expected) == pytest.approx(2.119, abs=1e-3)
    assert 0.8 < float(found.causality) < 4.2
    # The fluctuations of one population of 100: var / N through 1 / (1 - R W), at equal times.
    _, means, shared = closed(STEPS, fed_back=False)
    # The variance of 512 normal numbers is known to 6 %.
    np.testing.assert_allclose(found.finite_size[0, 0], np.diagonal(means), rtol=0.3)
    np.testing.assert_allclose(found.shift[0], np.sqrt(found.finite_size[0, 0]))
    share = np.diagonal(shared) / (np.diagonal(shared) + np.diagonal(marched.input_covariance[0]))
    np.testing.assert_allclose(found.shared_share[0], share, rtol=0.3)
    assert found.stable is None
    assert "least_pivot" in str(found)


def test_what_looks_ahead_is_caught():
    lag = np.arange(40)
    covariance = jnp.asarray(0.8 ** np.abs(np.subtract.outer(lag, lag)))[None]
    z = jax.random.normal(jax.random.key(0), (1, 40, 2000))
    h = jnp.einsum("tu,rum->rtm", jnp.linalg.cholesky(covariance[0]), z)
    x = jnp.tanh(h + jnp.roll(h, 1, axis=1))

    def largest(x):
        sums = causality_of_course(x, h, covariance, 1e-8)
        return np.max(np.abs(np.mean(sums, 2) / np.std(sums, 2) * 2000**0.5))

    assert largest(x) < 4
    assert largest(x + 0.2 * jnp.roll(h, -2, axis=1)) > 8


# --- covariances of order 1 / N -------------------------------------------------------------------


def closed(num, fed_back=True):
    """The equations (5), (7), (9) of the linear network on the grid, by iteration.

    Of outputs, population means and shared inputs. The outputs begin with the state at time 0, of
    the variance 1, which acts in the first step.
    """
    filtered = np.pad(kernel(num), ((1, 0), (0, 0)))
    start = LEAK ** np.arange(num + 1)
    start = np.outer(start, start)
    sent = np.eye(num, num + 1)
    through = np.linalg.inv(np.eye(num + 1) - COUPLING * filtered @ sent)
    total, shared = np.zeros((num + 1, num + 1)), np.zeros((num, num))
    for _ in range(60):
        private = GAIN**2 * total[:-1, :-1] + 2.0 / DT * np.eye(num)
        own = filtered @ private @ filtered.T + start
        means = through @ (own / SIZE) @ through.T
        shared = COUPLING**2 * means[:-1, :-1]
        total = own + fed_back * filtered @ shared @ filtered.T
    return total[1:, 1:], means[1:, 1:], shared


@pytest.mark.slow
def test_a_linear_network_has_its_exact_covariances_of_order_one_over_n():
    found = meanfield.solve(
        linear(),
        STEPS * DT,
        DT,
        method="march",
        order="shared",
        key=jax.random.key(0),
        num_paths=8000,
        num_replicas=8,
    )
    assert is_successful(found.result)
    total, means, shared = closed(STEPS)
    pairs = {
        "population_covariance": means,
        "shared_covariance": shared,
        "covariance": total,
        "input_covariance": GAIN**2 * np.pad(total, ((1, 0), (1, 0)))[:-1, :-1] + shared,
    }
    places = ([5, 20, 39, 39, 30], [5, 20, 39, 30, 10])
    for name, exact in pairs.items():
        value = np.asarray(getattr(found, name)).reshape(STEPS, STEPS)[places]
        error = np.asarray(getattr(found, name + "_error")).reshape(STEPS, STEPS)[places]
        # Errors of eight groups; moments have a bias of 8 / 8000.
        z = (value - exact[places]) / error
        assert np.all(np.abs(z) < 5), (name, z)
        assert np.all(error[:3] < 0.05 * np.diag(exact)[[5, 20, 39]]), name
    # It is far from what independent neurons do.
    assert means[39, 39] < 0.4 * total[39, 39] / SIZE
    # Of pairs of neurons: what the population's mean has beyond single neurons' shares of it.
    pair = meanfield.pair_covariance(found)[0, 0, 39, 39]
    own = found.population_covariance[0, 0, 39, 39] - found.covariance[0, 39, 39] / SIZE
    np.testing.assert_allclose(pair, own / (1 - 1 / SIZE), rtol=1e-10)
    share = share_of_shared(found)
    np.testing.assert_allclose(share, found.diagnostics.shared_share, rtol=0.05)
    np.testing.assert_allclose(
        share[0, 39], shared[39, 39] / pairs["input_covariance"][39, 39], rtol=0.1
    )


def test_the_late_course_of_the_linear_network_is_its_stationary_state():
    """N Var X: the integral of A(w) / |1 - J0 H(w)|^2 (2.4 of the notes, on the grid)."""
    total, means, _ = closed(120)
    w = np.linspace(-np.pi, np.pi, 20_001)[:-1]
    transfer = (1 - LEAK) / (np.exp(1j * w) - LEAK)
    power = np.abs(transfer) ** 2
    spectrum = power * 2 / DT / (1 - GAIN**2 * power)
    exact = np.mean(spectrum / np.abs(1 - COUPLING * transfer) ** 2)
    # What is fed back adds the order 1 / N of it.
    assert abs(SIZE * means[-1, -1] / exact - 1) < 2 / SIZE
    assert abs(total[-1, -1] / np.mean(spectrum) - 1) < 2 / SIZE


SIZES = (80, 40)


def driven():
    """Excitation and inhibition with a step of the drive, a delay, a filter and shared noise."""
    drive = network.Drive(
        network.Function(lambda t: jnp.where(t > 2, 1.0, 0.0)), network.OrnsteinUhlenbeck(0.7, 1.0)
    )
    unit = network.Rate("tanh", tau=1.0)
    return network.Network(
        [network.Population(n, unit, k, drive) for n, k in zip("EI", SIZES, strict=True)],
        [
            network.Projection("E", "E", network.gaussian(1.0, 0.5), delay=0.2),
            network.Projection("I", "E", network.gaussian(-1.5, 0.5)),
            network.Projection(
                "E", "I", network.gaussian(1.2, 0.5), kernel=network.Exponential(0.5)
            ),
        ],
        [network.SharedNoise(network.OrnsteinUhlenbeck(0.15, 1.0), {"E": 1.0, "I": 0.5})],
    )


@pytest.mark.slow
def test_driven_networks_of_rates_fluctuate_as_simulated():
    """The variance of the population means over 3,000 networks, before and after the step."""
    found = meanfield.solve(
        driven(), 4.0, DT, method="march", order="shared", key=jax.random.key(0), num_paths=2048
    )
    assert is_successful(found.result)

    def one(key):
        traces = dict.fromkeys("EI", ("output",))
        run = network.simulate(key, driven(), 4.0, DT, traces=traces, num_lags=None)
        return jnp.stack([jnp.mean(run.traces[name]["output"], axis=0) for name in "EI"])

    simulate = jax.jit(jax.vmap(one))
    keys = jax.random.split(jax.random.key(1), 3000).reshape(6, 500)
    means = np.concatenate([np.asarray(simulate(k)) for k in keys])
    apart = means - means.mean(0)
    for a, b, t, u in [
        *((p, p, t, t) for p in (0, 1) for t in (5, 19, 25, 30, 39)),
        *((0, 1, t, u) for t, u in ((19, 19), (39, 30))),
    ]:
        products = apart[:, a, t] * apart[:, b, u]
        error = products.std() / len(products) ** 0.5
        error = np.hypot(error, found.population_covariance_error[a, b, t, u])
        value = found.population_covariance[a, b, t, u]
        # The next order is 1 / N of it.
        assert abs(value - products.mean()) < 4 * error + abs(value) / min(SIZES), (a, b, t, u)
        if a == b == 0:
            # Leading order: a third of it at most, and much more than four errors off.
            assert products.mean() - found.covariance[a, t, u] / SIZES[a] > 20 * error
    # Single neurons feel it too: variances over neurons, networks and noise.
    plain = np.asarray(found.input_covariance)[:, 39, 39]
    assert np.all(np.einsum("fftt->ft", found.shared_covariance)[:, 39] > 0.02 * plain)


def escape(size=200):
    drive = network.Drive(
        network.Function(lambda t: jnp.where(t > 0.03, 24.0, 18.0)),
        network.OrnsteinUhlenbeck(4.0, 0.005),
    )
    rule = network.fixed_indegree(50, -3.0)
    return network.Network(
        [network.Population("x", network.EscapeLIF(), size, drive)],
        [network.Projection("x", "x", rule, kernel=network.Exponential(0.005))],
    )


FINE, NUM = 5e-4, 120


@pytest.fixture(scope="module")
def spiking():
    return meanfield.solve(
        escape(),
        NUM * FINE,
        FINE,
        method="march",
        order="shared",
        key=jax.random.key(0),
        num_paths=4096,
    )


@pytest.mark.slow
def test_escape_neurons_answer_as_they_do_when_pushed(spiking):
    """Against the difference that a small change of the input makes, over 20,000 paths."""
    theory = build_theory(escape(), FINE)
    covariance = np.asarray(spiking.input_covariance[0])
    factor = np.linalg.cholesky(covariance + 1e-8 * np.max(covariance) * np.eye(NUM))
    rng = np.random.default_rng(0)
    answers = jax.jit(
        lambda key, shift, h: jnp.mean(
            drive_course(key, theory, spiking.input_mean + shift, h).intensity[0], axis=1
        )
    )
    fields = [jnp.asarray((factor @ rng.normal(size=(NUM, 5000)))[None]) for _ in range(4)]
    for first, last, at in ((0, 120, 118), (100, 110, 118), (112, 119, 118), (50, 60, 62)):
        push = np.zeros((1, NUM))
        push[0, first:last] = 0.5
        brute = [
            np.asarray(answers(jax.random.key(i), push, h) - answers(jax.random.key(i), -push, h))
            for i, h in enumerate(fields)
        ]
        brute = np.stack(brute)
        assert np.all(brute[:, :first] == 0)  # it is causal
        truth, error = brute[:, at].mean(), brute[:, at].std(ddof=1) / 2
        groups = np.asarray(spiking.replicas["response"])[:, 0, at, first:last].sum(1) * FINE
        ours, own = groups.mean(), groups.std(ddof=1) / 2
        # Of four groups each; a push of half a millivolt bends the answer by a percent.
        assert abs(ours - truth) < 4 * np.hypot(error, own) + 0.01 * truth, (first, last, at)
        assert own < 0.12 * truth
    assert np.all(np.triu(np.asarray(spiking.response[0]), 1) == 0)


@pytest.mark.slow
def test_driven_networks_of_escape_neurons_fluctuate_as_simulated(spiking):
    width, bins = 0.01, 6
    steps = round(width / FINE)

    def one(key):
        run = network.simulate(key, escape(), NUM * FINE, FINE, bin_width=2e-3, num_lags=None)
        rate = jnp.mean(run.raster.spikes.astype(jnp.float64), axis=0) / 2e-3
        return jnp.mean(rate.reshape(bins, -1), axis=1)

    simulate = jax.jit(jax.vmap(one))
    keys = jax.random.split(jax.random.key(1), 2000).reshape(8, 250)
    rates = np.concatenate([np.asarray(simulate(k)) for k in keys])
    apart = rates - rates.mean(0)

    def binned(x):
        x = np.asarray(x)
        return x.reshape(*x.shape[:-2], bins, steps, bins, steps).mean((-1, -3))

    groups = binned(spiking.replicas["population_covariance"])[:, 0, 0]
    independent = binned(spiking.covariance[0]) / 200
    for a, b in ((1, 1), (2, 2), (4, 4), (5, 5), (5, 4)):
        products = apart[:, a] * apart[:, b]
        own = groups[:, a, b].std(ddof=1) / 2
        error = np.hypot(products.std() / len(products) ** 0.5, own)
        # 50 inputs each, of which neurons of a network of 200 share a quarter.
        allowed = 4 * error + 0.03 * independent[a, a]
        assert abs(groups[:, a, b].mean() - products.mean()) < allowed, (a, b)
    # Over the whole course inhibition takes three quarters of it.
    whole, theirs = apart.mean(1), groups.mean((1, 2))
    truth, error = np.mean(whole**2), np.std(whole**2) / len(whole) ** 0.5
    assert abs(theirs.mean() - truth) < 4 * np.hypot(error, theirs.std(ddof=1) / 2) + 0.05 * truth
    assert truth < 0.4 * independent.mean()


def stepped(kind):
    """Inhibition by jumps, or of binary states, whose variance goes with their mean at once."""
    if kind == "spikes":
        neuron = network.EscapeLIF(resets=False)
        step = network.Function(lambda t: jnp.where(t > 0.02, 16.0, 12.0))
        drive = network.Drive(step, network.OrnsteinUhlenbeck(3.0, 0.005))
        weight, dt = -0.4, 1e-3
    else:
        neuron = network.Binary(threshold=1.0, tau=1.0, gain=3.0)
        drive = network.Function(lambda t: jnp.where(t > 2, 3.0, 2.0))
        weight, dt = -0.12, 0.1
    rule = network.erdos_renyi(0.25, weight)
    units = network.Population("x", neuron, 200, drive)
    return network.Network([units], [network.Projection("x", "x", rule)]), dt


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spikes", "states"])
def test_networks_of_known_expectations_fluctuate_as_simulated(kind):
    net, dt = stepped(kind)
    found = meanfield.solve(
        net, 40 * dt, dt, method="march", order="shared", key=jax.random.key(0), num_paths=4096
    )
    assert found.gradient == "intensity"
    assert found.variance_response is not None

    def one(key):
        run = network.simulate(key, net, 40 * dt, dt, bin_width=dt, num_lags=None)
        mean = jnp.mean(run.raster.spikes.astype(jnp.float64), axis=0)
        return mean / dt if kind == "spikes" else mean

    simulate = jax.jit(jax.vmap(one))
    keys = jax.random.split(jax.random.key(1), 1500).reshape(6, 250)
    means = np.concatenate([np.asarray(simulate(k)) for k in keys])
    apart = means - means.mean(0)
    groups = np.asarray(found.replicas["population_covariance"])[:, 0, 0]
    for first, last in ((4, 5), (39, 40), (10, 20), (20, 25), (30, 40), (0, 40)):
        squares = apart[:, first:last].mean(1) ** 2
        ours = groups[:, first:last, first:last].mean((1, 2))
        error = np.hypot(squares.std() / len(squares) ** 0.5, ours.std(ddof=1) / 2)
        # 50 inputs each, of which neurons of a network of 200 share a quarter.
        assert abs(ours.mean() - squares.mean()) < 4 * error + 0.03 * squares.mean(), (first, last)
    # Independent neurons would fluctuate more than twice as much.
    assert np.mean(found.covariance[0]) / 200 > 2 * np.mean(squares)


# --- responses, derivatives, other methods --------------------------------------------------------


@pytest.mark.slow
def test_tanh_units_answer_by_the_mean_slope_of_a_gaussian():
    """R(t, s) = <phi'(V(t))> (1 - a) a^(t - s), V Gaussian of the variance of its past input."""
    net = linear(coupling=0.0, gain=1.5, phi=jnp.tanh, source=network.WhiteNoise(0.4))
    found = meanfield.solve(
        net, 3.0, DT, method="march", key=jax.random.key(0), num_paths=8 * 128, num_replicas=8
    )
    num = 30
    filtered = kernel(num)
    law = np.asarray(found.input_covariance[0]) + 0.4 / DT * np.eye(num)
    variance = np.diagonal(filtered @ law @ filtered.T) + LEAK ** (2 * np.arange(1, num + 1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    slope = (1 / np.cosh(np.sqrt(variance)[:, None] * nodes) ** 2) @ weights
    exact = slope[:, None] * filtered
    z = (found.response[0] * DT - exact)[[5, 15, 29, 29], [5, 10, 29, 10]]
    z = z / (found.response_error[0] * DT)[[5, 15, 29, 29], [5, 10, 29, 10]]
    assert np.all(np.abs(z) < 5), z
    assert np.all(slope[5:] < 0.95)  # another than the linear unit's


@pytest.mark.slow
def test_sharp_thresholds_answer_by_least_squares():
    """A LIF neuron has no probability of its spikes: its response is regressed."""
    net = network.Network(
        [network.Population("x", network.LIF(), 1000, network.Poisson(10_000.0, 0.1))],
        [network.Projection("x", "x", network.erdos_renyi(0.1, -0.2), delay=1.5e-3)],
    )
    found = meanfield.solve(
        net, 0.04, 5e-4, method="march", key=jax.random.key(0), num_paths=8000, num_replicas=8
    )
    num = 80
    theory = build_theory(net, 5e-4)
    covariance = np.asarray(found.input_covariance[0])
    factor = np.linalg.cholesky(covariance + 1e-8 * np.max(covariance) * np.eye(num))
    rng = np.random.default_rng(0)
    answers = jax.jit(
        lambda key, shift, h: jnp.mean(
            drive_course(key, theory, found.input_mean + shift, h).x[0, 60:], axis=(0, 1)
        )
    )
    push = np.zeros((1, num))
    push[0, 20:] = 25.0  # millivolts a second
    brute = []
    for i in range(8):
        h = jnp.asarray((factor @ rng.normal(size=(num, 10_000)))[None])
        key = jax.random.key(i)
        brute.append(float(answers(key, push, h) - answers(key, -push, h)) / (2 * push[0, 20]))
    groups = np.asarray(found.replicas["response"])[:, 0, 60:, 20:].sum(2).mean(1) * 5e-4
    values = [np.mean(brute), groups.mean()]
    errors = [np.std(x, ddof=1) / 8**0.5 for x in (brute, groups)]
    assert abs(values[0] - values[1]) < 4 * np.hypot(*errors), (values, errors)
    assert max(errors) < 0.2 * values[0]


@pytest.mark.slow
def test_derivatives_of_shared_covariances_are_those_of_finite_differences():
    shared = network.SharedNoise(network.WhiteNoise(0.1), {"x": 1.0})

    def of(gain):
        units = network.Population("x", network.Rate("tanh", tau=1.0), 50, network.Constant(0.5))
        rule = network.gaussian(-1.0, gain)
        net = network.Network([units], [network.Projection("x", "x", rule)], [shared])
        found = meanfield.solve(
            net, 0.8, 0.2, method="march", order="shared", key=jax.random.key(3), num_paths=32,
            num_replicas=2,
        )  # fmt: skip
        parts = (found.population_covariance, found.shared_covariance, found.input_covariance)
        return sum(k * jnp.sum(x[..., -1, :]) for k, x in enumerate((*parts, found.response), 1))

    gain, step = jnp.asarray(0.8), 1e-5
    plain = jax.jit(of)
    difference = (plain(gain + step) - plain(gain - step)) / (2 * step)
    assert abs(difference) > 0.01
    forward = jax.jit(lambda g: jax.jvp(of, (g,), (jnp.ones_like(g),))[1])(gain)
    np.testing.assert_allclose(forward, difference, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(of))(gain), difference, rtol=1e-5)


@pytest.mark.slow
def test_spikes_have_no_silent_derivative_at_order_shared():
    def of(weight, **options):
        neuron = network.EscapeLIF(spike_gradient="score")
        net = eqx.tree_at(lambda n: n.projections[0].connectivity.weight, escape(), weight)
        net = eqx.tree_at(lambda n: n.populations[0].neuron, net, neuron)
        return jnp.sum(
            meanfield.solve(
                net, 4e-3, 1e-3, method="march", order="shared", key=jax.random.key(0),
                num_paths=32, num_replicas=2, throw=False, **options,
            ).mean
        )  # fmt: skip

    weight = jnp.asarray(-3.0)
    with pytest.raises(TypeError, match="spike"):
        jax.grad(of)(weight)
    with pytest.raises(ValueError, match="leading"):
        of(weight, gradient="score")


@pytest.mark.slow
def test_relaxation_windows_and_worlds_say_what_they_can(marched):
    options = {"key": jax.random.key(0), "num_paths": 512}
    relaxed = meanfield.solve(linear(), STEPS * DT, DT, method="relaxation", rtol=1e-10, **options)
    ours, theirs = relaxed.diagnostics, marched.diagnostics
    for name in ("mean_error", "least_pivot", "causality", "finite_size", "shared_share"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=1e-3, err_msg=name
        )
    np.testing.assert_allclose(relaxed.response, marched.response, atol=1e-12)
    cut = meanfield.solve(linear(), STEPS * DT, DT, method="march", window=1.0, **options)
    assert cut.response is None
    assert cut.diagnostics.causality is None
    np.testing.assert_allclose(cut.diagnostics.mean_error[0, :5], theirs.mean_error[0, :5])
    bare = meanfield.solve(linear(), STEPS * DT, DT, method="march", response=False, **options)
    assert bare.response is None
    assert bare.diagnostics.finite_size is None
    np.testing.assert_allclose(bare.diagnostics.causality, theirs.causality, rtol=1e-6)


@pytest.mark.slow
def test_a_course_is_diagnosed_at_half_the_step_and_with_more_paths():
    """x' = -x + 1 with an input held over each step is exact at any step; noise is not."""
    net = linear(coupling=0.0, source=network.Drive(network.Constant(1.0), network.WhiteNoise(0.2)))
    solution = meanfield.solve(
        net, 2.0, DT, method="march", key=jax.random.key(0), num_paths=256, response=False
    )
    found = meanfield.diagnose(jax.random.key(1), solution)
    # Means over time of 1 - exp(-t) at the ends of steps.
    exact = [np.mean(1 - np.exp(-dt * np.arange(1, round(2 / dt) + 1))) for dt in (DT / 2, DT)]
    z = (found.half_step - (exact[0] - exact[1])) / found.half_step_error
    assert np.all(np.abs(z) < 4)
    assert np.all(np.abs(found.more_paths / found.more_paths_error) < 4)
    np.testing.assert_array_equal(found.least_pivot, solution.diagnostics.least_pivot)


def test_the_skewness_of_a_course_is_that_of_its_inputs():
    """K inputs of one size from states frozen at 0 or 1: third cumulants of their sums."""
    size, p, num = 400, 0.1, 10
    units = network.Population("x", network.Binary(threshold=0.0, tau=1e6), size)
    weight = 0.3
    net = network.Network(
        [units], [network.Projection("x", "x", network.erdos_renyi(p, weight, autapses=True))]
    )
    found = meanfield.solve(
        net, num * DT, DT, method="march", key=jax.random.key(0), num_paths=400, response=False,
        gradient="none",
    )  # fmt: skip
    m = found.mean[0]
    # Over neurons: of `size m` sources each connected with the chance p.
    variance = size * m * p * (1 - p) * weight**2
    third = size * m * p * (1 - p) * (1 - 2 * p) * weight**3
    np.testing.assert_allclose(found.diagnostics.skewness[0], third / variance**1.5, rtol=0.02)
