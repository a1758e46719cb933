"""Smooth functions of a solution, for losses: what a fit may look at.

Where a readout jumps (the place of a spectral maximum, a first crossing on a grid of bins), the
function here is its smooth kin. `mean_rate`, `binned_rate`, `coefficient_of_variation` and
`synchrony_index` are smooth as they are. On a limit cycle the derivative of anything at a fixed
time grows with time, as the phase runs away: take averages over many periods, or spectra.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import contract
from neurofield._types import PyTree
from neurofield._validate import positive

from ._parameters import Parameters
from ._readout import Activity, bin_seconds, binned_rate, spectrum, whole_bins
from ._solve import solve


def settle(params: Parameters, duration: float, **solve_options: Any) -> PyTree:
    """The state after `duration` seconds, through which no derivative passes.

    Give it to `solve(params, ..., initial=settle(...))` with the same options: the derivative is
    then that of a run from a given state, and costs less. For an average over a run much longer
    than the network remembers it is the derivative of the stationary average.
    """
    params = jax.lax.stop_gradient(params)
    final = solve(params, duration, **{"save_dt": duration, **solve_options}).final
    return jax.lax.stop_gradient(final)


def band_power(
    activity: Activity,
    low: float,
    high: float,
    *,
    segment_length: int,
    bin_width: float | None = None,
    discard: float = 0.0,
    save_dt: float | None = None,
) -> Float[Array, "*batch population"]:
    """Power of each rate from `low` to `high` Hz, in Hz^2: the part of its variance there.

    The sum of Welch's one-sided density over the frequencies in the band. Arguments as of
    `spectrum`. Raises `ValueError` for a band without a frequency.
    """
    power, _ = _band(activity, low, high, segment_length, bin_width, discard, save_dt)
    return jnp.sum(power, axis=-1)


def centre_frequency(
    activity: Activity,
    low: float,
    high: float,
    *,
    segment_length: int,
    bin_width: float | None = None,
    discard: float = 0.0,
    save_dt: float | None = None,
) -> Float[Array, "*batch population"]:
    """Mean frequency in Hz of each rate's power from `low` to `high` Hz.

    Stands for the frequency of the spectral peak, which jumps from one frequency to the next: the
    band should hold one peak, away from its ends. Not finite where the rate is constant.
    Arguments and errors as of `band_power`.
    """
    power, frequency = _band(activity, low, high, segment_length, bin_width, discard, save_dt)
    return contract("...f,f->...", power, frequency) / jnp.sum(power, axis=-1)


class Volley(eqx.Module):
    """The spikes in a window of time.

    - `size`: `[..., population]`, spikes per neuron.
    - `latency`: `[..., population]`, seconds from the window's start to their mean time.
    - `width`: `[..., population]`, seconds, the standard deviation of their times.
    """

    size: Float[Array, "*batch population"]
    latency: Float[Array, "*batch population"]
    width: Float[Array, "*batch population"]


def volley(
    activity: Activity, onset: float, window: float, *, save_dt: float | None = None
) -> Volley:
    """Size, latency and width of the response in the `window` seconds after `onset` seconds.

    Of the first volley to a step, if the window ends in the silence after it. Smooth in the rate:
    moments over a fixed window. Spikes of a bin count as at its middle; `latency` and `width` are
    not finite for a population silent in the window.
    """
    rate, step = binned_rate(activity, save_dt=save_dt), bin_seconds(activity, save_dt)
    first, count = whole_bins("onset", onset, step), whole_bins("window", window, step)
    if count < 1 or first + count > rate.shape[-1]:
        raise ValueError(
            f"onset {onset} s and window {window} s must lie in the {rate.shape[-1] * step:.6g} s "
            "of the rates, the window not empty."
        )
    rate = rate[..., first : first + count]
    time = jnp.asarray((np.arange(count) + 0.5) * step, rate.dtype)
    spikes = jnp.sum(rate, axis=-1)
    latency = contract("...t,t->...", rate, time) / spikes
    # About the latency itself, rather than a difference of large squares.
    away = (jnp.broadcast_to(time, rate.shape) - latency[..., None]) ** 2
    width = jnp.sqrt(jnp.sum(rate * away, axis=-1) / spikes)
    return Volley(spikes * step, latency, width)


def crossing_time(
    activity: Activity, count: float, onset: float = 0.0, *, save_dt: float | None = None
) -> Float[Array, "*batch population"]:
    """Seconds from `onset` until the neurons of a population have fired `count` spikes each.

    A latency that needs no window: of the first volley, with `count` half its size. Linear between
    the ends of bins, so continuous, and with the derivative -(d spikes / d parameter) / rate.
    Infinite, of derivative 0, where so many do not come. Raises `ValueError` unless `count` > 0.
    """
    positive("count", count)
    rate, step = binned_rate(activity, save_dt=save_dt), bin_seconds(activity, save_dt)
    rate = rate[..., whole_bins("onset", onset, step) :]
    after = jnp.cumsum(rate, axis=-1) * step
    crossed = ~(after < count)  # what is NaN stays NaN
    bin_ = jnp.argmax(crossed, axis=-1)
    there = jnp.take_along_axis(rate, bin_[..., None], axis=-1)[..., 0]
    spikes = jnp.take_along_axis(after, bin_[..., None], axis=-1)[..., 0]
    comes = jnp.any(crossed, axis=-1)
    excess = (spikes - count) / jnp.where(comes, there, 1)
    return jnp.where(comes, (bin_ + 1).astype(rate.dtype) * step - excess, jnp.inf)


def _band(
    activity: Activity,
    low: float,
    high: float,
    segment_length: int,
    bin_width: float | None,
    discard: float,
    save_dt: float | None,
) -> tuple[Float[Array, "*batch population F"], Float[Array, " F"]]:
    """Power (Hz^2) at each frequency of the band, of both signs, and the frequencies."""
    _, density = spectrum(
        activity,
        segment_length=segment_length,
        bin_width=bin_width,
        discard=discard,
        save_dt=save_dt,
    )
    width = bin_seconds(activity, save_dt) if bin_width is None else bin_width
    index = np.arange(segment_length // 2 + 1)
    spacing = 1 / (segment_length * width)
    chosen = index[(index * spacing >= low) & (index * spacing <= high)]
    if not len(chosen):
        raise ValueError(
            f"no frequency of the spectrum lies from {low} to {high} Hz: they are multiples of "
            f"{spacing:.6g} Hz up to {index[-1] * spacing:.6g} Hz. Widen the band or lengthen the "
            "segments."
        )
    # All but 0 and the highest of an even length stand for two frequencies.
    twice = np.where((chosen == 0) | (2 * chosen == segment_length), 1, 2) * spacing
    density = jnp.diagonal(density[..., chosen[0] : chosen[-1] + 1, :, :], axis1=-2, axis2=-1)
    power = jnp.moveaxis(jnp.real(density), -2, -1)
    weights = jnp.broadcast_to(jnp.asarray(twice, power.dtype), power.shape)
    return power * weights, jnp.asarray(chosen * spacing, power.dtype)
