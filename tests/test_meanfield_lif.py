"""Self-consistent rates of LIF networks: published networks, `simulate`, derivatives.

`microcircuit_indegrees.csv`: the in-degrees of Bos, Diesmann & Helias (2016), the model of Potjans
& Diesmann (2014) with a stable state; rates of it in `microcircuit_rates.csv`.
"""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import network
from neurofield._results import is_successful
from neurofield.meanfield._lif import lif_rates
from neurofield.meanfield._lif_network import lif_network
from neurofield.meanfield._siegert import siegert

TABLES = Path(__file__).parent / "reference" / "meanfield"
CELL = {"tau": 0.02, "threshold": 20.0, "reset": 10.0, "refractory": 0.002}
CORTEX = {"tau": 0.01, "threshold": 15.0, "reset": 0.0, "refractory": 0.002, "synaptic_tau": 5e-4}
JUMP = 87.8 * 5e-4 / 250 * 1e3  # mV: peak (pA) times time constant over capacitance (pF)


def rows(name):
    with open(TABLES / name) as file:
        return list(csv.reader(file))[1:]


def microcircuit(jump=JUMP, g=4.0, external=8.0):
    """Arguments of `lif_rates`."""
    table = np.array([[float(x) for x in row[1:]] for row in rows("microcircuit_indegrees.csv")])
    indegree, outside = jnp.asarray(table[:, :8]), jnp.asarray(table[:, 8])
    factor = jnp.ones((8, 8)).at[0, 2].set(2.0)
    weight = jump * factor * jnp.where(jnp.arange(8) % 2 == 0, 1.0, -g)[None]
    drive = CORTEX["tau"] * external * outside
    return indegree * weight, indegree * weight**2, drive * jump, drive * jump**2


def brunel(jump, g, eta):
    """Arguments of `lif_rates` for the network of Brunel (2000), one population."""
    drive = eta * 20.0 / jump
    weight = jnp.array([[1000 * jump - 250 * g * jump]])
    square = jnp.array([[1000 * jump**2 + 250 * (g * jump) ** 2]])
    return weight, square, drive * jump, drive * jump**2


@pytest.fixture(scope="module")
def solve():
    return jax.jit(lambda arguments: lif_rates(*arguments, **CORTEX))


def test_microcircuit(solve):
    found = solve(microcircuit())
    known = np.array([[float(x) for x in row[1:]] for row in rows("microcircuit_rates.csv")])
    assert is_successful(found.result)
    np.testing.assert_allclose(found.rate, known[:, 1], rtol=1e-7)
    np.testing.assert_allclose(found.mean, known[:, 4], atol=1e-6)
    np.testing.assert_allclose(found.sd, known[:, 5], atol=1e-6)


def test_published_network():
    compiled = jax.jit(lambda arguments, start: lif_rates(*arguments, **CELL, initial=start))
    for jump, g, eta, rate, mean, sd, cv in (
        [float(x) for x in row] for row in rows("brunel_siegert.csv")
    ):
        # From silence and from saturation: these have one solution.
        for start in (0.0, 450.0):
            found = compiled(brunel(jump, g, eta), jnp.full(1, start))
            np.testing.assert_allclose(found.rate[0], rate, rtol=2e-6)
            np.testing.assert_allclose([found.mean[0], found.sd[0]], [mean, sd], rtol=2e-5)
            if cv > 0:  # of the regular states the table gives none
                np.testing.assert_allclose(found.cv[0], cv, rtol=1e-4)


@pytest.mark.slow
def test_derivatives(solve):
    at = jnp.array([JUMP, 4.0, 8.0])

    def rates(x):
        return lif_rates(*microcircuit(*x), **CORTEX).rate

    forward = jax.jit(jax.jacfwd(rates))(at)
    backward = jax.jit(jax.jacrev(rates))(at)
    np.testing.assert_allclose(forward, backward, rtol=1e-8)
    for i in range(3):
        h = 1e-5 * at[i]
        up, down = (solve(microcircuit(*at.at[i].add(s * h))).rate for s in (1, -1))
        # The rates are right to 1e-10.
        np.testing.assert_allclose(forward[:, i], (up - down) / (2 * h), rtol=1e-4)


@pytest.mark.slow
def test_batches_and_codes():
    arguments = brunel(0.1, 5.0, 2.0)

    def rates(drive):
        found = lif_rates(*arguments[:2], drive, arguments[3], **CELL, throw=False)
        return found.rate, found.residual

    rate, residual = jax.jit(jax.vmap(rates))(jnp.array([10.0, 40.0, 80.0]))
    assert (residual < 1e-10).all()
    assert (jnp.diff(rate[:, 0]) > 0).all()
    short = lif_rates(*arguments, **CELL, max_steps=1, throw=False)
    assert not is_successful(short.result)
    with pytest.raises(Exception, match="no self-consistent rates"):
        lif_rates(*arguments, **CELL, max_steps=1)
    with pytest.raises(ValueError, match="post, pre"):
        lif_rates(jnp.ones((2, 1)), jnp.ones((2, 1)), 1.0, 1.0, **CELL)
    with pytest.raises(ValueError, match="square_weight"):
        lif_rates(jnp.ones((1, 1)), -jnp.ones((1, 1)), 1.0, 1.0, **CELL)


@pytest.mark.slow
def test_single_precision():
    arguments = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), brunel(0.1, 5.0, 2.0))
    found = lif_rates(*arguments, **CELL)
    assert found.rate.dtype == jnp.float32
    np.testing.assert_allclose(found.rate, 37.949697, rtol=1e-4)


def brunel_network(connectivity, kernel=None, peak=0.1, g=5.0):
    cells = [network.Population(n, network.LIF(), s) for n, s in (("E", 1000), ("I", 250))]
    drive = network.Poisson(20 * 1000.0, peak, kernel, "jump" if kernel is None else "current")
    cells = [network.Population(p.name, p.neuron, p.size, drive) for p in cells]
    projections = [
        network.Projection(
            source, target, connectivity(indegree, weight), kernel=kernel, delay=1.5e-3
        )
        for source, indegree, weight in (("E", 100, peak), ("I", 25, -g * peak))
        for target in ("E", "I")
    ]
    return network.Network(cells, projections)


def test_networks():
    def fixed(k, j):
        return network.fixed_indegree(k, j, multapses=False)

    def random(k, j):
        return network.erdos_renyi(0.1, j)

    expected = lif_rates(
        jnp.array([[10.0, -12.5]] * 2), jnp.array([[1.0, 6.25]] * 2), 40.0, 4.0, **CELL
    )
    for rule in (fixed, random):
        found = lif_network(brunel_network(rule))
        for name in ("rate", "mean", "sd", "cv"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)
    # Of 100 synapses on 1,000 sources, 1 % of the pairs share a source.
    multiple = lif_network(brunel_network(network.fixed_indegree))
    square = 0.01 * 100 * (1 + 99 / 1000), 0.25 * 25 * (1 + 24 / 250)
    expected = lif_rates(jnp.array([[10.0, -12.5]] * 2), jnp.array([square] * 2), 40.0, 4.0, **CELL)
    np.testing.assert_allclose(multiple.rate, expected.rate, rtol=1e-9)
    # Currents of peak 2 mV for 1 ms: 0.1 mV on the voltage.
    filtered = lif_network(brunel_network(fixed, network.Exponential(1e-3), peak=2.0))
    expected = lif_rates(
        jnp.array([[10.0, -12.5]] * 2),
        jnp.array([[1.0, 6.25]] * 2),
        40.0,
        4.0,
        **CELL,
        synaptic_tau=1e-3,
    )
    np.testing.assert_allclose(filtered.rate, expected.rate, rtol=1e-9)


def test_drawn_weights_and_noise():
    key = jax.random.key(0)
    weights = 0.3 * jax.random.normal(key, (30, 40))
    noise = network.Drive(network.Constant(18.0), network.WhiteNoise(0.5))
    cells = [
        network.Population("a", network.LIF(), 40, noise),
        network.Population("b", network.LIF(), 30, noise),
    ]
    found = []
    for drawn in (network.from_matrix(weights), network.Dense(weights.T)):
        net = network.Network(cells, [network.Projection("a", "b", drawn)])
        found.append(lif_network(net))
    alone = siegert(18.0, np.sqrt(0.5 / 0.02), **CELL)
    variance = 0.5 / 0.02 + 0.02 * (weights**2).sum() / 30 * alone
    second = siegert(18.0 + 0.02 * weights.sum() / 30 * alone, jnp.sqrt(variance), **CELL)
    for state in found:
        np.testing.assert_allclose(state.rate, [alone, second], rtol=1e-9)


def test_what_is_not_of_the_family():
    lif = network.LIF()

    def net(neuron=lif, drive=None, connectivity=None, **options):
        cells = [network.Population("a", neuron, 10, drive)]
        rule = network.erdos_renyi(0.5, 0.1) if connectivity is None else connectivity
        return network.Network(cells, [network.Projection("a", "a", rule, **options)])

    plastic = network.TsodyksMarkram(0.5, 0.1, 0.1)
    for bad, reason in (
        (net(network.EIF()), "EIF"),
        (net(network.LIF(threshold=jnp.linspace(19.0, 21.0, 10))), "threshold"),
        (net(drive=network.OrnsteinUhlenbeck(1.0, 0.01)), "OrnsteinUhlenbeck"),
        (net(drive=network.Poisson(lambda t: 5.0 + t, 0.1)), "in time"),
        (net(drive=network.WhiteNoise(0.1), kernel=network.Exponential(2e-3)), "white and"),
        (net(kernel=network.Alpha(2e-3)), "Alpha"),
        (net(plasticity=plastic), "plasticity"),
        (
            net(connectivity=network.low_rank(jnp.ones((10, 1)), jnp.ones((10, 1)))),
            "LowRank",
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            lif_network(bad)


@pytest.mark.slow
def test_simulation():
    """A population of independent neurons: what the theory is exact for, up to the step.

    White noise of a grid misses crossings within steps: threshold and reset shift by
    0.5826 sd sqrt(dt / tau) (Broadie, Glasserman & Kou 1997; Chernoff 1965 the constant).
    """
    dt, sd = 2e-5, 6.0
    drive = network.Drive(network.Constant(18.0), network.WhiteNoise(0.02 * sd**2))
    net = network.Network([network.Population("a", network.LIF(), 400, drive)])
    out = network.simulate(jax.random.key(1), net, 4.0, dt, warm_up=0.2, bin_width=0.1)
    counts = np.asarray(out.raster.spikes, float).reshape(400, -1).sum(1)
    shift = 0.5826 * sd * np.sqrt(dt / 0.02)
    shifted = CELL | {"threshold": 20.0 + shift}
    expected = float(siegert(18.0, sd, **shifted)) * 4.0
    assert abs(counts.mean() - expected) < 4 * counts.std(ddof=1) / 20
