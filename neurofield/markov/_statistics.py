"""Statistics of the populations' rates, in the currency of measurements."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from neurofield.statistics import Statistics, frequencies, jackknife, lagged_covariance
from neurofield.statistics import spectrum as density

from ._readout import binned_rate
from ._solution import Solution


def statistics(
    solution: Solution,
    *,
    discard: float = 0.0,
    bin_width: float | None = None,
    num_lags: int = 1,
    segment_length: int | None = None,
    finite_size: bool = False,
) -> Statistics:
    """Rates, lagged covariances and spectra of the spikes per neuron in a bin, by population.

    The definitions are those of `statistics.measure(raster, num_lags, populations=True)`, so that
    the two compare: x is the population's mean count in a bin of `bin_width` seconds (a multiple of
    `save_dt`; by default that), after the first `discard` seconds.

    From the deterministic back ends every covariance is over time, that of the course of the rate:
    zero at a fixed point, the autocorrelation of the oscillation on a limit cycle; errors are
    `None`, and leading axes (parameter sets) stay. The fluctuation of a network's counts about the
    course is not in it. `finite_size` adds the part of it that neurons firing independently of each
    other, as Poisson processes, would have: variance rate x bin / N at lag 0, on the diagonal, and
    rate x bin^2 / N at each frequency. What neurons share through their synapses, and their
    refractoriness, is left out.

    From `"markov"`, which has its noise of finite size, leading axes are independent chains of one
    parameter set: they are pooled, as trials are, and from two on each field has the standard
    error of the jackknife over chains.

    - `num_lags`: L; lags 0 .. L - 1.
    - `segment_length`: bins of a Welch segment; by default 128, or all bins if fewer.

    Differentiable for the deterministic back ends.
    """
    rate = binned_rate(solution, bin_width=bin_width, discard=discard)
    width = solution.save_dt if bin_width is None else float(bin_width)
    x = rate * width
    length = min(128, x.shape[-1]) if segment_length is None else segment_length

    def moments(x: Float[Array, "... population bin"]) -> dict[str, Array]:
        spectrum = density(x, width, segment_length=length)
        return {
            "rate": jnp.mean(x.reshape(-1, *x.shape[-2:]), axis=(0, 2)) / width,
            "lagged": lagged_covariance(x, num_lags),
            "spectrum": jnp.stack([jnp.real(spectrum), jnp.imag(spectrum)], axis=-1),
        }

    chains, errors = x.reshape(-1, *x.shape[-2:]), {}
    if solution.backend != "markov":
        found = jax.vmap(moments)(chains)
        found = {name: y.reshape(*x.shape[:-2], *y.shape[1:]) for name, y in found.items()}
        if finite_size:
            found = _with_counts(found, solution.params.size, width)
    elif finite_size:
        raise ValueError("backend 'markov' has its noise of finite size already: no finite_size.")
    else:
        found = moments(chains)
        if len(chains) > 1:
            _, unravel = ravel_pytree(found)
            errors = unravel(jackknife(lambda x: ravel_pytree(moments(x))[0], chains).error)
    parts = found["spectrum"]
    return Statistics(
        rate=found["rate"],
        bin_width=width,
        covariance=found["lagged"][..., 0, :, :],
        lagged=found["lagged"],
        frequency=frequencies(length, width).astype(x.dtype),
        spectrum=jax.lax.complex(parts[..., 0], parts[..., 1]),
        rate_error=errors.get("rate"),
        covariance_error=errors["lagged"][0] if errors else None,
        lagged_error=errors.get("lagged"),
        spectrum_error=jnp.linalg.norm(errors["spectrum"], axis=-1) if errors else None,
        labels=solution.params.names,
    )


def _with_counts(
    found: dict[str, Array], size: Float[Array, "*batch population"], width: float
) -> dict[str, Array]:
    """With the variance of independent Poisson counts."""
    variance = found["rate"] * width / size
    pairs = (*variance.shape, variance.shape[-1])
    eye = jnp.broadcast_to(jnp.eye(pairs[-1], dtype=variance.dtype), pairs)
    diagonal = variance[..., None] * eye
    return {
        "rate": found["rate"],
        "lagged": found["lagged"].at[..., 0, :, :].add(diagonal),
        "spectrum": found["spectrum"].at[..., 0].add((width * diagonal)[..., None, :, :]),
    }
