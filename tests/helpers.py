"""What several test files share."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neurofield"


def python(*args: str, cwd: Path = ROOT, timeout: float = 300, **env: str) -> str:
    """Run this Python, on this checkout, in a fresh process; its stdout. A failure shows it all."""
    done = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def rooms() -> list[str]:
    """Dotted names, below neurofield, of the packages that have an `__init__.py`."""
    return sorted(
        ".".join(init.parent.relative_to(PACKAGE).parts)
        for init in PACKAGE.rglob("__init__.py")
        if init.parent != PACKAGE
    )
