"""Lower every entry of the contract table; print a JSON object of failures, by name.

Run in a process of its own with EQX_ON_ERROR=nan, which is read when equinox is imported: its other
modes call back to the host, which cannot be exported.
"""

import json
import sys

import jax
import jax.numpy as jnp
from contract_table import CASES


def failure(case, platforms) -> str | None:
    try:
        jax.export.export(jax.jit(case.fn), platforms=platforms)(*case.args(dtype=jnp.float32))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:2000]
    return None


failures = {}
for case in CASES.values():
    # All at once first: it traces once. If that fails, one by one, to name the platform.
    if failure(case, case.platforms):
        failures[case.name] = {p: why for p in case.platforms if (why := failure(case, [p]))}
json.dump(failures, sys.stdout)
