"""Recordings, covariates, clock times, signals and graphs: what is kept, mended and refused."""

import dataclasses

import numpy as np
import pytest

from neurofield.recording import (
    Activity,
    Covariate,
    Graph,
    Raster,
    Recording,
    RecordingWarning,
    bin_covariate,
    bin_spikes,
    clock_time,
    example,
    to_xarray,
)

EPOCHS = [("a", 0.0, 10.0)]


@pytest.mark.parametrize(
    ("spike_times", "arguments", "match"),
    [
        ([], {}, "spike_times is empty"),
        ([[], []], {"epochs": EPOCHS}, "2 units and no spike"),
        ([[]], {}, "1 units and no spike"),
        ([[0.1, np.nan]], {"labels": ["x7"]}, "unit x7 hold nan at position 1"),
        ([[0.1, np.inf]], {}, "hold inf at position 1"),
        ([[-0.5, 1.0]], {}, "go down to -0.5 s"),
        ([[-0.5, 1.0]], {"epochs": EPOCHS}, "before the first epoch"),
        ([["a"]], {}, "must be numbers"),
        ([0.1, 0.2], {}, "one 1-d array a unit"),
        ([[0.1]], {"labels": ["a", "b"]}, "expected 1 labels"),
        ([[0.1], [0.2]], {"labels": ["a", "a"]}, r"labels must differ.*\['a'\]"),
        ([[0.1]], {"regions": ["a", "b"]}, "expected 1 regions"),
        ([[0.1]], {"epochs": [("a", 0, 2), ("b", 1, 3)]}, "'a' .* and 'b' .* overlap"),
        ([[0.1]], {"epochs": [("a", 2, 1)]}, "start before it stops"),
        ([[0.1]], {"epochs": [("a", 0, np.nan)]}, "start before it stops"),
        ([[0.1]], {"epochs": [(0, 1)]}, r"\(name, start, stop\)"),
        ([[0.1]], {"epochs": []}, "epochs is empty"),
        ([[100.0]], {"epochs": EPOCHS}, "no spike lies inside an epoch"),
        ([[5000.0, 9000.0]], {"epochs": EPOCHS}, r'900 times beyond.*time_unit="ms"'),
        ([[5e6, 9e6]], {"epochs": EPOCHS}, 'time_unit="us"'),
        ([[0.1]], {"time_unit": "h"}, "time_unit must be one of"),
        ([[0.1]], {"time_unit": 0}, "ticks per second must be positive"),
        ([[0.1]], {"trials": {"start": [1, 2], "stop": [1]}}, "one entry a trial"),
    ],
)
def test_malformed_recordings_are_refused(spike_times, arguments, match):
    with pytest.raises(ValueError, match=match):
        Recording(spike_times, **arguments)


def test_time_unit_scales_spikes_alone():
    for unit, factor in (("ms", 1e3), ("us", 1e6), (30000, 3e4), ("s", 1.0)):
        recording = Recording([np.array([1.5, 9.0]) * factor], epochs=EPOCHS, time_unit=unit)
        np.testing.assert_array_equal(recording.spike_times[0], [1.5, 9.0])


def test_time_unit_seconds_overrides_the_suspicion():
    with pytest.warns(RecordingWarning, match="1 of 2 spikes lie outside"):
        recording = Recording([[1.0, 9000.0]], epochs=EPOCHS, time_unit="s")
    assert int(bin_spikes(recording, 0.1).spikes.sum()) == 1


def test_unsorted_times_are_sorted_and_told():
    with pytest.warns(RecordingWarning, match="Sorted the spike times of unit b"):
        recording = Recording({"a": [1.0, 2.0], "b": [2.0, 1.0]}, epochs=EPOCHS)
    np.testing.assert_array_equal(recording.spike_times[1], [1.0, 2.0])
    assert recording.provenance["repairs"] == ["Sorted the spike times of unit b."]


def test_without_epochs_one_runs_to_the_last_spike():
    recording = Recording([[1.0, 4.0], []])
    assert recording.epochs == (("all", 0.0, 4.0),)
    assert recording.duration == 4.0
    assert "No epochs were given" in recording.provenance["repairs"][0]
    np.testing.assert_array_equal(recording.spike_counts, [2, 0])


def test_negative_times_inside_an_epoch():
    recording = Recording([[-0.75, 0.25]], epochs=[("peri", -1.0, 1.0)])
    assert np.asarray(bin_spikes(recording, 0.5).spikes).tolist() == [[1, 0, 1, 0]]


def test_recordings_are_frozen():
    source = np.array([1.0, 2.0])
    recording = Recording([source])
    with pytest.raises(dataclasses.FrozenInstanceError):
        recording.labels = ("x",)  # pyright: ignore
    with pytest.raises(ValueError, match="read-only"):
        recording.spike_times[0][0] = 3.0  # pyright: ignore
    source[0] = 1.5  # the caller's array stays the caller's
    assert recording.spike_times[0][0] == 1.0


@pytest.mark.parametrize(
    ("timestamps", "values", "match"),
    [
        ([0.0, 1.0], [1.0], "shapes"),
        ([0.0, np.nan], [1.0, 1.0], "NaN, first at position 1"),
        ([0.0, 2.0, 1.0], [1.0, 1.0, 1.0], "back in time at position 2"),
        ([0.0, 1.0], [np.nan, np.nan], "at least one finite sample"),
    ],
)
def test_malformed_covariates_are_refused(timestamps, values, match):
    with pytest.raises(ValueError, match=match):
        Covariate(timestamps, values)


def _with(covariate: Covariate) -> Recording:
    return Recording([[0.5]], epochs=EPOCHS, covariates={"x": covariate})


def test_covariate_means_and_interpolation():
    # Bins of 1 s. Samples: two in bin 0, none in bins 1 and 2, one in bin 3.
    recording = _with(Covariate([0.25, 0.75, 3.75], [1.0, 2.0, 8.0]))
    raster = bin_spikes(recording, 1.0, epochs=(0.0, 4.0))
    with pytest.raises(ValueError, match=r"'x' is sampled from 0.25 to 3.75 s and leaves 2 of 4"):
        bin_covariate(recording, "x", raster)
    values = np.asarray(bin_covariate(recording, "x", raster, max_gap=3))
    # Line through (0.75, 2) and (3.75, 8) at the centres 1.5 and 2.5.
    np.testing.assert_allclose(values, [[1.5, 3.5, 5.5, 8.0]], rtol=1e-14)
    zeros = np.asarray(bin_covariate(recording, "x", raster, missing="zero"))
    np.testing.assert_allclose(zeros, [[1.5, 0.0, 0.0, 8.0]], rtol=1e-14)


def test_angles_are_averaged_on_the_circle():
    for unit, turn in (("radian", 2 * np.pi), ("degrees", 360.0)):
        # 1% of a turn on either side of zero: the mean angle is 0, not half a turn.
        covariate = Covariate([0.2, 0.8], np.array([0.01, 0.99]) * turn, unit)
        recording = _with(covariate)
        raster = bin_spikes(recording, 1.0, epochs=(0.0, 1.0))
        values = np.asarray(bin_covariate(recording, "x", raster))
        np.testing.assert_allclose(values, [[np.cos(0.02 * np.pi)], [0.0]], atol=1e-14)
        plain = np.asarray(bin_covariate(recording, "x", raster, circular=False))
        np.testing.assert_allclose(plain, [[0.5 * turn]], rtol=1e-14)


def test_covariates_follow_the_rows_and_mask_of_the_raster():
    times = np.arange(0, 10, 0.01)
    recording = Recording(
        [[0.5]],
        epochs=[("a", 0, 2), ("b", 5, 6)],
        covariates={"x": Covariate(times, np.stack([times, -times], 1))},
    )
    raster = bin_spikes(recording, 0.5)
    values = np.asarray(bin_covariate(recording, "x", raster))
    assert values.shape == (2, 2, 4)
    np.testing.assert_allclose(values[0, 0], [0.245, 0.745, 1.245, 1.745], rtol=1e-12)
    np.testing.assert_allclose(values[1], [[5.245, 5.745, 0, 0], [-5.245, -5.745, 0, 0]])


def test_head_direction_on_its_support():
    mouse = example("head_direction")
    direction = mouse.covariates["head_direction"]
    assert direction.support == pytest.approx((670.6407, 1199.99495))
    raster = bin_spikes(mouse, 0.02, epochs=direction.support)
    values = np.asarray(bin_covariate(mouse, "head_direction", raster))
    assert values.shape == (2, raster.num_bins)
    # 120 Hz samples, 2 or 3 a bin: their mean vector is nearly of unit length.
    assert np.hypot(*values).min() > 0.95
    # It is the yaw: thalamic units must be tuned to it. Mean vector length per unit, against
    # what 40 time shifts give.
    angle = values[0] + 1j * values[1]
    spikes = np.asarray(bin_spikes(mouse, 0.02, epochs=direction.support, units="adn").spikes)
    tuned = np.abs(spikes @ angle) / spikes.sum(1)
    shifts = np.random.default_rng(0).integers(1000, raster.num_bins - 1000, 40)
    null = np.max([np.abs(spikes @ np.roll(angle, s)) / spikes.sum(1) for s in shifts], axis=0)
    assert (tuned > null).all()
    assert tuned.min() > 0.5
    with pytest.raises(ValueError, match="leaves 3532 of 30000 bins uncovered"):
        bin_covariate(mouse, "head_direction", bin_spikes(mouse, 0.02, epochs="wake"))


@pytest.mark.parametrize(
    ("raster", "name", "arguments", "match"),
    [
        (Raster(np.zeros((1, 3)), 1.0, start=0.0), "y", {}, "no covariate is named 'y'"),
        (Raster(np.zeros((1, 3)), 1.0), "x", {}, "no start time"),
        (Raster(np.zeros((1, 3)), 1.0, start=0.0), "x", {"missing": "drop"}, "missing must be"),
    ],
)
def test_covariate_errors(raster, name, arguments, match):
    with pytest.raises(ValueError, match=match):
        bin_covariate(_with(Covariate([0.0], [1.0])), name, raster, **arguments)


def test_clock_time_by_counting():
    """Against rasters of counts, unit by unit."""
    rng = np.random.default_rng(3)
    fast, slow = (np.sort(rng.uniform(0, 6, n)) for n in (400, 100))
    recording = Recording(
        {"fast": fast, "slow": slow, "silent": []}, epochs=[("a", 0, 6), ("b", 6.5, 10)]
    )
    table = clock_time(recording, bin_widths=(0.001, 0.05))
    for w, width in enumerate((0.001, 0.05)):
        counts = np.asarray(bin_spikes(recording, width, counts=True).spikes)
        filled, multiple = (counts > 0).sum((0, 2)), (counts > 1).sum((0, 2))
        mask = np.asarray(bin_spikes(recording, width).mask)
        assert table.occupancy[w] == pytest.approx(filled.sum() / (3 * mask.sum()))
        assert table.multi_occupancy[w] == pytest.approx(multiple.sum() / filled.sum())
        worst = multiple / np.maximum(filled, 1)
        assert table.worst_multi_occupancy[w] == pytest.approx(worst.max())
        assert table.worst_unit[w] == "fast"
    assert table.silent_units == ("silent",)
    assert "Silent units: silent" in str(table)


def test_clock_is_the_widest_binary_bin():
    # Spikes 5 ms apart and off the edges: bins of 5 ms hold one at most, bins of 20 ms hold four.
    recording = Recording([np.arange(0.0025, 1, 0.005)], epochs=[("a", 0, 1)])
    table = clock_time(recording, (0.001, 0.005, 0.02))
    np.testing.assert_allclose(table.multi_occupancy, [0, 0, 1])
    assert table.clock() == 0.005
    assert clock_time(recording, (0.02,)).clock() is None
    with pytest.raises(ValueError, match="shorter than the recording"):
        clock_time(recording, ())


def test_celegans_points_from_pre_to_post():
    """Command interneurons AVA drive VA and DA motor neurons; motor neurons drive muscles."""
    graph = example("celegans")
    weights, labels = np.asarray(graph.weights), graph.labels
    assert graph.num_nodes == 473
    motor = [i for i, name in enumerate(labels) if name[:2] in ("VA", "DA") and name[2:].isdigit()]
    muscle = [i for i, name in enumerate(labels) if name[:3] in ("MDL", "MDR", "MVL", "MVR")]
    ava = [labels.index("AVAL"), labels.index("AVAR")]
    assert weights[np.ix_(motor, ava)].sum() > 20 * weights[np.ix_(ava, motor)].sum() > 0
    assert weights[np.ix_(muscle, motor)].sum() > 100
    assert weights[np.ix_(motor, muscle)].sum() == 0
    gap = np.asarray(example("celegans_gap").weights)
    np.testing.assert_array_equal(gap, gap.T)


def test_calcium():
    fluorescence, spikes = example("calcium"), example("calcium_spikes")
    assert fluorescence.values.shape == spikes.values.shape == (20, 2000)
    assert fluorescence.sample_interval == 0.1
    assert float(spikes.values.min()) >= 0.0


def test_unknown_example():
    with pytest.raises(ValueError, match=r"there are .*head_direction"):
        example("retina")


def test_graph_from_edges():
    graph = Graph.from_edges([0, 0, 2], [1, 1, 0], [1.0, 2.0, 5.0], labels=["a", "b", "c"])
    np.testing.assert_array_equal(np.asarray(graph.weights), [[0, 0, 5], [3, 0, 0], [0, 0, 0]])
    assert Graph.from_edges([0], [3], [1.0]).num_nodes == 4


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Graph(np.zeros((2, 3))), "must be square"),
        (lambda: Graph(np.full((2, 2), np.nan)), "finite real"),
        (lambda: Graph(np.eye(2), labels=["a", "a"]), "different labels"),
        (lambda: Graph.from_edges([0], [1, 2], [1.0]), "one entry an edge"),
        (lambda: Graph.from_edges(np.array([0.5]), [1], [1.0]), "must be indices"),
        (lambda: Graph.from_edges([0], [7], [1.0], num_nodes=3), "graph has 0 to 2"),
        (lambda: Activity(np.zeros(3), 0.1), "must be .*neuron, time"),
        (lambda: Activity(np.full((1, 3), np.nan), 0.1), "NaN or infinity"),
        (lambda: Activity(np.zeros((1, 3)), 0.0), "positive number of seconds"),
        (lambda: Activity(np.zeros((1, 3)), 0.1, mask=np.ones(2, bool)), "mask must be"),
        (lambda: Activity(np.zeros((1, 3)), 0.1, labels=["a", "b"]), "expected 1 labels"),
        (lambda: Activity(np.array([["x"]]), 0.1), "real numbers"),
    ],
)
def test_graph_and_activity_errors(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_activity_keeps_its_dtype():
    assert Activity(np.zeros((2, 3), np.float32), 0.1).values.dtype == np.float32
    assert Activity(np.zeros((2, 3), np.int16), 0.1).values.dtype == np.float64


def test_to_xarray():
    pytest.importorskip("xarray")
    mouse = example("head_direction")
    one = to_xarray(bin_spikes(mouse, 0.5, epochs="wake", units=["0", "8"]))
    assert one.dims == ("neuron", "time")
    assert one.sel(time=600.0).shape == (2,)
    assert one.population.values.tolist() == ["adn", "ca1"]
    trials = to_xarray(bin_spikes(mouse, 0.5, align=[0.5, 700.0], window=(-1.0, 1.0)))
    assert trials.dims == ("trial", "neuron", "time")
    assert trials.start.values.tolist() == [-0.5, 699.0]
    assert trials.mask.values.tolist() == [[False, True, True, True], [True] * 4]
    assert to_xarray(example("calcium")).attrs == {"sample_interval": 0.1}
