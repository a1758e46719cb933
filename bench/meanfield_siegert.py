"""Diffusion theory of LIF neurons against NNMT (Layer, Senk, Essink et al. 2022), in float64.

- Rates of the eight populations of the microcircuit (Potjans & Diesmann 2014, in-degrees of Bos et
  al. 2016), from silence.
- Linear response of its neurons at 1,000 frequencies; `times_faster` is for a value, as the peer
  computes a few of them. Without the refractory time in both: NNMT leaves out that spikes return
  from it later, and so misses the derivative of the rate at low frequencies.

NNMT runs in the Python of an environment of its own, named by `NEUROFIELD_NNMT`; its workers are
`peers/nnmt_worker.py`. Where the variable is not set, and under `--quick`, adaptive quadrature of
SciPy stands in for it, and finite differences of the rate.
"""

import csv
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import harness
import numpy as np

HERE = Path(__file__).parent
INDEGREES = HERE.parent / "tests" / "reference" / "meanfield" / "microcircuit_indegrees.csv"
PEER = os.environ.get("NEUROFIELD_NNMT")
CELL = {"tau": 0.01, "threshold": 15.0, "reset": 0.0, "refractory": 0.002, "synaptic_tau": 5e-4}
JUMP = 0.1756  # mV: 87.8 pA times 0.5 ms over 250 pF
RATE = 8.0  # Hz, of each external input
NUM_FREQUENCIES = 1000


@dataclass(frozen=True)
class Nnmt(harness.Case):
    """The peer measures itself in its own process: its seconds for `share` of our work."""

    job: Callable[[], dict[str, Any]] = dict
    share: float = 1.0

    @cached_property
    def theirs(self) -> dict[str, Any]:
        done = subprocess.run(
            [str(PEER), str(HERE / "peers" / "nnmt_worker.py")],
            input=json.dumps(self.job()),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    def reports(self, limits: dict[str, float], quick: bool, device: str) -> list[dict[str, Any]]:
        _, first = harness.timed(self.ours)
        disagreement = float(self.disagreement(self.ours(), np.asarray(self.theirs["values"])))
        _, once = harness.timed(self.ours)
        inner = max(1, round(0.05 / once["wall"]))
        rounds = [harness.timed(self.ours, inner)[1] for _ in range(15)]
        ours = {c: float(np.median([r[c] for r in rounds])) for c in ("cpu", "wall")}
        theirs = {c: float(np.median(self.theirs[c])) for c in ("cpu", "wall")}
        report = harness.environment()
        report["versions"] |= self.theirs["versions"]
        return [
            {
                "case": self.name,
                "dtype": self.dtype,
                "peer": self.peer_name,
                "agrees": disagreement <= self.tolerance,
                "disagreement": disagreement,
                "tolerance": self.tolerance,
                "clock": "cpu",
                "times_faster": theirs["cpu"] / self.share / ours["cpu"],
                "times_faster_wall": theirs["wall"] / self.share / ours["wall"],
                "ours_s": ours,
                "peer_s": theirs,
                "peer_share_of_work": self.share,
                "compile_s": max(first["wall"] - ours["wall"], 0.0),
                "rounds": 15,
                "inner": inner,
                "limits": limits,
                **report,
            }
        ]


def microcircuit() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In-degrees, external ones, and jumps in mV."""
    with open(INDEGREES) as file:
        table = np.array([[float(x) for x in row[1:]] for row in list(csv.reader(file))[1:]])
    jump = np.full((8, 8), JUMP)
    jump[:, 1::2] *= -4
    jump[0, 2] *= 2
    return table[:, :8], table[:, 8], jump


def relative(a: Any, b: Any) -> float:
    return float(np.max(np.abs(np.asarray(a) / np.asarray(b) - 1)))


def siegert_by_quadrature(mean: float, sd: float) -> float:
    from scipy.integrate import quad
    from scipy.special import erfcx

    shift = 1.0326265761156016 * np.sqrt(CELL["synaptic_tau"] / CELL["tau"])
    low, high = ((CELL[v] - mean) / sd + shift for v in ("reset", "threshold"))
    integral = quad(lambda x: erfcx(-x), low, high, epsabs=0, epsrel=1e-12, limit=200)[0]
    return 1 / (CELL["refractory"] + CELL["tau"] * np.sqrt(np.pi) * integral)


def cases(quick: bool) -> Iterator[harness.Case]:
    import jax
    import jax.numpy as jnp

    from neurofield import meanfield

    indegree, outside, jump = microcircuit()
    drive = CELL["tau"] * RATE * outside * JUMP, CELL["tau"] * RATE * outside * JUMP**2
    weight, square = indegree * jump, indegree * jump**2
    tau = CELL["tau"]
    arguments = tuple(jnp.asarray(x) for x in (weight, square, *drive))
    solve = jax.jit(lambda arguments: meanfield.lif_rates(*arguments, **CELL, throw=False))
    state = solve(arguments)
    mean, sd = np.asarray(state.mean), np.asarray(state.sd)
    num = 50 if quick else NUM_FREQUENCIES
    frequency = np.geomspace(0.1, 1000.0, num)
    cell = CELL | {"refractory": 0.0}
    respond = jax.jit(lambda f, m, s: meanfield.lif_transfer_function(f, m, s, **cell))
    inputs = tuple(jnp.asarray(x) for x in (frequency, mean, sd))
    ours = {
        "rates": lambda: solve(arguments).rate,
        "transfer": lambda: respond(*inputs),
    }
    names = {"rates": "microcircuit rates", "transfer": f"transfer function, 8 x {num}"}

    if quick or PEER is None:

        def picard():
            rate = np.full(8, 3.0)
            for _ in range(400):
                new = [
                    siegert_by_quadrature(m, s)
                    for m, s in zip(
                        drive[0] + tau * weight @ rate,
                        np.sqrt(drive[1] + tau * square @ rate),
                        strict=True,
                    )
                ]
                change = np.array(new) - rate
                rate = rate + 0.1 * change
                if np.max(np.abs(change) / rate) < 1e-9:
                    break
            return rate

        yield harness.Case(
            name=names["rates"],
            ours=ours["rates"],
            peer=picard,
            peer_name="scipy",
            disagreement=relative,
            tolerance=1e-6,
            dtype="float64",
        )
        still = jax.jit(
            lambda m, s: meanfield.lif_transfer_function(jnp.zeros(1), m, s, **CELL)[:, 0].real
        )

        def differences():
            h = 1e-3
            return np.array(
                [
                    (siegert_by_quadrature(m + h, s) - siegert_by_quadrature(m - h, s)) / (2 * h)
                    for m, s in zip(mean, sd, strict=True)
                ]
            )

        yield harness.Case(
            name="transfer function at zero frequency, 8",
            ours=lambda: still(*inputs[1:]),
            peer=differences,
            peer_name="scipy",
            disagreement=relative,
            tolerance=1e-6,
            dtype="float64",
        )
        return

    yield Nnmt(
        name=names["rates"],
        ours=ours["rates"],
        peer=dict,
        peer_name="nnmt",
        disagreement=relative,
        tolerance=1e-6,
        dtype="float64",
        job=lambda: {
            "job": "rates",
            "J": jump.tolist(),
            "K": indegree.tolist(),
            "K_ext": outside.tolist(),
            "J_ext": JUMP,
            "nu_ext": RATE,
            **CELL,
        },
    )
    some = np.arange(0, num, 40)  # the peer takes 10 ms a value
    yield Nnmt(
        name=names["transfer"],
        ours=ours["transfer"],
        peer=dict,
        peer_name="nnmt",
        disagreement=lambda a, b: relative(np.asarray(a)[:, some], b[0] + 1j * b[1]),
        tolerance=1e-6,
        dtype="float64",
        share=some.size / num,
        job=lambda: {
            "job": "transfer",
            "mean": mean.tolist(),
            "sd": sd.tolist(),
            "frequency": frequency[some].tolist(),
            **cell,
        },
    )


if __name__ == "__main__":
    harness.main(cases)
