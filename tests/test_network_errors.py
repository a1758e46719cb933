"""What a simulation refuses, and that it says so; and that a killed one loses nothing."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from neurofield import network as nw

DT = 1e-3


def pair(weight=1.0, neuron=None, **projection):
    return nw.Network(
        [nw.Population("a", neuron or nw.LIF(), 8, nw.Constant(30.0))],
        [nw.Projection("a", "a", nw.from_matrix(jnp.full((8, 8), weight)), **projection)],
    )


def run(net, duration=0.05, dt=DT, **options):
    return nw.simulate(jax.random.key(0), net, duration, dt, num_lags=None, **options)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (pair(delay=5e-4), {}, "a -> a.*5e-04|a -> a.*0.0005"),
        (pair(delay=2.5e-3), {}, "whole number"),
        (pair(), {"dt": 0.01}, "too coarse for LIF.*0.002"),
        (pair(), {"duration": 0.0505}, "duration = 0.0505 s is not a whole number"),
        (pair(), {"bin_width": 1.5e-3}, "bin_width"),
        (pair(), {"traces": ["volts"]}, "volts.*voltage"),
        (pair(), {"traces": "voltage"}, "list of names"),
        (pair(), {"resume": True}, "checkpoint="),
        (pair(), {"num_chunks": 0}, "num_chunks"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_settings_are_errors(net, options, message):
    with pytest.raises(ValueError, match=message):
        run(net, **options)


def test_parameters_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match=r"threshold is not finite"):
        run(pair(neuron=nw.LIF(threshold=jnp.nan)))
    with pytest.raises(ValueError, match=r"projection a -> a.*finite|[Ww]eights.*finite"):
        run(pair(weight=np.inf))


def test_traced_parameters_are_checked_too():
    def spikes(tau, threshold):
        return run(pair(neuron=nw.LIF(tau=tau, threshold=threshold))).raster.spikes

    spikes = jax.jit(jax.vmap(spikes))
    good, two = jnp.asarray([0.02, 0.03]), jnp.asarray([20.0, 21.0])
    assert spikes(good, two).sum() > 0
    with pytest.raises(Exception, match="too coarse for a neuron"):
        jax.block_until_ready(spikes(good.at[1].set(0.005), two))
    with pytest.raises(Exception, match="parameter of the network is not finite"):
        jax.block_until_ready(spikes(good, two.at[0].set(jnp.nan)))


def test_delays_of_synapses_lie_on_the_grid():
    lists = nw.from_edges([0, 1], [1, 0], 1.0, num_pre=8, num_post=8, delays=[2e-3, 2.4e-3])
    net = nw.Network([nw.Population("a", nw.LIF(), 8)], [nw.Projection("a", "a", lists)])
    with pytest.raises(ValueError, match="no whole number of steps"):
        run(net)
    with pytest.raises(ValueError, match="capacity is for"):
        run(pair(), capacity=4)


def test_wrong_descriptions_are_errors():
    a = nw.Population("a", nw.LIF(), 8)
    rule = nw.erdos_renyi(0.5, 1.0)
    rate = nw.Population("r", nw.Rate(), 4)
    with pytest.raises(ValueError, match="no population is called 'b'"):
        nw.Network([a], [nw.Projection("a", "b", rule)])
    with pytest.raises(ValueError, match="names of their own"):
        nw.Network([a, a])
    with pytest.raises(ValueError, match=r"'conductance'.*current"):
        nw.Network([a], [nw.Projection("a", "a", rule, channel="conductance")])
    with pytest.raises(ValueError, match="sources that spike"):
        nw.Network([a, rate], [nw.Projection("r", "a", rule, plasticity=nw.TsodyksMarkram())])
    with pytest.raises(ValueError, match="annealed"):
        nw.Network([a], [nw.Projection("a", "a", rule, kernel=nw.Pending(0.01), channel="current")])
    with pytest.raises(ValueError, match="at least one neuron"):
        nw.Population("a", nw.LIF(), 0)
    with pytest.raises(ValueError, match=r"\(3,\).*8"):
        nw.Population("a", nw.LIF(tau=jnp.full(3, 0.02)), 8)
    lists = nw.from_edges([0, 1], [1, 0], 1.0, num_pre=2, num_post=2)
    with pytest.raises(ValueError, match="8 sources"):
        nw.Network([a], [nw.Projection("a", "a", lists)])


@pytest.mark.parametrize("traced", [False, True])
def test_more_spikes_than_the_lists_hold_are_an_error(traced):
    # Eight neurons that fire together, and lists of four.
    net = nw.Network(
        [nw.Population("a", nw.LIF(rest=10.0), 8, nw.Constant(1e3))],
        [nw.Projection("a", "a", nw.from_matrix(jnp.ones((8, 8))))],
    )

    def spikes(key, capacity):
        sim = nw.simulate(key, net, 0.05, DT, num_lags=None, method="lists", capacity=capacity)
        return sim.raster.spikes

    if traced:
        spikes = jax.jit(spikes, static_argnums=1)
    assert spikes(jax.random.key(0), 8).sum() > 8
    with pytest.raises(Exception, match="capacity = 4"):
        jax.block_until_ready(spikes(jax.random.key(0), 4))


def test_activity_without_bound_is_an_error():
    unstable = nw.Network(
        [nw.Population("r", nw.Rate("relu", initial_mean=1.0), 2)],
        [nw.Projection("r", "r", nw.from_matrix(jnp.full((2, 2), 1e6)))],
    )
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        run(unstable, duration=2.0, dt=5e-3, bin_width=0.01)
    assert not run(unstable, duration=2.0, dt=5e-3, bin_width=0.01, throw=False).info["finite"]


# --- checkpoints ----------------------------------------------------------------------------------

SCRIPT = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, "tests")
from test_network_errors import noisy
noisy(sys.argv[1], float(sys.argv[2]), resume=len(sys.argv) > 3)
"""


def noisy(folder, duration, resume=False, seed=1, num_chunks=100):
    """A network under Poisson input, saved a hundred times."""
    net = nw.Network(
        [nw.Population("a", nw.LIF(), 50, nw.Poisson(15e3, 0.1))],
        [nw.Projection("a", "a", nw.erdos_renyi(0.2, -0.3), delay=2e-3)],
    )
    return nw.simulate(
        jax.random.key(seed),
        net,
        duration,
        1e-4,
        checkpoint=folder,
        resume=resume,
        num_chunks=num_chunks,
        intervals=True,
        num_lags=None,
    )


def test_a_killed_simulation_goes_on_with_the_same_spikes(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", SCRIPT, str(folder), "2.0"]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (folder / "chunk_000004.npz").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    done = len(list(folder.glob("chunk_*.npz")))
    assert done < 100
    resumed = noisy(folder, 2.0, resume=True)
    whole = noisy(None, 2.0)
    assert whole.raster.spikes.sum() > 100
    np.testing.assert_array_equal(resumed.raster.spikes, whole.raster.spikes)
    np.testing.assert_array_equal(resumed.intervals.cv, whole.intervals.cv)


def test_a_checkpoint_is_of_one_simulation(tmp_path):
    folder = tmp_path / "run"
    first = noisy(folder, 0.05, num_chunks=2)
    again = noisy(folder, 0.05, num_chunks=2, resume=True)
    np.testing.assert_array_equal(first.raster.spikes, again.raster.spikes)
    with pytest.raises(FileExistsError, match="resume=True"):
        noisy(folder, 0.05, num_chunks=2)
    with pytest.raises(ValueError, match="another simulation: inputs differ"):
        noisy(folder, 0.05, num_chunks=2, seed=2, resume=True)
    with pytest.raises(ValueError, match="num_bins differ"):
        noisy(folder, 0.1, num_chunks=2, resume=True)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: nw.LIF(tau=0.0), "tau"),
        (lambda: nw.EscapeLIF(width=0.0), "width"),
        (lambda: nw.GLM(rate=-1.0), "rate"),
        (lambda: nw.ConductanceLIF(capacitance=-0.2), "capacitance"),
        (lambda: nw.HodgkinHuxley(leak=0.0), "leak"),
        (lambda: nw.Izhikevich(a=-0.1), "a must"),
        (lambda: nw.MarkovLIF(refractory=-1e-3), "refractory"),
        (lambda: nw.QIF(tau=jnp.nan), "tau"),
        (lambda: nw.annealed(0.5, jnp.nan), "weight must be finite, got"),
        (lambda: nw.annealed(1.5, 1.0), "probability"),
        (lambda: nw.Poisson(-1.0, 0.1), "rate"),
    ],
)
def test_constants_that_make_no_sense_are_errors(build, name):
    with pytest.raises(ValueError, match=name):
        build()
