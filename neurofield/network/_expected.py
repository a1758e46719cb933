"""Neurons that transmit what a random neuron is expected to, given its input."""

import dataclasses
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._types import PyTree

from ._neuron import Kind, Neuron, Output, Shape


class Expected(Neuron):
    """A neuron that transmits the expectation of what `neuron` would, given the path of its input.

    `Output.value` is then not 0 or 1 but a probability, of a spike in the step or of the binary
    state 1, smooth in the input and in parameters. Raises `ValueError` for neurons whose
    expectation is not known (`Neuron.memory`): those that change as they spike.
    """

    neuron: Neuron
    kind: Kind = eqx.field(static=True)  # pyright: ignore
    channels: tuple[str, ...] = eqx.field(static=True)  # pyright: ignore

    def __init__(self, neuron: Neuron):
        if neuron.memory(1e-4) is None:
            raise ValueError(
                f"what {type(neuron).__name__} is expected to transmit, given its input, is not "
                "known: it takes neurons on which their own spikes do not act back, such as "
                "EscapeLIF(resets=False), a GLM without history, or an asynchronous Binary."
            )
        changed: dict[str, Any] = {}
        if getattr(neuron, "gain", True) is not None:
            # The sample is drawn and left aside: it is to have no derivative, and raise none.
            changed["spike_gradient"] = "score"
        self.neuron = dataclasses.replace(neuron, **changed)
        self.kind, self.channels = neuron.kind, neuron.channels

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> PyTree:
        return self.neuron.expecting(self.neuron.init(key, shape), None)

    def step(
        self, key: PRNGKeyArray, state: PyTree, input: Float[Array, "channel *shape"], dt: float
    ) -> tuple[PyTree, Output]:
        state, output = self.neuron.step(key, state, input, dt)
        assert output.intensity is not None
        state = self.neuron.expecting(state, output)
        value = output.intensity * dt if self.kind == "spike" else output.intensity
        return state, Output(value, output.intensity)

    def initial_output(self, state: PyTree) -> Float[Array, "*shape"]:
        return self.neuron.initial_output(state)

    def memory(self, dt: float) -> Array | float | None:
        return self.neuron.memory(dt)

    @property
    def elementwise(self) -> bool:
        return self.neuron.elementwise

    def max_dt(self) -> Any:
        return self.neuron.max_dt()
