"""Neurons with conductances, recovery or gates, against closed forms and an adaptive solver."""

from fractions import Fraction
from functools import partial
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from neurofield.network._conductance_lif import ConductanceLIF, ConductanceLIFState
from neurofield.network._exprel import exprel
from neurofield.network._hodgkin_huxley import HodgkinHuxley, HodgkinHuxleyState
from neurofield.network._izhikevich import Izhikevich, IzhikevichState


@partial(jax.jit, static_argnames=("dt", "num_steps"))
def hold(neuron, state, input, *, dt, num_steps):
    """States and spikes `[step, ...]` under a constant input."""

    def step(state, _):
        state, output = neuron.step(jax.random.key(0), state, input, dt)
        return state, (state, output.value)

    return jax.lax.scan(step, state, length=num_steps)[1]


def order(errors):
    """Of convergence, where the step halves from each error to the next."""
    return np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))


@pytest.mark.parametrize("x", [0.0, 1e-9, -1e-4, 0.009, -0.0099, 0.0101, -0.02, 0.5, -3.0, 4.0])
def test_exprel_and_its_derivative_are_accurate_through_zero(x):
    exact = Fraction(x)
    series = [exact**k / factorial(k + 1) for k in range(60)]
    slopes = [k * exact ** (k - 1) / factorial(k + 1) for k in range(1, 60)]
    value, slope = jax.value_and_grad(exprel)(x)
    np.testing.assert_allclose(value, float(sum(series)), rtol=1e-14)
    np.testing.assert_allclose(slope, float(sum(slopes)), rtol=1e-12)


# --- conductance LIF


def test_conductance_lif_follows_its_closed_form_at_any_step():
    neuron = ConductanceLIF()
    current, ge, gi = jnp.array([0.0, 90.0]), jnp.array([0.7, 0.0]), jnp.array([3.0, 0.0])
    state = ConductanceLIFState(jnp.array([-75.0, -61.0]), jnp.zeros(2))
    g = 10 + np.array([0.7 + 3.0, 0.0])
    target = (10 * -60 + np.array([3.0 * -80, 90.0])) / g
    for dt, steps in ((1e-4, 300), (1e-2, 3)):
        input = jnp.stack([current, ge, gi])
        states, spikes = hold(neuron, state, input, dt=dt, num_steps=steps)
        assert spikes.sum() == 0
        expected = target + (np.array([-75.0, -61.0]) - target) * np.exp(-0.03 * g / 0.2)
        np.testing.assert_allclose(states.voltage[-1], expected, rtol=1e-12)


def test_conductance_lif_rate_is_the_closed_form():
    dt = 1e-4
    current = jnp.array([150.0, 0.0, 300.0, -50.0])
    ge, gi = jnp.array([0.0, 6.0, 9.0, 20.0]), jnp.array([0.0, 0.0, 8.0, 11.0])
    neuron = ConductanceLIF()
    state = ConductanceLIFState(jnp.full(4, -60.0), jnp.zeros(4))
    _, spikes = hold(neuron, state, jnp.stack([current, ge, gi]), dt=dt, num_steps=4000)
    g = 10.0 + np.asarray(ge + gi)
    target = (-600.0 + np.asarray(current) - 80 * np.asarray(gi)) / g
    rise = 0.2 / g * np.log((target + 60) / (target + 50))
    steps = np.ceil(rise / dt) + 50  # the threshold is tested at the ends of steps
    for i in range(4):
        when = np.flatnonzero(spikes[:, i])
        assert len(when) > 5
        np.testing.assert_array_equal(np.diff(when), steps[i])


# --- Izhikevich


def izhikevich(t, y, a, b, current):
    v, u = y
    return 0.04 * v * v + 5 * v + 140 - u + current, a * (b * v - u)


def izhikevich_spikes(a, b, c, d, current, duration):
    """Spike times in ms and the state at the end, by an adaptive solver, from (-65, -65 b)."""

    def reach(t, y, *args):
        return y[0] - 30

    reach.terminal = True
    t, y, times = 0.0, np.array([-65.0, -65.0 * b]), []
    while t < duration:
        out = solve_ivp(
            izhikevich, (t, duration), y, "DOP853", args=(a, b, current), events=reach,
            rtol=1e-10, atol=1e-10,
        )  # fmt: skip
        t, y = out.t[-1], out.y[:, -1]
        if out.status == 1:
            times.append(t)
            y = np.array([c, y[1] + d])
    return np.array(times), y


TYPES = {"regular": (0.02, 0.2, -65.0, 8.0), "chattering": (0.02, 0.2, -50.0, 2.0),
         "fast": (0.1, 0.2, -65.0, 2.0)}  # fmt: skip


def run_izhikevich(kind, current, dt, duration):
    a, b, c, d = TYPES[kind]
    neuron = Izhikevich(a=a, b=b, reset=c, increment=d)
    state = IzhikevichState(jnp.array([-65.0]), jnp.array([-65.0 * b]))
    input = jnp.array([[current], [0.0]])
    states, spikes = hold(neuron, state, input, dt=dt, num_steps=round(duration / dt))
    return states, np.asarray(spikes)[:, 0]


def test_izhikevich_is_second_order_between_spikes():
    a, b, c, d = TYPES["regular"]
    times, end = izhikevich_spikes(a, b, c, d, 10.0, 3.0)
    assert len(times) == 0
    errors = []
    for dt in (5e-5, 2.5e-5, 1.25e-5):
        states, _ = run_izhikevich("regular", 10.0, dt, 3e-3)
        errors.append([abs(states.voltage[-1, 0] - end[0]), abs(states.recovery[-1, 0] - end[1])])
    assert (np.abs(order(errors) - 2) < 0.1).all(), (errors, order(errors))
    assert errors[-1][0] < 0.02


@pytest.mark.parametrize("kind", TYPES)
def test_izhikevich_spike_times_converge_to_an_adaptive_solution(kind):
    a, b, c, d = TYPES[kind]
    times, _ = izhikevich_spikes(a, b, c, d, 10.0, 100.0)
    assert len(times) > 2
    errors = []
    for dt in (1e-5, 2e-6):
        _, spikes = run_izhikevich(kind, 10.0, dt, 0.1)
        found = (np.flatnonzero(spikes) + 1) * dt * 1e3
        assert abs(len(found) - len(times)) <= 1
        n = min(len(found), len(times))
        errors.append(np.abs(found[:n] - times[:n]).max())
    # Every reset is at most a step late, and the next spike later by as much or so.
    assert errors[1] < 3 * len(times) * 2e-3, errors
    assert errors[1] < errors[0] / 2.5, errors


def test_izhikevich_reset_and_jump():
    neuron = Izhikevich()
    state = IzhikevichState(jnp.array([-65.0, 28.0]), jnp.array([-13.0, 1.0]))
    at_rest, _ = neuron.step(jax.random.key(0), state, jnp.zeros((2, 2)), 1e-4)
    jump = jnp.array([[0.0, 0.0], [70.0, 0.0]])
    jumped, output = neuron.step(jax.random.key(0), state, jump, 1e-4)
    np.testing.assert_allclose(jumped.voltage[0] - at_rest.voltage[0], 70 * 1e-4, rtol=1e-9)
    np.testing.assert_array_equal(output.value, [0, 1])
    assert jumped.voltage[1] == -65
    du = 0.1 * 0.02 * (0.2 * 28 - 1)  # and the increment; to first order in dt
    np.testing.assert_allclose(jumped.recovery[1], 1 + du + 8, atol=2e-2)


# --- Hodgkin-Huxley


def traub_miles(v):
    """Opening and closing rates per ms of m, h, n as they are printed (Brette et al. 2007)."""
    u = v + 63.0
    m = 0.32 * (13 - u) / (np.exp((13 - u) / 4) - 1), 0.28 * (u - 40) / (np.exp((u - 40) / 5) - 1)
    h = 0.128 * np.exp((17 - u) / 18), 4 / (1 + np.exp((40 - u) / 5))
    n = 0.032 * (15 - u) / (np.exp((15 - u) / 5) - 1), 0.5 * np.exp((10 - u) / 40)
    return m, h, n


def steady(v):
    return [a / (a + b) for a, b in traub_miles(v)]


def hodgkin_huxley(t, y, current, ge, gi):
    """Time in ms, conductances in nS, capacitance 200 pF."""
    v, *gates = y
    (m, h, n), rates = gates, traub_miles(v)
    flow = 10 * (-65 - v) + 20000 * m**3 * h * (50 - v) + 6000 * n**4 * (-90 - v)
    flow += ge * (0 - v) + gi * (-80 - v) + current
    return [flow / 200, *(a * (1 - x) - b * x for x, (a, b) in zip(gates, rates, strict=True))]


def hh_state(v):
    return HodgkinHuxleyState(*(jnp.array([x]) for x in (v, *steady(v))))


INPUTS = [(300.0, 0.0, 0.0), (250.0, 12.0, 20.0)]


@pytest.mark.parametrize("inputs", INPUTS)
def test_hodgkin_huxley_is_second_order_through_spikes(inputs):
    duration, start = 20.0, -66.0
    exact = solve_ivp(
        hodgkin_huxley, (0, duration), [start, *steady(start)], "DOP853", args=inputs,
        rtol=1e-11, atol=1e-11, dense_output=True,
    ).sol  # fmt: skip
    assert exact(np.linspace(0, duration, 2001))[0].max() > 20  # there was a spike
    errors = []
    for dt in (2e-5, 1e-5, 5e-6):
        input = jnp.array(inputs)[:, None]
        states, _ = hold(
            HodgkinHuxley(), hh_state(start), input, dt=dt, num_steps=round(duration / dt / 1e3)
        )
        gates = exact(duration - dt * 1e3 / 2)[1:]  # half a step behind
        reached = [states.voltage, states.m, states.h, states.n]
        wanted = [exact(duration)[0], *gates]
        errors.append([abs(x[-1, 0] - y) for x, y in zip(reached, wanted, strict=True)])
    assert (np.abs(order(errors) - 2) < 0.1).all(), (errors, order(errors))
    assert errors[-1][0] < 0.005


def test_hodgkin_huxley_spikes_once_for_each_action_potential():
    def up(t, y, *args):
        return y[0]

    up.direction = 1
    exact = solve_ivp(
        hodgkin_huxley, (0, 100), [-65.0, *steady(-65.0)], "DOP853", args=(500.0, 0.0, 0.0),
        events=up, rtol=1e-10, atol=1e-10,
    ).t_events[0]  # fmt: skip
    assert len(exact) > 4
    input = jnp.array([[500.0], [0.0], [0.0]])
    steps_ms, errors = (0.05, 0.025, 0.0125), []
    for dt in steps_ms:
        num_steps = round(100 / dt)
        _, spikes = hold(HodgkinHuxley(), hh_state(-65.0), input, dt=dt / 1e3, num_steps=num_steps)
        times = (np.flatnonzero(spikes) + 1) * dt
        assert len(times) == len(exact)
        errors.append(np.abs(times - exact).max())
    # Second order, but for the grid that spikes are stamped on.
    assert errors[0] < 0.003 * 100
    for i in (1, 2):
        assert errors[i] < (errors[0] + steps_ms[0]) / 4**i + steps_ms[i], errors


def test_hodgkin_huxley_rests_where_the_currents_cancel():
    rest = brentq(lambda v: hodgkin_huxley(0, [v, *steady(v)], 0, 0, 0)[0], -75, -60, xtol=1e-13)
    neuron = HodgkinHuxley()
    state = neuron.init(jax.random.key(3), (2,))
    assert ((state.voltage > -70) & (state.voltage < -60)).all()
    assert state.voltage[0] != state.voltage[1]
    np.testing.assert_allclose(state.m, steady(np.asarray(state.voltage))[0], rtol=1e-12)
    states, spikes = hold(neuron, state, jnp.zeros((3, 2)), dt=5e-5, num_steps=10000)
    assert spikes.sum() == 0
    np.testing.assert_allclose(states.voltage[-1], rest, rtol=1e-9)
    np.testing.assert_allclose([states.m[-1, 0], states.h[-1, 0], states.n[-1, 0]], steady(rest))


def test_hodgkin_huxley_rates_are_smooth_at_their_removable_singularities():
    def rate(gate, which):
        return lambda v: HodgkinHuxley()._rates(v)[gate][which]

    # 0.32 x 4, 0.28 x 5 and 0.032 x 5 per ms, and half of 0.32, 0.28 and 0.032 per ms and mV.
    for function, v, value, slope in (
        (rate(0, 0), -50.0, 1280, 160),
        (rate(0, 1), -23.0, 1400, -140),
        (rate(2, 0), -48.0, 160, 16),
    ):
        np.testing.assert_allclose(jax.value_and_grad(function)(v), (value, slope), rtol=1e-13)
    v = np.linspace(-100, 60, 97) + 0.123
    for ours, printed in zip(HodgkinHuxley()._rates(jnp.asarray(v)), traub_miles(v), strict=True):
        np.testing.assert_allclose(np.stack(ours), 1e3 * np.stack(printed), rtol=1e-11)


@jax.jit
def voltage_after(current, sodium, inhibition):
    neuron = HodgkinHuxley(sodium=sodium, spike_gradient="score")
    input = jnp.stack([current, jnp.zeros(()), inhibition])[:, None]
    return hold(neuron, hh_state(-65.0), input, dt=5e-5, num_steps=150)[0].voltage[-1, 0]


@pytest.mark.parametrize("current", [100.0, 600.0], ids=["below threshold", "through spikes"])
def test_hodgkin_huxley_voltage_has_its_exact_derivative(current):
    point = [jnp.asarray(x) for x in (current, 20e3, 5.0)]
    slopes = jax.jit(jax.grad(voltage_after, argnums=(0, 1, 2)))(*point)
    for i, slope in enumerate(slopes):
        h = 1e-4 * point[i]

        def difference(h, i=i):
            ends = (voltage_after(*point[:i], point[i] + e, *point[i + 1 :]) for e in (h, -h))
            return (next(ends) - next(ends)) / (2 * h)

        # Central differences without their error of order h^2; rounding leaves 1e-13 V / h.
        exact = (4 * difference(h / 2) - difference(h)) / 3
        np.testing.assert_allclose(slope, exact, rtol=2e-6)
        assert slope != 0


def test_hodgkin_huxley_spikes_have_no_derivative_unasked():
    def spikes(current, mode):
        neuron = HodgkinHuxley(spike_gradient=mode)
        input = jnp.stack([current, jnp.zeros(()), jnp.zeros(())])[:, None]
        return neuron.step(jax.random.key(0), hh_state(-1.0), input, 5e-5)[1].value.sum()

    with pytest.raises(TypeError, match="no derivative"):
        jax.grad(spikes)(jnp.asarray(300.0), "error")
    assert jax.grad(spikes)(jnp.asarray(300.0), "score") == 0
    assert jax.grad(spikes)(jnp.asarray(300.0), "surrogate") > 0
