"""The network of Brunel (2000) at (g, eta) = (5, 2) and 0.1 ms, against NEST, Brian2 and numba.

80 % excitatory neurons, fixed in-degree of 10 % with multapses, J = 0.1 mV x 1000 / C_E. NumPy
draws the connections once; every engine simulates them, records every spike, and must find the same
mean rate and CV of intervals over the seeds, within the errors. Times are CPU seconds per
biological second and network, after a warm-up, without building and compiling.

Peers are processes of the interpreter NEUROFIELD_BENCH_PYTHON, by default this one; one that is not
installed there is skipped, and stderr says so.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import harness
import numpy as np
from peers import brunel_worker
from peers.brunel_worker import Brunel, brunel, draw_sources

PYTHON = os.environ.get("NEUROFIELD_BENCH_PYTHON", sys.executable)
INSTALL = "install the extra `bench`, or name an interpreter that has it: NEUROFIELD_BENCH_PYTHON"
WARM_UP = 0.2  # s
BIN_WIDTH = 1e-3  # s; shorter than the refractory time, so that no spike is lost in a bin


class Ours:
    """`network.simulate`: one network, or a batch of them by vmap over the keys."""

    def __init__(self, net: Brunel, sources: np.ndarray, duration: float, batch: int):
        import jax

        from neurofield import network

        described = describe(net, sources)

        def spikes(key):
            done = network.simulate(
                key,
                described,
                duration,
                net.dt,
                bin_width=BIN_WIDTH,
                warm_up=WARM_UP,
                num_lags=None,
            )
            assert done.raster is not None
            return done.raster.spikes

        self.net, self.duration, self.batch = net, duration, batch
        self.spikes = jax.jit(jax.vmap(spikes)) if batch else spikes

    def __call__(self, seed: int) -> dict:
        import jax

        key = jax.random.key(seed)
        if self.batch:
            key = jax.random.split(key, self.batch)
        spikes, seconds = harness.timed(lambda: self.spikes(key))
        found = []
        for raster in np.asarray(spikes).reshape(-1, *spikes.shape[-2:]):
            neurons, bins = np.nonzero(raster)
            found.append(brunel_worker.summary(bins, neurons, self.net, self.duration))
        means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        # The warm-up is work too: each step of it costs as much as any other.
        work = (WARM_UP + self.duration) * len(found)
        return means | {clock: value / work for clock, value in seconds.items()}


def describe(net: Brunel, sources: np.ndarray):
    """The same connections as a `network.Network`, in float32."""
    import jax
    import jax.numpy as jnp

    from neurofield import network

    sizes = {"E": net.num_excitatory, "I": net.num_neurons - net.num_excitatory}
    neuron = network.LIF(
        tau=net.tau, threshold=net.threshold, reset=net.reset, refractory=net.refractory
    )
    drive = network.Drive(network.Poisson(net.external_rate, weight=net.weight))
    populations = [network.Population(name, neuron, size, drive) for name, size in sizes.items()]
    first = {"E": 0, "I": net.num_excitatory}
    inputs = {"E": slice(0, net.num_excitatory_inputs), "I": slice(net.num_excitatory_inputs, None)}
    weight = {"E": net.weight, "I": -net.g * net.weight}
    projections = []
    for post in sizes:
        rows = sources[first[post] : first[post] + sizes[post]]
        for pre in sizes:
            block = rows[:, inputs[pre]] - first[pre]
            lists = network.from_edges(
                block.ravel(),
                np.repeat(np.arange(sizes[post]), block.shape[1]),
                weight[pre],
                num_pre=sizes[pre],
                num_post=sizes[post],
            )
            projections.append(network.Projection(pre, post, lists, delay=net.delay))
    described = network.Network(populations, projections)
    return jax.tree.map(
        lambda x: x.astype("float32") if jnp.issubdtype(x.dtype, jnp.floating) else x, described
    )


class Worker:
    """A peer in a process of its own, on the same core; see `peers/brunel_worker.py`."""

    def __init__(self, name: str, folder: Path):
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [PYTHON, str(brunel_worker.__file__), name, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        self.built = bool(self.answers.readline())
        if not self.built and self.process.wait() != brunel_worker.MISSING:
            raise self.failure()

    def run(self, seed: int, warm_up: float, duration: float) -> dict:
        request = {"seed": seed, "warm_up": warm_up, "duration": duration}
        print(json.dumps(request), file=self.requests, flush=True)
        line = self.answers.readline()
        if not line:
            raise self.failure()
        answer = json.loads(line)
        return answer | {clock: answer[clock] / duration for clock in ("cpu", "wall")}

    def failure(self) -> RuntimeError:
        code = self.process.wait()
        return RuntimeError(f"{self.name} ended with exit code {code}:\n{self.log.read_text()}")

    def close(self) -> None:
        self.requests.close()
        self.process.wait()


@contextmanager
def peers(net: Brunel, sources: np.ndarray, names: tuple[str, ...]):
    """The workers that could be started. One after the other, so that none disturbs a build."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "network.json").write_text(json.dumps(asdict(net)))
        np.save(folder / "sources.npy", sources)
        found = []
        for name in names:
            worker = Worker(name, folder)
            stack.callback(worker.close)
            if not worker.built:
                print(f"skipped: {worker.log.read_text().strip()} ({INSTALL})", file=sys.stderr)
            else:
                found.append(worker)
        if not found:
            sys.exit(f"no peer to compare with: none of {', '.join(names)} is there; {INSTALL}")
        yield found


def cases(quick: bool) -> Iterator[harness.Race]:
    import jax

    names = ("numba",) if quick else ("nest", "brian2", "numba")
    # Number of neurons, connectivity, networks in a batch, seconds after the warm-up, seeds. Longer
    # where the rate of the whole network fluctuates more.
    plans = [(1000, 0.1, (0, 10.0, 6), (64, 1.0, 4)), (10_000, 0.1, (0, 1.0, 4))]
    if jax.default_backend() == "gpu":
        plans.append((100_000, 0.01, (0, 1.0, 3)))
    if quick:
        plans = [(200, 0.1, (0, 0.5, 4), (3, 0.5, 4))]
    for num_neurons, connectivity, *runs in plans:
        net = brunel(num_neurons, connectivity)
        sources = draw_sources(net, connectivity, seed=0)
        with peers(net, sources, names) as workers:
            for batch, duration, seeds in runs:
                many = f", {batch} at once by vmap" if batch else ""
                yield harness.Race(
                    name=f"Brunel network, N = {num_neurons}{many}",
                    ours=Ours(net, sources, duration, batch),
                    peers={
                        worker.name: partial(worker.run, warm_up=WARM_UP, duration=duration)
                        for worker in workers
                    },
                    quantities=("rate", "cv"),
                    seeds=range(seeds),
                    dtype="float32",
                    unit="s for a biological second of one network",
                )


if __name__ == "__main__":
    harness.main(cases)
