"""Hazards: how often a neuron with escape noise fires, as a function of its distance to threshold.

Names: `"exponential"` exp(x), `"erf"` (1 + erf(x / sqrt 2)) / 2, `"logistic"` 1 / (1 + exp(-x)),
`"softplus"` log(1 + exp(x)), `"linear"` max(x, 0). All are relative to a rate in hertz.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import logistic, softplus

HazardName: TypeAlias = Literal["exponential", "erf", "logistic", "softplus", "linear"]
Hazard: TypeAlias = HazardName | Callable[[Array], Array]


def check_hazard(hazard: Hazard) -> None:
    if not callable(hazard) and hazard not in get_args(HazardName):
        names = ", ".join(get_args(HazardName))
        raise ValueError(f"hazard is {hazard!r}: give one of {names}, or a function of x.")


def relative_hazard(hazard: Hazard, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The hazard as a multiple of its rate."""
    if callable(hazard):
        return hazard(x)
    match hazard:
        case "exponential":
            # exp(60) fires at once at any rate and step; more would overflow to a NaN derivative.
            return jnp.exp(jnp.minimum(x, 60))
        case "erf":
            return jax.scipy.special.ndtr(x)
        case "logistic":
            return logistic(x)
        case "softplus":
            return softplus(x)
        case "linear":
            return jnp.maximum(x, 0)


def spike_probability(hazard: Float[Array, "*shape"], dt: float) -> Float[Array, "*shape"]:
    """Of at least one event in `dt` seconds at a constant hazard in hertz: 1 - exp(-hazard dt)."""
    return -jnp.expm1(-dt * hazard)
