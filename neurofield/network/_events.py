"""Drives made of events: Poisson sources, and spikes replayed from a recording.

Events of a step arrive at its end, as spikes of the network itself do: through a `Delta` kernel
they are in the jump of this step, through a filter they act from the next one on.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, UInt8

from neurofield._numerics import contract
from neurofield._types import PyTree
from neurofield._validate import finite, not_negative
from neurofield.recording import Raster

from ._drive import Function, Source, Targets, TimeCourse
from ._kernel import Delta, Kernel
from ._neuron import Parameter, as_parameter
from ._poisson import poisson_counts


def _filtered(kernel: Kernel, key: PRNGKeyArray, state: PyTree, arrivals: Array, dt: float):
    """The kernel's state after the step, and its mean over the step that these arrivals end."""
    after = kernel.update(key, state, arrivals, dt, False)
    return after, kernel.input(after if kernel.instantaneous else state, dt, False)


class Poisson(Source):
    """Private Poisson events of `rate` hertz at each neuron: input = weight (kernel * events).

    `rate`: a scalar or `[neuron]`, a `TimeCourse`, or a function of the time in seconds (a
    `Function`); `weight`: a scalar or `[neuron]`, in mV for a `Delta` kernel into `jump`. K_e
    independent sources of one weight are one of K_e times the rate. A rate that becomes negative
    gives NaN. Raises `ValueError` for a rate that is negative from the start, and `TypeError` where
    it is differentiated by the rate.
    """

    rate: Parameter | TimeCourse | Function
    weight: Parameter
    kernel: Kernel
    channel: str = eqx.field(static=True)  # pyright: ignore

    def __init__(
        self,
        rate: ArrayLike | TimeCourse | Function | Callable[[Array], Any],
        weight: ArrayLike,
        kernel: Kernel | None = None,
        channel: str = "jump",
    ):
        if isinstance(rate, TimeCourse | Function):
            self.rate = rate
        else:
            self.rate = Function(rate) if callable(rate) else as_parameter(rate)  # pyright: ignore
        self.weight = as_parameter(weight)
        self.kernel = Delta() if kernel is None else kernel
        self.channel = channel

    def __check_init__(self):
        finite("weight", self.weight)
        if isinstance(self.rate, TimeCourse):
            not_negative("rate", self.rate.values)
        elif not isinstance(self.rate, Function):
            not_negative("rate", self.rate)

    def init(self, key, size, dt, dtype):
        if isinstance(self.rate, TimeCourse):
            self.rate.init(key, size, dt, dtype)  # which checks dt
        return Targets(size, dtype), self.kernel.init(jnp.zeros(size, dtype))

    def step(self, key, state, step, dt):
        targets, pending = state
        if isinstance(self.rate, Source):
            _, rate = self.rate.step(key, targets, step, dt)
        else:
            # One rate stays a scalar, whose distribution is worked out once.
            rate = targets.spread(self.rate) if self.rate.ndim else self.rate.astype(targets.dtype)
        key, own = jax.random.split(key) if self.kernel.draws else (key, key)
        counts = poisson_counts(key, dt * rate, (targets.size,))
        pending, value = _filtered(self.kernel, own, pending, counts, dt)
        # The weight comes last: a Pending kernel takes whole counts.
        return (targets, pending), targets.spread(self.weight) * value


class Events(Source):
    """Replays the spikes of a raster: input = kernel * (weights @ counts), every spike once.

    The spikes of a bin arrive at its end: a simulated raster of bins of `dt` acts as the neurons
    themselves would. The time is 0 at the first bin's start; after the last bin nothing comes.
    `raster.bin_width` must be a whole multiple of `dt`; for exact times, bin a recording at `dt`
    by `recording.bin_spikes(..., counts=True)`. `weights[neuron, source]` as of `Poisson`.

    Raises `ValueError` for a raster of several trials or with masked bins: `recording.select` one
    stretch of it.
    """

    spikes: UInt8[Array, "source bin"]
    bin_width: float = eqx.field(static=True)
    weights: Float[Array, "neuron source"]
    kernel: Kernel
    channel: str = eqx.field(static=True)  # pyright: ignore

    def __init__(
        self,
        raster: Raster,
        weights: ArrayLike,
        kernel: Kernel | None = None,
        channel: str = "jump",
    ):
        if raster.spikes.ndim != 2:
            raise ValueError(
                f"the raster must be [neuron, time], got {raster.spikes.shape}: choose one trial."
            )
        if raster.mask is not None and not np.asarray(raster.mask).all():
            raise ValueError(
                "the raster has masked bins, whose spikes are unknown: recording.select a stretch "
                "of bins without."
            )
        self.spikes, self.bin_width = raster.spikes, raster.bin_width
        self.weights = as_parameter(weights)
        self.kernel = Delta() if kernel is None else kernel
        self.channel = channel

    def __check_init__(self):
        finite("weights", self.weights)
        if self.weights.ndim != 2 or self.weights.shape[1] != self.spikes.shape[0]:
            raise ValueError(
                f"weights must be [neuron, source] of {self.spikes.shape[0]} sources, got "
                f"{self.weights.shape}."
            )

    def init(self, key, size, dt, dtype):
        self._steps(dt)
        if self.weights.shape[0] != size:
            raise ValueError(
                f"weights[neuron, source] are of {self.weights.shape[0]} neurons, the population "
                f"has {size}."
            )
        return self.kernel.init(jnp.zeros(size, dtype)), jnp.zeros(size, dtype)

    def step(self, key, state, step, dt):
        pending, none = state
        steps = self._steps(dt)
        index, last = step // steps, step % steps == steps - 1
        arrivals = jax.lax.cond(
            last & (index < self.spikes.shape[1]),
            lambda: self._arrivals(index, none.dtype),
            lambda: none,
        )
        pending, value = _filtered(self.kernel, key, pending, arrivals, dt)
        return (pending, none), value

    def _arrivals(self, index: Array, dtype: Any) -> Array:
        counts = jax.lax.dynamic_index_in_dim(self.spikes, index, 1, keepdims=False)
        return contract("ij,j->i", self.weights.astype(dtype), counts.astype(dtype))

    def _steps(self, dt: float) -> int:
        steps = round(self.bin_width / float(dt))
        if steps < 1 or abs(steps * float(dt) - self.bin_width) > 1e-6 * self.bin_width:
            raise ValueError(
                f"the raster's bin_width of {self.bin_width} s must be a whole multiple of dt = "
                f"{dt} s."
            )
        return steps
