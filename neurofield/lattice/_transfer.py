"""Exact solution by the transfer matrix, applied as a Kronecker product and never formed.

With own-history couplings alone the step from one slice to the next factorises over neurons, so
that a product with the 2^N x 2^N transfer matrix costs O(N 2^N). A slice's state is numbered with
neuron 0 as its most significant bit.
"""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neurofield._numerics import HIGHEST, contract
from neurofield._types import Spikes
from neurofield.lattice._action import Action, Boundary, to_basis
from neurofield.lattice._weight import check_boundary

MAX_EXACT_BITS = 20
_MAX_DENSE_BITS = 12  # a dense 4096 x 4096 matrix: directed couplings, and periodic traces
_MAX_GROUP = 8  # rows of a grouped Kronecker factor: the fastest of 2 to 64 on a CPU core


def log_partition(action: Action, num_steps: int, boundary: Boundary = "open") -> Float[Array, ""]:
    """Log partition function (nats) of a raster of `num_steps` bins, exactly.

    A forward recursion over slices; own-history range R needs N max(R, 1) <= 20, directed
    couplings (one lag) or periodic time N max(R, 1) <= 12. Its gradients are the moments
    <sum of x>, ..., by checkpointed reverse mode.

    **Raises** `ValueError` beyond these sizes, for directed couplings at lags over 1 or together
    with histories over 1, for a periodic ring shorter than the longest lag, and for a model with
    covariates (fold them into `field[N, T]`).
    """
    check_boundary(boundary)
    action = _solvable(action)
    if action.field.ndim == 2 and action.field.shape[1] != num_steps:
        raise ValueError(f"field has {action.field.shape[1]} bins, but num_steps is {num_steps}.")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    if action.num_lags == 0:
        # Without couplings in time the slices are independent.
        field = action.field.reshape(action.num_neurons, -1)
        energy = _energies(field, action.space, action.basis)
        slices = jax.nn.logsumexp(energy, axis=0)
        return slices[0] * num_steps if action.field.ndim == 1 else jnp.sum(slices)
    if action.basis == "spin":
        gas, offset = to_basis(action, "gas", num_steps, boundary)
        return log_partition(gas, num_steps, boundary) + offset
    if boundary == "open":
        return _forward(action, num_steps, _empty_past(action))
    if num_steps < action.num_lags:
        raise ValueError(
            f"a periodic raster of {num_steps} bins is shorter than the longest lag "
            f"({action.num_lags})."
        )
    return _periodic(action, num_steps)


def log_partition_rate(action: Action) -> Float[Array, ""]:
    """Log partition function per bin of an infinitely long raster, in nats, for R <= 1.

    The logarithm of the transfer matrix's largest eigenvalue, by restarted Lanczos. Gradients are
    exact to any order: the first by Hellmann-Feynman, higher ones through a linear solve for the
    eigenvector's derivative. Needs N <= 20.

    **Raises** `ValueError` for N > 20, own-history range R > 1, directed couplings, `field[N, T]`
    or covariates.
    """
    action = stationary(action)
    if action.basis == "spin":
        gas, offset = to_basis(action, "gas", 1, "periodic")
        return log_partition_rate(gas) + offset
    return _converged(unchecked_log_partition_rate(action))


def unchecked_log_partition_rate(action: Action) -> Float[Array, ""]:
    """As `log_partition_rate` of a stationary gas action, but NaN where it did not converge."""
    energy = state_energies(action)
    if action.history.shape[0] == 0:
        return jax.nn.logsumexp(energy)
    return _log_rate(energy, action.history[0])


def doob(action: Action) -> tuple[Float[Array, ""], Float[Array, " state"]]:
    """`(log lambda, log psi)` of a gas action with R = 1: the stationary theory as a Markov chain.

    P(s'|s) = exp(E(s') + b.(s s')) psi(s') / (lambda psi(s)) (lattice theory made causal by the
    Doob transform). psi solves K D psi = lambda psi with K the Kronecker product and D = exp(E).
    """
    energy, history = state_energies(action), action.history[0]
    log_rate, vector = dominant(energy, history)
    log_rate = _converged(log_rate)
    peak = jnp.max(energy)
    half = jnp.exp(0.5 * (energy - peak))
    # One more product: a sum of positive terms, accurate also where the eigenvector is tiny.
    psi = kronecker_apply(lag_blocks(history[None]), half * jnp.maximum(vector, 0.0))
    return log_rate, jnp.log(psi)


def stationary(action: Action) -> Action:
    """The action if `log_partition_rate` and the Doob chain are there for it, else `ValueError`."""
    action = _solvable(action)
    if action.field.ndim == 2:
        raise ValueError("field[N, T] depends on time: an infinite-time theory needs field[N].")
    if action.transfer.shape[0] and action.num_lags:
        raise ValueError(
            "an infinite-time solution with directed couplings (transfer) is not available: use "
            "log_partition for finite rasters, or fit by pseudo-likelihood."
        )
    if action.history.shape[0] > 1:
        raise ValueError(
            f"an infinite-time solution needs own-history range R <= 1, got "
            f"{action.history.shape[0]}: use log_partition, or fit by pseudo-likelihood."
        )
    return action


def _solvable(action: Action) -> Action:
    n, memory = action.num_neurons, max(action.num_lags, 1)
    if action.stimulus.shape[-1]:
        raise ValueError("fold the covariates into field[N, T] for an exact solution.")
    if n * memory > MAX_EXACT_BITS:
        raise ValueError(
            f"an exact solution needs N * max(R, 1) <= {MAX_EXACT_BITS}, got {n} * {memory}: use "
            "fewer neurons, or the pseudo-likelihood."
        )
    if action.transfer.shape[0]:
        if action.num_lags > 1:
            raise ValueError(
                "an exact solution with directed couplings (transfer) is available at one lag, "
                f"got {action.num_lags} lags."
            )
        if n > _MAX_DENSE_BITS:
            raise ValueError(
                f"an exact solution with directed couplings needs N <= {_MAX_DENSE_BITS}, got {n}."
            )
    return action


# --- states -------------------------------------------------------------------------------------


def states(num_neurons: int, dtype) -> Float[Array, "neuron state"]:
    """All 2^N slices."""
    index = jnp.arange(2**num_neurons, dtype=jnp.int32)
    bits = jnp.arange(num_neurons - 1, -1, -1, dtype=jnp.int32)
    return ((index[None, :] >> bits[:, None]) & 1).astype(dtype)


def state_index(spikes: Spikes) -> Int[Array, "*batch time"]:
    """The number of each slice of `spikes[..., N, time]`."""
    n = spikes.shape[-2]
    active = (jnp.asarray(spikes) > 0).astype(jnp.int32)
    return sum(
        (active[..., i, :] << (n - 1 - i) for i in range(1, n)), active[..., 0, :] << (n - 1)
    )


def state_energies(action: Action) -> Float[Array, " state"]:
    return _energies(action.field[:, None], action.space, action.basis)[:, 0]


def _energies(
    field: Float[Array, "neuron step"], space: Array, basis: str = "gas"
) -> Float[Array, "state step"]:
    s = states(field.shape[0], field.dtype)
    s = s if basis == "gas" else 2 * s - 1
    pairs = 0.5 * jnp.sum(s * jnp.matmul(space, s, precision=HIGHEST), axis=0)
    return jnp.matmul(s.T, field, precision=HIGHEST) + pairs[:, None]


# --- Kronecker products ---------------------------------------------------------------------------


def lag_blocks(history: Float[Array, "lag neuron"]) -> Float[Array, "neuron new old"]:
    """Each neuron's factor: from its last M bins (newest first) to the M bins one step later."""
    memory = history.shape[0]
    old = np.array(list(itertools.product((0, 1), repeat=memory)))
    new, past = old[:, None, :], old[None, :, :]
    follows = (new[:, :, 1:] == past[:, :, :-1]).all(-1)
    both = (new[:, :, :1] * past).transpose(2, 0, 1)
    exponent = contract("ln,lab->nab", history, jnp.asarray(both, history.dtype))
    return jnp.where(follows, jnp.exp(exponent), 0.0)


def kronecker_apply(
    blocks: Float[Array, "neuron new old"], v: Float[Array, "state *batch"]
) -> Float[Array, "state *batch"]:
    """(t_1 x ... x t_N) v, several neighbouring factors multiplied out at a time."""
    n, d, _ = blocks.shape
    size = max(1, int(math.log(_MAX_GROUP, d)))
    batch = v.shape[1:]
    done = 1
    for begin in range(0, n, size):
        group = blocks[begin]
        for i in range(begin + 1, min(begin + size, n)):
            group = jnp.kron(group, blocks[i])
        rows = group.shape[0]
        v = v.reshape(done, rows, -1)
        v = contract("ab,xby->xay", group, v)
        done *= rows
    return v.reshape(-1, *batch)


# --- finite time ----------------------------------------------------------------------------------


def _empty_past(action: Action) -> Float[Array, " state"]:
    size = 2 ** (action.num_neurons * action.num_lags)
    return jnp.zeros(size, action.field.dtype).at[0].set(1.0)


def _periodic(action: Action, num_steps: int) -> Float[Array, ""]:
    bits = action.num_neurons * action.num_lags
    if bits > _MAX_DENSE_BITS:
        raise ValueError(
            f"a periodic partition function needs N * max(R, 1) <= {_MAX_DENSE_BITS}, got {bits}: "
            "use boundary='open' or log_partition_rate."
        )
    return _forward(action, num_steps, jnp.eye(2**bits, dtype=action.field.dtype))


def _forward(action: Action, num_steps: int, start: Array) -> Float[Array, ""]:
    """Log of the total weight that `num_steps` slices carry on from `start`.

    `start` is a vector over pasts (the sum over ends is taken), or the identity (the trace is).
    """
    apply = _propagator(action)
    newest = _newest_slice(action)
    varying = action.field.ndim == 2
    field = action.field if varying else action.field[:, None]
    constant = None if varying else _energies(field, action.space)[:, 0]

    def step(carry, field_t):
        weights, log_scale = carry
        energy = (
            constant if constant is not None else _energies(field_t[:, None], action.space)[:, 0]
        )
        peak = jnp.max(energy)
        factor = jnp.exp(energy - peak)[newest]
        weights = apply(weights) * factor.reshape(-1, *([1] * (weights.ndim - 1)))
        scale = jnp.max(weights)
        return (weights / scale, log_scale + peak + jnp.log(scale)), None

    # Two nested scans, the inner one recomputed in the backward pass: memory grows as sqrt(T).
    chunk = max(1, math.isqrt(num_steps))
    whole = (num_steps // chunk) * chunk
    inputs = field.T if varying else None

    @jax.checkpoint
    def run(carry, inputs_chunk, length=chunk):
        return jax.lax.scan(step, carry, inputs_chunk, length=length)

    head = None if inputs is None else inputs[:whole].reshape(-1, chunk, inputs.shape[1])
    carry = (start, jnp.zeros((), start.dtype))
    carry, _ = jax.lax.scan(run, carry, head, length=whole // chunk)
    if whole < num_steps:
        tail = None if inputs is None else inputs[whole:]
        carry, _ = jax.lax.scan(step, carry, tail, length=num_steps - whole)
    weights, log_scale = carry
    total = jnp.sum(weights) if weights.ndim == 1 else jnp.trace(weights)
    return jnp.log(total) + log_scale


def _propagator(action: Action):
    """v -> sum over the oldest slice of exp(couplings over time) v; the new weight comes later."""
    if action.transfer.shape[0] == 0:
        blocks = lag_blocks(action.history)
        return lambda v: kronecker_apply(blocks, v)
    s = states(action.num_neurons, action.field.dtype)
    w = action.transfer[0]
    if action.history.shape[0]:
        w = w + jnp.diag(action.history[0])
    exponent = jnp.matmul(s.T, jnp.matmul(w, s, precision=HIGHEST), precision=HIGHEST)
    matrix = jnp.exp(exponent)
    return lambda v: jnp.matmul(matrix, v, precision=HIGHEST)


def _newest_slice(action: Action) -> Int[Array, " state"]:
    """The number of the newest slice in each state of the last M slices."""
    n, memory = action.num_neurons, action.num_lags
    index = jnp.arange(2 ** (n * memory), dtype=jnp.int32)
    bit = [((index >> (memory * (n - i) - 1)) & 1) << (n - 1 - i) for i in range(n)]
    return sum(bit[1:], start=bit[0])


# --- infinite time --------------------------------------------------------------------------------


def _symmetric_apply(energy: Array, history: Array, v: Array) -> Array:
    """D^1/2 K D^1/2 v with D = exp(energy - its maximum)."""
    half = jnp.exp(0.5 * (energy - jax.lax.stop_gradient(jnp.max(energy))))
    return half * kronecker_apply(lag_blocks(history[None]), half * v)


@jax.custom_jvp
def _log_rate(energy: Float[Array, " state"], history: Float[Array, " neuron"]) -> Array:
    return dominant(energy, history)[0]


@_log_rate.defjvp
def _log_rate_jvp(primals, tangents):
    # Hellmann-Feynman: only the couplings vary, the eigenvector stays.
    log_rate, vector = dominant(*primals)
    peak = jax.lax.stop_gradient(jnp.max(primals[0]))
    varied = jax.jvp(lambda e, b: _symmetric_apply(e, b, vector), primals, tangents)[1]
    return log_rate, jnp.dot(vector, varied, precision=HIGHEST) * jnp.exp(peak - log_rate)


@jax.custom_jvp
def dominant(
    energy: Float[Array, " state"], history: Float[Array, " neuron"]
) -> tuple[Float[Array, ""], Float[Array, " state"]]:
    """`(log lambda, r)`: top eigenpair of D^1/2 K D^1/2, D = exp(energy), r > 0 of unit norm."""
    apply = lambda v: _symmetric_apply(energy, history, v)  # noqa: E731
    # The eigenvector at history = 0 is a good start.
    start = jnp.exp(0.5 * (energy - jnp.max(energy)))
    value, vector = _lanczos(apply, start)
    return jnp.log(value) + jnp.max(energy), vector * jnp.sign(jnp.sum(vector))


@dominant.defjvp
def _dominant_jvp(primals, tangents):
    energy, history = primals
    log_rate, vector = dominant(energy, history)
    peak = jax.lax.stop_gradient(jnp.max(energy))
    relative = jnp.exp(peak - log_rate)
    varied = relative * jax.jvp(lambda e, b: _symmetric_apply(e, b, vector), primals, tangents)[1]
    d_log_rate = jnp.dot(vector, varied, precision=HIGHEST)

    # (1 - T/lambda) is singular along r alone; adding r r^T makes it positive definite.
    def deflated(v):
        along = jnp.dot(vector, v, precision=HIGHEST)
        return v - relative * _symmetric_apply(energy, history, v) + vector * along

    tolerance = 16 * float(jnp.finfo(vector.dtype).eps)

    def solve(operator, right):
        return jax.scipy.sparse.linalg.cg(operator, right, tol=tolerance, maxiter=500)[0]

    # Stated as a symmetric linear solve, because `cg` alone has no reverse mode inside a jvp rule.
    d_vector = jax.lax.custom_linear_solve(
        deflated, varied - d_log_rate * vector, solve, symmetric=True
    )
    return (log_rate, vector), (d_log_rate, d_vector)


def _lanczos(apply, start: Float[Array, " state"]) -> tuple[Array, Array]:
    """Largest eigenpair of a symmetric positive-entry operator by restarted Lanczos."""
    dim = min(16, start.shape[0])
    eps = float(jnp.finfo(start.dtype).eps)
    # Rounding of a product through log2(states) factors leaves about this much (measured).
    tolerance = 16 * eps * max(math.log2(start.shape[0]), 4)

    def sweep(state):
        vector, _, _, count = state
        basis = jnp.zeros((dim, vector.shape[0]), vector.dtype).at[0].set(vector)
        projected = jnp.zeros((dim, dim), vector.dtype)

        def extend(k, carry):
            basis, projected = carry
            image = apply(basis[k])
            coefficients = jnp.matmul(basis, image, precision=HIGHEST)
            projected = projected.at[:, k].set(coefficients)
            rest = image - jnp.matmul(coefficients, basis, precision=HIGHEST)
            # A second pass: one loses orthogonality to rounding.
            rest = rest - jnp.matmul(
                jnp.matmul(basis, rest, precision=HIGHEST), basis, precision=HIGHEST
            )
            norm = jnp.linalg.norm(rest)
            usable = norm > 4 * eps * jnp.linalg.norm(image)
            rest = jnp.where(usable, rest / jnp.where(usable, norm, 1.0), 0.0)
            basis = jnp.where(k + 1 < dim, basis.at[jnp.minimum(k + 1, dim - 1)].set(rest), basis)
            return basis, projected

        basis, projected = jax.lax.fori_loop(0, dim, extend, (basis, projected))
        # Column k saw only the basis up to k: the upper triangle is the whole of it.
        values, vectors = jnp.linalg.eigh(jnp.triu(projected) + jnp.triu(projected, 1).T)
        vector = jnp.matmul(vectors[:, -1], basis, precision=HIGHEST)
        vector = vector / jnp.linalg.norm(vector)
        value = values[-1]
        residual = jnp.linalg.norm(apply(vector) - value * vector) / value
        return vector, value, residual, count + 1

    def unfinished(state):
        _, _, residual, count = state
        return (residual > tolerance) & (count < 60)

    zero = jnp.zeros((), start.dtype)
    state = (start / jnp.linalg.norm(start), zero, zero + jnp.inf, 0)
    vector, value, residual, _ = jax.lax.while_loop(unfinished, sweep, state)
    # NaN, so that a line search that went too far turns back; users get an error (`_converged`).
    return jnp.where(residual < 1e4 * eps, value, jnp.nan), vector


def _converged(log_rate: Float[Array, ""]) -> Float[Array, ""]:
    return eqx.error_if(
        log_rate,
        jnp.isnan(log_rate),
        "The transfer matrix's largest eigenvalue did not converge: couplings are not finite, or "
        "so large that two states compete. Use smaller couplings, or float64.",
    )
