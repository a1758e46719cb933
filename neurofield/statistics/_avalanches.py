"""Neuronal avalanches, their exponents, and the branching ratio."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from neurofield.recording import Raster

from ._arrays import all_valid, as_float, run_age
from ._resample import jackknife


class Avalanches(eqx.Module):
    """Every avalanche of a raster, in order of epoch and time.

    - `size`: spikes; `duration`: bins.
    - `epoch`, `first`: the (flattened) leading index and the bin where it begins.
    - `censored`: it touches the end of its epoch or an invalid bin, so that its true size and
      duration are at least those given.
    """

    size: Int[np.ndarray, " avalanche"]
    duration: Int[np.ndarray, " avalanche"]
    epoch: Int[np.ndarray, " avalanche"]
    first: Int[np.ndarray, " avalanche"]
    censored: Bool[np.ndarray, " avalanche"]


def avalanches(raster: Raster) -> Avalanches:
    """Runs of consecutive bins in which at least one neuron fired (Beggs and Plenz 2003).

    Host function. Sizes depend on the bin width: report them over several.
    """
    num_bins = raster.num_bins
    spikes = np.asarray(raster.spikes).reshape(-1, raster.num_neurons, num_bins)
    activity = spikes.sum(axis=1, dtype=np.int64)
    valid = np.ones(activity.shape, bool)
    if raster.mask is not None:
        valid = np.asarray(raster.mask).reshape(activity.shape)
    # An invalid bin on either side of every epoch lets all epochs be cut as one line.
    active = np.pad((activity > 0) & valid, [(0, 0), (1, 1)]).reshape(-1)
    known = np.pad(valid, [(0, 0), (1, 1)]).reshape(-1)
    cumulative = np.concatenate([[0], np.cumsum(np.pad(activity, [(0, 0), (1, 1)]).reshape(-1))])
    edges = np.flatnonzero(np.diff(active.astype(np.int8))) + 1
    first, end = edges[::2], edges[1::2]
    return Avalanches(
        size=cumulative[end] - cumulative[first],
        duration=end - first,
        epoch=first // (num_bins + 2),
        first=first % (num_bins + 2) - 1,
        censored=~known[first - 1] | ~known[end],
    )


def borel_log_prob(size: ArrayLike, mean: ArrayLike) -> Float[Array, "..."]:
    """log P(size) of all descendants of one ancestor with Poisson(`mean`) offspring, itself too.

    Borel's law P(s) = exp(-mean s) (mean s)^(s - 1) / s!, for 0 < mean <= 1: the exact size
    distribution of avalanches of a Galton-Watson process.
    """
    size, mean = as_float(size), as_float(mean)
    return jax.scipy.special.xlogy(size - 1, mean * size) - mean * size - jax.lax.lgamma(size + 1)


class PowerLaw(eqx.Module):
    """A discrete power law P(x) = x^-exponent / zeta(exponent, x_min) fitted to x >= x_min.

    `error` is the exponent's standard error from the Fisher information (at given `x_min`),
    `distance` the Kolmogorov-Smirnov distance, `num_tail` the number of values used.
    `log_ratio` is the log-likelihood ratio to a discretised lognormal on the same tail, positive
    where the power law is the better, and `p_value` Vuong's two-sided significance of its sign.
    """

    exponent: float
    error: float
    x_min: int
    num_tail: int
    distance: float
    log_ratio: float
    p_value: float


def fit_power_law(values: ArrayLike, *, x_min: int | None = None, min_tail: int = 50) -> PowerLaw:
    """Fit a power law to the tail of whole numbers >= 1 by maximum likelihood (host function).

    Clauset, Shalizi and Newman (2009), SIAM Rev. 51, 661, eqs 3.5-3.9 and appendix C. Without
    `x_min`, the one with the least Kolmogorov-Smirnov distance is taken, among those that leave at
    least `min_tail` values. Leave censored avalanches out, or mind that they are cut short.
    """
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iu" or (values < 1).any():
        raise ValueError("values must be a one-dimensional array of whole numbers from 1.")
    values = np.sort(values).astype(np.int64)
    unique, position = np.unique(values, return_index=True)
    tail_sizes = len(values) - position
    if x_min is None:
        # The largest value alone has no likelihood maximum, hence the second condition.
        candidates = unique[(tail_sizes >= min_tail) & (unique < unique[-1])]
    else:
        candidates = np.array([x_min]) if 1 <= x_min < unique[-1] else np.array([], int)
    if len(candidates) == 0:
        raise ValueError(
            f"no tail of at least {min_tail} values of which some differ (x_min={x_min}); lower "
            "min_tail or give more data."
        )
    fits = [(*_tail_fit(values, int(candidate)), int(candidate)) for candidate in candidates]
    distance, exponent, cut = min(fits)
    tail = values[np.searchsorted(values, cut) :]
    step = 1e-3
    curvature = (
        np.log(scipy.special.zeta(exponent + step, cut))
        - 2 * np.log(scipy.special.zeta(exponent, cut))
        + np.log(scipy.special.zeta(exponent - step, cut))
    ) / step**2
    power = -exponent * np.log(tail) - np.log(scipy.special.zeta(exponent, cut))
    difference = power - _lognormal_log_prob(tail, cut)
    ratio = float(difference.sum())
    spread = float(difference.std()) * np.sqrt(2 * len(tail))
    return PowerLaw(
        exponent=exponent,
        error=float(1 / np.sqrt(len(tail) * curvature)),
        x_min=cut,
        num_tail=len(tail),
        distance=distance,
        log_ratio=ratio,
        p_value=float(scipy.special.erfc(abs(ratio) / spread)) if spread > 0 else 1.0,
    )


def _tail_fit(ordered: np.ndarray, x_min: int) -> tuple[float, float]:
    tail = ordered[np.searchsorted(ordered, x_min) :]
    mean_log = np.log(tail).mean()
    loss = lambda a: a * mean_log + np.log(scipy.special.zeta(a, x_min))  # noqa: E731
    exponent = np.asarray(scipy.optimize.fminbound(loss, 1 + 1e-6, 20.0, xtol=1e-8)).item()
    unique, counts = np.unique(tail, return_counts=True)
    empirical = np.cumsum(counts) / len(tail)
    normal = scipy.special.zeta(exponent, x_min)
    above = 1 - scipy.special.zeta(exponent, unique + 1) / normal
    below = 1 - scipy.special.zeta(exponent, unique) / normal
    before = np.concatenate([[0.0], empirical[:-1]])
    distance = max(np.abs(empirical - above).max(), np.abs(before - below).max())
    return float(distance), exponent


def _lognormal_log_prob(tail: np.ndarray, x_min: int) -> np.ndarray:
    """Best discretised lognormal on x >= x_min: its log-probabilities of the tail."""
    unique, inverse, counts = np.unique(tail, return_inverse=True, return_counts=True)
    low, high = np.log(unique - 0.5), np.log(unique + 0.5)

    def log_prob(parameters: np.ndarray) -> np.ndarray:
        mu, sigma = parameters[0], np.exp(parameters[1])
        log_tail = lambda at: scipy.special.log_ndtr((mu - at) / sigma)  # noqa: E731
        upper, lower = log_tail(low), log_tail(high)
        inside = upper + np.log(-np.expm1(np.minimum(lower - upper, -1e-300)))
        return inside - log_tail(np.log(x_min - 0.5))

    def loss(parameters: np.ndarray) -> float:
        value = -float(counts @ log_prob(parameters)) / len(tail)
        return value if np.isfinite(value) else 1e10

    logs = np.log(tail)
    start = np.array([logs.mean(), np.log(max(logs.std(), 0.1))])
    best = scipy.optimize.minimize(loss, start, method="Nelder-Mead", options={"maxiter": 2000})
    return log_prob(best.x)[inverse]


class BranchingRatio(eqx.Module):
    """`slopes[k - 1]` = r_k is fitted by amplitude * ratio^k; errors by the block jackknife."""

    ratio: Float[Array, ""]
    error: Float[Array, ""]
    amplitude: Float[Array, ""]
    amplitude_error: Float[Array, ""]
    slopes: Float[Array, " k"]


@partial(jax.jit, static_argnames=("num_lags", "num_blocks"))
def branching_ratio(
    activity: ArrayLike, num_lags: int, mask: ArrayLike | None = None, *, num_blocks: int = 32
) -> BranchingRatio:
    """Branching ratio m of `activity[..., time]` (spikes in a bin), also when few cells are seen.

    The slopes r_k of activity at t + k regressed on activity at t, for k = 1 .. `num_lags`, are
    fitted by b m^k in least squares; seeing only some of the neurons lowers b and leaves m
    (Wilting and Priesemann 2018, Nat. Commun. 9, 2325). For a stationary process, 0 < m < 1;
    `num_lags` should be a few times -1 / log m. No pair of bins crosses an epoch's end or an
    invalid bin. Errors: jackknife over `num_blocks` blocks of time (whole trials if more).
    Gradients are those of the optimum (implicit function theorem).
    """
    x = as_float(activity)
    num_bins = x.shape[-1]
    valid = all_valid(*x.shape) if mask is None else jnp.asarray(mask, bool)
    if valid.shape != x.shape or not 2 <= num_lags < num_bins:
        raise ValueError(
            f"mask must have the shape of activity {x.shape}, got {valid.shape}, and num_lags be "
            f"from 2 to {num_bins - 1}, got {num_lags}."
        )
    x, valid = x.reshape(-1, num_bins), valid.reshape(-1, num_bins)
    age = run_age(valid)
    clean = jnp.where(valid, x, 0)
    x = jnp.where(valid, clean - jnp.sum(clean) / jnp.sum(valid, dtype=x.dtype), 0)
    per_epoch = max(num_blocks // len(x), 1)
    block_bins = -(-num_bins // per_epoch)
    pad = [(0, 0), (0, per_epoch * block_bins - num_bins)]
    in_blocks = lambda y: jnp.pad(y, pad).reshape(-1, block_bins).sum(-1)  # noqa: E731

    def lag(shift: Array) -> tuple[Array, Array]:
        paired = jnp.roll(age, -shift, axis=-1) >= shift
        products = jnp.where(paired, x * jnp.roll(x, -shift, axis=-1), 0)
        return in_blocks(products), in_blocks(paired.astype(x.dtype))

    sums, pairs = jax.lax.map(lag, jnp.arange(num_lags + 1, dtype=jnp.int32))

    def slopes(blocks: tuple[Array, Array]) -> Array:
        covariance = jnp.sum(blocks[0], axis=0) / jnp.maximum(jnp.sum(blocks[1], axis=0), 1)
        return covariance[1:] / covariance[0]

    blocks = (sums.T, pairs.T)
    found = jackknife(lambda part: _fit_geometric(slopes(part)), blocks)
    return BranchingRatio(
        found.mean[0], found.error[0], found.mean[1], found.error[1], slopes(blocks)
    )


def _fit_geometric(slopes: Float[Array, " k"]) -> Float[Array, "2"]:
    """Least squares of b m^k, b eliminated, by golden section on log(-1 / log m)."""
    k = jnp.arange(1, len(slopes) + 1, dtype=slopes.dtype)

    def amplitude(log_time: Array) -> tuple[Array, Array]:
        shape = jnp.exp(-k * jnp.exp(-log_time))
        return jnp.sum(slopes * shape) / jnp.sum(shape**2), shape

    def loss(log_time: Array) -> Array:
        height, shape = amplitude(log_time)
        return jnp.sum((slopes - height * shape) ** 2)

    # Correlation times from a fifth of a bin (m = 0.007) to ten thousand bins.
    grid = jnp.linspace(jnp.log(0.2), jnp.log(1e4), 200, dtype=slopes.dtype)
    best = jnp.argmin(jax.vmap(loss)(grid))
    bracket = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, 199)]
    golden = (5**0.5 - 1) / 2

    def shrink(_, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        left, right = high - golden * (high - low), low + golden * (high - low)
        keep_left = loss(left) < loss(right)
        return jnp.where(keep_left, low, left), jnp.where(keep_left, right, high)

    low, high = jax.lax.fori_loop(0, 40, shrink, bracket)
    # Golden section finds a minimum to the root of rounding, and has no derivative. Newton's steps
    # from there have both, except at the ends of the range, where the ratio stays.
    log_time = jax.lax.stop_gradient((low + high) / 2)
    inside = (best > 0) & (best < 199)
    for _ in range(2):
        curvature = jax.grad(jax.grad(loss))(log_time)
        usable = inside & (curvature > 0)
        step = jax.grad(loss)(log_time) / jnp.where(usable, curvature, 1.0)
        log_time = log_time - jnp.where(usable, step, 0.0)
    return jnp.stack([jnp.exp(-jnp.exp(-log_time)), amplitude(log_time)[0]])
