"""Thermodynamics of a graph: the statistical mechanics of diffusion on it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from neurofield._numerics import HIGHEST
from neurofield._types import Arrayish

from ._checks import is_hermitian, require


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
    laplacian: Float[Array, "node node"] | Complex[Array, "node node"],
    diffusion_times: Arrayish,
) -> Thermodynamics:
    """Entropy, specific heat and spectral dimension of a Hermitian Laplacian.

    Exact, from all eigenvalues (Villegas et al. 2022), in the variance form: no differences of
    neighbouring times. Differentiable, at degenerate spectra too.

    Raises `ValueError` (under tracing an error at run time) for a matrix that is not Hermitian,
    whose e^{-tau L} / Z would be no state.
    """
    hermitian = require(
        laplacian, is_hermitian, "laplacian", 'Hermitian, such as laplacian(graph, "magnetic")'
    )
    values = _eigenvalues((hermitian + hermitian.conj().T) / 2)
    return of_spectrum(values, jnp.asarray(diffusion_times, values.dtype))


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
