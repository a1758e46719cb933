"""The differential equations of the reduction: fluxes, chains, solver, closures, invariants."""

import dataclasses

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import erfcx

from neurofield import markov
from neurofield.markov._closure import gauss_hermite_chain
from neurofield.markov._finite_volume import bernoulli, tridiagonal
from neurofield.markov._ode import Field, initial_state
from neurofield.markov._rosenbrock import RosenbrockW

# Finite volumes of cells of 1 mV in steps of 0.025 ms, by the note's own program
# (fokker_planck_fv.csv): E and I in hertz, stationary but for gamma.
PUBLISHED = {"hom": (14.79, 44.81), "async": (1.35, 28.65)}
WHITE = {"hom": (29.77, 62.86), "async": (7.17, 35.26)}  # correlation_time = 2 tau
# The spiking network, 8 runs of 2 s with dt = 0.1 ms (reference_stats.csv): mean, sd of a run.
SPIKING = {
    "default": ((47.518, 65.952), (0.471, 0.389)),
    "gamma": ((67.237, 80.221), (0.354, 0.391)),
    "syn": ((22.169, 52.299), (0.232, 0.219)),
    "reg": ((20.781, 50.835), (0.179, 0.182)),
    "hom": ((19.551, 49.527), (0.243, 0.197)),
    "async": ((4.759, 32.286), (0.064, 0.063)),
    "meta": ((10.843, 38.580), (0.323, 0.216)),
}


COARSE = {"voltage_bin": 4.0, "rtol": 1e-6, "atol": 1e-9, "save_occupancy": True}


@eqx.filter_jit
def solved(params, duration=0.6, **keywords):
    return markov.solve(params, duration, initial="uniform", **keywords)


def late(solution, start=0.4):
    return np.asarray(solution.rate)[:, round(start / solution.save_dt) :].mean(1)


# --- the chain of synaptic nodes ------------------------------------------------------------------


@pytest.mark.parametrize("num_nodes", [2, 3, 4, 7])
def test_chain_is_a_gaussian_process_as_far_as_its_nodes_go(num_nodes):
    chain = gauss_hermite_chain(num_nodes)
    off = chain.generator - np.diag(np.diag(chain.generator))
    assert (off >= 0).all()
    np.testing.assert_allclose(chain.generator.sum(axis=0), 0, atol=1e-12)
    flow = chain.generator * chain.weight[None]
    np.testing.assert_allclose(flow, flow.T, atol=1e-13)
    factorials = [1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395, 0]
    for order in range(2 * num_nodes):
        moment = np.sum(chain.weight * chain.value**order)
        np.testing.assert_allclose(moment, factorials[order], atol=1e-9 * 4**num_nodes)
    # E[z(t) z(0)] = exp(-t) at every lag.
    for lag in (0.1, 1.0, 3.0):
        over = chain.left @ np.diag(np.exp(-lag * chain.decay)) @ chain.right
        np.testing.assert_allclose(over.sum(axis=0), 1, atol=1e-12)
        covariance = chain.value @ over @ (chain.weight * chain.value)
        np.testing.assert_allclose(covariance, np.exp(-lag), rtol=1e-12)


# --- fluxes and linear algebra --------------------------------------------------------------------


def test_bernoulli_function_and_its_derivative():
    x = np.array([-700, -30, -1, -0.11, -0.09, -1e-9, 0, 1e-9, 0.09, 0.11, 1, 30, 79, 81, 700.0])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        exact = np.where(np.abs(x) < 1e-5, 1 - x / 2, x / np.expm1(x))
        small = -0.5 + x / 6 - x**3 / 180 + x**5 / 5040 - x**7 / 151200
        slope = np.where(
            np.abs(x) < 0.2,
            small,
            1 / np.expm1(x) - x / (4 * np.sinh(np.clip(x, -700, 700) / 2) ** 2 + 1e-300),
        )
    np.testing.assert_allclose(bernoulli(jnp.asarray(x)), exact, rtol=1e-13, atol=1e-30)
    found = jax.vmap(jax.grad(bernoulli))(jnp.asarray(x))
    np.testing.assert_allclose(found, slope, rtol=1e-10, atol=1e-28)


def test_tridiagonal_solve_and_its_derivatives():
    key = jax.random.key(0)
    lower, upper, right = (
        jax.random.uniform(k, (2, n))
        for k, n in zip(jax.random.split(key, 3), (5, 5, 6), strict=True)
    )
    diagonal = 1 + jnp.pad(lower, [(0, 0), (0, 1)]) + jnp.pad(upper, [(0, 0), (1, 0)])

    def by_scan(lower, upper, right):
        return tridiagonal(-lower, diagonal, -upper)(right)

    def dense(lower, upper, right):
        def one(lower, diagonal, upper, right):
            matrix = jnp.diag(diagonal) - jnp.diag(lower, -1) - jnp.diag(upper, 1)
            return jnp.linalg.solve(matrix, right)

        return jax.vmap(one)(lower, diagonal, upper, right)

    weights = jnp.cos(jnp.arange(12.0)).reshape(2, 6)
    for derivative in (jax.jacfwd, jax.jacrev):
        found, wanted = (
            derivative(lambda *a, f=f: jnp.sum(weights * f(*a)), argnums=(0, 1, 2))(
                lower, upper, right
            )
            for f in (by_scan, dense)
        )
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(by_scan(lower, upper, right), dense(lower, upper, right), rtol=1e-13)


@pytest.mark.parametrize(
    "matrix", ["none", "jacobian", pytest.param("wrong", marks=pytest.mark.slow)]
)
def test_solver_is_of_order_three_with_any_matrix(matrix):
    """The Lotka-Volterra equations against a tight reference."""
    used = {
        "none": lambda y: jnp.zeros((2, 2)),
        "jacobian": jax.jacfwd(lambda y: right(0.0, y, None)),
        "wrong": lambda y: jnp.array([[-1.0, 2.0], [0.5, 0.3]]) * y[0],
    }[matrix]

    def right(t, y, args):
        return jnp.stack([y[0] * (1 - y[1]), y[1] * (y[0] - 1) + 0.1 * jnp.sin(t)])

    def linearise(t, y, args, step):
        return right(t, y, args), lambda b: jnp.linalg.solve(jnp.eye(2) - step * used(y), b)

    def end(solver, dt):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(right), solver, 0.0, 2.0, dt, jnp.array([1.5, 0.7]), max_steps=10_000
        ).ys[0]

    exact = end(diffrax.Dopri8(), 1e-3)
    errors = [np.abs(end(RosenbrockW(linearise), 2.0**-n) - exact).max() for n in (4, 5, 6)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 2.7).all(), orders


# --- one population -------------------------------------------------------------------------------


def single(leak, drive, variance, refractory_rate=250.0):
    """Neurons without synapses."""
    return markov.Parameters(
        1,
        0,
        0,
        1e-3,
        inhibitory=(False,),
        drive=drive,
        drive_variance=variance,
        leak=leak,
        refractory_rate=refractory_rate,
    )


def test_perfect_integrator_fires_at_its_drift_over_its_distance():
    found = solved(single(0.0, 7000.0, 7000.0), 1.0, closure="published")
    # The mean first passage over 100 mV takes 100 / 7000 s whatever the noise. With cells of 1 mV
    # the spread of a first-order scheme is a cell's, and the mean keeps half a cell at most.
    np.testing.assert_allclose(late(found), 1 / (100 / 7000 + 4e-3), rtol=5e-3)
    none = solved(single(0.0, 7000.0, 7000.0, np.inf), 1.0, closure="published")
    np.testing.assert_allclose(late(none), 70.0, rtol=5e-3)


@pytest.mark.slow
def test_leaky_integrator_fires_at_siegerts_rate():
    leak, drive, variance = 50.0, 4500.0, 2e4
    mean, sd = drive / leak, np.sqrt(variance / (2 * leak))
    bounds = (0 - mean) / (np.sqrt(2) * sd), (100 - mean) / (np.sqrt(2) * sd)
    passage = np.sqrt(np.pi) / leak * quad(lambda u: erfcx(-u), *bounds)[0]
    exact = 1 / (4e-3 + passage)
    coarse, fine = (
        late(solved(single(leak, drive, variance), 1.0, closure="published", voltage_bin=h))[0]
        for h in (2.0, 1.0)
    )
    assert abs(fine / exact - 1) < 1e-3
    assert abs(fine - exact) < abs(coarse - exact)  # and it converges


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("regime", PUBLISHED)
def test_published_closure_gives_the_notes_finite_volumes(regime):
    params = markov.default_parameters(regime)
    np.testing.assert_allclose(
        late(solved(params, closure="published")), PUBLISHED[regime], rtol=0.01
    )
    white = eqx.tree_at(lambda p: p.correlation_time, params, 2 * params.tau)
    np.testing.assert_allclose(late(solved(white, closure="published")), WHITE[regime], rtol=0.01)


def test_neurons_are_conserved_and_never_negative():
    found = solved(markov.default_parameters("default"), 0.03, **COARSE)
    total = np.sum(found.occupancy, axis=1) + np.asarray(found.refractory)
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-10)
    # The scheme is positive in the limit of small steps; a step's own error is atol.
    assert np.min(found.occupancy) > -1e-6
    assert np.min(found.rate) > -1e-6


@pytest.mark.slow
def test_a_population_split_in_two_is_the_same_network():
    params = markov.default_parameters("hom")
    both = np.array([0, 0, 1])
    split = markov.Parameters(
        params.size[both] * np.array([0.5, 0.5, 1.0]),
        *(getattr(params, name)[both][:, both] for name in ("probability", "charge", "tau")),
        refractory_rate=500.0,
        inhibitory=(False, False, True),
        names=("E1", "E2", "I"),
    )
    whole, parts = (solved(p, 0.03, **COARSE) for p in (params, split))
    np.testing.assert_allclose(parts.rate[0], parts.rate[1], rtol=1e-9)
    np.testing.assert_allclose(parts.rate[1:], whole.rate, rtol=1e-3, atol=1e-3)


class Step(eqx.Module):
    """A drive that steps from 1 to `after` at `time` seconds."""

    time: jax.Array
    after: jax.Array

    def __call__(self, time):
        return jnp.where(time < self.time, 1.0, self.after)


@eqx.filter_jit
def driven(params, duration, initial, step):
    keywords = {"closure": "published", "voltage_bin": 4.0, "rtol": 1e-6, "atol": 1e-9}
    return markov.solve(params, duration, initial=initial, drive_factor=step, **keywords)


@pytest.mark.slow
def test_drive_in_time_and_a_solve_that_goes_on():
    params = markov.default_parameters("async")
    grid = markov.voltage_grid(params, 4.0)
    start = initial_state(params, grid, gauss_hermite_chain(1), "uniform")
    after = jnp.array([1.0, 1.5])
    plain = driven(params, 0.05, start, Step(jnp.array(1.0), after))
    step = driven(params, 0.05, start, Step(jnp.array(0.03), after))
    np.testing.assert_allclose(step.rate[:, :29], plain.rate[:, :29], rtol=1e-3, atol=1e-3)
    assert np.all(step.rate[1, 35:] > 1.1 * plain.rate[1, 35:])
    # An interruption at 50 ms changes nothing: a step at 80 ms is one at 30 ms of the second run.
    second = driven(params, 0.05, plain.final, Step(jnp.array(0.03), after))
    whole = driven(params, 0.1, start, Step(jnp.array(0.08), after))
    np.testing.assert_allclose(second.rate, whole.rate[:, 50:], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_pulse_of_the_drive_is_not_stepped_over():
    # At rest the steps of the integration would grow beyond 100 ms.
    params = markov.default_parameters("hom")
    keywords = {"closure": "published", "voltage_bin": 10.0}
    rest = markov.equilibrium(params, **keywords)

    def pulse(t):
        return jnp.where((t > 0.15) & (t < 0.152), 1.5, 1.0)

    rate = eqx.filter_jit(markov.solve)(
        params, 0.2, initial=rest.state, drive_factor=pulse, **keywords
    ).rate
    np.testing.assert_allclose(rate[:, :150], jnp.repeat(rest.rate[:, None], 150, 1), rtol=1e-3)
    assert np.all(jnp.max(rate[:, 150:], axis=1) > 1.2 * rest.rate)


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("closure", ["published", "coloured"])
def test_gradient_of_the_field(closure):
    """All of the right-hand side, against finite differences, in every parameter at once."""
    params = markov.default_parameters("hom")
    params = dataclasses.replace(params, leak=jnp.array([10.0, 20.0]))
    grid = markov.voltage_grid(params, 10.0)
    make = lambda p: Field(p, None, grid, closure, 3)  # noqa: E731
    start = initial_state(params, grid, make(params).nodes, "uniform")
    moments = markov.Moments(jnp.full((2, 2), 5.0), jnp.full((2, 2), 3.0))
    start = eqx.tree_at(
        lambda s: [s.moments, s.refractory], start, [moments, start.refractory + 0.05]
    )
    weights = jax.tree.map(
        lambda x: jnp.cos(jnp.arange(x.size, dtype=float)).reshape(x.shape), start
    )

    @jax.jit
    def value(params):
        slope = make(params)(0.0, start)
        return sum(
            jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (slope, weights)), strict=True)
        )

    gradient = jax.jit(jax.grad(value))(params)
    slope = jax.tree.leaves(make(params)(0.0, start))
    size = sum(float(jnp.sum(jnp.abs(x))) for x in slope)
    silent = {"correlation_time"} if closure == "coloured" else set()
    for name in (f for f in vars(params) if eqx.is_array(getattr(params, f))):
        leaf = getattr(params, name)
        for index in np.ndindex(leaf.shape):
            step = 1e-6 * abs(float(leaf[index]))
            up, down = (
                value(dataclasses.replace(params, **{name: leaf.at[index].add(sign * step)}))
                for sign in (1, -1)
            )
            found = float(getattr(gradient, name)[index])
            wanted = float(up - down) / (2 * step)
            # Rounding of the sums over the step comes on top of the quotient's own error.
            noise = 1e-14 * size / step
            np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=noise, err_msg=name)
            assert (found == 0) == (name in silent), (name, index)


@pytest.mark.slow
def test_forward_and_reverse_mode_agree_with_differences_through_a_solve():
    params = markov.default_parameters("hom")
    keywords = {"closure": "published", "voltage_bin": 5.0, "rtol": 1e-7, "atol": 1e-10}

    def rate(charge, adjoint="reverse"):
        changed = eqx.tree_at(lambda p: p.charge, params, params.charge.at[0, 0].set(charge))
        found = markov.solve(changed, 0.03, initial="uniform", adjoint=adjoint, **keywords)
        return jnp.mean(found.rate[0])

    slope = jax.jit(jax.grad(rate))(5.0)
    _, tangent = jax.jit(lambda c: jax.jvp(lambda c: rate(c, "forward"), (c,), (1.0,)))(5.0)
    np.testing.assert_allclose(slope, tangent, rtol=1e-9)
    up, down = jax.jit(jax.vmap(rate))(jnp.array([5.0 + 1e-3, 5.0 - 1e-3]))
    np.testing.assert_allclose(slope, (up - down) / 2e-3, rtol=1e-4)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"backend": "sde"}, "backend must be one of"),
        ({"backend": "markov"}, "needs a key"),
        ({"key": jax.random.key(0)}, "takes no key"),
        ({"closure": "white"}, "closure must be"),
        ({"num_nodes": 1}, "at least 2"),
        ({"voltage_bin": 3.0}, "must divide"),
        ({"lowest": 5.0}, "must divide"),
        ({"initial": "somewhere"}, "initial must be"),
        ({"save_dt": 0.03}, "multiple of save_dt"),
        ({"backend": "map", "save_dt": 1.5e-4, "dt": 1e-4}, "multiple of"),
        ({"adjoint": "backsolve"}, "adjoint must be"),
    ],
)
def test_bad_arguments_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        markov.solve(markov.default_parameters(), 0.1, **keywords)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"probability": 1.2}, "probability must lie"),
        ({"charge": -1.0}, "charge must be"),
        ({"tau": 0.0}, "tau must be"),
        ({"size": [1.0, 2.0, 3.0]}, "broadcast"),
        ({"refractory_rate": 0.0}, "refractory_rate must be positive"),
        ({"names": ("E", "E")}, "different names"),
        ({"reset": 100.0}, "not below threshold"),
        ({"inhibitory_reversal": 100.0}, "not below threshold"),
        ({"inhibitory_reversal": -np.inf}, "inhibitory_reversal must be finite"),
        ({"threshold": np.inf}, "threshold must be finite"),
    ],
)
def test_bad_parameters_are_named(changed, message):
    plain = {"size": [300.0, 100.0], "probability": 0.5, "charge": 1.0, "tau": 1e-3}
    with pytest.raises(ValueError, match=message):
        markov.Parameters(**(plain | changed))


@pytest.mark.slow
def test_an_end_before_the_end_is_said():
    params = markov.default_parameters()
    keywords = {"closure": "published", "voltage_bin": 5.0, "max_steps": 10}
    with pytest.raises(RuntimeError, match="did not reach the end"):
        solved(params, 0.02, **keywords)
    # Also where nothing but the last state is used: what is unused is not computed under `jit`.
    with pytest.raises(RuntimeError, match="did not reach the end"):
        jax.block_until_ready(
            jax.jit(lambda p: markov.solve(p, 0.02, **keywords).final.moments.mean)(params)
        )


# --- slow truths ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_coloured_closure_gives_the_spiking_networks_rates():
    """Within 5 % in every regime but `meta`, where the network bursts 2 % of the time by chance."""
    for regime, (rates, spread) in SPIKING.items():
        found = late(solved(markov.default_parameters(regime), 1.0))
        # The bound is the issue's; the table's own error comes on top.
        allowed = 0.05 + 2 * np.array(spread) / np.sqrt(8) / rates
        if regime == "meta":
            assert -0.12 < found[0] / rates[0] - 1 < 0
            assert -0.05 < found[1] / rates[1] - 1 < 0
        else:
            assert (np.abs(found / rates - 1) < allowed).all(), (regime, found, rates)


@pytest.mark.slow
def test_synchronous_regimes_agree_with_the_notes_finite_volumes():
    gamma = solved(markov.default_parameters("gamma"), 1.4, closure="published")
    np.testing.assert_allclose(late(gamma), (68.21, 79.14), rtol=0.01)
    default = solved(markov.default_parameters("default"), 2.4, closure="published")
    np.testing.assert_allclose(late(default), (44.73, 63.00), rtol=0.03)


@pytest.mark.slow
def test_random_parameters_end_well_or_say_why():
    """500 sets over wide ranges: each a finite solution of 0.2 s, or a stated failure."""
    keys = iter(jax.random.split(jax.random.key(1), 8))

    def uniform(low, high, *shape):
        return jax.random.uniform(next(keys), (500, *shape), minval=low, maxval=high)

    def logarithmic(low, high, *shape):
        return jnp.exp(uniform(np.log(low), np.log(high), *shape))

    like = markov.default_parameters()
    drive = logarithmic(500, 2e4, 2)
    batch = eqx.tree_at(
        lambda p: [
            p.probability,
            p.charge,
            p.tau,
            p.drive,
            p.drive_variance,
            p.refractory_rate,
            p.leak,
        ],
        jax.tree.map(lambda x: jnp.broadcast_to(x[None], (500, *x.shape)), like),
        [
            uniform(0, 1, 2, 2),
            uniform(0, 5, 2, 2),
            logarithmic(5e-4, 2e-2, 2, 2),
            drive,
            drive,
            logarithmic(50, 5e3, 2),
            uniform(0, 100, 2),
        ],
    )

    @jax.jit
    @jax.vmap
    def run(params):
        found = markov.solve(
            params,
            0.2,
            closure="published",
            voltage_bin=4.0,
            rtol=1e-3,
            atol=1e-6,
            max_steps=3_000,
            throw=False,
        )
        finite = jnp.isfinite(found.rate).all() & jnp.isfinite(found.voltage).all()
        good = found.result == markov.RESULTS.successful
        return finite, good, jnp.min(found.rate)

    finite, good, least = map(np.asarray, run(batch))
    assert (finite | ~good).all()
    assert good.mean() > 0.99
    assert least[good].min() > -1e-2
