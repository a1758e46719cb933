"""CPU, GPU or TPU, checked on a CPU: every entry of the contract table lowers for all three."""

import json

import pytest
from contract_table import CASES
from helpers import ROOT, python


@pytest.fixture(scope="module")
def failures() -> dict[str, dict[str, str]]:
    # In float32 and JAX's default configuration: what a user of an accelerator has.
    out = python(str(ROOT / "tests" / "lowering.py"), EQX_ON_ERROR="nan", JAX_PLATFORMS="cpu")
    return json.loads(out)


@pytest.mark.parametrize("name", CASES)
def test_lowers_on_every_platform(name, failures):
    assert name not in failures, failures[name]
