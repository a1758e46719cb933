"""Reference values of NEST for the tests of `neurofield.network`: prints their JSON.

    python brunel_reference.py > ../../tests/reference/network_nest.json

`brunel`: rates and CV at (g, eta) = (5, 2), 0.1 ms; each seed has its own connections and noise.
`exact`: the spikes of a small network of the same neurons that draws nothing: constant currents,
and given voltages to start from. Whoever does the same arithmetic finds the same steps. A spike is
stamped with the number of steps done when it is found: spike_step * dt is its time.
"""

import json
import os
from dataclasses import replace

import numpy as np
from brunel_worker import Nest, brunel, draw_sources, summary

QUANTITIES = ("rate_E", "rate_I", "cv")
WARM_UP = 0.5  # s


def random_network(num_neurons: int, duration: float, num_seeds: int = 4) -> dict:
    net = brunel(num_neurons, 0.1)
    runs = []
    for seed in range(num_seeds):
        peer = Nest(net, draw_sources(net, 0.1, seed))
        _, steps, neurons = peer.run(seed, WARM_UP, duration)
        runs.append(summary(steps, neurons, net, duration))
        peer.nest.ResetKernel()
    report = {"num_neurons": num_neurons, "weight": net.weight, "duration": duration}
    report |= {"warm_up": WARM_UP, "num_seeds": num_seeds}
    for name in QUANTITIES:
        values = np.array([run[name] for run in runs])
        report[name] = values.mean()
        report[f"{name}_error"] = values.std(ddof=1) / np.sqrt(num_seeds)
    return report


def exact_network(num_steps: int = 3000) -> dict:
    rng = np.random.default_rng(1)
    net = replace(brunel(50, 0.1), weight=1.0, external_rate=0.0)
    sources = draw_sources(net, 0.1, seed=1)
    current = np.round(rng.uniform(21.0, 26.0, net.num_neurons), 3)
    voltage = np.round(rng.uniform(0.0, net.threshold, net.num_neurons), 3)
    peer = Nest(net, sources)
    # Of unit capacitance per unit of time, a current is the voltage that it leads to.
    peer.neurons.C_m = 1e3 * net.tau
    peer.neurons.I_e = current
    peer.neurons.V_m = voltage
    peer.nest.Simulate(1e3 * num_steps * net.dt)
    events = peer.recorder.events
    order = np.lexsort((events["senders"], events["times"]))
    return {
        **{key: getattr(net, key) for key in ("num_neurons", "num_excitatory", "weight", "g")},
        **{key: getattr(net, key) for key in ("tau", "threshold", "reset", "refractory", "delay")},
        "dt": net.dt,
        "num_steps": num_steps,
        "num_excitatory_inputs": net.num_excitatory_inputs,
        "sources": sources.tolist(),
        "current": current.tolist(),
        "voltage": voltage.tolist(),
        "spike_step": np.rint(events["times"][order] / peer.dt).astype(int).tolist(),
        "spike_neuron": (events["senders"][order] - 1).tolist(),
    }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # NEST prints, too
    import nest

    report = {"source": "bench/peers/brunel_reference.py", "nest": nest.__version__}
    report["exact"] = exact_network()
    nest.ResetKernel()
    report["brunel"] = [random_network(1000, 20.0), random_network(2500, 10.0)]
    print(json.dumps(report, indent=1), file=answers)


if __name__ == "__main__":
    main()
