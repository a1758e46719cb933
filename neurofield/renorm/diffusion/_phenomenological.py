"""phenomenological_flow: activity seen at ever coarser scales, beside what chance would give."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from neurofield._flow import Flow
from neurofield._types import PRNGKey
from neurofield.recording import Activity, Raster

from ._phenomenological_blocks import EDGES, cut, resampling
from ._phenomenological_nulls import ACTIVITY_NULLS, RASTER_NULLS, host_rng, null_data
from ._phenomenological_pairs import pair_levels
from ._phenomenological_space import Draws, measure_clusters, measure_modes

SPACES = ("real", "momentum")


def phenomenological_flow(
    key: PRNGKey,
    data: Raster | Activity,
    *,
    space: str = "real",
    num_levels: int | None = None,
    cross_validate: bool = True,
    nulls: Sequence[str] | None = None,
    block_duration: float | int | None = None,
    num_bootstrap: int = 100,
) -> Flow:
    """Coarse-grain activity by its own correlations, and how its distribution scales (host only).

    After Meshulam, Gauthier, Brody, Tank and Bialek (PRL 123, 178103, 2019). In `space="real"`
    the two most correlated units are summed, then the two most correlated of the rest, and so on;
    then the same with the sums: after l steps a variable sums K = 2^l units. In
    `space="momentum"` the activity is projected on the leading N / 2^l eigenvectors of its
    covariance and transformed back. Trials are pooled; bins that the mask leaves out are not used.

    Pairs and modes that chance favoured in the data would be measured as if they were there: of
    independent units the sums would vary more than their parts. So they are chosen on every
    second block of time and measured on the others; `cross_validate=False` does both on all of
    the data, as published. Blocks must be much longer than the correlation time.

    **Observables** (real space; all but the spectrum average over the clusters of a level, of
    those units only that reach the last one, so that each level describes the same units)

    - `variance`: of a cluster, ~ K^`alpha`: 1 of independent and 2 of identical units.
    - `silence`: the share of bins P_0 in which all of a cluster's units are 0, and `free_energy`,
      -ln P_0 ~ K^`beta`; of non-negative data that have zeros.
    - `spectrum`: `[level, rank]`, variance along the eigenvectors inside clusters, mean over
      clusters, ~ (K / rank)^`mu`; fitted over ranks up to K / 2 of levels with K >= 4.
    - `correlation_time`: seconds in which the autocorrelation falls to 1 / e, ~ K^`z` (NaN where
      it does so within one bin, or not within half a block); `autocorrelation`: `[level, lag]`.
    - `kurtosis`: excess over a Gaussian's 0; `distribution`: `[level, bin]`, the density of the
      activity of mean 0 and variance 1.
    - `spectrum_at`, `autocorrelation_at`, `distribution_at`: what these are functions of: the rank
      over K, the lag in seconds, and standard deviations.

    In momentum space `variance` is what the modes keep, of a unit, and `spectrum` the variance
    along each mode kept, against its rank over N; `mu` is fitted over the first half of the ranks.

    **Errors** of observables and exponents are from `num_bootstrap` resamples of the blocks, of
    `block_duration` seconds (default: a fortieth of the data); pairs and modes stay as they are.

    **Nulls** (`Flow.nulls`, each by the same steps; default: all that the data allow)

    - `"shift"`: each unit rotated in time: its own dynamics, no correlations.
    - `"rate_matched"` (Raster): independent spikes in each bin, at each unit's rate.
    - `"shared_rate"`: of a Raster, spikes at random given the number of each unit and in each bin
      (raster marginals model; Okun et al. 2012). Of an Activity, what each unit shares with the
      population mean, and the rest rotated in time; the population mean stays as it was.
    - `"phase"` (Activity): random phases: each unit's spectrum, no correlations.
    - `"gaussian"` (Activity): the same random phases for all units: all covariances at all lags
      and the spectra, but nothing beyond them.

    A null of a Raster other than `"shift"` has 0 or 1 spike in a bin.

    `states` of the flow are the covariances `[unit, unit]` that pairs were chosen by, in momentum
    space the modes `[unit, mode]`. Units without a partner (the last of an odd number, and units
    that never change) are assigned to -1 and told in the notes. Raises `ValueError` for fewer
    than two units, fewer than four blocks, and settings that do not exist.
    """
    names = RASTER_NULLS if isinstance(data, Raster) else ACTIVITY_NULLS
    nulls = names if nulls is None else tuple(nulls)
    if unknown := [name for name in nulls if name not in names]:
        kind = "a Raster" if isinstance(data, Raster) else "an Activity"
        raise ValueError(f"the nulls of {kind} are {names}, got {unknown}.")
    if space not in SPACES:
        raise ValueError(f"space must be one of {SPACES}, got {space!r}.")
    if num_bootstrap < 2:
        raise ValueError(f"num_bootstrap must be at least 2, got {num_bootstrap}.")
    num_units = (data.spikes if isinstance(data, Raster) else data.values).shape[-2]
    num_levels = max(num_units.bit_length() - 1, 2) if num_levels is None else num_levels
    if num_units < 2 or num_levels < 2 or 2 ** (num_levels - 1) > num_units:
        raise ValueError(
            f"{num_levels} levels need clusters of {2 ** (num_levels - 1)} units, there are "
            f"{num_units}: num_levels must be at least 2, and no more than that."
        )
    own, *others = jax.random.split(key, 1 + len(nulls))
    settings: dict[str, Any] = {
        "space": space,
        "num_levels": num_levels,
        "cross_validate": cross_validate,
        "block_duration": None if block_duration is None else float(block_duration),
        "num_bootstrap": num_bootstrap,
    }
    flows = {}
    for name, null_key in zip(nulls, others, strict=True):
        draw_key, flow_key = jax.random.split(null_key)
        flows[name] = _flow(flow_key, null_data(draw_key, data, name), settings, {})
    return _flow(own, data, settings, flows)


def _flow(
    key: PRNGKey, data: Raster | Activity, settings: dict[str, Any], nulls: dict[str, Flow]
) -> Flow:
    blocks = cut(data, settings["block_duration"], settings["cross_validate"])
    weights = resampling(host_rng(key), len(blocks.measured), settings["num_bootstrap"])
    levels = settings["num_levels"]
    covariance = blocks.covariance()
    still = int((np.diagonal(covariance) == 0).sum())
    notes = [f"{still} units never change and are left out."] if still else []
    if settings["space"] == "real":
        pairing = pair_levels(covariance, levels)
        sizes = [len(c) for c in pairing.covariances]
        if sizes[-1] == 0:
            raise ValueError(
                f"{levels} levels need clusters of {2 ** (levels - 1)} units, and {still} of "
                f"{sizes[0]} never change: pass a smaller num_levels."
            )
        left = [
            n - 2 * m - (still if i == 0 else 0)
            for i, (n, m) in enumerate(itertools.pairwise(sizes))
        ]
        if any(left):
            notes.append(
                f"without a partner, level by level: {left} of {sizes[:-1]}; "
                f"{len(pairing.leaves)} of {sizes[0]} units reach the last level."
            )
        found = measure_clusters(blocks, pairing, weights)
        scale, states, assignments = (
            2.0 ** np.arange(levels),
            pairing.covariances,
            pairing.assignments,
        )
        exponents = _real_exponents(found, scale)
        name = "units in a cluster"
    else:
        found, basis = measure_modes(blocks, covariance, levels, weights)
        sizes = [max(len(basis) >> level, 1) for level in range(levels)]
        states, assignments = [basis[:, :k] for k in sizes], ()
        scale = len(basis) / np.array(sizes)
        rank = np.arange(1, max(len(basis) // 2, 2) + 1)
        exponents = {"mu": _slopes(-np.log(rank), found["spectrum"][:, 0, : len(rank)])}
        name = "units for each mode kept"
    notes += _notes(found, exponents, blocks.length * blocks.step)
    dtype = jnp.result_type(float) if isinstance(data, Raster) else data.values.dtype
    cast = lambda x: np.asarray(x, dtype)  # noqa: E731
    units = sizes[0] * np.ones(levels) if settings["space"] == "momentum" else scale
    places = {
        "spectrum": np.arange(1, found["spectrum"].shape[-1] + 1)[None] / units[:, None],
        "distribution": np.tile((EDGES[:-1] + EDGES[1:]) / 2, (levels, 1)),
    }
    if "autocorrelation" in found:
        lags = np.arange(found["autocorrelation"].shape[-1]) * blocks.step
        places["autocorrelation"] = np.tile(lags, (levels, 1))
    known = {k: x for k, x in exponents.items() if np.isfinite(x[0])}
    return Flow(
        engine="phenomenological",
        scale_name=name,
        scale=cast(scale),
        size=np.array(sizes),
        states=tuple(cast(x) for x in states),
        assignments=assignments,
        observables={k: cast(x[0]) for k, x in found.items()}
        | {f"{k}_at": cast(x) for k, x in places.items()},
        errors={k: cast(_spread(x)) for k, x in found.items()},
        exponents={k: cast(x[0]) for k, x in known.items()},
        exponent_errors={k: cast(_spread(x)) for k, x in known.items()},
        nulls=nulls,
        notes=tuple(notes),
        provenance=(
            *((k, str(v)) for k, v in settings.items()),
            ("blocks", f"{len(blocks.measured)} of about {blocks.length * blocks.step:g} s"),
        ),
    )


def _real_exponents(found: Draws, scale: np.ndarray) -> dict[str, Float[np.ndarray, " draw"]]:
    exponents = {"alpha": _slopes(np.log(scale), found["variance"])}
    if "free_energy" in found:
        exponents["beta"] = _slopes(np.log(scale), found["free_energy"])
    share, value = [], []
    for level, size in enumerate(scale.astype(int)):
        if size >= 4:
            rank = np.arange(1, size // 2 + 1)
            share.append(np.log(size / rank))
            value.append(found["spectrum"][:, level, : len(rank)])
    if share:
        exponents["mu"] = _slopes(np.concatenate(share), np.concatenate(value, axis=1))
    exponents["z"] = _slopes(np.log(scale), found["correlation_time"])
    return exponents


def _slopes(
    x: Float[np.ndarray, " point"], values: Float[np.ndarray, "draw point"]
) -> Float[np.ndarray, " draw"]:
    """Least-squares slope of the logarithm of the values, of those that are positive."""
    known = values > 0  # false of NaN
    y = np.log(np.where(known, values, 1))
    count = np.maximum(known.sum(axis=1), 1)
    dx = known * (x[None] - (known @ x / count)[:, None])
    square = (dx**2).sum(axis=1)
    slope = (dx * y).sum(axis=1) / np.where(square > 0, square, 1)
    return np.where(square > 0, slope, np.nan)


def _spread(draws: Float[np.ndarray, "draw *shape"]) -> Float[np.ndarray, "*shape"]:
    """Standard deviation of the resamples that have a value; NaN where the data have none."""
    known = np.isfinite(draws[1:])
    count = known.sum(axis=0)
    mean = np.where(known, draws[1:], 0).sum(axis=0) / np.maximum(count, 1)
    square = (np.where(known, draws[1:] - mean, 0) ** 2).sum(axis=0)
    spread = np.sqrt(square / np.maximum(count - 1, 1))
    return np.where(np.isfinite(draws[0]) & (count > 1), spread, np.nan)


def _notes(found: Draws, exponents: dict[str, np.ndarray], block: float) -> list[str]:
    notes = []
    if "free_energy" in found and not np.isfinite(found["free_energy"][0]).all():
        notes.append("some level is never silent: it has no free energy.")
    if "correlation_time" in found:
        times, soon = found["correlation_time"][0], found["autocorrelation"][0, :, 1] < np.exp(-1)
        if soon.any():
            notes.append(
                "the autocorrelation of some level falls to 1 / e within one bin: it has no "
                "correlation time."
            )
        # A level that does not vary has no autocorrelation either.
        known = np.isfinite(found["autocorrelation"][0, :, 0])
        if (np.isnan(times) & ~soon & known).any() or np.nanmax(times, initial=0.0) > block / 10:
            notes.append(
                f"blocks of {block:g} s are shorter than ten correlation times: errors are too "
                "small, and pairs are not chosen independently of what is measured."
            )
    missing = [name for name, x in exponents.items() if not np.isfinite(x[0])]
    if missing:
        notes.append(f"fewer than two levels give {', '.join(missing)}: no exponent.")
    return notes
