"""Standard errors agree with closed forms; least squares with its textbook solution."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from neurofield.fit import (
    RESULTS,
    FitError,
    Fixed,
    Positive,
    Shared,
    is_successful,
    least_squares,
    minimise,
    standard_errors,
)

RNG = np.random.default_rng(1)
DESIGN = RNG.normal(size=(40, 3))
TARGET = DESIGN @ [1.0, -2.0, 0.5] + 0.3 * RNG.normal(size=40)


def line(w, x, y):
    return jnp.matmul(x, w, precision="highest") - y


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_linear_least_squares(dtype):
    data = (jnp.asarray(DESIGN, dtype), jnp.asarray(TARGET, dtype))
    fit = least_squares(line, jnp.zeros(3, dtype), args=data)
    solution, squares, *_ = np.linalg.lstsq(DESIGN, TARGET)
    inverse = np.linalg.inv(DESIGN.T @ DESIGN)
    error = np.sqrt(squares[0] / (40 - 3) * np.diag(inverse))
    tolerance = {"float32": 2e-5, "float64": 1e-10}[jnp.dtype(dtype).name]
    assert is_successful(fit.result)
    assert fit.value.dtype == fit.error.dtype == fit.loss.dtype == dtype
    np.testing.assert_allclose(fit.value, solution, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(fit.error, error, rtol=tolerance)
    np.testing.assert_allclose(fit.loss, squares[0] / 2, rtol=tolerance)
    known = least_squares(lambda w, x, y: line(w, x, y) / 0.3, jnp.zeros(3, dtype), args=data,
                          standardised=True)  # fmt: skip
    np.testing.assert_allclose(known.error, 0.3 * np.sqrt(np.diag(inverse)), rtol=tolerance)


def test_nonlinear_least_squares_with_types():
    time = jnp.linspace(0, 3, 30)
    truth = {"tau": 0.7, "amplitude": 2.0, "offset": 1.0}
    noise = 0.01 * jnp.asarray(np.random.default_rng(0).normal(size=30))
    data = truth["amplitude"] * jnp.exp(-time / truth["tau"]) + truth["offset"] + noise

    def residual(p):
        return {"r": p["amplitude"] * jnp.exp(-time / p["tau"]) + p["offset"] - data}

    start = {"tau": jnp.asarray(2.0), "amplitude": jnp.asarray(1.0), "offset": jnp.asarray(1.0)}
    spec = {"tau": Positive(), "amplitude": Positive(), "offset": Fixed()}
    fit = least_squares(residual, start, spec=spec)
    assert fit.value["offset"] == 1.0
    assert fit.error["offset"] == 0.0
    # The delta method gives what Gauss-Newton gives without the change of variables.
    tau, amplitude = float(fit.value["tau"]), float(fit.value["amplitude"])
    decay = np.exp(-time / tau)
    jacobian = np.stack([decay, amplitude * decay * time / tau**2], 1)
    variance = 2 * float(fit.loss) / 28
    error = np.sqrt(np.diag(variance * np.linalg.inv(jacobian.T @ jacobian)))
    np.testing.assert_allclose([fit.error["amplitude"], fit.error["tau"]], error, rtol=1e-8)
    for name in ("tau", "amplitude"):
        assert abs(fit.value[name] - truth[name]) < 4 * fit.error[name]


def test_least_squares_says_what_it_could_not_do():
    def degenerate(w):
        return jnp.stack([w[0] + w[1] - 1, w[0] + w[1] - 2, w[0] + w[1]])

    fit = least_squares(degenerate, jnp.zeros(2))
    assert fit.error is None
    assert not fit.stats["error_known"]
    saturated = least_squares(lambda w: w - 1, jnp.zeros(2))
    assert saturated.error is None
    with pytest.raises(ValueError, match="not finite at the start"):
        least_squares(jnp.log, jnp.zeros(2))

    def valley(p):
        return jnp.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])

    with pytest.raises(FitError, match=r"max_steps") as info:
        least_squares(valley, jnp.array([-1.2, 1.0]), max_steps=2)
    assert info.value.fit.result == RESULTS.nonlinear_max_steps_reached
    solver = optx.Dogleg(rtol=1e-10, atol=1e-10)
    fit = least_squares(valley, jnp.array([-1.2, 1.0]), solver=solver)
    np.testing.assert_allclose(fit.value, 1, atol=1e-8)
    assert fit.provenance["solver"] == "Dogleg"


def gaussian(p, x):
    """Negative log-likelihood of each normal sample, without its constant."""
    return 0.5 * ((x - p["mean"]) / p["sd"]) ** 2 + jnp.log(p["sd"])


SAMPLES = jnp.asarray(RNG.gamma(2.0, size=300))


def test_observed_information_and_sandwich():
    def loss(p, x):
        return jnp.sum(gaussian(p, x))

    spec = {"mean": None, "sd": Positive()}
    start = {"mean": jnp.asarray(0.0), "sd": jnp.asarray(1.0)}
    fit = minimise(loss, start, spec=spec, args=(SAMPLES,))
    mean, sd, n = np.mean(SAMPLES), np.std(SAMPLES), len(SAMPLES)
    np.testing.assert_allclose(fit.value["sd"], sd, rtol=1e-8)
    found = standard_errors(loss, fit.value, spec=spec, args=(SAMPLES,))
    assert is_successful(found.result)
    np.testing.assert_allclose(found.error["mean"], sd / np.sqrt(n), rtol=1e-6)
    np.testing.assert_allclose(found.error["sd"], sd / np.sqrt(2 * n), rtol=1e-6)
    # A gamma sample is no normal one: the sandwich knows its fourth moment.
    robust = standard_errors(loss, fit.value, spec=spec, args=(SAMPLES,), per_sample_fn=gaussian)
    kurtosis = np.mean((np.asarray(SAMPLES) - mean) ** 4) / sd**4
    np.testing.assert_allclose(robust.error["mean"], sd / np.sqrt(n), rtol=1e-6)
    np.testing.assert_allclose(
        robust.error["sd"], sd * np.sqrt((kurtosis - 1) / (4 * n)), rtol=1e-6
    )


def test_poisson_rate_shared_by_two_leaves():
    counts = jnp.array([3.0, 5.0, 4.0])

    def loss(p):
        return jnp.sum(p["a"] - counts * jnp.log(p["a"])) + p["b"] - 4.0 * jnp.log(p["b"])

    spec = Shared("rate", Positive())
    value = {"a": jnp.asarray(4.0), "b": jnp.asarray(4.0), "n": jnp.arange(2)}
    found = standard_errors(loss, value, spec={"a": spec, "b": spec, "n": None})
    np.testing.assert_allclose(found.error["a"], 1.0, rtol=1e-12)  # sqrt(4 / 4 samples)
    assert found.error["a"] == found.error["b"]
    np.testing.assert_array_equal(found.error["n"], 0)
    assert found.covariance.shape == (1, 1)


def test_no_minimum_is_said():
    def saddle(p):
        return p["a"][0] ** 2 - p["a"][1] ** 2

    value = {"a": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"not positive definite.*params\['a'\] \(entry \[1\]\)"):
        standard_errors(saddle, value)
    found = standard_errors(saddle, value, throw=False)
    assert found.error is None
    assert found.covariance is None
    assert found.result == RESULTS.singular
    with pytest.raises(ValueError, match="not positive definite"):
        standard_errors(lambda p: (p["a"][0] + p["a"][1]) ** 2, value)
    # Units do not matter: 1e12 between curvatures is no flat direction.
    scales = jnp.array([1e-6, 1e6])
    found = standard_errors(lambda p: 0.5 * jnp.sum((p["a"] / scales) ** 2), value)
    np.testing.assert_allclose(found.error["a"], scales, rtol=1e-12)


def test_errors_against_repeated_draws():
    """The spread of estimates over draws equals the mean standard error, within its own error."""
    draws, size = 400, 200

    def estimate(key):
        x = 2.0 * jax.random.exponential(key, (size,))
        rate = 1 / jnp.mean(x)
        information = jax.hessian(lambda r: jnp.sum(r * x - jnp.log(r)))(rate)
        return rate, 1 / jnp.sqrt(information)

    rates, errors = jax.vmap(estimate)(jax.random.split(jax.random.key(0), draws))
    z = (jnp.std(rates) / jnp.mean(errors) - 1) * np.sqrt(2 * draws)
    assert abs(z) < 4
