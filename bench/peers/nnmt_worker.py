"""Runs NNMT in an environment of its own: a job in JSON on stdin, the answer on stdout.

Seconds are of the calculation alone, in SI units as NNMT takes them, once before and thrice timed.
"""

import contextlib
import io
import json
import platform
import sys
import time

import nnmt
import numpy as np


def rates(job):
    ones = np.ones(8)
    return nnmt.lif.exp._firing_rates(
        J=np.array(job["J"]) * 1e-3,
        K=np.array(job["K"]),
        V_0_rel=job["reset"] * 1e-3,
        V_th_rel=job["threshold"] * 1e-3,
        tau_m=job["tau"],
        tau_r=job["refractory"],
        tau_s=job["synaptic_tau"],
        J_ext=job["J_ext"] * 1e-3 * ones[:, None],
        K_ext=np.array(job["K_ext"])[:, None],
        nu_ext=job["nu_ext"] * np.ones(1),
    )


def transfer(job):
    """`[real or imaginary, population, frequency]` in Hz/mV."""
    one = nnmt.lif.exp._transfer_function(
        mu=np.array(job["mean"]) * 1e-3,
        sigma=np.array(job["sd"]) * 1e-3,
        tau_m=job["tau"],
        tau_s=job["synaptic_tau"],
        tau_r=job["refractory"],
        V_th_rel=job["threshold"] * 1e-3,
        V_0_rel=job["reset"] * 1e-3,
        omegas=2 * np.pi * np.array(job["frequency"]),
        synaptic_filter=False,
    )
    values = np.asarray(one).T * 1e-3
    return np.stack([values.real, values.imag])


def main():
    job = json.load(sys.stdin)
    work = {"rates": rates, "transfer": transfer}[job["job"]]
    cpu, wall = [], []
    with contextlib.redirect_stdout(io.StringIO()):
        values = work(job)
        for _ in range(3):
            begin = time.process_time(), time.perf_counter()
            work(job)
            cpu.append(time.process_time() - begin[0])
            wall.append(time.perf_counter() - begin[1])
    versions = {"nnmt": nnmt.__version__, "nnmt_python": platform.python_version()}
    found = {"cpu": cpu, "wall": wall, "versions": versions}
    print(json.dumps(found | {"values": np.asarray(values).tolist()}))


if __name__ == "__main__":
    main()
