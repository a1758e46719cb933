"""The simulation against an independent step-by-step one, and against itself by other ways."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import network as nw

DT = 1e-4


def emitter(spikes):
    """A population that spikes when told to: `spikes[step, neuron]`."""
    table = jnp.asarray(spikes, float)

    def step(params, key, state, input, dt):
        return state + 1, nw.Output(params[state[0]])

    return nw.Custom(
        table,
        lambda params, key, shape: jnp.zeros(shape, jnp.int32),
        step,
        kind="spike",
    )


PASSIVE = nw.LIF(tau=0.02, threshold=1e9, refractory=0.0)


def at_rest(neuron):
    """A LIF that starts at its resting voltage."""
    return nw.Custom(
        neuron,
        lambda p, key, shape: nw.LIFState(jnp.full(shape, p.rest), jnp.zeros(shape)),
        lambda p, key, state, input, dt: p.step(key, state, input, dt),
        kind="spike",
        channels=nw.LIF.channels,
    )


def chain(kernel, delay, channel=None, num_steps=40, spike_step=3):
    """One spike at the end of a step, onto a passive neuron: its voltage, or its input."""
    told = np.zeros((num_steps, 1))
    told[spike_step] = 1
    synapse = nw.Projection(
        "a",
        "b",
        nw.from_matrix(np.ones((1, 1))),
        kernel=kernel,
        delay=delay,
        channel=channel,
    )
    net = nw.Network(
        [nw.Population("a", emitter(told), 1), nw.Population("b", at_rest(PASSIVE), 1)], [synapse]
    )
    sim = nw.simulate(
        jax.random.key(0),
        net,
        num_steps * DT,
        DT,
        bin_width=DT,
        traces={"b": ["voltage", "input"]},
        num_lags=None,
    )
    assert sim.raster.spikes[0].tolist() == told[:, 0].tolist()
    return sim.traces["b"]


@pytest.mark.parametrize("delay", [None, DT, 5 * DT])
def test_a_jump_arrives_one_delay_after_its_spike(delay):
    # Bin k ends at (k + 1) dt. The spike is stamped at 4 dt, and the jump is in the voltage then
    # + delay; with no delay given, one step later.
    lag = 1 if delay is None else round(delay / DT)
    voltage = chain(nw.Delta(), delay)["voltage"][0]
    expected = np.zeros(40)
    steps = np.arange(40 - (3 + lag))
    expected[3 + lag :] = np.exp(-steps * DT / 0.02)
    np.testing.assert_allclose(voltage, expected, atol=1e-14)


@pytest.mark.parametrize("delay", [None, DT, 5 * DT])
def test_a_filtered_current_starts_one_delay_after_its_spike(delay):
    lag = 0 if delay is None else round(delay / DT)
    current = chain(nw.Exponential(5e-3), delay, "current")["input"][0, 0]
    expected = np.zeros(40)
    steps = np.arange(40 - (4 + lag))
    mean = (1 - np.exp(-DT / 5e-3)) * 5e-3 / DT  # over one step
    expected[4 + lag :] = np.exp(-steps * DT / 5e-3) * mean
    np.testing.assert_allclose(current, expected, atol=1e-14)


# --- a recurrent network, against plain NumPy -----------------------------------------------------

SIZES = (12, 5)
DELAYS = (3 * DT, 7 * DT)


def recurrent(form="lists", **change):
    """Excitatory and inhibitory LIF neurons under constant, heterogeneous currents."""
    rng = np.random.default_rng(4)
    weights = {
        "E": rng.choice([0.0, 1.5], (17, SIZES[0]), p=[0.6, 0.4]),
        "I": rng.choice([0.0, -3.0], (17, SIZES[1]), p=[0.4, 0.6]),
    }
    drive = {"E": jnp.linspace(21, 30, SIZES[0]), "I": jnp.linspace(22, 28, SIZES[1])}
    neuron = {"E": nw.LIF(**change), "I": nw.LIF(tau=0.01, refractory=0.001, **change)}
    populations = [
        nw.Population(name, neuron[name], size, nw.Constant(drive[name]))
        for name, size in zip("EI", SIZES, strict=True)
    ]
    ends = {"E": slice(0, 12), "I": slice(12, 17)}
    projections = [
        nw.Projection(s, t, nw.from_matrix(weights[s][ends[t]]), delay=delay)
        for s, delay in zip("EI", DELAYS, strict=True)
        for t in "EI"
    ]
    net = nw.Network(populations, projections)
    return nw.realise(jax.random.key(1), net, form=form), weights


def reference(weights, start, num_steps):
    """The same network, one step after the other."""
    tau = np.repeat([0.02, 0.01], SIZES)
    refractory = np.repeat([20, 10], SIZES)
    current = np.concatenate([np.linspace(21, 30, 12), np.linspace(22, 28, 5)])
    voltage, left = start.copy(), np.zeros(17)
    spikes = np.zeros((num_steps, 17), int)
    for k in range(num_steps):
        jump = np.zeros(17)
        for name, lag, part in (("E", 3, slice(0, 12)), ("I", 7, slice(12, 17))):
            if k >= lag:
                jump += weights[name] @ spikes[k - lag, part]
        voltage = current + (voltage - current) * np.exp(-DT / tau) + jump
        voltage[left > 0] = 10
        spikes[k] = voltage >= 20
        voltage[spikes[k] > 0] = 10
        left = np.where(spikes[k] > 0, refractory, np.maximum(left - 1, 0))
    return spikes


@pytest.mark.parametrize("form", ["lists", "dense"])
@pytest.mark.parametrize("method", ["events", "lists", "matmul"])
def test_a_network_spikes_as_in_plain_numpy(form, method):
    net, weights = recurrent(form)
    sim = nw.simulate(
        jax.random.key(0),
        net,
        0.2,
        DT,
        bin_width=DT,
        traces=["voltage"],
        method=method,
        num_lags=None,
        num_chunks=7,
    )
    spikes = np.asarray(sim.raster.spikes)
    first = [np.asarray(sim.traces[name]["voltage"][:, 0]) for name in "EI"]
    # Before the first step, from the voltages after it: nobody spikes or receives in it.
    assert not spikes[:, 0].any()
    current = np.concatenate([np.linspace(21, 30, 12), np.linspace(22, 28, 5)])
    decay = np.exp(-DT / np.repeat([0.02, 0.01], SIZES))
    start = current + (np.concatenate(first) - current) / decay
    expected = reference(weights, start, 2000)
    assert expected.sum() > 100
    np.testing.assert_array_equal(spikes.T, expected)


@pytest.mark.parametrize("rule", [nw.fixed_indegree(6, 0.7), nw.erdos_renyi(0.3, nw.Normal(1, 2))])
def test_drawn_weights_have_the_statistics_of_their_matrix(rule):
    """Multapses are one weight, in lists as in a matrix; both forms hold the same weights."""
    population = nw.Population("a", nw.LIF(), 20)
    net = nw.Network([population], [nw.Projection("a", "a", rule)])
    drawn = [
        nw.realise(jax.random.key(0), net, form=form).projections[0].connectivity
        for form in ("lists", "dense")
    ]
    matrix = np.asarray(drawn[1].weights).T
    sums, columns = matrix.sum(1), np.var(matrix, axis=0, ddof=1).sum()
    for weights in drawn:
        found = nw.block_statistics(weights)
        expected = [sums.mean(), columns, columns - sums.var(ddof=1)]
        np.testing.assert_allclose([found.mean, found.vQ, found.vM], expected, rtol=1e-12)


def with_lags(net, lags):
    """Every synapse its own delay, in steps, by source and target."""
    projections = []
    for projection in net.projections:
        lists = projection.connectivity
        own = lags[projection.source][:, net.span(projection.target)[0] :]
        delays = jnp.take_along_axis(
            jnp.pad(own, ((0, 0), (0, 1)), constant_values=1), lists.targets, axis=1
        )
        lists = eqx.tree_at(lambda x: x.delays, lists, delays * DT, is_leaf=lambda x: x is None)
        projections.append(nw.Projection(projection.source, projection.target, lists))
    return nw.Network(net.populations, projections)


@pytest.mark.parametrize("method", ["events", "lists", "matmul"])
def test_synapses_with_delays_of_their_own(method):
    """Equal delays, given one by one, are as one delay; and the mean of others is theirs."""
    net, _ = recurrent("lists")
    same = {"E": jnp.full((12, 17), 3), "I": jnp.full((5, 17), 7)}

    def run(n):
        return nw.simulate(
            jax.random.key(0), n, 0.1, DT, bin_width=DT, method=method, num_lags=None
        ).raster.spikes

    np.testing.assert_array_equal(run(with_lags(net, same)), run(net))
    other = jax.tree.map(lambda x: x.at[0].add(1), same)
    assert (np.asarray(run(with_lags(net, other))) != np.asarray(run(net))).any()


def test_seeds_in_a_batch_are_as_one_by_one():
    net, _ = recurrent("lists")

    def run(key):
        return nw.simulate(key, net, 0.05, DT, num_lags=None).raster.spikes

    keys = jax.random.split(jax.random.key(5), 3)
    batch = jax.jit(jax.vmap(run))(keys)
    for key, spikes in zip(keys, batch, strict=True):
        np.testing.assert_array_equal(run(key), spikes)


def test_parameters_in_a_batch_are_as_one_by_one():
    """Networks of their own each: weights drawn, and delivered, one after the other."""

    def run(weight):
        populations = [
            nw.Population("E", nw.LIF(), 20, nw.Constant(25.0)),
            nw.Population("I", nw.LIF(), 5, nw.Constant(25.0)),
        ]
        rule = nw.fixed_indegree(4, weight)
        net = nw.Network(
            populations, [nw.Projection("E", "I", rule), nw.Projection("E", "E", rule)]
        )
        return nw.simulate(jax.random.key(2), net, 0.05, DT, num_lags=None).raster.spikes

    weights = jnp.asarray([0.0, 0.5, 1.0])
    batch = jax.jit(jax.vmap(run))(weights)
    assert (batch[0] != batch[2]).any()
    for weight, spikes in zip(weights, batch, strict=True):
        np.testing.assert_array_equal(run(weight), spikes)


def test_chunks_do_not_matter():
    net, _ = recurrent()

    def run(n):
        return nw.simulate(
            jax.random.key(0), net, 0.05, DT, num_lags=None, num_chunks=n, warm_up=0.01
        ).raster.spikes

    np.testing.assert_array_equal(run(1), run(7))
    np.testing.assert_array_equal(run(60), run(7))


def test_intervals_are_those_of_the_raster():
    net, _ = recurrent()
    sim = nw.simulate(jax.random.key(0), net, 0.3, DT, bin_width=DT, intervals=True, num_lags=None)
    assert np.sum(sim.intervals.count > 2) > 8
    for neuron in np.flatnonzero(sim.intervals.count > 2):
        gaps = np.diff(np.flatnonzero(np.asarray(sim.raster.spikes[neuron]))) * DT
        assert sim.intervals.count[neuron] == len(gaps)
        np.testing.assert_allclose(sim.intervals.mean[neuron], gaps.mean(), rtol=1e-12)
        np.testing.assert_allclose(
            sim.intervals.cv[neuron], gaps.std(ddof=1) / gaps.mean(), rtol=1e-9
        )
