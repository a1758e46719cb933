"""Readouts of rates against the published program's traces, closed forms, and `measure`.

`reference/markov/`: `rates_gamma.csv` (1 ms: a seed of the spiking network, the map with published
and with exact refractoriness), `psd_gamma.csv` (from 2 s of the same), `octave_gamma_0p1ms.csv`
(the published program, run in Octave), after the reference tables of `theory/markov.md`, sec. 6.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import markov
from neurofield._results import RESULTS
from neurofield.markov._loss import band_power, centre_frequency, crossing_time, volley
from neurofield.markov._readout import (
    binned_rate,
    coefficient_of_variation,
    field_potential,
    mean_rate,
    spectrum,
    synchrony_index,
)
from neurofield.markov._statistics import statistics
from neurofield.recording import Raster
from neurofield.statistics import measure

REFERENCE = Path(__file__).parent / "reference" / "markov"
PARAMS = markov.default_parameters("gamma")


def table(name):
    return np.genfromtxt(REFERENCE / name, delimiter=",", names=True)


def solution(rate, save_dt=1e-3, backend="ode", seed=0):
    """A solution with these rates, the rest drawn."""
    rng = np.random.default_rng(seed)
    *batch, _, num_bins = rate.shape
    pair = (*batch, 2, 2, num_bins)
    return markov.Solution(
        time=jnp.broadcast_to(save_dt * np.arange(1, num_bins + 1), (*batch, num_bins)),
        rate=jnp.asarray(rate),
        mean=jnp.asarray(rng.gamma(2.0, 3.0, pair)),
        variance=jnp.asarray(rng.gamma(2.0, 3.0, pair)),
        occupancy=None,
        refractory=None,
        voltage=jnp.asarray(rng.uniform(-60.0, 90.0, rate.shape)),
        final=None,
        params=jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape)), PARAMS),
        result=RESULTS.successful,
        stats={},
        save_dt=save_dt,
        grid=markov.voltage_grid(PARAMS, 10.0),
        backend=backend,
        closure="published",
    )


# --- against the published program ----------------------------------------------------------------


@pytest.mark.parametrize("model", ["authors", "exact"])
def test_the_spectrum_is_that_of_the_reference(model):
    # On a limit cycle 500 ms have the spectrum of 2 s, up to the window's place in the cycle.
    rate = jnp.asarray(table("rates_gamma.csv")[f"{model}_E"][None, -500:])
    frequency, density = spectrum(rate, segment_length=500, save_dt=1e-3)
    expected = table("psd_gamma.csv")
    np.testing.assert_allclose(frequency, expected["f_Hz"], atol=1e-9)
    one_sided = 2 * density[:, 0, 0].real
    reference = expected["dsode_authors" if model == "authors" else "dsode_refexact"]
    # The table has six digits, and so have the rates: 1e-6 of the peak in its flanks.
    near, digit = slice(25, 32), 1e-6 * reference.max()  # 50 to 62 Hz
    np.testing.assert_allclose(one_sided[near], reference[near], rtol=1e-4, atol=digit)
    assert frequency[int(np.argmax(one_sided))] == 56  # the table's peak


def test_variation_and_rate_on_the_cycle():
    # 28 cycles and a part, the rest of a cycle being 1 / 28 at most: 2 %; tables have 2 s.
    rate = jnp.asarray(table("rates_gamma.csv")["exact_E"][None])
    found = coefficient_of_variation(rate, discard=0.1, save_dt=1e-3)
    np.testing.assert_allclose(found, 1.4889, rtol=0.02)
    np.testing.assert_allclose(mean_rate(rate, discard=0.1, save_dt=1e-3), 67.619, rtol=0.02)


def test_synchrony_is_that_of_the_reference():
    # Four whole cycles of the published program; the table has 2 s of them (0.24856).
    count = table("octave_gamma_0p1ms.csv")["E_spk_per_ms"] * 0.1
    peaks = np.flatnonzero((count[1:-1] > count[:-2]) & (count[1:-1] > count[2:])) + 1
    peaks = peaks[count[peaks] > 2]
    cycles = count[peaks[3] - 60 : peaks[-1] - 60]
    found = synchrony_index(jnp.asarray(cycles[None] / (300 * 1e-4)), save_dt=1e-4)
    np.testing.assert_allclose(found, 0.24856, rtol=1e-3)


def test_synchrony_is_its_definition():
    rng = np.random.default_rng(1)
    spikes = rng.poisson(0.7, (2, 3, 40))
    size = np.array([30, 20, 10])
    expected = np.zeros((2, 3))
    for b in range(2):
        for q in range(3):
            s = spikes[b, q]
            total = sum(s[j] * s[max(j - 5, 0) : j + 6].sum() for j in range(40))
            expected[b, q] = total / (size[q] * s.sum())
    rate = jnp.asarray(spikes / (size[None, :, None] * 1e-4))
    np.testing.assert_allclose(synchrony_index(rate, save_dt=1e-4), expected, rtol=1e-12)
    # Without synchrony 11 bins x rate: the table's `hom`, but for the ends.
    flat = synchrony_index(jnp.full((1, 20_000), 14.538), save_dt=1e-4)
    np.testing.assert_allclose(flat, 0.015991, rtol=4e-4)
    assert synchrony_index(jnp.zeros((1, 20)), save_dt=1e-4)[0] == 0


# --- closed forms ---------------------------------------------------------------------------------

TIME = (np.arange(1000) + 0.5) * 1e-3


def wave(frequency, depth=0.6, mean=20.0):
    return mean * (1 + depth * jnp.cos(2 * jnp.pi * frequency * jnp.asarray(TIME) + 0.3))[None]


def test_a_wave():
    # 20 Hz in 500 bins of 1 ms: ten periods, so all sums are exact.
    rate, options = wave(20.0), {"segment_length": 500, "save_dt": 1e-3}
    np.testing.assert_allclose(coefficient_of_variation(rate, save_dt=1e-3), 0.6 / 2**0.5)
    power = (20 * 0.6) ** 2 / 2
    np.testing.assert_allclose(band_power(rate, 14.0, 26.0, **options), power)
    np.testing.assert_allclose(band_power(rate, 0.0, 500.0, **options), power)
    np.testing.assert_allclose(centre_frequency(rate, 10.0, 30.0, **options), 20.0)
    assert band_power(rate, 30.0, 400.0, **options)[0] < 1e-20 * power
    # Bins of 10 ms see a wave weakened by sin(x) / x, here of sums of ten bins.
    weak = np.sin(np.pi * 20 * 1e-2) / (10 * np.sin(np.pi * 20 * 1e-3))
    coarse = coefficient_of_variation(rate, bin_width=1e-2, save_dt=1e-3)
    np.testing.assert_allclose(coarse, 0.6 / 2**0.5 * weak)
    assert binned_rate(rate, bin_width=0.1, discard=0.3, save_dt=1e-3).shape == (1, 7)


def test_the_centre_frequency_follows_a_wave_between_frequencies():
    # Off the frequencies of the spectrum, too, where a maximum's place would not move at all: the
    # window's lobe is cut by the band far from it, which leaves 1e-3 of the spacing (2 Hz).
    def centre(frequency):
        return centre_frequency(wave(frequency), 80.0, 120.0, segment_length=500, save_dt=1e-3)[0]

    value, slope = jax.jit(jax.value_and_grad(centre))(101.3)
    np.testing.assert_allclose(value, 101.3, atol=2e-3)
    np.testing.assert_allclose(slope, 1, atol=2e-3)


def bump(size, at, width):
    x = (TIME[:200] - at) / width
    return (size / (width * np.sqrt(2 * np.pi)) * jnp.exp(-(x**2) / 2))[None]


def test_a_volley():
    # Sums over 1 ms of a smooth bump 4 ms wide are its integrals to rounding.
    rate = bump(1.5, 0.0643, 0.004)
    found = volley(rate, 0.02, 0.1, save_dt=1e-3)
    np.testing.assert_allclose(found.size, 1.5, rtol=1e-9)
    np.testing.assert_allclose(found.latency, 0.0443, rtol=1e-9)
    np.testing.assert_allclose(found.width, 0.004, rtol=1e-9)
    # Linear inside a bin: an error of (0.5 ms)^2 / 2 x slope / rate, less than 0.25 / 32 ms here.
    found = crossing_time(rate, 0.75, 0.02, save_dt=1e-3)
    np.testing.assert_allclose(found, 0.0443, atol=1e-5)
    assert np.isinf(crossing_time(rate, 1.6, save_dt=1e-3)[0])


@pytest.mark.parametrize(
    "readout",
    [
        lambda r: coefficient_of_variation(r, save_dt=1e-3),
        lambda r: synchrony_index(r, half_window=2e-3, save_dt=1e-3),
        lambda r: band_power(r, 5.0, 60.0, segment_length=40, save_dt=1e-3),
        lambda r: centre_frequency(r, 20.0, 200.0, segment_length=50, save_dt=1e-3),
        lambda r: jnp.stack(jax.tree.leaves(volley(r, 0.03, 0.08, save_dt=1e-3))),
        lambda r: crossing_time(r, 0.61, save_dt=1e-3),
    ],
)
def test_readouts_have_the_derivatives_of_finite_differences(readout):
    def value(theta):
        rate = 3 + bump(theta[0], theta[1] / 10, theta[2] / 100)
        return jnp.sum(readout(rate) * 10)

    theta, step = jnp.array([1.1, 0.61, 0.7]), 1e-5
    slope = jax.jit(jax.grad(value))(theta)
    value = jax.jit(value)
    for i in range(3):
        away = step * jnp.eye(3)[i]
        numeric = (value(theta + away) - value(theta - away)) / (2 * step)
        np.testing.assert_allclose(slope[i], numeric, rtol=1e-6, atol=1e-8)


def test_a_silent_and_a_constant_population_have_finite_derivatives():
    def total(level):
        rate = jnp.full((1, 50), 1.0) * level
        found = coefficient_of_variation(rate, save_dt=1e-3)
        return jnp.sum(found + synchrony_index(rate, half_window=2e-3, save_dt=1e-3))

    for level in (0.0, 5.0):
        assert np.isfinite(jax.grad(total)(level))


def test_a_solve_that_failed_is_no_silence():
    rate = jnp.ones((1, 100)).at[:, 50:].set(jnp.nan)
    found = (
        synchrony_index(rate, half_window=1e-3, save_dt=1e-3),
        coefficient_of_variation(rate, save_dt=1e-3),
        crossing_time(rate, 0.07, save_dt=1e-3),
    )
    assert all(np.isnan(x).all() for x in found)
    with pytest.raises(RuntimeError, match="NaN"):
        markov.dwell_times(rate, bin_width=1e-3, window=0.01)


def test_field_potential():
    found = solution(np.ones((3, 2, 7)))
    proxy = field_potential(found)
    assert proxy.current.shape == proxy.voltage.shape == (3, 2, 7)
    s, tau, reach = PARAMS.charge, PARAMS.tau, 166.0
    for q in range(2):
        excitation = s[q, 0] / tau[q, 0] * found.mean[1, q, 0]
        inhibition = s[q, 1] / tau[q, 1] * found.mean[1, q, 1]
        expected = excitation + inhibition * (found.voltage[1, q] + 66) / reach
        np.testing.assert_allclose(proxy.current[1, q], expected, rtol=1e-12)


def test_bad_times_are_refused():
    rate = jnp.ones((2, 100))
    with pytest.raises(ValueError, match="save_dt"):
        mean_rate(rate)
    with pytest.raises(ValueError, match="its own save_dt"):
        mean_rate(solution(np.ones((2, 10))), save_dt=1e-3)
    with pytest.raises(ValueError, match=r"discard = 0\.0123 s must be a multiple"):
        mean_rate(rate, discard=0.0123, save_dt=1e-3)
    with pytest.raises(ValueError, match="whole bins"):
        binned_rate(rate, bin_width=7e-3, save_dt=1e-3)
    with pytest.raises(ValueError, match="whole bins"):
        mean_rate(rate, discard=0.1, save_dt=1e-3)
    with pytest.raises(ValueError, match="half_window"):
        synchrony_index(rate, save_dt=1e-3)
    with pytest.raises(ValueError, match="no frequency"):
        band_power(rate, 21.0, 29.0, segment_length=100, save_dt=1e-3)
    with pytest.raises(ValueError, match="count must be"):
        crossing_time(rate, 0.0, save_dt=1e-3)
    with pytest.raises(ValueError, match="must lie in the"):
        volley(rate, 0.05, 0.06, save_dt=1e-3)


# --- statistics, as of a measurement --------------------------------------------------------------


def spikes_of(seed, *shape):
    """Of 30 + 10 neurons with a common rhythm, and as rates of populations."""
    time = np.arange(shape[-1])
    chance = 0.1 + 0.08 * np.cos(2 * np.pi * time / 25)
    rng = np.random.default_rng(seed)
    spikes = rng.random((*shape[:-1], 40, shape[-1])) < chance
    raster = Raster(
        spikes.astype(np.uint8),
        1e-3,
        populations=np.repeat([0, 1], [30, 10]),
        population_names=("E", "I"),
    )
    means = np.stack([spikes[..., :30, :].mean(-2), spikes[..., 30:, :].mean(-2)], axis=-2)
    return raster, means / 1e-3


def agree(found, expected, rtol=1e-9):
    assert found.labels == expected.labels
    for name in ("rate", "covariance", "lagged", "frequency", "spectrum"):
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-9 * np.abs(b).max(), err_msg=name)


@pytest.mark.slow
def test_statistics_are_those_of_a_measurement():
    raster, rate = spikes_of(0, 1000)
    expected = measure(raster, 5, populations=True)
    found = statistics(solution(rate), num_lags=5)
    agree(found, expected)
    assert found.rate_error is None
    assert found.spectrum_error is None
    # Leading axes of parameter sets stay; the beginning is left out.
    both = statistics(solution(np.stack([rate, 2 * rate])), num_lags=5, discard=0.2)
    later = Raster(
        raster.spikes[:, 200:],
        1e-3,
        populations=raster.populations,
        population_names=("E", "I"),
    )
    expected = measure(later, 5, populations=True)
    np.testing.assert_allclose(both.rate[1], 2 * expected.rate)
    np.testing.assert_allclose(both.lagged[1], 4 * expected.lagged, atol=1e-12)
    np.testing.assert_allclose(both.spectrum[0], expected.spectrum, atol=1e-12)


@pytest.mark.slow
def test_statistics_pool_chains():
    raster, rate = spikes_of(1, 24, 400)
    expected = measure(raster, 3, populations=True, segment_length=64)
    found = statistics(solution(rate, backend="markov"), num_lags=3, segment_length=64)
    agree(found, expected)
    # The jackknife of one chain at a time against that of first order: alike to 1 / chains.
    for name in ("rate_error", "lagged_error", "spectrum_error"):
        ratio = getattr(found, name) / getattr(expected, name)
        np.testing.assert_allclose(ratio, 1, atol=0.1, err_msg=name)
    one = statistics(solution(rate[:1], backend="markov"))
    assert one.rate.shape == (2,)
    assert one.rate_error is None
    with pytest.raises(ValueError, match="finite_size"):
        statistics(solution(rate, backend="markov"), finite_size=True)


@pytest.mark.slow
def test_finite_size_is_the_noise_of_independent_counts():
    # A given course of the rate: independent spikes add the variance p (1 - p) / N to the mean of a
    # bin, p / N of which is Poisson's.
    raster, _ = spikes_of(2, 40, 1000)
    measured = measure(raster, 2, populations=True, segment_length=100)
    chance = 0.1 + 0.08 * np.cos(2 * np.pi * np.arange(1000) / 25)
    size = np.array([30.0, 10.0])
    course = solution(np.broadcast_to(chance / 1e-3, (2, 1000)).copy())
    course = eqx.tree_at(lambda s: s.params.size, course, jnp.asarray(size))
    theory = statistics(course, num_lags=2, segment_length=100, finite_size=True)
    excess = np.diag(np.mean(chance**2) / size)
    z = (measured.lagged[0] - (theory.lagged[0] - excess)) / measured.lagged_error[0]
    assert np.abs(z).max() < 4
    z = (measured.lagged[1] - theory.lagged[1]) / measured.lagged_error[1]
    assert np.abs(z).max() < 4
    density = np.asarray(theory.spectrum) - 1e-3 * excess[None]
    z = np.abs(measured.spectrum - density) / measured.spectrum_error
    assert np.mean(z[1:-1] ** 2) < 1.5  # moduli: of mean square 1


# --- of solutions ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_finite_volumes_have_the_reference_readouts():
    # `fokker_planck_fv.csv`, gamma: 68.21 Hz, variation 1.53, synchrony 0.257, 58 Hz (2 Hz wide).
    found = markov.solve(PARAMS, 1.2, closure="published", save_dt=1e-4, rtol=1e-4)
    np.testing.assert_allclose(mean_rate(found, discard=0.2)[0], 68.21, rtol=0.01)
    np.testing.assert_allclose(coefficient_of_variation(found, discard=0.2)[0], 1.53, rtol=0.01)
    np.testing.assert_allclose(synchrony_index(found, discard=0.2)[0], 0.257, rtol=0.01)
    frequency, density = spectrum(found, segment_length=500, bin_width=1e-3, discard=0.2)
    assert abs(frequency[8 // 2 + int(np.argmax(density[4:, 0, 0].real))] - 57) <= 1
    centre = centre_frequency(found, 40.0, 75.0, segment_length=500, bin_width=1e-3, discard=0.2)
    np.testing.assert_allclose(centre[0], 57.0, atol=1.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regime", "rate", "variation", "synchrony"),
    [("gamma", 67.619, 1.4889, 0.2431), ("hom", 14.538, 0.0, 0.015991)],
)
def test_the_map_has_the_reference_readouts(regime, rate, variation, synchrony):
    # `reference_stats.csv`, dsode_refexact.
    found = markov.solve(
        markov.default_parameters(regime),
        1.1,
        backend="map",
        closure="published",
        voltage_bin=4.0,
        save_dt=1e-4,
    )
    options = {"discard": 0.5}
    np.testing.assert_allclose(mean_rate(found, **options)[0], rate, rtol=0.01)
    found_variation = coefficient_of_variation(found, **options)[0]
    np.testing.assert_allclose(found_variation, variation, rtol=0.01, atol=1e-4)
    np.testing.assert_allclose(synchrony_index(found, **options)[0], synchrony, rtol=0.01)
