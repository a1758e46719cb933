"""CPU, GPU or TPU, checked on a CPU: every entry of the contract table lowers for all three."""

import functools
import json

import pytest
from contract_table import CASES
from helpers import ROOT, python


@functools.cache
def failures(slow: bool) -> dict[str, dict[str, str]]:
    # In float32 and JAX's default configuration: what a user of an accelerator has.
    which = "slow" if slow else "fast"
    path = str(ROOT / "tests" / "lowering.py")
    return json.loads(python(path, which, EQX_ON_ERROR="nan", JAX_PLATFORMS="cpu"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * case.slow) for n, case in CASES.items()],
)
def test_lowers_on_every_platform(name):
    found = failures(CASES[name].slow)
    assert name not in found, found[name]
