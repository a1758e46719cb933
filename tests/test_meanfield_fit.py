"""Comparison of features, matched rate networks, and fits of networks to measured statistics."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import meanfield, network
from neurofield.fit import Interval
from neurofield.meanfield._compare import compare_features
from neurofield.meanfield._fit import _linearised, _plain, fit, posterior_draws
from neurofield.meanfield._observables import predict_observables
from neurofield.meanfield._switch import matched_rate, with_dense_weights, without_spikes

pytestmark = pytest.mark.slow  # a solve compiles for half a minute


QUICK = {"method": "stationary", "response": False}
USE = ("rate", "rate_variance", "autocovariance")
LAGS = (0, 2, 5, 10)


def rate_network(values):
    drive = network.Drive(network.Constant(values["drive"]), network.WhiteNoise(0.01))
    return network.Network(
        [network.Population("x", network.Rate(phi="tanh", tau=0.01), 400, drive)],
        [network.Projection("x", "x", network.gaussian(-1.0, values["g"]))],
    )


TRUTH = {"drive": 0.8, "g": 1.2}


@pytest.fixture(scope="module")
def fitted():
    """Of the theory's own statistics under other random numbers."""
    arrays = {name: jnp.asarray(x) for name, x in TRUTH.items()}
    solution = meanfield.solve(
        rate_network(arrays),
        0.2,
        1e-3,
        key=jax.random.key(5),
        num_paths=512,
        num_replicas=8,
        max_lag=0.05,
        **QUICK,
    )
    measured = predict_observables(solution, LAGS)
    start = {"drive": 0.5, "g": 1.0}
    return fit(
        rate_network, start, measured, 0.1, 1e-3, key=jax.random.key(6), use=USE,
        solve_options={"num_paths": 256, "num_replicas": 8, "max_lag": 0.03} | QUICK,
    )  # fmt: skip


def test_fit_finds_the_rate_network_again(fitted):
    assert fitted.error is not None
    for name, truth in TRUTH.items():
        z = (float(fitted.value[name]) - truth) / float(fitted.error[name])
        assert abs(z) < 4, (name, z)
        assert float(fitted.error[name]) < 0.15 * truth
    assert fitted.residuals.quantity[0] == "rate 0"
    assert "chi squared" in str(fitted)
    assert "drive = " in str(fitted)


def test_derivative_is_that_of_the_residuals(fitted):
    names = fitted.names
    free = jnp.stack([fitted.types[n].inverse(fitted.value[n]) for n in names])
    _, jacobian = _linearised(free, fitted.problem, fitted.types, names)
    step = 1e-4

    def of(x):
        values = {n: fitted.types[n].forward(x[i]) for i, n in enumerate(names)}
        return _plain(values, fitted.problem)

    for i in range(len(names)):
        shift = jnp.zeros(len(names)).at[i].set(step)
        difference = (of(free + shift) - of(free - shift)) / (2 * step)
        scale = float(jnp.max(jnp.abs(difference)))
        np.testing.assert_allclose(jacobian[:, i] / scale, difference / scale, atol=2e-3)


def test_laplace_draws_have_the_errors_of_the_fit(fitted):
    draws = posterior_draws(jax.random.key(0), fitted, 4000)
    for name in fitted.names:
        log = np.log(np.asarray(draws[name]) / float(fitted.value[name]))
        index = fitted.names.index(name)
        spread = float(fitted.covariance[index, index]) ** 0.5
        assert abs(log.mean()) < 4 * spread / 4000**0.5
        assert log.std() == pytest.approx(spread, rel=0.05)
    with pytest.raises(ValueError, match="laplace"):
        posterior_draws(jax.random.key(0), fitted, 3, method="gibbs")


def test_fit_by_a_closed_form_recovers_what_it_was_given():
    """`predict_fn` in place of the solver, exact: two drives of one linear network."""

    def predict(net):
        source = net.populations[0].drive.sources[0].value
        gain = net.projections[0].connectivity.gain
        return {"rate": (source / 2)[None], "rate_variance": (gain**2 * source**2)[None]}

    measured = meanfield.Observables(
        rate=jnp.asarray([0.6]),
        rate_variance=jnp.asarray([1.0]),
        autocovariance=jnp.zeros((1, 1)),
        population_covariance=jnp.zeros((1, 1)),
        error=meanfield.Observables(
            rate=jnp.asarray([0.01]),
            rate_variance=jnp.asarray([0.1]),
            autocovariance=jnp.ones((1, 1)),
            population_covariance=jnp.ones((1, 1)),
            error=None,
            lags=(0,),
            bin_width=1e-3,
            labels=("x",),
        ),
        lags=(0,),
        bin_width=1e-3,
        labels=("x",),
    )
    found = fit(
        rate_network, {"drive": 1.0, "g": 1.0}, measured, 0.1, 1e-3, key=jax.random.key(0),
        use=("rate", "rate_variance"), predict_fn=predict, spec={"g": Interval(0.1, 3.0)},
        rtol=1e-6,
    )  # fmt: skip
    assert float(found.value["drive"]) == pytest.approx(1.2, rel=1e-5)
    assert float(found.value["g"]) == pytest.approx(1 / 1.2, rel=1e-5)
    assert found.error is not None
    assert float(found.error["drive"]) == pytest.approx(0.02, rel=1e-3)
    # g = sqrt(variance) / drive, whose errors are 5 % and 1.667 %, both independent.
    assert float(found.error["g"]) == pytest.approx(np.hypot(0.05, 0.02 / 1.2) / 1.2, rel=1e-3)
    # The same by a surface; and from another place, with a theory that errs by a constant.
    options = {"use": ("rate", "rate_variance"), "key": jax.random.key(0)}
    again = fit(
        rate_network, {"drive": 1.0, "g": 1.0}, measured, 0.1, 1e-3, predict_fn=predict,
        derivative="surface", **options,
    )  # fmt: skip
    there = {"drive": 1.1, "g": 0.9}
    simulated = eqx.tree_at(
        lambda m: (m.rate, m.rate_variance),
        measured,
        (jnp.asarray([0.55 + 0.2]), jnp.asarray([0.99**2 + 3.0])),
    )
    missing = eqx.tree_at(
        lambda m: (m.rate, m.rate_variance), measured, (jnp.asarray([0.8]), jnp.asarray([4.0]))
    )
    corrected = fit(
        rate_network, there, missing, 0.1, 1e-3, predict_fn=predict, rtol=1e-6,
        reference=(there, simulated), **options,
    )  # fmt: skip
    assert again.error is not None
    assert corrected.error is not None
    for name in TRUTH:
        value, error = float(found.value[name]), float(found.error[name])
        assert abs(float(again.value[name]) - value) < 0.1 * error
        assert float(again.error[name]) == pytest.approx(error, rel=0.05)
        assert float(corrected.value[name]) == pytest.approx(value, rel=1e-5)
        # Two measurements of equal errors.
        assert float(corrected.error[name]) == pytest.approx(2**0.5 * error, rel=1e-3)
    other = network.Network([network.Population("y", network.Rate(), 3)])
    with pytest.raises(ValueError, match="populations"):
        fit(lambda v: other, {"g": 1.0}, measured, 0.1, 1e-3, key=jax.random.key(0))
    with pytest.raises(ValueError, match="derivative"):
        fit(rate_network, TRUTH, measured, 0.1, 1e-3, key=jax.random.key(0), derivative="no")


def binary_network():
    neuron = network.Binary(tau=0.01, threshold=1.0)
    return network.Network(
        [network.Population("b", neuron, 400, network.Constant(1.5))],
        [network.Projection("b", "b", network.erdos_renyi(0.2, -0.17))],
    )


@pytest.mark.slow
def test_rate_network_matched_to_a_binary_one_has_its_moments():
    options = {"num_paths": 2048, "max_lag": 0.06} | QUICK
    binary = meanfield.solve(binary_network(), 0.4, 1e-3, key=jax.random.key(1), **options)
    net = matched_rate(jax.random.key(2), binary)
    assert net.populations[0].neuron.kind == "rate"
    rates = meanfield.solve(net, 0.4, 1e-3, key=jax.random.key(3), rtol=2e-3, **options)

    def z(name):
        a, b = getattr(binary, name), getattr(rates, name)
        error = np.hypot(getattr(binary, f"{name}_error"), getattr(rates, f"{name}_error"))
        return np.asarray(a - b) / error

    # Four groups of paths each: t of 6 degrees of freedom, beyond 6 in 1 of 1000.
    assert np.all(np.abs(z("mean")) < 6)
    assert np.all(np.abs(z("quenched")) < 6)
    assert np.mean(np.abs(z("covariance")) < 3) > 0.9
    assert np.all(np.abs(binary.covariance - rates.covariance) < 0.03 * binary.covariance[:, :1])


@pytest.mark.slow
def test_a_linear_network_under_white_input_has_its_closed_form():
    """White input of level P = 2 / dt + g^2 P (its power at frequency zero), through one step."""
    dt, gain = 0.1, 0.6
    rate = network.Rate(phi=_identity, tau=1.0)
    net = network.Network(
        [network.Population("x", rate, 100, network.WhiteNoise(2.0))],
        [network.Projection("x", "x", network.gaussian(0.0, gain))],
    )
    options = {"key": jax.random.key(0), "num_paths": 4096, "num_replicas": 8, "max_lag": 12.0}
    options |= {"method": "stationary", "response": False}
    found = meanfield.solve(net, 60.0, dt, white=True, **options)
    truth = np.tanh(dt / 2) * 2 / dt / (1 - gain**2)
    error = float(found.covariance_error[0, 0])
    assert abs(float(found.covariance[0, 0]) - truth) < 4 * error
    # With its colour 1 / sqrt(1 - g^2).
    assert truth - (1 - gain**2) ** -0.5 > 6 * error
    with pytest.raises(ValueError, match="leading order"):
        meanfield.solve(net, 60.0, dt, white=True, order="shared", **options)


def _identity(x):
    return x


@pytest.mark.slow
def test_features_do_what_theory_says():
    drive = network.Drive(network.Constant(10.0), network.Poisson(1000.0, 0.3))
    neuron = network.EscapeLIF(resets=False, hazard="erf", rate=100.0, threshold=15.0, width=4.0)
    net = network.Network(
        [network.Population("E", neuron, 400, drive)],
        [network.Projection("E", "E", network.erdos_renyi(0.1, -0.5))],
    )
    found = compare_features(net, 0.3, 1e-3, key=jax.random.key(0), num_paths=512, max_lag=0.06)
    assert found.variants == (
        "as it is", "no discreteness", "no indegree", "no sparseness", "no noise", "no shot",
        "no colour",
    )  # fmt: skip

    def change(variant, quantity):
        place = found.variants.index(variant), found.quantities.index(quantity)
        return float(found.change[place][0]), float(found.change_error[place][0])

    # Without spikes the input has no white part, and is slower.
    less, error = change("no discreteness", "input noise")
    assert less < -4 * error
    slower, error = change("no discreteness", "correlation time")
    assert slower > 4 * error
    # The same number of inputs everywhere: neurons are alike, but for which ones they have.
    alike, error = change("no indegree", "sd of neurons")
    assert alike < -4 * error
    # Equal at leading order to the last digit but rounding.
    assert abs(change("no sparseness", "mean")[0]) < 1e-3 * found.value[0, 0, 0]
    # Poisson input of many small jumps is near to Gaussian.
    shift, error = change("no shot", "mean")
    assert abs(shift) < 0.02 * found.value[0, 0, 0] + 4 * error
    # White noise has no correlation time but half a step; that of spikes is nearly white.
    times = found.quantities.index("correlation time")
    assert float(found.value[-1, times, 0]) == pytest.approx(0.5e-3, rel=1e-6)
    faster, error = change("no colour", "correlation time")
    assert faster < -4 * error
    assert len(found.table()) == 7 * 5
    assert "no noise" in str(found)


def test_switches_refuse_what_they_cannot_do():
    silent = network.Network([network.Population("a", network.LIF(), 3)])
    neuron = without_spikes(silent).populations[0].neuron
    state = neuron.init(jax.random.key(0), (3,))
    nothing = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="has no intensity"):
        neuron.step(jax.random.key(0), state, nothing, 1e-4)
    dense = with_dense_weights(binary_network())
    found = network.block_statistics(dense.projections[0].connectivity, 400, 400)
    like = network.block_statistics(network.erdos_renyi(0.2, -0.17), 400, 400)
    np.testing.assert_allclose([found.mean, found.vQ], [like.mean, like.vQ], rtol=1e-6)
    with pytest.raises(ValueError, match="unknown features"):
        compare_features(silent, 0.1, 1e-3, key=jax.random.key(0), features=("magic",))
