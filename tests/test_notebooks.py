"""Every notebook runs from its source, at reduced size, and ends in an assert on its headline."""

import ast

import jupytext
import nbclient
import pytest
from helpers import ROOT

SLOW = {"01_network", "02_markov", "03_meanfield", "04_renorm"}  # up to a minute of compilation
NOTEBOOKS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
    for path in sorted((ROOT / "notebooks").glob("*.py"))
]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_runs_and_ends_in_an_assert(path, tmp_path, monkeypatch):
    notebook = jupytext.read(path)
    # As the notebook's own format, whatever kernel its header names: the one of this environment.
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert isinstance(ast.parse(code[-1]).body[-1], ast.Assert), "its last statement is an assert"
    monkeypatch.setenv("NEUROFIELD_SMALL", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
