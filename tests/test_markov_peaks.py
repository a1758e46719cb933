"""Peak differences of constructed rates, and the published diagram."""

from pathlib import Path

import equinox as eqx
import numpy as np
import pytest

from neurofield.markov import default_parameters
from neurofield.markov._peaks import peak_diagram, peak_differences

REFERENCE = Path(__file__).parent / "reference" / "markov"
DT = 1e-4


def volleys(times, heights, width=2e-3, duration=1.0):
    time = DT * np.arange(round(duration / DT))
    bumps = np.exp(-((time[None] - np.asarray(times)[:, None]) ** 2) / (2 * width**2))
    return np.asarray(heights) @ bumps


def test_alternating_volleys_are_found_with_their_differences():
    times = 0.02 + 0.018 * np.arange(50)
    heights = np.where(np.arange(50) % 2, 6e4, 1.6e5)
    # A moving average of 9 samples over a peak of 2 ms: its variance is 80 / 12 samples squared.
    lost = 1 - 80 / 12 * DT**2 / (2 * 2e-3**2)
    found = peak_differences(volleys(times, heights), DT, discard=0.1)
    kept = times > 0.1
    np.testing.assert_allclose(found.time, times[kept], atol=1e-9)
    # To the fourth order: (0.26 ms / 2 ms)^4 / 8.
    np.testing.assert_allclose(found.height, heights[kept] * lost, rtol=1e-4)
    assert abs(found.mean_difference - 1e5 * lost) < 10
    assert abs(found.mean_interval - 0.018) < 1e-5
    # Two bins: up and down by 99 spikes/ms.
    filled = found.edges[:-1][found.histogram > 0]
    assert filled.tolist() == [-1e5, 9.5e4]
    assert found.histogram.sum() == kept.sum() - 1


def test_small_and_close_peaks_are_no_volleys():
    times, heights = [0.2, 0.205, 0.3, 0.4, 0.5], [9e4, 5e4, 9e3, 4e4, 4e4]
    found = peak_differences(volleys(times, heights, width=1e-3), DT)
    np.testing.assert_allclose(found.time, [0.2, 0.4, 0.5], atol=DT)
    np.testing.assert_allclose(found.interval, [0.2, 0.1], atol=2 * DT)


def test_a_constant_rate_has_no_peaks_and_bad_arguments_are_refused():
    flat = peak_differences(np.full(5000, 3e4), DT)
    assert flat.time.size == 0
    assert np.isnan(flat.mean_difference)
    assert np.isnan(flat.mean_interval)
    with pytest.raises(ValueError, match="too short to discard"):
        peak_differences(np.ones(500), DT)
    with pytest.raises(ValueError, match="finite"):
        peak_differences(np.full(5000, np.nan), DT)
    with pytest.raises(ValueError, match="dt must be positive"):
        peak_differences(np.ones(5000), 0.0)


def along_p_ei(value):
    params = default_parameters("gamma")
    return eqx.tree_at(lambda p: p.probability, params, params.probability.at[0, 1].set(value))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refractory", "model"), [("exact", "dsode_refexact"), ("published", "dsode_authors")]
)
def test_published_diagram(refractory, model):
    """`bifurcation_pEI.csv`: 2.5 s from the reset, of which the first 0.5 s is dropped."""
    table = np.genfromtxt(
        REFERENCE / "bifurcation_pEI.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    table = table[table["model"] == model]
    values = [0.6, 0.7, 0.78, 0.84, 0.9, 0.92]
    table = table[[np.argmin(np.abs(table["p_EI"] - v)) for v in values]]
    diagram = peak_diagram(
        along_p_ei,
        values,
        1.5,
        backend="map",
        closure="published",
        voltage_bin=4.0,
        refractory=refractory,
    )
    difference, interval = diagram.mean_difference / 1e3, 1e3 * diagram.mean_interval
    period_1 = np.array([True, True, True, False, False, True])
    # Times are multiples of 0.1 ms: heights of equal volleys differ by what a sample misses.
    assert np.all(difference[period_1] < 0.5)
    # 1 s, of some 50 volleys, instead of 2 s, and beginning elsewhere in a cycle of period 2.
    np.testing.assert_allclose(
        difference[~period_1], table["mean_abs_delta_m"][~period_1], rtol=0.01
    )
    np.testing.assert_allclose(interval, table["ipi_mean_ms"], rtol=0.01)


@pytest.mark.slow
def test_period_doubles_abruptly_and_the_small_volley_is_lost():
    values = [0.78, 0.79, 0.795, 0.8, 0.82, 0.90, 0.92]
    diagram = peak_diagram(
        along_p_ei,
        values,
        1.5,
        backend="map",
        closure="published",
        voltage_bin=4.0,
        refractory="published",
    )
    difference = diagram.mean_difference / 1e3
    # At 0.79, close below the doubling, alternation from the start has not yet died out.
    assert np.all(difference[:2] < 2)
    assert np.all(difference[3:6] > 100)
    assert difference[-1] < 1
    assert diagram.mean_interval[-1] > 1.8 * diagram.mean_interval[-2]
