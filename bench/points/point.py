"""One new point of a family: its two back-ends, and the rows that compare them."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import harness
import numpy as np

# (value, standard error), by the name of a quantity.
Numbers = dict[str, tuple[float, float]]
EXACT = 1e-6


@dataclass(frozen=True)
class Point:
    """One set of parameters, by two back-ends.

    `tolerance`: relative, or in units of `scale` where values may be near 0; one number, or by how
    the quantity's name begins.
    """

    family: str
    name: str
    backends: tuple[str, str]
    ours: Callable[[], Numbers]
    theirs: Callable[[], Numbers]
    tolerance: float | dict[str, float]
    scale: float | None = None
    dtype: str = "float64"

    def reports(
        self, limits: dict[str, float], quick: bool, device: str
    ) -> Iterator[dict[str, Any]]:
        sides, seconds = [], []
        for side in (self.ours, self.theirs):
            start = time.process_time()
            sides.append(side())
            seconds.append(time.process_time() - start)
        for quantity in sides[0]:
            (a, own), (b, other) = (side[quantity] for side in sides)
            tolerance = self.tolerance
            if isinstance(tolerance, dict):
                tolerance = next(v for k, v in tolerance.items() if quantity.startswith(k))
            error = float(np.hypot(own, other))
            scale = abs(b) if self.scale is None else self.scale
            report = {
                "case": f"{self.family}: {self.name}: {quantity}",
                "dtype": self.dtype,
                "backend": self.backends[0],
                "peer": self.backends[1],
                "ours": {"value": a, "error": own},
                "theirs": {"value": b, "error": other},
                "disagreement": abs(a - b) / scale,
                "error": error / scale,
                "z": None if error == 0 else (a - b) / error,
                "tolerance": tolerance,
                # False for NaN, and where the errors would hide anything.
                "agrees": bool(
                    abs(a - b) <= max(4 * error, tolerance * scale) and error <= tolerance * scale
                ),
                "ours_s": seconds[0],  # of CPU, compilation included
                "peer_s": seconds[1],
            } | harness.environment()
            ROWS.append(report)
            yield report


ROWS: list[dict[str, Any]] = []


def exact(numbers: dict[str, Any]) -> Numbers:
    return {name: (float(value), 0.0) for name, value in numbers.items()}


def compared(solution, key, num_networks, duration, **options) -> tuple[Numbers, Numbers]:
    """Predicted and simulated means, of `meanfield.check`."""
    from neurofield import meanfield

    found = meanfield.check(
        key, solution, num_networks=num_networks, duration=duration, lags=(0,), **options
    )
    own, theirs = {}, {}
    for i, name in enumerate(found.quantity):
        if name.startswith("mean"):
            own[name] = float(found.predicted[i]), 0.0
            theirs[name] = float(found.simulated[i]), float(found.error[i])
    return own, theirs


def beside_networks(family, name, solve, tolerance, seed, networks, duration, **options) -> Point:
    """Paths beside simulations; the errors of both are on the side of the networks."""
    import jax

    sides: list[Numbers] = []

    def ours():
        sides.extend(compared(solve(), jax.random.key(seed), networks, duration, **options))
        return sides[0]

    return Point(
        family,
        name,
        ("stationary paths", f"{networks} networks"),
        ours,
        lambda: sides[1],
        tolerance,
    )


def show() -> None:
    """The table, and how many rows disagree; of the process that ran the cases."""
    if not ROWS:
        return
    width = max((len(row["case"]) for row in ROWS), default=0)
    for row in ROWS:
        z = "" if row["z"] is None else f"{row['z']:+.2f}"
        print(
            f"{row['case']:{width}}  {row['backend'][:18]:18}  {row['peer'][:22]:22} "
            f"{row['ours']['value']:13.8g} {row['theirs']['value']:13.8g}  "
            f"{row['disagreement']:8.1e} ({row['error']:7.1e})  {z:>6}  {row['tolerance']:7.1e}  "
            f"{'' if row['agrees'] else 'BEYOND'}",
            file=sys.stderr,
        )
    beyond = sum(not row["agrees"] for row in ROWS)
    print(f"{len(ROWS)} rows, {beyond} beyond tolerance", file=sys.stderr)
