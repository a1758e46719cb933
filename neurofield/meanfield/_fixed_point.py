"""Fixed points of smooth maps by Anderson acceleration, differentiable by the implicit rule."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import gmres
from jaxtyping import Array, Bool, Float, Int

from neurofield._numerics import contract
from neurofield._types import PyTree


class FixedPoint(eqx.Module):
    """Where an iteration ended: its value, the last relative change, steps, and whether it is one.

    `error`: the norm of fn(value) - value, relative to the scales of its parts.
    """

    value: PyTree
    error: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


class _State(eqx.Module):
    x: Float[Array, "size"]
    values: Float[Array, "memory size"]  # fn(x) of the last steps
    residuals: Float[Array, "memory size"]
    error: Float[Array, ""]
    step: Int[Array, ""]
    best: Float[Array, "size"]
    least: Float[Array, ""]


def fixed_point(
    fn: Callable[[PyTree, PyTree], PyTree],
    params: PyTree,
    start: PyTree,
    *,
    rtol: float,
    max_steps: int,
    memory: int = 5,
    damping: float = 0.5,
    scale_fn: Callable[[PyTree], PyTree] | None = None,
) -> FixedPoint:
    """A value with fn(params, value) = value, from `start`, which has the structure of the value.

    Anderson acceleration over the last `memory` steps (Walker & Ni 2011, type II), each step the
    share `damping` of the way. `scale_fn`: from a value, the scales of its numbers; by default the
    largest of each leaf, which is little where a leaf is zero but for noise.

    Derivatives with respect to `params` are those of the fixed point (implicit function theorem,
    the linear system by GMRES), forward and reverse; `fn` may close over nothing that is
    differentiated.
    """
    flat, unravel = ravel_pytree(jax.lax.stop_gradient(start))

    def map_fn(params: PyTree, x: Array) -> Array:
        return ravel_pytree(fn(params, unravel(x)))[0]

    def scales(x: Array) -> Array:
        own = largest if scale_fn is None else scale_fn
        return jnp.maximum(ravel_pytree(own(unravel(x)))[0], jnp.finfo(x.dtype).tiny)

    def solve(params: PyTree, x: Array) -> tuple[Array, Array, Array]:
        params = jax.lax.stop_gradient(params)
        return _iterate(partial(map_fn, params), scales, x, rtol, max_steps, memory, damping)

    x, error, steps = _root(params, flat, map_fn=map_fn, solve=solve)
    return FixedPoint(unravel(x), error, steps, error <= rtol)


def largest(value: PyTree) -> PyTree:
    """For each number the largest modulus of its leaf."""
    return jax.tree.map(lambda v: jnp.full_like(v, jnp.max(jnp.abs(v))), value)


@eqx.filter_custom_jvp
def _root(params: PyTree, start: Array, *, map_fn: Callable, solve: Callable):
    return solve(params, start)


@_root.def_jvp
def _root_jvp(primals, tangents, *, map_fn: Callable, solve: Callable):
    params, start = primals
    x, error, steps = _root(params, start, map_fn=map_fn, solve=solve)
    _, moved = eqx.filter_jvp(lambda p: map_fn(p, x), (params,), (tangents[0],))
    _, slope = jax.linearize(partial(map_fn, params), x)

    def linear(v: Array) -> Array:
        return v - slope(v)

    def inner(a: Callable[[Array], Array], b: Array) -> Array:
        return gmres(a, b, tol=1e-6, restart=30, maxiter=2, solve_method="incremental")[0]

    dx = jax.lax.custom_linear_solve(linear, moved, inner, transpose_solve=inner)
    return (x, error, steps), (dx, jnp.zeros_like(error), None)


def _iterate(map_fn, scales, x, rtol, max_steps, memory, damping):
    size = x.shape[0]

    def proceed(state: _State) -> Array:
        return (state.step < max_steps) & (state.error > rtol) & ~jnp.isnan(state.error)

    def advance(state: _State) -> _State:
        value = map_fn(state.x)
        residual, scale = value - state.x, scales(value)
        error = jnp.max(jnp.abs(residual / scale))
        place = state.step % memory
        values = state.values.at[place].set(value)
        residuals = state.residuals.at[place].set(residual)
        filled = jnp.arange(memory, dtype=jnp.int32) <= state.step
        # Least squares over combinations of residuals whose weights sum to one.
        scaled = residuals / scale[None]
        gram = contract("im,jm->ij", scaled, scaled)
        gram = jnp.where(filled[:, None] & filled[None], gram, 0)
        size_of = jnp.trace(gram)
        ridge = 100 * jnp.finfo(x.dtype).eps * size_of + jnp.finfo(x.dtype).tiny
        gram = gram + ridge * jnp.eye(memory, dtype=gram.dtype)
        gram = gram + jnp.diag(jnp.where(filled, 0.0, 1e6 * (size_of + 1)).astype(gram.dtype))
        weights = jnp.linalg.solve(gram, filled.astype(gram.dtype))
        weights = jnp.where(filled, weights, 0)
        weights = weights / jnp.sum(weights)
        # Residuals that are nearly alike: the plain step.
        latest = (jnp.arange(memory, dtype=jnp.int32) == place).astype(gram.dtype)
        weights = jnp.where(jnp.all(jnp.abs(weights) < 1e4), weights, latest)
        mixed = contract("i,im->m", weights, values - (1 - damping) * residuals)
        better = error < state.least
        return _State(
            mixed,
            values,
            residuals,
            error,
            state.step + 1,
            jnp.where(better, value, state.best),
            jnp.minimum(error, state.least),
        )

    blank = jnp.zeros((memory, size), x.dtype)
    far = jnp.asarray(jnp.inf, x.dtype)
    end = jax.lax.while_loop(proceed, advance, _State(x, blank, blank, far, jnp.int32(0), x, far))
    return end.best, end.least, end.step
