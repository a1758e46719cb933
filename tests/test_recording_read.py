"""read(): every format from tiny files written here, and every way in which files disappoint."""

import os
from pathlib import Path

import numpy as np
import pytest

from neurofield.recording import (
    Activity,
    Raster,
    Recording,
    RecordingWarning,
    bin_spikes,
    example,
    read,
)

h5py = pytest.importorskip("h5py")
DATA = os.environ.get("NEUROFIELD_DATA")

TIMES = [np.array([0.1, 0.25, 3.0]), np.array([0.2]), np.array([1.0, 7.5])]


def _write_nwb(path, times=TIMES, *, regions="location", epochs=True, signals=True):
    """The parts of the NWB 2 layout that a reader needs."""
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        units = file.create_group("units")
        units["id"] = np.array([4, 7, 9][: len(times)])
        units["spike_times"] = np.concatenate(times)
        units["spike_times_index"] = np.cumsum([len(t) for t in times])
        if regions == "location":
            units.create_dataset("location", data=["adn", "adn", "ca1"], dtype=text)
        electrodes = file.create_group("general/extracellular_ephys/electrodes")
        electrodes.create_dataset("location", data=["v1", "pfc"], dtype=text)
        if regions == "electrodes":
            units["electrodes"] = np.array([1, 0, 0])
            units["electrodes_index"] = np.array([1, 3, 3])
        if regions == "group":
            group = file.create_group("general/extracellular_ephys/shank")
            group.attrs["location"] = "mec"
            units.create_dataset("electrode_group", data=[group.ref] * 3, dtype=h5py.ref_dtype)
        if epochs:
            table = file.create_group("intervals/epochs")
            table["start_time"], table["stop_time"] = np.array([0.0, 5.0]), np.array([5.0, 10.0])
            table.create_dataset("tags", data=["sleep", "wake", "arena"], dtype=text)
            table["tags_index"] = np.array([1, 3])
        trials = file.create_group("intervals/trials")
        trials["start_time"], trials["stop_time"] = np.array([1.0, 2.0]), np.array([1.5, 2.5])
        trials.create_dataset("choice", data=["left", "right"], dtype=text)
        trials["id"] = np.arange(2)
        if signals:
            series = file.create_group("processing/behavior/CompassDirection/yaw")
            series["data"] = np.array([90.0, 180.0])
            series["data"].attrs.update(unit="radian", conversion=np.pi / 180)
            series["timestamps"] = np.array([0.0, 5.0])
            speed = file.create_group("acquisition/speed")
            speed["data"] = np.array([1.0, 2.0, np.nan])
            speed["starting_time"] = 2.0
            speed["starting_time"].attrs["rate"] = 10.0


def test_nwb(tmp_path):
    path = tmp_path / "a.nwb"
    _write_nwb(path)
    recording = read(path)
    assert isinstance(recording, Recording)
    for ours, theirs in zip(recording.spike_times, TIMES, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert recording.labels == ("4", "7", "9")
    assert recording.regions == ("adn", "adn", "ca1")
    assert recording.epochs == (("sleep", 0.0, 5.0), ("wake+arena", 5.0, 10.0))
    assert recording.trials["start"].tolist() == [1.0, 2.0]
    assert recording.trials["choice"].tolist() == ["left", "right"]
    assert set(recording.trials) == {"start", "stop", "choice"}
    yaw, speed = recording.covariates["CompassDirection/yaw"], recording.covariates["speed"]
    np.testing.assert_allclose(yaw.values, [np.pi / 2, np.pi])
    assert yaw.is_angle
    np.testing.assert_allclose(speed.timestamps, [2.0, 2.1])
    assert recording.provenance["bytes"] == path.stat().st_size
    assert len(recording.provenance["sha256"]) == 64


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("electrodes", ("pfc", "v1", "unknown")),
        ("group", ("mec", "mec", "mec")),
        (None, None),
    ],
)
def test_nwb_regions(tmp_path, layout, expected):
    _write_nwb(tmp_path / "a.nwb", regions=layout)
    assert read(tmp_path / "a.nwb").regions == expected


def test_lazy_nwb_is_the_same_recording(tmp_path):
    path = tmp_path / "a.nwb"
    _write_nwb(path, times=[TIMES[0], np.array([2.0, 0.2]), np.array([])])
    with pytest.warns(RecordingWarning, match="Sorted the spike times of unit 7"):
        lazy = read(path, lazy=True)
    with pytest.warns(RecordingWarning, match="Sorted the spike times of unit 7"):
        eager = read(path, lazy=False)
    assert lazy.provenance["repairs"] == eager.provenance["repairs"]
    np.testing.assert_array_equal(
        np.asarray(bin_spikes(lazy, 0.1).spikes), np.asarray(bin_spikes(eager, 0.1).spikes)
    )
    assert [len(t) for t in lazy.spike_times[0:3]] == [3, 2, 0]


def test_nwb_in_milliseconds(tmp_path):
    path = tmp_path / "a.nwb"
    _write_nwb(path, times=[t * 1000 for t in TIMES])
    for lazy in (False, True):
        with pytest.raises(ValueError, match=r'times beyond the last epoch.*time_unit="ms"'):
            read(path, lazy=lazy)
        recording = read(path, time_unit="ms", lazy=lazy)
        np.testing.assert_allclose(recording.spike_times[0], TIMES[0], rtol=1e-15)


def test_nwb_without_epochs_or_with_ones_own(tmp_path):
    _write_nwb(tmp_path / "a.nwb", epochs=False, signals=False)
    assert read(tmp_path / "a.nwb").epochs == (("all", 0.0, 7.5),)
    assert read(tmp_path / "a.nwb", epochs={"x": (0, 8)}).epochs == (("x", 0.0, 8.0),)


def test_nwb_repairs(tmp_path):
    path = tmp_path / "a.nwb"
    _write_nwb(path)
    with h5py.File(path, "a") as file:
        file["intervals/epochs/stop_time"][1] = 5.0
        file["acquisition/speed/data"][:] = np.nan
    with pytest.warns(RecordingWarning) as caught:
        recording = read(path)
    repairs = recording.provenance["repairs"]
    assert [str(w.message) for w in caught] == repairs
    assert "Left out 1 epochs" in repairs[0]
    assert "Left out signal acquisition/speed" in repairs[1]
    assert "1 of 6 spikes lie outside" in repairs[2]


def test_damaged_nwb(tmp_path):
    whole = tmp_path / "a.nwb"
    _write_nwb(whole)
    content = whole.read_bytes()
    for size in (100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.nwb").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"cut\.nwb is damaged or cut short.*again"):
            read(tmp_path / "cut.nwb")
    (tmp_path / "text.nwb").write_text("unit,time\n1,0.5\n")
    with pytest.raises(ValueError, match=r"text\.nwb is not an NWB file.*format=\"csv\""):
        read(tmp_path / "text.nwb")
    assert read(tmp_path / "text.nwb", format="csv").num_units == 1
    (tmp_path / "empty.nwb").touch()
    with pytest.raises(ValueError, match="it is empty"):
        read(tmp_path / "empty.nwb")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["acquisition/x"] = 1.0
    with pytest.raises(ValueError, match=r"no units table.*acquisition"):
        read(tmp_path / "raw.h5")
    with h5py.File(whole, "a") as file:
        file["units/spike_times_index"][2] = 99
    with pytest.raises(ValueError, match="does not fit units/spike_times"):
        read(whole)


@pytest.mark.skipif(DATA is None, reason="the original NWB file is found by NEUROFIELD_DATA")
def test_original_nwb_gives_the_shipped_example():
    original = read(Path(str(DATA)) / "A2929-200711.nwb")
    shipped = example("head_direction")
    assert original.labels == shipped.labels
    assert original.regions == shipped.regions
    assert original.epochs == shipped.epochs
    for width in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05):
        np.testing.assert_array_equal(
            np.asarray(bin_spikes(original, width, counts=True).spikes),
            np.asarray(bin_spikes(shipped, width, counts=True).spikes),
        )
    ours, theirs = shipped.covariates["head_direction"], original.covariates["CompassDirection/ry"]
    np.testing.assert_array_equal(ours.timestamps, theirs.timestamps)
    turn = np.angle(np.exp(1j * (ours.values - theirs.values)))
    assert np.abs(turn).max() < 2 * np.pi / 2**16


def _write_phy(folder, labels="cluster_group.tsv"):
    folder.mkdir()
    np.save(folder / "spike_times.npy", np.array([[30], [60], [90], [3000], [30000]], np.uint64))
    np.save(folder / "spike_clusters.npy", np.array([2, 5, 2, 7, 5], np.int32))
    (folder / "params.py").write_text(
        "import os\nraise SystemExit('params.py was run')\ndtype = 'int16'\nsample_rate = 30000.\n"
    )
    if labels:
        column = "KSLabel" if labels == "cluster_KSLabel.tsv" else "group"
        (folder / labels).write_text(f"cluster_id\t{column}\n2\tgood\n5\tmua\n7\tgood\n")


@pytest.mark.parametrize("labels", ["cluster_group.tsv", "cluster_info.tsv", "cluster_KSLabel.tsv"])
def test_phy(tmp_path, labels):
    _write_phy(tmp_path / "phy", labels)
    recording = read(tmp_path / "phy")
    assert recording.labels == ("2", "7")
    np.testing.assert_array_equal(recording.spike_times[0], [0.001, 0.003])
    assert "1 clusters not labelled good" in recording.provenance["repairs"][0]
    everything = read(tmp_path / "phy", good_only=False, epochs=[("a", 0, 2)])
    assert everything.labels == ("2", "5", "7")


def test_phy_curation_overrides_kilosort(tmp_path):
    _write_phy(tmp_path / "phy", "cluster_KSLabel.tsv")
    (tmp_path / "phy" / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tnoise\n")
    assert read(tmp_path / "phy").labels == ("7",)


def test_phy_errors(tmp_path):
    folder = tmp_path / "phy"
    _write_phy(folder, None)
    assert "No cluster labels" in read(folder).provenance["repairs"][0]
    (folder / "params.py").unlink()
    with pytest.raises(ValueError, match=r"no sample_rate in params\.py; pass sampling_rate="):
        read(folder)
    assert read(folder, sampling_rate=30000).spike_times[0][0] == 0.001
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tmua\n")
    with pytest.raises(ValueError, match=r"none of 3 clusters is labelled good.*'mua': 1"):
        read(folder, sampling_rate=30000)
    np.save(folder / "spike_clusters.npy", np.array([2, 5]))
    with pytest.raises(ValueError, match="5 spike times but 2 entries"):
        read(folder, sampling_rate=30000)
    content = (folder / "spike_times.npy").read_bytes()
    (folder / "spike_times.npy").write_bytes(content[:-8])
    with pytest.raises(ValueError, match=r"spike_times\.npy cannot be read.*cut short"):
        read(folder, sampling_rate=30000)
    (folder / "spike_clusters.npy").unlink()
    np.save(folder / "spike_times.npy", np.array([1]))
    with pytest.raises(ValueError, match=r"neither spike_clusters\.npy"):
        read(folder)


def test_suite2p(tmp_path):
    plane = tmp_path / "session" / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(plane / "F.npy", values)
    np.save(plane / "spks.npy", values + 1)
    np.save(plane / "iscell.npy", np.array([[1, 0.9], [0, 0.1], [1, 0.8]]))
    np.save(plane / "ops.npy", np.array({"fs": 10}), allow_pickle=True)
    with pytest.raises(ValueError, match=r"pass sampling_rate=.*pickle"):
        read(plane)
    activity = read(tmp_path / "session", sampling_rate=10)
    assert isinstance(activity, Activity)
    np.testing.assert_array_equal(np.asarray(activity.values), values[[0, 2]])
    assert activity.labels == ("0", "2")
    assert activity.sample_interval == 0.1
    whole = read(plane, sampling_rate=10, signal="spks", good_only=False)
    np.testing.assert_array_equal(np.asarray(whole.values), values + 1)
    with pytest.raises(ValueError, match=r"no Fneu\.npy.*'F', 'spks'"):
        read(plane, sampling_rate=10, signal="Fneu")
    np.save(plane / "iscell.npy", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="3 ROIs but 2 entries"):
        read(plane, sampling_rate=10)
    (plane.parent / "plane1").mkdir()
    with pytest.raises(ValueError, match="holds 2 planes"):
        read(tmp_path / "session", sampling_rate=10)


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, raster=np.eye(3, 5), labels=["a", "b", "c"], bin_width=0.02)
    raster = read(path)
    assert isinstance(raster, Raster)
    assert raster.bin_width == 0.02
    assert raster.labels == ("a", "b", "c")
    np.savez(path, raster=np.eye(3, 5))
    with pytest.raises(ValueError, match="no bin_width"):
        read(path)
    assert read(path, bin_width=0.01).num_bins == 5

    flat, ends = np.concatenate(TIMES), np.cumsum([len(t) for t in TIMES])
    clusters = np.repeat([4, 7, 9], [3, 1, 2])
    layouts = [
        {"spike_times": flat, "spike_clusters": clusters, "epochs": np.array([[0.0, 10.0]])},
        {"spike_times": flat, "spike_times_index": ends, "labels": np.array(["4", "7", "9"])},
        {"unit_4": TIMES[0], "unit_9": TIMES[2], "unit_7": TIMES[1]},
    ]
    for layout in layouts:
        np.savez(path, **layout)
        recording = read(path)
        assert recording.labels == ("4", "7", "9")
        for ours, theirs in zip(recording.spike_times, TIMES, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    np.savez(path, spks=np.ones((2, 4)), iscell=np.array([1, 0]))
    assert read(path, signal="spks", sampling_rate=5).values.shape == (1, 4)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x": np.zeros(3)}, r"\['x'\], which are not recognised.*npz archives hold"),
        ({"spike_times": np.zeros(3), "spike_clusters": np.zeros(2)}, "one entry a spike"),
        ({"spike_times": np.zeros(3), "spike_times_index": np.array([1, 2])}, "does not fit"),
        ({"unit_1": np.array([1, None], object)}, "Python objects"),
        ({"unit_1": np.arange(1.0, 200.0)}, 'whole numbers.*time_unit="ms"'),
        ({"unit_1": np.ones(3), "epochs": np.ones(2)}, "epochs must be"),
        ({"raster": np.full((2, 2), 0.5), "bin_width": 0.1}, "whole numbers from 0 to 255"),
    ],
)
def test_npz_errors(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **arrays, allow_pickle=True)
    with pytest.raises(ValueError, match=f"(?s){match}"):
        read(tmp_path / "a.npz")


def test_npz_that_is_none(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="cannot be read as an npz archive"):
        read(tmp_path / "a.npz")
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match="cannot be read as an npz archive"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "unit,time\n4,0.1\n7,0.2\n4,0.25\n9,1\n4,3\n9,7.5\n"),
        ("a.csv", "Time (s),Neuron ID,region\n0.1,4,a\n0.2,7,a\n0.25,4,a\n1,9,b\n3,4,a\n7.5,9,b"),
        ("a.tsv", "cluster_id\tspike_time_ms\n4\t100\n7\t200\n4\t250\n9\t1e3\n4\t3000\n9\t7500\n"),
        ("a.txt", "4;0.1\n\n7;0.2\n4;0.25\n9;1\n4;3\n9;7.5\n"),
    ],
)
def test_csv(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    recording = read(tmp_path / name)
    assert recording.labels == ("4", "7", "9")
    for ours, theirs in zip(recording.spike_times, TIMES, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)
    assert recording.regions == (("a", "a", "b") if "region" in text else None)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("unit,time\n", "header but no spikes"),
        ("a,b\n1,2\n", r"the header is \['a', 'b'\]"),
        ("unit,time\n1,0.5\n1,x\n", "line 3: 'x' is not a spike time"),
        ("unit,time\n1,nan\n", "line 2: 'nan' is not a spike time"),
        ("unit,time\n1\n", "line 2: too few columns"),
        ("0.5,0.7\n", "no header"),
        ("unit,time,area\n1,1.5,a\n1,2.5,b\n", "line 3: unit 1 lies in 'b', above in 'a'"),
        ("unit,time\n" + "".join(f"1,{t}\n" for t in range(200)), "whole numbers"),
        ("unit,time\n1,-2.5\n", "go down to -2.5"),
    ],
)
def test_csv_errors(tmp_path, text, match):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        read(tmp_path / "a.csv")


def test_binary_csv(tmp_path):
    for content in (b"\xff\xfe\x00\x01\n", b"a\0b\n"):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(ValueError, match="is not a text table"):
            read(tmp_path / "a.csv")


def test_unknown_sources(tmp_path):
    (tmp_path / "session.nwb").touch()
    with pytest.raises(FileNotFoundError, match=r"did you mean session\.nwb"):
        read(tmp_path / "sesion.nwb")
    with pytest.raises(FileNotFoundError, match="nor does its folder"):
        read(tmp_path / "nowhere" / "a.nwb")
    with pytest.raises(ValueError, match=r"not recognised; it holds \['session.nwb'\].*Phy"):
        read(tmp_path)
    with pytest.raises(ValueError, match="format 'mat' is unknown"):
        read(tmp_path / "session.nwb", format="mat")
    (tmp_path / "a.xyz").write_text("?")
    with pytest.raises(ValueError, match="Recognised are NWB"):
        read(tmp_path / "a.xyz")
    with pytest.raises(ValueError, match=r"cannot read a builtins\.int"):
        read(3)


def test_arrays():
    assert read({"a": [0.5], "b": [0.7]}).labels == ("a", "b")
    assert read([np.array([0.5])]).num_units == 1


def test_pynapple():
    nap = pytest.importorskip("pynapple")
    support = nap.IntervalSet([0, 5], [4, 10])
    group = nap.TsGroup(
        {u: nap.Ts(t, time_support=support) for u, t in zip((4, 7, 9), TIMES, strict=True)},
        time_support=support,
        metadata={"location": ["adn", "adn", "ca1"]},
    )
    recording = read(group)
    assert recording.labels == ("4", "7", "9")
    assert recording.regions == ("adn", "adn", "ca1")
    assert [(e.start, e.stop) for e in recording.epochs] == [(0.0, 4.0), (5.0, 10.0)]
    for ours, theirs in zip(recording.spike_times, TIMES, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert read(nap.Ts(TIMES[0])).num_units == 1


def test_neo(tmp_path):
    neo = pytest.importorskip("neo")
    import quantities as pq

    trains = [
        neo.SpikeTrain(t * 1000, units="ms", t_stop=8000.0, name=f"n{i}")
        for i, t in enumerate(TIMES)
    ]
    recording = read(trains)
    assert recording.labels == ("n0", "n1", "n2")
    assert recording.epochs == (("segment", 0.0, 8.0),)
    np.testing.assert_allclose(recording.spike_times[2], TIMES[2])

    block = neo.Block()
    for start in (0.0, 10.0):
        segment = neo.Segment()
        segment.spiketrains.append(
            neo.SpikeTrain([start + 1] * pq.s, t_start=start * pq.s, t_stop=(start + 5) * pq.s)
        )
        block.segments.append(segment)
    two = read(block)
    assert [(e.name, e.start, e.stop) for e in two.epochs] == [
        ("segment_0", 0.0, 5.0),
        ("segment_1", 10.0, 15.0),
    ]
    np.testing.assert_array_equal(two.spike_times[0], [1.0, 11.0])


def test_files_that_neo_knows(tmp_path):
    neo = pytest.importorskip("neo")
    segment = neo.Segment()
    segment.spiketrains.append(neo.SpikeTrain([0.5, 1.5], units="s", t_stop=2.0, name="a"))
    block = neo.Block()
    block.segments.append(segment)
    neo.io.NeoMatlabIO(filename=str(tmp_path / "a.mat")).write_block(block)
    recording = read(tmp_path / "a.mat")
    np.testing.assert_array_equal(recording.spike_times[0], [0.5, 1.5])
    assert recording.provenance["format"] == "neo NeoMatlabIO"
    (tmp_path / "cut.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.mat: Neo's NeoMatlabIO failed"):
        read(tmp_path / "cut.mat")
    (tmp_path / "a.pkl").write_bytes(b"cos\nabort\n(tR.")  # would end the process if loaded
    with pytest.raises(ValueError, match="is a pickle, which is not read"):
        read(tmp_path / "a.pkl")
