"""The irregularity of spikes: coefficients of variation of interspike intervals.

The CV of one neuron's intervals is biased by the length of what is seen of them, and by which
neurons show enough of them. Theory and data are therefore measured alike: over stretches of one
length, in bins of one width, with the same least number of intervals. Both then have the same
expectation, whatever the bias, and its limit for long stretches is the mean CV of the literature.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from neurofield._types import PyTree

from ._sample_paths import counted_intervals
from ._solution import Solution
from ._stationary import Fields, Sampling, sample
from ._theory import Theory, build_theory, whole_steps

# Intervals in a stretch for a neuron to count. Of 2 the CV is biased by a fifth, and neurons with
# more than 10 are few in stretches that simulations can afford.
_LEAST = 5


class Tally(eqx.Module):
    """CVs of the neurons and stretches that have enough intervals: their sum and number."""

    total: Float[Array, "..."]
    count: Int[Array, "..."]

    @property
    def mean(self) -> Array:
        """Zero where there is none."""
        return self.total / jnp.maximum(self.count, 1).astype(self.total.dtype)


@eqx.filter_jit
def tally(spikes: Bool[Array, "*shape neuron bin"], length: int, dtype: Any) -> Tally:
    """Of each neuron and stretch of `length` bins, `[..., neuron, stretch]`."""
    num = spikes.shape[-1] // length
    stretches = spikes[..., : num * length].reshape(*spikes.shape[:-1], num, length)
    found = counted_intervals(stretches, 1.0, dtype)
    kept = found.count >= _LEAST
    return Tally(jnp.where(kept, found.cv, 0), kept.astype(jnp.int32))


def summed(found: Tally) -> Tally:
    """Over neurons and stretches."""
    return Tally(jnp.sum(found.total, (-2, -1)), jnp.sum(found.count, (-2, -1), dtype=jnp.int32))


def sampled_cvs(key: PRNGKeyArray, solution: Solution, window: float, bin_width: float) -> Tally:
    """Of paths of `window` seconds from the law of each replica of a solution, `[replica, pop.]`.

    As many paths as of the solution. Zero for populations that do not spike. Raises `ValueError`
    for solutions without replicas or of nested worlds, and `TypeError` under differentiation.
    """
    if solution.replicas is None or solution.input_quenched is None or solution.order == "nested":
        raise ValueError(
            "interval_cv is measured on paths of single neurons, which a closed form and nested "
            'worlds do not have: solve with method="stationary" and order "leading" or "shared", '
            "or leave window out."
        )
    settings = dict(solution.settings)
    theory = build_theory(solution.network, solution.dt)
    if solution.order == "shared":
        theory = dataclasses.replace(theory, shared=())  # the fields hold the shared noise already
    length = whole_steps("window", window, bin_width)
    steps = whole_steps("bin_width", bin_width, theory.dt)
    duration, before = settings["duration"], settings["warm_up"]
    num_lags = solution.input_covariance.shape[-1]
    warm_up = max(round((duration / 5 if before is None else before) / theory.dt), num_lags)
    num_replicas = settings["num_replicas"]
    # Parts of as many steps as a sweep of the solution, which fit into memory as it does.
    parts = math.ceil(window / duration)
    num_paths = math.ceil(settings["num_paths"] / (num_replicas * parts))
    sampling = Sampling(length * steps, warm_up, num_lags, max(num_paths, 2))
    laws = tuple(solution.replicas[f"input_{name}"] for name in ("mean", "covariance", "quenched"))
    keys = jax.random.split(key, (num_replicas, parts))
    dynamic, static = eqx.partition((theory, laws), eqx.is_inexact_array)
    theory, laws = eqx.combine(_without_derivative(dynamic), static)
    return _sampled(keys, theory, laws, sampling, steps)


@eqx.filter_jit
def _sampled(keys, theory: Theory, laws: tuple, sampling: Sampling, steps: int) -> Tally:
    kinds = np.asarray([population.neuron.kind == "spike" for population in theory.populations])
    spiking = np.flatnonzero(kinds)

    def one(args):
        own, law = args

        def part(own):
            x = sample(own, theory, Fields(*law), sampling).x[:, spiking]
            bins = jnp.any(x.reshape(-1, steps, *x.shape[1:]) > 0, axis=1)
            return summed(tally(jnp.moveaxis(bins, 0, -1), bins.shape[0], theory.dtype))

        found = jax.lax.map(part, own)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), found)

    found = jax.lax.map(one, (keys, laws))
    shape = (keys.shape[0], len(kinds))
    return jax.tree.map(lambda x: jnp.zeros(shape, x.dtype).at[:, spiking].set(x), found)


def between_replicas(found: Tally) -> tuple[Array, Array, Array]:
    """Means over replicas, their errors, and deviations `[replica, ...]` that make them up.

    The errors are infinite where fewer than two replicas have anything.
    """
    num = found.count.shape[0]
    total = jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), found)
    count = found.count.astype(found.total.dtype)
    off = found.total - total.mean[None] * count
    apart = off / jnp.maximum(total.count, 1).astype(off.dtype)[None] * (num / (num - 1)) ** 0.5
    error = jnp.sqrt(jnp.sum(apart**2, axis=0))
    enough = jnp.sum(found.count > 0, axis=0, dtype=jnp.int32) > 1
    return total.mean, jnp.where(enough, error, jnp.inf), apart


@jax.custom_jvp
def _without_derivative(tree: PyTree) -> PyTree:
    return tree


@partial(_without_derivative.defjvp, symbolic_zeros=True)
def _without_derivative_jvp(primals, tangents):
    zero = jax.custom_derivatives.SymbolicZero
    if not all(isinstance(x, zero) for x in jax.tree.leaves(tangents)):
        raise TypeError(
            "interval_cv is counted on sampled spikes and has no derivative: fit it with "
            'derivative="surface", or leave window out.'
        )
    return primals[0], jax.tree.map(jnp.zeros_like, primals[0])
