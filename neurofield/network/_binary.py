"""Binary neurons: asynchronous (Glauber), sequential and parallel dynamics."""

from typing import ClassVar, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._validate import positive

from ._neuron import Kind, Neuron, Output, Parameter, Shape, dtype_of, optional_parameter, parameter
from ._spike import SpikeGradient, crossing, draw, log_chance

Update: TypeAlias = Literal["glauber", "sequential", "parallel"]
Noise: TypeAlias = Literal["logistic", "gaussian"]


class BinaryState(eqx.Module):
    active: Float[Array, "*shape"]  # 0 or 1


class Binary(Neuron):
    """Binary neuron: when it updates, it becomes 1 with probability F(current - threshold), else 0.

    Without `gain`, F is the step function (1 at 0). With it, F(h) is 1 / (1 + exp(-gain h)) for
    `noise="logistic"` or Phi(gain h) for `noise="gaussian"` (a threshold with normal noise of
    standard deviation 1 / gain). Which neurons update in a step:

    - `"glauber"`: each one independently, with probability 1 - exp(-dt / tau);
    - `"sequential"`: one, drawn uniformly along the last axis (a network's population);
    - `"parallel"`: all. Neither of these two knows `tau`: their time is the number of steps.

    Everything but `tau` is dimensionless. `Output.intensity` is the probability of the state 1,
    given the state before the step and the input. Each neuron starts at 1 with probability
    `initial`.
    After Glauber (1963) and van Vreeswijk & Sompolinsky (1998).

    Raises `ValueError` for an unknown `update` or `noise`, a `tau` that is not positive,
    `spike_gradient="score"` without `gain` (a sure outcome has no score) and, in `step`, a
    sequential update without an axis.
    """

    threshold: Parameter = parameter(1.0)
    tau: Parameter = parameter(0.01)  # s
    update: Update = eqx.field(static=True, default="glauber")
    gain: Parameter | None = eqx.field(converter=optional_parameter, default=None)
    noise: Noise = eqx.field(static=True, default="logistic")
    initial: Parameter = parameter(0.5)
    spike_gradient: SpikeGradient = eqx.field(static=True, default="error")
    surrogate_width: float = eqx.field(static=True, default=1.0)

    kind: ClassVar[Kind] = "binary"
    channels: ClassVar[tuple[str, ...]] = ("current",)

    def __check_init__(self):
        positive("tau", self.tau)
        for name, names in (("update", get_args(Update)), ("noise", get_args(Noise))):
            if getattr(self, name) not in names:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {names}.")
        if self.spike_gradient == "score" and self.gain is None:
            raise ValueError(
                'spike_gradient="score" needs a probability that is smooth in the input; without '
                "`gain` the threshold is sharp: give a `gain`."
            )

    def init(self, key: PRNGKeyArray, shape: Shape = ()) -> BinaryState:
        probability = jnp.broadcast_to(self.initial, shape).astype(dtype_of(self))
        return BinaryState(draw(key, probability, self.spike_gradient))

    def step(
        self,
        key: PRNGKeyArray,
        state: BinaryState,
        input: Float[Array, "channel *shape"],
        dt: float,
    ) -> tuple[BinaryState, Output]:
        (current,) = input
        which, what = jax.random.split(key)
        share = self._share(which, current, dt)
        probability = state.active + share * (self._up(current - self.threshold) - state.active)
        active = draw(what, probability, self.spike_gradient)
        return BinaryState(active), Output(active, probability)

    def _share(self, key: PRNGKeyArray, current: Array, dt: float) -> Array | float:
        """The probability that a neuron updates: 0 or 1 where that has been drawn."""
        if self.update == "glauber":
            return -jnp.expm1(-dt / self.tau)
        if self.update == "parallel":
            return 1.0
        if current.ndim == 0:
            raise ValueError(
                'update="sequential" draws one neuron of the last axis, and there is no axis: '
                "give `init` and `input` a shape with at least one."
            )
        *batch, size = current.shape
        return jax.nn.one_hot(jax.random.randint(key, batch, 0, size), size, dtype=current.dtype)

    def _up(self, x: Array) -> Array:
        if self.gain is None:
            return crossing(x, self.spike_gradient, self.surrogate_width)
        sigmoid = jax.nn.sigmoid if self.noise == "logistic" else jax.scipy.special.ndtr
        return sigmoid(self.gain * x)

    def initial_log_prob(self, state: BinaryState) -> Float[Array, ""]:
        active = jax.lax.stop_gradient(state.active)
        chance = jnp.broadcast_to(self.initial, active.shape).astype(active.dtype)
        return jnp.sum(log_chance(active, chance))

    @property
    def elementwise(self) -> bool:
        # One neuron of each population in a step, not one of all.
        return self.update != "sequential"

    def memory(self, dt: float) -> Float[Array, ""] | None:
        if self.update != "glauber" or self.tau.ndim:
            return None
        return jnp.exp(-dt / self.tau)

    def expecting(self, state: BinaryState, output: Output | None) -> BinaryState:
        active = self.initial
        if output is not None:
            assert output.intensity is not None
            active = output.intensity
        return BinaryState(jnp.broadcast_to(active, state.active.shape).astype(state.active.dtype))

    def initial_output(self, state: BinaryState) -> Float[Array, "*shape"]:
        return state.active

    def max_dt(self) -> Array | float:
        # Neurons that update in the same step do not see each other: 0.18 of them at this step.
        return self.tau / 5 if self.update == "glauber" else float("inf")
