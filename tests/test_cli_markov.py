"""`neurofield markov`: what it writes, what the file means, and how it refuses."""

import csv
import functools
import json
import re
import tomllib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from test_cli import refused, run

from neurofield import fit, markov
from neurofield.cli._markov import _failing
from neurofield.cli._markov_tasks import _readouts
from neurofield.cli._tables import tables_to_toml

TINY = """
[parameters]
regime = "gamma"
"probability[E,I]" = 0.65
leak = [0.0, 1.0]

[solve]
duration = 0.06
discard = 0.01
backend = "map"
closure = "published"
voltage_bin = 10.0
save_dt = 5e-4

[sweep]
parameter = "probability[E,I]"
values = [0.65, 0.9]
second = { parameter = "drive & drive_variance", start = 7e3, stop = 8e3, num = 3 }

[bifurcation]
parameter = "probability[E,I]"
span = [0.5, 0.58]
closure = "published"
voltage_bin = 10.0
"""
SOLVED = {"solution.npz", "solution.csv", "solution.png", "attractor.png"}
SWEPT = {"sweep.csv", "sweep.png"}
ALWAYS = {"config.toml", "summary.json"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def job(tiny):
    """One run of the solve and the sweep."""
    from neurofield.cli import main

    out = tiny.parent / "out"
    tokens = ["markov", str(tiny), "--task", "solve", "sweep", "--out", str(out), "-q", "--json"]
    assert main(tokens) == 0
    return out


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


def test_list_names_and_describes_what_ships(capfd):
    code, out, _ = run(capfd, "markov", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(markov.ready_configs())
    assert set(markov.ready_configs()) == {"default", "gamma", "hom", "async", "meta"}
    described = json.loads(run(capfd, "markov", "--list", "--json")[1])
    assert "period 2" in described["default"]


@pytest.mark.parametrize("name", markov.ready_configs())
def test_ready_configurations_are_their_regimes_and_survive_being_written(name):
    tables = markov.read_config(name)
    params, tasks = markov.from_config(name)
    assert eqx.tree_equal(params, markov.default_parameters(name))
    assert list(tasks) == ["solve"]
    again = tomllib.loads(tables_to_toml(tables, "comment"))
    assert again == tables


def test_job_writes_what_solve_returns(job, tiny):
    assert {path.name for path in job.iterdir()} == ALWAYS | SOLVED | SWEPT
    params, tasks = markov.from_config(tiny)
    direct = markov.solve(params, **tasks["solve"])
    solution = fit.load(job / "solution.npz")
    np.testing.assert_array_equal(solution.rate, direct.rate)
    assert float(params.probability[0, 1]) == 0.65
    assert params.leak.tolist() == [0, 1]
    assert solution.occupancy.shape == (2, 14, 120)
    done = summary_of(job)["solve"]
    kept = np.asarray(direct.rate)[:, 20:]
    spikes = kept.reshape(2, 50, 2).mean(2)
    for k, (row, line) in enumerate(
        zip(done["populations"], table(job / "solution.csv"), strict=True)
    ):
        assert row["rate"] == pytest.approx(kept[k].mean(), rel=1e-12)
        assert row["cv"] == pytest.approx(spikes[k].std() / spikes[k].mean(), rel=1e-9)
        assert row["synchrony"] == pytest.approx(
            float(markov.synchrony_index(direct, discard=0.01)[k]), rel=1e-9
        )
        assert float(line["rate"]) == row["rate"] > 10
    # Between two volleys passes one period, told to 1 of the 25 half milliseconds in 2 of them.
    peaks = markov.peak_differences(np.asarray(direct.rate[0]) * 300, 5e-4, discard=0.01)
    frequency = done["populations"][0]["frequency"]
    assert frequency == pytest.approx(1 / peaks.mean_interval, rel=0.15)


def test_sweep_holds_the_solve_and_is_in_the_order_of_its_axes(job):
    rows = table(job / "sweep.csv")
    axes = [(float(r["probability[E,I]"]), float(r["drive & drive_variance"])) for r in rows]
    assert axes == [(p, d) for p in (0.65, 0.9) for d in (7e3, 7.5e3, 8e3)]
    for row in summary_of(job)["solve"]["populations"]:
        for key in ("rate", "cv", "synchrony", "frequency"):
            assert float(rows[0][f"{key}_{row['population']}"]) == pytest.approx(row[key], rel=1e-9)
    # The drive excites all; inhibition of E lowers it.
    rate = np.array([float(row["rate_E"]) for row in rows]).reshape(2, 3)
    assert np.all(np.diff(rate, axis=1) > 0)
    assert np.all(np.diff(rate, axis=0) < 0)


def test_written_configuration_gives_the_same(job, tmp_path, capfd):
    out = tmp_path / "again"
    code, text, err = run(
        capfd, "markov", job / "config.toml", "--task", "solve", "--out", out, "-q"
    )
    assert code == 0, err
    assert err == ""
    once, again = (fit.load(folder / "solution.npz") for folder in (job, out))
    np.testing.assert_array_equal(once.rate, again.rate)
    for word in ("population", "Hz", "CV", "synchrony", "frequency", str(out)):
        assert word in text


def test_overwrite_is_asked_for_and_leaves_nothing_stale(job, tmp_path, capfd, monkeypatch):
    message = refused(capfd, "markov", job / "config.toml", "--out", job)
    assert "--overwrite" in message
    assert "--resume" not in message
    out, keys, solve = tmp_path / "out", [], markov.solve
    out.mkdir()
    for name in (*SWEPT, "branch.csv", "mine.txt"):
        (out / name).write_text("before")

    @functools.wraps(solve)
    def noting_its_key(params, duration, *, key, **options):
        keys.append(key)
        return solve(params, duration, key=key, **options)

    monkeypatch.setattr(markov, "solve", noting_its_key)
    code, _, err = run(
        capfd, "markov", job / "config.toml", "--task", "solve", "--overwrite", "--out", out, "-q",
        "--set", "solve.duration=0.02", "--set", 'parameters."charge[E,E]"=1.25',
        "--set", "solve.backend=markov", "--seed", "3", "--no-x64",
    )  # fmt: skip
    assert code == 0, err
    assert {path.name for path in out.iterdir()} == ALWAYS | SOLVED | {"mine.txt"}
    tables = tomllib.loads((out / "config.toml").read_text())
    assert (tables["seed"], tables["x64"], tables["task"]) == (3, False, ["solve"])
    assert tables["solve"]["duration"] == 0.02
    assert keys == [jax.random.key(3)]
    solution = fit.load(out / "solution.npz")
    assert solution.rate.dtype == solution.params.size.dtype == jnp.float32
    assert solution.params.charge[0, 0] == 1.25
    neurons = np.asarray(solution.occupancy) * [[[300.0]], [[100.0]]]
    np.testing.assert_allclose(neurons, np.round(neurons), atol=1e-3)  # whole ones


def test_bifurcation_writes_the_branch_it_is_given(tiny, tmp_path, capfd, monkeypatch):
    """Without the time that following one takes."""
    hopf = markov.Bifurcation("hopf", 0.54, np.array([90.0, 100.0]), 72.5)
    branch = markov.Branch(
        parameter=np.array([0.5, 0.53, 0.58]),
        rate=np.array([[95.0, 91.0, 87.0], [105.0, 101.0, 97.0]]),
        stable=np.array([True, True, False]),
        leading=np.array([-20 + 500j, -5 + 480j, 8 + 460j]),
        frequency=np.array([79.6, 76.4, 73.2]),
        points=(hopf,),
        ended="span",
    )

    def continuation(vary, span, *, closure, voltage_bin):
        assert (span, closure, voltage_bin) == ((0.5, 0.58), "published", 10.0)
        assert float(vary(0.55).probability[0, 1]) == 0.55
        return branch

    monkeypatch.setattr(markov, "continuation", continuation)
    out = tmp_path / "out"
    code, text, err = run(capfd, "markov", tiny, "--task", "bifurcation", "--out", out, "-q")
    assert code == 0, err
    assert {path.name for path in out.iterdir()} == ALWAYS | {"branch.csv", "branch.png"}
    for word in ("hopf", "0.54", "90, 100 Hz", "72.5 Hz", "3 points, ended: span"):
        assert word in text
    row = table(out / "branch.csv")[1]
    assert row == {
        "branch": "equilibria", "probability[E,I]": "0.53", "rate_E": "91.0", "rate_I": "101.0",
        "stable": "True", "leading_real": "-5.0", "leading_imag": "480.0", "frequency": "76.4",
    }  # fmt: skip
    (point,) = summary_of(out)["bifurcation"]["branches"]["equilibria"]["bifurcations"]
    rates = {"E": 90.0, "I": 100.0}
    assert point == {"kind": "hopf", "parameter": 0.54, "rate": rates, "frequency": 72.5}

    def fails(vary, span, *, closure, voltage_bin):
        raise RuntimeError("frame\nmarkov.equilibrium: no stationary rates.\nframe")

    monkeypatch.setattr(markov, "continuation", fails)
    message = refused(
        capfd, "markov", tiny, "--task", "bifurcation", "--out", tmp_path / "no", "-q", code=1
    )
    assert message.endswith("[bifurcation]: markov.equilibrium: no stationary rates.\n")
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_bifurcation_follows_the_equilibrium_through_its_hopf_point(tiny, tmp_path, capfd):
    out = tmp_path / "out"
    code, text, err = run(capfd, "markov", tiny, "--task", "bifurcation", "--out", out, "-q")
    assert code == 0, err
    assert {path.name for path in out.iterdir()} == ALWAYS | {"branch.csv", "branch.png"}
    rows = table(out / "branch.csv")
    done = summary_of(out)["bifurcation"]["branches"]["equilibria"]
    assert done["ended"] == "span"
    assert done["num_points"] == len(rows)
    (hopf,) = done["bifurcations"]
    assert hopf["kind"] == "hopf"
    assert "hopf" in text
    parameter = np.array([float(row["probability[E,I]"]) for row in rows])
    stable = np.array([row["stable"] == "True" for row in rows])
    np.testing.assert_array_equal(stable, parameter < hopf["parameter"])
    np.testing.assert_array_equal(stable, [float(row["leading_real"]) < 0 for row in rows])
    assert 0 < stable.sum() < len(rows)
    # The first point is a rest state of the equations, found by its own function.
    _, tasks = markov.from_config(tiny)
    own = tasks["bifurcation"]["equilibria"]
    start = markov.equilibrium(own["vary"](0.5), closure="published", voltage_bin=10.0)
    for k, name in enumerate("EI"):
        assert float(rows[0][f"rate_{name}"]) == pytest.approx(float(start.rate[k]), rel=1e-6)


@pytest.mark.slow
def test_cycles_and_peaks_come_beside_the_equilibria(tiny, tmp_path, capfd):
    out = tmp_path / "out"
    code, _, err = run(
        capfd, "markov", tiny, "--task", "bifurcation", "--out", out, "-q",
        "--set", "bifurcation.cycles={num_points=2, num_steps=100, span=[0.7, 0.75]}",
        "--set", "bifurcation.peaks={values=[0.7, 0.85], duration=0.3, backend='map', "
        "refractory='published', voltage_bin=4.0}",
    )  # fmt: skip
    assert code == 0, err
    rows = [row for row in table(out / "branch.csv") if row["branch"] == "cycles"]
    assert len(rows) == 2
    for row in rows:
        assert 40 < float(row["frequency"]) < 80
        assert np.hypot(float(row["leading_real"]), float(row["leading_imag"])) < 1
    # The published program's peaks differ by 0.2 spikes/ms at 0.70 and by 165 at 0.84.
    first, second = table(out / "peaks.csv")
    assert float(first["mean_difference"]) < 5e3
    assert float(second["mean_difference"]) > 1e5
    assert (out / "peaks.png").exists()


# --- readouts -------------------------------------------------------------------------------------


def test_readouts_of_a_cosine(job):
    """r (1 + cos(2 pi f t)) has the CV 1 / sqrt(2), less what bins of 1 ms average out."""
    solution = fit.load(job / "solution.npz")
    time = 5e-4 * np.arange(2000)
    frequency = 57.3
    rate = 20 * (1 + np.cos(2 * np.pi * frequency * (time + 2.5e-4)))
    rate = jnp.asarray(np.stack([rate, np.full(2000, 20.0)]))
    found = _readouts(eqx.tree_at(lambda s: s.rate, solution, rate), 0.0)
    np.testing.assert_allclose(found["rate"], 20, rtol=0.01)
    pair = np.cos(np.pi * frequency * 5e-4)  # the mean of two samples half a millisecond apart
    np.testing.assert_allclose(found["cv"], [pair / 2**0.5, 0], rtol=0.01)
    # The parabola through the logarithms of a Hann line is off by less than 2 % of 2 Hz.
    assert float(found["frequency"][0]) == pytest.approx(frequency, abs=0.04)
    assert np.isnan(found["frequency"][1])


def test_what_a_failed_computation_says_is_one_line():
    @eqx.filter_jit
    def fails(x):
        return eqx.error_if(x, x > 0, "markov.limit_cycle: no cycle was found.")

    with (
        pytest.raises(FloatingPointError, match=r"^file \[x\]: markov.limit_cycle: no cycle"),
        _failing("file [x]"),
    ):
        jax.block_until_ready(fails(jnp.ones(())))
    with pytest.raises(RuntimeError, match="not ours"), _failing("file [x]"):
        raise RuntimeError("not ours")


# --- what a file means ----------------------------------------------------------------------------


def test_parameters_without_a_regime_and_over_one():
    fields = {"size": [30, 20, 10], "probability": 0.2, "charge": 1.5, "tau": 2e-3}
    fields |= {"inhibitory": [False, False, True], "names": ["a", "b", "c"]}
    params, tasks = markov.from_config({"parameters": fields})
    expected = markov.Parameters(
        np.array([30.0, 20.0, 10.0]), 0.2, 1.5, 2e-3,
        inhibitory=[False, False, True], names=["a", "b", "c"],
    )  # fmt: skip
    assert eqx.tree_equal(params, expected)
    assert tasks == {}
    over, _ = markov.from_config({"parameters": {"regime": "hom", "drive": 8e3, "tau[:,I]": 5e-3}})
    hom = markov.default_parameters("hom")
    assert over.drive.tolist() == over.drive_variance.tolist() == [8e3, 8e3]
    assert over.tau[:, 1].tolist() == [5e-3, 5e-3]
    np.testing.assert_array_equal(over.tau[:, 0], hom.tau[:, 0])
    np.testing.assert_array_equal(over.charge, hom.charge)


def test_tasks_are_chosen_and_take_each_others_settings():
    tables = tomllib.loads(TINY) | {"task": "sweep"}
    tables["bifurcation"]["cycles"] = True
    tables["bifurcation"]["peaks"] = {"num": 5, "duration": 0.3, "rtol": 1e-3}
    params, tasks = markov.from_config(tables)
    assert list(tasks) == ["sweep"]
    sweep = tasks["sweep"]
    assert sweep["solve"] == markov.from_config(tables | {"task": "solve"})[1]["solve"]
    varied = sweep["vary"](0.9, 8e3)
    assert float(varied.probability[0, 1]) == 0.9
    assert varied.drive_variance.tolist() == [8e3, 8e3]
    np.testing.assert_array_equal(varied.charge, params.charge)
    own = markov.from_config(tables | {"task": ["bifurcation"]})[1]["bifurcation"]
    assert own["cycles"]["span"] == own["equilibria"]["span"] == (0.5, 0.58)
    assert own["cycles"]["closure"] == "published"
    np.testing.assert_allclose(own["peaks"]["values"], np.linspace(0.5, 0.58, 5))
    assert own["peaks"]["rtol"] == 1e-3


def test_manual_is_true():
    text = (ROOT / "docs" / "markov.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    tables = tomllib.loads(block)
    assert list(markov.from_config(tables)[1]) == ["solve", "sweep"]
    assert set(markov.from_config(tables | {"task": "bifurcation"})[1]["bifurcation"]) == {
        "parameter", "equilibria", "cycles", "peaks",
    }  # fmt: skip
    assert all(f"| `{name}` |" in text for name in markov.ready_configs())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"gamma"', '"gama"', ["[parameters]", "regime must be one of", "'gama'"]),
        ("leak =", "leek =", ["[parameters]", "'leek'", "did you mean 'leak'"]),
        ("leak = [0.0, 1.0]", "leak = [0.0, 1.0, 2.0]", ["[parameters]", "leak", "shape"]),
        ("leak = [0.0, 1.0]", 'leak = "1 Hz"', ["[parameters] leak", "number"]),
        ("leak = [0.0, 1.0]", "leak = -1.0", ["[parameters]", "leak", "negative"]),
        ("[E,I]", "[E,X]", ["[parameters]", "E, I", "'X'"]),
        ("= 0.65\n", "= 1.65\n", ["[parameters]", "probability must lie in [0, 1]"]),
        ("= 0.65\n", '= "a lot"\n', ["[parameters]", "'probability[E,I]'", "expected a number"]),
        ("duration =", "time =", ["[solve]", "'time'", "duration"]),
        ("duration = 0.06", "", ["[solve]", "duration must be given"]),
        ("duration = 0.06", 'duration = "1 s"', ["[solve]", "duration", "number of seconds"]),
        ("duration = 0.06", "duration = 0.0603", ["[solve]", "multiple of save_dt"]),
        ("discard = 0.01", "discard = 0.06", ["[solve]", "discard", "less than duration"]),
        ("discard = 0.01", "discard = 0.0101", ["[solve]", "discard", "multiple"]),
        ('backend = "map"', 'backend = "maps"', ["[solve]", "ode, map, markov", "'maps'"]),
        ('backend = "map"', "throw = false", ["[solve]", "'throw'"]),
        ('closure = "published"', 'closure = "white"', ["[solve]", "closure", "'white'"]),
        ("voltage_bin = 10.0", "voltage_bin = 9.0", ["[solve]", "voltage_bin = 9.0 mV"]),
        ("values = [0.65, 0.9]", "values = []", ["[sweep]", "values must be a list"]),
        ("values = [0.65, 0.9]", "values = [0.65, 1.9]", ["[sweep]", "in [0, 1]"]),
        ("values = [0.65, 0.9]", "start = 0.5", ["[sweep]", "start, stop and num"]),
        ("num = 3 }", 'num = 3, style = "-" }', ["[sweep] second", "'style'"]),
        ('"drive & drive_variance"', '"drives"', ["[sweep]", "'drives' names no entries"]),
        ('"drive & drive_variance"', '"probability"', ["[sweep]", "named twice|is one number|in"]),
        ("span = [0.5, 0.58]", "span = [0.5]", ["[bifurcation]", "two different numbers"]),
        ("span = [0.5, 0.58]", "", ["[bifurcation]", "span", "None"]),
        ("span = [0.5, 0.58]", "span = [0.5, 1.2]", ["[bifurcation]", "in [0, 1]"]),
        ("[bifurcation]", "[bifurcations]", ["'bifurcations'", "did you mean 'bifurcation'"]),
        ("[parameters]", 'task = "solved"\n[parameters]', ["task", "'solved'", "solve, sweep"]),
        ("[parameters]", "seed = -1\n[parameters]", ["seed must be a whole number"]),
        ("[parameters]", "x64 = 1\n[parameters]", ["x64 true or false"]),
        ("[parameters]", 'device = "tpu"\n[parameters]', ["no tpu"]),
        ("[solve]", "[solve", ["is not a TOML file"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(old, new, words, tmp_path, capfd):
    assert TINY.count(old)
    path, out = tmp_path / "net.toml", tmp_path / "out"
    path.write_text(TINY.replace(old, new, 1))
    message = refused(capfd, "markov", path, "--out", out, "-q")
    assert len(message.splitlines()) == 1
    assert str(path) in message or "no tpu" in message
    for word in words:
        assert re.search(word, message) if "|" in word else word in message
    assert not out.exists()


def test_other_refusals(tmp_path, capfd):
    out = tmp_path / "out"
    assert "did you mean 'gamma'" in refused(capfd, "markov", "gama", "--out", out)
    assert "--list" in refused(capfd, "markov")
    assert "KEY=VALUE" in refused(capfd, "markov", "gamma", "--set", "duration", "--out", out)
    nothing = tmp_path / "nothing.toml"
    nothing.write_text('[parameters]\nregime = "gamma"\n')
    assert "asks for nothing" in refused(capfd, "markov", nothing, "--out", out)
    assert not out.exists()
