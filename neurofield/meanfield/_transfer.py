"""The loop of population means: from means to fields by the streams, and back by the responses.

All filters are those of the steps: W(z) = sum over lags l of W(l) z^-l, at z = exp(2 pi i f dt).
*Rows* are what fluctuates: the mean output of each population, and what plastic streams transmit,
which is not a linear function of it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from neurofield._numerics import contract

from ._paths import init_stream, step_stream
from ._response import Responses, carries_variance
from ._solution import Solution
from ._theory import Theory

# Draws of a distributed delay, of which the mean kernel is taken.
_DELAYS = 4096


class Loop(eqx.Module):
    """Filters at frequencies: `response[w, row, field]`, `weights[w, field, row]`.

    `total`: `[w, row, row]`, the gain around the loop, that of variance included (eq. 8).
    """

    response: Complex[Array, "w row field"]
    weights: Complex[Array, "w field row"]
    total: Complex[Array, "w row row"]


def transfer_function(
    solution: Solution, frequency: ArrayLike
) -> Complex[Array, "frequency field"]:
    """Change of each population's mean output per unit of its field, at frequencies in hertz.

    Its modulus is the gain, its argument the phase (negative where the output lags behind), of a
    weak sinusoidal input; the sum over the lags of `solution.response`. Raises `ValueError` for a
    solution without response and frequencies beyond the Nyquist frequency of its steps.
    """
    response = _response(solution)
    at = jnp.asarray(frequency, response.dtype)
    if at.ndim != 1:
        raise ValueError(f"frequency must be one-dimensional, in hertz, got {at.shape}.")
    half = 0.5 / solution.dt
    at = eqx.error_if(
        at,
        jnp.any(jnp.abs(at) > half * (1 + 1e-6)),
        f"transfer_function: frequencies must be at most 1 / (2 dt) = {half:.6g} Hz.",
    )
    lag = jnp.arange(response.shape[1], dtype=response.dtype) * solution.dt
    angle = 2 * np.pi * at[:, None] * lag[None]
    scaled = response * solution.dt
    return jax.lax.complex(
        contract("wl,fl->wf", jnp.cos(angle), scaled),
        -contract("wl,fl->wf", jnp.sin(angle), scaled),
    )


def gain(solution: Solution) -> Float[Array, "field"]:
    """Change of each population's mean output per unit of a constant change of its field.

    Raises `ValueError` for a solution without response.
    """
    return jnp.sum(_response(solution), axis=1) * solution.dt


def _response(solution: Solution) -> Float[Array, "field lag"]:
    if solution.response is None:
        raise ValueError(
            'the solution has no response: solve with method="stationary" and response=True.'
        )
    if not solution.stationary:
        raise ValueError(
            "this solution is a course in time, whose response has two times and no frequency: "
            'solve with method="stationary", or look at its `response`.'
        )
    return solution.response


def stream_kernels(theory: Theory, num_lags: int) -> Float[Array, "stream lag"]:
    """Impulse responses of the streams on the grid: y(t) = sum_l K(l) x(t - l).

    x is the output (in hertz for spikes). Those of plastic streams are without their plasticity.
    """
    rows = []
    for stream in theory.streams:
        plain = eqx.tree_at(lambda s: s.plasticity, stream, None, is_leaf=lambda x: x is None)
        num = 1 if stream.delay is None else _DELAYS
        state = init_stream(jax.random.key(0), plain, jnp.zeros(num, theory.dtype), theory.dt)
        size = 1.0 if stream.level else theory.dt

        def go(state, step, plain=plain, size=size):
            y = jnp.mean(plain.kernel.input(state.kernel, theory.dt, plain.level))
            sent = jnp.where(step == 0, size, 0.0).astype(theory.dtype)
            sent = jnp.broadcast_to(sent, state_shape(state))
            return step_stream(plain, state, sent, step, theory.dt), y

        def state_shape(state):
            return jax.tree.leaves(state.kernel)[0].shape

        rows.append(jax.lax.scan(go, state, jnp.arange(num_lags, dtype=jnp.int32))[1])
    return jnp.stack(rows)


def plastic_streams(theory: Theory) -> tuple[int, ...]:
    return tuple(i for i, stream in enumerate(theory.streams) if stream.plasticity is not None)


def loop(theory: Theory, responses: Responses, mean: Float[Array, "stream"], length: int) -> Loop:
    """The loop at the frequencies 0 .. 1 / (2 dt) of `length` points around the circle.

    `mean`: of the streams. The variance channel is that of streams without memory (eq. 8): binary
    states, whose square is their mean, and spikes, whose variance is their mean / dt.
    """
    plastic = plastic_streams(theory)
    num_rows = len(theory.populations) + len(plastic)
    kernels = jnp.fft.rfft(stream_kernels(theory, length), axis=1)
    output = jnp.fft.rfft(responses.output, n=length, axis=1)
    dtype = kernels.dtype
    num = kernels.shape[1]
    weights = jnp.zeros((num, len(theory.fields), num_rows), dtype)
    variances = jnp.zeros_like(weights)
    response = jnp.zeros((num, num_rows, len(theory.fields)), dtype)
    to_variance = jnp.zeros_like(response)
    for s, stream in enumerate(theory.streams):
        if s in plastic:
            row = len(theory.populations) + plastic.index(s)
            weights = weights.at[:, :, row].add(theory.mean[:, s].astype(dtype)[None])
            continue
        kernel = kernels[s][:, None]
        mean_of = theory.mean[:, s].astype(dtype)[None]
        weights = weights.at[:, :, stream.source].add(kernel * mean_of)
        if responses.variance is not None and carries_variance(stream):
            kind = theory.populations[stream.source].neuron.kind
            if kind == "binary":
                share = theory.vQ[:, s] - 2 * theory.vM[:, s] * mean[s]
            else:
                share = theory.vQ[:, s] / theory.dt
            if kind != "rate":
                share = share.astype(dtype)[None]
                variances = variances.at[:, :, stream.source].add(kernel * share)
    for f, (p, _) in enumerate(theory.fields):
        response = response.at[:, p, f].set(output[f])
        if responses.variance is not None:
            own = jnp.fft.rfft(responses.variance[f], n=length)
            to_variance = to_variance.at[:, p, f].set(own)
        for i, s in enumerate(plastic):
            if responses.stream is not None and theory.streams[s].source == p:
                own = jnp.fft.rfft(responses.stream[s, f], n=length)
                response = response.at[:, len(theory.populations) + i, f].set(own)
    total = contract("wrf,wfq->wrq", response, weights)
    total = total + contract("wrf,wfq->wrq", to_variance, variances)
    return Loop(response, weights, total)
