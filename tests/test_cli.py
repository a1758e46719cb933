"""The command line: the job from end to end, what it writes, and how it refuses."""

import contextlib
import csv
import errno
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ROOT, python

from neurofield import fit, lattice, recording, statistics
from neurofield.cli import main

# Three units and 3000 bins wherever it does not matter, so that all jobs share compiled functions.
BLOCKS = ("--block-duration", "10")
SMALL = ("--units", "0", "2", "4", "--epochs", "600:660", *BLOCKS)
FIGURES = {"raster.png", "clock_time.png", "couplings.png", "statistics.png", "scores.png"}
FITS = {f"fit_{model}.npz" for model in ("independent", "pairwise", "lattice", "kinetic")}


def run(capfd, *args):
    """Exit code, stdout and stderr of a command in this process."""
    capfd.readouterr()
    code = main([str(arg) for arg in args])
    return code, *capfd.readouterr()


def refused(capfd, *args, code=2):
    """The one message of a command that must fail, without a traceback."""
    got, out, err = run(capfd, *args)
    assert got == code, err
    assert out == ""
    message = [line for line in err.splitlines() if line.startswith("neurofield: error: ")]
    assert len(message) == 1, err
    assert "Traceback" not in err
    return err[err.index("neurofield: error: ") :]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """One small run with --json: its folder, and what it printed."""
    out = tmp_path_factory.mktemp("job") / "out"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["fit", "head_direction", *SMALL, "--out", str(out), "--json"]) == 0
    return out, json.loads(printed.getvalue())


def test_help_needs_no_jax_and_names_every_command():
    out = python(
        "-c",
        "import sys\nfrom neurofield.cli import main\n"
        "for command in [[], ['fit'], ['simulate'], ['markov'], ['flow'], ['info'], ['doctor']]:\n"
        "    assert main([*command, '--help']) == 0\n"
        "assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)\n",
    )
    words = "fit simulate markov doctor info Exit --resume --config --json"
    for word in words.split():
        assert word in out


def test_version_is_the_package_version(capfd):
    import neurofield

    assert run(capfd, "--version")[:2] == (0, neurofield.__version__ + "\n")


def test_job_writes_every_file_and_no_other(job):
    out, printed = job
    expected = FITS | FIGURES | {"config.toml", "scores.csv", "scores.json"}
    assert {path.name for path in out.iterdir()} == expected == set(printed["files"])
    for name in FIGURES:
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_scores_are_those_of_the_library_on_the_same_bins(job):
    out, printed = job
    rows = {row["model"]: row for row in printed["models"]}
    assert list(rows) == ["independent", "pairwise", "lattice", "kinetic"]
    assert all(row["result"] == "ok" for row in rows.values())
    raster = recording.bin_spikes(
        recording.example("head_direction"), 0.02, epochs=(600.0, 660.0), units=["0", "2", "4"]
    )
    split = statistics.split_blocks(raster, 10.0, test_fraction=0.2)
    again = {model: lattice.fit(split.train, model, l2=1.0) for model in rows}
    for model, row in rows.items():
        score = lattice.score(
            again[model].value, split.test, reference=again["independent"].value, skip=1
        )
        np.testing.assert_allclose(row["bits_per_bin"], score.bits_per_bin, rtol=1e-9)
        np.testing.assert_allclose(row["bits_per_spike"], score.bits_per_spike, atol=1e-9)
        assert row["num_bins"] == score.num_bins == printed["num_test_bins"] - 1
    # Rows of the saved files are the same numbers.
    saved = json.loads((out / "scores.json").read_text())
    assert saved["models"] == printed["models"]
    with open(out / "scores.csv", newline="") as file:
        for row in csv.DictReader(file):
            assert float(row["bits_per_bin"]) == rows[row["model"]]["bits_per_bin"]


def test_saved_fits_load_as_models_that_score_the_same(job):
    out, printed = job
    rows = {row["model"]: row for row in printed["models"]}
    fitted = fit.load(out / "fit_lattice.npz")
    assert isinstance(fitted.value, lattice.Action)
    assert fitted.value.field.dtype == np.float64
    assert fitted.provenance["labels"] == ["0", "2", "4"]
    assert int(fitted.stats["num_steps"]) == rows["lattice"]["num_steps"]
    assert isinstance(fit.load(out / "fit_kinetic.npz").value, lattice.Kinetic)


def test_step_over_the_row_above_is_the_difference_of_gains(job):
    rows = job[1]["models"]
    assert rows[0]["over_previous"] is None
    for above, row in itertools.pairwise(rows):
        difference = row["bits_per_spike"] - above["bits_per_spike"]
        np.testing.assert_allclose(row["over_previous"], difference, atol=1e-9)


def test_written_configuration_runs_again_with_the_same_scores(job, tmp_path, capfd):
    out, printed = job
    settings = tomllib.loads((out / "config.toml").read_text())
    assert settings["source"] == "head_direction"
    assert settings["bin-width"] == 0.02
    code, text, _ = run(
        capfd, "fit", "--config", out / "config.toml", "--out", tmp_path / "again", "--models",
        "independent", "kinetic", "--json",
    )  # fmt: skip
    assert code == 0
    again = {row["model"]: row for row in json.loads(text)["models"]}
    assert set(again) == {"independent", "kinetic"}  # the command line wins over the file
    for row in printed["models"]:
        if row["model"] in again:
            assert row["bits_per_bin"] == pytest.approx(
                again[row["model"]]["bits_per_bin"], rel=1e-9
            )


def test_folder_in_use_is_refused_and_resumed_without_refitting(job, capfd):
    out, printed = job
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    message = refused(capfd, "fit", "head_direction", *SMALL, "--out", out)
    assert "--resume" in message
    assert "--overwrite" in message
    message = refused(capfd, "fit", "head_direction", *SMALL, "--out", out, "--resume", "--l2", "2")
    assert "l2: 1.0 then, 2.0 now" in message
    assert before == {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}

    (out / "fit_independent.npz").unlink()
    code, text, _ = run(
        capfd, "fit", "head_direction", *SMALL, "--out", out, "--resume", "--json", "-q"
    )
    assert code == 0
    rows = json.loads(text)["models"]
    assert [row["resumed"] for row in rows] == [False, True, True, True]
    for name in FITS - {"fit_independent.npz"}:
        assert (out / name).stat().st_mtime_ns == before[name][0]
    for row, earlier in zip(rows, printed["models"], strict=True):
        assert row["bits_per_bin"] == pytest.approx(earlier["bits_per_bin"], rel=1e-9)


def test_resume_notices_other_data(tmp_path, capfd):
    path, out = tmp_path / "spikes.csv", tmp_path / "out"
    write_csv(path, seed=0)
    args = ("fit", path, "--out", out, "--models", "independent", *BLOCKS)
    assert run(capfd, *args)[0] == 0
    write_csv(path, seed=1)
    assert "other data" in refused(capfd, *args, "--resume")


def test_overwrite_replaces_and_leaves_nothing_stale(tmp_path, capfd):
    path, out = tmp_path / "spikes.csv", tmp_path / "out"
    write_csv(path, seed=0)
    args = ("fit", path, "--out", out, *BLOCKS)
    assert run(capfd, *args, "--models", "independent", "kinetic")[0] == 0
    (out / "mine.txt").write_text("keep")
    code, text, err = run(capfd, *args, "--models", "independent", "--overwrite", "-q")
    assert code == 0
    assert err == ""
    assert "independent" in text
    names = {path.name for path in out.iterdir()}
    assert not {"fit_kinetic.npz", "couplings.png"} & names
    assert {"mine.txt", "fit_independent.npz"} <= names


@pytest.mark.slow
def test_more_units_than_exact_solutions_hold_are_labelled(tmp_path, capfd):
    """21 units: independent and kinetic models are scored, the lattice says why not."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "many.npz", raster=rng.random((21, 1000)) < 0.1, bin_width=0.01)
    out = tmp_path / "out"
    args = (
        "fit", tmp_path / "many.npz", "--out", out, "--block-duration", "1", "--models",
        "independent", "lattice", "kinetic",
    )  # fmt: skip
    code, text, _ = run(capfd, *args, "--json")
    assert code == 0
    printed = json.loads(text)
    rows = {row["model"]: row for row in printed["models"]}
    assert printed["config"]["bin_width"] == 0.01
    for model in ("independent", "kinetic"):
        assert rows[model]["bits_per_bin"] < 0
        assert rows[model]["note"] == ""
    assert rows["lattice"]["bits_per_bin"] is None
    assert "pseudo-likelihood" in rows["lattice"]["note"]
    assert rows["lattice"]["pseudo_bits_per_bin"] < 0
    # Without couplings the pseudo-likelihood is the likelihood, up to the bins at the edges.
    independent = rows["independent"]
    assert independent["pseudo_bits_per_bin"] == pytest.approx(
        independent["bits_per_bin"], rel=0.01
    )
    assert "clock_time.png" not in printed["files"]
    code, text, _ = run(capfd, *args, "--resume", "-q")
    assert code == 0
    assert "n/a" in text
    assert "not a likelihood" in text.replace("\n", " ")


def test_covariate_drives_the_kinetic_model(tmp_path, capfd):
    code, text, _ = run(
        capfd, "fit", "head_direction", "--units", "adn", "--covariate", "head_direction",
        "--epochs", "700:760", *BLOCKS, "--models", "independent", "kinetic", "--json",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    kinetic = fit.load(tmp_path / "out" / "fit_kinetic.npz").value
    assert kinetic.stimulus.shape == (7, 2)
    assert json.loads(text)["num_units"] == 7


def test_silent_units_are_left_out_with_a_note(tmp_path, capfd):
    spikes = np.random.default_rng(0).random((3, 3000)) < 0.1
    spikes[1] = False
    np.savez(tmp_path / "a.npz", raster=spikes, bin_width=0.02)
    code, text, err = run(
        capfd, "fit", tmp_path / "a.npz", "--out", tmp_path / "out", "--models", "independent",
        *BLOCKS, "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(text)["units_left_out"] == ["1"]
    assert "note: unit 1 left out" in err


def test_fit_that_does_not_converge_is_named_and_not_saved(tmp_path, capfd):
    """A refractory unit has no finite history coupling without a penalty."""
    spikes = np.random.default_rng(0).random((3, 3000)) < 0.2
    spikes[0, 1:] &= ~spikes[0, :-1]
    spikes[0, 1::2] = False
    np.savez(tmp_path / "a.npz", raster=spikes, bin_width=0.02)
    out = tmp_path / "out"
    args = (
        "fit",
        tmp_path / "a.npz",
        "--block-duration",
        "8",
        "--models",
        "independent",
        "kinetic",
    )
    code, text, err = run(capfd, *args, "--l2", "0", "--out", out)
    assert code == 1
    assert "failed" in text
    assert "kinetic model is not fitted" in err
    assert "firth" in err
    assert not (out / "fit_kinetic.npz").exists()
    assert (out / "fit_independent.npz").exists()


def write_csv(path, seed):
    """Three units, 60 s."""
    rng = np.random.default_rng(seed)
    times = [(unit, t) for unit in range(3) for t in np.sort(rng.uniform(0, 60, 300))]
    lines = "".join(f"{unit},{time:.6f}\n" for unit, time in times)
    path.write_text(f"unit,time\n{lines}2,60.0\n")


def nwb(path, per_second=1.0):
    """A minimal NWB file: two units and one epoch of 100 s."""
    times = np.sort(np.random.default_rng(0).uniform(0, 100, (2, 200)), axis=1) * per_second
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
        units = file.create_group("units")
        units["id"] = np.arange(2)
        units["spike_times"] = times.ravel()
        units["spike_times_index"] = np.array([200, 400])
        epochs = file.create_group("intervals/epochs")
        epochs["id"] = np.arange(1)
        epochs["start_time"] = np.array([0.0])
        epochs["stop_time"] = np.array([100.0])


@pytest.mark.parametrize("command", ["fit", "info"])
def test_unusable_files_end_in_one_message_and_no_folder(command, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nwb(tmp_path / "whole.nwb")
    whole = (tmp_path / "whole.nwb").read_bytes()
    (tmp_path / "cut.nwb").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nwb").write_text("unit,time\n0,1.0\n")
    (tmp_path / "empty.csv").write_text("")
    nwb(tmp_path / "milliseconds.nwb", per_second=1000)
    for name, word in {
        "cut.nwb": "cut.nwb",
        "text.nwb": "text.nwb",
        "empty.csv": "empty",
        "milliseconds.nwb": "time_unit",
        "absent.nwb": "does not exist",
        "celegans": "a graph",
        "calcium": "real-valued",
        "head_directon": "no example is named",
    }.items():
        assert word in refused(capfd, command, name)
    assert not (tmp_path / "neurofield-out").exists()
    assert run(capfd, "info", "milliseconds.nwb", "--time-unit", "ms")[0] == 0


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--l2", "-1"], "l2"),
        (["--l2", "much"], "l2"),
        (["--num-lags", "0"], "num-lags"),
        (["--num-lags", "50", "--block-duration", "1"], "num-lags"),
        (["--num-lags", "2", "--firth"], "firth"),
        (["--models", "quantum"], "quantum"),
        (["--models", "lattice", "lattice"], "once"),
        (["--units", "no_such"], "no_such"),
        (["--epochs", "no_such"], "no_such"),
        (["--covariate", "no_such"], "no_such"),
        (["--bin-width", "-0.02"], "bin_width"),
        (["--test-fraction", "1.5"], "test_fraction"),
        (["--block-duration", "5000"], "block"),
        (["--time-unit", "hours"], "time_unit"),
        (["--resume", "--overwrite"], "one of them"),
        (["--device", "tpu"], "cpu"),
        (["--no-such-option"], "no-such-option"),
        (["--config", "absent.toml"], "absent.toml"),
    ],
)
def test_wrong_arguments_are_named(args, word, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "spikes.csv"
    write_csv(source, seed=0)
    assert word in refused(capfd, "fit", source, *args)
    assert {path.name for path in tmp_path.iterdir()} == {"spikes.csv"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("l3 = 1.0", "l3"),
        ("[fit]\nl2 = 1.0", "fit"),
        ("l2 = ", "not a TOML"),
        ('l2 = "much"', "l2"),
        ("source = 3\nbin-width = [1]", "bin-width"),
    ],
)
def test_wrong_configuration_files_are_refused(text, word, tmp_path, capfd):
    (tmp_path / "x.toml").write_text(text)
    message = refused(
        capfd, "fit", "head_direction", "--config", tmp_path / "x.toml", "--out", tmp_path / "out"
    )
    assert word in message
    assert not (tmp_path / "out").exists()


def test_verbose_shows_the_traceback(capfd, tmp_path):
    code, _, err = run(capfd, "info", tmp_path / "absent.nwb", "-v")
    assert code == 2
    assert "Traceback" in err


def test_full_disk_keeps_what_is_there_and_leaves_no_half_file(tmp_path, capfd):
    """A limit on the size of files fails a write as a full disk does."""
    write_csv(tmp_path / "spikes.csv", seed=0)
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Fits are smaller than this, the figures are not. Python ignores the signal that comes with it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        message = refused(
            capfd, "fit", tmp_path / "spikes.csv", "--out", out, *BLOCKS, "--models",
            "independent", "kinetic", code=1,
        )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not write" in message
    assert os.strerror(errno.EFBIG) in message
    names = {path.name for path in out.iterdir()}
    assert {"config.toml", "fit_independent.npz", "fit_kinetic.npz"} <= names
    assert not [name for name in names if name.startswith(".")]
    fit.load(out / "fit_kinetic.npz")


def test_full_disk_at_the_first_file(tmp_path, capfd, monkeypatch):
    write_csv(tmp_path / "spikes.csv", seed=0)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = refused(
        capfd, "fit", tmp_path / "spikes.csv", "--out", tmp_path / "out", "--block-duration", "10",
        code=1,
    )  # fmt: skip
    assert os.strerror(errno.ENOSPC) in message
    assert list((tmp_path / "out").iterdir()) == []


def test_interruption_has_its_own_code(tmp_path, capfd, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "example", interrupt)
    monkeypatch.setattr("neurofield.cli._data.example", interrupt)
    assert "--resume" in refused(capfd, "fit", "head_direction", "--out", tmp_path, code=130)


def test_info_counts_what_the_recording_holds(capfd):
    code, text, _ = run(capfd, "info", "head_direction", "--json")
    assert code == 0
    facts = json.loads(text)
    assert facts["num_units"] == 15
    assert facts["num_spikes"] == 98794 == sum(unit["spikes"] for unit in facts["units"])
    assert facts["duration"] == 1200
    assert [epoch["name"] for epoch in facts["epochs"]] == ["sleep", "wake"]
    assert facts["raster_bytes"] == 15 * 60000
    assert facts["covariates"][0]["name"] == "head_direction"
    assert {unit["region"] for unit in facts["units"]} == {"adn", "ca1"}
    code, text, _ = run(capfd, "info", "head_direction")
    assert code == 0
    assert "occupancy" in text


def test_info_of_a_raster(tmp_path, capfd):
    spikes = np.random.default_rng(0).random((4, 500)) < 0.2
    np.savez(tmp_path / "a.npz", raster=spikes, bin_width=0.01)
    facts = json.loads(run(capfd, "info", tmp_path / "a.npz", "--json")[1])
    assert facts["kind"] == "raster"
    assert facts["num_spikes"] == spikes.sum()
    assert facts["duration"] == pytest.approx(5.0)
    assert run(capfd, "info", tmp_path / "a.npz")[0] == 0


def test_doctor_checks_the_known_number(capfd):
    code, text, _ = run(capfd, "doctor", "--json")
    facts = json.loads(text)
    assert code == 0
    assert facts["check"]["ok"]
    assert facts["devices"][0]["platform"] in ("cpu", "gpu", "tpu")
    assert facts["versions"]["jax"]
    assert facts["cores"] >= 1
    code, text, _ = run(capfd, "doctor")
    assert code == 0
    assert "All is well." in text


def test_doctor_fails_where_the_number_is_wrong(capfd, monkeypatch):
    monkeypatch.setattr(lattice, "log_partition", lambda *args, **kwargs: 6.3)
    assert run(capfd, "doctor")[0] == 1


def test_module_and_script_return_exit_codes():
    done = subprocess.run(
        [sys.executable, "-m", "neurofield", "info", "absent.nwb"],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
