"""`neurofield doctor`: is the installation sound, and what does it compute with?"""

import json as json_
import os
import platform
from importlib import metadata
from typing import Any

import jax
import numpy as np

from neurofield import __version__, lattice

_CORE = (
    "jax", "jaxlib", "equinox", "lineax", "optimistix", "optax", "jaxtyping", "numpy", "scipy",
    "h5py", "cyclopts", "rich", "matplotlib",
)  # fmt: skip
_EXTRAS = {
    "io": ("pynapple", "neo", "pynwb"),
    "xarray": ("xarray",),
    "notebook": ("jupytext", "nbclient", "ipykernel"),
}
# Log partition function of three neurons and four bins, by enumeration of all 4096 rasters.
_KNOWN = 6.348082174812241


def run_doctor(*, json: bool) -> int:
    facts = _facts()
    if json:
        print(json_.dumps(facts, allow_nan=False))
    else:
        _print(facts)
    return 0 if facts["check"]["ok"] else 1


def _facts() -> dict[str, Any]:
    devices = [{"platform": d.platform, "kind": d.device_kind, "id": d.id} for d in jax.devices()]
    return {
        "neurofield": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in _CORE},
        "extras": {
            extra: {name: _version(name) for name in names} for extra, names in _EXTRAS.items()
        },
        "devices": devices,
        "backend": jax.default_backend(),
        "cores": _cores(),
        "memory_bytes": _memory(),
        "default_dtype": str(jax.numpy.zeros(()).dtype),
        "fit_dtype": "float64",
        "compilation_cache": jax.config.values["jax_compilation_cache_dir"],
        "check": _check(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    """Those that this process may use, not all that the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _check() -> dict[str, Any]:
    """One number that this installation must get right, computed as a fit computes."""
    with jax.enable_x64(True):
        action = lattice.Action(
            field=np.array([-0.7, -0.2, -1.0]),
            space=np.array([[0, 0.5, -0.3], [0.5, 0, 0.2], [-0.3, 0.2, 0]]),
            history=np.full((1, 3), 0.4),
        )
        value = float(lattice.log_partition(action, num_steps=4, boundary="open"))
    return {
        "name": "log partition function of the reference lattice (3 neurons, 4 bins)",
        "value": value if np.isfinite(value) else None,
        "expected": _KNOWN,
        "ok": bool(abs(value - _KNOWN) < 1e-12),
    }


def _print(facts: dict[str, Any]) -> None:
    def line(name: str, value: Any) -> None:
        print(f"{name:<18} {value}")

    line("neurofield", facts["neurofield"])
    line("python", f"{facts['python']} on {facts['system']}")
    for device in facts["devices"]:
        line("device", f"{device['platform']} {device['id']} ({device['kind']})")
    memory = facts["memory_bytes"]
    line("cores", facts["cores"])
    line("memory", "unknown" if memory is None else f"{memory / 2**30:.1f} GiB")
    line("default dtype", f"{facts['default_dtype']} (neurofield fit computes in float64)")
    line("compilation cache", facts["compilation_cache"] or "off (JAX_COMPILATION_CACHE_DIR=DIR)")
    line("versions", ", ".join(f"{n} {v or 'MISSING'}" for n, v in facts["versions"].items()))
    for extra, versions in facts["extras"].items():
        line(f"extra [{extra}]", ", ".join(f"{n} {v or 'absent'}" for n, v in versions.items()))
    check = facts["check"]
    line("check", f"{check['name']}: {check['value']}, expected {check['expected']}")
    print("All is well." if check["ok"] else "The check FAILED: this installation is not sound.")
