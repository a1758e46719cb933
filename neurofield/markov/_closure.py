"""Synaptic moments, and the closures that turn them into a neuron's input.

The pending spikes H of a synapse have mean and variance, over the neurons of the target, that obey
closed equations. What a neuron at a voltage receives needs more: how H depends on where the neuron
is. The closures answer differently:

- `"published"`: H has its variance at every voltage and forgets within `correlation_time`, so that
  its fluctuation is white noise. One node.
- `"coloured"`: the fluctuation of the summed excitatory, and of the summed inhibitory, input is a
  Markov chain on a few nodes, beside the voltage. The nodes and their probabilities are those of
  Gauss-Hermite quadrature, and the chain goes to neighbouring nodes at the rates that make the
  autocorrelation exactly exponential: moments up to 2 M - 1 of M nodes are a Gaussian's, the
  covariance is H's own, and no parameter is left to choose.
"""

from functools import cache
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import contract

from ._parameters import Parameters

# Below this variance of H (spikes^2) the fluctuation is lost beside the drive's: its rate of
# renewal, a ratio to the variance, is kept from growing without bound.
_LEAST_VARIANCE = 5e-3


class Moments(eqx.Module):
    """Mean and variance, over neurons, of the pending spikes, both `[post, pre]`."""

    mean: Float[Array, "post pre"]
    variance: Float[Array, "post pre"]


def moment_rates(
    params: Parameters, moments: Moments, flow: Float[Array, " pre"]
) -> tuple[Moments, Float[Array, "post pre"]]:
    """Time derivatives of the moments (per second), and what renews the variance.

    `flow`: spikes per second of each whole population. d mean = p flow - mean / tau; d variance =
    renewal - 2 variance / tau, renewal = mean / tau + p (1 - p) flow: the exact equations of a
    birth-death process with binomial arrivals. Deterministic flow: fluctuations that the neurons
    of a population share are not in them.
    """
    p = params.probability
    loss = moments.mean / params.tau
    renewal = loss + p * (1 - p) * flow[None]
    return Moments(p * flow[None] - loss, renewal - 2 * moments.variance / params.tau), renewal


class Nodes(NamedTuple):
    """A reversible chain on Gauss-Hermite nodes with autocorrelation exp(-t).

    - `value`, `weight`: `[M]`, of mean 0 and variance 1.
    - `generator`: `[M, M]`, probability flow into the row from the column.
    - `left`, `decay`, `right`: generator = left diag(-decay) right.
    """

    value: np.ndarray
    weight: np.ndarray
    generator: np.ndarray
    left: np.ndarray
    decay: np.ndarray
    right: np.ndarray


@cache
def gauss_hermite_chain(num_nodes: int) -> Nodes:
    """The chain of M nodes: linear functions of the node decay at rate 1, detailed balance holds.

    Both together fix the rates between neighbours: the probability flow of the stationary chain
    between i and i + 1 is -sum_{j <= i} weight_j value_j / (value_{i+1} - value_i), not negative.
    """
    if num_nodes < 1:
        raise ValueError(f"num_nodes must be at least 1, got {num_nodes}.")
    value, weight = np.polynomial.hermite_e.hermegauss(num_nodes)
    weight = weight / weight.sum()
    flow = -np.cumsum(weight * value)[:-1] / np.diff(value)
    generator = np.zeros((num_nodes, num_nodes))
    for i in range(num_nodes - 1):
        generator[i + 1, i] = flow[i] / weight[i]
        generator[i, i + 1] = flow[i] / weight[i + 1]
    generator -= np.diag(generator.sum(axis=0))
    # Detailed balance makes it symmetric after scaling by the roots of the weights.
    root = np.sqrt(weight)
    decay, vectors = np.linalg.eigh(-generator / root[:, None] * root[None])
    decay = np.maximum(decay, 0)
    decay[0] = 0
    return Nodes(value, weight, generator, root[:, None] * vectors, decay, vectors.T / root[None])


def nodes_of(closure: str, num_nodes: int) -> Nodes:
    """The chain of a closure: of one node where the input's fluctuation is white."""
    if closure == "published":
        return gauss_hermite_chain(1)
    if closure == "coloured":
        if num_nodes < 2:
            raise ValueError(f"closure 'coloured' needs num_nodes of at least 2, got {num_nodes}.")
        return gauss_hermite_chain(num_nodes)
    raise ValueError(f"closure must be 'coloured' or 'published', got {closure!r}.")


class Input(eqx.Module):
    """What the neurons of each population receive, at each pair of nodes.

    The drift at a voltage is `excitation + ... - felt inhibition - leak V`, in mV/s, and the
    variance of the white part per second is `variance + felt^2 inhibitory_variance`, in mV^2/s.

    - `excitation`: `[population, M]`, mV/s, by the excitatory node; the drive is in it.
    - `inhibition`: `[population, M]`, mV/s at the threshold, by the inhibitory node.
    - `variance`, `inhibitory_variance`: `[population]`, mV^2/s.
    - `renewal`: `[population, 2]`, hertz: the rate of the chain of excitatory, inhibitory nodes.
    """

    excitation: Float[Array, "population node"]
    inhibition: Float[Array, "population node"]
    variance: Float[Array, " population"]
    inhibitory_variance: Float[Array, " population"]
    renewal: Float[Array, "population 2"]

    def drift(
        self, params: Parameters, voltage: np.ndarray, felt: Float[Array, " V"]
    ) -> Float[Array, "population excitatory inhibitory V"]:
        """mV/s at voltages `[V]` in mV, whose `params.felt` is `felt`."""
        leaks = params.leak[:, None] * jnp.asarray(voltage, felt.dtype)[None]
        inhibition = self.inhibition[:, None, :, None] * felt[None, None, None]
        return self.excitation[:, :, None, None] - inhibition - leaks[:, None, None]

    def white(self, felt: Float[Array, " V"]) -> Float[Array, "population V"]:
        """Variance of the white part per second, mV^2/s."""
        return self.variance[:, None] + self.inhibitory_variance[:, None] * felt[None] ** 2


def input_of(
    params: Parameters,
    closure: str,
    nodes: Nodes,
    moments: Moments,
    renewal: Float[Array, "post pre"],
    drive_factor: Float[Array, " population"] | None = None,
) -> Input:
    """Mean and fluctuation of the input. `drive_factor` multiplies the drive and its variance.

    Several sources of one sign are summed; their common chain renews at the rate at which the
    variance of the sum is renewed.
    """
    drive, variance = params.drive, params.drive_variance
    if drive_factor is not None:
        drive, variance = drive * drive_factor, variance * drive_factor
    per_spike = params.charge / params.tau  # mV/s of one pending spike
    kinds = _kinds(params)
    mean = contract("kr,qr->qk", kinds, per_spike * moments.mean)
    excitation, inhibition = drive + mean[:, 0], mean[:, 1]
    if closure == "published":
        white = params.correlation_time * per_spike**2 * moments.variance
        white = contract("kr,qr->qk", kinds, white)
        return Input(
            excitation[:, None],
            inhibition[:, None],
            variance + white[:, 0],
            white[:, 1],
            jnp.zeros_like(mean),
        )
    total, least, some = _summed_variance(params, moments)
    # sqrt(total), with a finite derivative at 0.
    spread = total / jnp.sqrt(jnp.where(some, total + 0.1 * least, 1))
    value = jnp.asarray(nodes.value, mean.dtype)[None]
    return Input(
        excitation[:, None] + spread[:, :1] * value,
        inhibition[:, None] + spread[:, 1:] * value,
        variance,
        jnp.zeros_like(variance),
        renewal_rate(params, closure, moments, renewal),
    )


def renewal_rate(
    params: Parameters, closure: str, moments: Moments, renewal: Float[Array, "post pre"]
) -> Float[Array, "population 2"]:
    """The rate in hertz of the chains of excitatory and inhibitory nodes; 0 if "published"."""
    if closure == "published":
        return jnp.zeros((params.num_populations, 2), renewal.dtype)
    total, least, some = _summed_variance(params, moments)
    squared, kinds = _squared(params), _kinds(params)
    renewed = contract("kr,qr->qk", kinds, squared * renewal)
    return renewed / jnp.where(some, 2 * total + least, 1)


def _kinds(params: Parameters) -> Float[Array, "2 pre"]:
    """Which sources are excitatory, which inhibitory: 1 or 0."""
    inhibits = jnp.asarray(params.is_inhibitory, params.tau.dtype)
    return jnp.stack([1 - inhibits, inhibits])


def _squared(params: Parameters) -> Float[Array, "post pre"]:
    """What a variance of 1 spike^2 is as one of the input, (mV/s)^2.

    A synapse of no charge must not make 0 / 0: the smallest charge that matters is far above.
    """
    return (params.charge / params.tau) ** 2 + 1e-6


def _summed_variance(params: Parameters, moments: Moments) -> tuple[Array, Array, Array]:
    """Of the input by sign, `[population, 2]`: its variance, the least that counts, whether any.

    A network may have no population of one sign.
    """
    squared, kinds = _squared(params), _kinds(params)
    total = contract("kr,qr->qk", kinds, squared * moments.variance)
    least = contract("kr,qr->qk", kinds, squared * _LEAST_VARIANCE)
    return total, least, least > 0
