"""Metastability: dwell times in bursting and quiet states, and bistable sets of parameters."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from neurofield._types import PyTree

from ._parameters import Parameters
from ._solution import Solution
from ._solve import solve


class DwellTimes(eqx.Module):
    """How long activity stays in the bursting and in the quiet state.

    A window follows the one before with probabilities that are taken to depend on its state alone:
    the dwell times are those of this chain, so that segments that the ends of a run cut short are
    not counted as whole ones, and the standard errors are the chain's.

    **Attributes** (leading axes `*batch`)

    - `fraction`, `fraction_error`: of the windows that burst.
    - `burst`, `quiet`: mean dwell times, seconds: `inf` where a state was never left, 0 where it
      was never seen. `burst_error`, `quiet_error`: `inf` where nothing can be said.
    - `num_segments`: of windows of one state, those at the ends included.
    - `transitions`: `[*batch, 2, 2]`, pairs of successive windows, `[..., to, from]`, quiet first.
    - `window`: seconds (static).
    """

    fraction: Float[Array, "*batch"]
    fraction_error: Float[Array, "*batch"]
    burst: Float[Array, "*batch"]
    burst_error: Float[Array, "*batch"]
    quiet: Float[Array, "*batch"]
    quiet_error: Float[Array, "*batch"]
    num_segments: Int[Array, "*batch"]
    transitions: Int[Array, "*batch 2 2"]
    window: float = eqx.field(static=True)


def dwell_times(
    activity: Solution | Float[Array, "*batch population time"],
    *,
    bin_width: float | None = None,
    window: float = 0.06,
    threshold: float = 200.0,
    population: int = 0,
    transient: float = 0.0,
    pool: bool = False,
) -> DwellTimes:
    """Fraction of time in bursts, and mean dwell times, of one population.

    - `activity`: a solution by any back end, or rates `[..., population, time]` in hertz in bins of
      `bin_width` seconds (of a raster's populations, say).
    - `window`: seconds, a multiple of the bins. A window bursts where its largest rate is above
      `threshold` (hertz; the default is for bins of 1 ms). Windows that do not fit are left out.
    - `transient`: seconds at the start that are left out.
    - `pool`: take the leading axes as runs of one network, and count them all together.

    Raises `ValueError` for a bad argument, `RuntimeError` for rates that are NaN.
    """
    if isinstance(activity, Solution):
        if bin_width is not None:
            raise ValueError("bin_width belongs to an array of rates: a Solution has its own.")
        activity, bin_width = activity.rate, activity.save_dt
    if bin_width is None or not bin_width > 0:
        raise ValueError(f"bin_width must be given for rates, in seconds, got {bin_width}.")
    if not -activity.shape[-2] <= population < activity.shape[-2]:
        raise ValueError(f"population {population} is not one of {activity.shape[-2]}.")
    per_window = round(window / bin_width)
    if per_window < 1 or abs(window / bin_width - per_window) > 1e-6 * per_window:
        raise ValueError(f"window = {window} s must be a multiple of the bins of {bin_width} s.")
    if not transient >= 0:
        raise ValueError(f"transient must not be negative (seconds), got {transient}.")
    rate = activity[..., population, round(transient / bin_width) :]
    rate = eqx.error_if(
        rate, jnp.any(jnp.isnan(rate)), "dwell_times: the rates hold NaN: did the solve end well?"
    )
    count = rate.shape[-1] // per_window
    if count < 2:
        raise ValueError(
            f"After {transient} s, the rates hold {count} windows of {window} s: at least 2 needed."
        )
    windows = rate[..., : count * per_window].reshape(*rate.shape[:-1], count, per_window)
    bursts = jnp.max(windows, axis=-1) > threshold
    axes = tuple(range(bursts.ndim)) if pool else (-1,)
    before, after = bursts[..., :-1], bursts[..., 1:]

    def number(which: Bool[Array, "*windows"]) -> Int[Array, "*batch"]:
        return jnp.sum(which, axis=axes, dtype=jnp.int32)

    steps = jnp.stack(
        [
            jnp.stack([number(~after & ~before), number(~after & before)], axis=-1),
            jnp.stack([number(after & ~before), number(after & before)], axis=-1),
        ],
        axis=-2,
    )
    num_runs = bursts.size // count if pool else 1
    total = num_runs * count
    fraction = number(bursts).astype(rate.dtype) / total
    quiet, quiet_error, leaves_quiet = _dwell(
        steps[..., 1, 0], steps[..., 0, 0], fraction < 1, window, rate
    )
    burst, burst_error, leaves_burst = _dwell(
        steps[..., 0, 1], steps[..., 1, 1], fraction > 0, window, rate
    )
    # Successive windows of a chain of two states correlate by 1 - (both chances to leave).
    both = leaves_quiet + leaves_burst
    known = both > 0
    spread = fraction * (1 - fraction) * (2 - both) / (jnp.where(known, both, 1) * total)
    return DwellTimes(
        fraction=fraction,
        fraction_error=jnp.where(known, jnp.sqrt(spread), jnp.inf),
        burst=burst,
        burst_error=burst_error,
        quiet=quiet,
        quiet_error=quiet_error,
        num_segments=num_runs + steps[..., 1, 0] + steps[..., 0, 1],
        transitions=steps,
        window=window,
    )


def _dwell(
    left: Array, stayed: Array, seen: Array, window: float, like: Array
) -> tuple[Array, Array, Array]:
    """Mean dwell time, its error, and the chance to leave at a window's end (0 where unknown)."""
    ends = left.astype(like.dtype)
    leaves = ends / jnp.maximum(left + stayed, 1).astype(like.dtype)
    known = left > 0
    mean = window / jnp.where(known, leaves, 1)
    error = mean * jnp.sqrt((1 - leaves) / jnp.where(known, ends, 1))
    mean = jnp.where(known, mean, jnp.where(seen, jnp.inf, 0))
    return mean, jnp.where(known, error, jnp.inf), leaves


class Attractors(eqx.Module):
    """The attractors that a deterministic solve reaches from several initial states.

    - `rate`: `[start, population]`, hertz, mean after the transient.
    - `spread`: `[start, population]`, hertz, standard deviation in time: 0 at an equilibrium.
    - `label`: `[start]`, the first start that reached the same attractor.
    - `final`: the states at the end, one a start.
    """

    rate: Float[Array, "start population"]
    spread: Float[Array, "start population"]
    label: Int[Array, " start"]
    final: tuple[PyTree, ...]

    @property
    def several(self) -> Bool[Array, ""]:
        """Whether different starts reached different attractors: the parameters are bistable."""
        return jnp.any(self.label != 0)


def bistable(
    params: Parameters,
    duration: float = 1.0,
    *,
    initial: Sequence[Any] = ("reset", "uniform"),
    transient: float | None = None,
    backend: str = "ode",
    rtol: float = 0.05,
    atol: float = 0.5,
    **keywords: Any,
) -> Attractors:
    """Solves from each initial state, and says which attractors were reached.

    Two starts reached the same one where the mean rates and their standard deviations in time, of
    every population, agree within `atol` (hertz) plus `rtol` times the larger. A cycle's mean over
    a time that is no multiple of its period errs by about period / time.

    - `duration`: seconds; the first `transient` (by default half) are left out.
    - `initial`: what `solve` takes: names or final states.
    - `keywords`: for `solve`.

    Raises `ValueError` for a bad argument, and for the back end "markov", which jumps between
    attractors: see `dwell_times`. `RuntimeError` where a solve does not end well.
    """
    if backend not in ("ode", "map"):
        raise ValueError(f"backend must be 'ode' or 'map' (deterministic), got {backend!r}.")
    transient = duration / 2 if transient is None else transient
    if not (len(initial) > 0 and 0 <= transient < duration):
        raise ValueError(
            f"bistable needs initial states and a transient below the duration of {duration} s; "
            f"got {len(initial)} initial states and {transient} s."
        )
    solved = [
        solve(params, duration, backend=backend, initial=start, **keywords) for start in initial
    ]
    kept = [x.rate[:, round(transient / x.save_dt) :] for x in solved]
    rate = jnp.stack([jnp.mean(x, axis=1) for x in kept])
    spread = jnp.stack([jnp.std(x, axis=1) for x in kept])
    features = jnp.concatenate([rate, spread], axis=1)
    # What is NaN would be unlike itself, and so be counted to the first attractor.
    features = eqx.error_if(
        features, ~jnp.isfinite(features), "bistable: a solve did not end well: no attractor."
    )
    one, other = features[:, None], features[None]
    allowed = atol + rtol * jnp.maximum(*jnp.broadcast_arrays(one, other))
    same = jnp.all(jnp.abs(jnp.subtract(*jnp.broadcast_arrays(one, other))) <= allowed, axis=-1)
    label = jnp.argmax(same, axis=1).astype(jnp.int32)
    return Attractors(rate, spread, label, tuple(x.final for x in solved))
