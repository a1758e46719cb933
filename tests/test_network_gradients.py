"""Gradients through simulations: exact for rates, by the score function for sampled spikes."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import network as nw

WEIGHTS = jnp.asarray(np.random.default_rng(3).normal(0, 0.6, (6, 6)))


def rate_loss(params):
    """A function of the whole course of a rate network, with delays and filters."""
    gain, weights, drive, tau, tau_s = params
    neuron = nw.Rate(gain=gain, tau=tau, initial_sd=0.5)
    net = nw.Network(
        [
            nw.Population("a", neuron, 4, nw.Constant(drive)),
            nw.Population("b", neuron, 2, nw.Constant(0.2)),
        ],
        [
            nw.Projection("a", "a", nw.from_matrix(weights[:4, :4])),
            nw.Projection("a", "b", nw.from_matrix(weights[4:, :4]), delay=0.03),
            nw.Projection("b", "a", nw.from_matrix(weights[:4, 4:]), kernel=nw.Exponential(tau_s)),
        ],
    )
    sim = nw.simulate(
        jax.random.key(0),
        net,
        0.2,
        0.01,
        bin_width=0.02,
        traces=["output"],
        num_lags=None,
        num_chunks=3,
    )
    return jnp.sum(sim.traces["a"]["output"] ** 2) + jnp.sum(sim.traces["b"]["output"][:, -1])


def test_the_gradient_of_a_rate_network_is_exact():
    params = (jnp.asarray(1.3), WEIGHTS, jnp.asarray(0.4), jnp.asarray(0.05), jnp.asarray(0.04))
    loss = jax.jit(rate_loss)
    gradient = jax.jit(jax.grad(rate_loss))(params)
    rng = np.random.default_rng(0)
    for index in range(len(params)):
        # One parameter at a time, along a random direction.
        direction = [jnp.zeros_like(p) for p in params]
        direction[index] = jnp.asarray(rng.normal(size=params[index].shape))
        h = 1e-5
        ahead, behind = (
            loss(tuple(p + s * d for p, d in zip(params, direction, strict=True))) for s in (h, -h)
        )
        expected = (ahead - behind) / (2 * h)
        got = jnp.sum(gradient[index] * direction[index])
        assert abs(got) > 1e-3
        np.testing.assert_allclose(got, expected, rtol=1e-7)


def spike_loss(current, neuron):
    net = nw.Network([nw.Population("a", neuron, 3, nw.Constant(current))])
    sim = nw.simulate(
        jax.random.key(0), net, 0.05, 1e-3, bin_width=1e-3, traces=["output"], num_lags=None
    )
    return jnp.sum(sim.traces["a"]["output"])


@pytest.mark.parametrize("neuron", [nw.LIF(), nw.EscapeLIF()], ids=["threshold", "sampled"])
def test_spikes_have_no_silent_derivative(neuron):
    with pytest.raises(TypeError, match="score_gradient"):
        jax.grad(spike_loss)(jnp.asarray(25.0), neuron)
    surrogate = nw.LIF if isinstance(neuron, nw.LIF) else nw.EscapeLIF
    biased = jax.grad(spike_loss)(jnp.asarray(25.0), surrogate(spike_gradient="surrogate"))
    assert jnp.isfinite(biased)
    assert biased > 0


# --- the score function, against the enumeration of every spike train -----------------------------

DT, NUM_STEPS = 5e-3, 3


def escape_pair(params):
    """Two neurons that excite each other, with escape noise; they start at rest."""
    drive, weight = params
    neuron = nw.EscapeLIF(tau=0.05, rate=60.0, threshold=0.0)
    at_rest = eqx.tree_at(lambda n: n.threshold, neuron, jnp.asarray(0.0))
    pairs = weight * (1 - jnp.eye(2))
    return nw.Network(
        [nw.Population("a", at_rest, 2, nw.Constant(drive))],
        [nw.Projection("a", "a", nw.from_matrix(pairs))],
    )


def pair_loss(sim):
    """Of each bin: depends on its own spikes and on those before."""
    spikes = sim.traces["a"]["output"]
    together = jnp.cumsum(spikes[0]) * spikes[1]
    return together + 0.5 * spikes[0]


def exact_loss(params):
    """The mean of the summed loss over all spike trains of two neurons."""
    drive, weight = params
    total = 0.0
    for train in itertools.product([0, 1], repeat=2 * NUM_STEPS):
        spikes = np.reshape(train, (NUM_STEPS, 2))
        voltage, probability, jump = np.zeros(2), 1.0, np.zeros(2)
        for now in spikes:
            voltage = drive + (voltage - drive) * np.exp(-DT / 0.05) + jump
            chance = -np.expm1(-60 * np.exp(voltage / 3) * DT)
            probability *= np.prod(np.where(now, chance, 1 - chance))
            voltage = np.where(now, 0.0, voltage)
            jump = weight * now[::-1]
        loss = np.sum(np.cumsum(spikes[:, 0]) * spikes[:, 1]) + 0.5 * spikes[:, 0].sum()
        total += probability * loss
    return total


@pytest.fixture(scope="module")
def estimates():
    params = (jnp.asarray(2.0), jnp.asarray(1.5))
    run = jax.jit(
        lambda key, baseline: nw.score_gradient(
            key,
            pair_loss,
            params,
            NUM_STEPS * DT,
            DT,
            network_fn=escape_pair,
            num_samples=20_000,
            baseline=baseline,
            bin_width=DT,
            traces=["output"],
        ),
        static_argnums=1,
    )
    return params, {baseline: run(jax.random.key(1), baseline) for baseline in (True, False)}


@pytest.mark.parametrize("baseline", [True, False])
def test_the_score_gradient_is_unbiased(estimates, baseline):
    params, found = estimates
    found = found[baseline]
    value = exact_loss(tuple(map(float, params)))
    assert abs(found.value - value) < 4 * found.value_error
    for index in range(2):
        h = 1e-5
        ends = [
            exact_loss(tuple(float(p) + s * h * (i == index) for i, p in enumerate(params)))
            for s in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * h)
        assert expected > 10 * found.error[index]  # far from zero: the test can fail
        assert abs(found.gradient[index] - expected) < 4 * found.error[index]


def test_the_baseline_lowers_the_variance(estimates):
    _, found = estimates
    for with_baseline, without in zip(found[True].error, found[False].error, strict=True):
        assert with_baseline < 0.9 * without


def test_a_deterministic_threshold_has_no_score():
    net = nw.Network([nw.Population("a", nw.LIF(), 2)])
    with pytest.raises(ValueError, match="escape noise"):
        nw.score_gradient(jax.random.key(0), lambda sim: 0.0, net, 0.01, 1e-3)
