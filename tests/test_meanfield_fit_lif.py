"""A fit finds the numbers of simulated networks of neurons that reset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import meanfield, network
from neurofield.fit import is_successful

TRUTH = {"J": 0.2, "g": 5.0, "drive": 3500.0}  # mV, 1, Hz
START = {"J": 0.164, "g": 6.1, "drive": 4270.0}
DT = 5e-4


def lif_network(values):
    """Unknown: weights, their ratio, and the drive of the excitatory neurons."""
    drives = {"E": (800, values["drive"]), "I": (200, 3150.0)}
    cells = [
        network.Population(name, network.LIF(), size, network.Poisson(rate, 0.3))
        for name, (size, rate) in drives.items()
    ]
    weights = {"E": 4 * values["J"], "I": -4 * values["g"] * values["J"]}
    kernel = network.Exponential(5e-3)
    projections = [
        network.Projection(a, b, network.erdos_renyi(0.1, weights[a]), kernel=kernel, delay=1e-3)
        for a in weights
        for b in weights
    ]
    return network.Network(cells, projections)


@jax.jit
def raster_of(key, values):
    found = network.simulate(
        key, lif_network(values), 0.5, DT, bin_width=1e-3, warm_up=0.2, num_lags=None
    )
    return found.raster


def observed(seed, values, num):
    """Of half a second of each of `num` networks."""
    keys = jax.random.split(jax.random.key(seed), num)
    rasters = [raster_of(key, values) for key in keys]
    return meanfield.measure_observables(rasters, (10, 20), num_blocks=8)


def fitted_to(measured, start, seed, **options):
    solver = {"method": "stationary", "num_paths": 512, "num_replicas": 2, "max_lag": 0.03}
    return meanfield.fit(
        lif_network, start, measured, 0.3, DT, key=jax.random.key(seed), max_steps=12,
        use=("rate", "rate_variance", "autocovariance"), derivative="surface",
        solve_options=solver | {"rtol": 1e-2}, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_fit_recovers_weights_and_drive_of_spiking_networks():
    """Of eight networks of 1,000 neurons, from 20 % off; then with what the theory misses at the
    numbers found (finite size, few inputs each) added to it.

    Of 14 such pairs of fits with other seeds all converged; without that correction the z of the
    three numbers had means of -1.1, -1.4, -1.1; with it .1, -.2, -.3, and root mean squares of
    1.0, 1.1, 1.3, as of the spread of eight networks (1.2 by Student's t).
    """
    truth = {name: jnp.asarray(x) for name, x in TRUTH.items()}
    measured = observed(0, truth, 8)
    first = fitted_to(measured, START, 1)
    there = observed(2, first.value, 16)
    start = {name: float(x) for name, x in first.value.items()}
    second = fitted_to(measured, start, 3, width=0.05, reference=(first.value, there))
    assert second.error is not None
    for name, value in TRUTH.items():
        assert is_successful(first.fit.result)
        assert abs(float(first.value[name]) / value - 1) < 0.1, name
        error = float(second.error[name])
        assert abs(float(second.value[name]) - value) < 3.5 * error, name
        assert error < 0.04 * value, name
    assert is_successful(second.fit.result)
    np.testing.assert_array_less(np.abs(second.residuals.z), 4)
    # 5 degrees of freedom: 1e-3.
    assert float(second.chi_squared) < 20.5
