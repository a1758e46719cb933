"""Networks of neurons that spike: escape noise, leaky integrate-and-fire, oscillators."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from peers import meanfield_scipy as peer
from points.point import EXACT, Point, beside_networks, exact

ROOT = Path(__file__).parents[2]
INDEGREES = ROOT / "tests" / "reference" / "meanfield" / "microcircuit_indegrees.csv"
CELL = {"tau": 0.02, "threshold": 15.0}  # s, mV


def escape_network(hazard, rate, width, drive, weight, size=4000):
    from neurofield import network

    cell = network.EscapeLIF(rate=rate, width=width, hazard=hazard, resets=False, **CELL)
    rule = network.erdos_renyi(0.05, weight)
    return network.Network(
        [network.Population("x", cell, size, network.Constant(drive))],
        [network.Projection("x", "x", rule)],
    )


ESCAPE = {  # hazard, rate, width, drive, weight
    "erf, drive 19 mV, J=-0.6 mV": ("erf", 120.0, 5.0, 19.0, -0.6),
    "erf, drive 12 mV, J=-0.25 mV": ("erf", 80.0, 3.0, 12.0, -0.25),
    "exponential, drive 14 mV, J=-0.3 mV": ("exponential", 15.0, 4.0, 14.0, -0.3),
    "exponential, drive 18 mV, J=-0.5 mV": ("exponential", 10.0, 6.0, 18.0, -0.5),
    "exponential, drive 25 mV, J=-1.1 mV": ("exponential", 10.0, 4.0, 25.0, -1.1),
}


def escape(quick: bool) -> Iterator[Point]:
    import jax
    import jax.numpy as jnp

    from neurofield import meanfield

    num, chance = 4000, 0.05

    def statistics(weight):
        k = num * chance
        return k * weight, k * (1 - chance) * weight**2

    def closed(hazard):
        def of(rate, width, drive, mean, vQ):
            one = jnp.ones(1)
            found = meanfield.escape(
                mean * one[None], vQ * one[None], 0 * one[None], drive=drive * one,
                tau=CELL["tau"] * one, threshold=CELL["threshold"] * one, width=width * one,
                rate=rate * one, hazard=hazard,
            )  # fmt: skip
            return {
                "rate": found.mean[0],
                "sd of rates": found.sd[0],
                "mean voltage": found.voltage_mean[0],
                "variance of voltage": found.voltage_variance[0],
                "static variance": found.voltage_static[0],
            }

        return jax.jit(of)

    compiled = {hazard: closed(hazard) for hazard in ("erf", "exponential")}
    for name, (hazard, rate, width, drive, weight) in list(ESCAPE.items())[: 1 if quick else None]:
        sums = statistics(weight)
        yield Point(
            "escape noise",
            name,
            ("closed form", "scipy"),
            lambda h=hazard, a=(rate, width, drive, *sums): exact(compiled[h](*a)),
            lambda a=(hazard, rate, 15.0, width, 0.02, drive, *sums): exact(peer.escape(*a)),
            EXACT,
        )


def spiking(quick: bool) -> Iterator[Point]:
    """Escape neurons: paths beside the closed form, extrapolated to no step, and beside networks.

    Neurons of much inhibition have more noise too, which raises their rates again: of the relative
    order J / width, and not in a theory of many weak inputs. At J = -0.6 mV it takes 14 % from the
    variance of rates.
    """
    import jax

    from neurofield import meanfield, network

    names = ("rate", "variance of rates")

    def paths(arguments, dt):
        found = meanfield.solve(
            escape_network(*arguments), 2.0, dt, method="stationary", key=jax.random.key(8),
            num_paths=2400, num_replicas=8, max_lag=0.1, response=False,
        )  # fmt: skip
        parts = [found.replicas[name][:, 0] for name in ("mean", "quenched")]
        return np.stack([np.asarray(part) for part in parts], 1)

    def extrapolated(arguments):
        coarse, fine = (paths(arguments, dt)[:, 0] for dt in (1e-3, 5e-4))
        return peer.spread(names[:1], (2 * fine - coarse)[:, None])

    def closed(arguments):
        found = meanfield.solve(escape_network(*arguments), 0.5, 1e-3, method="analytic")
        return exact({"rate": found.mean[0], "variance of rates": found.quenched[0]})

    def simulated(arguments):
        rows = []
        for key in jax.random.split(jax.random.key(9), 4):
            run = network.simulate(
                key, escape_network(*arguments), 20.0, 1e-3, bin_width=0.1, warm_up=0.2,
                num_lags=None,
            )  # fmt: skip
            rows.append(rates_of(run, 0.1))
        return peer.spread(names, rows)

    for name in ("erf, drive 12 mV, J=-0.25 mV", "exponential, drive 14 mV, J=-0.3 mV"):
        arguments = ESCAPE[name]
        yield Point(
            "escape noise",
            name,
            ("stationary paths", "closed form"),
            lambda a=arguments: extrapolated(a),
            lambda a=arguments: closed(a),
            0.02,
        )
        yield Point(
            "escape noise",
            f"{name}, steps of 1 ms",
            ("stationary paths", "4 networks of 4,000"),
            lambda a=arguments: peer.spread(names, paths(a, 1e-3)),
            lambda a=arguments: simulated(a),
            {"rate": 0.03, "variance": 0.15},
        )


def rates_of(run, width) -> tuple[float, float]:
    """Mean rate and unbiased variance of the neurons' rates: halves of the run share no noise."""
    counts = np.asarray(run.raster.spikes, float) / width
    half = counts.shape[1] // 2
    early, late = counts[:, :half].mean(1), counts[:, -half:].mean(1)
    return counts.mean(), float(np.cov(early, late)[0, 1])


def diffusion(quick: bool) -> Iterator[Point]:
    """Siegert rates of one population with delta or exponential synapses, and the microcircuit."""
    import jax
    import jax.numpy as jnp

    from neurofield import meanfield

    names = ("tau", "threshold", "reset", "refractory", "synaptic_tau")
    compiled = jax.jit(lambda a, cell: meanfield.lif_rates(*a, **cell).rate)

    def ours(arguments, cell):
        rates = compiled(jax.tree.map(jnp.asarray, arguments), cell)
        return exact({f"rate {i}": r for i, r in enumerate(rates)})

    def theirs(arguments, cell):
        start = np.full(len(arguments[0]), 5.0)
        return exact({f"rate {i}": r for i, r in enumerate(peer.lif(*arguments, start, **cell))})

    brunel = {
        "delta synapses, g=5.5, eta=1.6": (0.15, 5.5, 1.6, (0.02, 20.0, 10.0, 0.002, 0.0)),
        "exponential synapses of 1 ms, g=6, eta=2.2": (
            0.12, 6.0, 2.2, (0.018, 19.0, 11.0, 0.0015, 0.001)
        ),
        "exponential synapses of 2 ms, g=4.6, eta=1.3": (
            0.2, 4.6, 1.3, (0.022, 20.0, 8.0, 0.003, 0.002)
        ),
    }  # fmt: skip
    points = {}
    for name, (jump, g, eta, cell) in brunel.items():
        weight = np.array([[800 * jump - 200 * g * jump]])
        square = np.array([[800 * jump**2 + 200 * (g * jump) ** 2]])
        drive = eta * cell[1] / jump  # tau times the external rate, in spikes
        outside = np.array([drive * jump]), np.array([drive * jump**2])
        points[name] = (weight, square, *outside), dict(zip(names, cell, strict=True))
    with open(INDEGREES) as file:
        table = np.array([[float(x) for x in row[1:]] for row in list(csv.reader(file))[1:]])
    cell = dict(zip(names, (0.01, 15.0, 0.0, 0.002, 5e-4), strict=True))
    for g, external in ((4.5, 9.0), (5.0, 7.0)):
        jump = np.full((8, 8), 0.16)
        jump[:, 1::2] *= -g
        jump[0, 2] *= 2
        weight = table[:, :8] * jump
        drive = cell["tau"] * external * table[:, 8]
        points[f"microcircuit, g={g}, {external:g} Hz outside"] = (
            (weight, weight * jump, drive * 0.16, drive * 0.16**2),
            cell,
        )
    for name, arguments in list(points.items())[1::3] if quick else points.items():
        yield Point(
            "diffusion theory of LIF",
            name,
            ("lif_rates", "scipy"),
            lambda a=arguments: ours(*a),
            lambda a=arguments: theirs(*a),
            EXACT,
        )


def lif_networks(quick: bool) -> Iterator[Point]:
    """Fixed in-degrees; recurrent input is not white, so that networks are the reference."""
    import jax

    from neurofield import meanfield, network

    def net(jump, g, eta, synapse):
        kernel = None if synapse is None else network.Exponential(synapse)
        # The peak of a current that moves the voltage by the jump.
        scale = 1.0 if synapse is None else 0.02 / synapse
        channel = "jump" if synapse is None else "current"
        drive = network.Poisson(eta * 20 / (jump * 0.02), jump * scale, kernel, channel)
        sizes = {"E": 2000, "I": 500}
        return network.Network(
            [network.Population(n, network.LIF(), s, drive) for n, s in sizes.items()],
            [
                network.Projection(
                    a, b, network.fixed_indegree(k, w * scale, multapses=False), kernel=kernel,
                    delay=1.5e-3,
                )
                for a, k, w in (("E", 200, jump), ("I", 50, -g * jump))
                for b in "EI"
            ],
        )  # fmt: skip

    points = {
        "delta synapses, J=0.3 mV, g=5.5, eta=1.6": (0.3, 5.5, 1.6, None),
        "exponential synapses of 3 ms, J=0.3 mV, g=6, eta=2": (0.3, 6.0, 2.0, 3e-3),
    }
    for name, arguments in points.items():

        def solve(arguments=arguments):
            return meanfield.solve(
                net(*arguments), 1.0, 1e-4, method="stationary", key=jax.random.key(12),
                num_paths=400, max_lag=0.1, response=False,
            )  # fmt: skip

        yield beside_networks("LIF, fixed in-degree", name, solve, 0.02, 13, 3, 2.0)


def oscillators(quick: bool) -> Iterator[Point]:
    import jax

    from neurofield import meanfield, network

    def inhibited(neuron, size, weight, current, sd, kernel):
        drive = network.Drive(network.Constant(current), network.OrnsteinUhlenbeck(sd, 5e-3))
        return network.Network(
            [network.Population("I", neuron, size, drive)],
            [
                network.Projection(
                    "I", "I", network.erdos_renyi(0.05, -weight),
                    kernel=network.Exponential(kernel), delay=1.5e-3, channel="current",
                )
            ],
        )  # fmt: skip

    points = {
        "J=0.08, I0=1.3, sd 2.5": (network.QIF(tau=0.01), 2000, 0.08, 1.3, 2.5, 5e-3),
        "J=0.04, I0=0.6, sd 1.5": (network.QIF(tau=0.012), 2000, 0.04, 0.6, 1.5, 8e-3),
        "J=4 pA, I0=280 pA, sd 80 pA": (network.HodgkinHuxley(), 1000, 4.0, 280.0, 80.0, 6e-3),
        "J=9 pA, I0=330 pA, sd 50 pA": (network.HodgkinHuxley(), 1000, 9.0, 330.0, 50.0, 8e-3),
    }
    for name, arguments in points.items():
        qif = isinstance(arguments[0], network.QIF)

        def solve(arguments=arguments, qif=qif):
            return meanfield.solve(
                inhibited(*arguments), 2.0 if qif else 0.6, 1e-4 if qif else 5e-5,
                method="stationary", key=jax.random.key(14), num_paths=800, warm_up=0.2,
                max_lag=0.1, response=False,
            )  # fmt: skip

        yield beside_networks(
            "QIF" if qif else "Hodgkin-Huxley",
            name,
            solve,
            0.003,
            15,
            6,
            4.0 if qif else 1.5,
            warm_up=0.3,
        )
