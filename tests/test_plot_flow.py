"""Figures of renormalization trajectories: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from neurofield import plot
from neurofield.renorm import Flow


@pytest.fixture
def ax():
    figure = Figure(layout="constrained")
    yield figure.subplots()
    figure.draw_without_rendering()


def of_activity(exponent, **more):
    scale = np.array([1.0, 2.0, 4.0])
    return Flow(
        engine="phenomenological",
        scale_name="units in a cluster",
        scale=scale,
        size=np.array([8, 4, 2]),
        states=(None, None, None),
        observables={
            "variance": scale**exponent,
            "spectrum": np.array([[1, np.nan], [2, 1], [3, 2.0]]),
            "spectrum_at": np.array([[1, 2], [0.5, 1], [0.25, 0.5]]),
        },
        errors={"variance": 0.1 * scale, "spectrum": np.full((3, 2), 0.1)},
        exponents={"alpha": np.array(exponent)},
        exponent_errors={"alpha": np.array(0.02)},
        **more,
    )


def of_graph(scale=(0.0, 2.0), **more):
    times = np.geomspace(0.1, 10, 5)
    return Flow(
        engine="laplacian",
        scale_name="diffusion time (1 / weight)",
        scale=np.array(scale),
        size=np.array([16, 4]),
        states=(None, None),
        observables={
            "num_edges": np.array([40, 5]),
            "specific_heat_curve": np.stack([times, times**2]),
            "diffusion_times": np.stack([times, times]),
        },
        **more,
    )


def test_an_observable_against_the_scale_beside_its_null(ax):
    flow = of_activity(1.4, nulls={"shift": of_activity(1.0)})
    assert plot.flow(flow, ax) is ax
    data, null = ax.containers
    np.testing.assert_allclose(
        data.lines[0].get_xydata(), np.stack([flow.scale, flow.scale**1.4], 1)
    )
    (segments,) = data.lines[2]
    bars = np.array(segments.get_segments())
    np.testing.assert_allclose(bars[:, 1, 1] - bars[:, 0, 1], 0.2 * flow.scale)
    np.testing.assert_allclose(null.lines[0].get_ydata(), flow.scale)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["data: alpha = 1.400 ± 0.020", "shift: alpha = 1.000 ± 0.020"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlabel() == "units in a cluster"


def test_a_spectrum_is_one_curve_a_level_over_its_own_places(ax):
    flow = of_activity(1.4, nulls={"shift": of_activity(1.0)})
    plot.flow(flow, ax, quantity="spectrum", nulls=False)
    drawn = [line.get_xydata().tolist() for line in ax.get_lines()]
    assert drawn == [[[1, 1]], [[0.5, 2], [1, 1]], [[0.25, 3], [0.5, 2]]]
    assert len(ax.collections) == 3
    assert ax.get_xlabel() == "rank / size"


def test_specific_heat_marks_the_scales_and_shows_the_null(ax):
    flow = of_graph(nulls={"configuration": of_graph((0.0, 3.0))})
    plot.flow(flow, ax)
    fine, coarse, scale, null = ax.get_lines()
    times = flow.observables["diffusion_times"][0]
    np.testing.assert_allclose(fine.get_xydata(), np.stack([times, times], 1))
    np.testing.assert_allclose(coarse.get_ydata(), times**2)
    assert scale.get_xdata() == [2, 2]
    assert scale.get_color() is not None
    assert (null.get_linestyle(), null.get_label()) == ("--", "configuration")
    assert ax.get_xlabel() == "diffusion time (1 / weight)"
    assert ax.get_title(loc="right") == "laplacian flow of 16 units"


def test_a_scale_of_zero_has_a_place(ax):
    plot.flow(of_graph(), ax, quantity="num_edges")
    assert ax.get_xscale() == "symlog"
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xdata(), [0, 2])


def test_unknown_quantities_are_named(ax):
    with pytest.raises(ValueError, match=r"\['num_edges', 'specific_heat_curve'\], got 'mass'"):
        plot.flow(of_graph(), ax, quantity="mass")
