"""`neurofield meanfield`: what it writes, what the file means, and how it refuses."""

import csv
import json
import tomllib

import jax
import numpy as np
import pytest
from test_cli import refused, run

from neurofield import fit, meanfield
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
