"""The protocol of a causal neuron: a pytree of parameters, a start and a step."""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from neurofield._types import PyTree

Kind: TypeAlias = Literal["rate", "binary", "spike"]
Shape: TypeAlias = tuple[int, ...]
# A parameter: a scalar, or one value a neuron. What a constructor takes is converted, which
# static checkers do not see behind `parameter`.
if TYPE_CHECKING:
    Parameter: TypeAlias = Any
else:
    Parameter = Float[Array, "..."]


def as_parameter(value: ArrayLike) -> Array:
    """A floating array. A Python number stays weakly typed, so that it adopts others' dtype."""
    value = float(value) if isinstance(value, int | float) else value
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def optional_parameter(value: ArrayLike | None) -> Array | None:
    """As `as_parameter`, where `None` stands for what a neuron does not have."""
    return None if value is None else as_parameter(value)


def parameter(default: float) -> Any:
    """A field of a neuron with a default value, converted by `as_parameter`."""
    return eqx.field(converter=as_parameter, default=default)


def dtype_of(neuron: PyTree) -> Any:
    """The dtype that a neuron computes in: that of its parameters together."""
    leaves = [x for x in jax.tree.leaves(neuron) if eqx.is_inexact_array(x)]
    return jnp.result_type(*leaves) if leaves else jnp.result_type(float)


class Output(eqx.Module):
    """What a neuron transmits in one step.

    - `value`: `[...]`, its rate, its binary state (0 or 1), or the number of its spikes in it.
    - `intensity`: `[...]`, the expected value of what is transmitted given the past: spikes per
      second, or the probability of the binary state 1; `None` where the output is not random or
      the expectation is not known.
    """

    value: Float[Array, "*shape"]
    intensity: Float[Array, "*shape"] | None = None


class Neuron(eqx.Module):
    """A causal neuron, or an array of them at once.

    Parameters are scalars or arrays that broadcast to the trailing axes of `shape`, so that
    `[neuron]` makes a heterogeneous population; the equations act elementwise. Times are in
    seconds, voltages in millivolts, currents in picoamperes or (for LIF-like neurons) millivolts,
    conductances in nanosiemens.

    - `kind`: what `Output.value` is: a rate, a binary state or spikes.
    - `channels`: names of the input channels, in the order of `input`.
    """

    kind: eqx.AbstractClassVar[Kind]
    channels: eqx.AbstractClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> PyTree:
        """The state at time 0 of `shape` neurons."""

    @abc.abstractmethod
    def step(
        self, key: PRNGKeyArray, state: PyTree, input: Float[Array, "channel *shape"], dt: float
    ) -> tuple[PyTree, Output]:
        """Go on by `dt` seconds under `input[channel, ...]`, each channel's mean over the step.

        A spike is stamped at the end of the step. The input of the channel `jump` (of delta
        synapses) is in millivolts per second: it adds `dt * input` at the end of the step.
        """

    @abc.abstractmethod
    def initial_output(self, state: PyTree) -> Float[Array, "*shape"]:
        """What was transmitted before the first step: the rate or binary state; no spikes."""

    def initial_log_prob(self, state: PyTree) -> Float[Array, ""] | float:
        """Log-probability of what `init` drew, where that is not smooth in the parameters."""
        return 0.0

    def memory(self, dt: float) -> Float[Array, ""] | float | None:
        """Correlation over one step of what is emitted, given the path of the input.

        0 where each step's emission is drawn afresh and acts on nothing in the neuron (a Cox
        process); `None` where what is emitted acts back, or this is not known.
        """
        return None

    def expecting(self, state: PyTree, output: Output | None) -> PyTree:
        """The state with the expected output in the place of the sampled one (`Expected`).

        Of neurons that have a `memory`; `output` is `None` at the start.
        """
        return state

    @property
    def elementwise(self) -> bool:
        """Whether neurons know nothing of each other: populations may be stepped as one."""
        return True

    @abc.abstractmethod
    def max_dt(self) -> Float[Array, "*shape"] | float:
        """The coarsest step in seconds that the equations bear."""


class Custom(Neuron):
    """A neuron of one's own: two pure functions and a pytree of parameters.

    `init_fn(params, key, shape) -> state` and `step_fn(params, key, state, input, dt) ->
    (state, Output)`, as in `Neuron`, where `kind` and `channels` are explained. `output_fn(params,
    state)` gives the output before the first step, zero by default; `max_dt` is the coarsest step
    in seconds, any by default. Fields of a state that is an `eqx.Module` can be traced by name.
    """

    params: PyTree
    init_fn: Callable[..., PyTree] = eqx.field(static=True)
    step_fn: Callable[..., tuple[PyTree, Output]] = eqx.field(static=True)
    output_fn: Callable[..., Array] | None = eqx.field(static=True)
    coarsest: float = eqx.field(static=True)
    kind: Kind = eqx.field(static=True)  # pyright: ignore
    channels: tuple[str, ...] = eqx.field(static=True)  # pyright: ignore

    def __init__(
        self,
        params: PyTree,
        init_fn: Callable[..., PyTree],
        step_fn: Callable[..., tuple[PyTree, Output]],
        *,
        kind: Kind,
        channels: tuple[str, ...] = ("current",),
        output_fn: Callable[..., Array] | None = None,
        max_dt: float = float("inf"),
    ):
        self.params = params
        self.init_fn, self.step_fn, self.output_fn = init_fn, step_fn, output_fn
        self.kind, self.channels, self.coarsest = kind, tuple(channels), float(max_dt)

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> PyTree:
        return self.init_fn(self.params, key, shape)

    def step(self, key, state, input, dt) -> tuple[PyTree, Output]:
        return self.step_fn(self.params, key, state, input, dt)

    def initial_output(self, state: PyTree) -> Any:
        if self.output_fn is not None:
            return self.output_fn(self.params, state)
        return jnp.zeros((), jnp.result_type(float))

    def max_dt(self) -> float:
        return self.coarsest
