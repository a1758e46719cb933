"""`neurofield meanfield`: what it writes, what the file means, and how it refuses."""

import csv
import json
import tomllib

import jax
import numpy as np
import pytest
from test_cli import refused, run

from neurofield import fit, meanfield, network
from neurofield.cli._meanfield import _rows
from neurofield.cli._tables import tables_to_toml

TINY = """
[meanfield]
duration = 0.1
dt = 1e-3
method = "stationary"
max_lag = 0.03
num_paths = 128
seed = 3

[check]
num_networks = 2
duration = 0.1

[population.x]
size = 50
neuron = { kind = "Rate", phi = "tanh", tau = 0.01 }
drive = { kind = "Constant", value = 1.0 }

[[projection]]
source = "x"
target = "x"
connectivity = { kind = "gaussian", mean = -1.0, gain = 0.5 }
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    from neurofield.cli import main

    path = tmp_path_factory.mktemp("tiny") / "tiny.toml"
    path.write_text(TINY)
    assert main(["meanfield", str(path), "--out", str(path.parent / "out"), "-q", "--json"]) == 0
    return path.parent / "out"


def test_list_names_and_describes_what_ships(capfd):
    described = json.loads(run(capfd, "meanfield", "--list", "--json")[1])
    assert tuple(described) == meanfield.ready_configs()
    assert {"escape_ei", "random_rates", "brunel2000"} <= set(described)


@pytest.mark.parametrize("name", ["escape_ei", "random_rates"])
def test_ready_configurations_survive_being_written(name):
    tables = meanfield.read_config(name)
    net, tasks = meanfield.from_config(name)
    assert list(tasks) == ["meanfield"]
    assert "seed" not in tasks["meanfield"]
    assert net.size in (1000, 5000)
    assert tomllib.loads(tables_to_toml(tables, "comment")) == tables


def test_network_configurations_are_solved_at_their_own_step():
    _, tasks = meanfield.from_config("brunel2000")
    assert tasks["meanfield"]["dt"] == 1e-4
    assert tasks["meanfield"]["duration"] <= 1.0


@pytest.mark.slow
def test_job_writes_what_solve_returns(job):
    names = {"solution.npz", "solution.csv", "solution.png", "check.csv"}
    assert {path.name for path in job.iterdir()} == {"config.toml", "summary.json"} | names
    net, tasks = meanfield.from_config(job / "config.toml")
    key, _ = jax.random.split(jax.random.key(3))
    direct = meanfield.solve(net, **tasks["meanfield"], key=key)
    arrays = fit.load(job / "solution.npz")
    np.testing.assert_array_equal(arrays["covariance"], direct.covariance)
    summary = json.loads((job / "summary.json").read_text())
    assert summary["populations"][0]["mean"] == float(direct.mean[0])
    assert summary["diagnostics"]["stable"] is True
    with open(job / "check.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["check"]["num_compared"]
    assert summary["check"]["num_networks"] == 2


@pytest.mark.slow
def test_refusals(job, tmp_path, capfd):
    config = str(job / "config.toml")
    assert "not empty" in refused(capfd, "meanfield", config, "--out", str(job))
    assert "needs a TOML file" in refused(capfd, "meanfield")
    bad = tmp_path / "bad.toml"
    bad.write_text(TINY.replace("max_lag", "max_lags"))
    assert "did you mean 'max_lag'" in refused(capfd, "meanfield", str(bad))
    message = refused(capfd, "meanfield", "escape_ii")
    assert "did you mean 'escape_ei'" in message


@pytest.mark.slow
def test_what_is_printed_of_a_course_is_of_its_mean_over_time():
    noise = network.WhiteNoise(2.0)
    units = network.Population("x", network.Rate(lambda h: h, tau=1.0), 200, noise)
    net = network.Network([units], [network.Projection("x", "x", network.gaussian(0.0, 0.0))])
    solution = meanfield.solve(
        net, 4.0, 0.1, method="march", order="shared", key=jax.random.key(0), num_paths=512
    )
    (row,) = _rows(solution)
    # Without coupling the linear units are filtered white noise and their own starts.
    lag, leak = np.subtract.outer(np.arange(40), np.arange(40)), np.exp(-0.1)
    kernel = np.where(lag >= 0, (1 - leak) * leak ** np.abs(lag), 0)
    start = leak ** np.arange(1, 41)
    sd = np.sqrt(np.mean(20 * kernel @ kernel.T + np.outer(start, start)))
    # The variance of 512 normal numbers is known to 6 %, its root to 3 %.
    assert row["sd_of_networks"] == pytest.approx(sd / 200**0.5, rel=0.12)
    # Four groups of 128 tell the error sd / sqrt(512) to 40 %, that of steps is twice as large.
    groups = np.mean(solution.replicas["mean"], axis=(0, 2))
    np.testing.assert_allclose(row["mean"], np.mean(groups))
    spread = np.mean(solution.replicas["mean"], axis=2)[:, 0].std(ddof=1) / 2
    assert row["error"] == pytest.approx(spread)
    assert abs(row["mean"]) < 4 * sd / 512**0.5
