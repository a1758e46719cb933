"""Thermodynamics of a graph: the statistical mechanics of diffusion on it."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float


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
    diffusion_times: ArrayLike,
) -> Thermodynamics:
    """Entropy, specific heat and spectral dimension of a Hermitian Laplacian.

    Exact, from all eigenvalues (Villegas et al. 2022), in the variance form: no differences of
    neighbouring times. Differentiable, at degenerate spectra too.
    """
    values = jnp.linalg.eigvalsh(laplacian)
    times = jnp.asarray(np.asarray(diffusion_times), values.dtype)
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
