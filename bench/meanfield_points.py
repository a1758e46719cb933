"""New points of every family of the mean-field theory, each by independent ways, in float64.

Parameters that no table or test has. Each row compares one quantity of two back-ends: a closed form
beside SciPy's solution of the same equations another way (`peers/meanfield_scipy.py`), or paths
beside a closed form, or either beside networks that are simulated. Rows agree where they differ by
less than the tolerance of the theory's notes (relative; of rates at first order, infinite
networks) or than four standard errors, which themselves must be below the tolerance. A table
follows on stderr.
"""

import csv
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
from peers import meanfield_scipy as peer

HERE = Path(__file__).parent
INDEGREES = HERE.parent / "tests" / "reference" / "meanfield" / "microcircuit_indegrees.csv"
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


def cases(quick: bool) -> Iterator[Point]:
    families = (rates, noisy_paths, courses, linear, escape, binary, diffusion)
    for family in families if quick else (*families, spiking, lif_networks, oscillators):
        yield from family(quick)


# --- rates ----------------------------------------------------------------------------------------


def rates(quick: bool) -> Iterator[Point]:
    import jax
    import jax.numpy as jnp

    from neurofield import meanfield

    lags = jnp.asarray([1.0, 3.0])

    def closed(phi):
        def of(g, sigma2):
            found = meanfield.sompolinsky(g, phi=phi, sigma2=sigma2)
            later = found.covariance(lags)
            return {
                "variance": found.variance,
                "output variance": found.output_variance,
                "lyapunov exponent": found.lyapunov_exponent,
                "covariance at 1": later[0],
                "covariance at 3": later[1],
            }

        return jax.jit(of)

    compiled = {phi: closed(phi) for phi in ("tanh", "erf")}
    points = [("tanh", 1.7, 0.0), ("erf", 1.6, 0.0), ("tanh", 1.2, 0.3), ("erf", 1.9, 0.4)]
    points += [("tanh", 3.2, 0.0), ("erf", 2.6, 0.0), ("tanh", 2.1, 0.15)]
    for phi, g, sigma2 in points[2:3] if quick else points:
        family = "noisy random rates" if sigma2 else "random rates"
        yield Point(
            family,
            f"{phi}, g={g}, sigma2={sigma2}",
            ("closed form", "scipy"),
            lambda phi=phi, g=g, s=sigma2: exact(compiled[phi](g, s)),
            lambda phi=phi, g=g, s=sigma2: exact(peer.random_rates(phi, g, s)),
            {"lyapunov": 1e-5, "": EXACT},
        )


def rate_network(phi, g, sigma2, coupling=0.0, size=1000, drive=None):
    from neurofield import network

    sources = [] if drive is None else [drive]
    if sigma2 is not None:
        sources.append(network.WhiteNoise(2 * sigma2))
    unit = network.Rate(phi, tau=1.0)
    return network.Network(
        [network.Population("x", unit, size, network.Drive(*sources))],
        [network.Projection("x", "x", network.gaussian(coupling, g))],
    )


def noisy_paths(quick: bool) -> Iterator[Point]:
    """Stationary paths at two steps, extrapolated to none, beside the closed form."""
    import jax

    from neurofield import meanfield

    def paths(phi, dt):
        def of(g, sigma2):
            found = meanfield.solve(
                rate_network(phi, g, sigma2), 60.0, dt, method="stationary",
                key=jax.random.key(3), num_paths=2400, num_replicas=8, max_lag=16.0,
                response=False,
            )  # fmt: skip
            return found.replicas["covariance"][:, 0, 0]

        return jax.jit(of)

    compiled = {dt: paths("tanh", dt) for dt in (0.2, 0.1)}

    def extrapolated(g, sigma2):
        coarse, fine = (np.asarray(compiled[dt](g, sigma2)) for dt in (0.2, 0.1))
        found = 2 * fine - coarse
        return {"output variance": (found.mean(), found.std(ddof=1) / len(found) ** 0.5)}

    points = [] if quick else [(1.3, 0.35), (1.9, 0.6), (0.8, 0.25)]
    for g, sigma2 in points:
        yield Point(
            "noisy random rates",
            f"tanh, g={g}, sigma2={sigma2}",
            ("stationary paths", "closed form"),
            lambda g=g, s=sigma2: extrapolated(g, s),
            lambda g=g, s=sigma2: exact(
                {"output variance": meanfield.sompolinsky(g, sigma2=s).output_variance}
            ),
            0.02,
        )


def courses(quick: bool) -> Iterator[Point]:
    """Marches beside the exact two-time equations of the same steps, and beside networks."""
    import jax
    import jax.numpy as jnp

    from neurofield import meanfield, network

    dt, num_steps = 0.1, 20 if quick else 60
    times = (5, 10, 20) if quick else (10, 30, 60)
    points = {
        "tanh, g=1.5, J0=-1.2, ramp of 0.4 t": ("tanh", 1.5, -1.2, lambda t: 0.4 * t),
        "erf, g=2.3, J0=0.5, sine": ("erf", 2.3, 0.5, lambda t: 0.8 * jnp.sin(1.3 * t)),
    }

    def net(point, size):
        phi, g, coupling, drive = point
        return rate_network(phi, g, None, coupling, size, network.Function(drive))

    def march(point):
        found = meanfield.solve(
            net(point, 10**8), num_steps * dt, dt, method="march", key=jax.random.key(4),
            num_paths=12 * (64 if quick else 1000), num_replicas=12,
        )  # fmt: skip
        numbers = {}
        for k in times:
            mean, variance = (found.replicas[x][:, 0, k - 1] for x in ("mean", "covariance"))
            numbers[f"mean at step {k}"] = mean
            numbers[f"variance at step {k}"] = variance[:, k - 1]
        later = found.replicas["covariance"][:, 0, times[-1] - 1, times[0] - 1]
        numbers[f"covariance of steps {times[0]}, {times[-1]}"] = later
        return peer.spread(numbers, np.stack(list(numbers.values()), 1))

    def quadrature(point):
        phi, g, coupling, drive = point

        def middle(k):
            return float(drive((k + 0.5) * dt))

        return exact(peer.two_time(phi, g, coupling, middle, num_steps, dt, times))

    def simulated(point):
        rows = []
        for key in jax.random.split(jax.random.key(5), 6):
            run = network.simulate(
                key, net(point, 1500), num_steps * dt, dt, bin_width=dt, traces=("output",),
                num_lags=None,
            )  # fmt: skip
            y = np.asarray(run.traces["x"]["output"])  # [neuron, step]
            row = []
            for k in times:
                row += [y[:, k - 1].mean(), y[:, k - 1].var()]
            row.append(np.cov(y[:, times[0] - 1], y[:, times[-1] - 1])[0, 1])
            rows.append(row)
        names = [n.format(k) for k in times for n in ("mean at step {}", "variance at step {}")]
        return peer.spread([*names, f"covariance of steps {times[0]}, {times[-1]}"], rows)

    for name, point in list(points.items())[:1] if quick else points.items():
        yield Point(
            "two times",
            name,
            ("march", "quadrature"),
            lambda point=point: march(point),
            lambda point=point: quadrature(point),
            0.1 if quick else 0.02,
            1.0,
        )
        if not quick:
            yield Point(
                "two times",
                name,
                ("quadrature", "6 networks of 1,500"),
                lambda point=point: quadrature(point),
                lambda point=point: simulated(point),
                0.03,
                1.0,
            )


def linear(quick: bool) -> Iterator[Point]:
    import jax

    from neurofield import meanfield

    def closed(g, coupling):
        found = meanfield.linear(g, mean=coupling)
        return exact(
            {
                "variance": found.variance,
                "participation ratio / N": found.participation_ratio,
                "N Var X": found.population_variance,
            }
        )

    dt, finite = 0.1, 400

    def shared(g, coupling):
        found = meanfield.solve(
            rate_network(identity, g, 1.0, coupling, finite), 60.0, dt, method="stationary",
            order="shared", key=jax.random.key(6), num_paths=4800, num_replicas=8, max_lag=12.0,
        )  # fmt: skip
        parts = [
            found.replicas["covariance"][:, 0, 0],
            finite * found.replicas["population_covariance"][:, 0, 0, 0],
        ]
        return peer.spread(("variance", "N Var X"), np.stack(parts, 1))

    size, networks = (200, 6) if quick else (500, 12)
    for g, coupling in ((0.6, -1.0), (0.45, 0.4), (0.75, -3.0)):
        yield Point(
            "linear rates",
            f"g={g}, J0={coupling}",
            ("closed form", f"Lyapunov equations, {networks} networks of {size} and {size // 2}"),
            lambda g=g, j=coupling: closed(g, j),
            lambda g=g, j=coupling: peer.linear(g, j, size, networks, 7),
            {"N Var X": 0.3 if quick else 0.06, "": 0.15 if quick else 0.02},
        )
        if not quick and coupling != 0.4:
            yield Point(
                "linear rates",
                f"g={g}, J0={coupling}, N=400",
                ('paths, order="shared"', "frequencies of the grid"),
                lambda g=g, j=coupling: shared(g, j),
                lambda g=g, j=coupling: exact(peer.linear_steps(g, j, dt)),
                0.03,
            )


def identity(x):
    return x


# --- escape noise ---------------------------------------------------------------------------------

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


# --- binary neurons -------------------------------------------------------------------------------


def binary_network(j, drive, sizes=(2000, 500)):
    from neurofield import network

    unit = network.Binary(threshold=1.0, tau=1.0)
    populations = [
        network.Population(n, unit, size, network.Constant(float(d)))
        for n, size, d in zip("EI", sizes, drive, strict=True)
    ]
    projections = [
        network.Projection("EI"[b], "EI"[a], network.erdos_renyi(0.1, float(j[a, b])))
        for a in range(2)
        for b in range(2)
    ]
    return network.Network(populations, projections)


BINARY = {
    "J_EI=-5, drives 4 and 2.5": (np.array([[1.0, -5.0], [1.2, -4.0]]) / 200**0.5, (4.0, 2.5)),
    "J_EI=-4, drives 3 and 2.2": (np.array([[0.8, -4.0], [1.5, -3.5]]) / 200**0.5, (3.0, 2.2)),
}


def binary(quick: bool) -> Iterator[Point]:
    import jax
    import jax.numpy as jnp

    from neurofield import meanfield, network

    k = np.array([200.0, 50.0])[None]
    compiled = jax.jit(
        lambda mean, vQ, drive: meanfield.binary(
            mean, vQ, 0 * vQ, drive=drive, threshold=jnp.ones(2), tau=jnp.ones(2),
            sizes=jnp.array([2000.0, 500.0]),
        )
    )  # fmt: skip

    def closed(j, drive):
        found = compiled(*(jnp.asarray(x) for x in (k * j, 0.9 * k * j**2, drive)))
        return exact(
            {"mean E": found.mean[0], "mean I": found.mean[1]}
            | {"q E": found.quenched[0], "q I": found.quenched[1]}
        )

    def paths(j, drive):
        found = meanfield.solve(
            binary_network(j, drive), 80.0, 0.05, method="stationary", key=jax.random.key(10),
            num_paths=1200, num_replicas=6, max_lag=10.0, response=False, rtol=1e-3,
        )  # fmt: skip
        mean = np.asarray(found.replicas["mean"])
        q = np.asarray(found.replicas["quenched"]) + mean**2
        return peer.spread(("mean E", "mean I", "q E", "q I"), np.concatenate([mean, q], 1))

    def analytic(j, drive):
        found = meanfield.solve(binary_network(j, drive), 10.0, 0.05, method="analytic")
        q = found.quenched + found.mean**2
        return exact(dict(zip(("mean E", "mean I", "q E", "q I"), [*found.mean, *q], strict=True)))

    def simulated(j, drive):
        rows = []
        for key in jax.random.split(jax.random.key(11), 8):
            run = network.simulate(
                key, binary_network(j, drive), 200.0, 0.1, bin_width=0.1, warm_up=10.0,
                num_lags=None,
            )  # fmt: skip
            state = np.asarray(run.raster.spikes, float)
            half = state.shape[1] // 2
            early, late = state[:, :half].mean(1), state[:, -half:].mean(1)
            parts = (slice(0, 2000), slice(2000, None))
            rows.append(
                [state[p].mean() for p in parts] + [(early[p] * late[p]).mean() for p in parts]
            )
        return peer.spread(("mean E", "mean I", "q E", "q I"), rows)

    for name, arguments in list(BINARY.items())[: 1 if quick else None]:
        j, drive = arguments
        yield Point(
            "binary E-I",
            name,
            ("closed form", "scipy"),
            lambda a=arguments: closed(*a),
            lambda a=(k * j, 0.9 * k * j**2, drive, 1.0): exact(peer.binary(*a)),
            EXACT,
        )
        if not quick:
            yield Point(
                "binary E-I",
                name,
                ("stationary paths", "closed form"),
                lambda a=arguments: paths(*a),
                lambda a=arguments: analytic(*a),
                {"mean": 0.02, "q": 0.06},
            )
            yield Point(
                "binary E-I",
                name,
                ("closed form", "8 networks of 2,500"),
                lambda a=arguments: analytic(*a),
                lambda a=arguments: simulated(*a),
                {"mean": 0.04, "q": 0.12},
            )


# --- LIF neurons ----------------------------------------------------------------------------------


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


# --- other neurons --------------------------------------------------------------------------------


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


if __name__ == "__main__":
    try:
        harness.main(cases)
    finally:
        show()
