"""The discrete-time map: the published program's traces and rates, derivatives, conservation."""

import csv
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import markov
from neurofield._results import RESULTS

# `octave_dsode_*`: the published program (Chang et al. 2025, github.com/changjie98/dsODE) run in
# Octave, spikes per ms of whole populations. The others: a compiled re-statement of its equations
# that agrees with it; `refexact` has the exact refractoriness.
_REFERENCE = Path(__file__).parent / "reference" / "markov"
_REGIMES = ["default", "gamma", "hom", "meta", "async", "reg", "syn"]


def _rows(name):
    with (_REFERENCE / name).open() as file:
        return list(csv.DictReader(file))


def _stack(regimes):
    return jax.tree.map(lambda *x: jnp.stack(x), *map(markov.default_parameters, regimes))


def _solve(params, duration, **keywords):
    chosen = {"closure": "published", "voltage_bin": 4.0, "save_dt": 1e-2, "throw": False}
    return markov.solve(params, duration, backend="map", **(chosen | keywords))


_solved = eqx.filter_jit(_solve)


def test_published_traces():
    """Every 0.1 ms of 150 ms: the first volley, and all that it leads to."""
    regimes = ["default", "gamma", "hom"]
    rate = jax.jit(jax.vmap(lambda p: _solve(p, 0.15, save_dt=1e-4, refractory="published").rate))(
        _stack(regimes)
    )
    flow = np.asarray(rate) * np.array([300, 100])[None, :, None] / 1e3
    for regime, found in zip(regimes, flow, strict=True):
        table = np.loadtxt(
            _REFERENCE / f"octave_dsode_{regime}_0p1ms.csv", delimiter=",", skiprows=1
        )
        truth = table[1:, 1:].T  # the first sample is the start
        error = np.sqrt(np.mean((found[:, : truth.shape[1]] - truth) ** 2))
        assert error < 1e-7 * np.sqrt(np.mean(truth**2)), regime
    np.testing.assert_allclose(flow[0, 0, 132], 414.427, atol=1e-3)
    np.testing.assert_allclose(flow[0, 0, [499, 999]], [2.32748358, 35.46473913], atol=1e-6)


def _check_table(regimes, model, **keywords):
    """Mean rates of 0.5 to 2.5 s, within 0.1 %."""
    rows = {(r["regime"], r["model"]): r for r in _rows("reference_stats.csv")}

    def rate(p):
        return _solve(p, 2.5, save_dt=0.5, **keywords).rate[:, 1:].mean(axis=1)

    for regime, found in zip(regimes, jax.jit(jax.vmap(rate))(_stack(regimes)), strict=True):
        row = rows[regime, model]
        truth = [float(row["rE_mean"]), float(row["rI_mean"])]
        np.testing.assert_allclose(found, truth, rtol=1e-3, err_msg=regime)


def test_mean_rates_of_two_regimes():
    _check_table(["hom", "gamma"], "dsode_refexact")


@pytest.mark.slow
def test_mean_rates():
    """All 28 pairs hold to 0.04 %: default, which sits on a bifurcation, too."""
    _check_table(_REGIMES, "dsode_refexact")
    _check_table(_REGIMES, "dsode_refexact_h2", voltage_bin=2.0)


@pytest.mark.slow
def test_mean_rates_of_the_published_refractoriness():
    _check_table(_REGIMES, "dsode_authors", refractory="published")


@pytest.mark.slow
@pytest.mark.parametrize("dt", [0.4, 0.2, 0.1])
def test_convergence_in_bin_and_step(dt):
    """Mean rates of 0.5 to 1.5 s; bins of 1 mV left out, for time.

    The table does not say over which second it takes means: to its last digit where rates are
    constant, else to a volley of the 55 or more in a second.
    """
    for row in _rows("convergence.csv"):
        width, model = float(row["h_mV"]), row["refractory"]
        if float(row["dt_ms"]) != dt or width < 2:
            continue
        params = markov.default_parameters(row["regime"])
        refractory = "published" if model == "authors" else "exact"
        keywords = {"dt": 1e-3 * dt, "voltage_bin": width, "refractory": refractory}
        rate = jax.jit(lambda p, k=keywords: _solve(p, 1.5, save_dt=0.1, **k).rate)(params)
        found = np.mean(rate[:, 5:], axis=1)
        truth = [float(row["rE_Hz"]), float(row["rI_Hz"])]
        constant = row["regime"] == "async"
        allowed = {"rtol": 0, "atol": 6e-3} if constant else {"rtol": 1 / 55}
        np.testing.assert_allclose(found, truth, **allowed, err_msg=str(row))


_SYNAPSES = {"ee": (0, 0), "ei": (0, 1), "ie": (1, 0), "ii": (1, 1)}
_FIELDS = {"s": "charge", "tau": "tau", "p": "probability"}


def _changed(params, name, by):
    """A parameter of the published program plus `by`, in its units (ms, mV, 1/ms)."""
    if name == "J_ex":
        return eqx.tree_at(
            lambda p: (p.drive, p.drive_variance),
            params,
            (params.drive + 1e3 * by, params.drive_variance + 1e3 * by),
        )
    if name == "tau_r":
        rate = 1 / (1 / params.refractory_rate + 1e-3 * by)
        return eqx.tree_at(lambda p: p.refractory_rate, params, rate)
    kind, synapse = name.split("_")
    field, unit = _FIELDS[kind], 1e-3 if kind == "tau" else 1.0
    at = (slice(None), 1) if synapse == "i" else _SYNAPSES[synapse]
    value = getattr(params, field).at[at].add(unit * by)
    return eqx.tree_at(lambda p: getattr(p, field), params, value)


def _check_gradients(case, regime, first, last, rtol):
    """In forward mode, all 13 at once. `first`, `last`: ms; the sample at `last` is not in."""
    rows = [row for row in _rows("gradients_fd.csv") if row["case"] == case]
    assert len(rows) == 13

    def rates(by):
        params = markov.default_parameters(regime)
        for row, x in zip(rows, by, strict=True):
            params = _changed(params, row["param"], x)
        rate = _solve(params, last, save_dt=1e-4).rate
        begin = max(round(first * 1e4) - 1, 0)  # sample n is bin n - 1; at the start none spikes
        return jnp.sum(rate[:, begin:-1], axis=1) * 1e-4 / (last - first)

    def along(direction):
        return jax.jvp(rates, (jnp.zeros(13),), (direction,))

    value, found = jax.jit(jax.vmap(along, out_axes=(None, 0)))(jnp.eye(13))
    np.testing.assert_allclose(value, [float(rows[0][k]) for k in ("rE_Hz", "rI_Hz")], rtol=1e-7)
    truth = [[float(row["drE_dparam"]), float(row["drI_dparam"])] for row in rows]
    np.testing.assert_allclose(found, truth, rtol=rtol)


def test_gradients_of_the_volleys():
    """The finite differences agree between steps to 1e-4."""
    _check_gradients("gamma_0_100ms", "gamma", 0.0, 0.1, 1e-4)


@pytest.mark.slow
def test_gradients_of_the_steady_state():
    _check_gradients("hom_steady", "hom", 0.5, 0.6, 1e-6)


@pytest.mark.slow
def test_gradients_near_a_bifurcation():
    """The finite differences agree between steps to 2e-3; small ones among them, to less."""
    _check_gradients("default_0_100ms", "default", 0.0, 0.1, 1e-2)


@pytest.mark.parametrize("refractory", ["exact", pytest.param("published", marks=pytest.mark.slow)])
def test_reverse_mode_is_forward_mode(refractory):
    def rate(drive):
        params = eqx.tree_at(lambda p: p.drive, markov.default_parameters(), drive)
        solved = _solve(params, 0.03, voltage_bin=10.0, refractory=refractory)
        return jnp.sum(solved.rate[0]), solved.rate

    drive = jnp.array([7000.0, 7000.0])
    reverse, rates = jax.jit(jax.grad(rate, has_aux=True))(drive)
    assert np.min(np.max(rates, axis=1)) > 30
    forward = jax.jit(jax.jacfwd(lambda x: rate(x)[0]))(drive)
    assert np.all(np.abs(forward) > 1e-4)
    np.testing.assert_allclose(reverse, forward, rtol=1e-10)


def test_neurons_are_conserved_and_nodes_keep_their_weight():
    """The fluctuation of a neuron's input does not know where the neuron is, nor that it spikes."""
    params = eqx.tree_at(lambda p: p.leak, markov.default_parameters("gamma"), jnp.array([9.0, 0]))
    solved = _solved(params, 0.1, closure="coloured", num_nodes=2, voltage_bin=10.0)
    final = solved.final
    by_node = np.asarray(jnp.sum(final.count, axis=-1) + final.refractory)
    weight = np.asarray(params.size)[:, None, None] * 0.25
    np.testing.assert_allclose(by_node, np.broadcast_to(weight, by_node.shape), rtol=1e-10)
    assert np.min(final.count) > -1e-12
    assert np.mean(solved.rate) > 20
    np.testing.assert_allclose(final.spikes, np.sum(solved.rate, axis=1) * 0.01, rtol=1e-12)


@pytest.mark.slow
def test_parts_of_a_population_are_the_whole():
    """Inhibition from two halves is that from all: means and variances of counts add."""
    whole = markov.default_parameters("gamma")
    index = np.array([0, 1, 1])
    pairs = {
        name: getattr(whole, name)[index][:, index]
        for name in ("probability", "charge", "tau", "correlation_time")
    }
    parts = markov.Parameters(
        size=jnp.array([300.0, 30.0, 70.0]), **pairs, inhibitory=(False, True, True)
    )
    found, truth = (_solved(p, 0.04, voltage_bin=10.0) for p in (parts, whole))
    assert np.max(truth.rate) > 100
    np.testing.assert_allclose(found.rate, np.asarray(truth.rate)[index], rtol=1e-9, atol=1e-9)
    inhibitory = np.sum(found.mean[:, 1:], axis=1)
    np.testing.assert_allclose(inhibitory, np.asarray(truth.mean)[index, 1], rtol=1e-9, atol=1e-9)


def test_continuing_and_the_drive_in_time():
    """A drive that steps up is one solve, and another that goes on with more drive."""
    params = markov.default_parameters("hom")
    more = eqx.tree_at(
        lambda p: (p.drive, p.drive_variance),
        params,
        (params.drive * 1.5, params.drive_variance * 1.5),
    )
    first = _solved(params, 0.02, voltage_bin=10.0, save_occupancy=True)
    keywords = {"voltage_bin": 10.0, "initial": first.final, "save_occupancy": True}
    second = _solved(more, 0.02, **keywords)
    both = _solved(
        params, 0.04, voltage_bin=10.0, drive_factor=lambda t: jnp.where(t < 0.02 - 1e-9, 1.0, 1.5)
    )
    np.testing.assert_allclose(
        both.rate, np.concatenate([first.rate, second.rate], axis=1), rtol=1e-10
    )
    # What goes on with other sizes has as many neurons as these say.
    larger = _solved(eqx.tree_at(lambda p: p.size, params, params.size * 2), 0.02, **keywords)
    for solved in (first, larger):
        whole = np.sum(solved.occupancy, axis=1) + solved.refractory
        np.testing.assert_allclose(whole, 1, rtol=1e-12)


def test_voltages_have_no_origin():
    """Threshold, reset, reversal and grid 10 mV higher: the same but for the voltage."""
    params = markov.default_parameters("gamma")
    fields = {
        name: getattr(params, name)
        for name in ("size", "probability", "charge", "tau", "drive", "refractory_rate")
    }
    higher = markov.Parameters(**fields, threshold=110.0, reset=10.0, inhibitory_reversal=-56.0)
    truth = _solved(params, 0.03, voltage_bin=10.0)
    found = _solved(higher, 0.03, voltage_bin=10.0, lowest=-30.0)
    np.testing.assert_allclose(found.rate, truth.rate, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.voltage, truth.voltage + 10, rtol=1e-9)


def test_leak_without_input():
    """The mean voltage decays by 1 - dt leak a step: pieces of bins keep their means."""
    params = markov.Parameters(
        [50.0, 50.0], 0.5, 0.0, 2e-3, drive=0.0, leak=[20.0, 50.0], inhibitory=(False, True)
    )
    solved = _solved(params, 0.03, initial="uniform")
    steps = np.array([100, 200, 300])
    expected = 50 * (1 - 1e-4 * np.array([[20.0], [50.0]])) ** steps
    np.testing.assert_allclose(solved.voltage, expected, rtol=1e-5)
    np.testing.assert_allclose(solved.rate, 0, atol=1e-9)


@pytest.mark.slow
def test_no_refractoriness_is_the_limit_of_a_short_one():
    """Whoever spikes is back at once; at a rate of 1e7 Hz, one step later: 0.1 ms of 20."""
    params = markov.default_parameters("multi")
    some = eqx.tree_at(lambda p: p.refractory_rate, params, jnp.full(2, 1e7))
    none, short = (_solved(p, 0.1, voltage_bin=10.0).rate for p in (params, some))
    np.testing.assert_allclose(np.mean(short, axis=1), np.mean(none, axis=1), rtol=0.03)
    assert np.mean(none) > 20


def test_single_precision():
    params = markov.default_parameters("hom")
    single = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    found, truth = (_solved(p, 0.1, voltage_bin=10.0) for p in (single, params))
    assert found.rate.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(found.final)} == {np.dtype("float32")}
    np.testing.assert_allclose(found.rate, truth.rate, rtol=2e-3, atol=1e-3)


def test_single_precision_loses_no_spikes_in_a_long_solve():
    params = jax.tree.map(lambda x: x.astype(jnp.float32), markov.default_parameters("hom"))
    found = _solved(params, 2.0, voltage_bin=10.0, save_dt=1e-3)
    rate, pending = (jnp.mean(x[..., 1500:], axis=-1) for x in (found.rate, found.mean))
    # At the fixed point pending spikes tell the rate. A sum of all spikes from the start would be
    # rounded by the same amount at every step, and lose 8e-4 of those of the second population.
    implied = pending[0] / (params.probability[0] * params.size * params.tau[0])
    np.testing.assert_allclose(rate, implied, rtol=2e-4)


def test_errors_and_failures():
    params = markov.default_parameters()
    with pytest.raises(ValueError, match="at most half of each tau"):
        _solve(params, 0.01, dt=1e-3)
    leaking = eqx.tree_at(lambda p: p.leak, params, jnp.array([2e4, 0.0]))
    with pytest.raises(ValueError, match=r"1 / leak.*20000"):
        _solve(leaking, 0.01)
    with pytest.raises(ValueError, match="'reset', 'uniform' or a state"):
        _solve(params, 0.01, initial="middle")
    coarse = _solve(params, 0.01, voltage_bin=10.0)
    with pytest.raises(ValueError, match="same back end, closure, nodes and grid"):
        _solve(params, 0.01, initial=coarse.final)
    lost = _solve(params, 0.01, voltage_bin=10.0, drive_factor=lambda t: jnp.nan)
    assert lost.result == RESULTS.nonfinite


def _random_parameters(key, dtype):
    """Two to 1e5 neurons, charges to 50 mV, taus of 0.2 to 50 ms, ... , logarithmic where > 0."""
    keys = iter(jax.random.split(key, 20))

    def log(low, high, shape):
        x = jax.random.uniform(next(keys), shape, dtype, np.log(low), np.log(high))
        return jnp.exp(x)

    def some(x):  # a fifth are none
        return jnp.where(jax.random.bernoulli(next(keys), 0.8, x.shape), x, 0)

    pair, one = (2, 2), (2,)
    return markov.Parameters(
        size=log(2, 1e5, one),
        probability=jax.random.uniform(next(keys), pair, dtype),
        charge=some(log(1e-3, 50, pair)),
        tau=log(2e-4, 5e-2, pair),
        drive=jax.random.uniform(next(keys), one, dtype, -5e3, 5e4),
        drive_variance=some(log(1e-2, 1e5, one)),
        refractory_rate=log(10, 1e5, one),
        leak=some(log(0.1, 5e3, one)),
        correlation_time=log(1e-5, 1e-1, pair),
        inhibitory_reversal=jax.random.uniform(next(keys), (), dtype, -300, 90),
    )


def _check_random(number, seed, dtype, closure="published", **keywords):
    keys = jax.random.split(jax.random.key(seed), number)

    def solve(key):
        params = _random_parameters(key, jnp.dtype(dtype))
        solved = _solve(
            params, 0.2, save_dt=0.1, voltage_bin=10.0, closure=closure, num_nodes=2, **keywords
        )
        final = solved.final
        left = jnp.sum(final.count, axis=(1, 2, 3)) + jnp.sum(final.refractory, axis=(1, 2))
        return solved.rate, left / params.size, solved.result == RESULTS.successful

    rate, left, well = jax.jit(lambda k: jax.lax.map(solve, k, batch_size=min(number, 256)))(keys)
    assert np.all(well)
    assert np.all(np.isfinite(rate))
    assert np.min(rate) > (-1e-9 if dtype == "float64" else -0.1)  # none, to rounding
    assert np.max(rate) < 1.01e4  # at most a spike each step of 0.1 ms
    np.testing.assert_allclose(left, 1, rtol=1e-10 if dtype == "float64" else 1e-3)
    assert np.mean(rate > 1) > 0.3


def test_random_parameters_give_no_nan():
    _check_random(16, 1, "float64")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_many_random_parameters_give_no_nan(dtype):
    _check_random(1000, 2, dtype)


@pytest.mark.slow
def test_random_parameters_give_no_nan_in_other_modes():
    _check_random(200, 3, "float64", closure="coloured")
    _check_random(200, 4, "float32", closure="coloured")
