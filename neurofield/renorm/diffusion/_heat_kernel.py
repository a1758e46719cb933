"""The heat kernel e^{-tau L}, with a derivative that degenerate spectra do not break."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from neurofield._numerics import matmul
from neurofield._types import RealScalar

from ._checks import is_hermitian, require


def heat_kernel(
    laplacian: Float[Array, "node node"] | Complex[Array, "node node"], diffusion_time: RealScalar
) -> Float[Array, "node node"] | Complex[Array, "node node"]:
    """e^{-tau L} of a Hermitian Laplacian at one diffusion time tau (in units of 1 / weight).

    One eigendecomposition. Differentiable once in both arguments, in either mode, by the divided
    differences of Daleckii and Krein, which are finite where eigenvalues coincide. Raises
    `ValueError` (under tracing an error at run time) for a matrix that is not Hermitian.
    """
    laplacian = require(
        laplacian, is_hermitian, "laplacian", 'Hermitian, such as laplacian(graph, "magnetic")'
    )
    time = jnp.asarray(diffusion_time, jnp.real(laplacian).dtype)
    return _heat_kernel((laplacian + laplacian.conj().T) / 2, time)


@jax.custom_jvp
def _heat_kernel(laplacian: Array, time: Array) -> Array:
    values, vectors = jnp.linalg.eigh(laplacian)
    return _assemble(vectors, jnp.exp(-time * values))


@_heat_kernel.defjvp
def _heat_kernel_jvp(primals, tangents):
    laplacian, time = primals
    change, dtime = tangents
    values, vectors = jnp.linalg.eigh(laplacian)
    decay = jnp.exp(-time * values)
    gap = jnp.abs(values[:, None] - values[None]) * time
    safe = jnp.where(gap > 1e-8, gap, 1)
    # (e^-a - e^-b) / (b - a) from the smaller exponent, so that nothing overflows.
    slope = jnp.where(gap > 1e-8, -jnp.expm1(-safe) / safe, 1 - gap / 2)
    slope = -time * jnp.maximum(decay[:, None], decay[None]) * slope
    rotated = matmul(matmul(vectors.conj().T, change), vectors)
    moved = matmul(matmul(vectors, slope.astype(vectors.dtype) * rotated), vectors.conj().T)
    drift = _assemble(vectors, -values * decay)
    return _assemble(vectors, decay), moved + drift * dtime.astype(drift.dtype)


def _assemble(vectors: Array, values: Array) -> Array:
    return matmul(vectors * values[None].astype(vectors.dtype), vectors.conj().T)
