"""Measured moments against brute force, closed forms and the exact facts of a kernel."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import statistics
from neurofield.recording import Raster

BIN = 0.01


def markov_raster(rng, up, down, shape):
    """Independent two-state chains: x stays correlated as (1 - up - down)^lag."""
    p = up / (up + down)
    x = np.empty(shape, bool)
    x[..., 0] = rng.random(shape[:-1]) < p
    uniform = rng.random(shape)
    for t in range(1, shape[-1]):
        x[..., t] = np.where(x[..., t - 1], uniform[..., t] >= down, uniform[..., t] < up)
    return x


def runs(valid):
    edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]])))
    return edges.reshape(-1, 2)


def test_lags_and_segments_never_cross_an_edge():
    rng = np.random.default_rng(0)
    spikes = rng.random((3, 4, 200)) < 0.3
    mask = np.ones((3, 200), bool)
    mask[0, 50:53] = mask[1, 0] = mask[1, 199] = mask[2, 20:180] = False
    spikes[:, :, ~mask.all(0)] |= True  # what invalid bins hold must not matter
    found = statistics.measure(Raster(spikes, BIN, mask=mask), 7, segment_length=16)
    centred = spikes - spikes.transpose(1, 0, 2)[:, mask].mean(1)[:, None]
    sums, pairs = np.zeros((7, 4, 4)), np.zeros(7)
    spectra, num = np.zeros((9, 4, 4), complex), 0
    hann = np.hanning(17)[:16]
    for epoch in range(3):
        for first, end in runs(mask[epoch]):
            for lag in range(7):
                for t in range(first, end - lag):
                    sums[lag] += np.outer(centred[epoch, :, t + lag], centred[epoch, :, t])
                    pairs[lag] += 1
        for start in range(0, 200 - 15, 8):
            if mask[epoch, start : start + 16].all():
                f = np.fft.rfft(centred[epoch, :, start : start + 16] * hann)
                spectra += BIN * np.einsum("if,jf->fij", f, f.conj()) / (hann**2).sum()
                num += 1
    np.testing.assert_allclose(found.lagged, sums / pairs[:, None, None], atol=1e-14)
    np.testing.assert_array_equal(found.covariance, found.lagged[0])
    np.testing.assert_allclose(found.spectrum, spectra / num, atol=1e-15)
    np.testing.assert_allclose(
        found.rate, spikes.transpose(1, 0, 2)[:, mask].mean(1) / BIN, rtol=1e-13
    )
    counts = np.bincount(spikes.sum(1)[mask], minlength=5) / mask.sum()
    np.testing.assert_allclose(found.population_count, counts, atol=1e-15)


@pytest.mark.parametrize("shape", [(8, 40_000), (50, 8, 800)])
def test_independent_bernoulli_neurons_give_normal_z_scores(shape):
    rng = np.random.default_rng(1)
    p = np.linspace(0.1, 0.5, 8)
    spikes = rng.random(shape) < p[:, None]
    found = statistics.measure(Raster(spikes, BIN), 12, segment_length=32)
    upper = np.triu_indices(8, 1)
    active = np.ones(1)
    for q in p:
        active = np.convolve(active, [1 - q, q])
    # 64 (50) blocks: z is Student's t, whose variance is 1 + 2 / 62 (2 / 47).
    samples = {
        "rate": (found.rate - p / BIN) / found.rate_error,
        "covariance": ((found.covariance) / found.covariance_error)[upper],
        "variance": jnp.diagonal(
            (found.covariance - np.diag(p * (1 - p))) / found.covariance_error
        ),
        "lagged": (found.lagged / found.lagged_error)[1:],
        "count": ((found.population_count - active) / found.population_count_error)[:7],
    }
    for name, z in samples.items():
        z = np.asarray(z).ravel()
        assert abs(z.mean()) < 4 / np.sqrt(z.size), name
        assert abs(z.std() - 1.02) < 4 / np.sqrt(2 * z.size), name
    # White: S = v bin_width at every frequency (the mean is removed at zero frequency).
    level = np.broadcast_to(BIN * np.diag(p * (1 - p)), (17, 8, 8))
    z = np.asarray(np.abs(np.asarray(found.spectrum) - level) / found.spectrum_error)[1:]
    diagonal = z[:, np.arange(8), np.arange(8)]
    assert abs(np.mean(diagonal**2) - 1.04) < 5 * np.sqrt(2 / diagonal.size)
    off = z[:, upper[0], upper[1]]
    assert abs(np.mean(off**2) - 1.04) < 5 * np.sqrt(2 / off.size)


def test_spectrum_and_lags_of_a_two_state_chain():
    up, down = 0.1, 0.3
    r, p = 1 - up - down, up / (up + down)
    spikes = markov_raster(np.random.default_rng(2), up, down, (4, 60_000))
    found = statistics.measure(Raster(spikes, BIN), 6, segment_length=128)
    exact = p * (1 - p) * r ** np.arange(6.0)
    own = np.asarray(found.lagged)[:, np.arange(4), np.arange(4)]
    z = (own - exact[:, None]) / np.asarray(found.lagged_error)[:, np.arange(4), np.arange(4)]
    assert (np.abs(z) < 4.5).all()
    f = np.asarray(found.frequency)
    omega = 2 * np.pi * f * BIN
    density = BIN * p * (1 - p) * (1 - r**2) / (1 - 2 * r * np.cos(omega) + r**2)
    auto = np.asarray(found.spectrum)[:, np.arange(4), np.arange(4)]
    z = (auto.real - density[:, None]) / np.asarray(found.spectrum_error)[
        :, np.arange(4), np.arange(4)
    ]
    assert abs(z[2:].mean()) < 0.3
    assert z[2:].std() == pytest.approx(1, abs=0.25)  # neighbouring frequencies share a window
    # Its integral over both signs of f is the variance (trapezoid on a periodic function).
    weights = np.full(len(f), 2.0)
    weights[[0, -1]] = 1
    total = (weights[:, None] * auto.real).sum(0) / (128 * BIN)
    np.testing.assert_allclose(total, np.diag(found.covariance), rtol=0.02)


def test_cross_spectrum_of_a_delayed_copy_has_the_sign_of_the_convention():
    rng = np.random.default_rng(3)
    x = (rng.random(20_003) < 0.3).astype(float)
    pair = np.stack([x[:-3], x[3:]])  # row 0 lags behind row 1 by 3 bins
    lagged = statistics.lagged_covariance(pair, 5)
    assert lagged[3, 0, 1] == pytest.approx(0.21, abs=0.01)
    assert abs(lagged[3, 1, 0]) < 0.01
    density = statistics.spectrum(pair, BIN, segment_length=64)
    f = statistics.frequencies(64, BIN)
    expected = 0.21 * BIN * np.exp(-2j * np.pi * np.asarray(f) * 3 * BIN)
    np.testing.assert_allclose(density[1:-1, 0, 1], expected[1:-1], atol=0.21 * BIN * 0.2)


def test_kernel_facts():
    rng = np.random.default_rng(4)
    omega = (rng.random((6, 30)) < 0.3).astype(float)
    space, time = omega @ omega.T, omega.T @ omega
    assert np.trace(space) == np.trace(time) == omega.sum()
    a, b = np.linalg.eigvalsh(space), np.linalg.eigvalsh(time)
    np.testing.assert_allclose(a, b[-6:], atol=1e-12)
    r = omega.mean(1)
    np.testing.assert_allclose(
        statistics.covariance(omega), space / 30 - np.outer(r, r), atol=1e-14
    )


def test_populations_are_means_of_their_neurons():
    rng = np.random.default_rng(5)
    spikes = rng.random((5, 3000)) < 0.2
    index = np.array([0, 1, 0, 1, 1])
    raster = Raster(spikes, BIN, populations=index, population_names=["E", "I"])
    found = statistics.measure(raster, 3, populations=True)
    means = np.stack([spikes[index == p].mean(0) for p in (0, 1)])
    np.testing.assert_allclose(found.rate, means.mean(1) / BIN)
    np.testing.assert_allclose(found.covariance, np.cov(means, bias=True), atol=1e-15)
    assert found.labels == ("E", "I")
    assert found.population_count.shape == (6,)
    given = statistics.measure(Raster(spikes, BIN), 3, index)
    np.testing.assert_array_equal(given.lagged, found.lagged)
    with pytest.raises(ValueError, match="no populations"):
        statistics.measure(Raster(spikes, BIN), 3, True)
    empty = Raster(spikes, BIN, populations=index, population_names=["E", "I", "none"])
    found = statistics.measure(empty, 2, populations=True)
    np.testing.assert_array_equal(found.rate_mask, [True, True, False])
    assert not found.lagged_mask[:, 2].any()
    assert found.rate[2] == 0


def test_nothing_is_said_where_no_pair_is_left():
    mask = np.zeros(60, bool)
    mask[::3] = True
    found = statistics.measure(Raster(np.ones((2, 60)), BIN, mask=mask), 3, segment_length=4)
    np.testing.assert_array_equal(found.lagged_mask[:, 0, 0], [True, False, False])
    assert not found.spectrum_mask.any()
    for leaf in jax.tree.leaves(found):
        assert not np.isnan(leaf).any()


def test_jit_vmap_dtype_and_one_trace():
    rng = np.random.default_rng(6)
    raster = Raster(rng.random((2, 3, 200)) < 0.3, BIN)
    traces = []

    def counted(raster):
        traces.append(1)
        return statistics.measure(raster, num_lags=4, segment_length=16)

    jitted = jax.jit(counted)
    eager = statistics.measure(raster, 4, segment_length=16)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted(raster)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    jitted(Raster(rng.random((2, 3, 200)) < 0.3, BIN))
    assert len(traces) == 1
    separate = jax.vmap(partial(statistics.measure, num_lags=4))(raster)
    first = statistics.measure(Raster(raster.spikes[0], BIN), 4)
    np.testing.assert_allclose(separate.lagged[0], first.lagged, atol=1e-14)
    x = jnp.asarray(raster.spikes, jnp.float32)
    assert statistics.lagged_covariance(x, 3).dtype == jnp.float32
    assert statistics.spectrum(x, BIN, segment_length=8).dtype == jnp.complex64


def test_moments_are_differentiable():
    rng = np.random.default_rng(7)
    x = jnp.asarray(rng.random((2, 3, 12)))
    mask = np.ones((2, 12), bool)
    mask[0, 4] = False
    probe = jnp.asarray(rng.normal(size=(3, 3, 3)))

    def loss(x):
        density = statistics.spectrum(x, BIN, segment_length=4, mask=mask)
        return jnp.sum(probe * statistics.lagged_covariance(x, 3, mask)) + jnp.sum(
            jnp.real(density[1]) * probe[0] + jnp.imag(density[1]) * probe[1]
        )

    gradient = eqx.filter_jit(jax.grad(loss))(x)
    direction = jnp.asarray(rng.normal(size=x.shape))
    step = 1e-5
    numeric = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert jnp.sum(gradient * direction) == pytest.approx(float(numeric), rel=1e-7)
    assert (gradient[0, :, 4] == 0).all()


@pytest.mark.parametrize(
    "arguments", [{"num_lags": 0}, {"num_lags": 201}, {"num_lags": 2, "segment_length": 1}]
)
def test_wrong_sizes_are_named(arguments):
    raster = Raster(np.zeros((3, 200)), BIN)
    with pytest.raises(ValueError, match="must be from"):
        statistics.measure(raster, **arguments)


def test_to_xarray_names_every_axis():
    pytest.importorskip("xarray")
    raster = Raster(np.random.default_rng(8).random((2, 300)) < 0.3, BIN, labels=["a", "b"])
    found = statistics.measure(raster, 4, segment_length=16)
    data = statistics.to_xarray(found)
    assert data.lagged.sel(neuron="b", neuron_from="a").values[2] == found.lagged[2, 1, 0]
    np.testing.assert_allclose(data.lag, np.arange(4) * BIN)
    assert data.spectrum_error.dims == ("frequency", "neuron", "neuron_from")
    only_rate = statistics.to_xarray(statistics.Statistics(found.rate, BIN))
    assert set(only_rate.data_vars) == {"rate"}
