"""`solve`: the mean-field equations of a network, by the method that fits it."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import all_finite, contract, standard_error
from neurofield._results import RESULTS, choose
from neurofield._validate import not_negative
from neurofield.network import Network, check_network

from ._analytic import analytic, diffusion
from ._courses import Plan, solve_course, world_means
from ._diagnostics import measure_diagnostics
from ._fixed_point import fixed_point, largest
from ._intensity import with_gradient
from ._response import measure_responses, still_fields
from ._shared import pooled_shared, sample_shared, shared_sweep
from ._solution import Solution
from ._stationary import (
    Moments,
    Sampling,
    field_law,
    first_moments,
    moment_scales,
    output_moments,
    sample,
    sweep,
)
from ._theory import Theory, build_theory, depends_on_time, whole_steps

_METHODS = ("analytic", "diffusion", "march", "relaxation", "stationary")
_ORDERS = ("leading", "shared", "nested")
_REMEDIES = {
    "march": "Raise num_paths or rtol",
    "relaxation": "Raise max_steps, num_paths or rtol",
    "stationary": "Raise max_steps or num_paths, lower damping, start from the solution of a "
    "weaker coupling (initial=)",
}


def solve(
    network: Network,
    duration: float,
    dt: float,
    *,
    method: str | None = None,
    order: str = "leading",
    key: PRNGKeyArray | None = None,
    num_paths: int = 2048,
    num_replicas: int = 4,
    warm_up: float | None = None,
    max_lag: float | None = None,
    window: float | None = None,
    initial: Solution | None = None,
    rtol: float | None = None,
    max_steps: int = 200,
    damping: float = 0.5,
    response: bool = True,
    jitter: float | None = None,
    gradient: str | None = None,
    white: bool = False,
    throw: bool = True,
) -> Solution:
    """Means and covariances of a network's activity, without simulating the network.

    **Methods**

    - `"march"`: the two-time equations from time 0 to `duration`, in one pass, exact for the steps
      of `dt`; for any drive. With `window` (seconds) the past beyond it is cut off.
    - `"relaxation"`: the same equations by sweeps over all steps, as many as the moments take to
      settle, at most one a step: much larger pieces of work than a step of the march.
    - `"stationary"`: the stationary state by Fourier sampling and fixed-point iteration; `duration`
      is that of the sampled paths, after `warm_up` (a fifth of it by default). Covariances are to
      lags of `max_lag` (a fifth), beyond half of which the field's correlations are tapered to
      their limit.

    - `"analytic"`: closed forms in continuous time, on the lags of the grid: one population of
      `Rate` units with "tanh" or "erf" and no mean input, "erf" or linear units (the identity as
      `phi`) with white noise, `EscapeLIF(resets=False)` with the hazard "erf" or "exponential" and
      jumps, `Binary` units with sharp thresholds or Gaussian noise. Needs no key.
    - `"diffusion"`: rates of `LIF` neurons as if their input were white (`lif_network`; Siegert
      1951, Brunel 2000), spike trains being Poisson. Recurrent input is not white in truth: of the
      network of Brunel (2000) the rate is 2 %, the variability 60 % too high.

    By default `"march"` where the drive depends on time, `"analytic"` at leading order where there
    is a closed form, else `"stationary"`.

    **Orders**

    - `"leading"`: populations are infinite; the fluctuations of neurons are independent.
    - `"shared"`: populations have their sizes, to first order in 1 / N: fluctuations of their means
      and shared noise, which all neurons feel, follow from linear response and are part of every
      neuron's input. Stationary states, and marches without a window, of which what is shared
      includes by how much networks differ for good (see `Solution`): some marches, each with the
      shared input that the last one gave, until it changes by less than `rtol` of a field's
      variance.
    - `"nested"`: populations have their sizes. Worlds of as many paths as the largest population
      has neurons feel the fluctuations of their own population means, to all orders.

    **Other arguments**

    - `key`: random numbers; the same key gives the same solution, a smooth function of parameters
      (common random numbers). `num_paths` neurons of each population are drawn, in `num_replicas`
      independent groups, each with its own solution: results are their means, errors from their
      spread. Moments have a bias of the order of `num_replicas / num_paths`.
    - `initial`: a stationary solution of a like network, from which to start (continuation; another
      branch where there are several).
    - `rtol`: relative change of the moments at which the iteration ends, 1e-5 for rates and 2e-3
      for spikes and binary states by default; `max_steps`, `damping`: of the iteration.
    - `response`: whether to measure the linear response of the neurons, and what follows from it.
      Smooth neurons are differentiated, of courses in time along 64 paths of each group.
    - `jitter`: relative white noise that keeps covariances positive definite.
    - `white`: give the recurrent input the power that it has at frequency zero at all frequencies
      (stationary states at leading order): what its colour does is the difference.
    - `throw`: raise where the result is not one; else see `result`.

    **Gradients** with respect to the network's parameters, through reparameterised fields and by
    the implicit rule at fixed points. `gradient` names the estimator:

    - `"pathwise"` (default of rate neurons): exact derivatives of the estimate.
    - `"intensity"` (default where neurons and synapses allow it, in values too): paths transmit
      what is expected given their input, whose noise is added in law: exact derivatives of an
      estimate of less variance. For spikes that leave the neuron as it was
      (`EscapeLIF(resets=False)`, `GLM` without history) and asynchronous binary neurons, those
      with `gain` for derivatives; at leading order.
    - `"score"` (default for `spike_gradient="score"`): the causal score function with a baseline
      at each step, for neurons with escape noise; unbiased but for terms of the order of
      `num_replicas / num_paths`, noisier; at leading order. Stationary: of the emissions of the
      last `max_lag`.
    - `"surrogate"`: the neurons' own, biased; `"none"`: they raise `TypeError`.

    Raises `ValueError` for bad arguments and networks that the theory does not cover (see there),
    and a `RuntimeError` where the iteration does not converge or numbers are not finite.
    After Sompolinsky, Crisanti & Sommers (1988), van Meegen & van Albada (2021).
    """
    network = check_network(network, dt)
    theory = build_theory(network, dt)
    closed = plain = diagnostics = None
    if white and (method not in (None, "stationary") or order != "leading"):
        raise ValueError(
            'white=True is for stationary states at leading order: take method="stationary" and '
            'order="leading".'
        )
    if method in (None, "analytic", "diffusion") and order == "leading" and not white:
        num_lags = _num_lags(duration, dt, max_lag)
        if method == "diffusion":
            closed = diffusion(network, theory, num_lags)
        elif not depends_on_time(network):
            closed = analytic(theory, num_lags)
        if closed is not None:
            method = "diffusion" if method == "diffusion" else "analytic"
            return _closed_solution(network, theory, closed, method, throw)
    theory = dataclasses.replace(with_gradient(theory, gradient, order), white=white)
    if method is None:
        method = "march" if depends_on_time(network) and not white else "stationary"
    _check(network, theory, method, order, key, num_paths, num_replicas, window)
    assert key is not None
    num_steps = whole_steps("duration", duration, dt)
    size = max(theory.sizes)
    nested = order == "nested"
    per_replica = max(num_paths // num_replicas, 2)
    num_worlds = max(per_replica // size, 2) if nested else 1
    if nested:
        per_replica = size
    keys = jax.random.split(key, num_replicas)
    smooth = theory.gradient in ("pathwise", "intensity")
    if method != "stationary":
        if initial is not None:
            raise ValueError('initial= is for method="stationary": courses start as neurons do.')
        if jitter is None:
            jitter = 1e-8 if jnp.finfo(theory.dtype).eps < 1e-12 else 1e-4
        not_negative("jitter", jitter)
        rtol_of = {"march": 1e-3 if smooth else 1e-2, "relaxation": 1e-6 if smooth else 1e-4}
        plan = Plan(
            method,
            num_steps,
            per_replica,
            num_worlds,
            nested,
            None if window is None else whole_steps("window", window, dt),
            jitter,
            rtol_of[method] if rtol is None else rtol,
            max_steps,
        )
        found, diagnostics, error, steps = solve_course(
            theory, network, keys, plan, order, response
        )
        result, stats, moments = RESULTS.successful, {}, None
        if method == "relaxation" or order == "shared":
            result = _settled(error, plan.rtol)
            stats = {"error": error, "num_sweeps": steps}
    else:
        num_warm = whole_steps(
            "warm_up", duration / 5 if warm_up is None else warm_up, dt, rounded=True
        )
        num_lags = _num_lags(duration, dt, max_lag)
        if not 2 <= num_lags <= num_steps // 2:
            raise ValueError(
                f"max_lag = {num_lags * dt:.6g} s must lie between two steps and half of duration "
                f"= {duration} s."
            )
        rtol = (1e-5 if smooth else 2e-3) if rtol is None else rtol
        plain = Sampling(num_steps, num_warm, num_lags, per_replica)
        sampling = Sampling(
            num_steps,
            num_warm,
            num_lags,
            per_replica,
            num_worlds,
            nested,
            order == "shared",
            response and not nested,
            still_fields(theory),
        )
        start = None if initial is None else _start(initial, theory, num_lags, num_replicas)
        found, moments, error, steps = _stationary(
            theory, keys, start, sampling, rtol, max_steps, damping
        )
        result = _settled(error, rtol)
        stats = {"error": error, "num_sweeps": steps}
    finite = all_finite(found)
    result = choose(finite, result, RESULTS.nonfinite)
    if throw:
        # Only what all ask for: derivatives of responses cost nothing unless they are used.
        aside = {
            name: found.pop(name) for name in ("response", "variance_response") if name in found
        }
        found = eqx.error_if(
            found,
            result != RESULTS.successful,
            f"meanfield.solve: method {method!r} found no solution (the moments did not settle, or "
            f"are not finite). {_REMEDIES[method]}, or take throw=False and look at `result`, "
            "`stats`.",
        )
        found |= aside
    settings = {
        **{"duration": duration, "dt": dt, "method": method, "order": order},
        **{"num_paths": num_paths, "num_replicas": num_replicas, "warm_up": warm_up},
        **{"max_lag": max_lag, "window": window, "rtol": rtol, "max_steps": max_steps},
        **{"damping": damping, "response": response, "jitter": jitter, "gradient": gradient},
        "white": white,
    }
    solution = _solution(network, theory, found, moments, result, stats, settings)
    if plain is not None:
        assert moments is not None
        # Fields of this order hold the shared noise already.
        quiet = dataclasses.replace(theory, shared=()) if order == "shared" else theory
        diagnostics = measure_diagnostics(keys, quiet, network, found, moments, plain)
    return dataclasses.replace(solution, diagnostics=diagnostics)


def _settled(error: Array, rtol: float) -> RESULTS:
    yes, no = RESULTS.successful, RESULTS.nonlinear_max_steps_reached
    return choose(jnp.max(error) <= rtol, yes, no)


def _check(network, theory, method, order, key, num_paths, num_replicas, window):
    if method not in _METHODS:
        raise ValueError(f"method={method!r} is not one of {_METHODS}.")
    if method in ("analytic", "diffusion"):
        raise ValueError(
            f"method={method!r} does not cover this network or order={order!r} (see `solve`): take "
            '"stationary" or "march".'
        )
    if order not in _ORDERS:
        raise ValueError(f"order={order!r} is not one of {_ORDERS}.")
    if key is None:
        raise ValueError(f"method {method!r} draws paths: give key=jax.random.key(seed).")
    if not 2 <= num_replicas <= num_paths // 2:
        raise ValueError(
            f"num_replicas must lie between 2 and num_paths / 2 = {num_paths // 2}, got "
            f"{num_replicas}: errors come from the spread between replicas."
        )
    if method == "stationary" and not theory.fields:
        raise ValueError('neurons without recurrent input: take method="march".')
    if method == "stationary" and depends_on_time(network):
        raise ValueError('the drive depends on time: take method="march".')
    if theory.shared and order == "leading":
        raise ValueError(
            "noise shared by whole populations moves their means, which leading order does not "
            'follow: take order="shared" or order="nested".'
        )
    if order == "shared" and (method == "relaxation" or window is not None):
        raise ValueError(
            'order="shared" is for stationary states and marches without a window: take those, or '
            'order="nested".'
        )
    if order == "shared" and method == "march" and not theory.fields:
        raise ValueError('neurons without recurrent input share none: take order="leading".')


def _num_lags(duration: float, dt: float, max_lag: float | None) -> int:
    return whole_steps("max_lag", duration / 5 if max_lag is None else max_lag, dt, rounded=True)


def _closed_solution(network, theory, closed, method: str, throw: bool) -> Solution:
    found, result = closed
    if throw:
        found = eqx.error_if(
            found,
            result != RESULTS.successful,
            f"meanfield.solve: method {method!r} found no stable solution of its equations: take "
            'method="stationary" or "march", or throw=False and look at `result`.',
        )
    settings = {"method": method, "order": "leading"}
    solution = _solution(network, theory, found, None, result, {}, settings)
    # Nothing was drawn: there are no groups to have a spread.
    errors = [name for name in vars(solution) if name.endswith("_error")] + ["replicas"]
    return dataclasses.replace(solution, **dict.fromkeys(errors), gradient="implicit")


def _start(initial: Solution, theory: Theory, num_lags: int, num_replicas: int) -> Moments:
    moments = initial.moments
    shape = (num_replicas, len(theory.streams), num_lags)
    if moments is None or moments.second.shape != shape:
        got = None if moments is None else moments.second.shape
        raise ValueError(
            f"initial must be a stationary solution with moments {shape} (replicas, streams, lags)"
            f", got {got}: solve it with the same num_replicas, dt and max_lag."
        )
    return moments


@eqx.filter_jit
def _stationary(theory, keys, start, sampling, rtol, max_steps, damping):
    """Moments of each replica's stationary state, and how its iteration ended."""

    def one(key, first):
        if first is None:
            first = first_moments(key, theory, sampling)
        options = {"rtol": rtol, "max_steps": max_steps, "damping": damping}
        if sampling.shared:
            end = fixed_point(
                lambda args, state: shared_sweep(
                    args[0], args[1], state, sampling, sampling.probes
                ),
                (key, theory),
                (first, field_law(theory, first).covariance),
                scale_fn=lambda state: (moment_scales(state[0]), largest(state[1])),
                **options,
            )
            moments, covariance = end.value
            sampled, responses, noise, felt = sample_shared(
                key, theory, moments, covariance, sampling, sampling.probes
            )
            law = eqx.tree_at(lambda l: l.covariance, field_law(theory, moments), covariance)
            own = (responses, noise, moments.mean, felt)
        else:
            end = fixed_point(
                lambda args, moments: sweep(args[0], args[1], moments, sampling)[0],
                (key, theory),
                first,
                scale_fn=moment_scales,
                **options,
            )
            moments = end.value
            law = field_law(theory, moments)
            sampled = sample(key, theory, law, sampling)
            responses, own = None, None
            if sampling.response:
                responses = measure_responses(key, theory, law, sampled, sampling, sampling.probes)
        outputs = output_moments(theory, sampled, sampling)
        squared = outputs.mean**2
        found = {
            "mean": outputs.mean,
            "covariance": outputs.second - squared[:, None],
            "quenched": outputs.quenched - squared,
            "input_mean": law.mean,
            "input_covariance": law.covariance,
            "input_quenched": law.static,
        }
        if responses is not None:
            # As densities in time.
            found["response"] = responses.output / theory.dt
            if responses.variance is not None:
                found["variance_response"] = responses.variance / theory.dt
            if responses.stream is not None:
                found["stream_response"] = responses.stream / theory.dt
        if sampling.nested:
            means = world_means(theory, sampled.x, sampling.num_worlds)
            found["population_covariance"] = _cross_covariance(means, sampling.num_lags)
        return found, moments, end.error, end.steps, own

    found, moments, error, steps, own = jax.lax.map(lambda args: one(*args), (keys, start))
    if sampling.shared:
        shared = pooled_shared(theory, *own)
        found["shared_covariance"] = shared.field
        found["population_covariance"] = shared.population
    return found, moments, error, steps


def _cross_covariance(means: Float[Array, "time row world"], num_lags: int) -> Array:
    """cov(X_p(t + lag), X_q(t)), `[row, row, lag]`, over times, each world about its own mean."""
    means = means - jnp.mean(means, axis=0)[None]
    num_steps = means.shape[0]

    def one(lag):
        later = jnp.roll(means, -lag, axis=0)
        keep = (jnp.arange(num_steps, dtype=jnp.int32) < num_steps - lag).astype(means.dtype)
        sums = contract("tpw,tqw->pq", later * keep[:, None, None], means)
        return sums / (jnp.sum(keep) * means.shape[2])

    return jnp.moveaxis(jax.lax.map(one, jnp.arange(num_lags, dtype=jnp.int32)), 0, -1)


def _solution(
    network: Network,
    theory: Theory,
    found: dict[str, Array],
    moments: Moments | None,
    result: RESULTS,
    stats: dict[str, Any],
    settings: dict[str, Any],
) -> Solution:
    method, order = settings["method"], settings["order"]
    mean = {name: jnp.mean(x, axis=0) for name, x in found.items()}
    error = {name: standard_error(x) for name, x in found.items()}
    stationary = method in ("analytic", "diffusion", "stationary")
    length = found["covariance"].shape[2] if stationary else found["mean"].shape[2]
    time = (jnp.arange(length, dtype=theory.dtype) + (0 if stationary else 1)) * theory.dt
    return Solution(
        time=time,
        mean=mean["mean"],
        covariance=mean["covariance"],
        quenched=mean.get("quenched"),
        input_mean=mean["input_mean"],
        input_covariance=mean["input_covariance"],
        input_quenched=mean.get("input_quenched"),
        mean_error=error["mean"],
        covariance_error=error["covariance"],
        quenched_error=error.get("quenched"),
        input_mean_error=error["input_mean"],
        input_covariance_error=error["input_covariance"],
        input_quenched_error=error.get("input_quenched"),
        shared_covariance=mean.get("shared_covariance"),
        shared_covariance_error=error.get("shared_covariance"),
        population_covariance=mean.get("population_covariance"),
        population_covariance_error=error.get("population_covariance"),
        response=mean.get("response"),
        response_error=error.get("response"),
        variance_response=mean.get("variance_response"),
        stream_response=mean.get("stream_response"),
        moments=moments,
        diagnostics=None,
        result=result,
        stats=stats,
        network=network,
        fields=tuple((theory.names[p], channel) for p, channel in theory.fields),
        dt=theory.dt,
        method=method,
        order=order,
        gradient=theory.gradient,
        replicas=found,
        settings=tuple(settings.items()),
    )
