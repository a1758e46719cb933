"""Covariances of order 1 / N: what populations of finite size and shared noise add.

The mean output of a population fluctuates by the noise of its neurons, which is independent, and
by its response to the means of all: a linear equation at this order, solved at each frequency of
the grid (eqs. 7 and 9 of the theory).
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from neurofield._numerics import as_complex, contract
from neurofield.network import OrnsteinUhlenbeck, WhiteNoise

from ._intensity import output_noise
from ._response import Responses, measure_responses
from ._solution import Solution
from ._stationary import (
    Fields,
    Moments,
    Sampled,
    Sampling,
    _fast_length,
    _taper,
    field_law,
    sample,
    stream_moments,
)
from ._theory import Theory, build_theory
from ._transfer import gain, loop, plastic_streams, stream_kernels


class Shared(eqx.Module):
    """Stationary covariances at lags 0 .. L - 1, [a, b, l] that of a(t + l) with b(t).

    - `field`: `[field, field, lag]`, of what all neurons receive alike; shared noise included.
    - `population`: `[population, population, lag]`, of the population means.
    """

    field: Float[Array, "field field lag"]
    population: Float[Array, "population population lag"]


def shared_covariances(
    theory: Theory,
    responses: Responses,
    noise: Complex[Array, "w row row"],
    mean: Float[Array, "stream"],
    felt: Float[Array, "field lag"],
    num_lags: int,
) -> Shared:
    """Covariances of population means and of shared inputs (eqs. 7, 9).

    - `noise`: cross-spectra of single neurons' rows around their own means, of `noise_spectrum`.
    - `mean`: of the streams. `felt`: the shared covariance that the neurons already felt, which is
      no noise of their own.
    """
    length = circle(num_lags)
    around = loop(theory, responses, mean, length)
    sizes = _row_sizes(theory)
    heard = on_circle(felt, length)  # [field, w]
    own = noise - contract(
        "wrf,fw,wqf->wrq", around.response, as_complex(heard), jnp.conj(around.response)
    )
    own = _positive(own) / sizes[None, :, None].astype(own.dtype)
    external = _noise_spectrum(theory, length)
    num_rows = own.shape[1]
    eye = jnp.eye(num_rows, dtype=own.dtype)[None]
    inverse = jnp.linalg.inv(eye - around.total)  # [w, row, row]
    # Rows answer to their own noise and, through R, to the external one; fields in turn to rows.
    to_rows = contract("wrq,wqf->wrf", inverse, around.response)
    rows = _sandwich(inverse, own) + _sandwich(to_rows, external)
    from_own = contract("wfr,wrq->wfq", around.weights, inverse)
    unit = jnp.eye(external.shape[1], dtype=own.dtype)[None]
    from_external = unit + contract("wfr,wrg->wfg", around.weights, to_rows)
    fields = _sandwich(from_own, own) + _sandwich(from_external, external)
    num = len(theory.populations)
    return Shared(_lags(fields, length, num_lags), _lags(rows[:, :num, :num], length, num_lags))


def noise_spectrum(
    theory: Theory,
    x: Float[Array, "time population path"],
    y: Float[Array, "time stream path"],
    num_lags: int,
) -> tuple[Complex[Array, "w row row"], Float[Array, "population lag"]]:
    """Cross-spectra of the rows of single neurons around their own means, on the circle of lags.

    And the covariances of the outputs. Time averages are those of each path, whose own fluctuation
    takes from the covariance what is put back here; beyond half of the lags it is tapered to zero.
    """
    plastic = plastic_streams(theory)
    rows = jnp.concatenate([x, *(y[:, s : s + 1] for s in plastic)], axis=1)
    rows = rows - jnp.mean(rows, axis=0)[None]
    num_steps, _, num_paths = rows.shape
    length = _fast_length(num_steps + num_lags)
    modes = jnp.fft.rfft(rows, n=length, axis=0)
    power = contract("wrm,wqm->rqw", modes, jnp.conj(modes))
    sums = jnp.fft.irfft(power, n=length, axis=2)
    count = (num_steps - jnp.arange(num_lags, dtype=x.dtype)) * num_paths
    taper = _taper(num_lags, x.dtype)
    later = sums[:, :, :num_lags] / count[None, None]
    total = jnp.sum((later + jnp.swapaxes(later, 0, 1)) * taper[None, None], axis=2) - later[..., 0]
    # The covariance so found is less than the true one by its sum over lags / num_steps.
    lost = total / (num_steps - 2 * jnp.sum(taper) + 1)
    later = later + lost[:, :, None]
    if theory.expected:
        noise = output_noise(theory, jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1), num_lags)
        place = jnp.arange(x.shape[1], dtype=jnp.int32)
        later = later.at[place, place].add(noise)
    later = later * taper[None, None]
    sources = [*range(len(theory.populations)), *(theory.streams[s].source for s in plastic)]
    same = np.equal.outer(sources, sources)[:, :, None]
    later = jnp.where(same, later, 0)
    circular = _circular(later, jnp.swapaxes(later, 0, 1), circle(num_lags))
    spectrum = jnp.moveaxis(jnp.fft.rfft(circular, axis=2), -1, 0)
    num = len(theory.populations)
    return spectrum, jnp.diagonal(later[:num, :num], axis1=0, axis2=1).T


def circle(num_lags: int) -> int:
    """Points of the circle on which covariances of `num_lags` lags are laid."""
    return _fast_length(4 * num_lags)


def on_circle(covariance: Float[Array, "row lag"], length: int) -> Float[Array, "row w"]:
    """Spectra of symmetric covariances."""
    return jnp.fft.rfft(_circular(covariance, covariance, length), axis=1).real


def pair_covariance(solution: Solution) -> Float[Array, "population population *times"]:
    """Mean covariance of the outputs of two different neurons, of populations a and b, at lags.

    Of a march at two times, `[population, population, time, time]`, over networks. From the
    covariance of the population means less what single neurons contribute to it. Raises
    `ValueError` for solutions of another order than "shared", and populations of one neuron.
    """
    if solution.order != "shared" or solution.population_covariance is None:
        raise ValueError('pair covariances are of order 1 / N: solve with order="shared".')
    sizes = np.asarray([population.size for population in solution.network.populations])
    if sizes.min() < 2:
        raise ValueError("a population of one neuron has no pairs.")
    dtype = solution.covariance.dtype
    single = solution.covariance
    if solution.quenched is not None:
        single = single - solution.quenched[:, None]
        single = single * _taper(single.shape[1], dtype)[None]
    own = np.eye(len(sizes))
    times = (1,) * (single.ndim - 1)
    single = single / jnp.asarray(sizes, dtype).reshape(-1, *times)
    found = solution.population_covariance
    found = found - jnp.asarray(own, dtype).reshape(*own.shape, *times) * single[:, None]
    return found / jnp.asarray(1 - own / sizes[:, None], dtype).reshape(*own.shape, *times)


def share_of_shared(solution: Solution) -> Float[Array, "field *time"]:
    """Share of each field's variance that all neurons of its population receive alike.

    Of a march at each time, `[field, time]`.

    Above 0.05 the neurons of a population are no longer nearly independent. Raises `ValueError` for
    solutions of another order than "shared".
    """
    if solution.shared_covariance is None:
        raise ValueError('shared inputs are of order 1 / N: solve with order="shared".')
    own = jnp.moveaxis(jnp.diagonal(solution.shared_covariance, axis1=0, axis2=1), -1, 0)
    total = solution.input_covariance
    if solution.stationary:
        own, total = own[:, 0], total[:, 0]
    else:
        own, total = (jnp.diagonal(x, axis1=1, axis2=2) for x in (own, total))
    return own / jnp.maximum(total, jnp.finfo(own.dtype).tiny)


def quenched_shift(solution: Solution) -> Float[Array, "population"]:
    """Standard deviation of the population means between networks drawn alike, from finite sizes.

    Neurons differ by what they receive, and a population of N of them is off the ensemble's mean
    by the quenched variance / N; the means then answer to each other with their static gains. That
    the drawn weights' own mean varies is in this: it is the mean of the neurons' static inputs.
    Raises `ValueError` for solutions without response.
    """
    theory = build_theory(solution.network, solution.dt)
    static = gain(solution)
    kernels = stream_kernels(theory, 4 * solution.time.shape[0])
    if plastic_streams(theory):
        raise ValueError("quenched_shift takes static synapses: plastic ones have no fixed gain.")
    around = jnp.zeros((len(theory.populations),) * 2, static.dtype)
    for f, (p, _) in enumerate(theory.fields):
        for s, stream in enumerate(theory.streams):
            area = jnp.sum(kernels[s])
            around = around.at[p, stream.source].add(static[f] * theory.mean[f, s] * area)
    inverse = jnp.linalg.inv(jnp.eye(around.shape[0], dtype=static.dtype) - around)
    assert solution.quenched is not None
    sizes = jnp.asarray(theory.sizes, static.dtype)
    return jnp.sqrt(contract("pq,q->p", inverse**2, jnp.maximum(solution.quenched, 0) / sizes))


def external_noise(theory: Theory, lag: Float[Array, "*lag"]) -> Float[Array, "field field *lag"]:
    """Covariance between fields of the noise that populations share, at lags in steps (>= 0).

    Raises `ValueError` where it is not known.
    """
    num = len(theory.fields)
    found = jnp.zeros((num, num, *lag.shape), theory.dtype)
    for noise in theory.shared:
        source = noise.source
        if isinstance(source, WhiteNoise):
            covariance = jnp.where(lag == 0, source.density / theory.dt, 0)
        elif isinstance(source, OrnsteinUhlenbeck):
            covariance = source.sd**2 * jnp.exp(-lag * theory.dt / source.tau)
        else:
            raise ValueError(
                f"shared noise of kind {type(source).__name__} has no covariance here: take "
                'WhiteNoise or OrnsteinUhlenbeck, or order="nested".'
            )
        weight = jnp.stack(
            [
                jnp.asarray(noise.weights.get(theory.names[p], 0.0), theory.dtype)
                * (1.0 if channel == source.channel else 0.0)
                for p, channel in theory.fields
            ]
        )
        found = found + contract("f,g,...->fg...", weight, weight, covariance.astype(theory.dtype))
    return found


def _noise_spectrum(theory: Theory, length: int) -> Complex[Array, "w field field"]:
    """Of the noise that populations share, between fields."""
    step = jnp.arange(length, dtype=theory.dtype)
    found = external_noise(theory, jnp.minimum(step, length - step))
    return as_complex(jnp.moveaxis(jnp.fft.rfft(found, axis=-1).real, -1, 0))


def _row_sizes(theory: Theory) -> Float[Array, "row"]:
    sources = [
        *range(len(theory.sizes)),
        *(theory.streams[s].source for s in plastic_streams(theory)),
    ]
    return jnp.asarray([theory.sizes[p] for p in sources], theory.dtype)


def _positive(spectra: Complex[Array, "w row row"]) -> Array:
    """Spectra with what sampling brought below zero on the diagonal at zero."""
    num = spectra.shape[1]
    diagonal = jnp.diagonal(spectra, axis1=1, axis2=2).real
    lift = jnp.maximum(-diagonal, 0)[:, :, None] * jnp.eye(num, dtype=diagonal.dtype)[None]
    return spectra + as_complex(lift)


def _sandwich(a: Array, b: Array) -> Array:
    return contract("wij,wjk,wlk->wil", a, b, jnp.conj(a))


def _circular(later: Array, earlier: Array, length: int) -> Array:
    """Covariances at lags 0 .. L - 1 and 0 .. 1 - L as a function on the circle, `[..., w]`."""
    num_lags = later.shape[-1]
    gap = jnp.zeros((*later.shape[:-1], length - 2 * num_lags + 1), later.dtype)
    return jnp.concatenate([later, gap, earlier[..., :0:-1]], axis=-1)


def _lags(spectra: Complex[Array, "w a b"], length: int, num_lags: int) -> Array:
    found = jnp.fft.irfft(jnp.moveaxis(spectra, 0, -1), n=length, axis=2)
    return found[:, :, :num_lags]


def shared_sweep(
    key: PRNGKeyArray,
    theory: Theory,
    state: tuple[Moments, Float[Array, "field lag"]],
    sampling: Sampling,
    probes: tuple[int, ...],
) -> tuple[Moments, Float[Array, "field lag"]]:
    """The map of the self-consistency with shared inputs: moments and the fields' covariance."""
    moments, covariance = state
    sampled, responses, noise, felt = sample_shared(
        key, theory, moments, covariance, sampling, probes
    )
    after = stream_moments(theory, sampled, sampling)
    shared = shared_covariances(theory, responses, noise, after.mean, felt, sampling.num_lags)
    own = jnp.diagonal(shared.field, axis1=0, axis2=1).T
    return after, field_law(theory, after).covariance + own


def sample_shared(
    key: PRNGKeyArray,
    theory: Theory,
    moments: Moments,
    covariance: Float[Array, "field lag"],
    sampling: Sampling,
    probes: tuple[int, ...],
) -> tuple[Sampled, Responses, Array, Float[Array, "field lag"]]:
    """Paths under fields of the given covariance, shared inputs included, and what they show.

    Returns them, their responses, the noise spectrum and the shared part of the covariance.
    """
    own = field_law(theory, moments)
    law = Fields(own.mean, covariance, own.static)
    # The fields hold the shared noise already.
    quiet = replace(theory, shared=())
    sampled = sample(key, quiet, law, sampling)
    responses = measure_responses(key, quiet, law, sampled, sampling, probes)
    noise, _ = noise_spectrum(theory, sampled.x, sampled.y, sampling.num_lags)
    return sampled, responses, noise, covariance - own.covariance


def pooled_shared(
    theory: Theory,
    responses: Responses,
    noise: Complex[Array, "replica w row row"],
    mean: Float[Array, "replica stream"],
    felt: Float[Array, "replica field lag"],
) -> Shared:
    """Covariances from all replicas together, `[replica, ...]`: jackknife pseudo-values.

    Covariances are not linear in the responses, whose errors must average out before: the mean of
    the pseudo-values has no bias of first order, and their spread is its error.
    """
    num = mean.shape[0]
    num_lags = felt.shape[2]
    parts = (responses, noise, mean, felt)

    def of(parts):
        responses, noise, mean, felt = parts
        return shared_covariances(theory, responses, noise, mean, felt, num_lags)

    together = of(jax.tree.map(lambda x: jnp.mean(x, axis=0), parts))

    def without(i):
        weight = jnp.where(jnp.arange(num, dtype=jnp.int32) == i, 0, 1 / (num - 1))

        def mean_of(x):
            return jnp.tensordot(weight.astype(x.dtype), x, 1)

        return of(jax.tree.map(mean_of, parts))

    left = jax.lax.map(without, jnp.arange(num, dtype=jnp.int32))
    return jax.tree.map(lambda a, b: num * a[None] - (num - 1) * b, together, left)
