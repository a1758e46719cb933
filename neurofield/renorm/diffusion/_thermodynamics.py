"""Thermodynamics of a graph: the statistical mechanics of diffusion on it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, DTypeLike, Float

from neurofield._numerics import HIGHEST
from neurofield._types import Arrayish, PRNGKey
from neurofield.statistics import jackknife

from ._checks import is_hermitian, require
from ._lanczos import BLOCK, low_modes
from ._sparse_laplacian import SparseLaplacian
from ._traces import estimated_traces


class Thermodynamics(eqx.Module):
    """Functions of the diffusion time, from the state rho = e^{-tau L} / Z of a Laplacian L.

    **Attributes** (each `[time]`, natural logarithms; `*_error` is None where the trace is exact,
    else the standard error over probes)

    - `diffusion_times`: tau, in units of 1 / weight.
    - `entropy`: S = -Tr rho ln rho; the logarithm of the number of components at large times.
    - `specific_heat`: C = -dS / d ln tau = tau^2 Var(lambda).
    - `spectral_dimension`: d_s = -2 d ln Z / d ln tau = 2 tau <lambda>; twice C on a plateau.
    - `log_partition`: ln Z, Z = Tr e^{-tau L}.
    """

    diffusion_times: Float[Array, " time"]
    entropy: Float[Array, " time"]
    specific_heat: Float[Array, " time"]
    spectral_dimension: Float[Array, " time"]
    log_partition: Float[Array, " time"]
    entropy_error: Float[Array, " time"] | None = None
    specific_heat_error: Float[Array, " time"] | None = None
    spectral_dimension_error: Float[Array, " time"] | None = None
    log_partition_error: Float[Array, " time"] | None = None


def thermodynamics(
    laplacian: Float[Array, "node node"] | Complex[Array, "node node"] | SparseLaplacian,
    diffusion_times: Arrayish,
    *,
    key: PRNGKey | None = None,
    num_probes: int = 128,
    num_steps: int = 80,
    num_low_modes: int = 64,
) -> Thermodynamics:
    """Entropy, specific heat and spectral dimension of a Hermitian Laplacian.

    In the variance form (Villegas et al. 2022): no differences of neighbouring times.

    **A matrix**: exact, from all eigenvalues. Differentiable once, at degenerate spectra too.

    **A `SparseLaplacian`**: stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017), `num_steps`
    steps from each of `num_probes` random vectors (rounded up to a multiple of 4), drawn from
    `key`, for all traces and times. The null modes of connected components are exact, and the
    `num_low_modes` lowest ones above them are computed, to 2 % in L v = lambda v: they are what is
    left at late times. On lattices the standard error of S is then at most
    0.6 / sqrt(num_probes num_low_modes). Steps beyond 2 sqrt(largest eigenvalue / that of the last
    low mode) do not change the result; too few leave a bias that the standard errors, those of the
    jackknife over probes, do not show. Differentiable in reverse mode, by the estimator
    Tr f'(L) dL with the same low modes and probes: the derivative of the exact traces up to the
    noise of the probes.

    Raises `ValueError` (under tracing an error at run time) for a matrix that is not Hermitian,
    whose e^{-tau L} / Z would be no state; for times that are negative or not finite; and for a
    `SparseLaplacian` without a key.
    """
    if isinstance(laplacian, SparseLaplacian):
        if key is None:
            raise ValueError("thermodynamics of a SparseLaplacian is estimated: give it a key.")
        if num_probes < 2 or num_steps < 2 or num_low_modes < 0:
            raise ValueError(
                "num_probes and num_steps must be at least 2 and num_low_modes at least 0, got "
                f"{num_probes}, {num_steps} and {num_low_modes}."
            )
        times = _times(diffusion_times, laplacian.diagonal.dtype)
        return _estimated(laplacian, times, key, num_probes, num_steps, num_low_modes)
    hermitian = require(
        laplacian, is_hermitian, "laplacian", 'Hermitian, such as laplacian(graph, "magnetic")'
    )
    values = _eigenvalues((hermitian + hermitian.conj().T) / 2)
    return of_spectrum(values, _times(diffusion_times, values.dtype))


def _times(diffusion_times: Arrayish, dtype: DTypeLike) -> Float[Array, " time"]:
    times = jnp.asarray(diffusion_times, dtype)
    if times.ndim != 1:
        raise ValueError(f"diffusion_times must be one axis of times, got shape {times.shape}.")
    return require(
        times, lambda t: jnp.isfinite(t) & (t >= 0), "diffusion_times", "finite and not negative"
    )


def of_spectrum(values: Float[Array, " node"], times: Float[Array, " time"]) -> Thermodynamics:
    """From ascending eigenvalues."""
    lowest = values[0]
    energy = times[:, None] * (values - lowest)[None]
    weight = jnp.exp(-energy)
    partition = jnp.sum(weight, axis=1)
    weight = weight / partition[:, None]
    mean = jnp.sum(weight * energy, axis=1)
    variance = jnp.sum(weight * (energy - mean[:, None]) ** 2, axis=1)
    log_partition = jnp.log(partition)
    shift = times * lowest
    return Thermodynamics(
        times,
        log_partition + mean,
        variance,
        2 * (mean + shift),
        log_partition - shift,
    )


@eqx.filter_jit
def _estimated(
    laplacian: SparseLaplacian,
    times: Array,
    key: PRNGKey,
    num_probes: int,
    num_steps: int,
    num_low_modes: int,
) -> Thermodynamics:
    keys = jax.random.split(key)
    num_steps = min(num_steps, laplacian.num_nodes)
    frozen = jax.lax.stop_gradient(laplacian)
    modes = low_modes(keys[0], frozen, num_low_modes, num_steps)
    num_blocks = -(-num_probes // BLOCK)
    low, rest, shift = estimated_traces(keys[1], laplacian, modes, times, num_blocks, num_steps)
    offset = times * jax.lax.stop_gradient(shift)

    def fields(rest: Array) -> Array:
        partition, first, second = low + jnp.mean(rest, axis=0)
        partition = partition + laplacian.num_null
        mean = first / partition
        log_partition = jnp.log(partition)
        variance = second / partition - mean**2
        return jnp.stack(
            [log_partition + mean, variance, 2 * (mean + offset), log_partition - offset]
        )

    found = jackknife(fields, rest)
    return Thermodynamics(times, *found.mean, *jax.lax.stop_gradient(found.error))


@jax.custom_jvp
@jax.jit
def _eigenvalues(hermitian: Array) -> Float[Array, " node"]:
    """Ascending, without eigenvectors; the derivative is right for functions of all of them."""
    if len(hermitian) < 3:
        return jnp.linalg.eigvalsh(hermitian)
    # On a CPU, bisection of the tridiagonal form takes half as long as the library's routine.
    return jax.lax.platform_dependent(hermitian, cpu=_bisect, default=jnp.linalg.eigvalsh)


def _bisect(hermitian: Array) -> Array:
    _, diagonal, off_diagonal, _ = jax.lax.linalg.tridiagonal(hermitian, lower=True)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.scipy.linalg.eigh_tridiagonal(diagonal, off_diagonal, eigvals_only=True)


@_eigenvalues.defjvp
def _eigenvalues_jvp(primals, tangents):
    (hermitian,), (change,) = primals, tangents
    values, vectors = jnp.linalg.eigh(hermitian)
    rotated = jnp.matmul(change, vectors, precision=HIGHEST)
    return values, jnp.sum(jnp.real(vectors.conj() * rotated), axis=0)
