"""The Statistics pytree, which a measurement and every theory fill alike, and its measurement."""

from functools import partial

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float

from neurofield.recording import Raster

from ._blocks import flatten, pool
from ._gamma import mean_error
from ._moments import centre, frequencies, pooled_lagged, pooled_spectrum

_MANY_TRIALS = 20  # from here on, trials are independent blocks enough for a jackknife
_TARGET_BLOCKS = 64  # the error of an error from B blocks is 1 / sqrt(2 B): 9 %


class Statistics(eqx.Module):
    """First and second moments of activity in bins, per neuron or per population (K of either).

    Fields that a theory does not give are `None`. A `*_mask` is False where nothing is said (the
    value there is zero); `None` if all is said. An `*_error` is one standard error, infinite where
    the value is known but its error is not.

    **Attributes**

    - `rate`: `[..., K]`, hertz.
    - `bin_width`: seconds (static).
    - `covariance`: `[..., K, K]`, of x, the contents of a bin (0/1, or a population's mean).
    - `lagged`: `[..., L, K, K]`, `lagged[l, i, j]` = cov(x_i(t + l), x_j(t)), l = 0 .. L - 1.
    - `spectrum`: `[..., F, K, K]`, two-sided density in 1/hertz at `frequency[F]` >= 0 hertz:
      S_ij(f) = bin_width sum_l cov(x_i(t + l), x_j(t)) exp(-2 pi i f l bin_width) over all lags.
      `spectrum_error` is the root mean square modulus of its error.
    - `population_count`: `[..., N + 1]`, probability that k of the N neurons are active in a bin.
    - `labels`: names of the K rows (static).
    """

    rate: Float[Array, "*batch K"]
    bin_width: float = eqx.field(static=True)
    covariance: Float[Array, "*batch K K"] | None = None
    lagged: Float[Array, "*batch L K K"] | None = None
    frequency: Float[Array, " F"] | None = None
    spectrum: Complex[Array, "*batch F K K"] | None = None
    population_count: Float[Array, "*batch count"] | None = None
    rate_error: Float[Array, "*batch K"] | None = None
    covariance_error: Float[Array, "*batch K K"] | None = None
    lagged_error: Float[Array, "*batch L K K"] | None = None
    spectrum_error: Float[Array, "*batch F K K"] | None = None
    population_count_error: Float[Array, "*batch count"] | None = None
    rate_mask: Bool[Array, "*batch K"] | None = None
    covariance_mask: Bool[Array, "*batch K K"] | None = None
    lagged_mask: Bool[Array, "*batch L K K"] | None = None
    spectrum_mask: Bool[Array, "*batch F K K"] | None = None
    labels: tuple[str, ...] = eqx.field(static=True, default=())


def measure(
    raster: Raster,
    num_lags: int,
    populations: ArrayLike | bool | None = None,
    *,
    segment_length: int | None = None,
    num_blocks: int | None = None,
) -> Statistics:
    """Measured rates, covariances, spectra and population counts, each with a standard error.

    Leading axes (epochs, trials) are pooled. With at least 20 of them every error comes from the
    spread between them (the infinitesimal jackknife over trials). With fewer, the rate's error is
    by the Gamma method and the others' from the spread of about 64 blocks of time, which must
    be longer than the correlation time. No lag crosses the end of an epoch or an invalid bin.
    Memory is a few times that of the raster in real numbers, plus a few result arrays.

    **Arguments**

    - `num_lags`: L; lags 0 .. L - 1 are measured.
    - `populations`: `None` or False: per neuron. True: per population of `raster.populations`.
      An integer array `[neuron]`: per population so given. x is then the population's mean.
    - `segment_length`: bins of a Welch segment (even segments transform best); by default 128, or
      all bins if fewer.
    - `num_blocks`: number of blocks of time in place of 64.

    Plain jit works with `num_lags`, `segment_length`, `num_blocks` and a boolean `populations`
    static; population names must then be given in the raster.
    """
    index, labels = _populations(raster, populations)
    spikes, valid = flatten(raster.spikes, raster.mask)
    num_epochs, _, num_bins = spikes.shape
    if segment_length is None:
        segment_length = min(128, num_bins)
    if num_blocks is None and num_epochs >= _MANY_TRIALS:
        block_bins = num_bins
    else:
        wanted = max((num_blocks or _TARGET_BLOCKS) // num_epochs, 1)
        block_bins = min(max(-(-num_bins // wanted), 2 * num_lags), num_bins)
    return _measure(
        spikes,
        valid,
        index,
        masked=raster.mask is not None,
        num_lags=num_lags,
        segment_length=segment_length,
        block_bins=block_bins,
        bin_width=raster.bin_width,
        labels=labels,
    )


def _populations(
    raster: Raster, populations: ArrayLike | bool | None
) -> tuple[Array | None, tuple[str, ...]]:
    if populations is None or populations is False:
        return None, raster.labels
    if populations is True:
        index, names = raster.populations, raster.population_names
        if index is None:
            raise ValueError(
                "populations=True, but the raster has no populations; give them to Raster, or "
                "give measure an index array [neuron]."
            )
    else:
        index, names = jnp.asarray(populations), raster.population_names
        if index.shape != (raster.num_neurons,) or not jnp.issubdtype(index.dtype, jnp.integer):
            raise ValueError(
                f"populations must be whole numbers [neuron] = ({raster.num_neurons},), got "
                f"{index.dtype} {index.shape}."
            )
    if isinstance(index, jax.core.Tracer):
        if not names:
            raise ValueError("under jit the number of populations comes from population_names.")
        return index, names
    lowest, highest = int(np.min(index)), int(np.max(index))
    if lowest < 0 or (names and highest >= len(names)):
        raise ValueError(f"populations must index {len(names)} names, got {lowest} to {highest}.")
    return index, names or tuple(map(str, range(highest + 1)))


@partial(
    jax.jit,
    static_argnames=("masked", "num_lags", "segment_length", "block_bins", "bin_width", "labels"),
)
def _measure(
    spikes: Float[Array, "epoch neuron time"],
    valid: Bool[Array, "epoch time"],
    index: Array | None,
    *,
    masked: bool,
    num_lags: int,
    segment_length: int,
    block_bins: int,
    bin_width: float,
    labels: tuple[str, ...],
) -> Statistics:
    num_epochs, num_neurons, num_bins = spikes.shape
    x, sizes = spikes, jnp.ones(len(labels), spikes.dtype)
    if index is not None:
        member = (index[None] == jnp.arange(len(labels), dtype=index.dtype)[:, None]).astype(
            spikes.dtype
        )
        sizes = jnp.sum(member, axis=1)
        weights = member / jnp.maximum(sizes, 1)[:, None]
        x = jnp.einsum("pn,ent->ept", weights, spikes, precision=jax.lax.Precision.HIGHEST)
    if num_epochs >= _MANY_TRIALS:
        rate = pool(
            lambda e: (
                jnp.sum(jnp.where(valid[e][None], x[e], 0), axis=1),
                jnp.sum(valid[e], dtype=x.dtype)[None],
            ),
            num_epochs,
        )
        mean, mean_err = rate.value, rate.error
    else:
        found = mean_error(jnp.moveaxis(x, 1, 0), valid if masked else None, num_replica_axes=1)
        mean, mean_err = found.mean, found.error
    active = jnp.sum(spikes > 0, axis=1)
    per_epoch = -(-num_bins // block_bins)
    pad = [(0, 0), (0, per_epoch * block_bins - num_bins)]
    active_blocks = jnp.pad(active, pad).reshape(-1, block_bins)
    valid_blocks = jnp.pad(valid, pad).reshape(-1, block_bins)

    def count(block: Array) -> tuple[Array, Array]:
        inside = valid_blocks[block].astype(x.dtype)
        histogram = jnp.zeros(num_neurons + 1, x.dtype).at[active_blocks[block]].add(inside)
        return histogram, jnp.sum(inside)[None]

    counts = pool(count, num_epochs * per_epoch)
    centred = centre(x, valid)
    lagged = pooled_lagged(centred, valid, num_lags, block_bins)
    density = pooled_spectrum(centred, valid, bin_width, segment_length, block_bins)
    said = sizes > 0
    pair = said[:, None] & said[None]
    lag_said = (lagged.weight > 0) & pair[None]
    return Statistics(
        rate=mean / bin_width,
        bin_width=bin_width,
        covariance=lagged.value[0],
        lagged=lagged.value,
        frequency=frequencies(segment_length, bin_width).astype(x.dtype),
        spectrum=density.value,
        population_count=counts.value,
        rate_error=mean_err / bin_width,
        covariance_error=lagged.error[0],
        lagged_error=lagged.error,
        spectrum_error=density.error,
        population_count_error=counts.error,
        rate_mask=said,
        covariance_mask=lag_said[0],
        lagged_mask=lag_said,
        spectrum_mask=jnp.broadcast_to((density.weight > 0) & pair[None], density.value.shape),
        labels=labels,
    )
