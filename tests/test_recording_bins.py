"""Binning: every spike in its bin, whatever the rounding."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from neurofield.recording import (
    Raster,
    Recording,
    RecordingWarning,
    bin_spikes,
    example,
    raster_bytes,
    select,
)

DATA = os.environ.get("NEUROFIELD_DATA")


@pytest.fixture(scope="module")
def mouse():
    return example("head_direction")


def test_head_direction_numbers(mouse):
    """The numbers of shared data's page: A2929 in 20 ms bins."""
    raster = bin_spikes(mouse, bin_width=0.02)
    spikes = np.asarray(raster.spikes)
    assert spikes.shape == (15, 60000)
    assert spikes.dtype == np.uint8
    assert raster.mask is None
    assert int(mouse.spike_counts.sum()) == 98794
    assert spikes.mean() == pytest.approx(0.0834, abs=5e-5)
    correlation = np.abs(np.corrcoef(spikes)[np.triu_indices(15, 1)])
    assert correlation.mean() == pytest.approx(0.043, abs=1e-3)
    assert correlation.max() == pytest.approx(0.38, abs=5e-3)
    assert raster.population_names == ("adn", "ca1")
    assert np.bincount(np.asarray(raster.populations)).tolist() == [7, 8]


@pytest.mark.skipif(DATA is None, reason="the original NWB file is found by NEUROFIELD_DATA")
def test_shipped_times_are_the_originals(mouse):
    h5py = pytest.importorskip("h5py")
    with h5py.File(Path(str(DATA)) / "A2929-200711.nwb") as file:
        ends = file["units/spike_times_index"][()].astype(int)
        original = np.split(file["units/spike_times"][()], ends[:-1])
    for ours, theirs in zip(mouse.spike_times, original, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("bin_us", [1000, 2000, 5000, 10000, 20000, 50000])
def test_bins_agree_with_integer_arithmetic(mouse, bin_us):
    """Times are whole microseconds, so integer division says which bin is right, at edges too."""
    raster = bin_spikes(mouse, bin_us / 1e6, counts=True)
    assert raster.num_bins == 1_200_000_000 // bin_us
    for i in range(mouse.num_units):
        microseconds = np.rint(mouse.spike_times[i] * 1e6).astype(np.int64)
        expected = np.bincount(microseconds // bin_us, minlength=raster.num_bins)
        np.testing.assert_array_equal(np.asarray(raster.spikes[i]), expected)


def test_bins_agree_with_numpy_histogram():
    rng = np.random.default_rng(7)
    for _ in range(50):
        start, bin_width = rng.uniform(0, 1e4), rng.uniform(1e-3, 0.1)
        num_bins = int(rng.integers(1, 400))
        stop = start + (num_bins + 0.5) * bin_width
        times = np.sort(rng.uniform(start, stop, int(rng.integers(1, 300))))
        recording = Recording([times, []], epochs=[("all", start, stop)])
        spikes = np.asarray(bin_spikes(recording, bin_width, counts=True).spikes)
        edges = start + bin_width * np.arange(num_bins + 1)
        expected = np.histogram(times[times < edges[-1]], edges)[0]
        np.testing.assert_array_equal(spikes[0], expected)
        assert spikes[1].sum() == 0


def test_spikes_on_edges_open_their_bin():
    """Edges k * width computed in two roundings: bin k by exact rational arithmetic."""
    rng = np.random.default_rng(8)
    for _ in range(50):
        ticks, rate = int(rng.integers(1, 900)), int(rng.choice([1000, 20000, 24414, 30000]))
        bin_width = ticks / rate
        first = int(rng.integers(0, 10**6))
        bins = np.unique(rng.integers(0, 500, 100))
        times = (first + bins * ticks) / rate
        stop = float(Fraction(first + 500 * ticks, rate))
        raster = bin_spikes(Recording([times], epochs=[("all", first / rate, stop)]), bin_width)
        assert raster.num_bins == 500
        np.testing.assert_array_equal(np.flatnonzero(np.asarray(raster.spikes[0])), bins)


def test_epochs_join_pad_and_select():
    recording = Recording(
        [[0.05, 1.05, 2.55]], epochs=[("a", 0, 1), ("b", 1.0, 1.5), ("c", 2.5, 2.6)]
    )
    whole = bin_spikes(recording, 0.1)
    assert whole.spikes.shape == (2, 1, 15)
    np.testing.assert_array_equal(np.asarray(whole.mask).sum(-1), [15, 1])
    np.testing.assert_array_equal(np.asarray(whole.start), [0.0, 2.5])
    assert [np.flatnonzero(row[0]).tolist() for row in np.asarray(whole.spikes)] == [[0, 10], [0]]
    assert bin_spikes(recording, 0.1, epochs="b").spikes.shape == (1, 5)
    assert bin_spikes(recording, 0.1, epochs=["b"]).spikes.shape == (1, 1, 5)
    assert bin_spikes(recording, 0.1, epochs=(0.5, 1.5)).spikes.shape == (1, 10)
    assert bin_spikes(recording, 0.1, epochs=[(0.0, 0.5), "b"]).mask is None


def test_last_incomplete_bin_is_dropped():
    recording = Recording([[0.01, 0.95]], epochs=[("a", 0.0, 0.99)])
    spikes = np.asarray(bin_spikes(recording, 0.1).spikes)
    assert spikes.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0, 0]]


def test_trials_by_events():
    recording = Recording(
        [[1.05, 2.15, 9.95]],
        epochs=[("a", 0, 4), ("b", 4, 10), ("c", 20, 30)],
        trials={"go": np.array([1.0, 2.0, 9.8, 20.1])},
    )
    raster = bin_spikes(recording, 0.1, align="go", window=(-0.2, 0.3))
    assert raster.spikes.shape == (4, 1, 5)
    np.testing.assert_array_equal(
        np.asarray(raster.mask).astype(int),
        [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1]],
    )
    np.testing.assert_array_equal(
        np.asarray(raster.spikes)[:, 0],
        [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]],
    )
    np.testing.assert_allclose(np.asarray(raster.start), [0.8, 1.8, 9.6, 19.9], rtol=1e-15)
    only_b = bin_spikes(recording, 0.1, epochs="b", align="go", window=(0.0, 0.1))
    assert only_b.spikes.shape == (1, 1, 1)


def test_units_by_index_label_and_region(mouse):
    assert bin_spikes(mouse, 0.02, units="adn").labels == tuple("0123456")
    assert bin_spikes(mouse, 0.02, units=["3", 1]).labels == ("3", "1")
    assert bin_spikes(mouse, 0.02, units="3").labels == ("3",)


def test_counts_and_duplicates():
    recording = Recording([[0.5, 0.5, 0.51]], epochs=[("a", 0, 1)])
    assert int(bin_spikes(recording, 0.1).spikes.sum()) == 1
    assert int(bin_spikes(recording, 0.1, counts=True).spikes.sum()) == 3
    crowded = Recording([np.linspace(0, 0.9, 300)], epochs=[("a", 0, 1)])
    with pytest.raises(ValueError, match="counts go up to 255"):
        bin_spikes(crowded, 1.0, counts=True)


def test_raster_bytes_is_what_is_made(mouse):
    raster = bin_spikes(mouse, 0.02)
    assert raster_bytes(mouse, 0.02) == raster.spikes.nbytes == 900_000
    arguments = {"align": [0.1, 5.0], "window": (-0.5, 0.5), "units": [0, 3]}
    trials = bin_spikes(mouse, 0.02, **arguments)
    assert trials.mask is not None
    assert raster_bytes(mouse, 0.02, **arguments) == trials.spikes.nbytes + trials.mask.nbytes


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"bin_width": 0.0}, "positive number of seconds"),
        ({"bin_width": float("nan")}, "positive number of seconds"),
        ({"bin_width": 0.02, "epochs": "rest"}, r"no epoch is named 'rest'.*sleep"),
        ({"bin_width": 0.02, "epochs": (1100.0, 1300.0)}, "inside the recorded time"),
        ({"bin_width": 0.02, "epochs": (1.0, 1.001)}, "shorter than one bin"),
        ({"bin_width": 0.02, "epochs": []}, "epochs must be"),
        ({"bin_width": 0.02, "units": ["x"]}, "no unit is labelled 'x'"),
        ({"bin_width": 0.02, "units": "pfc"}, "no unit and no region"),
        ({"bin_width": 0.02, "units": [99]}, "neither a label nor an index"),
        ({"bin_width": 0.02, "units": [1, 1]}, "each once"),
        ({"bin_width": 0.02, "align": [1.0]}, "go together"),
        ({"bin_width": 0.02, "align": [1.0, np.nan], "window": (0, 1)}, r"not finite at .*\[1\]"),
        ({"bin_width": 0.02, "align": [1e6], "window": (0, 1)}, "outside the recorded time"),
        ({"bin_width": 0.02, "align": "go", "window": (0, 1)}, "no column of trials"),
        ({"bin_width": 0.02, "align": [1.0], "window": (1, 0)}, "start first"),
    ],
)
def test_errors(mouse, arguments, match):
    with pytest.raises(ValueError, match=match):
        bin_spikes(mouse, **arguments)


def test_milliseconds_as_bin_width_warn(mouse):
    with pytest.warns(RecordingWarning, match="bin_width is in seconds"):
        bin_spikes(mouse, 20)


def test_select():
    spikes = np.eye(4, 6, dtype=np.uint8)
    raster = Raster(spikes, 0.1, start=5.0, labels=list("abcd"), populations=np.array([0, 0, 1, 1]))
    part = select(raster, units=["d", 1], bins=slice(1, 4))
    np.testing.assert_array_equal(np.asarray(part.spikes), spikes[[3, 1], 1:4])
    assert part.labels == ("d", "b")
    np.testing.assert_array_equal(np.asarray(part.populations), [1, 0])
    assert float(np.asarray(part.start)) == pytest.approx(5.1)
    with pytest.raises(ValueError, match="neighbouring bins"):
        select(raster, bins=slice(0, 6, 2))
    with pytest.raises(ValueError, match="neighbouring bins"):
        select(raster, bins=slice(6, 9))
