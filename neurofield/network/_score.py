"""Gradients of expectations over sampled spikes, by the score function."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._types import PyTree

from ._network import Network, Population
from ._neuron import Neuron, Output, dtype_of
from ._simulate import Simulation, simulate


class ScoreGradient(eqx.Module):
    """An estimate by `score_gradient`, with standard errors from the spread over samples.

    - `value`, `value_error`: the expected loss.
    - `gradient`, `error`: like the parameters; `None` for leaves that are not floating.
    """

    value: Float[Array, ""]
    value_error: Float[Array, ""]
    gradient: PyTree
    error: PyTree


def score_gradient(
    key: PRNGKeyArray,
    loss_fn: Callable[[Simulation], Array],
    params: PyTree,
    duration: float,
    dt: float,
    *,
    network_fn: Callable[[PyTree], Network] = lambda network: network,
    num_samples: int = 64,
    baseline: bool = True,
    batch_size: int | None = None,
    **options: Any,
) -> ScoreGradient:
    """Unbiased gradient of the expected loss of a network whose neurons spike at random.

    The estimator is the causal score function with a leave-one-out baseline: with
    `loss_fn(simulation)` giving the loss of each bin `[bin]`, r_b, which may depend on what
    happened up to bin b, and p_b the probability of what was emitted in bin b given the past,

        sum_b (dr_b + dlog p_b (sum_{b' >= b} r_b' - its mean over the other samples)),

    averaged over `num_samples` independent simulations. Derivatives at given spikes (through
    voltages, intensities, weights) are exact. A scalar loss counts as one of the last bin: no
    causality is used then, and the variance is larger. The variance grows with the number of
    neurons and steps that are sampled; `baseline=False` is the estimator without the mean.

    **Arguments**

    - `params`: what to differentiate by; `network_fn(params)` is the network, by default `params`
      themselves. Neurons that spike or switch must know their intensity.
    - `batch_size`: samples at once; all by default.
    - `options`: of `simulate`.

    **Raises** `ValueError` for neurons with a deterministic threshold, whose spikes have no
    probability, and fewer than two samples.
    """
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, got {num_samples}.")
    if options.get("warm_up"):
        raise ValueError(
            "score_gradient needs the probability of every spike, those of the warm-up included: "
            "leave warm_up out, and give the first bins no loss in loss_fn."
        )
    keys = jax.random.split(key, num_samples)

    def run(params: PyTree, key: PRNGKeyArray) -> tuple[Array, Array]:
        """Loss and log-probability of each bin."""
        network = _scored(network_fn(params))
        sim = simulate(key, network, duration, dt, log_prob=True, num_lags=None, **options)
        assert sim.log_prob is not None
        loss = loss_fn(sim)
        if loss.ndim == 0:
            loss = jnp.zeros_like(sim.log_prob).at[-1].set(loss)
        if loss.shape != sim.log_prob.shape:
            raise ValueError(
                f"loss_fn must give a scalar or one loss a bin, {sim.log_prob.shape}, got "
                f"{loss.shape}."
            )
        return loss, sim.log_prob

    def over_samples(fn, *args):
        return jax.lax.map(lambda a: fn(*a), args, batch_size=batch_size or num_samples)

    losses = over_samples(lambda k: run(params, k)[0], keys)
    to_go = jnp.flip(jnp.cumsum(jnp.flip(losses, 1), axis=1), 1)
    mean = (jnp.sum(to_go, axis=0)[None] - to_go) / (num_samples - 1)
    advantage = to_go - mean if baseline else to_go

    differentiable, rest = eqx.partition(params, eqx.is_inexact_array)

    def objective(chosen: PyTree, key: PRNGKeyArray, advantage: Array) -> Array:
        loss, log_prob = run(eqx.combine(chosen, rest), key)
        return jnp.sum(loss) + jnp.sum(advantage * log_prob)

    gradients = over_samples(
        lambda k, a: jax.grad(objective)(differentiable, k, a), keys, advantage
    )
    totals = to_go[:, 0]
    root = num_samples**0.5
    return ScoreGradient(
        value=jnp.mean(totals),
        value_error=jnp.std(totals, ddof=1) / root,
        gradient=jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients),
        error=jax.tree.map(lambda g: jnp.std(g, axis=0, ddof=1) / root, gradients),
    )


def _scored(network: Network) -> Network:
    """The network whose sampled outputs count as constants under differentiation."""
    return Network(
        [_scored_population(p) for p in network.populations], network.projections, network.shared
    )


def _scored_population(population: Population) -> Population:
    neuron = population.neuron
    if neuron.kind == "rate":
        return population
    if hasattr(neuron, "spike_gradient"):
        neuron = dataclasses.replace(neuron, spike_gradient="score")
    output = jax.eval_shape(partial(_one_step, size=population.size), neuron)
    if output.intensity is None:
        raise ValueError(
            f"population {population.name!r}: {type(neuron).__name__} emits spikes of a "
            "deterministic threshold, which have no probability to differentiate; take neurons "
            "with escape noise, such as EscapeLIF or GLM."
        )
    return Population(population.name, neuron, population.size, population.drive)


def _one_step(neuron: Neuron, size: int) -> Output:
    key = jax.random.key(0)
    nothing = jnp.zeros((len(neuron.channels), size), dtype_of(neuron))
    _, output = neuron.step(key, neuron.init(key, (size,)), nothing, 1e-4)
    return output
