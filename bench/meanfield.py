"""Mean-field solutions: marches, their gradients, and what size and length cost, in float64.

Each case is a piece of work beside the work that it is to be measured by: a march beside waveform
relaxation of the same equations; gradients beside the plain solution, so that 1 / `times_faster` is
their cost in solutions; a large network beside a small one; a windowed march beside the whole.
"""

from collections.abc import Iterator

import harness
import numpy as np


def cases(quick: bool) -> Iterator[harness.Case]:
    import jax
    import jax.numpy as jnp

    from neurofield import meanfield, network

    key = jax.random.key(0)
    num_paths = 64 if quick else 2048
    steps = 24 if quick else 500
    dt = 0.1

    def pair(gain, size=4000):
        noise = network.OrnsteinUhlenbeck(0.5, 1.0)
        unit = network.Rate("tanh", tau=1.0)
        populations = [
            network.Population(name, unit, n, noise) for name, n in (("E", size), ("I", size // 4))
        ]
        projections = [
            network.Projection(a, b, network.gaussian(mean, gain))
            for a, mean in (("E", 0.5), ("I", -1.0))
            for b in "EI"
        ]
        return network.Network(populations, projections)

    def marched(gain, size=4000, duration=steps * dt, **options):
        net = pair(gain, size)
        options = {"method": "march", "key": key, "num_paths": num_paths} | options
        return meanfield.solve(net, duration, dt, **options)

    def variance(gain, **options):
        return jnp.sum(marched(gain, **options).covariance[:, -1, -1])

    def still(gain):
        duration, lag = (20.0, 4.0) if quick else (100.0, 20.0)
        # Fewer paths have two self-consistent states at this gain, and rounding picks one.
        paths = max(num_paths, 256)
        options = {"key": key, "num_paths": paths, "method": "stationary", "response": False}
        solution = meanfield.solve(pair(gain), duration, dt, max_lag=lag, **options)
        return jnp.sum(solution.covariance[:, 0])

    def forward(fn):
        return lambda gain: jax.jvp(fn, (gain,), (jnp.ones_like(gain),))

    gain = jnp.asarray(1.2)
    short = 24 if quick else 100
    relaxed = {"method": "relaxation", "rtol": 1e-9, "max_steps": short}
    window = 2.0 if quick else 20.0
    long = steps * dt if quick else 2 * steps * dt
    march, cut = jax.jit(variance), jax.jit(lambda g: marched(g, duration=long, window=window).mean)
    pairs = {
        "gradient of a march, forward": (jax.jit(forward(variance)), march, "march", 1e-9),
        "gradient of a march, reverse": (
            jax.jit(jax.value_and_grad(variance)),
            march,
            "march",
            1e-9,
        ),
        "stationary gradient, forward": (jax.jit(forward(still)), jax.jit(still), "state", 1e-9),
        "stationary gradient, reverse": (
            jax.jit(jax.value_and_grad(still)),
            jax.jit(still),
            "state",
            1e-9,
        ),
        f"march, {short} steps": (
            jax.jit(lambda g: variance(g, duration=short * dt)),
            jax.jit(lambda g: variance(g, duration=short * dt, **relaxed)),
            "waveform relaxation",
            1e-5,
        ),
        "march of 1,000,000 neurons": (
            jax.jit(lambda g: variance(g, size=1_000_000)),
            march,
            "4,000 neurons",
            0.2,  # autapses and pairs count 1 / N
        ),
        f"march of {round(long / dt)} steps, window {round(window / dt)}": (
            cut,
            jax.jit(lambda g: marched(g, duration=long).mean),
            "the whole past",
            np.inf,  # paths part: see the test of windows
        ),
    }
    for name, (ours, theirs, peer, tolerance) in pairs.items():
        yield harness.Case(
            name=name,
            dtype="float64",
            tolerance=tolerance,
            ours=lambda ours=ours: ours(gain),
            peer=lambda theirs=theirs: theirs(gain),
            peer_name=peer,
            disagreement=lambda a, b: float(
                np.max(np.abs(np.asarray(jax.tree.leaves(a)[0]) - np.asarray(b)))
            ),
        )


if __name__ == "__main__":
    harness.main(cases)
