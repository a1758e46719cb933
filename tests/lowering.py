"""Lower the slow or the fast entries of the contract table; print failures as JSON, by name.

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
    if case.slow != (sys.argv[1] == "slow"):
        continue
    # All at once first: it traces once. If that fails, one by one: a branch for one platform alone
    # (`lax.platform_dependent`) need not lower for the others.
    if failure(case, case.platforms):
        named = {p: why for p in case.platforms if (why := failure(case, [p]))}
        failures |= {case.name: named} if named else {}
json.dump(failures, sys.stdout)
