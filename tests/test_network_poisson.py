"""Poisson counts against the exact distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from neurofield.network._poisson import poisson_counts

KEY = jax.random.key(5)


def chi_square(counts, mean):
    """p-value of the counts against Poisson(mean); the tail is one class."""
    top = int(stats.poisson.isf(20 / counts.size, mean))  # classes expected 20 times or more
    found = np.bincount(np.minimum(counts, top + 1).astype(int), minlength=top + 2)
    expected = np.append(stats.poisson.pmf(np.arange(top + 1), mean), stats.poisson.sf(top, mean))
    return stats.chisquare(found, expected * counts.size).pvalue


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_counts_are_poisson(dtype):
    # Below, at and above the mean beyond which counts are drawn as sums.
    means = [0.003, 0.2, 2.0, 4.0, 4.001, 11.0]
    draw = jax.jit(lambda key, mean: poisson_counts(key, mean, (200_000,)))
    p = []
    for i, mean in enumerate(means):
        counts = draw(jax.random.fold_in(KEY, i), jnp.asarray(mean, dtype))
        assert counts.dtype == dtype
        np.testing.assert_array_equal(counts, np.round(counts))
        p.append(chi_square(np.asarray(counts), float(np.asarray(mean, dtype))))
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert min(p) > 1e-4


def test_each_element_has_its_own_mean_and_neighbours_are_independent():
    means = jnp.asarray([0.0, 0.05, 1.3, 3.0, 25.0])
    num = 100_000
    counts = np.asarray(poisson_counts(KEY, jnp.tile(means, (num, 1))))
    assert (counts[:, 0] == 0).all()
    z = (counts.mean(0) - means)[1:] / np.sqrt(means[1:] / num)
    assert np.abs(z).max() < 4
    # Var of the sample variance of Poisson: (mean + 2 mean^2) / num.
    m = np.asarray(means[1:])
    z = (counts.var(0)[1:] - m) / np.sqrt((m + 2 * m**2) / num)
    assert np.abs(z).max() < 4
    z = np.corrcoef(counts[:, 1:].T)[np.triu_indices(4, 1)] * np.sqrt(num)
    assert np.abs(z).max() < 4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_tiny_means_lose_nothing(dtype):
    mean, num = 1e-4, 20_000_000
    counts = poisson_counts(KEY, jnp.asarray(mean, dtype), (num,))
    total = float(jnp.sum(counts, dtype=jnp.float64))
    squares = float(jnp.sum(counts**2, dtype=jnp.float64))
    assert abs(total - num * mean) < 4 * np.sqrt(num * mean)
    # E n (n - 1) = mean^2: of 0.2 pairs expected, more than 5 would be a wrong tail.
    assert squares - total <= 2 * 5


def test_every_random_word_gives_the_count_of_its_quantile(monkeypatch):
    # The words next to each step of the distribution, which random ones hardly ever meet.
    for mean in (1e-6, 0.2, 4.0):
        survival = stats.poisson.sf(np.arange(40), mean)
        edges = np.floor(survival * 2.0**32)
        words = np.unique(np.clip([edges - 2, edges + 1, 0 * edges], 0, 2**32 - 1))
        monkeypatch.setattr(jax.random, "bits", lambda *_, w=words: jnp.asarray(w, jnp.uint32))
        found = poisson_counts(KEY, mean, words.shape)
        u = (words + 0.5) / 2.0**32
        np.testing.assert_array_equal(found, (u[:, None] < survival[None]).sum(1))


def test_means_that_are_none_give_nan_not_a_count():
    found = poisson_counts(KEY, jnp.asarray([-1.0, jnp.nan, jnp.inf, 2e6, 0.0]))
    np.testing.assert_array_equal(jnp.isnan(found), [True, True, True, True, False])
    assert poisson_counts(KEY, jnp.zeros(0)).shape == (0,)
    with pytest.raises(ValueError, match="mean a scalar"):
        poisson_counts(KEY, jnp.ones(3), (4,))


def test_batches_over_means_are_as_single_draws():
    means = jnp.asarray([0.3, 9.0])
    draw = jax.jit(lambda mean: poisson_counts(KEY, mean, (50,)))
    for row, mean in zip(jax.jit(jax.vmap(draw))(means), means, strict=True):
        np.testing.assert_array_equal(row, draw(mean))


def test_counts_have_no_derivative():
    for transform in (jax.jacfwd, lambda f: jax.jit(jax.grad(f))):
        with pytest.raises(TypeError, match="no derivative by its mean"):
            transform(lambda m: poisson_counts(KEY, m, (3,)).sum())(0.5)

    def weighted(weight):
        return (weight * poisson_counts(KEY, 2.0, (3,))).sum()

    # By what multiplies the counts, and through a loop, the derivative is exact.
    np.testing.assert_allclose(jax.grad(weighted)(1.5), weighted(1.0))
    scanned = jax.grad(
        lambda w: jax.lax.scan(lambda c, _: (c + weighted(w), None), 0.0, None, 3)[0]
    )
    np.testing.assert_allclose(scanned(1.5), 3 * weighted(1.0))
