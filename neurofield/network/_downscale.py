"""Smaller networks with the working point of a large one."""

from collections.abc import Mapping

import equinox as eqx
import jax
from jaxtyping import Array

from ._annealed import Annealed
from ._bernoulli import ErdosRenyi
from ._dense import Gaussian
from ._drive import Constant, Drive
from ._fixed_indegree import FixedIndegree
from ._network import Network, Population, Projection, Weights, resolve_channel
from ._weights import Weight, weight_moments


def downscale(network: Network, scale: float, rates: Mapping[str, float]) -> Network:
    """Fewer neurons and synapses, each neuron's input of the same mean and variance.

    - `scale`: factor, up to 1, of the numbers of neurons and (so that probabilities of connections
      stay) of the in-degrees K.
    - `rates`: what each population transmits on average in the full network: hertz of spikes, or
      the mean level of binary units. Populations that project by sparse rules must be named.

    Weights grow by 1 / sqrt(scale), which keeps the variance of the input, and a constant input
    K J rate (1 - sqrt(scale)), times the area of the kernel, makes up for the lost mean, after van
    Albada, Helias & Diesmann (2015). External drive is private and stays as it is. Correlations,
    which go with 1 / N, cannot be kept: fluctuations of the whole population grow. Rules that
    contain the number of neurons (`gaussian`) are left to it.

    Raises `ValueError` for a scale outside (0, 1], a missing rate, and rules that know no scale.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale must lie in (0, 1], got {scale}.")
    unknown = set(rates) - set(network.names)
    if unknown:
        raise ValueError(f"rates of unknown populations {sorted(unknown)}: {list(network.names)}.")
    if scale == 1:
        return network
    sizes = {p.name: max(round(scale * p.size), 1) for p in network.populations}
    makeup: dict[str, list[Constant]] = {name: [] for name in network.names}
    projections = []
    for projection in network.projections:
        source, target = projection.source, projection.target
        size = network[source].size
        rule, factor, mean = _scale_rule(projection, size, sizes[source], scale)
        projections.append(eqx.tree_at(lambda p: p.connectivity, projection, rule))
        if mean is None:
            continue
        if source not in rates:
            raise ValueError(
                f"downscale needs the rate of {source!r} in the full network, got {dict(rates)}."
            )
        lost = mean * rates[source] * (1 - 1 / factor) * projection.kernel.area()
        makeup[target].append(Constant(value=lost, channel=resolve_channel(network, projection)))
    populations = [
        Population(
            p.name,
            p.neuron,
            sizes[p.name],
            Drive(*p.drive.sources, *_merge(makeup[p.name])),
        )
        for p in network.populations
    ]
    return Network(populations, projections, network.shared)


def _scale_rule(
    projection: Projection, size: int, fewer: int, scale: float
) -> tuple[Weights, float, Array | None]:
    """The rule for fewer sources, the factor of its weights, and the mean summed weight before.

    The mean is `None` where nothing needs to be made up.
    """
    rule = projection.connectivity
    if isinstance(rule, Gaussian):
        return rule, 1.0, None
    if isinstance(rule, FixedIndegree):
        indegree = max(round(scale * rule.indegree), 1)
        factor = (rule.indegree / indegree) ** 0.5
        mean = rule.indegree * weight_moments(rule.weight)[0]
        weight = _times(rule.weight, factor)
        return FixedIndegree(indegree, weight, rule.multapses, rule.autapses), factor, mean
    factor = (size / fewer) ** 0.5
    if isinstance(rule, ErdosRenyi):
        mean = size * rule.probability * weight_moments(rule.weight)[0]
        weight = _times(rule.weight, factor)
        return ErdosRenyi(weight, rule.autapses, rule.probability), factor, mean
    if isinstance(rule, Annealed):
        mean = size * rule.probability * rule.weight
        return Annealed(rule.probability, factor * rule.weight), factor, mean
    raise ValueError(
        f"projection {projection.name}: {type(rule).__name__} cannot be downscaled; "
        "fixed_indegree, erdos_renyi, annealed and gaussian can."
    )


def _times(weight: Weight, factor: float) -> Weight:
    # Mean and standard deviation are the only numbers of every distribution.
    return jax.tree.map(lambda x: factor * x, weight)


def _merge(constants: list[Constant]) -> list[Constant]:
    """One constant a channel."""
    total: dict[str, Array] = {}
    for one in constants:
        before = total.get(one.channel)
        total[one.channel] = one.value if before is None else before + one.value
    return [Constant(value=value, channel=channel) for channel, value in total.items()]
