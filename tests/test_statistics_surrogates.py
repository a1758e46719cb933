"""What each surrogate keeps exactly, and what it destroys; kernels and ergodicity."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield import statistics
from neurofield.recording import Raster

BIN = 0.01


def correlated(rng, shape):
    """Neurons that share half of their spikes, with a rate that waxes and wanes."""
    num_bins = shape[-1]
    rate = 0.2 + 0.15 * np.sin(np.arange(num_bins) * 2 * np.pi / 500)
    shared = rng.random((*shape[:-2], 1, num_bins)) < rate
    own = rng.random(shape) < rate
    return np.where(rng.random(shape) < 0.5, shared, own).astype(np.uint8)


def masked_raster():
    rng = np.random.default_rng(0)
    mask = np.ones((2, 1000), bool)
    mask[0, 300:310] = mask[1, 900:] = False
    return Raster(correlated(rng, (2, 4, 1000)), BIN, mask=mask), mask


STRETCHES = [(0, 0, 300), (0, 310, 1000), (1, 0, 900)]


def test_shift_rotates_each_stretch():
    raster, mask = masked_raster()
    found = statistics.surrogates(jax.random.key(1), raster, "shift")
    before, after = np.asarray(raster.spikes), np.asarray(found.spikes)
    np.testing.assert_array_equal(
        after[~mask[:, None].repeat(4, 1)], before[~mask[:, None].repeat(4, 1)]
    )
    offsets = []
    for epoch, first, end in STRETCHES:
        for i in range(4):
            a, b = before[epoch, i, first:end], after[epoch, i, first:end]
            match = [k for k in range(end - first) if (np.roll(a, -k) == b).all()]
            assert len(match) == 1
            offsets += match
    assert len(set(offsets)) > 9  # two of twelve may meet by chance


def test_jitter_permutes_within_windows():
    raster, _ = masked_raster()
    found = statistics.surrogates(jax.random.key(2), raster, "jitter", window=20)
    before, after = np.asarray(raster.spikes), np.asarray(found.spikes)
    assert (before != after).any()
    np.testing.assert_array_equal(after[0, :, 300:310], before[0, :, 300:310])
    for epoch, first, end in STRETCHES:
        for t in range(first, end, 20):
            window = slice(t, min(t + 20, end))
            np.testing.assert_array_equal(
                after[epoch, :, window].sum(-1), before[epoch, :, window].sum(-1)
            )


def test_trial_shuffle_keeps_the_trials_of_each_neuron():
    rng = np.random.default_rng(3)
    spikes = correlated(rng, (30, 4, 50))
    found = statistics.surrogates(jax.random.key(3), Raster(spikes, BIN), "trial_shuffle")
    after = np.asarray(found.spikes)
    for i in range(4):
        assert sorted(map(bytes, after[:, i])) == sorted(map(bytes, spikes[:, i]))
    np.testing.assert_array_equal(after.mean(0), spikes.mean(0))
    assert (after != spikes).any()
    raster, mask = masked_raster()
    found = statistics.surrogates(jax.random.key(3), raster, "trial_shuffle")
    np.testing.assert_array_equal(found.mask, np.broadcast_to(mask.all(0), mask.shape))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("shift", {}),
        ("jitter", {"window": 5}),
        ("rate_matched", {}),
        ("rate_matched", {"smoothing": 25}),
    ],
)
def test_synchrony_is_destroyed(method, options):
    spikes = correlated(np.random.default_rng(4), (4, 40_000))
    raster = Raster(spikes, BIN)
    found = statistics.surrogates(jax.random.key(4), raster, method, **options)
    upper = np.triu_indices(4, 1)
    before = np.asarray(statistics.covariance(spikes))[upper]
    after = np.asarray(statistics.covariance(found.spikes))[upper]
    # Covariance of the common rate alone: 0.15^2 / 2.
    slow = 0.15**2 / 2
    assert (before > 0.04).all()
    noise = 4 * 0.16 / np.sqrt(40_000)
    if method == "rate_matched" and not options:
        assert (np.abs(after) < noise).all()
    elif method == "shift":
        assert (np.abs(after) < slow + noise).all()
    elif method == "jitter":
        # Within five bins a spike still meets the other's spikes: a fifth of the sharp peak stays.
        peak = before - slow
        np.testing.assert_allclose(after, slow + peak / 5, atol=noise)
    else:
        # A fast shared fluctuation survives only through the smoothed rate: 1 / 51 of it.
        np.testing.assert_allclose(after, slow + (before - slow) / 51, atol=noise)
    rate = np.asarray(found.spikes).mean(-1)
    if method in ("shift", "jitter"):
        np.testing.assert_array_equal(rate, spikes.mean(-1))
    else:
        np.testing.assert_allclose(rate, spikes.mean(-1), atol=4 * np.sqrt(2 * 0.16 / 40_000))


def test_surrogates_jit_vmap_and_errors():
    raster, _ = masked_raster()
    for method, options in [
        ("shift", {}),
        ("jitter", {"window": 7}),
        ("trial_shuffle", {}),
        ("rate_matched", {"smoothing": 9}),
    ]:
        fn = partial(statistics.surrogates, method=method, **options)
        eager, jitted = fn(jax.random.key(5), raster), jax.jit(fn)(jax.random.key(5), raster)
        np.testing.assert_array_equal(eager.spikes, jitted.spikes)
        assert jitted.spikes.dtype == jnp.uint8
        many = jax.vmap(lambda k, fn=fn: fn(k, raster).spikes)(
            jax.random.split(jax.random.key(0), 3)
        )
        assert many.shape == (3, 2, 4, 1000)
    with pytest.raises(ValueError, match="method must be"):
        statistics.surrogates(jax.random.key(0), raster, "dither")
    with pytest.raises(ValueError, match="needs window"):
        statistics.surrogates(jax.random.key(0), raster, "jitter")
    with pytest.raises(ValueError, match="window is for"):
        statistics.surrogates(jax.random.key(0), raster, "shift", window=3)
    with pytest.raises(ValueError, match="leading axis"):
        statistics.surrogates(jax.random.key(0), Raster(np.zeros((2, 9)), BIN), "trial_shuffle")


def test_kernel_averages_and_quantile_spectra():
    raster, mask = masked_raster()
    spikes = np.asarray(raster.spikes)
    found = statistics.kernel_averages(raster)
    inside = spikes.transpose(1, 0, 2)[:, mask]
    assert found.offset == pytest.approx(inside.mean())
    np.testing.assert_allclose(found.row[1], spikes[1][:, mask[1]].mean(1))
    np.testing.assert_allclose(found.column, spikes.mean(1) * mask)
    spectra = statistics.quantile_spectra(raster, 20)
    np.testing.assert_allclose(spectra.row, np.sort(inside.mean(1)))
    expected = np.quantile(inside.mean(0), spectra.level, method="inverted_cdf")
    np.testing.assert_allclose(spectra.column, expected)
    assert (spectra.column_error >= 0).all()


def test_wasserstein_of_shifted_samples_and_its_gradient():
    x = jnp.asarray(np.random.default_rng(6).normal(size=50))
    assert statistics.wasserstein(x, x[::-1] + 0.3) == pytest.approx(0.3)
    gradient = jax.grad(statistics.wasserstein)(x, x - 1)
    np.testing.assert_allclose(gradient, np.full(50, 1 / 50))


def test_ergodicity_is_calibrated_on_its_null_and_sees_drift():
    rng = np.random.default_rng(7)
    p = np.linspace(0.1, 0.4, 6)[:, None]
    flat = Raster(rng.random((6, 6000)) < p, BIN)
    found = statistics.ergodicity(jax.random.key(8), flat, num_null=60)
    for name, item in found._asdict().items():
        for null, std in [(item.bernoulli, item.bernoulli_std), (item.permuted, item.permuted_std)]:
            assert abs(item.value - null) < 4.5 * std + 1e-12, name
        assert item.error > 0
    # Pairwise W1 by brute force.
    windows = np.asarray(flat.spikes).reshape(6, 10, 600).transpose(1, 0, 2)
    rows = np.sort(windows.mean(-1), axis=-1)
    columns = np.sort(windows.mean(1), axis=-1)
    pairs = [(a, b) for a in range(10) for b in range(a)]
    for spectra, item in [(rows, found.row), (columns, found.column)]:
        brute = np.mean([np.abs(spectra[a] - spectra[b]).mean() for a, b in pairs])
        assert item.value == pytest.approx(brute, rel=1e-10)
    halves = windows.reshape(10, 6, 2, 300).mean((0, 3))
    expected = np.sqrt(np.mean((halves[:, 0] - halves[:, 1]) ** 2))
    assert found.mean.value == pytest.approx(expected)
    drift = np.linspace(0.5, 1.5, 6000)
    drifting = Raster(rng.random((6, 6000)) < p * drift, BIN)
    found = statistics.ergodicity(jax.random.key(9), drifting, num_null=60)
    assert found.row.value > found.row.bernoulli + 10 * found.row.bernoulli_std
    assert found.row.value > found.row.permuted - 4 * found.row.permuted_std
    within = Raster(rng.random((40, 6, 300)) < p * np.linspace(0.5, 1.5, 300), BIN)
    found = statistics.ergodicity(jax.random.key(10), within, num_null=60)
    assert found.mean.value > found.mean.permuted + 10 * found.mean.permuted_std
