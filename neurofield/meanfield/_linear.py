"""The linear random network with noise, and dimensions of activity."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from neurofield._numerics import contract
from neurofield._types import RealScalar
from neurofield._validate import not_negative


class Linear(eqx.Module):
    """The stationary state of x' = -x + J x + xi, J_ij ~ N(mean / N, g^2 / N), N to infinity.

    - `variance`: of x; `decay_rate`: of its autocovariance, which is exponential.
    - `participation_ratio`: dimension over N at equal times; `slow_participation_ratio`: of the
      activity summed over long times (frequency zero).
    - `population_variance`: N times the variance of the mean of x over neurons.
    """

    variance: Float[Array, ""]
    decay_rate: Float[Array, ""]
    participation_ratio: Float[Array, ""]
    slow_participation_ratio: Float[Array, ""]
    population_variance: Float[Array, ""]

    def covariance(self, lags: Float[Array, "*lag"]) -> Float[Array, "*lag"]:
        """<x(t) x(t + lag)>, lags in units of the time constant."""
        return self.variance * jnp.exp(-self.decay_rate * jnp.abs(lags))


def linear(g: RealScalar, *, sigma2: RealScalar = 1.0, mean: RealScalar = 0.0) -> Linear:
    """Self-consistent solution of the linear random network x' = -x + J x + xi, 0 <= g < 1.

    J_ij are independent normals of mean `mean` / N, `mean` < 1, and variance g^2 / N; the noise has
    <xi xi'> = 2 sigma2 delta(t - t'), t in units of the time constant. Raises `ValueError` for a
    negative `g` or `sigma2`, and when a value is such that no stationary state exists.
    After Hu & Sompolinsky (2022) and Clark, Abbott & Litwin-Kumar (2023).
    """
    not_negative("g", g)
    not_negative("sigma2", sigma2)
    dtype = jnp.result_type(g, sigma2, mean, 1.0)
    g, sigma2, mean = (jnp.asarray(x, dtype) for x in (g, sigma2, mean))
    g = eqx.error_if(
        g, (g >= 1) | (mean >= 1), "A linear network is stable for g < 1 and mean < 1: lower them."
    )
    a, b = jnp.sqrt((1 - g) * (1 + g)), 1 - mean
    # tr C^2 / N over the squared variance, less 1: the double integral of the spectra by residues.
    excess = (1 - a**2) ** 2 / (4 * a**2)
    excess = excess * (3 / (2 * a) - 2 / (1 + a) ** 2) + (1 - a) * (1 + a) ** 2 / (4 * a**2)
    return Linear(
        variance=sigma2 / a,
        decay_rate=a,
        participation_ratio=1 / (1 + excess),
        slow_participation_ratio=a**4,
        population_variance=sigma2 * (1 + 1 / (a * b)) / (a + b),
    )


def participation_ratio(
    spectrum: Float[Array, " frequency"],
    response: Complex[Array, " frequency"],
    g: RealScalar,
    *,
    weights: Float[Array, " frequency"] | None = None,
    inputs: bool = False,
) -> Float[Array, ""]:
    """Dimension over N of the activity of a random network at equal times, tr^2 C / (N tr C^2).

    Weights are independent with variance g^2 / N. `spectrum`: of a neuron's output, and `response`:
    its mean linear response to its input, both at the same frequencies, negative ones included;
    `weights`: the frequencies' weights in an integral, needed only if they are not equidistant.
    `inputs=True` gives the dimension of the inputs, whose spectrum is then asked for.
    After Clark, Abbott & Litwin-Kumar (2023).
    """
    share = spectrum if weights is None else spectrum * weights
    share = share / jnp.sum(share)
    g = jnp.asarray(g, spectrum.dtype)
    real, imag = g * response.real, g * response.imag
    # r(w1) r*(w2), its parts.
    cosine = real[:, None] * real[None, :] + imag[:, None] * imag[None, :]
    sine = imag[:, None] * real[None, :] - real[:, None] * imag[None, :]
    amplification = 1 / ((1 - cosine) ** 2 + sine**2)
    if inputs:
        amplification = amplification * (2 - (cosine**2 + sine**2))
    return 1 / contract("i,ij,j->", share, amplification, share)
