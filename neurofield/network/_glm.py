"""The generalised linear model of a spike train: a point process that filters its own past."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._types import Arrayish
from neurofield._validate import not_negative, positive

from ._exprel import exprel
from ._hazard import Hazard, check_hazard, relative_hazard, spike_probability
from ._neuron import Kind, Neuron, Output, Parameter, Shape, as_parameter, dtype_of, parameter
from ._spike import SpikeGradient, draw, fresh_unless_refractory, refractory_left


def _as_filters(value: Arrayish | None) -> Array | None:
    """`[filter, neuron]`: a heterogeneous parameter ends with the neurons."""
    if value is None:
        return None
    array = as_parameter(jnp.asarray(value))
    return array[:, None] if array.ndim == 1 else array


class GLMState(eqx.Module):
    history: Float[Array, "filter *shape"]  # each filter's sum of exponentials over past spikes
    refractory: Float[Array, "*shape"]  # steps left


class GLM(Neuron):
    """A point process whose hazard depends on its input and on its own past spikes.

    The hazard is `rate * f(u)` in hertz, u = bias + current + sum over past spikes s and filters m
    of `history[m] * exp(-(t - s) / history_tau[m])`, all without unit; a step takes the mean of u
    over itself and fires with the probability 1 - exp(-hazard dt). `hazard` names f:
    `"exponential"`, `"erf"`, `"logistic"`, `"softplus"`, `"linear"` (rectified), or is a function
    of one array. `Output.intensity` is (1 - exp(-hazard dt)) / dt, the expected number of spikes
    in the step a second, given the past. For `refractory` seconds (rounded to whole steps) after a
    spike there is none.

    `history` (without unit; negative: fewer spikes) and `history_tau` (s) are `[filter, neuron]`,
    or `[filter]` for all neurons alike, which is kept as `[filter, 1]`; leave both out for a
    Poisson process. Channel: `current` (without unit).
    Raises ValueError for an unknown hazard and where the two differ in their number of filters.
    After Truccolo et al. (2005).
    """

    bias: Parameter = parameter(0.0)
    rate: Parameter = parameter(10.0)  # Hz
    history: Float[Array, "filter neuron"] | None = eqx.field(converter=_as_filters, default=None)
    history_tau: Float[Array, "filter neuron"] | None = eqx.field(
        converter=_as_filters, default=None
    )
    refractory: Parameter = parameter(0.0)  # s
    hazard: Hazard = eqx.field(static=True, default="exponential")
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")

    kind: ClassVar[Kind] = "spike"
    channels: ClassVar[tuple[str, ...]] = ("current",)

    def __check_init__(self):
        not_negative("rate", self.rate)
        not_negative("refractory", self.refractory)
        check_hazard(self.hazard)
        weights, taus = (() if x is None else x.shape[:1] for x in (self.history, self.history_tau))
        if weights != taus:
            raise ValueError(
                f"history has {weights} filters and history_tau {taus}: give one time constant "
                "for each filter's weight, on the first axis of both."
            )
        if self.history_tau is not None:
            positive("history_tau", self.history_tau)

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> GLMState:
        dtype = dtype_of(self)
        filters = 0 if self.history is None else len(self.history)
        return GLMState(jnp.zeros((filters, *shape), dtype), jnp.zeros(shape, dtype))

    def step(
        self, key: PRNGKeyArray, state: GLMState, input: Float[Array, "channel *shape"], dt: float
    ) -> tuple[GLMState, Output]:
        drive, history = self.bias + input[0], state.history
        if self.history is not None and self.history_tau is not None:
            steps = dt / _beside(self.history_tau, history)
            # The mean over the step of an exponential that starts at 1.
            weighted = _beside(self.history, history) * exprel(-steps) * history
            drive = drive + jnp.sum(weighted, axis=0)
            history = history * jnp.exp(-steps)
        hazard = self.rate * relative_hazard(self.hazard, drive)
        probability = jnp.where(state.refractory <= 0, spike_probability(hazard, dt), 0)
        spike = draw(key, probability, self.spike_gradient)
        left = refractory_left(spike, state.refractory, self.refractory, dt)
        return GLMState(history + spike[None], left), Output(spike, probability / dt)

    def initial_output(self, state: GLMState) -> Float[Array, "*shape"]:
        return jnp.zeros_like(state.refractory)

    def memory(self, dt: float) -> Float[Array, ""] | float | None:
        return None if self.history is not None else fresh_unless_refractory(self.refractory)

    def max_dt(self) -> Array | float:
        """The shortest time constant: a coarser step hides a spike's effect on the next."""
        return float("inf") if self.history_tau is None else jnp.min(self.history_tau, axis=0)


def _beside(filters: Float[Array, "filter #neuron"], history: Float[Array, "filter *shape"]):
    """`filters` with the rank of `history`."""
    trailing = filters.shape[1:] if history.ndim > 1 else ()
    return filters.reshape(len(filters), *(1,) * (history.ndim - 2), *trailing)
