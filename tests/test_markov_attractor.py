"""The distance of a curve to a cloud, where it is known."""

import numpy as np
import pytest

from neurofield.markov._attractor import cloud_distance

ANGLE = 2 * np.pi * np.arange(600) / 600
CIRCLE = np.stack([10 * np.cos(ANGLE), 3 + 0.2 * np.sin(ANGLE), np.full(600, 7.0)])


def test_noise_is_averaged_out_of_a_circle():
    """A cloud about a circle of 1.2 times the size: 0.1 of the extent from it at every phase."""
    rng = np.random.default_rng(5)
    angle = rng.uniform(0, 2 * np.pi, 40_000)
    cloud = np.stack([12 * np.cos(angle), 3 + 0.24 * np.sin(angle), np.full(40_000, 7.0)])
    noise = 0.05  # in units of the extents 20 and 0.4
    cloud += noise * np.array([20, 0.4, 0])[:, None] * rng.standard_normal(cloud.shape)
    found = cloud_distance(CIRCLE, cloud)
    # Noise along the circle lowers the mean radius by its variance over twice the radius, relative
    # to 0.6: and across it, raises the radius at a given phase by as much. Noise of the mean:
    # 0.05 / sqrt(40000 / 48) = 0.0017 a phase.
    assert abs(found.distance - 0.1) < 0.005
    assert found.num_samples.sum() == 40_000
    assert abs(cloud_distance(CIRCLE, CIRCLE[:, ::7]).distance) < 0.01


def test_shift_and_gaps():
    """Half a circle that is lifted by 2 along an axis on which the curve has no extent."""
    half = CIRCLE[:, :300] + np.array([0, 0, 2.0])[:, None]
    found = cloud_distance(CIRCLE, half)
    np.testing.assert_allclose(found.distance, 2, atol=1e-4)
    assert np.isnan(found.average[0]).sum() in (23, 24)
    with pytest.raises(ValueError, match="same axes"):
        cloud_distance(CIRCLE[:2], half)
