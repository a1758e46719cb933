"""Networks of neurons of all kinds at once, step by step against plain NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import network as nw

DT = 1e-4
NUM_STEPS = 120
TELLERS, SIZES = 2, {"E": 7, "R": 4, "I": 3, "B": 5, "X": 4, "S": 2, "Q": 3}
RNG = np.random.default_rng(0)
TOLD = (RNG.random((NUM_STEPS, TELLERS)) < 0.15).astype(float)
LIF = {
    "E": {"tau": 0.02, "threshold": np.linspace(15, 20, 7), "refractory": 0.002},
    "I": {"tau": 0.01, "threshold": 18.0, "refractory": 0.001},
    "X": {"tau": 0.015, "threshold": 17.0, "refractory": 0.0005},
}
CURRENT = {"E": RNG.uniform(60, 90, 7), "I": 75.0, "X": RNG.uniform(60, 80, 4)}
RATE = {
    "R": {"tau": 0.01, "gain": 1.3, "initial_mean": 0.4},
    "Q": {"tau": np.array([0.01, 0.02, 0.03]), "gain": 0.7, "initial_mean": -0.2},
}
COURSE = {"R": RNG.normal(size=30), "B": RNG.normal(size=(5, 37))}  # of 4 and 3 steps each
THRESHOLD = np.linspace(-0.5, 0.45, 5)  # not 0, which their input is when nothing drives them
TAU = {"exp": 0.004, "slow": 0.007, "alpha": 0.003}
# Source, target, kernel, delay in steps, whether it is plastic, scale of the weights.
SYNAPSES = [
    ("E", "E", "delta", 5, False, 0.5),
    ("E", "E", "delta", 5, False, 0.3),  # a second projection between the same two
    ("E", "I", "delta", 5, False, 0.5),
    ("I", "E", "delta", 5, False, 1.0),
    ("X", "I", "delta", 5, False, 1.0),
    ("E", "X", "exp", 7, True, 3.0),  # of sources with others in between
    ("X", "X", "exp", 7, True, 3.0),
    ("I", "X", "exp", 7, True, 3.0),
    ("S", "E", "alpha", None, False, 3.0),
    ("S", "B", "delta", 2, False, 1e-4),
    ("R", "E", "delta", 3, False, 1.0),
    ("Q", "E", "delta", 3, False, 1.0),
    ("R", "R", "slow", 4, False, 50.0),
    ("Q", "R", "delta", None, False, 1.0),
    ("R", "Q", "delta", 1, False, 1.0),
    ("B", "E", "delta", 4, False, 1.0),
    ("B", "B", "delta", 1, False, 1.0),
    ("B", "R", "exp", 6, False, 50.0),
    ("B", "Q", "delta", 6, False, 0.5),
    ("E", "R", "slow", 2, False, 1.0),
    ("I", "Q", "delta", 9, False, 1e-3),
]
WEIGHTS = [
    RNG.normal(0, scale, (SIZES[t], SIZES[s])) * (RNG.random((SIZES[t], SIZES[s])) < 0.6)
    for s, t, _, _, _, scale in SYNAPSES
]


class AtRest(nw.LIF):
    def init(self, key, shape=()):
        return nw.LIFState(jnp.zeros(shape), jnp.zeros(shape))


def told(params, key, state, input, dt):
    return state + 1, nw.Output(params[state[0]])


def mixture(order, own_delays):
    kernels = {
        "delta": nw.Delta(),
        "exp": nw.Exponential(TAU["exp"]),
        "slow": nw.Exponential(TAU["slow"]),
        "alpha": nw.Alpha(TAU["alpha"]),
    }
    parts = {a: (AtRest(**LIF[a]), nw.Constant(CURRENT[a])) for a in LIF}
    parts |= {a: (nw.Rate(initial_sd=0.0, **RATE[a]), None) for a in RATE}
    parts["R"] = (parts["R"][0], nw.TimeCourse(COURSE["R"], 4 * DT))
    parts["B"] = (
        nw.Binary(update="parallel", threshold=THRESHOLD, initial=1.0),
        nw.TimeCourse(COURSE["B"], 3 * DT, after="zero"),
    )
    counter = nw.Custom(
        jnp.asarray(TOLD), lambda p, k, shape: jnp.zeros(shape, jnp.int32), told, kind="spike"
    )
    parts["S"] = (counter, None)
    projections = []
    for (source, target, name, lag, plastic, _), weights in zip(SYNAPSES, WEIGHTS, strict=True):
        delay = None if lag is None else lag * DT
        rule = nw.from_matrix(weights)
        if own_delays and delay is not None:
            post, pre = np.nonzero(weights)
            rule = nw.from_edges(
                pre,
                post,
                weights[post, pre],
                num_pre=SIZES[source],
                num_post=SIZES[target],
                delays=np.full(len(pre), delay),
            )
            delay = None
        projections.append(
            nw.Projection(
                source,
                target,
                rule,
                kernel=kernels[name],
                delay=delay,
                channel="current" if target in LIF and name != "delta" else None,
                plasticity=nw.TsodyksMarkram(0.4, 0.05, 0.03) if plastic else None,
            )
        )
    return nw.Network(
        [nw.Population(a, parts[a][0], SIZES[a], parts[a][1]) for a in order], projections
    )


@pytest.fixture(scope="module")
def expected():
    """Output of every neuron at the end of every step."""
    out = {a: np.zeros((NUM_STEPS, n)) for a, n in SIZES.items()}
    released = {a: np.zeros((NUM_STEPS, SIZES[a])) for a in LIF}
    voltage, left, used = ({a: np.zeros(SIZES[a]) for a in LIF} for _ in range(3))
    resources = {a: np.ones(SIZES[a]) for a in LIF}
    x = {a: np.full(SIZES[a], RATE[a]["initial_mean"]) for a in RATE}
    before = {a: np.tanh(RATE[a]["gain"] * x[a]) for a in RATE} | {"B": np.ones(5)}
    before |= {a: np.zeros(SIZES[a]) for a in "EIXS"}
    nodes, share = np.polynomial.legendre.leggauss(20)
    nodes, share = (nodes + 1) / 2, share / 2

    def sent(k, source, plastic):
        if k < 0:
            return before[source]
        return (released if plastic else out)[source][k]

    # Of a filter: its value, the rise of an alpha function, the level that arrived last.
    filters = []
    for (source, target, name, *_), weights in zip(SYNAPSES, WEIGHTS, strict=True):
        level = weights @ before[source]
        filters.append([TAU.get(name, 0) * level, np.zeros(SIZES[target]), level])
    for k in range(NUM_STEPS):
        current = {a: np.zeros(n) for a, n in SIZES.items()}
        jump = {a: np.zeros(n) for a, n in SIZES.items()}
        for i, (source, target, name, lag, plastic, _) in enumerate(SYNAPSES):
            spikes = source in "EIXS"
            if name == "delta":
                arrived = WEIGHTS[i] @ sent(k - (lag or 1), source, plastic)
                if spikes and target in LIF:
                    jump[target] += arrived
                else:
                    current[target] += arrived / DT if spikes else arrived
                continue
            tau, (y, z, old) = TAU[name], filters[i]
            decay, new = np.exp(-DT / tau), WEIGHTS[i] @ sent(k - 1 - (lag or 0), source, plastic)
            y, z = (y + DT * z) * decay * (k > 0) + y * (k == 0), z * decay
            held = np.zeros_like(new)
            if name == "alpha":
                z = z + np.e / tau * new
            elif spikes:
                y = y + new
            else:
                if k:
                    line = old[:, None] * (1 - nodes) + new[:, None] * nodes
                    y = y + DT * (line * np.exp(-(1 - nodes) * DT / tau)) @ share
                held = new[:, None] * tau * -np.expm1(-nodes * DT / tau) @ share
            within = (y[:, None] + z[:, None] * DT * nodes) * np.exp(-nodes * DT / tau)
            current[target] += within @ share + held
            filters[i] = [y, z, new]
        current["R"] += COURSE["R"][min(k // 4, 29)]
        current["B"] += COURSE["B"][:, k // 3] if k // 3 < 37 else 0
        for a, p in LIF.items():
            target = CURRENT[a] + current[a]
            v = target + (voltage[a] - target) * np.exp(-DT / p["tau"]) + jump[a]
            v = np.where(left[a] > 0, 10.0, v)
            spike = v >= p["threshold"]
            voltage[a], out[a][k] = np.where(spike, 10.0, v), spike
            left[a] = np.where(spike, round(p["refractory"] / DT), np.maximum(left[a] - 1, 0))
            u = used[a] * np.exp(-DT / 0.03)
            share_left = 1 - (1 - resources[a]) * np.exp(-DT / 0.05)
            rise = 0.4 * (1 - u)
            released[a][k] = spike * (u + rise) * share_left
            used[a], resources[a] = u + spike * rise, share_left - released[a][k]
        out["S"][k] = TOLD[k]
        out["B"][k] = current["B"] >= THRESHOLD
        for a, p in RATE.items():
            x[a] = current[a] + (x[a] - current[a]) * np.exp(-DT / p["tau"])
            out[a][k] = np.tanh(p["gain"] * x[a])
    assert all(out[a].sum() > 10 for a in "EIXSB")
    return out


@pytest.mark.parametrize(
    ("order", "form", "method", "own_delays"),
    [
        ("EIXSRQB", "dense", "events", False),  # like neurons side by side, in one group
        pytest.param("QXEIBSR", "auto", "lists", False, marks=pytest.mark.slow),
        # Like neurons apart.
        pytest.param("ERIBXSQ", "lists", "events", True, marks=pytest.mark.slow),
    ],
)
def test_a_mixture_goes_as_in_plain_numpy(expected, order, form, method, own_delays):
    net = nw.realise(jax.random.key(1), mixture(order, own_delays), DT, form=form)
    sim = nw.simulate(
        jax.random.key(0),
        net,
        NUM_STEPS * DT,
        DT,
        bin_width=DT,
        traces=["output"],
        method=method,
        num_chunks=7,
        num_lags=None,
    )
    for name in SIZES:
        # Rounding of a few operations a step, over 120 steps of stable units.
        np.testing.assert_allclose(
            sim.traces[name]["output"].T, expected[name], rtol=0, atol=1e-13, err_msg=name
        )


def test_noise_is_shared_as_its_weights_say():
    pops = [nw.Population(n, nw.Rate(tau=t), 2) for n, t in (("a", 0.01), ("b", 0.02), ("c", 0.01))]
    white = nw.SharedNoise(nw.WhiteNoise(0.1), {"c": 2.0, "a": jnp.asarray([1.0, -0.5])})
    coloured = nw.SharedNoise(nw.OrnsteinUhlenbeck(1.0, 0.02), {"b": -1.0})
    net = nw.Network(pops, shared=[white, coloured])

    def run(net):
        return nw.simulate(
            jax.random.key(0), net, 8.0, 1e-3, bin_width=1e-3, traces=["input"], num_lags=None
        ).traces

    found = run(net)
    a, b, c = (np.asarray(found[name]["input"][0]) for name in "abc")
    np.testing.assert_array_equal(c, np.stack([2 * a[0]] * 2))
    np.testing.assert_array_equal(a[1], -0.5 * a[0])
    np.testing.assert_array_equal(b[1], b[0])
    # Variance density / dt; its estimate from 8,000 normal numbers has the error sqrt(2 / 8000).
    assert abs(a[0].var() * 1e-3 / 0.1 - 1) < 4 * np.sqrt(2 / 8000)
    assert abs(np.corrcoef(a[0], b[0])[0, 1]) < 4 / np.sqrt(8000)
    np.testing.assert_allclose(jax.jit(run)(net)["a"]["input"], found["a"]["input"], rtol=1e-14)


def test_gradients_pass_through_shared_noise_kernels_and_delays():
    def loss(params):
        weight, sd, tau, tau_s = params
        net = nw.Network(
            [nw.Population("a", nw.Rate(), 2), nw.Population("b", nw.Rate(tau=0.02), 2)],
            [
                nw.Projection(
                    "a",
                    "b",
                    nw.from_matrix(jnp.ones((2, 2))),
                    kernel=nw.Exponential(tau_s),
                    delay=3e-3,
                )
            ],
            [nw.SharedNoise(nw.OrnsteinUhlenbeck(sd, tau), {"a": weight, "b": 1.0})],
        )
        sim = nw.simulate(jax.random.key(0), net, 0.05, 1e-3, traces=["output"], num_lags=None)
        return jnp.sum(sim.traces["b"]["output"] ** 2)

    params = jnp.asarray([0.7, 0.5, 0.02, 0.01])
    gradient, compiled = jax.jit(jax.grad(loss))(params), jax.jit(loss)
    h = 1e-6
    for i in range(4):
        ends = [compiled(params.at[i].add(s * h)) for s in (1, -1)]
        assert abs(gradient[i]) > 1e-3
        np.testing.assert_allclose(gradient[i], (ends[0] - ends[1]) / (2 * h), rtol=1e-6)


def test_sequential_updates_are_one_in_each_population():
    """Each turns 1 when drawn and stays: after k draws of n, 1 - (1 - 1 / n)^k of them are 1."""
    size, steps = 40, 40
    unit = nw.Binary(update="sequential", threshold=-1.0, initial=0.0)
    net = nw.Network([nw.Population(name, unit, size) for name in "ab"])

    def share(key):
        sim = nw.simulate(key, net, steps * DT, DT, bin_width=DT, num_lags=None)
        return jnp.mean(sim.raster.spikes[:, -1].reshape(2, size), axis=1)

    found = np.asarray(jax.jit(jax.vmap(share))(jax.random.split(jax.random.key(0), 400)))
    error = np.std(found, axis=0, ddof=1) / np.sqrt(400)
    assert (np.abs(found.mean(0) - (1 - (1 - 1 / size) ** steps)) < 4 * error).all()


def test_rates_between_spiking_populations_are_no_spikes():
    """Neither do they count towards the capacity, nor release resources without end."""
    rate = nw.Rate("relu", initial_mean=100.0, initial_sd=0.0)
    spiking = [nw.Population(n, nw.LIF(), 3, nw.Constant(30.0)) for n in "ab"]
    plastic = nw.TsodyksMarkram(0.5, 0.1)
    synapses = [nw.Projection(s, "a", nw.all_to_all(0.1), plasticity=plastic) for s in "ab"]
    middle = nw.Population("r", rate, 100, nw.Constant(100.0))
    net = nw.Network([spiking[0], middle, spiking[1]], synapses)
    sim = nw.simulate(jax.random.key(0), net, 0.05, DT, num_lags=None, method="lists", capacity=64)
    assert sim.raster.spikes.sum() > 3


def test_functions_of_time_may_give_each_neuron_its_own():
    drive = nw.Function(lambda t: jnp.asarray([25.0, 30.0, 35.0]) + 0 * t)
    net = nw.Network([nw.Population(n, nw.Rate(), 3, drive) for n in "ab"])
    sim = nw.simulate(jax.random.key(0), net, 0.01, 1e-3, traces=["input"], num_lags=None)
    for name in "ab":
        np.testing.assert_array_equal(sim.traces[name]["input"][0, :, -1], [25, 30, 35])


def test_single_precision_stays_under_x64():
    single = jnp.float32
    pops = [
        nw.Population(
            n, nw.LIF(tau=single(0.02), threshold=v), 5, nw.Drive(nw.Constant(v), nw.WhiteNoise(v))
        )
        for n, v in (("a", 20.0), ("b", 15.0))
    ]
    net = nw.Network(
        pops,
        [
            nw.Projection("a", "b", nw.erdos_renyi(0.5, 0.1), delay=1e-3),
            nw.Projection("a", "a", nw.gaussian(0.1, 0.1), kernel=nw.Exponential(0.005)),
        ],
        [nw.SharedNoise(nw.WhiteNoise(0.1), {"a": 1.0, "b": -0.5})],
    )
    sim = nw.simulate(jax.random.key(0), net, 0.02, DT, traces=["voltage", "input"], intervals=True)
    floats = (sim.traces, sim.intervals)
    assert {x.dtype for x in jax.tree.leaves(floats)} == {np.dtype(np.float32)}


def test_a_neuron_without_floating_state_runs():
    count = nw.Custom(
        jnp.ones(3),
        lambda p, k, shape: jnp.zeros(shape, jnp.int32),
        lambda p, k, state, input, dt: (state + 1, nw.Output(p)),
        kind="spike",
    )
    net = nw.Network([nw.Population("a", count, 3)])
    sim = nw.simulate(jax.random.key(0), net, 3e-3, DT, num_lags=None)
    np.testing.assert_array_equal(sim.raster.spikes, 10)
    assert sim.info["finite"]


def test_lists_without_synapses_may_have_delays():
    nobody = np.zeros(0, int)
    rule = nw.from_edges(nobody, nobody, 1.0, num_pre=3, num_post=3, delays=np.zeros(0))
    population = nw.Population("a", nw.LIF(), 3, nw.Constant(30.0))
    alone = nw.Network([population])
    net = eqx.tree_at(lambda n: n.projections, alone, (nw.Projection("a", "a", rule),))
    runs = [nw.simulate(jax.random.key(0), n, 0.05, DT, num_lags=None) for n in (alone, net)]
    assert runs[0].raster.spikes.sum() > 0
    np.testing.assert_array_equal(runs[1].raster.spikes, runs[0].raster.spikes)
