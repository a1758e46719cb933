"""Readouts of rates: time courses, synchrony, variation, spectra, proxies of field potentials.

Each takes a `Solution`, or an array of rates with `save_dt=`, so that the spiking network is read
in the same way: its rates are spike counts of a population / (size x bin).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from neurofield import statistics as measured
from neurofield._numerics import contract

from ._parameters import Parameters
from ._solution import Solution

Activity = Solution | Float[Array, "*batch population time"]


def binned_rate(
    activity: Activity,
    *,
    bin_width: float | None = None,
    discard: float = 0.0,
    save_dt: float | None = None,
) -> Float[Array, "*batch population bin"]:
    """Rates in hertz per neuron, in bins of `bin_width` seconds, after the first `discard` seconds.

    - `activity`: a `Solution`, or rates `[..., population, time]` in bins of `save_dt` seconds.
    - `bin_width`: a multiple of the `save_dt` of either; by default that.

    Differentiable. Raises `ValueError` if the times do not divide into whole bins.
    """
    step = bin_seconds(activity, save_dt)
    rate = activity.rate if isinstance(activity, Solution) else activity
    count = 1 if bin_width is None else whole_bins("bin_width", bin_width, step)
    first = whole_bins("discard", discard, step)
    kept = rate.shape[-1] - first
    if count < 1 or kept < count or kept % count:
        raise ValueError(
            f"{kept} bins of {step:.6g} s are left after discard = {discard} s: they must be one "
            f"or more whole bins of {count * step:.6g} s. Change discard or bin_width."
        )
    rate = rate[..., first:]
    return jnp.mean(rate.reshape(*rate.shape[:-1], kept // count, count), axis=-1)


def mean_rate(
    activity: Activity, *, discard: float = 0.0, save_dt: float | None = None
) -> Float[Array, "*batch population"]:
    """Mean rates in hertz per neuron after the first `discard` seconds. Differentiable."""
    return jnp.mean(binned_rate(activity, discard=discard, save_dt=save_dt), axis=-1)


def synchrony_index(
    activity: Activity,
    *,
    half_window: float = 5e-4,
    discard: float = 0.0,
    save_dt: float | None = None,
) -> Float[Array, "*batch population"]:
    """Share of a population that fires within `half_window` seconds of a spike, on average.

    sum_j S_j (sum_{|l| <= L} S_{j + l}) / (N sum_j S_j), S_j the spikes of bin j, L =
    `half_window` / `save_dt`: with bins of 0.1 ms, the index of the program of Chang et al. (2025).
    It includes the spike itself (1 / N of a network; nothing of a density), and
    (2 L + 1) `save_dt` x rate is its value without synchrony. 0 for a population that is silent.

    `activity`: a `Solution`, or rates `[..., population, time]` in bins of `save_dt` seconds.
    Differentiable.
    """
    rate = binned_rate(activity, discard=discard, save_dt=save_dt)
    step = bin_seconds(activity, save_dt)
    reach = whole_bins("half_window", half_window, step)
    total = jnp.pad(jnp.cumsum(rate, axis=-1), [(0, 0)] * (rate.ndim - 1) + [(1, 0)])
    end = rate.shape[-1]
    index = jnp.arange(end)
    nearby = (
        total[..., jnp.minimum(index + reach + 1, end)] - total[..., jnp.maximum(index - reach, 0)]
    )
    spikes = jnp.sum(rate, axis=-1)
    fires = ~(spikes <= 0)  # what is NaN stays NaN
    return jnp.where(fires, jnp.sum(rate * nearby, axis=-1) * step / jnp.where(fires, spikes, 1), 0)


def coefficient_of_variation(
    activity: Activity,
    *,
    bin_width: float = 1e-3,
    discard: float = 0.0,
    save_dt: float | None = None,
) -> Float[Array, "*batch population"]:
    """Standard deviation / mean, over time, of the population's rate in bins of `bin_width` s.

    A measure of synchrony (not of the regularity of single neurons). 0 where the rate is constant.
    Differentiable where it varies.
    """
    rate = binned_rate(activity, bin_width=bin_width, discard=discard, save_dt=save_dt)
    mean, variance = jnp.mean(rate, axis=-1), jnp.var(rate, axis=-1)
    varies = ~(variance <= 0)  # what is NaN stays NaN
    deviation = jnp.sqrt(jnp.where(varies, variance, 1))
    return jnp.where(varies, deviation / jnp.where(varies, mean, 1), 0)


def spectrum(
    activity: Activity,
    *,
    segment_length: int,
    bin_width: float | None = None,
    discard: float = 0.0,
    save_dt: float | None = None,
) -> tuple[Float[Array, " F"], Complex[Array, "*batch F population population"]]:
    """Frequencies (Hz) and the two-sided cross-spectral density of the rates, Hz^2 / Hz.

    Welch's estimate of `statistics.spectrum`, Hann segments of `segment_length` bins; a one-sided
    density is twice this. The line of a limit cycle has the width of the window,
    1.5 / (segment_length bin_width) Hz. Differentiable: the frequencies are fixed, so that the
    power at one of them is smooth where the place of a maximum is not.
    """
    rate = binned_rate(activity, bin_width=bin_width, discard=discard, save_dt=save_dt)
    width = bin_seconds(activity, save_dt) if bin_width is None else bin_width
    flat = rate.reshape(-1, *rate.shape[-2:])
    density = jax.vmap(lambda x: measured.spectrum(x, width, segment_length=segment_length))(flat)
    frequency = measured.frequencies(segment_length, width).astype(rate.dtype)
    return frequency, density.reshape(*rate.shape[:-2], *density.shape[1:])


class FieldPotential(eqx.Module):
    """Proxies of the local field potential, by the population of the neurons that make it.

    - `current`: `[..., population, time]`, mV/s: the excitatory and the inhibitory synaptic current
      onto a neuron of the population, as magnitudes, summed; the drive is not in it.
    - `voltage`: `[..., population, time]`, mV, the mean voltage.
    """

    current: Float[Array, "*batch population time"]
    voltage: Float[Array, "*batch population time"]


def field_potential(solution: Solution) -> FieldPotential:
    """The sum of absolute synaptic currents, and the mean voltage, at `solution.time`.

    After Mazzoni, Panzeri, Logothetis & Brunel (2008), who sum the magnitudes of the currents onto
    the excitatory neurons: take that population's row. From the mean pending spikes, and for
    inhibition the mean voltage: a correlation of the two between neurons is left out, and so is
    that refractory neurons are deaf. Differentiable.
    """

    def current(params: Parameters, mean: Array, voltage: Array) -> Array:
        per_spike = params.charge / params.tau
        inhibits = jnp.asarray(params.is_inhibitory, per_spike.dtype)
        excitation = contract("qr,qrt->qt", per_spike * (1 - inhibits)[None], mean)
        inhibition = contract("qr,qrt->qt", per_spike * inhibits[None], mean)
        return excitation + inhibition * jnp.abs(params.felt(voltage))

    for _ in range(solution.rate.ndim - 2):
        current = jax.vmap(current)
    return FieldPotential(
        current(solution.params, solution.mean, solution.voltage), solution.voltage
    )


def bin_seconds(activity: Activity, save_dt: float | None) -> float:
    """Seconds of a bin of the rates."""
    if isinstance(activity, Solution):
        if save_dt is not None:
            raise ValueError("a Solution has its own save_dt: give save_dt with arrays only.")
        return activity.save_dt
    if save_dt is None or not save_dt > 0:
        raise ValueError(f"rates in an array need save_dt, the seconds of a bin; got {save_dt}.")
    return save_dt


def whole_bins(what: str, value: float, step: float) -> int:
    """How many bins a time is."""
    count = round(value / step)
    if value < 0 or abs(value / step - count) > 1e-6 * max(count, 1):
        raise ValueError(
            f"{what} = {value} s must be a multiple, not negative, of the bins' {step:.6g} s."
        )
    return count
