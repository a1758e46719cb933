"""The master equation of voltage occupancies: finite volumes with the Scharfetter-Gummel flux."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import contract

from ._closure import Input, Moments, Nodes
from ._grid import Grid
from ._parameters import Parameters

_NEVER = 1e7  # hertz: the refractory rate that stands for none
_LEAST_DIFFUSION = 1e-6  # mV^2/s: without noise the flux is the upwind one


class State(eqx.Module):
    """Where the neurons are, as fractions of each population, and the moments of their synapses.

    - `occupancy`: `[population, M, M, K]`, by excitatory node, inhibitory node, and cell.
    - `refractory`: `[population, M, M]`. Its sum with that of the occupancy is 1.
    - `moments`: of the pending spikes.
    - `spikes`: `[population]`, spikes per neuron since the start.
    """

    occupancy: Float[Array, "population node node bin"]
    refractory: Float[Array, "population node node"]
    moments: Moments
    spikes: Float[Array, " population"]


class Transport(eqx.Module):
    """Rates between neighbouring cells, hertz.

    - `up`: `[population, M, M, K]`, from each cell to the next above; from the last one, to spikes.
    - `down`: `[population, M, M, K - 1]`, to each cell from the next above.
    """

    up: Float[Array, "population node node bin"]
    down: Float[Array, "population node node face"]

    def spiking(self, occupancy: Float[Array, "population node node bin"]) -> Array:
        """Spikes per second and neuron, `[population, M, M]`."""
        return self.up[..., -1] * occupancy[..., -1]

    def __call__(self, occupancy: Float[Array, "population node node bin"]) -> Array:
        """Time derivative of the occupancy by drift, noise and spikes."""
        out = self.up * occupancy
        net = out[..., :-1] - self.down * occupancy[..., 1:]
        pad = [(0, 0)] * 3
        return jnp.pad(net, [*pad, (1, 0)]) - jnp.concatenate([net, out[..., -1:]], axis=-1)


@jax.custom_jvp
def bernoulli(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """B(x) = x / (exp(x) - 1), the weight of the Scharfetter-Gummel flux."""
    small = jnp.abs(x) < 0.1
    near = jnp.where(small, x, 0) ** 2
    series = 1 + near * (1 / 12 - near * (1 / 720 - near * (1 / 30240 - near / 1209600)))
    size = jnp.abs(jnp.where(small, 1, x))
    less = size < 80
    far = jnp.where(less, size / jnp.expm1(jnp.where(less, size, 1)), 0)
    return jnp.where(small, series - x / 2, far + jnp.maximum(-x, 0))


@bernoulli.defjvp
def _bernoulli_jvp(primals, tangents):
    # One product a tangent, where differentiating the cases would be dozens of operations.
    (x,), (dx,) = primals, tangents
    y = bernoulli(x)
    small = jnp.abs(x) < 0.1
    near = jnp.where(small, x, 0)
    odd = near * (1 / 6 - near**2 * (1 / 180 - near**2 * (1 / 5040 - near**2 / 151200)))
    # B' = B(x) (1 - B(-x)) / x
    slope = jnp.where(small, odd - 0.5, y * (1 - y - x) / jnp.where(small, 1, x))
    return y, slope * dx


def transport(params: Parameters, grid: Grid, received: Input) -> Transport:
    """Rates between cells by drift and diffusion (Scharfetter & Gummel 1969), Ito's convention.

    Exact for constant drift and diffusion between two centres; nothing leaves at the bottom, and
    the threshold absorbs at half a cell from the last centre.
    """
    edges, centres = grid.edges[1:], grid.centres
    felt_edges, felt_centres = params.felt(edges), params.felt(centres)
    drift = received.drift(params, edges, felt_edges)
    at_edges = received.white(felt_edges) / 2 + _LEAST_DIFFUSION
    at_centres = received.white(felt_centres) / 2 + _LEAST_DIFFUSION
    distance = np.full(grid.num_bins, grid.width)
    distance[-1] /= 2
    distance = jnp.asarray(distance, drift.dtype)
    peclet = drift * (distance[None] / at_edges)[:, None, None]
    above = bernoulli(peclet)
    rate = 1 / (grid.width * distance)[None]
    up = (at_centres * rate)[:, None, None] * (above + peclet)  # B(-x) = B(x) + x
    down = (at_centres[:, 1:] * rate[:, :-1])[:, None, None] * above[..., :-1]
    return Transport(up, down)


def leaving_rate(params: Parameters) -> Float[Array, " population"]:
    """Rate at which refractoriness ends, hertz; where there is none, one beyond all others."""
    none = jnp.isinf(params.refractory_rate)
    return jnp.where(none, _NEVER, jnp.where(none, 1, params.refractory_rate))


def master_equation(
    params: Parameters,
    grid: Grid,
    nodes: Nodes,
    received: Input,
    rates: Transport,
    state: State,
) -> tuple[Array, Array]:
    """Time derivatives of the occupancy and of the refractory fraction, per second."""
    returning = leaving_rate(params)[:, None, None] * state.refractory
    occupancy = rates(state.occupancy) + exchange(nodes, received, state.occupancy)
    refractory = (
        rates.spiking(state.occupancy)
        - returning
        + exchange(nodes, received, state.refractory[..., None])[..., 0]
    )
    return into_reset(grid, occupancy, returning), refractory


def into_reset(grid: Grid, occupancy: Array, returning: Array) -> Array:
    """Adds neurons `[population, M, M]` to the two cells that meet at the reset, half to each."""
    return occupancy + returning[..., None] * reset_share(grid, occupancy.dtype)[None, None, None]


def reset_share(grid: Grid, dtype: Any) -> Float[Array, " bin"]:
    """Where neurons enter: half in each of the two cells that meet at the reset."""
    share = np.zeros(grid.num_bins)
    share[grid.reset_bin - 1 : grid.reset_bin + 1] = 0.5
    return jnp.asarray(share, dtype)


def exchange(
    nodes: Nodes, received: Input, occupancy: Float[Array, "population node node bin"]
) -> Array:
    """Time derivative by the renewal of the synaptic fluctuations."""
    if len(nodes.value) == 1:
        return jnp.zeros_like(occupancy)
    generator = jnp.asarray(nodes.generator, occupancy.dtype)
    excitatory = contract("ij,qjlk->qilk", generator, occupancy)
    inhibitory = contract("ij,qljk->qlik", generator, occupancy)
    rate = received.renewal[:, :, None, None, None]
    return rate[:, 0] * excitatory + rate[:, 1] * inhibitory


def implicit_exchange(nodes: Nodes, step: Float[Array, "population 2"], occupancy: Array) -> Array:
    """(1 - step_E G_E)^-1 (1 - step_I G_I)^-1 applied to `[population, M, M, K]`."""
    if len(nodes.value) == 1:
        return occupancy
    shrink = 1 / (1 + step[:, :, None] * jnp.asarray(nodes.decay, step.dtype)[None, None])
    left, right = (jnp.asarray(x, step.dtype) for x in (nodes.left, nodes.right))
    inverse = contract("ij,qkj,jl->qkil", left, shrink, right)
    occupancy = contract("qij,qjlk->qilk", inverse[:, 0], occupancy)
    return contract("qij,qljk->qlik", inverse[:, 1], occupancy)


def implicit_transport(
    params: Parameters, grid: Grid, rates: Transport, step: Float[Array, ""]
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """(1 - step W)^-1, W the transport with spikes, refractoriness and reset.

    Returns a function of the right-hand sides `[population, M, M, K]` and `[population, M, M]`: a
    tridiagonal solve, with the return from refractoriness as a border.
    """
    solve = tridiagonal(
        -step * rates.up[..., :-1],
        1 + step * (rates.up + jnp.pad(rates.down, [*[(0, 0)] * 3, (1, 0)])),
        -step * rates.down,
    )
    returning = (step * leaving_rate(params))[:, None, None]
    one = jnp.ones_like(rates.up[..., 0])
    from_reset = solve(into_reset(grid, jnp.zeros_like(rates.up), one))
    # The last cell's spikes become refractory, and these return: one unknown for each node.
    out = step * rates.up[..., -1]
    pivot = 1 + returning - out * returning * from_reset[..., -1]

    def apply(occupancy: Array, refractory: Array) -> tuple[Array, Array]:
        free = solve(occupancy)
        refractory = (refractory + out * free[..., -1]) / pivot
        return free + (returning * refractory)[..., None] * from_reset, refractory

    return apply


def tridiagonal(
    lower: Float[Array, "*batch face"],
    diagonal: Float[Array, "*batch bin"],
    upper: Float[Array, "*batch face"],
) -> Callable[[Array], Array]:
    """The solver of a batch of tridiagonal systems, factorised once without pivoting.

    For diagonally dominant columns. In place of `jax.lax.linalg.tridiagonal_solve`, which on a CPU
    takes system after system, and factorises each time: 4 times slower here, 20 in large batches.
    """

    def multiply(x: Array) -> Array:
        flat = [(0, 0)] * (x.ndim - 1)
        from_below = jnp.pad(lower * x[..., :-1], [*flat, (1, 0)])
        return diagonal * x + from_below + jnp.pad(upper * x[..., 1:], [*flat, (0, 1)])

    def factorise(lower: Array, upper: Array) -> Callable[[Array], Array]:
        """With the unknown's axis first, where a scan is a loop over contiguous rows."""
        none = jnp.zeros_like(diagonal[..., :1])
        below = jnp.moveaxis(jnp.concatenate([none, lower], axis=-1), -1, 0)
        above = jnp.moveaxis(jnp.concatenate([upper, none], axis=-1), -1, 0)

        def eliminate(ratio: Array, row: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
            below, here, above = row
            inverse = 1 / (here - below * ratio)
            return above * inverse, (above * inverse, inverse)

        rows = (below, jnp.moveaxis(diagonal, -1, 0), above)
        _, (ratios, inverses) = jax.lax.scan(eliminate, jnp.zeros_like(rows[1][0]), rows)

        def forward(y: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
            below, inverse, right = row
            y = (right - below * y) * inverse
            return y, y

        def backward(x: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
            ratio, y = row
            x = y - ratio * x
            return x, x

        def solve(right: Array) -> Array:
            right = jnp.moveaxis(right, -1, 0)
            _, y = jax.lax.scan(forward, jnp.zeros_like(right[0]), (below, inverses, right))
            _, x = jax.lax.scan(backward, jnp.zeros_like(y[0]), (ratios, y), reverse=True)
            return jnp.moveaxis(x, 0, -1)

        return solve

    held = jax.lax.stop_gradient
    ahead = factorise(held(lower), held(upper))

    def transposed(_: Callable[[Array], Array], right: Array) -> Array:
        return factorise(held(upper), held(lower))(right)

    def solve(right: Array) -> Array:
        return jax.lax.custom_linear_solve(
            multiply, right, lambda _, right: ahead(right), transposed
        )

    return solve
