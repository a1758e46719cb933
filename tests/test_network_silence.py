"""What must not pass in silence: lost spikes, NaN, wrong checkpoints, gradients of zero."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from neurofield import network as nw

DT = 1e-4


def synchronous(key, **options):
    """100 neurons spike together once, in the tenth step."""
    told = jnp.zeros((1000, 100)).at[9].set(1.0)
    source = nw.Custom(
        told,
        lambda p, k, shape: jnp.zeros(shape, jnp.int32),
        lambda p, k, state, input, dt: (state + 1, nw.Output(p[state[0]])),
        kind="spike",
    )
    net = nw.Network(
        [nw.Population("a", source, 100), nw.Population("b", nw.LIF(), 2)],
        [nw.Projection("a", "b", nw.all_to_all(0.1))],
    )
    return nw.simulate(key, net, 0.01, DT, method="lists", capacity=64, num_lags=None, **options)


@pytest.mark.parametrize("options", [{}, {"warm_up": 0.02}, {"throw": False}], ids=str)
def test_lost_spikes_are_an_error_at_all_times(options):
    with pytest.raises(ValueError, match="capacity = 64"):
        synchronous(jax.random.key(0), **options)


@pytest.mark.parametrize("part", ["raster", "info", "intervals"])
def test_lost_spikes_are_an_error_whatever_is_returned(part):
    run = jax.jit(lambda key: getattr(synchronous(key, intervals=True), part))
    with pytest.raises(Exception, match="capacity = 64"):
        jax.block_until_ready(run(jax.random.key(0)))


@pytest.mark.parametrize("throw", [True, False])
def test_counts_above_255_are_an_error(throw):
    always = nw.Custom(
        jnp.asarray(1.0),
        lambda p, k, shape: jnp.zeros(shape),
        lambda p, k, state, input, dt: (state, nw.Output(jnp.ones_like(state))),
        kind="spike",
    )
    net = nw.Network([nw.Population("a", always, 2)])
    run = partial(nw.simulate, jax.random.key(0), net, num_lags=None, throw=throw)
    counts = run(255 * DT, DT, bin_width=255 * DT).raster.spikes
    np.testing.assert_array_equal(counts, 255)
    with pytest.raises(ValueError, match="255"):
        run(256 * DT, DT, bin_width=256 * DT)


@pytest.mark.parametrize(
    "neuron",
    [nw.Binary(), nw.Binary(gain=2.0), nw.GLM(), nw.MarkovLIF()],
    ids=lambda n: type(n).__name__,
)
def test_nan_that_a_draw_or_a_threshold_hides_is_an_error(neuron):
    """One step of NaN: it leaves no trace in states that are drawn."""

    # All spike at first where they can: after a spike MarkovLIF is deaf to its input.
    def value(t):
        return jnp.where(t < DT, 2e6, jnp.where(jnp.abs(t - 4.5e-4) < 1e-5, jnp.nan, 1.0))

    drive = nw.Function(value, neuron.channels[0])
    net = nw.Network([nw.Population("a", neuron, 3, drive)])
    with pytest.raises(FloatingPointError, match="input"):
        nw.simulate(jax.random.key(0), net, 0.01, DT, num_lags=None)
    found = nw.simulate(jax.random.key(0), net, 0.01, DT, num_lags=None, throw=False)
    assert not found.info["finite"]


@pytest.mark.parametrize("num_chunks", [1, 11])
def test_what_comes_after_the_end_is_no_error(num_chunks):
    """Chunks of 10 bins: the last one goes on to 110 bins, where the activity is infinite."""
    unit = nw.Rate(lambda x: x, initial_mean=1.0, initial_sd=0.0)
    net = nw.Network([nw.Population("a", unit, 1)], [nw.Projection("a", "a", nw.all_to_all(2e4))])
    run = partial(nw.simulate, jax.random.key(0), net, dt=5e-3, num_lags=None)
    sim = run(0.005 * 77, bin_width=5e-3, num_chunks=8, traces=["output"])
    # x goes on by the factor e^-1/2 + (1 - e^-1/2) 2e4, 77 times: 1e300.
    factor = np.exp(-0.5) + -np.expm1(-0.5) * 2e4
    np.testing.assert_allclose(sim.traces["a"]["output"][0, -1], factor**77, rtol=1e-12)
    with pytest.raises(FloatingPointError):
        run(0.005 * 80, bin_width=5e-3, num_chunks=num_chunks)


@pytest.mark.parametrize("kernel", [nw.Delta(), nw.Exponential(5e-3)], ids=["delta", "exponential"])
def test_a_synapse_of_a_delay_below_a_step_is_an_error(kernel):
    def net(delay):
        rule = nw.from_edges([0], [1], 1.0, num_pre=2, num_post=2, delays=[delay])
        return nw.Network(
            [nw.Population("a", nw.LIF(), 2)], [nw.Projection("a", "a", rule, kernel=kernel)]
        )

    run = partial(nw.simulate, jax.random.key(0), duration=1e-3, dt=DT, num_lags=None)
    run(net(DT))
    for delay in (0.0, 0.6 * DT):
        with pytest.raises(ValueError, match="delay below dt"):
            run(net(delay))


def test_only_sampled_outputs_have_a_probability():
    """A random rate of mean 0, known as its intensity, adds nothing to that of the spikes."""
    random = nw.Custom(
        jnp.asarray(1.0),
        lambda p, k, shape: jnp.zeros(shape),
        lambda p, k, s, input, dt: (s, nw.Output(jax.random.normal(k, s.shape), 0 * s)),
        kind="rate",
    )
    spiking = nw.Population("a", nw.GLM(rate=100.0), 3)
    nets = [nw.Network([spiking]), nw.Network([spiking, nw.Population("r", random, 2)])]
    for net in nets:
        sim = nw.simulate(
            jax.random.key(0), net, 0.01, 1e-3, log_prob=True, traces=["output"], num_lags=None
        )
        chance = -np.expm1(-0.1)
        spikes = np.asarray(sim.traces["a"]["output"])
        expected = np.where(spikes > 0, np.log(chance), np.log1p(-chance)).sum(0)
        np.testing.assert_allclose(sim.log_prob, expected, rtol=1e-12)


def test_the_score_gradient_knows_the_chance_of_the_first_state():
    """Of one unit that keeps its state with probability q: d/dp of the sum of 3 states."""
    q = np.exp(-1e-3 / 0.01)

    def network(initial):
        unit = nw.Binary(gain=1.0, initial=initial)
        return nw.Network([nw.Population("a", unit, 1)])

    found = jax.jit(
        lambda key, p: nw.score_gradient(
            key,
            lambda sim: sim.traces["a"]["output"][0],
            p,
            3e-3,
            1e-3,
            network_fn=network,
            num_samples=4000,
            bin_width=1e-3,
            traces=["output"],
        )
    )(jax.random.key(0), jnp.asarray(0.3))
    expected = q + q**2 + q**3
    assert found.error < expected / 10
    assert abs(found.gradient - expected) < 4 * found.error


# --- checkpoints ----------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
import jax
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, "tests")
from neurofield.network._store import Checkpoint
from test_network_silence import with_functions
save, saved = Checkpoint.save, []
def save_and_die(self, carry, bins):
    save(self, carry, bins)
    saved.append(1)
    if len(saved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.save = save_and_die
with_functions(4.0, checkpoint=sys.argv[1])
"""


def wave(frequency):
    return lambda t: jnp.sin(frequency * t)


def with_functions(frequency, **options):
    """Rate units, whose nonlinearity is a function, under a drive that is one."""
    units = nw.Population("a", nw.Rate(jnp.sin), 4, nw.Function(wave(frequency)))
    net = nw.Network([units], [nw.Projection("a", "a", nw.gaussian(0.0, 1.5), delay=3e-3)])
    return nw.simulate(
        jax.random.key(0), net, 0.1, 1e-3, num_chunks=8, traces=["output"], num_lags=None, **options
    ).traces["a"]["output"]


@pytest.mark.slow
def test_a_killed_simulation_of_functions_goes_on(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], cwd=ROOT, check=False)
    assert process.returncode == -9
    assert len(list(folder.glob("chunk_*.npz"))) == 3
    with pytest.raises(ValueError, match="another simulation: inputs"):
        with_functions(5.0, checkpoint=folder, resume=True)
    resumed = with_functions(4.0, checkpoint=folder, resume=True)
    np.testing.assert_array_equal(resumed, with_functions(4.0))
