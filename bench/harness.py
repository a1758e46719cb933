"""Time two ways of doing the same work, fairly.

Agreement comes first: a comparison of different results says nothing, so that a run in which peers
disagree ends with exit code 1. Then both are timed in turn, A B A B, on one pinned core; the ratio
is of medians of CPU time (wall time on a GPU, where the host waits). Compile time is reported
apart. The same run measures what the machine can do (copy bandwidth, matrix multiply), and
`roofline_percent` is the share of the least possible time, at these rates, in the time taken.

Random experiments agree in the mean, within their errors over seeds: a `Race` is one between
neurofield and several peers, which may be processes of their own.

A case file builds its cases in a function and ends with `harness.main(cases)`; each pair of sides
prints one JSON line. `--quick` shrinks the work, so that the tests can run every file.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

CHILD = "NEUROFIELD_BENCH_CHILD"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Case:
    """The same work by neurofield and by a peer.

    `ours` and `peer` take nothing and return arrays; `disagreement(a, b)` is one number, at most
    `tolerance`. `flops` and `bytes` are the least that the work needs, for the roofline; 0 if that
    is not known beforehand (an iteration to convergence).
    """

    name: str
    ours: Callable[[], Any]
    peer: Callable[[], Any]
    peer_name: str
    disagreement: Callable[[Any, Any], float]
    tolerance: float
    dtype: str
    flops: float = 0.0
    bytes: float = 0.0

    def reports(self, limits: dict[str, float], quick: bool, device: str) -> list[dict[str, Any]]:
        return [measure(self, limits, quick, device)]


@dataclass(frozen=True)
class Race:
    """The same random experiment by neurofield and by its peers, once for each of `seeds`, in turn.

    `ours(seed)` and each of `peers` return the seconds of the work alone, "cpu" and "wall", the
    `quantities` to compare, and optionally "versions". Two sides agree if no quantity differs in a
    Welch test, at 0.001 for all of them; `disagreement` is the largest t relative to its bound.
    """

    name: str
    ours: Callable[[int], dict[str, Any]]
    peers: dict[str, Callable[[int], dict[str, Any]]]
    quantities: tuple[str, ...]
    seeds: range
    dtype: str
    unit: str

    def reports(
        self, limits: dict[str, float], quick: bool, device: str
    ) -> Iterator[dict[str, Any]]:
        start = time.process_time()
        self.ours(self.seeds.stop)
        first = time.process_time() - start
        sides = {"ours": self.ours, **self.peers}
        runs = {side: [] for side in sides}
        elapsed = []
        for seed in self.seeds:
            for side, run in sides.items():
                start = time.process_time()
                runs[side].append(run(seed))
                if side == "ours":
                    elapsed.append(time.process_time() - start)
        clock = "cpu" if device == "cpu" else "wall"
        median = {
            side: {c: statistics.median(r[c] for r in done) for c in ("cpu", "wall")}
            for side, done in runs.items()
        }
        found = {side: self.measured(done) for side, done in runs.items()}
        for peer in self.peers:
            disagreement = self.disagreement(found["ours"], found[peer])
            report = environment()
            report["versions"] |= runs[peer][0].get("versions", {})
            yield {
                "case": self.name,
                "dtype": self.dtype,
                "peer": peer,
                "agrees": disagreement <= 1,  # False for NaN
                "disagreement": disagreement,
                "tolerance": 1.0,
                "ours": found["ours"],
                "theirs": found[peer],
                "clock": clock,
                "unit": self.unit,
                "times_faster": median[peer][clock] / median["ours"][clock],
                "times_faster_wall": median[peer]["wall"] / median["ours"]["wall"],
                "ours_s": median["ours"],
                "peer_s": median[peer],
                "compile_s": max(first - statistics.median(elapsed), 0.0),
                "rounds": len(self.seeds),
                "limits": limits,
                **report,
            }

    def measured(self, runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
        """Mean over the seeds, and its standard error."""
        table = {name: np.array([run[name] for run in runs]) for name in self.quantities}
        return {
            name: {"mean": float(x.mean()), "error": float(x.std(ddof=1) / np.sqrt(x.size))}
            for name, x in table.items()
        }

    def disagreement(self, ours: dict, theirs: dict) -> float:
        from scipy.stats import t

        worst = []
        for name in self.quantities:
            a, b = (side[name]["error"] ** 2 for side in (ours, theirs))
            # Welch (1947): both sides have as many seeds.
            freedom = (len(self.seeds) - 1) * (a + b) ** 2 / (a**2 + b**2)
            bound = t.isf(0.001 / 2 / len(self.quantities), freedom)
            worst.append(abs(ours[name]["mean"] - theirs[name]["mean"]) / np.sqrt(a + b) / bound)
        return float(np.max(worst))


def main(cases: Callable[[bool], Iterator[Case | Race]]) -> None:
    """Run `cases(quick)` in a child process whose threads and core were set before it started."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="little work, for the tests")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    options = parser.parse_args()
    if CHILD not in os.environ:
        backends = "cpu" if options.device == "cpu" else "cuda,cpu"
        env = {**os.environ, CHILD: "1", "JAX_PLATFORMS": backends}
        if options.device == "cpu":
            env |= ONE_THREAD
            pin()
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=env, check=False).returncode)

    import jax

    # Float64 arrays exist; those of float32 stay so.
    jax.config.update("jax_enable_x64", True)
    limits, agree = {}, True
    for case in cases(options.quick):
        if case.dtype not in limits:
            limits[case.dtype] = machine_limits(case.dtype, options.quick)
        for report in case.reports(limits[case.dtype], options.quick, options.device):
            print(json.dumps(report), flush=True)
            agree = agree and report["agrees"]
    sys.exit(0 if agree else 1)


def pin() -> None:
    """Keep this process and its children on one core, where the system has a call for it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def measure(case: Case, limits: dict[str, float], quick: bool, device: str) -> dict[str, Any]:
    _, first = timed(case.ours)
    theirs, _ = timed(case.peer)
    ours, once = timed(case.ours)
    disagreement = float(case.disagreement(ours, theirs))
    report = {
        "case": case.name,
        "dtype": case.dtype,
        "peer": case.peer_name,
        "agrees": disagreement <= case.tolerance,  # False for NaN
        "disagreement": disagreement,
        "tolerance": case.tolerance,
    }
    if not report["agrees"]:
        return report
    # Long enough a round for the clocks, few enough rounds for a long job.
    inner = 1 if quick else max(1, round(0.05 / max(once["wall"], 1e-6)))
    rounds = 2 if quick else int(np.clip(round(5 / (inner * once["wall"])), 3, 15))
    times = {"ours": [], "peer": []}
    for _ in range(rounds):
        for side in times:
            times[side].append(timed(getattr(case, side), inner)[1])
    clock = "cpu" if device == "cpu" else "wall"
    median = {
        side: {c: statistics.median(t[c] for t in runs) for c in ("cpu", "wall")}
        for side, runs in times.items()
    }
    report |= {
        "clock": clock,
        "times_faster": median["peer"][clock] / median["ours"][clock],
        "times_faster_wall": median["peer"]["wall"] / median["ours"]["wall"],
        "ours_s": median["ours"],
        "peer_s": median["peer"],
        "compile_s": max(first["wall"] - median["ours"]["wall"], 0.0),
        "rounds": rounds,
        "inner": inner,
    }
    if case.flops or case.bytes:
        floor = max(case.flops / limits["flops_per_s"], case.bytes / limits["bytes_per_s"])
        report["roofline_percent"] = 100 * floor / median["ours"]["wall"]
    return report | {"limits": limits, **environment()}


def timed(work: Callable[[], Any], repeats: int = 1) -> tuple[Any, dict[str, float]]:
    """The last result, and seconds of CPU and wall time for one call."""
    import jax

    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        result = jax.block_until_ready(work())
    return result, {
        "cpu": (time.process_time() - cpu) / repeats,
        "wall": (time.perf_counter() - wall) / repeats,
    }


def machine_limits(dtype: str, quick: bool) -> dict[str, float]:
    """Copy bandwidth and matrix-multiply rate, both by XLA on the device under test."""
    import jax
    import jax.numpy as jnp

    size = 256 if quick else 2048
    square = jnp.ones((size, size), dtype)
    stream = jnp.ones(2**18 if quick else 2**26, dtype)
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    copy = jax.jit(lambda x: x + 1)

    def best(work) -> float:
        work()
        return min(timed(work)[1]["wall"] for _ in range(3))

    return {
        "flops_per_s": 2 * size**3 / best(lambda: multiply(square)),
        "bytes_per_s": 2 * stream.nbytes / best(lambda: copy(stream)),
    }


def environment() -> dict[str, Any]:
    import jax

    import neurofield

    versions = {"python": platform.python_version(), "neurofield": neurofield.__version__}
    versions |= {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy", "scipy")}
    return {"device": jax.devices()[0].device_kind, "processor": processor(), "versions": versions}


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            named = [line for line in lines if line.startswith("model name")]
            return named[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor()
