"""Traces: what is recorded of neurons besides what they transmit."""

from collections.abc import Mapping, Sequence
from functools import partial

import equinox as eqx
import jax
from jaxtyping import Array

from ._circuit import Circuit
from ._network import Network
from ._step import CircuitState, StepOutput

_OF_THE_STEP = ("output", "input", "intensity")


class Trace(eqx.Module):
    """What to record of one population; all static."""

    population: str = eqx.field(static=True)
    group: int = eqx.field(static=True)
    span: tuple[int, int] = eqx.field(static=True)  # within the group
    names: tuple[str, ...] = eqx.field(static=True)


def choose_traces(
    network: Network,
    circuit: Circuit,
    traces: Sequence[str] | Mapping[str, Sequence[str]],
    num_neurons: int | None,
) -> tuple[Trace, ...]:
    """Raises `ValueError` for a name that a population named, or none of all, has."""
    if isinstance(traces, str):
        raise ValueError(f'traces must be a list of names, as in traces=["{traces}"].')
    asked = traces if isinstance(traces, Mapping) else dict.fromkeys(network.names, traces)
    found, known_anywhere = [], set()
    for name, wanted in asked.items():
        begin, end = network.span(network[name].name)
        if num_neurons is not None:
            end = min(end, begin + num_neurons)
        place = next(i for i, g in enumerate(circuit.groups) if g.span[0] <= begin < g.span[1])
        first = circuit.groups[place].span[0]
        neuron, size = circuit.groups[place].neuron, circuit.groups[place].size
        state = jax.eval_shape(partial(neuron.init, shape=(size,)), jax.random.key(0))
        known = {*_OF_THE_STEP, *(vars(state) if isinstance(state, eqx.Module) else ())}
        known_anywhere |= known
        missing = set(wanted) - known
        if isinstance(traces, Mapping) and missing:
            raise ValueError(
                f"population {name!r} has no trace {sorted(missing)}; it has {sorted(known)}."
            )
        names = tuple(n for n in wanted if n in known)
        if names:
            found.append(Trace(name, place, (begin - first, end - first), names))
    nowhere = {name for wanted in asked.values() for name in wanted} - known_anywhere
    if nowhere:
        raise ValueError(
            f"no population has a trace {sorted(nowhere)}; there are {sorted(known_anywhere)}."
        )
    return tuple(found)


def record(
    traces: tuple[Trace, ...], state: CircuitState, out: StepOutput
) -> dict[str, dict[str, Array]]:
    """The traces at the end of a step."""
    recorded: dict[str, dict[str, Array]] = {}
    for trace in traces:
        step = {
            "output": out.values[trace.group],
            "input": out.inputs[trace.group],
            "intensity": out.intensities[trace.group],
        }
        own = {}
        for name in trace.names:
            value = step[name] if name in step else getattr(state.neurons[trace.group], name)
            if value is None:
                raise ValueError(f"the neurons of population {trace.population!r} have no {name}.")
            own[name] = value[..., slice(*trace.span)]
        recorded[trace.population] = own
    return recorded
