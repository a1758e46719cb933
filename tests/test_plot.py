"""Figures: what is drawn is what was given, on the axes that were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from neurofield import plot
from neurofield.recording import Raster, Recording, clock_time
from neurofield.statistics import measure


@pytest.fixture
def ax():
    """Axes that pyplot knows nothing of; drawing on them must not make it open a figure."""
    before = plt.get_fignums()
    figure = Figure(layout="constrained")
    yield figure.subplots()
    figure.draw_without_rendering()
    assert plt.get_fignums() == before


def random_raster(num_neurons=15, num_bins=400, **kwargs):
    spikes = np.random.default_rng(0).random((num_neurons, num_bins)) < 0.1
    return Raster(spikes, 0.02, **kwargs)


@pytest.mark.parametrize("num_neurons", [1, 15, 100])
def test_raster_draws_each_spike_of_the_excerpt(ax, num_neurons):
    data = random_raster(num_neurons, start=600.0)
    assert plot.raster(data, ax, start=1.0, duration=4.0) is ax
    drawn = [events.get_positions() for events in ax.collections]
    assert len(drawn) == num_neurons
    window = np.asarray(data.spikes)[:, 50:250]
    for row, times in zip(window, drawn, strict=True):
        np.testing.assert_allclose(times, 601 + (np.flatnonzero(row) + 0.5) * 0.02)
    np.testing.assert_allclose(ax.get_xlim(), (601, 605))
    assert ax.get_xlabel() == "time (s)"
    assert len(ax.get_yticks()) <= 30


def test_raster_of_populations_trials_and_masks(ax):
    spikes = np.random.default_rng(0).random((3, 4, 100)) < 0.2
    mask = np.ones((3, 100), bool)
    mask[1, 60:] = False
    data = Raster(
        spikes,
        0.01,
        mask=mask,
        populations=np.array([0, 0, 1, 1]),
        population_names=("here", "there"),
    )
    plot.raster(data, ax, trial=1)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["here", "there"]
    np.testing.assert_allclose(
        ax.collections[0].get_positions(), (np.flatnonzero(spikes[1, 0]) + 0.5) * 0.01
    )
    with pytest.raises(ValueError, match="trial must be"):
        plot.raster(data, ax, trial=3)
    with pytest.raises(ValueError, match="outside"):
        plot.raster(data, ax, start=5.0)


@pytest.mark.parametrize("num_neurons", [1, 2, 15, 100])
def test_couplings_show_the_matrix_and_mark_the_sure_entries(ax, num_neurons):
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(num_neurons, num_neurons))
    error = np.full_like(matrix, 0.5)
    given = matrix.copy()
    plot.couplings(matrix, ax, error=error)
    np.testing.assert_array_equal(matrix, given)
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array(), matrix)
    low, high = image.get_clim()
    assert low == -high  # zero is the middle of the colours
    dots = ax.lines[0].get_xydata()
    post, pre = np.nonzero(np.abs(matrix) > 1.0)
    np.testing.assert_array_equal(dots, np.stack([pre, post], axis=1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("pre (past)", "post")


def test_couplings_refuse_what_is_not_a_square_matrix(ax):
    with pytest.raises(ValueError, match="neuron, neuron"):
        plot.couplings(np.zeros((2, 3)), ax)
    with pytest.raises(ValueError, match="expected 2 labels"):
        plot.couplings(np.zeros((2, 2)), ax, labels=["a"])


def test_correlations_are_pearsons(ax):
    data = random_raster(5)
    plot.correlations(measure(data, 1), ax)
    drawn = np.ma.getdata(ax.images[0].get_array())
    expected = np.corrcoef(np.asarray(data.spikes, float))
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(drawn[off], expected[off], rtol=1e-9)


def test_a_silent_unit_correlates_with_nothing(ax):
    spikes = np.array(random_raster(3).spikes)
    spikes[1] = 0
    plot.correlations(measure(Raster(spikes, 0.02), 1), ax)
    assert np.ma.getdata(ax.images[0].get_array())[0, 1] == 0


def test_history_of_one_lag_has_a_point_a_unit_and_of_several_a_line_a_unit(ax):
    values = np.random.default_rng(0).normal(size=(1, 15))
    plot.history(values, ax, error=np.full((1, 15), 0.2))
    np.testing.assert_allclose(ax.lines[1].get_ydata(), values[0])
    bars = ax.collections[0].get_segments()
    np.testing.assert_allclose([b[1, 1] - b[0, 1] for b in bars], 0.4)

    lagged = np.random.default_rng(0).normal(size=(4, 3))
    other = plot.history(lagged, Figure().subplots(), bin_width=0.02)
    np.testing.assert_allclose(other.lines[1].get_xdata(), [20, 40, 60, 80])
    assert other.get_xlabel() == "lag (ms)"
    with pytest.raises(ValueError, match="lag, neuron"):
        plot.history(np.zeros(3), ax)


def test_compare_draws_every_theory_with_the_measurements_errors(ax):
    measured = np.linspace(0, 1, 6).reshape(2, 3)
    error = np.full((2, 3), 0.1)
    error[0, 0] = np.inf  # known, but its error is not
    plot.compare(
        measured, {"a": measured, "b": 2 * measured}, ax, error=error, quantity="rate (Hz)"
    )
    a, b = (line for line in ax.lines if line.get_label() in ("a", "b"))
    np.testing.assert_allclose(a.get_xydata(), np.stack([measured.ravel()] * 2, axis=1))
    np.testing.assert_allclose(b.get_ydata(), 2 * measured.ravel())
    widths = [bar[1, 0] - bar[0, 0] for bar in ax.collections[0].get_segments()]
    np.testing.assert_allclose(widths, [0, *[0.2] * 5], atol=1e-15)
    assert ax.get_xlabel() == "measured rate (Hz)"
    with pytest.raises(ValueError, match="predicts 2 numbers"):
        plot.compare(measured, {"a": np.zeros(2)}, ax)


def test_scores_stand_in_the_order_given_with_their_errors(ax):
    plot.scores({"one": (-5.0, 0.1), "two": (-4.0, 0.2)}, ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    bars = [collection.get_segments()[0] for collection in ax.collections]
    np.testing.assert_allclose([bar[:, 0] for bar in bars], [[-5.1, -4.9], [-4.2, -3.8]])
    assert ax.yaxis_inverted() or ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is on top
    assert ax.texts[0].get_text() == "\N{MINUS SIGN}5.000 ± 0.100"


def test_clock_time_draws_what_was_counted(ax):
    times = [np.sort(np.random.default_rng(i).uniform(0, 50, 200)) for i in range(3)]
    clock = clock_time(Recording(times, epochs=[("all", 0.0, 50.0)]))
    plot.clock_time(clock, ax)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), 1e3 * clock.bin_width)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), clock.occupancy)


def test_without_axes_a_new_figure_is_made():
    before = set(plt.get_fignums())
    drawn = plot.scores({"one": (1.0, 0.1)})
    assert set(plt.get_fignums()) - before == {drawn.figure.number}
    plt.close(drawn.figure)
