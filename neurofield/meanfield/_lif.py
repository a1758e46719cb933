"""Self-consistent rates of networks of leaky integrate-and-fire neurons (diffusion theory)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from neurofield._numerics import HIGHEST
from neurofield._results import RESULTS, choose
from neurofield._types import Arrayish
from neurofield._validate import not_negative

from ._siegert import coefficient_of_variation, least_noise, lif_arrays, siegert

_OUTCOMES: Any = (RESULTS.successful, RESULTS.nonlinear_max_steps_reached)
_SILENT = 1e-6  # hertz: what is far below it counts as no rate
_FIRST_STEP = 0.5  # of the relaxation that Newton's method is damped by, in its time constants


class LIFRates(eqx.Module):
    """A stationary state of populations of LIF neurons, `[population]`, from `lif_rates`.

    - `rate`: Hz; `cv`: of the inter-spike intervals.
    - `mean`, `sd`: of the input, mV, as in `siegert`.
    - `result`: how the search ended; `num_steps`: of Newton's method; `residual`: the largest
      relative difference between the rates and those that they bring about.
    """

    rate: Float[Array, " P"]
    mean: Float[Array, " P"]
    sd: Float[Array, " P"]
    cv: Float[Array, " P"]
    residual: Float[Array, ""]
    num_steps: Int[Array, ""]
    result: RESULTS


def lif_rates(
    weight: Arrayish,
    square_weight: Arrayish,
    mean: ArrayLike,
    variance: ArrayLike,
    *,
    tau: ArrayLike,
    threshold: ArrayLike,
    reset: ArrayLike,
    refractory: ArrayLike,
    rest: ArrayLike = 0.0,
    synaptic_tau: ArrayLike = 0.0,
    initial: Arrayish | None = None,
    rtol: float | None = None,
    max_steps: int = 200,
    throw: bool = True,
) -> LIFRates:
    """Rates of P populations that bring about themselves: rate = siegert(mean, sd) with

        mean_a = mean_a + tau_a sum_b weight_ab rate_b
        sd_a^2 = variance_a + tau_a sum_b square_weight_ab rate_b

    - `weight`, `square_weight`: `[post, pre]`, sums over a target's synapses of the jump J of the
      voltage (mV) that a spike makes in all, and of J^2. K synapses of a strength J: K J, K J^2.
      Exponential synapses of peak current w (mV) and time constant s have J = w s / tau.
    - `mean`, `variance`: of the external input, mV and mV^2; Poisson input adds as above. These and
      the parameters of `siegert`: scalars or `[population]`.
    - `initial`: rates `[population]` in Hz to begin from, silence by default. Where there are
      several solutions the one found depends on it.
    - `rtol`: of the rates, eps^(2/3) by default; `max_steps` of Newton's method (static).

    Input is Gaussian and white, its fluctuations those of independent Poisson neurons (Brunel
    2000; Fourcaud & Brunel 2002). Newton's method on rate - siegert(...), damped as implicit steps
    of d rate / dt = siegert(...) - rate, which grow as the residual falls (pseudo-transient
    continuation, Kelley & Keyes 1998). Derivatives are those of the solution (implicit function
    theorem), exact in forward and reverse mode; they hold `initial` for no argument.

    Raises `ValueError` for a bad argument; `RuntimeError` under `throw` if no solution was found:
    else `result` says so, and the rates are the last ones.
    """
    weight, square_weight = jnp.asarray(weight), jnp.asarray(square_weight)
    count = weight.shape[0]
    if not weight.shape == square_weight.shape == (count, count):
        raise ValueError(
            f"weight and square_weight must be [post, pre] of one number of populations, got "
            f"{weight.shape} and {square_weight.shape}."
        )
    not_negative("square_weight", square_weight)
    not_negative("variance", variance)
    p = lif_arrays(
        mean=mean,
        sd=0.0,
        tau=tau,
        threshold=threshold,
        reset=reset,
        refractory=refractory,
        rest=rest,
        synaptic_tau=synaptic_tau,
    )
    dtype = jnp.result_type(weight, square_weight, *p.values())
    p = {name: _per_population(name, x, count, dtype) for name, x in p.items()}
    outside, mean = _per_population("variance", variance, count, dtype), p.pop("mean")
    # So little that it is no noise, and that the square root has a derivative.
    outside = outside + (least_noise(dtype) * (p["threshold"] - p["reset"])) ** 2
    del p["sd"]
    start = jnp.zeros(count, dtype)
    if initial is not None:
        start = _per_population("initial", initial, count, dtype)
    tolerance = float(jnp.finfo(dtype).eps) ** (2 / 3) if rtol is None else rtol

    rate, residual, num_steps = _solved(
        weight, square_weight, mean, outside, p, start, tolerance, max_steps
    )
    found = residual <= tolerance
    if throw:
        rate = eqx.error_if(
            rate,
            ~found,
            f"meanfield.lif_rates: no self-consistent rates within {max_steps} steps of Newton's "
            "method. Give `initial` rates near those expected, raise max_steps, or take "
            "throw=False and look at `result` and `residual`.",
        )
    mean, sd = _received(weight, square_weight, mean, outside, p["tau"], rate)
    cv = coefficient_of_variation(mean, sd, **p)
    return LIFRates(rate, mean, sd, cv, residual, num_steps, choose(found, *_OUTCOMES))


def _per_population(name: str, value: Any, count: int, dtype: Any) -> Array:
    value = jnp.asarray(value)
    if value.shape not in ((), (count,)):
        raise ValueError(
            f"{name} must be a scalar or [population] = ({count},), got shape {value.shape}."
        )
    return jnp.broadcast_to(value.astype(dtype), (count,))


def _received(weight, square_weight, mean, variance, tau, rate) -> tuple[Array, Array]:
    """Mean and sd of the input for these rates."""
    first = jnp.matmul(weight, rate, precision=HIGHEST)
    second = jnp.matmul(square_weight, rate, precision=HIGHEST)
    return mean + tau * first, jnp.sqrt(variance + tau * second)


@partial(jax.jit, static_argnames=("tolerance", "max_steps"))
def _solved(weight, square_weight, mean, variance, p, start, tolerance, max_steps):
    """The rates, their relative residual, and the number of steps."""

    def excess(rate: Array) -> Array:
        received = _received(weight, square_weight, mean, variance, p["tau"], rate)
        return siegert(*received, **p) - rate

    def search(fn: Any, start: Array) -> tuple[Array, tuple[Array, Array]]:
        return _newton(fn, start, tolerance, max_steps)

    def tangent_solve(fn: Any, right: Array) -> Array:
        return jnp.linalg.solve(jax.jacfwd(fn)(right), right)

    rate, (residual, num_steps) = jax.lax.custom_root(
        excess, start, search, tangent_solve, has_aux=True
    )
    return rate, residual, num_steps.astype(jnp.int32)


def _newton(
    fn: Callable[[Array], Array], start: Array, tolerance: float, max_steps: int
) -> tuple[Array, tuple[Array, Array]]:
    """A root of `fn` among rates that are not negative, its relative residual, and the steps."""

    def residual_of(rate: Array, excess: Array) -> Array:
        return jnp.max(jnp.abs(excess) / (rate + _SILENT))

    def going_on(carry):
        rate, excess, _, num = carry
        return (residual_of(rate, excess) > tolerance) & (num < max_steps)

    def step(carry):
        rate, excess, span, num = carry
        identity = jnp.eye(rate.shape[0], dtype=rate.dtype)
        change = jnp.linalg.solve(identity / span - jax.jacfwd(fn)(rate), excess)
        new = jnp.maximum(rate + change, 0)
        then = fn(new)
        size, new_size = jnp.linalg.norm(excess), jnp.linalg.norm(then)
        # Where rates feed themselves, too long a step goes backwards.
        taken = (new_size < size) | (jnp.vdot(change, excess) > 0)
        # Switched evolution relaxation.
        ratio = size / jnp.maximum(new_size, jnp.finfo(size.dtype).tiny)
        span = span * jnp.where(taken, jnp.clip(ratio, 0.5, 10), 0.2)
        return jnp.where(taken, new, rate), jnp.where(taken, then, excess), span, num + 1

    carry = (
        start,
        fn(start),
        jnp.full((), _FIRST_STEP, start.dtype),
        jnp.zeros((), jnp.int32),
    )
    rate, excess, _, num = jax.lax.while_loop(going_on, step, carry)
    # `custom_root` differentiates floats alone.
    return rate, (residual_of(rate, excess), num.astype(rate.dtype))
