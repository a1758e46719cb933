"""Traces of (tau L)^n e^{-tau L} of a large Laplacian, n = 0, 1, 2, estimated."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import contract
from neurofield._types import PRNGKey

from ._lanczos import BLOCK, Modes, Run, lanczos
from ._sparse_laplacian import SparseLaplacian


def estimated_traces(
    key: PRNGKey,
    laplacian: SparseLaplacian,
    modes: Modes,
    times: Float[Array, " time"],
    num_blocks: int,
    num_steps: int,
) -> tuple[Float[Array, "3 time"], Float[Array, "probe 3 time"], Float[Array, ""]]:
    """Of the low modes, and of the rest from each probe, with L less the lowest eigenvalue seen.

    That eigenvalue comes third; it is 0 where null modes are known, which are left out here.

    Probes of random signs (Hutchinson 1990), without the null and low modes; quadrature by Lanczos
    (Ubaru, Chen and Saad 2017). The derivative in L of Tr f(L) is Tr f'(L) dL, with the low modes
    and the same probes z: the sum of z^H f'(L) dL z. It is the derivative of the trace, without
    bias, and not that of the estimate, from which it differs by the noise of the probes.
    """
    return _traces((laplacian, times), key, modes, num_blocks, num_steps)


@eqx.filter_custom_vjp
def _traces(inputs, key, modes, num_blocks, num_steps):
    return _forward(inputs, key, modes, num_blocks, num_steps)[0]


def _forward(inputs, key, modes, num_blocks, num_steps):
    laplacian, times = inputs

    def block(index: Array) -> Run:
        return lanczos(laplacian, _probes(key, index, laplacian, modes), num_steps)

    runs = jax.lax.map(block, jnp.arange(num_blocks))
    runs = jax.tree.map(lambda x: x.reshape(num_blocks * BLOCK, *x.shape[2:]), runs)
    nodes, vectors = runs.ritz()
    share = runs.norm[:, None] ** 2 * vectors[:, 0] ** 2
    shift = jnp.zeros_like(nodes[0, 0])
    if laplacian.num_null == 0:
        known = jnp.where(modes.found, modes.values, jnp.inf)
        shift = jnp.minimum(jnp.min(nodes), jnp.min(known, initial=jnp.inf))
    low = _boltzmann(modes.values, modes.found.astype(times.dtype), times, shift)
    rest = jax.vmap(_boltzmann, (0, 0, None, None))(nodes, share, times, shift)
    return (low, rest, shift), (runs.norm, nodes, vectors, shift)


@_traces.def_fwd
def _traces_forward(perturbed, inputs, key, modes, num_blocks, num_steps):
    del perturbed
    return _forward(inputs, key, modes, num_blocks, num_steps)


@_traces.def_bwd
def _traces_backward(residuals, cotangents, perturbed, inputs, key, modes, num_blocks, num_steps):
    del perturbed
    laplacian, times = inputs
    norm, nodes, vectors, shift = map(jnp.asarray, residuals)  # constants come as of NumPy
    low, rest = (
        jnp.zeros(shape, times.dtype) if c is None else c
        for c, shape in zip(
            cotangents[:2], ((3, len(times)), (len(norm), 3, len(times))), strict=True
        )
    )

    def pulled(nodes: Array, share: Array, cotangent: Array) -> Any:
        """Derivatives of sum(cotangent * traces) in the nodes, and in the times."""
        _, pull = jax.vjp(lambda x, t: _boltzmann(x, share, t, shift), nodes, times)
        return pull(cotangent)

    slope, by_time = pulled(modes.values, modes.found.astype(times.dtype), low)
    share = norm[:, None] ** 2 * vectors[:, 0] ** 2
    by_time = by_time + jnp.sum(jax.vmap(pulled)(nodes, share, rest)[1], axis=0)
    # f'(L) z in the Krylov basis.
    slopes, _ = jax.vmap(pulled)(nodes, jnp.ones_like(nodes), rest)
    weights = contract("psk,pk->ps", vectors, vectors[:, 0] * slopes * norm[:, None])
    weights = weights.reshape(num_blocks, BLOCK, num_steps)

    def by_entries(left: Array, right: Array) -> SparseLaplacian:
        """Derivative in L of Re left^H L right."""

        def form(laplacian):
            return jnp.sum(jnp.real(left.conj() * laplacian.product(right)))

        return eqx.filter_grad(form)(laplacian)

    def block(total: SparseLaplacian, index: Array):
        probes = _probes(key, index, laplacian, modes)
        image = lanczos(laplacian, probes, num_steps, weights[index]).combined
        assert image is not None
        return jax.tree.map(jnp.add, total, by_entries(image, probes)), None

    start = by_entries(modes.vectors * slope[None].astype(modes.vectors.dtype), modes.vectors)
    total, _ = jax.lax.scan(block, start, jnp.arange(num_blocks))
    return total, by_time


def _probes(key: PRNGKey, index: Array, laplacian: SparseLaplacian, modes: Modes) -> Array:
    shape = (laplacian.num_nodes, BLOCK)
    dtype = laplacian.diagonal.dtype
    signs = jax.random.rademacher(jax.random.fold_in(key, index), shape, dtype)
    return modes.project_out(laplacian.without_null(signs.astype(laplacian.dtype)))


def _boltzmann(nodes: Array, share: Array, times: Array, shift: Array) -> Float[Array, "3 time"]:
    """Moments 0, 1, 2 of tau (lambda - shift) with weight e^{-tau (lambda - shift)}."""
    energy = times[:, None] * (nodes - shift)[None]
    weight = share[None] * jnp.exp(-energy)
    return jnp.stack([jnp.sum(weight * energy**power, axis=1) for power in range(3)])
