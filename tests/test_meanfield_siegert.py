"""Rate, irregularity and linear response of the LIF neuron against numbers of 15 digits.

`reference/meanfield/siegert.csv`, `siegert_cv.csv` and `lif_transfer.csv` are adaptive quadratures
and Hermite functions by series, of 30 digits and more (`make_siegert.py` there).
"""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield.meanfield._lif_transfer import lif_transfer_function
from neurofield.meanfield._siegert import coefficient_of_variation, siegert

TABLES = Path(__file__).parent / "reference" / "meanfield"
CELL = {"tau": 0.02, "threshold": 20.0, "reset": 10.0, "refractory": 0.002}


def table(name):
    with open(TABLES / name) as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize(
    ("name", "fn"), [("rate", siegert), ("cv", coefficient_of_variation)], ids=["rate", "cv"]
)
def test_quadrature(name, fn, dtype):
    known = table("siegert.csv" if name == "rate" else "siegert_cv.csv")
    truth = known.pop(name)
    found = jax.jit(lambda p: fn(**p))({k: jnp.asarray(v, dtype) for k, v in known.items()})
    assert found.dtype == dtype
    # As far as float64 reaches; in float32 rounding of the arguments moves lower rates more.
    seen = truth > (1e-300 if dtype == jnp.float64 else 1e-3)
    error = np.abs(np.asarray(found, float) / truth - 1)[seen]
    assert seen.sum() > 60
    assert error.max() < ({"rate": 1e-12, "cv": 1e-10}[name] if dtype == jnp.float64 else 1e-5)
    # From 1e-3 to 1e-300 hertz.
    assert (np.asarray(found)[~seen] < 2e-3).all()


def test_published_network():
    known = table("brunel_siegert.csv")
    at = jnp.asarray(known["mu_mV"]), jnp.asarray(known["sigma_mV"])
    rate, cv = jax.jit(
        lambda m, s: (siegert(m, s, **CELL), coefficient_of_variation(m, s, **CELL))
    )(*at)
    # The table's mean has 6 digits: 5e-4 mV off at worst, 4 Hz/mV.
    np.testing.assert_allclose(rate, known["nu0_Hz(all fixed points)"], rtol=1e-4)
    some = known["firstorder_CV"] > 0
    np.testing.assert_allclose(cv[some], known["firstorder_CV"][some], rtol=2e-4)


@pytest.mark.slow
def test_without_noise():
    mean = jnp.array([-50.0, 15.0, 20.0, 20.5, 30.0, 400.0])
    rate = jax.jit(lambda m: siegert(m, 0.0, **CELL))(mean)
    period = 0.002 + 0.02 * np.log((mean[3:] - 10) / (mean[3:] - 20))
    np.testing.assert_allclose(rate, np.concatenate([np.zeros(3), 1 / period]), rtol=1e-13)
    slope = jax.jit(jax.vmap(jax.grad(lambda m: siegert(m, 0.0, **CELL))))(mean)
    assert (slope[:2] == 0).all()
    inner = 1 / (mean[3:] - 20) - 1 / (mean[3:] - 10)
    np.testing.assert_allclose(slope[3:], 0.02 * inner / period**2, rtol=1e-12)
    variation = jax.jit(lambda m, s: coefficient_of_variation(m, s, **CELL))
    cv = variation(mean, jnp.zeros(6))
    np.testing.assert_array_equal(cv, [1, 1, 1, 0, 0, 0])
    # Var T = tau sd^2 / (2 tau) integral of tau^2 / (mean - v)^3, to first order in sd^2.
    by_sd = jax.jit(jax.grad(lambda s: coefficient_of_variation(30.0, s, **CELL)))(0.0)
    expected = np.sqrt((1 / 10**2 - 1 / 20**2) / 2) * 0.02 * rate[4]
    np.testing.assert_allclose(by_sd, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "fn", [siegert, pytest.param(coefficient_of_variation, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_derivatives(fn):
    names = ("mean", "sd", "tau", "threshold", "reset", "refractory", "rest", "synaptic_tau")
    # Below and above the threshold, little and much noise.
    mean, sd = jnp.array([12.0, 17.0, 21.0, 40.0, 10.0]), jnp.array([3.0, 1.5, 7.0, 0.4, 90.0])
    fixed = jnp.broadcast_to(jnp.array([0.02, 20.0, 10.0, 0.002, -0.5, 1e-3])[:, None], (6, 5))
    at = jnp.concatenate([jnp.stack([mean, sd]), fixed])

    def total(x):
        return fn(**dict(zip(names, x, strict=True)))

    value_and_jacobian = jax.jit(jax.vmap(jax.jacrev(total), in_axes=1, out_axes=1))
    found = value_and_jacobian(at)
    scale = jnp.array([1, 1, 0.02, 1, 1, 0.002, 1, 1e-3])
    compiled = jax.jit(total)
    for i, name in enumerate(names):
        h = 1e-4 * scale[i]
        step = jnp.zeros_like(at).at[i].set(h)
        differences = 8 * (compiled(at + step) - compiled(at - step))
        differences = (differences - compiled(at + 2 * step) + compiled(at - 2 * step)) / (12 * h)
        np.testing.assert_allclose(found[i], differences, rtol=1e-7, atol=1e-9, err_msg=name)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(lambda m, s: fn(m, s, **CELL)))))(mean, sd)
    slope = jax.jit(jax.vmap(jax.grad(lambda m, s: fn(m, s, **CELL))))
    step = 1e-4
    differences = (slope(mean + step, sd) - slope(mean - step, sd)) / (2 * step)
    np.testing.assert_allclose(second, differences, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [jnp.float64, pytest.param(jnp.float32, marks=pytest.mark.slow)])
def test_extremes_are_finite(dtype):
    mean = jnp.array([-1e6, -300.0, 19.999, 20.0, 20.001, 1e6], dtype)
    sd = jnp.array([0.0, 1e-30, 1e-6, 1.0, 1e6], dtype)
    mean, sd = (x.ravel() for x in jnp.meshgrid(mean, sd))
    kink = (mean == 20) & (sd == 0)  # where the slope is infinite
    for fn in (siegert, coefficient_of_variation):
        both = jax.value_and_grad(lambda m, s, fn=fn: fn(m, s, **CELL), argnums=(0, 1))
        value, slopes = jax.jit(jax.vmap(both))(mean, sd)
        assert jnp.isfinite(value).all()
        assert (value >= 0).all()
        for slope in slopes:
            assert (jnp.isfinite(slope) | kink).all()


@pytest.mark.parametrize("modulation", ["mean", "variance"])
def test_transfer_series(modulation):
    known = table("lif_transfer.csv")
    truth = known[f"{modulation}_re"] + 1j * known[f"{modulation}_im"]
    names = [k for k in known if k[-3:] not in ("_re", "_im") and k != "frequency"]

    def response(frequency, p):
        return lif_transfer_function(frequency, **p, modulation=modulation)

    for dtype, allowed in ((jnp.float64, 1e-8), (jnp.float32, 1e-4)):
        found = jax.jit(jax.vmap(response))(
            jnp.asarray(known["frequency"], dtype),
            {k: jnp.asarray(known[k], dtype) for k in names},
        )
        assert found.dtype == (jnp.complex128 if dtype == jnp.float64 else jnp.complex64)
        assert np.abs(np.asarray(found) / truth - 1).max() < allowed


@pytest.mark.slow
def test_transfer_limits():
    mean, sd = jnp.array([12.0, 21.0, 40.0, 15.0]), jnp.array([1.5, 7.0, 2.0, 60.0])
    value_and_slopes = jax.value_and_grad(lambda m, s: siegert(m, s, **CELL), argnums=(0, 1))
    rate, slopes = jax.jit(jax.vmap(value_and_slopes))(mean, sd)
    frequency = jnp.array([0.0, 1e6, -1e6])
    response = [
        np.asarray(
            jax.jit(lambda f, m=m: lif_transfer_function(f, mean, sd, **CELL, modulation=m))(
                frequency
            )
        )
        for m in ("mean", "variance")
    ]
    np.testing.assert_allclose(response[0][:, 0], slopes[0], rtol=1e-10)
    np.testing.assert_allclose(response[1][:, 0], slopes[1] / (2 * sd), rtol=1e-10)
    # High frequencies (Brunel et al. 2001, Lindner & Schimansky-Geier 2001), up to a relative
    # |y| sqrt(2 / omega tau), here 0.04 at most.
    order = 1j * 2 * np.pi * np.asarray(frequency[1:]) * CELL["tau"]
    expected = np.asarray(rate / sd)[:, None] * np.sqrt(2 / order)
    np.testing.assert_allclose(response[0][:, 1:], expected, rtol=0.04)
    expected = np.asarray(rate / sd**2)[:, None] + np.zeros(2)
    np.testing.assert_allclose(response[1][:, 1:], expected, rtol=0.04)


NAMES = ("mean", "sd", "tau", "threshold", "reset", "refractory", "synaptic_tau")
POINT = np.array([21.0, 5.0, 0.02, 20.0, 10.0, 0.002, 5e-4])
# About 8 Hz the slow form gives way to the fast one.
FREQUENCY = np.array([0.0, 3.0, 7.9, 8.1, 40.0, 700.0])


def response(x, f):
    z = lif_transfer_function(f, **dict(zip(NAMES, x, strict=True)))
    return jnp.stack([z.real, z.imag])


@pytest.mark.slow
def test_transfer_derivatives():
    at, frequency = jnp.asarray(POINT), jnp.asarray(FREQUENCY)
    compiled = jax.jit(response)
    by_cell, by_frequency = jax.jit(jax.jacfwd(response, argnums=(0, 1)))(at, frequency)
    for i in range(7):
        h = 1e-4 * at[i]
        differences = compiled(at.at[i].add(h), frequency) - compiled(at.at[i].add(-h), frequency)
        differences = differences / (2 * h)
        size = np.abs(differences).max()
        np.testing.assert_allclose(by_cell[..., i], differences, atol=1e-6 * size)
    h = 1e-4
    differences = (compiled(at, frequency + h) - compiled(at, frequency - h)) / (2 * h)
    by_frequency = jnp.diagonal(by_frequency, axis1=1, axis2=2)
    np.testing.assert_allclose(by_frequency, differences, atol=1e-7)


@pytest.mark.slow
def test_transfer_reverse():
    at, frequency = jnp.asarray(POINT), jnp.asarray(FREQUENCY)
    forward = jax.jit(jax.jacfwd(response))(at, frequency)
    backward = jax.jit(jax.jacrev(response))(at, frequency)
    np.testing.assert_allclose(forward, backward, rtol=1e-9, atol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match="threshold - reset"):
        siegert(15.0, 3.0, **CELL | {"reset": 20.0})
    with pytest.raises(ValueError, match="sd"):
        siegert(15.0, -1.0, **CELL)
    with pytest.raises(ValueError, match="one shape"):
        siegert(jnp.ones(3), jnp.ones(2), **CELL)
    with pytest.raises(ValueError, match="sd"):
        lif_transfer_function(1.0, 15.0, 0.0, **CELL)
    with pytest.raises(ValueError, match="modulation"):
        lif_transfer_function(1.0, 15.0, 1.0, **CELL, modulation="rate")
