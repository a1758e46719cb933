"""A fit of a network of two populations to two regions of a mouse, and what it does not explain."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from neurofield import meanfield, network, recording
from neurofield.fit import Interval, is_successful

DATA = os.environ.get("NEUROFIELD_DATA")
# Units, and the standard deviation of each neuron's own input in units of its threshold's noise.
REGIONS = {"adn": (7, 2.5), "ca1": (8, 1.5)}
START = {"gain": 1.5, "drive_adn": -3.0, "tau_adn": 0.1, "drive_ca1": -3.5, "tau_ca1": 0.02}


def regions(values):
    """Neurons with private input of their own time scale; weights of random sign everywhere."""
    neuron = network.GLM(hazard="erf", rate=100.0)
    populations = []
    for name, (size, level) in REGIONS.items():
        noise = network.OrnsteinUhlenbeck(level, values[f"tau_{name}"])
        drive = network.Drive(network.Constant(values[f"drive_{name}"]), noise)
        populations.append(network.Population(name, neuron, size, drive))
    weights, kernel = network.gaussian(0.0, values["gain"]), network.Exponential(0.02)
    projections = [
        network.Projection(source, target, weights, kernel=kernel)
        for source in REGIONS
        for target in REGIONS
    ]
    return network.Network(populations, projections)


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="the recording is found by NEUROFIELD_DATA")
def test_fit_to_two_regions_reports_what_the_theory_cannot_explain():
    """Sleep of A2929. Neurons of the theory are independent at leading order: what populations
    share across regions is in the recording only, and the table says so."""
    mouse = recording.read(Path(str(DATA)) / "A2929-200711.nwb")
    raster = recording.bin_spikes(mouse, 0.02, "sleep", counts=True)
    measured = meanfield.measure_observables(raster, (0, 1, 2, 5, 10, 20))
    options = {"method": "stationary", "num_paths": 512, "max_lag": 0.45}
    fitted = meanfield.fit(
        regions, START, measured, 1.2, 1e-2, key=jax.random.key(0),
        use=("rate", "rate_variance", "autocovariance", "population_covariance"),
        spec={f"drive_{name}": Interval(-10.0, 5.0) for name in REGIONS}, solve_options=options,
    )  # fmt: skip
    assert is_successful(fitted.fit.result)
    assert fitted.error is not None
    for name in START:
        assert 0 < float(fitted.error[name]) < 0.5 * abs(float(fitted.value[name])), name
    # Predicted is none at all between regions; all else of single neurons is within errors.
    assert fitted.residuals.disagreements == ("population_covariance 0 1",)
    place = fitted.residuals.quantity.index("population_covariance 0 1")
    assert abs(float(fitted.residuals.predicted[place])) < 1e-12
    assert float(fitted.residuals.z[place]) < -6
    assert "population_covariance 0 1" in str(fitted)
    rest = np.delete(np.asarray(fitted.residuals.z), place)
    assert np.sum(rest**2) < 40  # of 13 degrees of freedom: 1e-4
