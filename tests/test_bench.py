"""Every benchmark runs, and its peers agree: `--quick`, so that no script rots."""

import json

import pytest
from helpers import ROOT, python

# They compile peers and simulators, or start processes of their own.
SLOW = {
    "brunel",
    "markov",
    "meanfield",
    "meanfield_points",
    "meanfield_siegert",
    "renorm_inference",
    "renorm_thermodynamics",
}
CASES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
    for path in sorted((ROOT / "bench").glob("*.py"))
    if path.name != "harness.py"
]


@pytest.mark.parametrize("path", CASES)
def test_runs_and_agrees(path):
    lines = python(str(path), "--quick").splitlines()
    assert lines, "a benchmark prints one JSON line for each of its cases"
    for report in map(json.loads, lines):
        assert report["agrees"]
        assert {"case", "peer", "device", "versions", "tolerance"} <= report.keys()
        if path.stem != "meanfield_points":  # which asks for agreement alone
            assert report["times_faster"] > 0
            assert "compile_s" in report
