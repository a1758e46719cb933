"""Whether the asynchronous state holds: the determinant of 1 - (gain around the loop)."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int

from ._response import Responses
from ._solution import Solution
from ._stationary import _fast_length
from ._theory import Theory, build_theory
from ._transfer import _response, loop

# Points of the grid of frequencies for each lag of the response.
_FINE = 16
# Below this, fluctuations of the means are amplified tenfold: near to instability.
_NEAR = 0.1


class Stability(eqx.Module):
    """Linear stability of a stationary state against fluctuations of the population means.

    - `determinant[frequency]`: det(1 - R W) at `frequency` hertz, from 0 to 1 / (2 dt).
    - `least`: the smallest modulus of it, and `least_frequency` where that is, a point of the grid
      (which has no derivative; all other numbers have).
    - `encirclements`: how often the determinant goes around 0, which is the number of modes that
      grow (Nyquist); a growing oscillation counts twice, as a pair of modes.
    - `crossing`: frequency at which the determinant crosses the real axis farthest to the left: of
      the oscillation that sets in first, or has; and `margin`, its value there.
    - `stable`: whether nothing grows; `near`: whether `least` is below 0.1.
    """

    determinant: Complex[Array, "frequency"]
    frequency: Float[Array, "frequency"]
    least: Float[Array, ""]
    least_frequency: Float[Array, ""]
    encirclements: Int[Array, ""]
    crossing: Float[Array, ""]
    margin: Float[Array, ""]
    stable: Bool[Array, ""]
    near: Bool[Array, ""]


def stability(solution: Solution) -> Stability:
    """Stability of a stationary solution, from the response of its neurons.

    The loop is that of population means, discretised as the solution: responses, synapses, delays,
    and (binary neurons, spikes through `Delta`) the variance of the input that follows the mean.
    A state that is not stable oscillates or switches in a real network, which then does not have
    the activity of the solution. Raises `ValueError` for solutions without response.
    After Abbott & van Vreeswijk (1993) and Brunel (2000).
    """
    output = _response(solution)
    theory = build_theory(solution.network, solution.dt)
    variance, stream = (
        None if x is None else x * theory.dt
        for x in (solution.variance_response, solution.stream_response)
    )
    responses = Responses(output * theory.dt, variance, stream)
    assert solution.moments is not None
    return nyquist(theory, responses, jnp.mean(solution.moments.mean, axis=0))


def nyquist(theory: Theory, responses: Responses, mean: Float[Array, "stream"]) -> Stability:
    """Stability from the responses; `mean`: of what the streams transmit."""
    length = _fast_length(_FINE * responses.output.shape[1])
    total = loop(theory, responses, mean, length).total
    eye = jnp.eye(total.shape[1], dtype=total.dtype)[None]
    found = jnp.linalg.det(eye - total)
    frequency = jnp.arange(found.shape[0], dtype=theory.dtype) / (length * theory.dt)
    # The modulus is 1 at infinitely fast decay, where nothing is fed back: zeros of the polynomial
    # 1 - G(z) outside the unit circle wind the determinant backwards.
    turns = jnp.angle(found[1:] * jnp.conj(found[:-1]))
    encirclements = jnp.round(-jnp.sum(turns) / np.pi).astype(jnp.int32)
    size = jnp.abs(found)
    at = jnp.argmin(size)
    crossing, margin = _crossing(found, frequency)
    return Stability(
        determinant=found,
        frequency=frequency,
        least=size[at],
        least_frequency=frequency[at],
        encirclements=encirclements,
        crossing=crossing,
        margin=margin,
        stable=encirclements == 0,
        near=size[at] < _NEAR,
    )


def _crossing(determinant: Array, frequency: Array) -> tuple[Array, Array]:
    """Where the curve crosses the real axis farthest to the left, its ends included."""
    real, imaginary = determinant.real, determinant.imag
    before, after = imaginary[:-1], imaginary[1:]
    crosses = (before * after < 0) | (after == 0)
    step = jnp.where(crosses, after - before, 1)
    share = jnp.where(crosses & (step != 0), -before / jnp.where(step == 0, 1, step), 0)
    value = real[:-1] + share * (real[1:] - real[:-1])
    place = frequency[:-1] + share * (frequency[1:] - frequency[:-1])
    value = jnp.concatenate([real[:1], jnp.where(crosses, value, jnp.inf)])
    place = jnp.concatenate([frequency[:1], place])
    least = jnp.argmin(value)
    return place[least], value[least]
