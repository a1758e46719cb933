"""Drives: time courses averaged exactly, noise of the stated covariance, events none lost."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from neurofield.network import _drive as drives
from neurofield.network import _events as events
from neurofield.network import _kernel as kernels
from neurofield.network import _noise as noise
from neurofield.recording import Raster, Recording, bin_spikes

DT = 1e-3
KEY = jax.random.key(11)


@eqx.filter_jit
def run(source, size, steps, dt=DT, dtype=jnp.float64, first=0):
    """Inputs `[step, neuron]` of the steps from `first` on."""
    state = source.init(KEY, size, dt, dtype)

    def step(state, k):
        return source.step(jax.random.fold_in(KEY, k + 1), state, k, dt)

    return jax.lax.scan(step, state, first + jnp.arange(steps, dtype=jnp.int32))[1]


def z_scores(samples, mean):
    """Of the means over axis 0 of independent samples."""
    error = np.std(samples, 0, ddof=1) / np.sqrt(len(samples))
    return (np.mean(samples, 0) - mean) / error


# --- functions of time ----------------------------------------------------------------------------


def test_a_constant_is_what_was_given():
    np.testing.assert_array_equal(run(drives.Constant(2.5), 3, 2), np.full((2, 3), 2.5))
    values = np.array([1.0, -2.0, 3.0])
    np.testing.assert_array_equal(run(drives.Constant(values), 3, 2), np.tile(values, (2, 1)))
    with pytest.raises(ValueError, match=r"\[neuron\] = \(4,\), got \(3,\)"):
        run(drives.Constant(values), 4, 2)


@pytest.mark.parametrize("dt", [1e-3, 3e-4, 4e-3, 7e-3, 1 / 60, 0.05])
@pytest.mark.parametrize("after", ["hold", "zero"])
def test_a_time_course_is_averaged_exactly_over_each_step(dt, after):
    interval, values = 4e-3, np.random.default_rng(0).normal(size=(2, 9))
    source = drives.TimeCourse(values, interval, after)
    steps = int(1.5 * 9 * interval / dt) + 2
    found = run(source, 2, steps, dt)

    def integral(t):
        """Of the held samples from 0 to t."""
        last = values[:, -1:] * (after == "hold")
        edges = np.append(np.arange(10) * interval, 1e3)
        spans = np.clip(t - edges[:-1], 0, np.diff(edges))
        return np.concatenate([values, last], 1) @ spans

    wanted = [(integral((k + 1) * dt) - integral(k * dt)) / dt for k in range(steps)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_a_time_course_does_not_drift_in_float32():
    # Step 16,777,217 is no float32; samples alternate, so that a slip of one would flip them.
    num = 2_000_000
    values = jnp.asarray(np.arange(num) % 2, jnp.float32)
    source = drives.TimeCourse(values, 1e-3)
    first = 10 * (num - 10) + 7
    found = run(source, 1, 20, 1e-4, jnp.float32, first)
    np.testing.assert_array_equal(found[:, 0], (first + np.arange(20)) // 10 % 2)
    # Long after the end it holds still.
    np.testing.assert_array_equal(run(source, 1, 3, 1e-4, jnp.float32, 2**31 - 10), 1.0)


def test_a_function_is_taken_at_the_middle_of_the_step():
    found = run(drives.Function(lambda t: jnp.stack([t, t**2])), 2, 5)
    middle = (np.arange(5) + 0.5) * DT
    np.testing.assert_allclose(found, np.stack([middle, middle**2], 1), rtol=1e-13)


# --- noise ----------------------------------------------------------------------------------------


def test_white_noise_has_its_density_and_no_correlations():
    density = np.array([0.5, 2.0, 0.0])
    x = np.asarray(run(noise.WhiteNoise(density), 3, 40_000))
    assert (x[:, 2] == 0).all()
    squares = x[:, :2] ** 2 * DT
    assert np.abs(z_scores(squares, density[:2])).max() < 4
    assert np.abs(z_scores(x[:, :2], 0)).max() < 4
    assert np.abs(z_scores(np.stack([x[1:, 0] * x[:-1, 0], x[1:, 0] * x[1:, 1]], 1), 0)).max() < 4


def test_ornstein_uhlenbeck_noise_has_its_covariance_from_the_start():
    sd, tau, num = 1.7, 0.004, 40_000
    x = np.asarray(run(noise.OrnsteinUhlenbeck(sd, tau), num, 9))
    for first, lag in [(0, 0), (0, 1), (0, 5), (4, 4), (8, 0)]:
        products = x[first] * x[first + lag]
        assert abs(z_scores(products, sd**2 * np.exp(-lag * DT / tau))) < 4
        assert abs(z_scores(x[first] * np.roll(x[first + lag], 1), 0)) < 4
        # Gaussian.
        assert abs(z_scores(x[first + lag] ** 4, 3 * sd**4)) < 4


def test_ornstein_uhlenbeck_parameters_may_differ_between_neurons():
    sd, tau = np.array([0.5, 2.0]), np.array([0.002, 0.02])
    x = np.asarray(run(noise.OrnsteinUhlenbeck(sd, tau), 2, 200_000))
    # Blocks of 2,000 steps, 100 correlation times and more, are as independent samples.
    for lag in (0, 3):
        blocks = (x[: len(x) - lag] * x[lag:])[: 99 * 2000].reshape(99, 2000, 2).mean(1)
        assert np.abs(z_scores(blocks, sd**2 * np.exp(-lag * DT / tau))).max() < 4


def test_quenched_heterogeneity_is_static():
    x = np.asarray(run(noise.Quenched(3.0), 20_000, 3))
    np.testing.assert_array_equal(x[0], x[2])
    assert abs(z_scores(x[0] ** 2, 9.0)) < 4
    assert abs(z_scores(x[0], 0.0)) < 4


# --- events ---------------------------------------------------------------------------------------


def test_poisson_events_through_a_delta_are_jumps_in_their_own_step():
    rate, weight = np.array([300.0, 4000.0]), np.array([0.2, -0.1])
    x = np.asarray(run(events.Poisson(rate, weight), 2, 20_000))
    counts = x * DT / weight
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-12)
    mean = rate * DT
    assert np.abs(z_scores(counts, mean)).max() < 4
    assert np.abs(z_scores((counts - mean) ** 2, mean)).max() < 4
    assert np.abs(z_scores((counts - mean)[1:] * (counts - mean)[:-1], 0)).max() < 4


def test_filtered_poisson_events_have_the_moments_of_shot_noise():
    rate, weight, tau, num = 800.0, 0.3, 0.003, 20_000
    source = events.Poisson(rate, weight, kernels.Exponential(tau), "current")
    x = np.asarray(run(source, num, 41))[-1]
    # Arrivals at the ends of steps, mean over the step after: sums of geometric series.
    decay = np.exp(-DT / tau)
    mean_of_step = weight * tau * (1 - decay) / DT
    forgotten = 1 - decay ** np.array([40, 80])
    mean = mean_of_step * rate * DT / (1 - decay) * forgotten[0]
    variance = mean_of_step**2 * rate * DT / (1 - decay**2) * forgotten[1]
    assert abs(z_scores(x, mean)) < 4
    assert abs(z_scores((x - mean) ** 2, variance)) < 4
    # Campbell's theorem, whatever the step.
    np.testing.assert_allclose(mean, weight * rate * tau * forgotten[0], rtol=1e-12)


def test_rates_of_poisson_events_follow_time():
    def rate(t):
        return 500 * (1 + jnp.sin(200 * t))

    times = (np.arange(30) + 0.5) * DT
    course = drives.TimeCourse(rate(times), DT)
    for source in (events.Poisson(rate, 1.0), events.Poisson(course, 1.0)):
        counts = np.asarray(run(source, 5000, 30)) * DT
        z = (counts.mean(1) - rate(times) * DT) / np.sqrt(rate(times) * DT / 5000)
        assert np.abs(z).max() < 4
    # Both take the rate at the middle of the step: the same counts from the same key.
    np.testing.assert_array_equal(
        run(events.Poisson(rate, 1.0), 5, 30), run(events.Poisson(course, 1.0), 5, 30)
    )


def test_pending_spikes_of_a_poisson_source():
    rate, tau, weight, num = 2000.0, 0.0045, 0.95, 4000
    source = events.Poisson(rate, weight, kernels.Pending(tau))
    dt = 1e-4
    x = np.asarray(run(source, num, 451, dt))[-1] / weight * tau
    np.testing.assert_allclose(x, np.round(x), atol=1e-9)
    # Mean rate tau (1 - (1 - dt / tau)^450); Poisson up to dt / tau = 2 %.
    mean = rate * tau * (1 - (1 - dt / tau) ** 450)
    assert abs(x.mean() - mean) < 4 * np.sqrt(mean / num)
    assert abs(x.var() / mean - 1) < 4 * np.sqrt(2 / num) + 0.02


@pytest.mark.parametrize("per_bin", [1, 5])
def test_events_deliver_every_spike_at_the_end_of_its_bin(per_bin):
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 3, (4, 20))
    weights = rng.normal(size=(6, 4))
    source = events.Events(Raster(counts, per_bin * DT), weights)
    x = np.asarray(run(source, 6, 20 * per_bin + 7)) * DT
    wanted = np.zeros_like(x)
    wanted[per_bin - 1 : 20 * per_bin : per_bin] = (weights @ counts).T
    np.testing.assert_allclose(x, wanted, atol=1e-13)


def test_filtered_events_are_the_convolution_with_the_kernel():
    counts = np.zeros((1, 8), int)
    counts[0, [0, 3]] = 1, 2
    tau = 0.004
    source = events.Events(Raster(counts, DT), np.array([[0.5]]), kernels.Alpha(tau), "current")
    found = np.asarray(run(source, 1, 20))[:, 0]

    def formula(t):
        return t / tau * np.exp(1 - t / tau)

    wanted = np.zeros(20)
    for arrival, weight in ((1, 0.5), (4, 1.0)):  # at the end of steps 0 and 3
        for k in range(arrival, 20):
            start = (k - arrival) * DT
            wanted[k] += weight * quad(formula, start, start + DT, epsabs=1e-15)[0] / DT
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_events_of_a_recording_at_their_times():
    times = [np.array([0.0011, 0.0012, 0.0093]), np.array([0.0002])]
    recording = Recording(times, epochs=[("all", 0.0, 0.012)])
    raster = bin_spikes(recording, DT, counts=True)
    x = np.asarray(run(events.Events(raster, np.eye(2)), 2, 12)) * DT
    wanted = np.zeros((12, 2))
    wanted[1, 0], wanted[9, 0], wanted[0, 1] = 2, 1, 1
    np.testing.assert_allclose(x, wanted, atol=1e-14)


def test_events_refuse_what_they_cannot_replay():
    raster, weights = Raster(np.ones((2, 5)), 1e-3), np.ones((3, 2))
    with pytest.raises(ValueError, match="whole multiple of dt"):
        run(events.Events(raster, weights), 3, 1, 3e-4)
    with pytest.raises(ValueError, match="whole multiple of dt"):
        run(events.Events(raster, weights), 3, 1, 2e-3)
    with pytest.raises(ValueError, match="are of 3 neurons"):
        run(events.Events(raster, weights), 4, 1)
    with pytest.raises(ValueError, match="of 2 sources"):
        events.Events(raster, weights.T)
    with pytest.raises(ValueError, match="choose one trial"):
        events.Events(Raster(np.ones((4, 2, 5)), 1e-3), weights)
    masked = Raster(np.ones((2, 5)), 1e-3, mask=np.arange(5) > 0)
    with pytest.raises(ValueError, match="masked bins"):
        events.Events(masked, weights)


# --- all together ---------------------------------------------------------------------------------

ALL = (
    drives.Constant(2.0),
    drives.TimeCourse(np.arange(5.0), 0.003),
    drives.Function(jnp.sin),
    noise.WhiteNoise(0.1),
    noise.OrnsteinUhlenbeck(1.0, 0.01),
    noise.Quenched(1.0),
    events.Poisson(900.0, 0.1, kernels.Pending(0.01)),
    events.Poisson(900.0, 0.1, kernels.Alpha(0.01), "current"),
    events.Events(Raster(np.ones((2, 5)), DT), np.ones((1, 2))),
)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_every_source_keeps_the_dtype_and_drives_a_single_target(dtype):
    # One target, as noise shared by a network has.
    for source in ALL:
        x = run(source, 1, 4, dtype=dtype)
        assert x.dtype == dtype
        assert x.shape == (4, 1)
        assert jnp.isfinite(x).all()


def test_a_drive_is_the_sum_of_its_sources_by_channel():
    state = drives.Drive(*ALL[:3], ALL[8]).init(KEY, 1, DT, jnp.float64)
    _, inputs = drives.Drive(*ALL[:3], ALL[8]).step(KEY, state, jnp.int32(4), DT)
    separate = [run(source, 1, 5)[-1] for source in (*ALL[:3], ALL[8])]
    assert set(inputs) == {"current", "jump"}
    np.testing.assert_allclose(inputs["current"], sum(separate[:3]), rtol=1e-14)
    np.testing.assert_allclose(inputs["jump"], separate[3], rtol=1e-14)
    assert drives.Drive().init(KEY, 3, DT, jnp.float64) == ()
    with pytest.raises(ValueError, match="takes sources"):
        drives.Drive(3.0)


def test_sources_of_a_drive_draw_independently():
    drive = drives.Drive(noise.WhiteNoise(1.0), noise.WhiteNoise(1.0, "excitatory"))
    state = drive.init(KEY, 20_000, DT, jnp.float64)
    _, inputs = drive.step(KEY, state, jnp.int32(0), DT)
    product = np.asarray(inputs["current"] * inputs["excitatory"])
    assert abs(z_scores(product, 0)) < 4


def test_gradients_equal_finite_differences():
    raster = Raster(np.random.default_rng(0).integers(0, 2, (2, 6)), DT)

    def loss(p):
        sources = (
            drives.Constant(p[0]),
            drives.TimeCourse(p[1] * jnp.arange(1.0, 5.0) ** 2, 0.0015),
            noise.WhiteNoise(p[2]),
            noise.OrnsteinUhlenbeck(p[3], p[4] * 0.01),
            noise.Quenched(p[5]),
            events.Poisson(900.0, p[6], kernels.Exponential(p[7] * 0.01)),
            events.Events(raster, p[8] * jnp.ones((2, 2)), kernels.Alpha(p[9] * 0.01)),
        )
        return sum(jnp.sum(run(source, 2, 6) ** 2) for source in sources)

    point = jnp.linspace(0.7, 1.3, 10)
    loss = jax.jit(loss)
    found = jax.jit(jax.jacfwd(loss))(point)
    for i, slope in enumerate(found):
        h = 1e-6 * jnp.eye(10)[i]
        wanted = (loss(point + h) - loss(point - h)) / 2e-6
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(slope, wanted, rtol=1e-5, err_msg=str(i))


def test_the_rate_of_random_events_has_no_derivative():
    with pytest.raises(TypeError, match="no derivative by its mean"):
        jax.grad(lambda rate: run(events.Poisson(rate, 1.0), 2, 3).sum())(800.0)
    source = events.Poisson(900.0, 1.0, kernels.Pending(0.01))

    def pending(tau):
        return run(eqx.tree_at(lambda s: s.kernel.tau, source, tau), 2, 3).sum()

    with pytest.raises(TypeError, match="no derivative by its mean"):
        jax.grad(pending)(jnp.asarray(0.01))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: drives.Constant(np.nan), "value must be finite"),
        (lambda: drives.TimeCourse(np.ones(3), 0.0), "interval must be finite and positive"),
        (lambda: drives.TimeCourse(np.ones((2, 2, 2)), 0.1), "values must be"),
        (lambda: drives.TimeCourse(np.ones(3), 0.1, "stop"), 'after must be "hold" or "zero"'),
        (lambda: noise.WhiteNoise(-1.0), "density must be finite and not negative"),
        (lambda: noise.OrnsteinUhlenbeck(-1.0, 0.1), "sd must be"),
        (lambda: noise.OrnsteinUhlenbeck(1.0, 0.0), "tau must be"),
        (lambda: noise.Quenched(np.inf), "sd must be"),
        (lambda: events.Poisson(-3.0, 1.0), "rate must be"),
        (lambda: events.Poisson(drives.TimeCourse(-np.ones(3), 0.1), 1.0), "rate must be"),
        (lambda: events.Poisson(3.0, np.nan), "weight must be"),
        (lambda: run(drives.TimeCourse(np.ones(3), 1e-3 * np.pi), 1, 1), "resample"),
    ],
)
def test_impossible_drives_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
