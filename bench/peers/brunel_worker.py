"""One peer simulator of the Brunel network, as a process that answers requests.

    python brunel_worker.py {nest,brian2,numba} FOLDER

FOLDER holds `network.json` (a `Brunel`) and `sources.npy` (`draw_sources`). The connections are
built once, and a JSON line says so; then each line of stdin, {"seed", "warm_up", "duration"} with
times in seconds, is answered by a JSON line: the CPU and wall seconds of simulating `duration`
(after the warm-up; building and compiling apart), the rates and the CV of the intervals in it.
Exit code 3 if the peer is not installed. This file imports no neurofield, so that peers may live in
an environment of their own.

All peers do the same arithmetic as NEST's `iaf_psc_delta`: decay, add what arrives, test against
the threshold; after a spike the voltage is held, and its input lost, for the refractory time.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np

MISSING = 3


@dataclass(frozen=True)
class Brunel:
    """Times in s, voltages in mV, rates in Hz. Excitatory neurons, and inputs, come first."""

    num_neurons: int
    num_excitatory: int
    num_excitatory_inputs: int
    weight: float
    external_rate: float
    g: float = 5.0
    tau: float = 0.02
    threshold: float = 20.0
    reset: float = 10.0
    refractory: float = 0.002
    delay: float = 0.0015
    dt: float = 1e-4


def brunel(num_neurons: int, connectivity: float, eta: float = 2.0) -> Brunel:
    num_excitatory = 4 * num_neurons // 5
    num_inputs = round(num_excitatory * connectivity)
    weight = 0.1 * 1000 / num_inputs
    # All external inputs of a neuron; eta = 1 just reaches the threshold in the mean.
    external_rate = eta * Brunel.threshold / (weight * Brunel.tau)
    return Brunel(num_neurons, num_excitatory, num_inputs, weight, external_rate)


def draw_sources(net: Brunel, connectivity: float, seed: int) -> np.ndarray:
    """`[neuron, input]`: the source of each input, drawn with replacement."""
    rng = np.random.default_rng(seed)
    drawn = [
        rng.integers(low, high, (net.num_neurons, round((high - low) * connectivity)), np.int32)
        for low, high in ((0, net.num_excitatory), (net.num_excitatory, net.num_neurons))
    ]
    return np.concatenate(drawn, axis=1)


def summary(
    steps: np.ndarray, neurons: np.ndarray, net: Brunel, duration: float
) -> dict[str, float]:
    """Rates (Hz) and the mean over neurons of the CV of their intervals, from a list of spikes.

    `steps`, `neurons`: time (in any unit) and index of each spike. A neuron of fewer than three
    intervals has no CV.
    """
    counts = np.bincount(neurons, minlength=net.num_neurons)
    rates = counts / duration
    order = np.lexsort((steps, neurons))
    owner = neurons[order]
    same = owner[1:] == owner[:-1]
    interval = np.diff(steps[order])[same].astype(float)
    number, total, squares = (
        np.bincount(owner[1:][same], weight, net.num_neurons)
        for weight in (np.ones_like(interval), interval, interval**2)
    )
    enough = number >= 3
    number, total, squares = number[enough], total[enough], squares[enough]
    variance = (squares - total**2 / number) / (number - 1)
    cv = np.sqrt(np.maximum(variance, 0)) / (total / number)
    return {
        "rate": float(rates.mean()),
        "rate_E": float(rates[: net.num_excitatory].mean()),
        "rate_I": float(rates[net.num_excitatory :].mean()),
        "cv": float(cv.mean()),
    }


class Nest:
    package = "nest-simulator"

    def __init__(self, net, sources):
        import nest

        self.nest, self.net = nest, net
        nest.verbosity = nest.VerbosityLevel.ERROR
        nest.resolution = self.dt = 1e3 * net.dt
        nest.local_num_threads = 1
        self.neurons = nest.Create(
            "iaf_psc_delta",
            net.num_neurons,
            params={
                "tau_m": 1e3 * net.tau,
                "V_th": net.threshold,
                "V_reset": net.reset,
                "E_L": 0.0,
                "t_ref": 1e3 * net.refractory,
            },
        )
        drive = nest.Create("poisson_generator", params={"rate": net.external_rate})
        nest.Connect(drive, self.neurons, syn_spec={"weight": net.weight, "delay": self.dt})
        self.recorder = nest.Create("spike_recorder")
        nest.Connect(self.neurons, self.recorder, syn_spec={"delay": self.dt})
        split, delay = net.num_excitatory_inputs, 1e3 * net.delay
        for name, weight, inputs in (
            ("excitatory", net.weight, sources[:, :split]),
            ("inhibitory", -net.g * net.weight, sources[:, split:]),
        ):
            # One weight for all, the least memory that NEST offers.
            nest.CopyModel("static_synapse_hom_w", name, {"weight": weight, "delay": delay})
            # NEST counts neurons from 1.
            post = np.repeat(np.arange(1, net.num_neurons + 1), inputs.shape[1])
            nest.Connect(
                inputs.ravel().astype(np.int64) + 1,
                post,
                "one_to_one",
                syn_spec={"synapse_model": name},
            )

    def run(self, seed, warm_up, duration):
        nest, net = self.nest, self.net
        # A new seed and new voltages; what is still on its way from the last run is forgotten in
        # the warm-up.
        nest.rng_seed = seed + 1
        draw = np.random.default_rng(seed)
        self.neurons.V_m = draw.uniform(0, net.threshold, net.num_neurons)
        nest.Simulate(1e3 * warm_up)
        self.recorder.n_events = 0
        begin = nest.biological_time
        clock = Clock()
        nest.Simulate(1e3 * duration)
        clock.stop()
        events = self.recorder.events
        steps = np.rint((events["times"] - begin) / self.dt).astype(np.int64)
        return clock, steps, events["senders"] - 1


class Brian2:
    """C++ standalone: the program is built once and run for each seed."""

    package = "brian2"

    def __init__(self, net, sources):
        import brian2

        self.brian2, self.net, self.sources = brian2, net, sources
        self.built = None

    def build(self, warm_up, duration):
        b2, net = self.brian2, self.net
        b2.device.reinit()
        b2.set_device("cpp_standalone", build_on_run=False)
        b2.defaultclock.dt = net.dt * b2.second
        # Each run of the program seeds itself from its environment.
        b2.device.insert_code(
            "main", 'brian::_random_generators[0].seed(atol(getenv("BRUNEL_SEED")));'
        )
        group = b2.NeuronGroup(
            net.num_neurons,
            f"dv/dt = -v / ({net.tau}*second) : 1 (unless refractory)",
            threshold=f"v >= {net.threshold}",
            reset=f"v = {net.reset}",
            # Brian2 counts the step of the spike, and orders a step as decay, threshold, synapses;
            # this order and these times give the arithmetic of all the others.
            refractory=(net.refractory + net.dt) * b2.second,
            method="exact",
        )
        group.v = f"rand() * {net.threshold}"
        split = net.num_excitatory_inputs
        objects = [group]
        for weight, inputs in (
            (net.weight, self.sources[:, :split]),
            (-net.g * net.weight, self.sources[:, split:]),
        ):
            synapses = b2.Synapses(
                group, group, on_pre=f"v_post += {weight}", delay=(net.delay - net.dt) * b2.second
            )
            post = np.repeat(np.arange(net.num_neurons), inputs.shape[1])
            synapses.connect(i=inputs.ravel(), j=post)
            objects.append(synapses)
        count = net.num_excitatory_inputs
        rate = net.external_rate / count * b2.Hz
        objects.append(b2.PoissonInput(group, "v", N=count, rate=rate, weight=net.weight))
        self.spikes = b2.SpikeMonitor(group)
        network = b2.Network(*objects, self.spikes)
        network.schedule = ["start", "groups", "synapses", "thresholds", "resets", "end"]
        network.run(warm_up * b2.second)
        b2.device.insert_code("main", "const clock_t cpu_start = clock();")
        network.run(duration * b2.second)
        b2.device.insert_code(
            "main",
            'std::ofstream("results/cpu.txt") << double(clock() - cpu_start) / CLOCKS_PER_SEC;',
        )
        self.folder = Path("brian2_build").resolve()
        b2.device.build(directory=str(self.folder), compile=True, run=False)
        self.built = warm_up, duration

    def run(self, seed, warm_up, duration):
        if self.built != (warm_up, duration):
            self.build(warm_up, duration)
        os.environ["BRUNEL_SEED"] = str(seed + 1)
        self.brian2.device.run()
        clock = SimpleNamespace(cpu=float((self.folder / "results/cpu.txt").read_text()))
        # The simulation is one thread that computes; Brian2's own wall time has the warm-up in it.
        clock.wall = clock.cpu
        steps = np.rint(np.asarray(self.spikes.t) / self.net.dt).astype(np.int64)
        late = steps >= round(warm_up / self.net.dt)
        return clock, steps[late], np.asarray(self.spikes.i)[late]


class Numba:
    """A dense update of the voltages; each spike is added to its targets' ring buffer."""

    package = "numba"

    def __init__(self, net, sources):
        import numba

        num_inputs = sources.shape[1]
        self.net = net
        flat = sources.ravel()
        order = np.argsort(flat, kind="stable")
        self.targets = (order // num_inputs).astype(np.int32)
        self.start = np.concatenate(
            [[0], np.cumsum(np.bincount(flat, minlength=net.num_neurons))]
        ).astype(np.int64)
        self.poisson = alias_table(net.external_rate * net.dt)
        self.loop = numba.njit(fastmath=True)(spiking_loop)
        self.run(0, 10 * net.dt, 10 * net.dt)  # compiles

    def run(self, seed, warm_up, duration):
        net = self.net
        rng = np.random.default_rng(seed)
        delay = round(net.delay / net.dt)
        weights = np.full(net.num_neurons, net.weight)
        weights[net.num_excitatory :] *= -net.g
        state = (
            rng.uniform(0, net.threshold, net.num_neurons),
            np.zeros(net.num_neurons, np.int32),
            np.zeros((delay + 1, net.num_neurons)),
            rng.integers(1, 2**63, 4).astype(np.uint64),
        )
        first = round(warm_up / net.dt)
        last = first + round(duration / net.dt)
        held = round(net.refractory / net.dt)
        # No neuron spikes more often than its refractory time lets it.
        room = net.num_neurons * ((last - first) // (held + 1) + 1)
        steps, neurons = np.empty(room, np.int32), np.empty(room, np.int32)
        constants = (np.exp(-net.dt / net.tau), net.threshold, net.reset, held, delay, net.weight)
        graph = (self.start, self.targets, weights)

        def advance(begin, end):
            return self.loop(begin, end, constants, graph, self.poisson, state, steps, neurons)

        advance(0, first)
        clock = Clock()
        count = advance(first, last)
        clock.stop()
        return clock, steps[:count], neurons[:count]


def spiking_loop(begin, end, constants, graph, poisson, state, steps, neurons):
    decay, threshold, reset, held, delay, jump = constants
    start, targets, weights = graph
    share, alias, shift = poisson
    voltage, left, ring, random = state
    r = random[0]
    num_neurons = voltage.size
    count = 0
    for step in range(begin, end):
        arriving = ring[step % ring.shape[0]]
        before = count
        for i in range(num_neurons):
            # Marsaglia's xorshift (2003); its high bits choose the column of the alias table.
            r ^= r << np.uint64(13)
            r ^= r >> np.uint64(7)
            r ^= r << np.uint64(17)
            column = r >> shift
            uniform = (r & np.uint64(0xFFFFFFFF)) * 2.0**-32
            events = column if uniform < share[column] else alias[column]
            if left[i] > 0:
                left[i] -= 1
            else:
                v = voltage[i] * decay + arriving[i] + jump * events
                if v >= threshold:
                    v = reset
                    left[i] = held
                    steps[count] = step
                    neurons[count] = i
                    count += 1
                voltage[i] = v
            arriving[i] = 0.0
        later = ring[(step + delay) % ring.shape[0]]
        for k in range(before, count):
            source = neurons[k]
            weight = weights[source]
            for edge in range(start[source], start[source + 1]):
                later[targets[edge]] += weight
    random[0] = r
    return count


def alias_table(mean: float):
    """Walker's (1977) method for Poisson numbers: one uniform and one comparison a draw."""
    from math import exp, lgamma, log

    bits = int(np.ceil(np.log2(mean + 12 * np.sqrt(mean) + 16)))
    k = np.arange(2**bits)
    share = np.array([exp(n * log(mean) - mean - lgamma(n + 1)) for n in k]) * k.size
    share /= share.mean()
    alias = k.astype(np.uint64)
    small, large = ([n for n in k if (share[n] < 1) == less] for less in (True, False))
    while small and large:
        lesser, greater = small.pop(), large[-1]
        alias[lesser] = greater
        share[greater] -= 1 - share[lesser]
        if share[greater] < 1:
            small.append(large.pop())
    share[small + large] = 1
    return share, alias, np.uint64(64 - bits)


class Clock:
    def __init__(self):
        self.start = time.process_time(), time.perf_counter()

    def stop(self):
        self.cpu = time.process_time() - self.start[0]
        self.wall = time.perf_counter() - self.start[1]


PEERS = {"nest": Nest, "brian2": Brian2, "numba": Numba}


def main(name: str, folder: str) -> None:
    # Simulators print to stdout, from C++ too: only the answers go to the one we were given.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.chdir(folder)
    net = Brunel(**json.loads(Path("network.json").read_text()))
    start = time.perf_counter()
    try:
        peer = PEERS[name](net, np.load("sources.npy"))
    except ImportError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(MISSING)
    build = time.perf_counter() - start
    print(json.dumps({"build_s": build}), file=answers, flush=True)
    versions = {name: metadata.version(peer.package)}
    for line in sys.stdin:
        request = json.loads(line)
        clock, steps, neurons = peer.run(**request)
        answer = summary(steps, neurons, net, request["duration"])
        answer |= {"cpu": clock.cpu, "wall": clock.wall, "versions": versions}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
