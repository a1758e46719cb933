"""Stability of equilibria by the linear response of the populations to one another's rates."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate
from jaxtyping import Array, Complex, Float

from neurofield._results import is_successful

from ._closure import Moments, input_of, moment_rates, nodes_of
from ._equilibrium import Equilibrium, renewal_generator
from ._finite_volume import leaving_rate, master_equation, reset_share, transport

_LOWEST, _HIGHEST = 0.1, 3e4  # rad/s: of the imaginary axis that is looked at
_NUM_FREQUENCIES = 96
_LARGEST_TURN = 0.7  # rad, of the characteristic function between neighbouring frequencies
_MOST_HALVINGS = 12
_MOST_NEWTON = 8
_BATCH = 32  # numbers that the characteristic function is evaluated at together
_FIT_TOL, _FIT_TERMS = 1e-6, 24  # of the rational approximation
_LEFTMOST = -1e3  # 1/s: it says nothing beyond


class LinearResponse(eqx.Module):
    """What the response of each population's rate to small changes of all rates is made of.

    Pairs of nodes are one axis. `pushes[what, pre]`: the changes that a unit of what a synapse
    from `pre` has more (mean, variance, renewal of the variance of its pending spikes) makes in the
    equations of each population.
    """

    up: Float[Array, "population node bin"]
    down: Float[Array, "population node bin"]
    renewing: Float[Array, "population node node"]
    leaving: Float[Array, " population"]
    share: Float[Array, " bin"]
    occupancy_pushes: Float[Array, "what pre population node bin"]
    refractory_pushes: Float[Array, "what pre population node"]
    rate_pushes: Float[Array, "what pre population"]
    loss: Float[Array, "post pre"]
    flow: Float[Array, "post pre"]
    spread: Float[Array, "post pre"]


def linear_response(equilibrium: Equilibrium) -> LinearResponse:
    """Of an equilibrium: the derivatives of its equations, as far as they do not depend on s."""
    params, grid, state = equilibrium.params, equilibrium.grid, equilibrium.state
    closure, nodes = equilibrium.closure, nodes_of(equilibrium.closure, equilibrium.num_nodes)
    count = params.num_populations

    def equations(moments: Moments, renewal: Array) -> Any:
        received = input_of(params, closure, nodes, moments, renewal)
        rates = transport(params, grid, received)
        occupancy, refractory = master_equation(params, grid, nodes, received, rates, state)
        return occupancy, refractory, jnp.sum(rates.spiking(state.occupancy), axis=(1, 2))

    moments = state.moments
    _, renewal = moment_rates(params, moments, params.size * equilibrium.rate)
    _, push = jax.linearize(equations, moments, renewal)
    unit = jnp.eye(3 * count, dtype=renewal.dtype).reshape(3 * count, 3, 1, count)
    unit = unit * jnp.ones((1, 1, count, 1), renewal.dtype)
    pushed = jax.vmap(lambda x: push(Moments(x[0], x[1]), x[2]))(unit)
    received = input_of(params, closure, nodes, moments, renewal)
    rates = transport(params, grid, received)
    num_pairs = len(nodes.value) ** 2
    shape = (count, num_pairs, grid.num_bins)
    p = params.probability
    return LinearResponse(
        up=rates.up.reshape(shape),
        down=jnp.pad(rates.down, [(0, 0)] * 3 + [(0, 1)]).reshape(shape),
        renewing=renewal_generator(nodes, received),
        leaving=leaving_rate(params),
        share=reset_share(grid, rates.up.dtype),
        occupancy_pushes=pushed[0].reshape(3, count, *shape),
        refractory_pushes=pushed[1].reshape(3, count, *shape[:2]),
        rate_pushes=pushed[2].reshape(3, count, count),
        loss=1 / params.tau,
        flow=p * params.size[None],
        spread=p * (1 - p) * params.size[None],
    )


def rate_response(linear: LinearResponse, s: Complex[Array, ""]) -> Complex[Array, "post pre"]:
    """R(s): change of each population's rate by a change exp(s t) of each population's rate.

    s in 1/s, not an eigenvalue of one population under a constant input.
    """
    linear = jax.tree.map(lambda x: x.astype(s.dtype), linear)
    mean = linear.flow / (s + linear.loss)
    renewal = mean * linear.loss + linear.spread
    variance = renewal / (s + 2 * linear.loss)
    amounts = jnp.swapaxes(jnp.stack([mean, variance, renewal]), 1, 2)  # [what, pre, post]
    occupancy = jnp.sum(amounts[..., None, None] * linear.occupancy_pushes, axis=0)
    refractory = jnp.sum(amounts[..., None] * linear.refractory_pushes, axis=0)
    direct = jnp.sum(amounts * linear.rate_pushes, axis=0)  # [pre, post]

    def population(
        up: Array, down: Array, renewing: Array, leaving: Array, source: Array, resting: Array
    ) -> Array:
        """Of one population, by source population: (s - W)^-1 by the elimination of cells."""
        one = jnp.eye(len(up), dtype=source.dtype)

        def eliminate(carry: Any, cell: Any) -> Any:
            again, brought, lower = carry
            up, down, share, source = cell
            matrix = s * one + jnp.diag(up + lower) - renewing - again
            right = jnp.concatenate([share * one, source.T], axis=1) + brought
            solved = jnp.linalg.solve(matrix, jnp.concatenate([jnp.diag(down), right], axis=1))
            below, sources = solved[:, : len(up)], solved[:, len(up) :]
            return (up[:, None] * below, up[:, None] * sources, down), None

        start = (
            jnp.zeros_like(one),
            jnp.zeros((len(up), len(up) + len(source)), s.dtype),
            0 * up[:, 0],
        )
        cells = (up.T, down.T, linear.share, jnp.moveaxis(source, -1, 0))
        (_, spikes, _), _ = jax.lax.scan(eliminate, start, cells)
        by_return, by_source = spikes[:, : len(up)], spikes[:, len(up) :]
        # What spikes is refractory, and returns.
        rest = (s + leaving) * one - renewing - leaving * by_return
        rest = jnp.linalg.solve(rest, by_source + resting.T)
        return jnp.sum(by_source + leaving * (by_return @ rest), axis=0)

    by_density = jax.vmap(population, in_axes=(0, 0, 0, 0, 1, 1))(
        linear.up, linear.down, linear.renewing, linear.leaving, occupancy, refractory
    )
    return by_density + direct.T


def characteristic(linear: LinearResponse, s: Complex[Array, ""]) -> Complex[Array, ""]:
    """det(1 - R(s)), whose zeros are the eigenvalues; 1 at infinity.

    Its poles are the eigenvalues of the single populations under constant inputs and of the
    moments, all of negative real part (but 0, at which it is finite).
    """
    response = rate_response(linear, s)
    return jnp.linalg.det(jnp.eye(len(response), dtype=response.dtype) - response)


class Stability(eqx.Module):
    """Of an equilibrium (host arrays).

    - `stable`: no eigenvalue has a positive real part.
    - `num_unstable`: how many have, by the argument principle.
    - `eigenvalues`: `[n]`, 1/s, the leading ones by falling real part, both of a pair. Those of
      conserved sums (0) and of what no rate can stir up (decays of the closure) are left out.
    - `frequency`: hertz, of the leading eigenvalue; 0 where it is real.
    """

    stable: bool
    num_unstable: int
    eigenvalues: Complex[np.ndarray, " n"]
    frequency: float


def stability(equilibrium: Equilibrium, *, num_eigenvalues: int = 6) -> Stability:
    """Whether an equilibrium is stable, and its leading eigenvalues (host).

    The eigenvalues are the zeros of det(1 - R(s)), R the response of the populations' rates to one
    another, whose size is the number of populations. How many lie in the right half-plane follows
    from the winding of the determinant along the imaginary axis (Nyquist 1932); where they lie,
    from a rational approximation there (AAA: Nakatsukasa, Sete & Trefethen 2018), polished by
    Newton's method. Eigenvalues far to the left of the axis may be missing from the list.

    Raises `ValueError` for an equilibrium that was not found; `RuntimeError` where the zeros found
    in the right half-plane are not as many as the winding says.
    """
    if not is_successful(equilibrium.result):
        raise ValueError(
            "the equilibrium was not found (its result is not successful): it has no stability."
        )
    num_unstable, zeros = leading_eigenvalues(equilibrium)
    if np.sum(np.real(zeros) > 0) != num_unstable:
        raise RuntimeError(
            f"{num_unstable} eigenvalues lie in the right half-plane, but those found are "
            f"{zeros[np.real(zeros) > 0]}."
        )
    zeros = zeros[:num_eigenvalues]
    frequency = abs(zeros[0].imag) / (2 * np.pi) if len(zeros) else 0.0
    return Stability(num_unstable == 0, num_unstable, zeros, float(frequency))


def leading_eigenvalues(equilibrium: Equilibrium) -> tuple[int, np.ndarray]:
    """How many lie in the right half-plane, and those found, by falling real part (host)."""
    linear = _linear_response(equilibrium)
    omega, value = _along_axis(linear)
    turns = np.angle(value[1:] / value[:-1]).sum()
    # On from the first frequency to the real value at 0, and from the last to 1 at infinity.
    turns += np.angle(value[0] * np.sign(value[0].real)) - np.angle(value[-1])
    num_unstable = round(-turns / np.pi)
    zeros = _zeros(linear, _candidates(linear, omega, value))
    if np.sum(np.real(zeros) > 0) != num_unstable:
        zeros = _zeros(linear, 1j * omega)
    return num_unstable, zeros


_linear_response = eqx.filter_jit(linear_response)


@eqx.filter_jit
def _with_slope(linear: LinearResponse, s: Array) -> tuple[Array, Array]:
    one = jnp.ones((), s.dtype)
    return jax.vmap(lambda s: jax.jvp(lambda s: characteristic(linear, s), (s,), (one,)))(s)


def _evaluate(linear: LinearResponse, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The characteristic function and its slope, in batches of one size."""
    dtype = np.result_type(linear.up.dtype, np.complex64)
    batches = -(-len(s) // _BATCH)
    padded = np.resize(s, batches * _BATCH).reshape(batches, -1)
    parts = [_with_slope(linear, jnp.asarray(part, dtype)) for part in padded]
    value, slope = (np.concatenate([np.asarray(p[i]) for p in parts]) for i in range(2))
    return value[: len(s)], slope[: len(s)]


def _along_axis(linear: LinearResponse) -> tuple[np.ndarray, np.ndarray]:
    """Angular frequencies, so dense that the characteristic function turns little between them."""
    omega = np.geomspace(_LOWEST, _HIGHEST, _NUM_FREQUENCIES)
    value, _ = _evaluate(linear, 1j * omega)
    for _ in range(_MOST_HALVINGS):
        wide = np.abs(np.angle(value[1:] / value[:-1])) > _LARGEST_TURN
        if not wide.any():
            break
        between = np.sqrt(omega[1:] * omega[:-1])[wide]
        omega = np.concatenate([omega, between])
        value = np.concatenate([value, _evaluate(linear, 1j * between)[0]])
        order = np.argsort(omega)
        omega, value = omega[order], value[order]
    return omega, value


def _candidates(linear: LinearResponse, omega: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Zeros, in the upper half-plane, of a rational function with these values on the axis."""
    points = np.concatenate([1j * omega, -1j * omega])
    values = np.concatenate([value, value.conj()])
    rtol = max(_FIT_TOL, 1e3 * float(jnp.finfo(linear.up.dtype).eps))
    with warnings.catch_warnings():  # it need not converge: Newton's method follows
        warnings.simplefilter("ignore", RuntimeWarning)
        fitted = scipy.interpolate.AAA(
            points, values, rtol=rtol, max_terms=_FIT_TERMS, clean_up=False
        )
    zeros = fitted.roots()
    zeros = zeros[np.isfinite(zeros)]
    return zeros[(np.imag(zeros) > -1e-6 * np.abs(zeros)) & (np.real(zeros) > _LEFTMOST)]


def _zeros(linear: LinearResponse, s: np.ndarray) -> np.ndarray:
    """Zeros of the characteristic function by Newton's method from `s`, by falling real part."""
    change = np.full(len(s), np.inf)
    for _ in range(_MOST_NEWTON):
        if not len(s):
            break
        value, slope = _evaluate(linear, s)
        with np.errstate(all="ignore"):
            change = value / slope
        change = np.where(np.isfinite(change), change, np.inf)
        s = np.where(np.isfinite(change), s - change, s)
        if np.all(~np.isfinite(change) | (np.abs(change) < 1e-10 * np.abs(s))):
            break
    tol = max(1e-7, 1e2 * float(jnp.finfo(linear.up.dtype).eps))
    real, imag, size = np.real(s), np.imag(s), np.abs(s)
    # The lower half-plane mirrors the upper; what lies on the real axis but for rounding is real.
    found = (np.abs(change) <= tol * size) & (imag > -1e-6 * size)
    s = np.where(np.abs(imag) <= 1e-6 * size, real, s)[found]
    kept: list[complex] = []
    for zero in s[np.argsort(-np.real(s))]:
        if all(abs(zero - other) > 1e-5 * abs(zero) for other in kept):
            kept += [zero] if zero.imag == 0 else [zero, zero.conjugate()]
    return np.array(kept, complex)
