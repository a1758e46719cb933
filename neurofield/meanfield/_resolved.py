"""Linear theory of single neurons: covariances for given weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from neurofield._numerics import HIGHEST, contract


def resolved_covariance(
    weights: Float[Array, "neuron neuron"],
    response: Complex[Array, "frequency neuron"],
    autospectrum: Float[Array, "frequency neuron"],
) -> Complex[Array, "frequency neuron neuron"]:
    """Cross-spectra of neurons that are linear around the mean-field state, for given weights.

    C(w) = (1 - R J)^-1 diag(D) (1 - R J)^-dagger, D such that the diagonal of C is the spectrum of
    each neuron by mean-field theory. `weights[post, pre]`, synaptic kernels in the response;
    `response`: of a neuron's mean output to its input, `autospectrum`: of its output. The private
    spectra D are not asked to be positive: negative ones say that the weights are too strong for
    the theory. After Grytskyy et al. (2013), Dahmen et al. (2019) and Clark (2026).
    """
    num = weights.shape[0]
    eye = jnp.eye(num, dtype=weights.dtype)
    real = eye[None] - response.real[:, :, None] * weights[None]
    matrix = jax.lax.complex(real, -response.imag[:, :, None] * weights[None])
    gain = jnp.linalg.inv(matrix)
    power = gain.real**2 + gain.imag**2
    private = jnp.linalg.solve(power, autospectrum[..., None])[..., 0]
    private = jax.lax.complex(private, jnp.zeros_like(private))
    return jnp.matmul(gain * private[:, None, :], jnp.conj(gain.mT), precision=HIGHEST)


def ornstein_uhlenbeck_covariance(
    weights: Float[Array, "neuron neuron"], sigma2: Float[Array, " neuron"]
) -> Float[Array, "neuron neuron"]:
    """Covariance at equal times of x' = -x + J x + xi, <xi_i xi_i'> = 2 sigma2_i delta(t - t').

    `weights`: J[post, pre]; time in units of the time constant. Solves Lyapunov's equation by
    doubling (Smith 1968), which sums exponentially many terms: time scales up to 1e5 in 22 products
    of matrices. Raises where J has an eigenvalue with a real part of 1 or more: there is no
    stationary state.
    """
    num = weights.shape[0]
    eye = jnp.eye(num, dtype=weights.dtype)
    # From dC/dt = 0 to C = B C B^T + Q, with the Cayley transform B of J - 1.
    inverse = jnp.linalg.inv(2 * eye - weights)
    step = contract("ij,jk->ik", inverse, weights)
    total = 4 * contract("ij,j,kj->ik", inverse, sigma2, inverse)

    def double(carry, _):
        total, step = carry
        total = total + contract("ij,jk,lk->il", step, total, step)
        return (total, contract("ij,jk->ik", step, step)), None

    (total, step), _ = jax.lax.scan(double, (total, step), length=22)
    return eqx.error_if(
        total,
        ~(jnp.max(jnp.abs(step)) < 1e-3),
        "No stationary state: an eigenvalue of the weights has a real part of 1 or more.",
    )


def participation_ratio_of(covariance: Float[Array, "*batch neuron neuron"]) -> Array:
    """Dimension of a covariance matrix, tr^2 C / tr C^2, between 1 and the number of neurons."""
    trace = jnp.trace(covariance, axis1=-2, axis2=-1)
    return trace**2 / jnp.sum(covariance**2, (-2, -1))
