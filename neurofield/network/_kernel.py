"""Kernels of synapses: from arrivals at the neurons to the mean input over a step.

Every kernel is elementwise over target neurons, and its time constants may be `[neuron]` arrays.
Linear ones are integrated exactly, so that a step of any length is right.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float, PRNGKeyArray

from neurofield._types import PyTree
from neurofield._validate import positive

from ._neuron import Parameter, as_parameter
from ._poisson import poisson_counts


class Kernel(eqx.Module):
    """A synaptic kernel kappa(t): the input is (kappa * arrivals)(t).

    - `instantaneous`: whether what arrives acts at once (`Delta`).
    - `draws`: whether `update` needs its key (`Pending`).

    Arrivals are of two sorts (`level`, static). Spikes (`level=False`): weighted counts at the end
    of a step, each starting a kappa. Levels (`level=True`): weighted rates or binary states. A
    filter takes a level to be linear in time between the ends of steps, and within the step to
    come, whose end is not known yet, constant: exact for a constant level, second order in `dt` for
    a smooth one. A `Delta` holds it through the step to come.

    `area()`, `[*tau]`: the integral of kappa. `transfer(frequency)`, `[*tau, *frequency]`: its
    Fourier transform, the integral of kappa(t) exp(-2 pi i f t), f in hertz.
    """

    instantaneous: ClassVar[bool] = False
    draws: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, like: Float[Array, "*shape"]) -> PyTree:
        """The state with nothing pending, for targets of the shape and dtype of `like`."""

    @abc.abstractmethod
    def settled(self, level: Float[Array, "*shape"]) -> PyTree:
        """The state after a constant level has arrived for long."""

    @abc.abstractmethod
    def input(self, state: PyTree, dt: float, level: bool) -> Float[Array, "*shape"]:
        """The mean over the coming step of kappa * arrivals."""

    @abc.abstractmethod
    def update(
        self,
        key: PRNGKeyArray,
        state: PyTree,
        arrivals: Float[Array, "*shape"],
        dt: float,
        level: bool,
    ) -> PyTree:
        """The state after the step at whose end `arrivals` came in."""

    @abc.abstractmethod
    def area(self) -> Float[Array, "*tau"]: ...

    @abc.abstractmethod
    def transfer(self, frequency: ArrayLike) -> Complex[Array, "..."]: ...


class Delta(Kernel):
    """kappa(t) = delta(t): the arrivals themselves. Spikes of weights in mV are inputs in mV/s.

    Rates and binary states pass as they are, held through the step to come.
    """

    instantaneous: ClassVar[bool] = True

    def init(self, like):
        return jnp.zeros_like(like)

    def settled(self, level):
        return level

    def input(self, state, dt, level):
        return state if level else state / dt

    def update(self, key, state, arrivals, dt, level):
        return arrivals

    def area(self):
        return jnp.ones((), jnp.result_type(float))

    def transfer(self, frequency):
        return _low_pass(jnp.zeros(()), frequency)


class FilterState(eqx.Module):
    value: Float[Array, "*shape"]  # kappa * arrivals
    level: Float[Array, "*shape"]  # that arrived last; 0 for spikes


class Exponential(Kernel):
    """kappa(t) = exp(-t / tau), of peak 1 and area tau.

    `tau`: seconds, a scalar or `[post]`. Raises `ValueError` for one that is not positive.
    """

    tau: Parameter = eqx.field(converter=as_parameter)

    def __check_init__(self):
        positive("tau", self.tau)

    def init(self, like):
        return self.settled(jnp.zeros_like(like))

    def settled(self, level):
        return FilterState(self.tau * level, level)

    def input(self, state, dt, level):
        j0, j1, _ = _moments(dt / self.tau)
        spikes = state.value * j0
        return spikes + state.level * dt * (j0 - j1) if level else spikes

    def update(self, key, state, arrivals, dt, level):
        # Not times exp(-x), whose rounding near 1 would change the rate of decay by eps / x.
        value = state.value + state.value * jnp.expm1(-dt / self.tau)
        if not level:
            return FilterState(value + arrivals, state.level)
        j0, j1, _ = _moments(dt / self.tau)
        value = value + dt * (arrivals * (j0 - j1) + state.level * j1)
        return FilterState(value, arrivals)

    def area(self):
        return self.tau

    def transfer(self, frequency):
        return _scaled(self.tau, _low_pass(self.tau, frequency))


class AlphaState(eqx.Module):
    value: Float[Array, "*shape"]  # kappa * arrivals
    rise: Float[Array, "*shape"]  # the exponential filter that feeds it, 1/s
    level: Float[Array, "*shape"]  # that arrived last; 0 for spikes


class Alpha(Kernel):
    """kappa(t) = (t / tau) exp(1 - t / tau), of peak 1 at tau, and area e tau.

    `tau`: seconds, a scalar or `[post]`. Raises `ValueError` for one that is not positive.
    """

    tau: Parameter = eqx.field(converter=as_parameter)

    def __check_init__(self):
        positive("tau", self.tau)

    def init(self, like):
        return self.settled(jnp.zeros_like(like))

    def settled(self, level):
        return AlphaState(np.e * self.tau * level, np.e * level, level)

    def input(self, state, dt, level):
        j0, j1, j2 = _moments(dt / self.tau)
        spikes = state.value * j0 + state.rise * dt * j1
        return spikes + state.level * dt * (np.e * dt / self.tau) * (j1 - j2) if level else spikes

    def update(self, key, state, arrivals, dt, level):
        loss, kick = jnp.expm1(-dt / self.tau), np.e / self.tau
        value = state.value + dt * state.rise
        value, rise = value + loss * value, state.rise + loss * state.rise
        if not level:
            return AlphaState(value, rise + kick * arrivals, state.level)
        j0, j1, j2 = _moments(dt / self.tau)
        value = value + dt * (dt * kick) * (arrivals * (j1 - j2) + state.level * j2)
        rise = rise + dt * kick * (arrivals * (j0 - j1) + state.level * j1)
        return AlphaState(value, rise, arrivals)

    def area(self):
        return np.e * self.tau

    def transfer(self, frequency):
        return _scaled(np.e * self.tau, _low_pass(self.tau, frequency) ** 2)


class DoubleExponentialState(eqx.Module):
    rising: FilterState
    decaying: FilterState


class DoubleExponential(Kernel):
    """kappa(t) = c (exp(-t / decay) - exp(-t / rise)) of peak 1; rise < decay, in seconds.

    Near rise = decay, where `Alpha` is the limit, digits are lost: about decay / (decay - rise)
    roundings. Raises `ValueError` unless 0 < rise < decay.
    """

    rise: Parameter = eqx.field(converter=as_parameter)
    decay: Parameter = eqx.field(converter=as_parameter)

    def __check_init__(self):
        positive("rise", self.rise)
        positive("decay", self.decay)
        # `positive` lets traced values pass, which are not compared here either.
        positive("decay - rise (Alpha is the kernel of equal ones)", self.decay - self.rise)

    def _parts(self) -> tuple[Exponential, Exponential]:
        return Exponential(self.rise), Exponential(self.decay)

    def _scale(self) -> Array:
        peak = jnp.log(self.decay / self.rise) * (self.rise * self.decay)
        peak = peak / (self.decay - self.rise)
        return 1 / (jnp.exp(-peak / self.decay) - jnp.exp(-peak / self.rise))

    def init(self, like):
        return self.settled(jnp.zeros_like(like))

    def settled(self, level):
        rise, decay = self._parts()
        return DoubleExponentialState(rise.settled(level), decay.settled(level))

    def input(self, state, dt, level):
        rise, decay = self._parts()
        decaying = decay.input(state.decaying, dt, level)
        return self._scale() * (decaying - rise.input(state.rising, dt, level))

    def update(self, key, state, arrivals, dt, level):
        rise, decay = self._parts()
        return DoubleExponentialState(
            rise.update(key, state.rising, arrivals, dt, level),
            decay.update(key, state.decaying, arrivals, dt, level),
        )

    def area(self):
        return self._scale() * (self.decay - self.rise)

    def transfer(self, frequency):
        rise, decay = self._parts()
        return _scaled(self._scale(), decay.transfer(frequency) - rise.transfer(frequency))


class Pending(Kernel):
    """Spikes that pend at each neuron until absorbed, each at rate 1 / tau: a birth-death process.

    The state is their number H, the input H / tau in hertz, so that kappa is exp(-t / tau) / tau on
    average and the connection's weights are 1: arrivals are whole counts. In a step the absorbed
    number is Poisson of mean H dt / tau, at most what is there. The synapse of Chang et al. (2025).
    Levels raise `ValueError`.
    """

    tau: Parameter = eqx.field(converter=as_parameter)

    draws: ClassVar[bool] = True

    def __check_init__(self):
        positive("tau", self.tau)

    def init(self, like):
        return jnp.zeros_like(like)

    def settled(self, level):
        _only_spikes(True)

    def input(self, state, dt, level):
        _only_spikes(level)
        return state / self.tau

    def update(self, key, state, arrivals, dt, level):
        _only_spikes(level)
        absorbed = poisson_counts(key, state * (dt / self.tau))
        return jnp.maximum(state + arrivals - absorbed, 0)

    def area(self):
        return jnp.ones_like(self.tau)

    def transfer(self, frequency):
        return _low_pass(self.tau, frequency)


def _only_spikes(level: bool) -> None:
    if level:
        raise ValueError("Pending counts spikes; rates and binary states need a filter or Delta.")


def _moments(x: Array) -> tuple[Array, Array, Array]:
    """J_n(x) = integral over v in [0, 1] of v^n exp(-x v), n = 0, 1, 2, at x > 0."""
    small, large = jnp.minimum(x, 1), jnp.maximum(x, 1)
    # The closed form cancels at small x: there sum over k of (-x)^k / (k! (k + 3)), by Horner's
    # rule. What 18 terms leave out is 2e-17 at x = 1.
    series = jnp.zeros_like(x)
    for k in range(17, -1, -1):
        series = 1 / (k + 3) - series * small * (1 / (k + 1))
    closed = (2 - jnp.exp(-large) * (large * large + 2 * large + 2)) / large**3
    j2 = jnp.where(x < 1, series, closed)
    decay = jnp.exp(-x)
    j1 = (x * j2 + decay) / 2
    return x * j1 + decay, j1, j2


def _low_pass(tau: Array, frequency: ArrayLike) -> Array:
    """1 / (1 + 2 pi i f tau), `[*tau, *frequency]`."""
    frequency = as_parameter(frequency)
    x = 2 * np.pi * jnp.tensordot(tau, frequency, 0)
    return jax.lax.complex(1 / (1 + x**2), -x / (1 + x**2))


def _scaled(scale: Array, transfer: Array) -> Array:
    """A real `scale`, `[*tau]`, times a transfer function, `[*tau, *frequency]`."""
    scale = scale.reshape(scale.shape + (1,) * (transfer.ndim - scale.ndim))
    return jax.lax.complex(scale * transfer.real, scale * transfer.imag)
