"""Gaussian drives: white noise, Ornstein-Uhlenbeck noise, static heterogeneity."""

import equinox as eqx
import jax
import jax.numpy as jnp

from neurofield._validate import not_negative, positive

from ._drive import Source, Targets
from ._neuron import Parameter, as_parameter


class WhiteNoise(Source):
    """Noise of covariance `density` delta(t - t'): its mean over a step has variance density / dt.

    `density`: a scalar or `[neuron]`, in the square of the channel's unit times seconds. A LIF
    neuron under `current` noise has the membrane variance density / (2 tau). Raises `ValueError`
    for a negative density.
    """

    density: Parameter = eqx.field(converter=as_parameter)
    channel: str = eqx.field(static=True, default="current")  # pyright: ignore

    def __check_init__(self):
        not_negative("density", self.density)

    def init(self, key, size, dt, dtype):
        return Targets(size, dtype)

    def step(self, key, state, step, dt):
        noise = jax.random.normal(key, (state.size,), state.dtype)
        return state, jnp.sqrt(state.spread(self.density) / dt) * noise


class OrnsteinUhlenbeck(Source):
    """Noise of covariance sd^2 exp(-|t - t'| / tau), tau in seconds, stationary from the start.

    The input is its value at the start of the step, held: of exactly this covariance at the times
    of the steps. `sd` and `tau`: scalars or `[neuron]`. Raises `ValueError` for a negative `sd` and
    a `tau` that is not positive.
    """

    sd: Parameter = eqx.field(converter=as_parameter)
    tau: Parameter = eqx.field(converter=as_parameter)
    channel: str = eqx.field(static=True, default="current")  # pyright: ignore

    def __check_init__(self):
        not_negative("sd", self.sd)
        positive("tau", self.tau)

    def init(self, key, size, dt, dtype):
        return Targets(size, dtype).spread(self.sd) * jax.random.normal(key, (size,), dtype)

    def step(self, key, state, step, dt):
        spread = Targets(state.size, state.dtype).spread
        x = dt / spread(self.tau)
        kick = spread(self.sd) * jnp.sqrt(-jnp.expm1(-2 * x))
        noise = jax.random.normal(key, state.shape, state.dtype)
        return jnp.exp(-x) * state + kick * noise, state


class Quenched(Source):
    """Static heterogeneity: each neuron's own constant, Normal(0, sd^2), drawn at the start.

    It is drawn by the key of `simulate`, anew in each run. `sd`: a scalar or `[neuron]`, in the
    unit of the channel. Raises `ValueError` for a negative one.
    """

    sd: Parameter = eqx.field(converter=as_parameter)
    channel: str = eqx.field(static=True, default="current")  # pyright: ignore

    def __check_init__(self):
        not_negative("sd", self.sd)

    def init(self, key, size, dt, dtype):
        return Targets(size, dtype).spread(self.sd) * jax.random.normal(key, (size,), dtype)

    def step(self, key, state, step, dt):
        return state, state
