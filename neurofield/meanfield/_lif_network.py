"""The stationary state of a network of LIF neurons, from its description."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from neurofield.network import (
    LIF,
    AllToAll,
    Constant,
    Delta,
    Dense,
    ErdosRenyi,
    Exponential,
    FixedIndegree,
    Gaussian,
    Kernel,
    Lists,
    Matrix,
    Network,
    Poisson,
    Projection,
    WhiteNoise,
    block_statistics,
)

from ._lif import LIFRates, lif_rates

_PARAMETERS = ("tau", "threshold", "reset", "refractory", "rest")
# Rules whose weights between any two neurons have one distribution.
_ALIKE = AllToAll | ErdosRenyi | FixedIndegree | Gaussian


def lif_network(network: Network, **options: Any) -> LIFRates:
    """The stationary state of a network of LIF neurons in diffusion theory; see `lif_rates`.

    `options` are those of `lif_rates`: `initial`, `rtol`, `max_steps`, `throw`.

    A spike of an effect J (mV, in all) on the voltage adds J to the mean and J^2 to the variance:
    J is a weight w (mV) through `Delta` into `jump`; w times the kernel's area over tau through
    `Exponential` into `current`. A target receives the sums over its synapses, E[sum_j J_ij] and
    E[sum_j J_ij^2], the latter from `block_statistics` as vQ + mean^2 / num_pre: all shot noise of
    independent Poisson sources, K (j^2 + sig_j^2) for K sources (Brunel 2000), and no variance of
    in-degrees. With multapses it is more by the pairs of synapses of one source,
    K (K - 1) j^2 / num_pre; of drawn weights it is their own. Delays do not matter.

    Raises `ValueError` for a network that is not of this kind, with the reason: populations of
    `LIF` alone, whose parameters are numbers; kernels `Delta` or `Exponential`, at each population
    only one and one time constant of it; drives `Constant`, `WhiteNoise` (not together with
    `Exponential`) and `Poisson` of constant rate; no plasticity, no shared noise, and connectivity
    that is the same for all pairs, or drawn weights.
    """
    if network.shared:
        raise ValueError("diffusion theory is for private noise: the network has shared noise.")
    index = {name: i for i, name in enumerate(network.names)}
    count = len(index)
    for population in network.populations:
        _check_neuron(population)
    neurons = [population.neuron for population in network.populations]
    dtype = jnp.result_type(*(getattr(n, name) for n in neurons for name in _PARAMETERS))
    parameters = {
        name: jnp.stack([getattr(n, name).astype(dtype) for n in neurons]) for name in _PARAMETERS
    }
    tau = parameters["tau"]
    filters: list[list[Any]] = [[] for _ in range(count)]
    weight, square_weight = jnp.zeros((count, count), dtype), jnp.zeros((count, count), dtype)
    for projection in network.projections:
        what = f"projection {projection.name}"
        if projection.plasticity is not None:
            raise ValueError(f"{what}: diffusion theory has no plasticity of synapses.")
        post, pre = index[projection.target], index[projection.source]
        effect = _effect(what, projection.kernel, _channel(projection), tau[post], filters[post])
        first, second = _sums(what, projection, network)
        weight = weight.at[post, pre].add((effect * first).astype(dtype))
        square_weight = square_weight.at[post, pre].add((effect**2 * second).astype(dtype))
    mean, variance = jnp.zeros(count, dtype), jnp.zeros(count, dtype)
    for i, population in enumerate(network.populations):
        for source in population.drive.sources:
            what = f"a drive of population {population.name!r}"
            first, second = _drive(what, source, tau[i], filters[i])
            mean = mean.at[i].add(first.astype(dtype))
            variance = variance.at[i].add(second.astype(dtype))
    synaptic_tau = jnp.stack([_common(network.names[i], filters[i], dtype) for i in range(count)])
    return lif_rates(
        weight, square_weight, mean, variance, **parameters, synaptic_tau=synaptic_tau, **options
    )


def _check_neuron(population: Any) -> None:
    if not isinstance(population.neuron, LIF):
        raise ValueError(
            f"population {population.name!r} is of {type(population.neuron).__name__}: this theory "
            "is of LIF neurons."
        )
    for name in _PARAMETERS:
        if getattr(population.neuron, name).ndim:
            raise ValueError(
                f"{name} of population {population.name!r} differs between neurons: diffusion "
                "theory takes one value a population."
            )


def _channel(projection: Projection) -> str:
    if projection.channel is not None:
        return projection.channel
    return "jump" if projection.kernel.instantaneous else "current"


def _effect(what: str, kernel: Kernel, channel: str, tau: Array, filters: list[Any]) -> Array:
    """mV in all on the voltage for a weight of 1; notes the kernel among the target's."""
    if not isinstance(kernel, Delta | Exponential):
        raise ValueError(
            f"{what} has the kernel {type(kernel).__name__}; diffusion theory takes Delta and "
            "Exponential."
        )
    area = kernel.area()
    if area.ndim:
        raise ValueError(f"{what}: the kernel's time constant differs between neurons.")
    filters.append(kernel.tau if isinstance(kernel, Exponential) else None)
    area = area.astype(tau.dtype)
    return area / tau if channel == "current" else area


def _sums(what: str, projection: Projection, network: Network) -> tuple[Array, Array]:
    """E[sum_j J_ij] and E[sum_j J_ij^2] of a target."""
    rule = projection.connectivity
    if isinstance(rule, _ALIKE):
        num_pre = network[projection.source].size
        found = block_statistics(rule, network[projection.target].size, num_pre)
        return found.mean, found.vQ + found.mean**2 / num_pre
    if isinstance(rule, Lists):
        return _of_lists(rule)
    if isinstance(rule, Dense | Matrix):
        rows = rule.weights.T if isinstance(rule, Dense) else rule.weights
        return rows.sum(1).mean(), (rows**2).sum(1).mean()
    raise ValueError(
        f"{what} is {type(rule).__name__}, whose neurons differ in what they receive: this theory "
        "is of weights that are alike for all pairs, or drawn (network.realise)."
    )


def _of_lists(lists: Lists) -> tuple[Array, Array]:
    """As of the matrix, one column of it at a time: multapses of a pair are one weight."""

    def one(sums: Array, source: tuple[Array, Array]) -> tuple[Array, None]:
        targets, weights = source
        column = jnp.zeros(lists.num_post + 1, weights.dtype).at[targets].add(weights)[:-1]
        return sums + jnp.stack([column.sum(), (column**2).sum()]), None

    weights = jnp.broadcast_to(lists.weights, lists.targets.shape)
    sums, _ = jax.lax.scan(one, jnp.zeros(2, weights.dtype), (lists.targets, weights))
    return sums[0] / lists.num_post, sums[1] / lists.num_post


def _drive(what: str, source: Any, tau: Array, filters: list[Any]) -> tuple[Array, Array]:
    """What a source adds to the mean (mV) and to the variance (mV^2)."""
    if not isinstance(source, Constant | WhiteNoise | Poisson):
        raise ValueError(
            f"{what} is {type(source).__name__}; diffusion theory takes Constant, WhiteNoise and "
            "Poisson."
        )
    for value in jax.tree.leaves(source):
        if jnp.ndim(value):
            raise ValueError(f"{what} differs between neurons: one value a population is taken.")
    if isinstance(source, Poisson):
        if not isinstance(source.rate, jax.Array):
            raise ValueError(f"{what} has a rate that changes in time.")
        effect = _effect(what, source.kernel, source.channel, tau, filters)
        effect = effect * source.weight.astype(tau.dtype)
        rate = source.rate.astype(tau.dtype)
        return tau * effect * rate, tau * effect**2 * rate
    per_channel = 1 / tau if source.channel == "current" else jnp.ones_like(tau)
    zero = jnp.zeros_like(tau)
    if isinstance(source, Constant):
        return tau * per_channel * source.value.astype(tau.dtype), zero
    filters.append(None)
    return zero, tau * per_channel**2 * source.density.astype(tau.dtype)


def _common(name: str, filters: list[Any], dtype: Any) -> Array:
    """The time constant that all fluctuations at a population share; 0 for white ones."""
    zero = jnp.zeros((), dtype)
    if all(one is None for one in filters):
        return zero
    if any(one is None for one in filters):
        raise ValueError(
            f"population {name!r} has both white and exponentially filtered fluctuations; the "
            "theory of Fourcaud and Brunel (2002) is of either."
        )
    first, *others = (one.astype(dtype) for one in filters)
    for other in others:
        traced = any(isinstance(x, Tracer) for x in (first, other))
        if not traced and float(other) != float(first):
            raise ValueError(
                f"population {name!r} has synapses of the time constants {float(first)} s and "
                f"{float(other)} s: the theory is of one."
            )
    return first
