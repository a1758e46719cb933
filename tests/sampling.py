"""What tests of random draws share."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats


@eqx.filter_jit
def rows(rule, key, num_post, num_pre):
    draw = lambda i: rule.row(jax.random.fold_in(key, i), i, num_post, num_pre)  # noqa: E731
    return jax.vmap(draw)(jnp.arange(num_post))


def assert_mean(samples, expected, z=4.0):
    """The mean of independent samples (axis 0) is `expected` within `z` standard errors."""
    samples = np.asarray(samples)
    error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - expected) <= z * error + 1e-12), (
        samples.mean(0),
        expected,
        error,
    )


def assert_frequencies(counts, probability):
    """Pearson's test of counts."""
    counts, expected = np.ravel(counts), counts.sum() * np.ravel(probability)
    # The last cells are merged until five are expected in the smallest.
    order = np.argsort(-expected)
    keep = expected[order] >= 5
    merge = lambda x: np.append(x[order][keep], x[order][~keep].sum())  # noqa: E731
    counts, expected = merge(counts), merge(expected)
    if expected[-1] < 5:
        counts = np.append(counts[:-2], counts[-2:].sum())
        expected = np.append(expected[:-2], expected[-2:].sum())
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-4
