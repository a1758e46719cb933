"""`neurofield simulate`: what it writes, how it goes on, and how it refuses."""

import csv
import json
import tomllib

import numpy as np
import pytest
from test_cli import refused, run

from neurofield import fit, network
from neurofield.network import from_config, ready_configs

TINY = """
[simulation]
duration = 0.1
warm_up = 0.01
dt = 1e-4
bin_width = 1e-3
seed = 3
traces = ["voltage"]
num_chunks = 5
x64 = true

[population.E]
size = 20
neuron = { kind = "LIF", tau = 0.015 }
drive = [
  { kind = "Constant", value = 22.0 },
  { kind = "WhiteNoise", density = 0.1 },
]

[population.I]
size = 6
neuron = "LIF"
drive = { kind = "Poisson", rate = 15000.0, weight = 0.1 }

[[projection]]
source = ["E", "I"]
target = ["E", "I"]
delay = 1.5e-3

[projection.connectivity]
kind = "fixed_indegree"
indegree = 4
weight = { pairs = [[0.2, -0.5], [0.2, 0]] }
"""
FILES = {
    "config.toml", "raster.npz", "traces.npz", "statistics.npz", "statistics.csv",
    "statistics.json", "raster.png", "rate.png", "spectrum.png", "traces.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def job(tiny):
    """One run, without a folder for the results named."""
    from neurofield.cli import main

    out = tiny.parent / "out"
    assert main(["simulate", str(tiny), "--out", str(out), "--quiet", "--json"]) == 0
    return out


def raster_of(out):
    return np.asarray(fit.load(out / "raster.npz").spikes)


def test_list_names_and_describes_what_ships(capfd):
    code, out, _ = run(capfd, "simulate", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(ready_configs())
    for name in (
        "brunel2000", "potjans_diesmann", "sompolinsky_crisanti_sommers", "balanced_binary",
        "markov_ei",
    ):  # fmt: skip
        assert name in ready_configs()
    described = json.loads(run(capfd, "simulate", "--list", "--json")[1])
    assert "Brunel" in described["brunel2000"]


def test_job_writes_what_simulate_returns(job, tiny):
    assert {path.name for path in job.iterdir()} == FILES
    net, settings = from_config(tiny)
    direct = network.simulate(key(3), net, **settings, intervals=True)
    spikes = raster_of(job)
    np.testing.assert_array_equal(spikes, direct.raster.spikes)
    np.testing.assert_array_equal(
        fit.load(job / "traces.npz")["I"]["voltage"], direct.traces["I"]["voltage"]
    )
    summary = json.loads((job / "statistics.json").read_text())
    with open(job / "statistics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    for row, line, span in zip(summary["populations"], table, ((0, 20), (20, 26)), strict=True):
        own = spikes[slice(*span)]
        assert row["size"] == len(own) == int(line["size"])
        assert row["rate"] == pytest.approx(own.mean() / 1e-3, rel=1e-9)
        assert float(line["rate"]) == row["rate"]
        assert row["rate_sd"] == pytest.approx(own.mean(1).std() / 1e-3, rel=1e-9)
        gaps = np.asarray(direct.intervals.count)[slice(*span)] >= 2
        assert row["num_cv"] == gaps.sum() > 0
        cv = np.asarray(direct.intervals.cv)[slice(*span)][gaps]
        assert row["cv"] == pytest.approx(cv.mean(), rel=1e-9)
    assert spikes.sum() > 50


def key(seed):
    import jax

    return jax.random.key(seed)


def test_written_configuration_gives_the_same_spikes(job, tmp_path, capfd):
    out = tmp_path / "again"
    code, text, err = run(capfd, "simulate", job / "config.toml", "--out", out, "-q")
    assert code == 0, err
    assert err == ""
    np.testing.assert_array_equal(raster_of(out), raster_of(job))
    for word in ("population", "Hz", "±", "CV", "per second", str(out)):
        assert word in text


def test_folder_in_use_is_refused_and_a_complete_run_not_repeated(job, tiny, capfd):
    before = {path.name: path.stat().st_mtime_ns for path in job.iterdir()}
    message = refused(capfd, "simulate", tiny, "--out", job)
    assert "--resume" in message
    assert "--overwrite" in message
    other = refused(capfd, "simulate", tiny, "--out", job, "--resume", "--duration", "0.2")
    assert "simulation.duration" in other
    code, text, err = run(capfd, "simulate", tiny, "--out", job, "--resume", "--json")
    assert code == 0
    assert "complete" in err
    assert json.loads(text) == json.loads((job / "statistics.json").read_text())
    assert before == {path.name: path.stat().st_mtime_ns for path in job.iterdir()}


def test_interrupted_and_resumed_gives_the_same_spikes(job, tiny, tmp_path, capfd, monkeypatch):
    from neurofield.network._store import Checkpoint

    out, save, calls = tmp_path / "out", Checkpoint.save, []

    def interrupt(self, *args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        save(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupt)
        message = refused(capfd, "simulate", tiny, "--out", out, "-q", code=130)
    assert "--resume" in message
    assert {path.name for path in out.iterdir()} == {"config.toml", "checkpoint"}

    def count(self, *args):
        calls.append(1)
        save(self, *args)

    monkeypatch.setattr(Checkpoint, "save", count)
    code, _, err = run(capfd, "simulate", tiny, "--out", out, "--resume", "-q")
    assert code == 0, err
    assert len(calls) == 5  # two chunks before, three after
    np.testing.assert_array_equal(raster_of(out), raster_of(job))
    assert {path.name for path in out.iterdir()} == FILES


def test_overwrite_replaces_and_leaves_nothing_stale(tiny, tmp_path, capfd):
    out = tmp_path / "out"
    assert run(capfd, "simulate", tiny, "--out", out, "-q")[0] == 0
    (out / "mine.txt").write_text("keep")
    silent = tmp_path / "silent.toml"
    silent.write_text(TINY.replace('traces = ["voltage"]', ""))
    code, _, err = run(capfd, "simulate", silent, "--out", out, "-q", "--overwrite", "--seed", "4")
    assert code == 0, err
    assert {path.name for path in out.iterdir()} == FILES - {"traces.npz", "traces.png"} | {
        "mine.txt"
    }
    settings = tomllib.loads((out / "config.toml").read_text())["simulation"]
    assert settings["seed"] == 4
    assert "traces" not in settings


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tau = 0.015", "tua = 0.015", ["[population.E] neuron", "'tua'", "did you mean 'tau'"]),
        ("tau = 0.015", 'tau = "15 ms"', ["[population.E] neuron", "LIF"]),
        ("tau = 0.015", "tau = -0.015", ["[population.E] neuron", "tau", "positive"]),
        ("tau = 0.015", "tau = nan", ["[population.E]"]),
        ('kind = "LIF"', 'kind = "LFI"', ["unknown kind 'LFI'", "did you mean 'LIF'", "AdEx"]),
        ('neuron = "LIF"', "neuron = 3", ["[population.I] neuron"]),
        ('neuron = "LIF"', "tau = 0.02", ["[population.I]", "'tau'", "neuron = { kind"]),
        ("size = 20", "size = 20.5", ["[population.E]", "whole number"]),
        ("size = 20\n", "", ["[population.E]", "needs size"]),
        ("weight = 0.1", "wieght = 0.1", ["[population.I] drive", "'wieght'", "rate, weight"]),
        ("rate = 15000.0", "rate = -1.0", ["[population.I] drive", "rate"]),
        ("WhiteNoise", "Delta", ["[population.E] drive", "unknown kind 'Delta'", "WhiteNoise"]),
        ('source = ["E", "I"]', 'source = ["E", "X"]', ["no population is called 'X'"]),
        ("delay = 1.5e-3", "dealy = 1.5e-3", ["[[projection]] 1", "did you mean 'delay'"]),
        ("delay = 1.5e-3", 'channel = "x"', ["channel 'x'", "current"]),
        ("delay = 1.5e-3", "delay = 1e-5", ["delay is 1e-05 s", "dt = 0.0001 s"]),
        ("delay = 1.5e-3", "delay = 1.55e-3", ["15.5 steps"]),
        ("indegree = 4", "indegree = 0", ["connectivity", "at least one"]),
        ("[[0.2, -0.5], [0.2, 0]]", "[[0.2, -0.5]]", ["pairs must be 2 rows"]),
        ("dt = 1e-4", "dt = 5e-3", ["too coarse", "'E'"]),
        ("dt = 1e-4", "dt = 3e-4", ["whole number of dt"]),
        ("dt = 1e-4\n", "", ["[simulation]", "dt must be given"]),
        ("duration = 0.1", 'duration = "0.1 s"', ["[simulation]", "duration", "number of seconds"]),
        ("duration = 0.1", "time = 0.1", ["[simulation]", "'time'", "duration"]),
        ("seed = 3", 'method = "evnts"', ["[simulation]", "events, lists, matmul", "'evnts'"]),
        ("seed = 3", "seed = -1", ["seed must be a whole number"]),
        ("seed = 3", "seed = 0.5", ["seed must be a whole number"]),
        ('traces = ["voltage"]', 'traces = ["volts"]', ["no population has a trace ['volts']"]),
        ("[[projection]]", "[[projections]]", ["'projections'", "did you mean 'projection'"]),
        ("[[projection]]", "[projection]", ["array of tables"]),
        ("[population.I]", "[population.I", ["is not a TOML file"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(old, new, words, tmp_path, capfd):
    assert TINY.count(old)
    path, out = tmp_path / "net.toml", tmp_path / "out"
    path.write_text(TINY.replace(old, new, 1))
    message = refused(capfd, "simulate", path, "--out", out, "-q")
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message
    assert not out.exists()


def test_other_refusals(tiny, tmp_path, capfd):
    message = refused(capfd, "simulate", "brunel200", "--out", tmp_path / "out")
    assert "did you mean 'brunel2000'" in message
    assert "--list" in refused(capfd, "simulate")
    message = refused(capfd, "simulate", tiny, "--scale", "0.5", "--out", tmp_path / "out")
    assert "rate of" in message
    assert "no tpu" in refused(
        capfd, "simulate", tiny, "--device", "tpu", "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_an_activity_without_bounds_fails_and_says_so(tmp_path, capfd):
    path = tmp_path / "net.toml"
    path.write_text(
        "[simulation]\nduration = 1.0\ndt = 1e-3\n[population.x]\nsize = 3\n[population.x.neuron]\n"
        'kind = "Rate"\nphi = "relu"\n[[projection]]\nsource = "x"\ntarget = "x"\n'
        'connectivity = { kind = "all_to_all", weight = 9.0 }\n'
    )
    out = tmp_path / "out"
    message = refused(capfd, "simulate", path, "--out", out, "-q", code=1)
    assert "infinite or NaN" in message
    assert not out.exists()
