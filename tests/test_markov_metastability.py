"""Dwell times of telegraph signals with known answers, and bistable sets of the published network.

Dwell times of the reduction: `tests/test_markov_chain.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield.markov import default_parameters
from neurofield.markov._metastability import bistable, dwell_times

WINDOW, BIN = 0.06, 1e-3


def rates(windows, population=0, dtype=np.float64):
    """Rates `[..., 2, time]` in 1-ms bins whose windows burst (300 Hz in one bin) where told."""
    windows = np.asarray(windows, bool)
    rate = np.full((*windows.shape[:-1], 2, windows.shape[-1], 60), 150.0)
    rate[..., population, :, 17] += 150.0 * windows
    return jnp.asarray(rate.reshape(*rate.shape[:-2], -1), dtype)


def telegraph(rng, chances, shape):
    """A chain of two states with the chances to leave (quiet, bursting), in equilibrium."""
    state = rng.random(shape[:-1]) < chances[0] / sum(chances)
    states = []
    for _ in range(shape[-1]):
        states.append(state)
        state = state ^ (rng.random(shape[:-1]) < np.where(state, chances[1], chances[0]))
    return np.stack(states, axis=-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_of_a_short_signal(dtype):
    found = dwell_times(rates([0, 0, 1, 1, 1, 0, 1, 0, 0, 0], dtype=dtype), bin_width=BIN)
    # Quiet windows with a successor: 5, of which 2 end in a burst; bursting: 4, of which 2 end.
    np.testing.assert_array_equal(found.transitions, [[3, 2], [2, 2]])
    assert found.num_segments == 5
    assert found.fraction == dtype(0.4)
    np.testing.assert_allclose(found.quiet, WINDOW * 5 / 2, rtol=1e-6)
    np.testing.assert_allclose(found.burst, WINDOW * 4 / 2, rtol=1e-6)
    np.testing.assert_allclose(found.quiet_error, 0.15 * np.sqrt(0.6 / 2), rtol=1e-6)
    assert {x.dtype for x in (found.fraction, found.burst, found.quiet_error)} == {np.dtype(dtype)}


def test_telegraph_signals_within_their_errors():
    chances = 0.25, 0.4
    windows = telegraph(np.random.default_rng(1), chances, (200, 300))
    found = dwell_times(rates(windows), bin_width=BIN)
    truth = {
        "fraction": chances[0] / sum(chances),
        "quiet": WINDOW / chances[0],
        "burst": WINDOW / chances[1],
    }
    pooled = dwell_times(rates(windows), bin_width=BIN, pool=True)
    for name, value in truth.items():
        z = (getattr(found, name) - value) / getattr(found, f"{name}_error")
        # The scatter of 200 runs is what the errors say: its variance has a relative error of 10 %.
        assert abs(np.var(z) - 1) < 0.4, (name, np.var(z))
        assert abs((getattr(pooled, name) - value) / getattr(pooled, f"{name}_error")) < 4, name
    assert int(pooled.num_segments) == int(np.sum(found.num_segments))
    one = dwell_times(rates(windows[7]), bin_width=BIN)
    for name in ("burst", "fraction_error"):
        np.testing.assert_allclose(getattr(one, name), getattr(found, name)[7], rtol=1e-12)


def test_short_runs_do_not_shorten_the_dwell_times():
    chances = 0.05, 0.1  # mean dwell times of 20 and 10 windows in runs of 8
    windows = telegraph(np.random.default_rng(2), chances, (2000, 8))
    found = dwell_times(rates(windows), bin_width=BIN, pool=True)
    for name, chance in zip(("quiet", "burst"), chances, strict=True):
        z = (getattr(found, name) - WINDOW / chance) / getattr(found, f"{name}_error")
        assert abs(z) < 4, (name, z)


def test_states_that_are_never_left_or_never_seen():
    quiet = dwell_times(rates(np.zeros(9)), bin_width=BIN)
    assert quiet.fraction == quiet.burst == 0
    for unbounded in (quiet.quiet, quiet.quiet_error, quiet.burst_error):
        assert jnp.isposinf(unbounded)
    late = dwell_times(rates([0, 0, 0, 1]), bin_width=BIN)  # a burst that no one sees the end of
    assert jnp.isposinf(late.burst)
    assert np.isclose(late.quiet, 3 * WINDOW)
    for found in (quiet, late):
        assert not any(np.isnan(x).any() for x in jax.tree.leaves(found))


def test_population_transient_threshold_and_left_over_bins():
    windows = [1, 0, 0, 1, 1, 0]
    rate = rates(windows, population=1)
    assert dwell_times(rate, bin_width=BIN).fraction == 0
    assert dwell_times(rate, bin_width=BIN, population=1).fraction == 0.5
    assert dwell_times(rate, bin_width=BIN, population=-1, threshold=301.0).fraction == 0
    later = dwell_times(rate[:, :-30], bin_width=BIN, population=1, transient=0.06)
    assert (later.fraction, later.num_segments) == (0.5, 2)  # of 0 0 1 1


def test_traces_and_batches_agree():
    windows = telegraph(np.random.default_rng(3), (0.3, 0.3), (4, 30))
    plain = dwell_times(rates(windows), bin_width=BIN)
    traced = jax.jit(jax.vmap(lambda x: dwell_times(x, bin_width=BIN)))(rates(windows))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bin_width": None}, "bin_width must be given"),
        ({"window": 0.0605}, "multiple of the bins"),
        ({"population": 2}, "not one of 2"),
        ({"transient": -1.0}, "not be negative"),
        ({"transient": 0.3}, "at least 2 needed"),
    ],
)
def test_bad_arguments_of_dwell_times(change, words):
    with pytest.raises(ValueError, match=words):
        dwell_times(rates(np.zeros(6)), **{"bin_width": BIN, **change})


def test_bad_arguments_of_bistable():
    params = default_parameters("meta")
    with pytest.raises(ValueError, match="must be 'ode' or 'map'"):
        bistable(params, backend="markov")
    with pytest.raises(ValueError, match="a transient below the duration"):
        bistable(params, 0.1, transient=0.1)
    with pytest.raises(ValueError, match="got 0 initial states"):
        bistable(params, 0.1, initial=())
    with pytest.raises(RuntimeError, match="did not end well"):
        bistable(
            params,
            0.01,
            initial=["reset"],
            backend="map",
            closure="published",
            voltage_bin=10.0,
            drive_factor=lambda t: jnp.nan,
            throw=False,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regime", "cycle", "equilibrium"),
    [("meta", (20.2, 43.1), (6.5, 34.1)), ("reg", (25.2, 56.7), (15.6, 45.5)), ("hom", None, None)],
)
def test_attractors_of_the_map(regime, cycle, equilibrium):
    """Rates of the published closure in bins of 4 mV, by other code: a cycle and an equilibrium."""
    found = bistable(
        default_parameters(regime), 1.2, backend="map", closure="published", voltage_bin=4.0
    )
    assert bool(found.several) == (cycle is not None)
    if cycle is None:
        assert float(jnp.max(found.spread)) < 0.1
        return
    # A cycle of 25 ms in 0.6 s leaves a few per cent; an equilibrium's rates have two digits.
    np.testing.assert_allclose(found.rate[0], cycle, rtol=0.04)
    np.testing.assert_allclose(found.rate[1], equilibrium, rtol=0.01)
    assert float(found.spread[0, 0]) > 10
    assert float(found.spread[1, 0]) < 0.5
    np.testing.assert_array_equal(found.label, [0, 1])
    # From where it ended it stays.
    again = bistable(
        default_parameters(regime),
        1.2,
        backend="map",
        closure="published",
        voltage_bin=4.0,
        initial=(*found.final, "reset"),
    )
    np.testing.assert_array_equal(again.label, [0, 1, 0])
