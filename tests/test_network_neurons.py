"""Integrate-and-fire neurons against closed forms and an independent adaptive integration."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.special import erfcx

from neurofield.network._adex import AdEx, AdExState
from neurofield.network._eif import EIF, EIFState
from neurofield.network._lif import LIF, LIFState
from neurofield.network._qif import QIF, QIFState
from neurofield.network._spike import draw

# Every family, a current that makes it fire, and a parameter that changes when.
FAMILIES = [
    (LIF, 30.0, "threshold", [18.0, 20.0, 22.0]),
    (EIF, 25.0, "slope", [2.0, 3.0, 4.0]),
    (QIF, 2.0, "peak", [10.0, 20.0, 40.0]),
    (AdEx, 1500.0, "capacitance", [0.2, 0.281, 0.35]),
]
families = pytest.mark.parametrize(("family", "current", "name", "values"), FAMILIES)


@partial(jax.jit, static_argnames=("dt", "num_steps"))
def hold(neuron, state, input, *, dt, num_steps):
    """States and outputs `[step, ...]` under a constant input."""

    def step(state, _):
        state, output = neuron.step(jax.random.key(0), state, input, dt)
        return state, (state, output.value)

    return jax.lax.scan(step, state, length=num_steps)[1]


def channels(neuron, current, jump=0.0):
    rows = {"current": current, "jump": jnp.full_like(current, jump)}
    return jnp.stack([rows[name] for name in neuron.channels])


def first_spikes(spikes, count):
    """Step numbers, counted from 1, of the first `count` spikes of every column."""
    return np.stack([np.flatnonzero(column)[:count] + 1 for column in np.asarray(spikes).T], 1)


# --- LIF


def lif_interval(neuron, current):
    """Seconds from reset to threshold."""
    above = (current - neuron.reset) / (current - neuron.threshold)
    return np.asarray(neuron.tau * jnp.log(above))


def lif_spikes(current, dt, num_steps):
    neuron = LIF()
    state = LIFState(jnp.full_like(current, 10.0), jnp.zeros_like(current))
    return neuron, hold(neuron, state, channels(neuron, current), dt=dt, num_steps=num_steps)[1]


def test_lif_interspike_intervals_are_the_closed_form_rounded_up_to_the_grid():
    current = jnp.array([19.9, 20.5, 23.0, 31.0, 80.0])
    neuron, spikes = lif_spikes(current, 1e-4, 5000)
    assert spikes[:, 0].sum() == 0
    first, second, third = first_spikes(spikes[:, 1:], 3)
    steps = np.ceil(lif_interval(neuron, current[1:]) / 1e-4)
    np.testing.assert_array_equal(first, steps)
    np.testing.assert_array_equal(second - first, steps + 20)
    np.testing.assert_array_equal(third - second, steps + 20)


def test_lif_intervals_converge_at_first_order_being_half_a_step_late():
    current = jax.random.uniform(jax.random.key(1), (200,), minval=21.0, maxval=40.0)
    late = []
    for dt in (4e-4, 2e-4, 1e-4):
        neuron, spikes = lif_spikes(current, dt, round(0.12 / dt))
        first, second = first_spikes(spikes, 2)
        late.append(((second - first) * dt - 0.002 - lif_interval(neuron, current)).mean() / dt)
    # A uniform delay within the step has mean 1/2 and variance 1/12.
    assert np.abs(np.array(late) - 0.5).max() < 4 / np.sqrt(12 * 200)


def siegert(mu, sigma, neuron, shift=0.0):
    low, high = ((x - mu) / sigma for x in (float(neuron.reset), float(neuron.threshold) + shift))
    passage = quad(lambda x: erfcx(-x), low, high)[0]
    return 1 / (float(neuron.refractory) + float(neuron.tau) * np.sqrt(np.pi) * passage)


def test_lif_under_white_noise_fires_at_the_siegert_rate():
    """Ornstein-Uhlenbeck steps of exact variance, so the grid's only error is that the threshold
    is looked at once a step, which acts as a threshold 0.5826 sd higher (Chernoff 1965)."""
    neuron, mu, sigma, dt, num, duration = LIF(), 16.0, 5.0, 1e-4, 1000, 3.0
    sd = float(sigma * jnp.sqrt(-jnp.expm1(-2 * dt / neuron.tau) / 2))

    @jax.jit
    def simulate(key):
        def step(carry, key):
            state, count = carry
            noise = sd / dt * jax.random.normal(key, (num,), jnp.float32)
            input = jnp.stack([jnp.full_like(noise, mu), noise])
            state, output = model.step(key, state, input, dt)
            return (state, count + output.value), None

        model = jax.tree.map(lambda x: x.astype(jnp.float32), neuron)
        keys = jax.random.split(key, round((duration + 0.2) / dt))
        start = model.init(key, (num,)), jnp.zeros(num, jnp.float32)
        state, _ = jax.lax.scan(step, start, keys[: round(0.2 / dt)])[0]
        return jax.lax.scan(step, (state, start[1]), keys[round(0.2 / dt) :])[0][1]

    rates = np.asarray(simulate(jax.random.key(3)), float) / duration
    error = rates.std(ddof=1) / np.sqrt(num)
    z = (rates.mean() - siegert(mu, sigma, neuron, 0.5826 * sd)) / error
    z_continuous = (rates.mean() - siegert(mu, sigma, neuron)) / error
    assert abs(z) < 4, z
    assert z_continuous < -6, "the check must see a bias of the order of the threshold's shift"


def test_a_jump_comes_at_the_end_of_the_step_and_is_lost_while_refractory():
    for neuron, state, decayed in [
        (LIF(), LIFState(jnp.array(4.0), jnp.array(0.0)), 4.0 * np.exp(-0.01 / 2)),
        (EIF(tau=1e9), EIFState(jnp.array(-64.0), jnp.array(0.0)), -64.0),
        (AdEx(leak=1e-9, coupling=0.0), AdExState(*jnp.array([-64.0, 0.0, 0.0])), -64.0),
    ]:
        quiet = channels(neuron, jnp.array(0.0), jump=3e4)
        moved, output = neuron.step(jax.random.key(0), state, quiet, 1e-4)
        np.testing.assert_allclose(moved.voltage, decayed + 3.0, rtol=1e-12)
        assert output.value == 0
        held = eqx.tree_at(lambda s: s.refractory, state, jnp.array(2.0))
        lost, output = neuron.step(jax.random.key(0), held, quiet, 1e-4)
        assert (lost.voltage, output.value, lost.refractory) == (neuron.reset, 0, 1)
        strong, output = neuron.step(jax.random.key(0), state, quiet * 100, 1e-4)
        assert (strong.voltage, output.value) == (neuron.reset, 1)


# --- QIF


def test_qif_intervals_are_the_closed_form_rounded_up_to_the_grid():
    neuron, dt = QIF(), 5e-5
    current = jnp.array([0.04, 1.0, 3.0, 50.0])
    state = QIFState(jnp.full_like(current, neuron.reset))
    spikes = hold(neuron, state, current[None], dt=dt, num_steps=8000)[1]
    root = np.sqrt(np.asarray(current))
    period = 0.01 / root * (np.arctan(20 / root) - np.arctan(-20 / root))
    first, second = first_spikes(spikes, 2)
    np.testing.assert_array_equal(first, np.ceil(period / dt))
    np.testing.assert_array_equal(second, 2 * first)


def test_qif_follows_its_flow_on_either_side_of_the_bifurcation():
    neuron, start = QIF(), -1.5
    current = jnp.array([-9.0, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0])
    state = QIFState(jnp.full_like(current, start))
    voltage = hold(neuron, state, current[None], dt=1e-3, num_steps=15)[0].voltage[-1]
    for I, v in zip(np.asarray(current), np.asarray(voltage), strict=True):
        flow = solve_ivp(lambda _, v, I=I: v**2 + I, (0, 1.5), [start], rtol=1e-11, atol=1e-12)
        # z = I h^2 is -0.09 at the furthest, where the continued fraction is exact in doubles.
        np.testing.assert_allclose(v, flow.y[0, -1], rtol=1e-8)


def test_a_qif_step_so_coarse_that_it_spans_the_flow_still_ends_on_the_right_side():
    """From z = -1e4 to nearly (pi/2)^2: it fires where the exact flow passes the peak in time."""
    neuron, h = QIF(), 1.0
    voltage = jnp.linspace(-19.0, 19.9, 40)
    for current in (-1e4, -30.0, -3.0, -1.0, 0.1, 1.0, 2.3):
        input = jnp.full((1, 40), current)
        state, output = neuron.step(jax.random.key(0), QIFState(voltage), input, h * 0.01)
        assert jnp.isfinite(state.voltage).all()
        s = np.sqrt(abs(current))
        angle = np.arctan if current > 0 else lambda x: -np.arctanh(1 / x)
        rises = np.asarray(voltage) > (s if current < 0 else -np.inf)  # the unstable fixed point
        needed = (angle(20 / s) - angle(np.where(rises, voltage, 20) / s)) / s if rises.any() else 0
        np.testing.assert_array_equal(output.value, rises & (needed < h))
    for current, intervals in ((20.0, 2), (1e6, 1)):
        state = QIFState(jnp.array(neuron.reset))
        spikes = hold(neuron, state, jnp.array([current]), dt=0.01, num_steps=20)[1]
        assert set(np.diff(np.flatnonzero(spikes))) == {intervals}


# --- EIF and AdEx: an independent integration, with the same rule that a spike ends its step


def exact_spikes(field, start, peak, reset, duration, dt, hold):
    """Step numbers of the spikes of dy/dt = field(y), y[0] the voltage, by DOP853 with events.

    `reset(y)`: the state after a spike. For `hold` steps after it the voltage stands still.
    """

    def event(_, y):
        return y[0] - peak

    event.terminal = True
    solve = partial(solve_ivp, method="DOP853", rtol=1e-10, atol=1e-10)
    t, y, spikes = 0.0, np.array(start), []
    while True:
        found = solve(lambda _, y: field(y), (t, duration), y, events=event)
        assert found.status >= 0, found.message
        if found.status == 0:
            return np.array(spikes)
        step = int(np.ceil(found.t_events[0][0] / dt))
        spikes.append(step)
        t, y = (step + hold) * dt, reset(found.y[:, -1])
        if hold and y.size > 1:
            stand = lambda _, y: field(y) * np.array([0.0] + [1.0] * (y.size - 1))  # noqa: E731
            y = solve(stand, (0, hold * dt), y).y[:, -1]


def eif_field(y, current):
    return (-65.0 - y + 3.48 * np.exp((np.minimum(y, -30.0) + 59.9) / 3.48) + current) / 0.01


def adex_field(y, current, leak=30.0, coupling=4.0):
    v, w = y
    dv = leak * (-70.6 - v + 2 * np.exp((min(v, -20.0) + 50.4) / 2)) - w + current
    return np.array([dv / 0.281, (coupling * (v + 70.6) - w) / 0.144])


@pytest.mark.parametrize("current", [3.0, 6.0, 20.0, 60.0])
def test_eif_spikes_at_the_steps_of_an_adaptive_integration(current):
    neuron, dt = EIF(), 1e-4
    state = EIFState(jnp.array(-68.0), jnp.array(0.0))
    input = channels(neuron, jnp.array(current))
    spikes = hold(neuron, state, input, dt=dt, num_steps=2500)[1]
    expected = exact_spikes(
        lambda y: eif_field(y, current), [-68.0], -30.0, lambda y: np.array([-68.0]), 0.25, dt, 17
    )
    assert len(expected) >= 4
    np.testing.assert_array_equal(np.flatnonzero(spikes) + 1, expected)


@pytest.mark.parametrize("refractory", [0.0, 0.003])
def test_adex_spikes_at_the_steps_of_an_adaptive_integration(refractory):
    # At the default peak, 20 mV, the upstroke is faster than DOP853 can resolve in doubles.
    neuron, dt, current = AdEx(peak=-20.0, refractory=refractory), 1e-4, 1000.0
    state = AdExState(*jnp.array([-70.6, 0.0, 0.0]))
    input = channels(neuron, jnp.array(current))
    spikes = hold(neuron, state, input, dt=dt, num_steps=4000)[1]
    expected = exact_spikes(
        lambda y: adex_field(y, current),
        [-70.6, 0.0],
        -20.0,
        lambda y: np.array([-70.6, y[1] + 80.5]),
        0.4,
        dt,
        round(refractory / dt),
    )
    # In the step of the spike w still sees the voltage before it: an error of order dt in w, which
    # may carry a spike over one border of the grid.
    found = np.flatnonzero(spikes) + 1
    assert len(found) == len(expected) >= 10
    assert np.abs(found - expected).max() <= 1


def test_eif_and_adex_converge_at_second_order_between_spikes():
    for neuron, state, current, field in [
        (EIF(), EIFState(jnp.array(-68.0), jnp.array(0.0)), 6.0, eif_field),
        (AdEx(), AdExState(*jnp.array([-70.6, 300.0, 0.0])), 800.0, adex_field),
    ]:
        y = np.array(
            [x for x in (state.voltage, getattr(state, "adaptation", None)) if x is not None]
        )
        time = 0.02
        exact = solve_ivp(lambda _, y: field(y, current), (0, time), y, rtol=1e-11, atol=1e-11)  # noqa: B023
        errors = []
        for num_steps in (100, 200, 400):
            input = channels(neuron, jnp.array(current))
            states, spikes = hold(neuron, state, input, dt=time / num_steps, num_steps=num_steps)
            assert not spikes.any()
            errors.append(float(states.voltage[-1]) - exact.y[0, -1])
        np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 4, rtol=0.05)


# --- every family


def cast(neuron, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), neuron)


@families
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_dtype_is_kept_and_the_voltage_starts_below_the_threshold(
    family, current, name, values, dtype
):
    neuron = cast(family(), dtype)
    state = neuron.init(jax.random.key(0), (50,))
    top = neuron.threshold if hasattr(neuron, "threshold") else neuron.peak
    low = neuron.rest if hasattr(neuron, "rest") else neuron.reset
    assert jnp.all((state.voltage >= low) & (state.voltage <= top))
    assert state.voltage.std() > 0
    input = channels(neuron, jnp.full(50, current, dtype))
    states, spikes = hold(neuron, state, input, dt=1e-4, num_steps=300)
    assert {x.dtype for x in jax.tree.leaves((states, spikes))} == {jnp.dtype(dtype)}
    assert jnp.all(spikes.sum(0) >= 1)
    assert jnp.all((spikes == 0) | (spikes == 1))
    assert not neuron.initial_output(state).any()


@families
def test_an_array_of_parameters_is_a_stack_of_single_neurons(family, current, name, values):
    keys = {"dt": 1e-4, "num_steps": 600}
    single = []
    for value in values:
        neuron = family(**{name: value})
        start = dataclasses.replace(neuron.init(jax.random.key(0)), voltage=neuron.reset)
        single.append(hold(neuron, start, channels(neuron, jnp.array(current)), **keys))
    stacked = jax.tree.map(lambda *x: jnp.stack(x, 1), *single)
    array = family(**{name: jnp.array(values)})
    start = dataclasses.replace(
        array.init(jax.random.key(0), (3,)), voltage=jnp.full(3, array.reset)
    )
    input = channels(array, jnp.full(3, current))
    assert len({tuple(np.flatnonzero(x)) for x in stacked[1].T}) == 3, "a parameter without effect"
    for one, other in zip(
        jax.tree.leaves(hold(array, start, input, **keys)), jax.tree.leaves(stacked), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)

    def mapped(value):
        neuron = family(**{name: value})
        start = dataclasses.replace(neuron.init(jax.random.key(0)), voltage=neuron.reset)
        return hold(neuron, start, channels(neuron, jnp.array(current)), **keys)[1]

    np.testing.assert_array_equal(jax.vmap(mapped)(jnp.array(values)).T, stacked[1])


@families
def test_extreme_input_and_steep_slopes_stay_finite_in_float32(family, current, name, values):
    steep = {"slope": jnp.array(0.05)} if name in ("slope", "capacitance") else {}
    neuron = cast(family(spike_gradient="surrogate", **steep), jnp.float32)
    current = jnp.array([-1e9, -1e5, -10.0, 10.0, 1e5, 1e9], jnp.float32)
    state = neuron.init(jax.random.key(0), (6,))

    @jax.jit
    def total(current):
        input = channels(neuron, current)
        states, spikes = hold(neuron, state, input, dt=1e-3, num_steps=40)
        return spikes.sum(), (states, spikes)

    gradient, (states, spikes) = jax.grad(total, has_aux=True)(current)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((gradient, states)))
    assert jnp.all(spikes[:, :2] == 0)
    refractory = getattr(neuron, "refractory", jnp.zeros(()))
    assert int(spikes[:, -1].sum()) == np.ceil(40 / (1 + round(float(refractory) / 1e-3)))


@families
def test_a_default_spike_has_no_derivative_and_a_surrogate_has(family, current, name, values):
    def total(value, mode):
        neuron = family(**{name: value}, spike_gradient=mode)
        state = dataclasses.replace(neuron.init(jax.random.key(0)), voltage=neuron.reset)
        input = channels(neuron, jnp.array(current))
        return hold(neuron, state, input, dt=1e-4, num_steps=400)[1].sum()

    value = jnp.array(values[1])
    with pytest.raises(TypeError, match="no derivative"):
        jax.grad(total)(value, "error")
    assert jax.grad(total)(value, "score") == 0
    gradient = jax.grad(total)(value, "surrogate")
    assert jnp.isfinite(gradient)
    assert gradient != 0


def test_the_surrogate_is_the_fast_sigmoid_of_the_distance_to_the_threshold():
    neuron = LIF(spike_gradient="surrogate", surrogate_width=2.0)
    state = LIFState(jnp.array(17.0), jnp.array(0.0))

    def spike(current):
        input = jnp.stack([current, jnp.zeros(())])
        return neuron.step(jax.random.key(0), state, input, 0.001)[1].value

    decay = np.exp(-1 / 20)
    distance = 20 - (30 + (17 - 30) * decay)
    expected = (1 - decay) / (2 * 2.0) / (1 + distance / 2) ** 2
    np.testing.assert_allclose(jax.grad(spike)(jnp.array(30.0)), expected, rtol=1e-12)


def test_spikes_that_do_not_depend_on_a_parameter_let_it_be_differentiated():
    neuron = LIF()
    state = LIFState(jnp.array(10.0), jnp.array(0.0))

    @jax.jit
    def readout(weight):
        input = channels(neuron, jnp.array(30.0))
        return weight * hold(neuron, state, input, dt=1e-4, num_steps=400)[1].sum()

    assert jax.grad(readout)(jnp.array(2.0)) == readout(jnp.array(1.0)) > 0


@families
def test_the_coarsest_step_keeps_the_rate_within_the_grid(family, current, name, values):
    """At `max_dt` intervals are those of a step 50 times finer, rounded up to the coarse grid."""
    neuron = family()
    coarse = float(neuron.max_dt())
    state = dataclasses.replace(neuron.init(jax.random.key(0)), voltage=neuron.reset)
    input = channels(neuron, jnp.array(current))
    first = [
        np.flatnonzero(hold(neuron, state, input, dt=dt, num_steps=round(0.1 / dt))[1])[0] + 1
        for dt in (coarse, coarse / 50)
    ]
    assert first[0] == np.ceil(first[1] / 50)


@pytest.mark.parametrize(
    ("family", "name"),
    [(LIF, "tau"), (EIF, "slope"), (QIF, "tau"), (AdEx, "leak"), (AdEx, "capacitance")],
)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.array([1.0, 0.0])])
def test_a_constant_that_must_be_positive_is(family, name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite and positive"):
        family(**{name: value})


# --- sampled spikes


def test_a_small_probability_is_drawn_in_float32_at_its_true_frequency():
    """2^27 draws at 2^-26: 2 expected. A uniform number with 23 bits would give 16."""
    draws = jax.jit(lambda key: draw(key, jnp.full(2**22, 2.0**-26, jnp.float32), "error").sum())
    count = sum(int(draws(jax.random.key(seed))) for seed in range(32))
    assert count <= 8  # 2.4e-4 of Poisson(2) is above


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_sure_spike_is_sure(dtype):
    p = jnp.array([0.0, 0.25, 1.0], dtype)
    spikes = draw(jax.random.key(0), jnp.broadcast_to(p[:, None], (3, 2**20)), "error")
    assert spikes.dtype == dtype
    mean = np.asarray(spikes.mean(1), float)
    assert (mean[0], mean[2]) == (0, 1)
    assert abs(mean[1] - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2**20)
