"""Weight distributions and delays: what is drawn follows its law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sampling import assert_frequencies, assert_mean, rows

from neurofield.network import erdos_renyi, gaussian
from neurofield.network._delay import NormalDelay, UniformDelay, delay_steps
from neurofield.network._weights import LogNormal, Normal, check_dale

# --- weights --------------------------------------------------------------------------------------


def truncated(mean, sd):
    """The law of normal weights without those of the wrong sign, of |weight|."""
    return scipy.stats.truncnorm(-abs(mean) / sd, np.inf, loc=abs(mean), scale=sd)


def log_normal(mean, sd):
    variance = np.log1p((sd / mean) ** 2)
    return scipy.stats.lognorm(np.sqrt(variance), scale=abs(mean) * np.exp(-variance / 2))


@pytest.mark.parametrize(
    ("weight", "law", "sign"),
    [
        (Normal(-0.4, 0.3), scipy.stats.norm(-0.4, 0.3), 1),
        (Normal(0.4, 0.3, dale=True), truncated(0.4, 0.3), 1),
        (Normal(-0.4, 0.8, dale=True), truncated(0.4, 0.8), -1),
        (Normal(0.0, 0.8, dale=True), truncated(0.0, 0.8), 1),
        (Normal(2.0, 0.02, dale=True), truncated(2.0, 0.02), 1),
        (LogNormal(0.3, 0.5), log_normal(0.3, 0.5), 1),
        (LogNormal(-0.3, 0.1), log_normal(0.3, 0.1), -1),
    ],
)
def test_weight_distributions(weight, law, sign):
    mean, variance = weight.moments()
    np.testing.assert_allclose([sign * mean, variance], law.stats("mv"), rtol=1e-10)
    drawn = sign * np.asarray(weight.sample(jax.random.key(13), (50, 400), jnp.float64)).ravel()
    assert_mean(drawn, float(sign * mean))
    assert_mean((drawn - float(sign * mean)) ** 2, float(variance))
    assert scipy.stats.kstest(drawn, law.cdf).pvalue > 1e-4
    single = weight.sample(jax.random.key(13), (3,), jnp.float32)
    assert single.dtype == jnp.float32
    if law.support()[0] == 0:
        assert (drawn >= 0).all()


def test_check_dale():
    key = jax.random.key(14)
    lawful = rows(erdos_renyi(0.5, Normal(-0.1, 0.3, dale=True)), key, 20, 20)
    check_dale(lawful)
    check_dale(jnp.concatenate([lawful, -lawful], axis=1))
    with pytest.raises(ValueError, match=r"20 of 20 sources .* columns \[0, 1, 2, 3, 4\] and more"):
        check_dale(rows(gaussian(0.0, 1.0), key, 20, 20))


# --- delays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "law", "most"),
    [
        (UniformDelay(0.001, 0.0025), scipy.stats.uniform(10, 15), 25),
        (UniformDelay(0.0001, 0.0003), scipy.stats.uniform(1, 2), 3),
        (NormalDelay(0.001, 0.0004), scipy.stats.truncnorm(-2.25, 6, 10, 4), 34),
        (NormalDelay(0.0001, 0.0002), scipy.stats.truncnorm(0, 6, 1, 2), 13),
    ],
)
def test_delays_are_rounded_to_the_grid(delay, law, most):
    steps = np.asarray(delay.sample(jax.random.key(15), (200, 200), 1e-4))
    assert steps.dtype == np.int32
    assert delay.max_steps(1e-4) == most
    assert steps.min() >= 1
    assert steps.max() <= most
    grid = np.arange(1, most + 1)
    chance = law.cdf(grid + 0.5) - law.cdf(grid - 0.5)
    np.testing.assert_allclose(chance.sum(), 1, atol=1e-8)
    assert_frequencies(np.bincount(steps.ravel(), minlength=most + 1)[1:], chance / chance.sum())


def test_constant_delay():
    assert (UniformDelay(0.0015, 0.0015).sample(jax.random.key(0), (3,), 1e-4) == 15).all()
    assert delay_steps(0.0015, 1e-4) == 15
    assert delay_steps(float(np.float32(0.0015)), 1e-4) == 15
    assert delay_steps(1e-4, 1e-4) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: delay_steps(5e-5, 1e-4), r"5e-05 s.*dt = 0.0001 s"),
        (lambda: delay_steps(0.0, 1e-4), r"dt = 0.0001 s"),
        (lambda: delay_steps(-1.0, 1e-4), r"dt = 0.0001 s"),
        (lambda: delay_steps(0.00155, 1e-4), r"15.5 steps of dt = 0.0001 s.*whole"),
        (lambda: delay_steps(float("nan"), 1e-4), r"finite"),
        (lambda: delay_steps(float("inf"), 1e-4), r"finite"),
        (lambda: UniformDelay(5e-5, 1e-3).sample(jax.random.key(0), (), 1e-4), r"dt = 0.0001 s"),
        (lambda: UniformDelay(5e-5, 1e-3).check(1e-4), r"the shortest delay is 5e-05 s.*dt"),
        (lambda: NormalDelay(5e-5, 1e-3).check(1e-4), r"the mean delay is 5e-05 s.*dt"),
        (lambda: UniformDelay(2e-3, 1e-3), r"low <= high"),
        (lambda: UniformDelay(0.0, 1e-3), r"0 < low"),
        (lambda: UniformDelay(1e-3, float("inf")), r"finite"),
        (lambda: NormalDelay(1e-3, 0.0), r"positive"),
        (lambda: NormalDelay(float("nan"), 1e-3), r"positive"),
    ],
)
def test_delay_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
