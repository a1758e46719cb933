"""Closed forms of escape-rate, binary and linear networks, and of single neurons for given weights.

Tables: tests/reference/meanfield/{glm_EI,binary_EI,linear_net}.csv, computed for this project with
independent numpy and scipy code.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, interpolate, linalg, special

from neurofield import network
from neurofield.meanfield import _closed
from neurofield.meanfield._binary import binary
from neurofield.meanfield._glm import escape
from neurofield.meanfield._linear import linear, participation_ratio
from neurofield.meanfield._resolved import (
    ornstein_uhlenbeck_covariance,
    participation_ratio_of,
    resolved_covariance,
)
from neurofield.meanfield._sompolinsky import sompolinsky
from neurofield.meanfield._theory import build_theory

REFERENCE = Path(__file__).parent / "reference" / "meanfield"
LAGS = jnp.asarray([0.0, 0.005, 0.02, 0.1, 5.0])


def escape_net(theta):
    """(drive, J, width, asymmetry): E and I of 4,000 and 1,000 neurons, p = 0.1, g = 5."""
    drive, weight, width, apart = theta
    j = weight * jnp.asarray([1.0, -5.0])
    k = jnp.asarray([400.0, 100.0])
    two = jnp.ones(2)
    mean = jnp.broadcast_to((k * j)[None], (2, 2))
    variance = jnp.broadcast_to((k * 0.9 * j**2)[None], (2, 2))
    return escape(
        mean,
        variance,
        jnp.zeros((2, 2)),
        drive=drive + apart * jnp.asarray([0.0, 1.0]),
        tau=0.02 * two + 0.01 * apart * jnp.asarray([0.0, 1.0]),
        threshold=15 * two,
        width=width * two,
        rate=100 * two,
    )


THETA = jnp.asarray([16.0, 0.2, 4.0, 0.0])
LAG = np.linspace(0, 0.6, 6001)


def escape_numbers(theta):
    found = escape_net(theta)
    parts = (
        found.mean,
        found.sd,
        found.voltage_mean,
        found.voltage_variance,
        found.voltage_static,
        found.second(LAGS).reshape(-1),
    )
    return jnp.concatenate(parts)


@pytest.fixture(scope="module")
def escaping():
    def both(theta):
        found = escape_net(theta)
        slopes = jax.jacfwd(escape_numbers)(theta)
        return escape_numbers(theta), slopes, found, found.second(jnp.asarray(LAG))

    return jax.jit(both)


@pytest.mark.slow
def test_escape_table(escaping):
    values, slopes, *_ = escaping(THETA)
    expected = (21.121833, 19.620966, 7.551267, 70.218077, 34.707326)
    for i, number in enumerate(expected):
        np.testing.assert_allclose(values[2 * i : 2 * i + 2], number, atol=6e-7)
    # The note has -15.4929, 1e-5 off; differences of our rates agree with our derivative below.
    np.testing.assert_allclose(slopes[0, :3], (1.93716, -15.49276, 0.290348), rtol=2e-6)
    # Far lags hold what neurons differ by; at lag 0 stands E[rate^2].
    second = np.asarray(values[10:]).reshape(2, 5)
    np.testing.assert_allclose(second[:, -1], values[:2] ** 2 + values[2:4] ** 2, rtol=1e-9)
    assert np.all(np.diff(second) < 0)


@pytest.mark.slow
def test_escape_of_unlike_populations(escaping):
    """Derivatives, and the equations by an independent route where nothing is alike any more."""
    apart = THETA + jnp.asarray([0.0, 0.0, 0.0, 0.5])
    h = 1e-5
    for theta, parameters in ((THETA, (1,)), (apart, (0, 1, 2, 3))):
        slopes = escaping(theta)[1]
        for i in parameters:
            step = h * jnp.zeros(4).at[i].set(1)
            difference = (escaping(theta + step)[0] - escaping(theta - step)[0]) / (2 * h)
            np.testing.assert_allclose(slopes[:, i], difference, rtol=1e-6, atol=1e-4)
    _, _, found, second = escaping(apart)
    # The balance of power: C(0) = static + shot noise + the filtered covariance of the rates.
    lag = LAG
    excess = np.asarray(second) - np.asarray(found.quenched)[:, None]
    v = 0.9 * np.asarray([400 * 0.04, 100 * 1.0])
    for a, tau in enumerate((0.02, 0.025)):
        source = v @ excess
        smooth = tau * np.trapezoid(source * np.exp(-lag / tau), lag)
        shot = tau / 2 * v @ np.asarray(found.mean)
        static = tau**2 * v @ np.asarray(found.quenched)
        assert float(found.voltage_static[a]) == pytest.approx(static, rel=1e-9)
        total = static + shot + smooth
        assert float(found.voltage_variance[a]) == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_escape_of_strong_weights_and_none(escaping):
    found = escaping(THETA.at[1].set(1.0))[2]
    assert float(found.residual) < 1e-11
    assert float(found.sd[0]) < float(found.mean[0]) * 2
    one = jnp.ones(1)
    runaway = {"drive": 0 * one, "tau": 0.02 * one, "threshold": 10 * one, "width": one}
    with pytest.raises(RuntimeError, match="no stationary state"):
        escape(
            1e4 * jnp.ones((1, 1)),
            10 * jnp.ones((1, 1)),
            jnp.zeros((1, 1)),
            **runaway,
            rate=100 * one,
            hazard="exponential",
        )
    with pytest.raises(ValueError, match="hazard"):
        escape(*(jnp.zeros((1, 1)),) * 3, **runaway, rate=one, hazard="linear")


@pytest.mark.slow
def test_escape_of_strong_inhibition():
    """Rates that coupling lowers tenfold: half-coupled neurons would differ without bound.

    Truth: energy conservation and bracketed roots in SciPy, bench/peers/meanfield_scipy.py. These
    networks have other states too, of neurons that differ by a multiple of their mean.
    """

    def numbers(rate, width, drive, weight):
        one, cell = jnp.ones(1), {"tau": 0.02, "threshold": 15.0}
        found = escape(
            200 * weight * one[None],
            190 * weight**2 * one[None],
            0 * one[None],
            drive=drive * one,
            width=width * one,
            rate=rate * one,
            hazard="exponential",
            **{name: x * one for name, x in cell.items()},
        )
        return jnp.concatenate([found.mean, found.sd])

    points = jnp.asarray(
        [[10, 4, 25, -1.0], [10, 4, 25, -1.2], [40, 4.5, 27, -0.2], [80, 2.5, 31, -0.05]]
    )
    truth = [
        [3.74948654, 1.02260062],
        [3.29007911, 0.950889253],
        [19.4400194, 4.84482013],
        [81.831748, 45.1216699],
    ]
    found = jax.jit(jax.vmap(lambda point: numbers(*point)))(points)
    np.testing.assert_allclose(found, truth, rtol=1e-8)


def test_escape_exponential_uncoupled():
    """Under white noise alone: an Ornstein-Uhlenbeck voltage, all in closed form."""
    one = jnp.ones(1)
    zero = jnp.zeros((1, 1))
    found = escape(
        zero,
        zero,
        zero,
        drive=8 * one,
        tau=0.02 * one,
        threshold=10 * one,
        width=3 * one,
        rate=20 * one,
        hazard="exponential",
        white=0.2 * one,
        static=1.5 * one,
    )
    variance = 1.5 + 0.2 / 0.04
    rate = 20 * np.exp(-2 / 3 + variance / 18)
    assert float(found.mean[0]) == pytest.approx(rate, rel=1e-10)
    c = 1.5 + 5 * np.exp(-np.asarray(LAGS) / 0.02)
    np.testing.assert_allclose(found.second(LAGS)[0], rate**2 * np.exp(c / 9), rtol=1e-8)


def binary_net(scale, order):
    k, s = jnp.asarray([800.0, 200.0]), scale * 800**-0.5
    j = jnp.asarray([[1.0, -6.0], [1.0, -5.5]]) * s
    two = jnp.ones(2)
    return binary(
        k[None] * j,
        k[None] * 0.9 * j**2,
        jnp.zeros((2, 2)),
        drive=jnp.asarray([3.0, 2.4]),
        threshold=two,
        tau=two,
        sizes=jnp.asarray([8000.0, 2000.0]),
        order=order,
    )


def binary_numbers(scale, order):
    found = binary_net(scale, order)
    parts = (
        found.mean,
        found.quenched,
        1e4 * found.population_covariance().reshape(-1),
        found.second(jnp.asarray([0.5, 2.0])).reshape(-1),
    )
    return jnp.concatenate(parts)


BINARY_LAG = np.linspace(0, 30, 30001)


@pytest.fixture(scope="module")
def solved():
    """Of each order a compiled function of the weights' scale: numbers, derivatives, solution."""

    def everything(order):
        def of(scale):
            found = binary_net(scale, order)
            covariances = [
                found.population_covariance(total_gain=total, coloured=coloured)
                for coloured in (False, True)
                for total in (False, True)
            ]
            slopes = jax.jacfwd(lambda x: binary_numbers(x, order))(scale)
            second = found.second(jnp.asarray(BINARY_LAG))
            return binary_numbers(scale, order), slopes, found, jnp.stack(covariances), second

        return jax.jit(of)

    return {order: everything(order) for order in ("leading", "shared")}


def pairs(covariance):
    return covariance[0, 0], covariance[0, 1], covariance[1, 1]


@pytest.mark.parametrize(
    ("row", "order"), [(0, "leading"), pytest.param(1, "shared", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_binary_table(row, order, solved):
    table = np.genfromtxt(REFERENCE / "binary_EI.csv", delimiter=",", skip_header=1)[row, 2:]
    _, _, found, covariances, _ = solved[order](1.0)
    moments = (found.mean, found.quenched, found.input_mean + 1, found.input_variance)
    # Seven digits in the table; the input's mean is a difference of terms of ten.
    np.testing.assert_allclose(np.concatenate(moments), table[:8], rtol=6e-7, atol=3e-7)
    assert float(found.residual) < 1e-14
    np.testing.assert_allclose(pairs(covariances[0]), table[8:11], rtol=6e-7)
    own = jnp.diag((found.mean - found.quenched) / found.equations.sizes)
    for i, column, rtol in ((0, 11, 6e-7), (1, 14, 6e-7), (2, 17, 4e-4), (3, 20, 4e-4)):
        # The last two of the table are sums over a grid of frequencies, 2e-4 above ours, which
        # `test_coloured_covariance` checks to 2e-5.
        expected = table[column : column + 3]
        atol = 1e-11 if i < 2 else 1e-8
        np.testing.assert_allclose(pairs(covariances[i] - own), expected, rtol=rtol, atol=atol)


def test_coloured_covariance(solved):
    """The integral over frequencies against one over lags, on a fine grid."""
    _, _, found, covariances, second = solved["leading"](1.0)
    gain = np.asarray(found.equations.gain(found.input_mean, found.input_variance, True))
    a = np.asarray(second) - np.asarray(found.quenched)[:, None]
    a = a / np.asarray([8000.0, 2000.0])[:, None]
    # X = eps + K * eps with K(t) = W exp(-(1 - W) t), A the covariance of eps: Cov X = A(0) + K A +
    # (K A)^T + D, D the double integral of K A K^T, which solves a Lyapunov equation.
    leak = np.eye(2) - gain
    values, vectors = np.linalg.eig(leak)
    decay = np.exp(-values[:, None] * BINARY_LAG[None, :])
    integrals = integrate.simpson(decay[:, None] * a[None], x=BINARY_LAG)
    laplace = np.real(vectors @ (integrals * np.linalg.inv(vectors)))  # of exp(-leak t) A(t)
    cross = gain @ laplace
    source = gain @ laplace @ gain.T
    double = linalg.solve_continuous_lyapunov(leak, source + source.T)
    expected = np.diag(a[:, 0]) + cross + cross.T + double
    np.testing.assert_allclose(covariances[3], expected, rtol=2e-5)


def test_binary_equation_of_lags(solved):
    """(1 - d^2) Q = P(both above threshold) with Q(0) = m, by the Green's function."""
    _, _, found, _, second = solved["leading"](1.0)
    lag, q = BINARY_LAG, np.asarray(second)
    np.testing.assert_allclose(q[:, 0], found.mean, rtol=1e-9)
    # Nodes s = 30 u^2, for the source starts with a square root.
    u = np.linspace(0, 1, 2001)
    s = 30 * u**2
    at = np.stack([interpolate.CubicSpline(lag, row)(s) for row in q])
    sources = found.equations.output(
        jnp.broadcast_to(found.input_mean[:, None], at.shape),
        jnp.broadcast_to(found.input_variance[:, None], at.shape),
        found.equations.vQ @ jnp.asarray(at),
    )[1]
    sources = np.asarray(sources) - np.asarray(found.quenched)[:, None]
    for t in (0.1, 0.5, 2.0, 6.0):
        green = (np.exp(-np.abs(t - s)) - np.exp(-(t + s))) / 2
        smooth = integrate.simpson(green[None] * sources * 60 * u[None], x=u)
        start = np.asarray(found.mean - found.quenched) * np.exp(-t)
        got = q[:, round(t * 1000)] - np.asarray(found.quenched)
        np.testing.assert_allclose(got, start + smooth, atol=1e-6)


@pytest.mark.parametrize("order", ["leading", pytest.param("shared", marks=pytest.mark.slow)])
def test_binary_derivatives(order, solved):
    h = 1e-5
    difference = (solved[order](1.1 + h)[0] - solved[order](1.1 - h)[0]) / (2 * h)
    np.testing.assert_allclose(solved[order](1.1)[1], difference, rtol=1e-7, atol=1e-8)


def test_linear_table():
    table = np.genfromtxt(REFERENCE / "linear_net.csv", delimiter=",", skip_header=1)
    for g, variance, _, _, dimension, slow, _, _, population, _ in table:
        found = linear(g, mean=-2.0)
        got = (found.variance, found.participation_ratio, found.population_variance)
        np.testing.assert_allclose(got, (variance, dimension, population), atol=6e-7)
        assert float(found.slow_participation_ratio) == pytest.approx(slow, abs=1e-12)
        quiet = sompolinsky(float(g))
        assert float(quiet.participation_ratio) == pytest.approx(
            float(found.participation_ratio), rel=1e-9
        )
    by = jax.grad(lambda g: linear(g).participation_ratio)(0.5)
    h = 1e-5
    ahead, behind = (linear(0.5 + x).participation_ratio for x in (h, -h))
    assert float(by) == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-8)
    with pytest.raises(RuntimeError, match="stable"):
        linear(1.2)


def test_participation_ratio_by_frequencies():
    """The spectra of the linear network, on a grid that reaches infinity."""
    angle = (np.arange(200) + 0.5) / 200 * np.pi - np.pi / 2
    w, weights = 0.5 * np.tan(angle), 0.5 / np.cos(angle) ** 2
    for g in (0.3, 0.8):
        spectrum = jnp.asarray(2 / (1 - g**2 + w**2))
        arguments = (spectrum, jnp.asarray(1 / (1 + 1j * w)), g)
        got = participation_ratio(*arguments, weights=jnp.asarray(weights))
        assert float(got) == pytest.approx(float(linear(g).participation_ratio), rel=1e-10)
        got = participation_ratio(*arguments, weights=jnp.asarray(weights), inputs=True)
        expected = sompolinsky(g).input_participation_ratio
        assert float(got) == pytest.approx(float(expected), rel=1e-9)


def test_resolved():
    num = 60
    weights = 0.6 * np.random.default_rng(3).standard_normal((num, num)) / np.sqrt(num)
    sigma2 = np.linspace(0.5, 1.5, num)
    got = ornstein_uhlenbeck_covariance(jnp.asarray(weights), jnp.asarray(sigma2))
    truth = linalg.solve_continuous_lyapunov(np.eye(num) - weights, 2 * np.diag(sigma2))
    np.testing.assert_allclose(got, truth, atol=1e-13)
    assert 0.4 < float(participation_ratio_of(got)) / num < 1
    w = np.asarray([0.0, 0.7])
    response = np.broadcast_to(1 / (1 + 1j * w)[:, None], (2, num))
    propagator = np.linalg.inv(np.eye(num)[None] * (1 + 1j * w)[:, None, None] - weights[None])
    truth = propagator * 2 * sigma2[None, None, :] @ propagator.conj().transpose(0, 2, 1)
    spectra = np.diagonal(truth, axis1=1, axis2=2).real
    got = resolved_covariance(jnp.asarray(weights), jnp.asarray(response), jnp.asarray(spectra))
    np.testing.assert_allclose(got, truth, atol=1e-12)
    with pytest.raises(RuntimeError, match="No stationary state"):
        ornstein_uhlenbeck_covariance(jnp.asarray(3 * weights), jnp.asarray(sigma2))


def one_population(neuron, connectivity, *drive, size=1000):
    return network.Network(
        [network.Population("a", neuron, size, network.Drive(*drive))],
        [network.Projection("a", "a", connectivity)],
    )


@pytest.mark.slow
def test_networks_are_recognised():
    lags = jnp.asarray([0.0, 0.01, 0.03])
    # Sompolinsky's network with a gain: in units of gain x.
    rates = one_population(network.Rate(phi="tanh", tau=0.01, gain=0.5), network.gaussian(0.0, 4.0))
    found = _closed.closed_form(build_theory(rates, 1e-3))
    assert found is not None
    np.testing.assert_allclose(
        found.second(lags)[0], sompolinsky(2.0).output_covariance(lags / 0.01), rtol=2e-3
    )
    # The linear network, with a mean drive.
    identity = network.Rate(phi=lambda x: x, tau=0.02)
    noise = network.WhiteNoise(0.04)
    rates = one_population(identity, network.gaussian(-2.0, 0.5), noise, network.Constant(3.0))
    theory = build_theory(rates, 1e-3)
    found = _closed.closed_form(theory)
    assert found is not None
    g2 = float(theory.vQ[0, 0])
    expected = 0.04 / 0.04 * np.exp(-np.sqrt(1 - g2) * np.asarray(lags) / 0.02) / np.sqrt(1 - g2)
    mean = 3 / (1 - float(theory.mean[0, 0]))
    static = mean**2 * (g2 - float(theory.vM[0, 0])) / (1 - g2)
    np.testing.assert_allclose(found.second(lags)[0], expected + mean**2 + static, rtol=1e-8)
    # Noisy erf units two ways: potential and Newton.
    erf = network.Rate(phi="erf", tau=0.01)
    rates = one_population(erf, network.gaussian(0.0, 1.2), network.WhiteNoise(0.01))
    potential = _closed.closed_form(build_theory(rates, 1e-3))
    driven = one_population(
        erf, network.gaussian(0.0, 1.2), network.WhiteNoise(0.01), network.Constant(0.0)
    )
    newton = _closed.closed_form(build_theory(driven, 1e-3))
    assert potential is not None
    assert newton is not None
    np.testing.assert_allclose(potential.second(lags), newton.second(lags), rtol=1e-7)
    # None where there is no closed form.
    for neuron in (network.LIF(), network.Rate(phi="relu"), network.Binary(gain=2.0)):
        weak = network.erdos_renyi(0.1, 0.1)
        assert _closed.closed_form(build_theory(one_population(neuron, weak), 1e-4)) is None


@pytest.mark.slow
def test_escape_network():
    neuron = network.EscapeLIF(
        tau=0.02, threshold=15.0, width=4.0, rate=100.0, hazard="erf", resets=False
    )
    sizes = {"e": (4000, 0.2), "i": (1000, -1.0)}
    populations = [
        network.Population(name, neuron, size, network.Constant(16.0))
        for name, (size, _) in sizes.items()
    ]
    projections = [
        network.Projection(pre, post, network.erdos_renyi(0.1, sizes[pre][1]))
        for pre in sizes
        for post in sizes
    ]
    found = _closed.escape_network(build_theory(network.Network(populations, projections), 1e-4))
    assert found is not None
    # But for autapses, which the network lacks or has.
    np.testing.assert_allclose(found.mean, 21.121833, rtol=1e-3)
    np.testing.assert_allclose(jnp.sqrt(found.quenched - found.mean**2), 19.620966, rtol=1e-3)


@pytest.mark.slow
def test_binary_network_with_noise_at_each_update():
    """The gain of Gaussian noise is a variance that each update draws."""
    found = _closed.binary_network(
        build_theory(
            one_population(
                network.Binary(threshold=0.2, gain=2.0, noise="gaussian", tau=0.01),
                network.gaussian(0.0, 1.0),
            ),
            1e-3,
        )
    )
    assert found is not None
    m, q = float(found.mean[0]), float(found.quenched[0])
    mean, variance = -0.2, 0.25 + m
    assert m == pytest.approx(special.ndtr(mean / np.sqrt(variance)), rel=2e-3)
    # Two updates share all but the noise of each: q by an average over the input of a neuron.
    z, w = special.roots_hermitenorm(60)
    chance = special.ndtr((mean + np.sqrt(q) * z) / np.sqrt(variance - q))
    assert q == pytest.approx(w @ chance**2 / np.sqrt(2 * np.pi), rel=2e-3)
    assert float(found.second(jnp.zeros(1))[0, 0]) == pytest.approx(m, rel=1e-9)
