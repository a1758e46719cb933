"""minimise finds known optima, keeps dtypes, and says how it ended."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from neurofield.fit import (
    RESULTS,
    Fit,
    FitError,
    Fixed,
    Interval,
    Positive,
    Shared,
    is_successful,
    minimise,
)


def rosenbrock(params):
    x, y = params["x"], params["y"]
    return jnp.sum((1 - x) ** 2 + 100 * (y - x**2) ** 2)


def test_rosenbrock():
    start = {"x": jnp.array([-1.2, 2.0]), "y": jnp.array([1.0, -1.0])}
    fit = minimise(rosenbrock, start, atol=1e-10)
    assert is_successful(fit.result)
    np.testing.assert_allclose(fit.value["x"], 1, atol=1e-8)
    np.testing.assert_allclose(fit.value["y"], 1, atol=1e-8)
    assert fit.loss < 1e-17
    assert fit.stats["gradient_norm"] <= 1e-10
    curve = fit.history["loss"]
    assert curve.shape == (int(fit.stats["num_steps"]) + 1,)
    np.testing.assert_allclose(curve[0], rosenbrock(start))
    assert curve[-1] == fit.loss
    assert fit.provenance["optimiser"] == "lbfgs"
    with pytest.raises(FitError, match=r"did not converge in 3 steps.*max_steps") as info:
        minimise(rosenbrock, start, max_steps=3)
    assert info.value.fit.result == RESULTS.nonlinear_max_steps_reached
    assert info.value.fit.history["loss"].shape == (4,)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["lbfgs", "adam", "sgd"])
def test_quadratic_keeps_dtype(dtype, name):
    matrix = jnp.array([[2.0, 0.5], [0.5, 1.0]], dtype)
    target = jnp.array([1.0, -3.0], dtype)
    seen = []

    def loss(params, matrix):
        seen.append(params.dtype)
        d = params - target
        return 0.5 * d @ matrix @ d

    optimisers = {"lbfgs": None, "adam": optax.adam(0.1), "sgd": optax.sgd(0.5)}
    fit = minimise(
        loss, jnp.zeros(2, dtype), args=(matrix,), optimiser=optimisers[name], max_steps=3000
    )
    assert is_successful(fit.result)
    assert fit.value.dtype == fit.loss.dtype == fit.history["loss"].dtype == dtype
    assert set(seen) == {jnp.dtype(dtype)}
    eps = float(jnp.finfo(dtype).eps)
    # |error| <= |gradient| / smallest eigenvalue
    tolerance = np.sqrt(2) * (eps**0.5 + eps ** (2 / 3)) / np.linalg.eigvalsh(matrix)[0]
    np.testing.assert_allclose(fit.value, target, atol=tolerance + 4 * eps)


def test_mixed_leaves_pass_through():
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2), "n": jnp.arange(3), "name": "x"}

    def loss(p):
        assert p["name"] == "x"
        return jnp.sum((p["a"].astype(jnp.float64) - 2) ** 2) + jnp.sum(
            (p["b"] - p["n"][1:].astype(jnp.float64)) ** 2
        )

    fit = minimise(loss, params)
    assert fit.value["a"].dtype == jnp.float32
    assert fit.value["name"] == "x"
    np.testing.assert_allclose(fit.value["a"], 2, atol=1e-3)
    np.testing.assert_allclose(fit.value["b"], [1, 2], atol=1e-3)
    np.testing.assert_array_equal(fit.value["n"], params["n"])


def test_logistic_regression_against_newton():
    rng = np.random.default_rng(0)
    design = rng.normal(size=(200, 4))
    labels = (rng.random(200) < 1 / (1 + np.exp(-design @ [1.0, -2.0, 0.5, 0.0]))).astype(float)
    weights = np.zeros(4)
    for _ in range(20):
        p = 1 / (1 + np.exp(-design @ weights))
        hessian = design.T @ (design * (p * (1 - p))[:, None])
        weights -= np.linalg.solve(hessian, design.T @ (p - labels))

    def loss(w, x, y):
        z = jnp.matmul(x, w, precision="highest")
        return jnp.sum(jax.nn.softplus(z) - y * z)

    fit = minimise(loss, jnp.zeros(4), args=(jnp.asarray(design), jnp.asarray(labels)), atol=1e-8)
    np.testing.assert_allclose(fit.value, weights, atol=1e-8)


def test_stochastic_loss():
    """Adam on noisy gradients: the mean of the noise is the optimum."""

    def loss(x, key):
        return 0.5 * jnp.sum((x - 3 - jax.random.normal(key, x.shape)) ** 2)

    run = {"key": jax.random.key(0), "max_steps": 2000}
    decay = optax.adam(optax.cosine_decay_schedule(0.1, 2000))
    fit = minimise(loss, jnp.zeros(50), optimiser=decay, **run)
    assert is_successful(fit.result)
    assert fit.stats["num_steps"] == 2000
    # The last steps average the noise over the decay; far above it is an error in the keys.
    z = np.asarray(fit.value) - 3
    assert np.abs(z).max() < 0.5
    assert 0.01 < z.std() < 0.2
    again = minimise(loss, jnp.zeros(50), optimiser=decay, **run)
    np.testing.assert_array_equal(fit.value, again.value)


def test_fixed_shared_and_bounded():
    def loss(p):
        return (p["a"] - 1) ** 2 + (p["b"] - 3) ** 2 + (p["c"] - 5) ** 2 + (p["d"] + 1) ** 2

    start = {k: jnp.asarray(1.5) for k in "abcd"}
    tied = Shared("ab", Positive())
    fit = minimise(loss, start, spec={"a": tied, "b": tied, "c": Fixed(), "d": Interval(-2.0, 2.0)})
    assert fit.value["a"] == fit.value["b"]
    assert fit.value["c"] == 1.5
    np.testing.assert_allclose(fit.value["a"], 2, atol=1e-7)
    np.testing.assert_allclose(fit.value["d"], -1, atol=1e-7)
    with pytest.raises(ValueError, match=r"params\['d'\] must be numbers strictly between"):
        minimise(loss, start, spec={"a": None, "b": None, "c": None, "d": Interval(0.0, 1.0)})
    with pytest.raises(ValueError, match="nothing to minimise"):
        minimise(loss, start, spec=Fixed())


def test_early_stopping_returns_the_best():
    """Gradient flow towards 2 passes the held-out optimum 1, whose best step is known."""
    rate, patience, every = 0.05, 5, 3
    path = 2 * (1 - (1 - rate) ** np.arange(200))  # x after n steps of sgd on (x - 2)^2 / 2
    scores = (path[::every] - 1) ** 2
    best = int(np.argmin(scores))
    fit = minimise(
        lambda x: 0.5 * (x - 2) ** 2,
        jnp.asarray(0.0),
        optimiser=optax.sgd(rate),
        held_out_fn=lambda x: (x - 1) ** 2,
        held_out_every=every,
        patience=patience,
    )
    assert is_successful(fit.result)
    assert fit.stats["best_step"] == every * best
    assert fit.stats["num_steps"] == every * (best + patience)
    np.testing.assert_allclose(fit.value, path[every * best], rtol=1e-12)
    np.testing.assert_allclose(fit.stats["held_out_loss"], scores[best], rtol=1e-10)
    np.testing.assert_allclose(
        fit.history["held_out_loss"], scores[: best + patience + 1], rtol=1e-10
    )


def test_restarts_find_the_global_minimum():
    def two_wells(x):
        return jnp.sum((x**2 - 1) ** 2 + 0.3 * x)

    start = jnp.array([0.9])
    local = minimise(two_wells, start)
    assert local.value > 0
    for init in (lambda key: jax.random.uniform(key, (1,), minval=-2.0, maxval=2.0), None):
        fit = minimise(
            two_wells, start, num_restarts=8, init_fn=init, restart_key=jax.random.key(1)
        )
        assert fit.value < 0
        assert fit.loss < local.loss - 0.5
        losses = fit.stats["restart_losses"]
        assert losses.shape == (8,)
        np.testing.assert_allclose(losses[0], local.loss, rtol=1e-10)
        assert losses.min() == fit.loss
        assert fit.history["loss"][-1] == fit.loss
        assert np.isfinite(fit.history["loss"]).all()
    with pytest.raises(ValueError, match="restart_key"):
        minimise(two_wells, start, num_restarts=2)


def test_a_start_that_is_not_finite_names_the_leaf():
    def loss(p):
        return jnp.sum(p["a"] ** 2) + jnp.sum(jnp.log(p["b"]))

    with pytest.raises(ValueError, match=r"params\['b'\] must be finite"):
        minimise(loss, {"a": jnp.ones(2), "b": jnp.array([1.0, jnp.nan])})
    with pytest.raises(ValueError, match=r"step 0 .*gradient for params\['b'\] \(entry \[1\]\)"):
        minimise(loss, {"a": jnp.ones(2), "b": jnp.array([1.0, 0.0])})
    with pytest.raises(ValueError, match=r"gradient for params\['b'\]"):
        minimise(lambda p: jnp.sqrt(jnp.sum(p["b"] ** 2)), {"a": jnp.ones(2), "b": jnp.zeros(2)})


def test_a_run_that_leaves_the_domain_names_leaf_and_step():
    def loss(p):
        return jnp.sum(jnp.log(p["b"])) + jnp.sum(p["a"] ** 2)

    start = {"a": jnp.ones(2), "b": jnp.ones(2)}
    with pytest.raises(FitError, match=r"nan at step 6 .* where params\['b'\] keeps") as info:
        minimise(loss, start, optimiser=optax.sgd(0.1))
    fit = info.value.fit
    assert fit.result == RESULTS.nonfinite
    assert all(np.isfinite(x).all() for x in fit.value.values())
    assert np.isfinite(fit.loss)
    with pytest.raises(FitError, match=r"params\['x'\] is not finite"):
        minimise(lambda p: jnp.sum(p["x"]), {"x": jnp.ones(2)}, optimiser=optax.sgd(np.inf))
    with pytest.raises(FitError, match=r"loss is inf at step 5 and the gradient for params\['x'\]"):
        minimise(lambda p: jnp.sum(p["x"] ** 4), {"x": jnp.ones(2)}, optimiser=optax.sgd(10.0))


def test_a_line_search_that_cannot_improve_is_stalled():
    # Rounding hides the last digits of the loss, while the tolerance asks for a zero gradient.
    def loss(x):
        return 1e8 + jnp.sum(jnp.cosh(x - 1))

    fit = minimise(loss, jnp.zeros(3), atol=0.0, rtol=0.0, throw=False)
    assert fit.result in (RESULTS.stalled, RESULTS.successful)
    assert fit.stats["num_steps"] < 200
    np.testing.assert_allclose(fit.value, 1, atol=1e-3)


def test_bad_losses():
    with pytest.raises(ValueError, match="one real number"):
        minimise(lambda x: x, jnp.ones(2))
    with pytest.raises(ValueError, match="real floating"):
        minimise(lambda x: jnp.sum(x > 0), jnp.ones(2))
    with pytest.raises(ValueError, match="max_steps must be at least 1"):
        minimise(lambda x: jnp.sum(x), jnp.ones(2), max_steps=0)


def test_traced_once_for_new_data():
    traces = []

    def loss(x, target):
        traces.append(1)
        return jnp.sum((x - target) ** 2)

    for target in (1.0, 2.0):
        fit = minimise(loss, jnp.zeros(2), args=(jnp.full(2, target),))
        assert isinstance(fit, Fit)
        np.testing.assert_allclose(fit.value, target)
        traces.append(0)
    first = traces.index(0)
    assert traces[first + 1 :] == [0]


def test_progress_bar(capsys):
    minimise(rosenbrock, {"x": jnp.zeros(1), "y": jnp.zeros(1)}, progress=True)
    shown = capsys.readouterr().err
    assert "loss" in shown
    assert "step/s" in shown
