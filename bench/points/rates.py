"""Networks of rate units and of binary neurons."""

from collections.abc import Iterator

import numpy as np
from peers import meanfield_scipy as peer
from points.point import EXACT, Point, exact


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
