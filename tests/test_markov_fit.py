"""Derivatives, fits and Fisher's information of the Markov reduction.

The default tests use the map in coarse steps and bins: its own data are what it is fitted to.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import fit as fitting
from neurofield import markov, network
from neurofield.markov._fit import (
    Condition,
    Information,
    _residual,
    fisher_information,
    fit,
    identifiability,
    posterior_draws,
    response,
    steady,
    value_and_jacobian,
)
from neurofield.markov._free import Logarithmic, free_values, with_values
from neurofield.markov._loss import band_power, centre_frequency, crossing_time, settle, volley
from neurofield.markov._readout import binned_rate, coefficient_of_variation, mean_rate
from neurofield.statistics import Statistics

HOM = markov.default_parameters("hom")
COARSE = {"backend": "map", "closure": "published", "voltage_bin": 10.0, "dt": 5e-4}


# --- names of entries -----------------------------------------------------------------------------


def test_names_of_entries():
    free = ["charge[E,I]", "tau[:,I]", "drive & drive_variance", "probability[I,E]"]
    values = free_values(HOM, free)
    assert list(values) == free
    np.testing.assert_allclose(list(values.values()), [4.91, 4.5e-3, 7000, 0.5])
    found = with_values(HOM, {name: 2 * x for name, x in values.items()})
    np.testing.assert_allclose(found.charge, [[5, 9.82], [2, 4.91]])
    np.testing.assert_allclose(found.tau, [[4e-3, 9e-3], [1.2e-3, 9e-3]])
    np.testing.assert_allclose(found.drive, [14000, 14000])
    np.testing.assert_allclose(found.drive_variance, [14000, 14000])
    np.testing.assert_allclose(found.probability, [[0.15, 0.5], [1.0, 0.4]])


@pytest.mark.parametrize(
    ("free", "message"),
    [
        (["charges"], "names no entries"),
        (["charge[E]"], "takes 2 of E, I"),
        (["charge[E,X]"], "takes 2 of E, I"),
        (["charge"], "is one number, but its entries"),
        (["tau[:,I]", "tau[E,I]"], r"is in 'tau\[:,I\]' and in 'tau\[E,I\]'"),
        ([], "one or more names"),
        ("drive", "list of one or more"),
    ],
)
def test_names_that_mean_nothing_are_refused(free, message):
    with pytest.raises(ValueError, match=message):
        free_values(HOM, free)


# --- derivatives ----------------------------------------------------------------------------------


def losses(solution):
    """All that a fit may look at, of one solution of 100 ms from the reset."""
    spectral = {"segment_length": 60, "discard": 0.04}
    found = volley(solution, 0.005, 0.025)
    return {
        "rate": mean_rate(solution, discard=0.04),
        "course": binned_rate(solution, bin_width=0.01),
        "variation": coefficient_of_variation(solution),
        "power": band_power(solution, 30.0, 120.0, **spectral),
        "centre": centre_frequency(solution, 30.0, 120.0, **spectral),
        "volley": [found.size, found.latency, found.width],
        "crossing": crossing_time(solution, 0.4),
    }


@pytest.mark.parametrize(
    "options", [COARSE, pytest.param({"closure": "coloured"}, marks=pytest.mark.slow)]
)
def test_losses_have_the_derivatives_of_finite_differences(options):
    free = ["charge[E,I]", "tau[:,I]", "refractory_rate"]
    if "backend" not in options:
        options = {**options, "voltage_bin": 4.0, "rtol": 1e-7, "atol": 1e-10}
    gamma = markov.default_parameters("gamma")
    value, slope = jax.jit(
        lambda p: value_and_jacobian(losses, p, 0.1, free=free, mode="forward", **options)
    )(gamma)
    plain = jax.jit(lambda p: losses(markov.solve(p, 0.1, **options)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), value, plain(gamma))
    for name, start in free_values(gamma, free).items():
        step = (1e-6 if "backend" in options else 1e-4) * start
        up, down = (plain(with_values(gamma, {name: start + x})) for x in (step, -step))
        # The map has kinks, where a mean voltage passes the middle of its bin: a short step passes
        # few. The adaptive steps of the other jump, and its rates by about rtol: a long step, of
        # which that is 1e-3, and some of these.
        share = 1e-3 if "backend" in options else 5e-3
        jax.tree.map(
            lambda a, u, d, step=step, share=share: np.testing.assert_allclose(
                a, (u - d) / (2 * step), rtol=1e-4, atol=share * float(np.abs(a).max()) + 1e-9
            ),
            slope[name],
            up,
            down,
        )


@pytest.mark.slow
def test_both_modes_agree_and_the_choice_is_by_number():
    def of(mode, observe):
        return value_and_jacobian(
            observe, HOM, 0.03, free=["charge[E,E]", "drive[E]"], mode=mode, **COARSE
        )

    def loss(solution):
        return jnp.sum(solution.rate**2)

    forward, reverse = jax.jit(lambda: (of("forward", loss), of("reverse", loss)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), forward, reverse)
    free = [f"{field}[{q}]" for field in ("drive", "drive_variance", "leak") for q in "EI"]

    def primitives(observe, free):
        shown = jax.make_jaxpr(lambda: value_and_jacobian(observe, HOM, 0.01, free=free, **COARSE))
        return str(shown())

    # In reverse the loop goes backwards.
    assert "reverse=True" not in primitives(loss, free[:5])
    assert "reverse=True" in primitives(loss, free)
    assert "reverse=True" not in primitives(mean_rate, free)


@pytest.mark.slow
def test_no_derivative_passes_a_settled_state():
    def late(drive, start):
        params = with_values(HOM, {"drive": drive})
        state = settle(params, 0.03, **COARSE) if start is None else start
        return mean_rate(markov.solve(params, 0.02, initial=state, **COARSE))[0]

    drive = jnp.asarray(7000.0)
    state = settle(HOM, 0.03, **COARSE)
    slope = jax.jit(jax.jacfwd(lambda x: late(x, None)))(drive)
    given = jax.jit(lambda x: late(x, state))
    numeric = (given(drive + 1) - given(drive - 1)) / 2
    np.testing.assert_allclose(slope, numeric, rtol=1e-4)  # second order in 1 of 7000, kinks


# --- fits -----------------------------------------------------------------------------------------


class Step(eqx.Module):
    """A factor on the drive that steps up at a time."""

    to: jax.Array
    at: float = eqx.field(static=True, default=0.03)

    def __call__(self, time):
        return jnp.where(jnp.asarray(time) < self.at, 1.0, self.to)


# Noise so large that responses are graded: the course of a volley in a synchronised network has
# too many local minima to start 10 % away.
NOISY = markov.Parameters(
    [300, 100],
    0.2,
    [[0.5, 2.0], [0.5, 2.0]],
    4e-3,
    drive=5000.0,
    drive_variance=1e5,
    refractory_rate=250.0,
    leak=20.0,
)
FREE = ["charge[E,I]", "drive", "refractory_rate"]
STEPS = [0.6, 1.6]
TRUE = np.array([2.0, 5000.0, 250.0])
GRADED = {**COARSE, "initial": "uniform"}


@pytest.fixture(scope="module")
def courses():
    """Responses of the model to two steps, `[step, population, bin]`."""

    def course(to):
        solved = markov.solve(NOISY, 0.06, drive_factor=Step(to), save_dt=5e-3, **GRADED)
        return solved.rate

    return jax.jit(lambda to: jax.lax.map(course, to))(jnp.array(STEPS))


def noisy(courses, seed, level=0.02):
    """Courses with noise of known size, as conditions."""
    error = level * courses + 1.0
    data = courses + error * np.random.default_rng(seed).standard_normal(courses.shape)
    return [
        response(data[k], error[k], Step(jnp.asarray(to)), bin_width=5e-3)
        for k, to in enumerate(STEPS)
    ]


def test_a_fit_recovers_parameters_within_its_errors(courses):
    start = with_values(
        NOISY,
        {
            "charge[E,I]": jnp.asarray(1.7),
            "drive": jnp.asarray(5500.0),
            "refractory_rate": jnp.asarray(300.0),
        },
    )
    z, chi = [], []
    for seed in range(3):
        found = fit(start, noisy(courses, seed), free=FREE, **GRADED)
        values, errors = free_values(found.value, FREE), free_values(found.error, FREE)
        z.append((np.array(list(values.values())) - TRUE) / np.array(list(errors.values())))
        chi.append(2 * float(found.loss))
        assert bool(fitting.is_successful(found.result))
    # 48 data, 3 numbers; errors of 3 fits of 3 numbers that are correlated inside a fit.
    assert np.abs(z).max() < 4
    assert abs(np.sum(chi) - 3 * 45) < 4 * np.sqrt(2 * 3 * 45)
    # Errors that are not far too large, either: chi-squared of 9 with 3 independent groups.
    assert 0.1 < np.mean(np.square(z)) < 4
    # What is fixed has no error.
    assert found.error.charge[0, 0] == 0
    np.testing.assert_array_equal(found.value.charge[0, 0], NOISY.charge[0, 0])


@pytest.mark.slow
def test_information_is_that_of_the_fit(courses):
    conditions = noisy(courses, 0)
    information = fisher_information(NOISY, conditions, free=FREE, **GRADED)

    # The definition, by finite differences of predictions in logarithms.
    def predict(coordinates):
        params = information.at(coordinates)
        solve = lambda to: markov.solve(  # noqa: E731
            params, 0.06, drive_factor=Step(to), save_dt=5e-3, **GRADED
        )
        return jax.lax.map(lambda to: solve(to).rate, jnp.array(STEPS)).ravel()

    predict = jax.jit(predict)
    np.testing.assert_allclose(information.coordinates, np.log(TRUE))
    columns = [
        (predict(information.coordinates + h) - predict(information.coordinates - h)) / 2e-4
        for h in 1e-4 * np.eye(3)
    ]
    weighted = np.stack(columns, 1) / np.ravel(0.02 * np.asarray(courses) + 1.0)[:, None]
    np.testing.assert_allclose(information.matrix, weighted.T @ weighted, rtol=1e-3)
    directions = identifiability(information)
    np.testing.assert_allclose(
        directions.vectors @ np.diag(directions.information) @ directions.vectors.T,
        information.matrix,
        rtol=1e-9,
    )


def information_of(matrix, types=None):
    names = ("charge[E,E]", "probability[E,E]")
    kinds = tuple(types or (Logarithmic(), fitting.Interval(0, 1)))
    values = free_values(HOM, names)
    start = jnp.stack([kind.inverse(values[n]) for kind, n in zip(kinds, names, strict=True)])
    return Information(jnp.asarray(matrix), start, kinds, HOM, names)


@pytest.mark.parametrize("name", ["leak", "refractory_rate"])
def test_numbers_at_the_border_of_their_domain_are_refused(name):
    # The logarithm of none: no step of it changes anything, which would be no information.
    params = markov.default_parameters("multi")
    with pytest.raises(ValueError, match=name):
        fisher_information(params, [], free=[name], **COARSE)


def test_draws_have_the_covariance_of_the_information():
    covariance = np.array([[0.04, -0.03], [-0.03, 0.09]])
    information = information_of(np.linalg.inv(covariance))
    draws = posterior_draws(jax.random.key(0), information, 4000)
    assert draws.charge.shape == (4000, 2, 2)
    p = np.asarray(draws.probability[:, 0, 0])
    free = np.stack([np.log(draws.charge[:, 0, 0]), np.log(p / (1 - p))])
    centre = np.array([np.log(5.0), np.log(0.15 / 0.85)])
    error = np.sqrt(np.diag(covariance) / 4000)
    assert np.abs((free.mean(1) - centre) / error).max() < 4
    # The error of a covariance of n Gaussian draws: (C_ii C_jj + C_ij^2) / n, squared.
    spread = np.sqrt((np.outer(*[np.diag(covariance)] * 2) + covariance**2) / 4000)
    assert np.abs((np.cov(free) - covariance) / spread).max() < 4
    np.testing.assert_array_equal(draws.tau[7], HOM.tau)


def test_open_directions_are_named_and_refused():
    # Data on the product alone.
    information = information_of([[1.0, 1.0], [1.0, 1.0]])
    found = identifiability(information)
    np.testing.assert_allclose(found.information, [0, 2], atol=1e-12)
    np.testing.assert_allclose(np.abs(found.vectors), 0.5**0.5, atol=1e-12)
    assert found.vectors[0, 0] * found.vectors[1, 0] < 0
    with pytest.raises(RuntimeError, match="leave a combination"):
        posterior_draws(jax.random.key(0), information, 3)


def test_conditions_of_measured_statistics():
    measured = Statistics(
        rate=jnp.array([20.0, 50.0]),
        bin_width=1e-3,
        rate_error=jnp.array([0.5, jnp.inf]),
        lagged=jnp.zeros((2, 2, 2)),
    )
    one = steady(measured, 1.2, duration=0.5, discard=0.2)
    assert one.save_dt == pytest.approx(0.1)
    assert one.duration == 0.5
    assert float(one.drive) == 1.2
    with pytest.raises(ValueError, match="no lagged with an error"):
        steady(measured, use=("rate", "lagged"))
    with pytest.raises(ValueError, match="rate_covariance is for"):
        steady(measured, use=("rate", "lagged"), rate_covariance=np.eye(2))
    with pytest.raises(ValueError, match="not in free"):
        fit(HOM, [one], free=["drive"], spec={"leak": fitting.Real()}, **COARSE)


@pytest.mark.slow
def test_residuals_are_whitened():
    # Without a solve: predictions are the targets plus known differences.
    def of(target, error, covariance=None, difference=1.0):
        moved = jax.tree.map(lambda x: x + jnp.asarray(difference), target)
        condition = Condition(target, error, lambda _: moved, covariance=covariance, duration=1e-3)
        return _residual(HOM, condition, {**COARSE, "backend": "map"})

    found = of(jnp.array([1.0, 2.0]), jnp.array([0.5, jnp.inf]))
    np.testing.assert_allclose(found, [2, 0])
    spectral = of({"s": jnp.array([1 + 2j])}, {"s": jnp.array([2.0])}, difference=1 + 3j)
    np.testing.assert_allclose(spectral, [1 / 2**0.5, 3 / 2**0.5])
    unknown = of({"s": jnp.array([1 + 2j])}, {"s": jnp.array([jnp.inf])})
    np.testing.assert_allclose(unknown, [0, 0])
    covariance = np.array([[2.0, 1.0], [1.0, 3.0]])
    found = of(jnp.array([1.0, 2.0]), None, jnp.asarray(covariance))
    np.testing.assert_allclose(
        np.sum(found**2), np.ones(2) @ np.linalg.solve(covariance, np.ones(2))
    )


def test_symmetric_data_count_once():
    """Chi-squared of noise of the given errors is the number of independent real data."""
    error = np.array([[0.2, 0.1], [0.1, 0.3]])
    measured = Statistics(
        rate=jnp.ones(2),
        bin_width=1e-3,
        covariance=jnp.zeros((2, 2)),
        covariance_error=jnp.asarray(error),
        lagged=jnp.zeros((2, 2, 2)),
        lagged_error=jnp.asarray(np.stack([error, error])),
        frequency=jnp.array([0.0, 250.0, 500.0]),
        spectrum=jnp.zeros((3, 2, 2), complex),
        spectrum_error=jnp.asarray(np.stack([error] * 3)),
    )
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((2, 3, 2, 2, 4000))
    symmetric = np.tril(np.ones((2, 2)), -1)[..., None].astype(bool)
    real = np.where(symmetric, normal.swapaxes(2, 3), normal) * error[..., None]
    pair = (real[0, 1] + 1j * real[1, 1]) * 0.5**0.5
    pair = np.where(symmetric, pair.conj(), pair)
    pair = np.where(np.eye(2, dtype=bool)[..., None], real[0, 1], pair)
    noise = {
        "covariance": (real[0, 0], 3),
        "lagged": (np.stack([real[0, 0], normal[0, 1] * error[..., None]]), 3 + 4),
        "spectrum": (np.stack([real[0, 0], pair, real[0, 2]]), 3 + 4 + 3),
    }
    for name, (draws, count) in noise.items():
        condition = steady(measured, use=(name,), duration=1e-3, discard=0.0)

        def squares(draw, condition=condition, name=name):
            moved = {name: draw.astype(getattr(measured, name).dtype)}
            condition = Condition(condition.target, condition.error, lambda _: moved, duration=1e-3)
            return jnp.sum(_residual(HOM, condition, {**COARSE, "backend": "map"}) ** 2)

        found = jax.jit(jax.vmap(squares, in_axes=-1))(jnp.asarray(draws))
        z = (np.mean(found) - count) / np.sqrt(2 * count / draws.shape[-1])
        assert abs(z) < 4, (name, z)


@pytest.mark.slow
def test_errors_of_fits_are_calibrated(courses):
    z = []
    for seed in range(40):
        found = fit(NOISY, noisy(courses, 100 + seed), free=FREE, **GRADED)
        values, errors = free_values(found.value, FREE), free_values(found.error, FREE)
        moved = np.log(np.array(list(values.values())) / TRUE)
        z.append(moved / np.array(list(errors.values())) * np.array(list(values.values())))
    z = np.array(z)
    assert np.abs(z).max() < 4.5
    assert np.abs(z.mean(0) * np.sqrt(40)).max() < 4
    # The variance of 40 has the relative error sqrt(2 / 39) = 0.23.
    np.testing.assert_allclose(z.var(0), 1, atol=4 * 0.23)


@pytest.mark.slow
def test_a_fit_recovers_the_spiking_network():
    """Four charges from the rates of 400 spiking neurons under six pairs of drives.

    The coloured closure's own error in the rates is up to 2 % here, which is allowed for.
    """
    free = ["charge[E,E]", "charge[E,I]", "charge[I,E]", "charge[I,I]"]
    truth = free_values(HOM, free)
    conditions = []
    drives = [[1.0, 1.0], [1.25, 1.0], [1.0, 1.25], [0.8, 1.0], [1.0, 0.8], [1.3, 1.3]]
    for index, drive in enumerate(map(jnp.asarray, drives)):
        params = eqx.tree_at(
            lambda p: [p.drive, p.drive_variance],
            HOM,
            [HOM.drive * drive, HOM.drive_variance * drive],
        )
        measured = network.simulate(
            jax.random.key(index), markov.to_network(params), 2.0, 1e-4, warm_up=0.2
        ).statistics
        error = jnp.hypot(measured.rate_error, 0.02 * measured.rate)
        measured = eqx.tree_at(lambda s: s.rate_error, measured, error)
        conditions.append(steady(measured, drive, duration=0.25, discard=0.15))
    off = map(jnp.asarray, (1.15, 0.85, 1.1, 0.9))
    start = with_values(HOM, {name: truth[name] * f for name, f in zip(free, off, strict=True)})
    options = {"voltage_bin": 4.0, "initial": "uniform"}
    found = fit(start, conditions, free=free, rtol=1e-3, atol=1e-3, **options)
    values, errors = free_values(found.value, free), free_values(found.error, free)
    z = {name: float((values[name] - truth[name]) / errors[name]) for name in free}
    assert np.abs(list(z.values())).max() < 3, z
    # The data do tell the charges: to 8 % each.
    assert max(float(errors[name] / truth[name]) for name in free) < 0.08
    assert 2 * float(found.loss) < 8 + 4 * np.sqrt(2 * 8)  # 12 rates, 4 numbers
