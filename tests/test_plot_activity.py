"""Figures of simulations: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from neurofield import plot
from neurofield.recording import Raster
from neurofield.statistics import measure


@pytest.fixture
def ax():
    figure = Figure(layout="constrained")
    yield figure.subplots()
    figure.draw_without_rendering()


def poisson_raster():
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.repeat([0.1, 0.3], [30, 10])[:, None], (40, 4000)).clip(0, 255)
    return Raster(
        counts, 2e-3, populations=np.repeat([0, 1], [30, 10]), population_names=("E", "I")
    )


def test_population_rate_is_the_mean_of_its_neurons_in_hertz(ax):
    data = poisson_raster()
    assert plot.population_rate(data, ax, start=1.0, duration=0.5) is ax
    window = np.asarray(data.spikes)[:, 500:750]
    first, second = ax.get_lines()
    np.testing.assert_allclose(first.get_ydata(), window[:30].mean(0) / 2e-3)
    np.testing.assert_allclose(second.get_ydata(), window[30:].mean(0) / 2e-3)
    np.testing.assert_allclose(first.get_xdata(), 1 + (np.arange(250) + 0.5) * 2e-3)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["E", "I"]
    with pytest.raises(ValueError, match="outside"):
        plot.population_rate(data, ax, start=9.0)
    with pytest.raises(ValueError, match="choose one trial"):
        plot.population_rate(Raster(np.zeros((2, 3, 4)), 0.1), ax)


def test_spectrum_of_independent_poisson_neurons_is_rate_over_number(ax):
    data = poisson_raster()
    plot.spectrum(measure(data, 1, populations=True), ax)
    for line, rate, number in zip(ax.get_lines(), (50.0, 150.0), (30, 10), strict=True):
        power = line.get_ydata()
        # 4000 bins hold 2000 independent frequencies.
        assert power.mean() == pytest.approx(rate / number, rel=4 / 2000**0.5)
        assert line.get_xdata()[-1] == pytest.approx(250.0)


def test_spectrum_of_silence_and_of_nothing(ax):
    quiet = measure(Raster(np.zeros((2, 64)), 1e-3), 1)
    plot.spectrum(quiet, ax)
    without = type(quiet)(rate=quiet.rate, bin_width=1e-3)
    with pytest.raises(ValueError, match="no spectrum"):
        plot.spectrum(without, ax)


def test_traces(ax):
    values = np.random.default_rng(0).normal(size=(2, 5))
    plot.traces(values, 0.1, ax, labels=["a", "b"], quantity="voltage (mV)")
    for line, row in zip(ax.get_lines(), values, strict=True):
        np.testing.assert_allclose(line.get_xdata(), [0.1, 0.2, 0.3, 0.4, 0.5])
        np.testing.assert_allclose(line.get_ydata(), row)
    assert ax.get_ylabel() == "voltage (mV)"
    with pytest.raises(ValueError, match=r"\[neuron, bin\]"):
        plot.traces(values[0], 0.1, ax)
