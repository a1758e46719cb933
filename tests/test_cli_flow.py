"""`neurofield flow`: what it writes, how it goes on, and how it refuses."""

import contextlib
import csv
import io
import json
import tomllib

import jax
import numpy as np
import pytest
from test_cli import refused, run

from neurofield import fit, renorm
from neurofield.cli import main
from neurofield.cli._flow import _holds_graph
from neurofield.recording import Raster, read

SMALL = ("--num-surrogates", "10", "--num-bootstrap", "10")
FILES = {
    *("config.toml", "summary.json", "flow.csv", "flow.png", "graph.npz"),
    *("flow_activity.npz", "flow_laplacian.npz"),
}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Two groups of units that share a rate, as a raster in a file, and its run with --json."""
    folder = tmp_path_factory.mktemp("flow")
    rng = np.random.default_rng(0)
    rate = 0.2 * (1 + (np.arange(800) // 40 + np.array([[0], [1]])) % 2)
    spikes = rng.random((8, 800)) < rate.repeat(4, 0)
    source = folder / "two.npz"
    np.savez(source, raster=spikes, bin_width=0.02)
    out = folder / "out"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["flow", str(source), *SMALL, "--out", str(out), "-q", "--json"]) == 0
    return source, out, json.loads(printed.getvalue())


def test_job_writes_every_file_and_no_other(job):
    _, out, printed = job
    assert {path.name for path in out.iterdir()} == FILES == set(printed["files"])
    assert (out / "flow.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "summary.json").read_text()) == printed
    assert tomllib.loads((out / "config.toml").read_text())["num-surrogates"] == 10


def test_activity_flow_is_the_library_s(job):
    source, out, printed = job
    raster = read(source)
    assert isinstance(raster, Raster)
    key = jax.random.split(jax.random.key(0), 3)[0]
    direct = renorm.phenomenological_flow(key, raster, num_bootstrap=10)
    saved = fit.load(out / "flow_activity.npz")
    np.testing.assert_array_equal(saved.observables["variance"], direct.observables["variance"])
    alpha = printed["flows"]["activity"]["exponents"]["alpha"]["value"]
    assert alpha == float(direct.exponents["alpha"])
    assert set(printed["flows"]["activity"]["nulls"]) == {"shift", "rate_matched", "shared_rate"}
    with open(out / "flow.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = {"flow": "activity", "null": "", "observable": "variance", "level": "1"}
    one = next(row for row in rows if wanted.items() <= row.items())
    assert float(one["value"]) == float(direct.observables["variance"][1])
    assert float(one["error"]) == float(direct.errors["variance"][1])


def test_resume_takes_what_is_there_and_makes_the_rest(job, capfd):
    source, out, printed = job
    kept = (out / "flow_activity.npz").stat().st_mtime_ns
    (out / "flow_laplacian.npz").unlink()
    code, table, err = run(capfd, "flow", source, *SMALL, "--out", out, "--resume")
    assert code == 0
    assert "coarse-graining activity: found in" in err
    assert "coarse-graining the graph\n" in err
    assert (out / "flow_activity.npz").stat().st_mtime_ns == kept
    again = json.loads((out / "summary.json").read_text())
    assert again["flows"] == printed["flows"]
    assert "shared_rate" in table
    assert "alpha" in table
    assert "Graph of 8 nodes" in table
    message = refused(capfd, "flow", source, *SMALL, "--seed", "1", "--out", out, "--resume")
    assert "is of other data or settings" in message


def test_graph_from_edges_says_what_it_found(tmp_path, capfd):
    path = tmp_path / "ring.csv"
    path.write_text("pre,post\n" + "".join(f"{i},{(i + 1) % 16}\n" for i in range(16)))
    out = tmp_path / "out"
    code, table, _ = run(capfd, "flow", path, "--out", out, "-q", "--graph-null", "weights")
    assert code == 0
    assert "Graph of 16 nodes and 16 edges" in table
    assert "no scale" in table
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES - {
        "graph.npz",
        "flow_activity.npz",
    }
    flow = fit.load(tmp_path / "out" / "flow_laplacian.npz")
    np.testing.assert_array_equal(flow.states[0].weights, np.roll(np.eye(16), 1, axis=0))


def test_refusals(job, tmp_path, capfd):
    source, out, _ = job
    assert "not empty" in refused(capfd, "flow", source, "--out", out)
    new = ("--out", tmp_path / "a")
    assert "holds a raster in bins" in refused(capfd, "flow", source, "--bin-width", "0.1", *new)
    assert "--units is for spikes" in refused(capfd, "flow", "celegans", "--units", "a", *new)
    assert "no example is named 'worm'" in refused(capfd, "flow", "worm")
    bad = tmp_path / "bad.csv"
    bad.write_text("pre,post,weight\na,b,heavy\n")
    assert "row 2: 'heavy' is not a weight" in refused(capfd, "flow", bad)
    assert not (tmp_path / "a").exists()


def test_a_table_of_spikes_with_many_columns_is_no_graph(tmp_path):
    path = tmp_path / "spikes.csv"
    path.write_text("unit,Time (s),amplitude,depth,quality\n0,0.1,1,2,3\n")
    assert not _holds_graph(path)
    path.write_text("0,1,1,1,1\n1,0,1,1,1\n1,1,0,1,1\n1,1,1,0,1\n1,1,1,1,0\n")
    assert _holds_graph(path)
    path.write_text("pre,post,first_time\n0,1,2\n")
    assert _holds_graph(path)
