"""Networks with single features switched off, or replaced by what is equal in second order."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from neurofield._types import PyTree
from neurofield.network import (
    Constant,
    Custom,
    Delta,
    Drive,
    ErdosRenyi,
    Exponential,
    Network,
    OrnsteinUhlenbeck,
    Output,
    Poisson,
    Population,
    Projection,
    Quenched,
    Source,
    WhiteNoise,
    block_statistics,
    fixed_indegree,
    gaussian,
    resolve_channel,
)

from ._solution import Solution
from ._stationary import Fields, Sampling, sample
from ._theory import build_theory


def without_spikes(network: Network) -> Network:
    """Neurons transmit what is expected of them given their past: rates in place of events.

    A spiking neuron keeps its own spikes and resets, and sends its intensity; a binary one is the
    mean of its state given its input. Raises `ValueError` for neurons without an intensity.
    """
    populations = [
        population
        if population.neuron.kind == "rate"
        else _with_neuron(population, _smooth(population, None))
        for population in network.populations
    ]
    return _rebuilt(network, populations)


def matched_rate(key: PRNGKeyArray, solution: Solution) -> Network:
    """The network of rate units with the means and second moments of one of binary or Poisson ones.

    An asynchronous binary neuron becomes the unit tau x' = -x + F(h) with white noise, an escape
    neuron that does not reset a rate with white noise added to it (Keup et al. 2021); the noise has
    the variance of what a neuron emits given its input, estimated on paths of the stationary
    `solution`. In steps of `dt` the two networks have the same (M, Q) at leading order; other steps
    need another match. Raises `ValueError` for other neurons.
    """
    if solution.input_quenched is None:
        raise ValueError("the noise is that of a stationary state: give such a solution.")
    theory = build_theory(solution.network, solution.dt)
    law = Fields(solution.input_mean, solution.input_covariance, solution.input_quenched)
    num_lags = law.covariance.shape[1]
    drawn = eqx.filter_jit(sample)(
        key, theory, law, Sampling(2 * num_lags, num_lags, num_lags, 1024)
    )
    populations = []
    for index, population in enumerate(solution.network.populations):
        neuron = population.neuron
        free = neuron.kind == "binary" or not getattr(neuron, "resets", True)
        if neuron.kind == "rate":
            populations.append(population)
            continue
        if not free:
            raise ValueError(
                f"neurons of population {population.name!r} reset after a spike: what they emit is "
                "not independent given their input, and no rate unit with white noise matches it."
            )
        chance = drawn.intensity[:, index] * (1 if neuron.kind == "binary" else solution.dt)
        variance = jnp.mean(chance * (1 - chance))
        populations.append(_with_neuron(population, _smooth(population, jnp.sqrt(variance))))
    return _rebuilt(solution.network, populations)


def without_indegree_spread(network: Network) -> Network:
    """Erdos-Renyi connections with the same number of inputs for every neuron."""

    def replaced(rule, num_post: int, num_pre: int):
        if not isinstance(rule, ErdosRenyi):
            return rule
        sources = num_pre if rule.autapses else num_pre - 1
        indegree = round(float(rule.probability) * sources)
        return fixed_indegree(indegree, rule.weight, multapses=False, autapses=rule.autapses)

    return _with_rules(network, replaced)


def with_dense_weights(network: Network) -> Network:
    """Dense Gaussian weights of the same mean and variance of each, in place of sparse ones."""

    def replaced(rule, num_post: int, num_pre: int):
        found = block_statistics(rule, num_post, num_pre)
        return gaussian(found.mean, jnp.sqrt(found.vQ))

    return _with_rules(network, replaced)


def without_noise(network: Network) -> Network:
    """Private noise, Poisson input and static heterogeneity as their means."""
    return _with_drives(network, _mean_of)


def with_gaussian_noise(network: Network) -> Network:
    """Private Poisson input as Gaussian noise of the same mean and covariance."""
    return _with_drives(network, _gaussian_of)


def without_heterogeneity(network: Network) -> Network:
    """Drives without their static part that differs between neurons."""
    return _with_drives(network, lambda source: [] if isinstance(source, Quenched) else [source])


FEATURES = {
    "discreteness": without_spikes,
    "indegree": without_indegree_spread,
    "sparseness": with_dense_weights,
    "noise": without_noise,
    "shot": with_gaussian_noise,
    "heterogeneity": without_heterogeneity,
}


# --- parts ----------------------------------------------------------------------------------------


def _with_neuron(population: Population, neuron: Custom) -> Population:
    return Population(population.name, neuron, population.size, population.drive)


def _rebuilt(network: Network, populations: list[Population]) -> Network:
    """With other neurons; the channels stay those that spikes would take."""
    projections = [
        Projection(
            p.source,
            p.target,
            p.connectivity,
            kernel=p.kernel,
            delay=p.delay,
            channel=resolve_channel(network, p),
            plasticity=p.plasticity,
        )
        for p in network.projections
    ]
    return Network(populations, projections, network.shared)


def _with_rules(network: Network, replaced) -> Network:
    projections = tuple(
        eqx.tree_at(
            lambda p: p.connectivity,
            p,
            replaced(p.connectivity, network[p.target].size, network[p.source].size),
        )
        for p in network.projections
    )
    return eqx.tree_at(lambda n: n.projections, network, projections)


def _with_drives(network: Network, replaced) -> Network:
    populations = [
        Population(
            population.name,
            population.neuron,
            population.size,
            Drive(*(new for source in population.drive.sources for new in replaced(source))),
        )
        for population in network.populations
    ]
    return Network(populations, network.projections, network.shared)


def _poisson_parts(source: Poisson) -> tuple[Array, Array] | None:
    """Mean input and summed square of the weights a second, where the rate is constant."""
    if isinstance(source.rate, Source) or not isinstance(source.kernel, Delta | Exponential):
        return None
    rate = jnp.asarray(source.rate)
    return rate * source.weight, rate * source.weight**2


def _mean_of(source: Source) -> list[Source]:
    if isinstance(source, WhiteNoise | OrnsteinUhlenbeck | Quenched):
        return []
    if isinstance(source, Poisson):
        parts = _poisson_parts(source)
        if parts is None:
            raise ValueError("the mean of Poisson input is known for a constant rate alone.")
        return [Constant(value=parts[0] * source.kernel.area(), channel=source.channel)]
    return [source]


def _gaussian_of(source: Source) -> list[Source]:
    if not isinstance(source, Poisson):
        return [source]
    parts = _poisson_parts(source)
    if parts is None:
        raise ValueError("Poisson input has a Gaussian counterpart for a constant rate alone.")
    mean = Constant(value=parts[0] * source.kernel.area(), channel=source.channel)
    if isinstance(source.kernel, Exponential):
        tau = source.kernel.tau
        sd = jnp.sqrt(parts[1] * tau / 2)
        noise: Source = OrnsteinUhlenbeck(sd=sd, tau=tau, channel=source.channel)
    else:
        noise = WhiteNoise(density=parts[1], channel=source.channel)
    return [mean, noise]


def _smooth(population: Population, sd: Array | None) -> Custom:
    neuron = population.neuron
    binary = neuron.kind == "binary"
    return Custom(
        (neuron, sd),
        _init,
        _step_binary if binary else _step_spiking,
        kind="rate",
        channels=neuron.channels,
        output_fn=_first_binary if binary else _first_spiking,
    )


def _init(params: PyTree, key: PRNGKeyArray, shape: tuple[int, ...]) -> PyTree:
    return params[0].init(key, shape)


def _step_binary(params: PyTree, key: PRNGKeyArray, state: PyTree, input: Array, dt: float):
    neuron, sd = params
    own, other = jax.random.split(key)
    _, output = neuron.step(own, state, input, dt)
    value = output.intensity
    if sd is not None:
        value = value + sd * jax.random.normal(other, value.shape, value.dtype)
    return eqx.tree_at(lambda s: s.active, state, value), Output(value)


def _step_spiking(params: PyTree, key: PRNGKeyArray, state: PyTree, input: Array, dt: float):
    neuron, sd = params
    own, other = jax.random.split(key)
    state, output = neuron.step(own, state, input, dt)
    if output.intensity is None:
        raise ValueError(
            f"{type(neuron).__name__} has no intensity: its spikes are sure given its past, and no "
            "rate stands for them."
        )
    value = output.intensity
    if sd is not None:
        value = value + sd / dt * jax.random.normal(other, value.shape, value.dtype)
    return state, Output(value)


def _first_binary(params: PyTree, state: PyTree) -> Array:
    return state.active


def _first_spiking(params: PyTree, state: PyTree) -> Array:
    return params[0].initial_output(state)
