"""Figures of the Markov reduction: what is drawn is what was given."""

import equinox as eqx
import numpy as np
import pytest
from matplotlib.figure import Figure

from neurofield import markov, plot


@pytest.fixture
def ax():
    figure = Figure(layout="constrained")
    yield figure.subplots()
    figure.draw_without_rendering()


@pytest.fixture(scope="module")
def solution():
    return markov.solve(
        markov.default_parameters("gamma"), 0.02, backend="map", closure="published",
        voltage_bin=10.0, save_dt=1e-3, save_occupancy=True,
    )  # fmt: skip


def curve(rate, stable, points=()):
    number = len(stable)
    return markov.Branch(
        parameter=np.linspace(0.0, 1.0, number),
        rate=np.stack([np.asarray(rate, float), 2 * np.asarray(rate, float)]),
        stable=np.asarray(stable, bool),
        leading=np.zeros(number, complex),
        frequency=np.zeros(number),
        points=tuple(points),
        ended="span",
    )


def test_branch_is_dashed_where_it_is_unstable_and_its_points_are_marked(ax):
    hopf = markov.Bifurcation("hopf", 0.4, np.array([2.5, 5.0]), 60.0)
    torus = markov.Bifurcation("torus", 0.9, np.array([6.0, 12.0]), 50.0)
    first = curve([1, 2, 3, 4, 5], [1, 1, 0, 0, 1], [hopf])
    second = curve([6, 6, 6], [1, 1, 1], [torus])
    branches = [first, second]
    assert plot.branch(branches, ax, population=1, parameter="p", labels=["a", "b"]) is ax
    drawn = [(line.get_linestyle(), *map(list, line.get_data())) for line in ax.get_lines()]
    assert drawn[:4] == [
        ("-", [0, 0.25, 0.5], [2, 4, 6]),
        ("--", [0.5, 0.75, 1], [6, 8, 10]),
        ("-", [1], [10]),
        ("-", [0, 0.5, 1], [12, 12, 12]),
    ]
    assert [(x, y) for _, x, y in drawn[4:]] == [([0.4], [5.0]), ([0.9], [12.0])]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["a", "b", "hopf", "torus"]
    assert ax.get_xlabel() == "p"
    with pytest.raises(ValueError, match="one a branch"):
        plot.branch(first, ax, labels=["a", "b"])


def test_occupancy_is_a_density_over_the_grid(ax, solution):
    assert plot.occupancy(solution, ax, population=1) is ax
    (image,) = ax.get_images()
    np.testing.assert_allclose(image.get_array() * 10.0, solution.occupancy[1])
    np.testing.assert_allclose(image.get_extent(), [0, 0.02, -40, 100], atol=1e-12)
    assert image.origin == "lower"
    assert "I" in ax.get_title(loc="right")


def test_occupancy_needs_one_solution_that_has_it(ax, solution):
    with pytest.raises(ValueError, match="save_occupancy"):
        plot.occupancy(eqx.tree_at(lambda s: s.occupancy, solution, None), ax)
    batch = eqx.tree_at(lambda s: s.occupancy, solution, solution.occupancy[None])
    with pytest.raises(ValueError, match=r"\[population, bin, time\]"):
        plot.occupancy(batch, ax)


def test_attractor_is_the_curve_of_pending_spikes_coloured_by_the_rate(ax, solution):
    assert plot.attractor(solution, ax, start=4) is ax
    (lines,) = ax.collections
    own, other, rate = markov.attractor_curve(solution)[:, 4:]
    corners = np.array(lines.get_segments())
    np.testing.assert_allclose(corners[:, 0], np.stack([own, other], 1)[:-1])
    np.testing.assert_allclose(corners[:, 1], np.stack([own, other], 1)[1:])
    np.testing.assert_allclose(lines.get_array(), (rate[1:] + rate[:-1]) / 2)
    assert ax.get_xlabel() == "pending spikes E to E"
    assert ax.get_ylabel() == "pending spikes I to E"
    with pytest.raises(ValueError, match="two or more samples"):
        plot.attractor(solution, ax, start=19)


def test_peak_diagram_shows_every_difference_at_its_value(ax):
    def peaks(height):
        height = np.array(height, float)
        time = 0.02 * np.arange(len(height))
        edges = np.array([-1.0, 1.0])
        histogram = np.zeros(1, int)
        return markov.Peaks(time, height, np.diff(height), np.diff(time), histogram, edges)

    found = peaks([2e4, 2e4, 2e4]), peaks([1e4, 3e4, 1e4, 3e4]), peaks([1e4])
    diagram = markov.PeakDiagram(
        value=np.array([0.6, 0.8, 1.0]),
        mean_difference=np.zeros(3),
        mean_interval=np.zeros(3),
        histogram=np.zeros((3, 1), int),
        edges=np.array([-1.0, 1.0]),
        peaks=found,
    )
    assert plot.peak_diagram(diagram, ax, parameter="p") is ax
    dots = ax.get_lines()[0]
    np.testing.assert_allclose(dots.get_xdata(), [0.6, 0.6, 0.8, 0.8, 0.8])
    np.testing.assert_allclose(dots.get_ydata(), [0, 0, 20, -20, 20])  # spikes per ms
