"""Standard errors of a minimum, from its curvature."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from neurofield._results import RESULTS
from neurofield._types import PyTree

from ._parameter import Free, constrain, is_floating, unconstrain

_HIGHEST = jax.lax.Precision.HIGHEST


class Uncertainty(eqx.Module):
    """Errors of fitted parameters.

    **Attributes**

    - `error`: one standard error a number, in the structure of the parameters, zero for fixed
      ones; `None` if the information matrix is not positive definite.
    - `covariance`: `[free, free]`, of the free coordinates in the order of `ravel_pytree`; `None`
      likewise.
    - `result`: `RESULTS.successful`, or `RESULTS.singular`.
    - `eigenvalues`: `[free]` of the information matrix scaled to unit diagonal, ascending.
    """

    error: PyTree
    covariance: Float[Array, "free free"] | None
    result: RESULTS
    eigenvalues: Float[Array, " free"]


def standard_errors(
    loss_fn: Callable[..., Any],
    params: PyTree,
    *,
    args: tuple[Any, ...] = (),
    spec: PyTree = None,
    per_sample_fn: Callable[..., Any] | None = None,
    throw: bool = True,
) -> Uncertainty:
    """Standard errors at a minimum of a negative log-likelihood `loss_fn(params, *args)`, in nats.

    The covariance is the inverse of the observed information (the Hessian, in free coordinates
    of `spec`), carried to the parameters by the delta method. With `per_sample_fn(params, *args)`,
    the losses `[sample]` of independent samples that sum to the loss, it is the sandwich
    H^-1 (sum of g g') H^-1 (White 1982, Econometrica 50, eq. 3.2), right also for a wrong model.
    Host function; memory is quadratic in the number of free coordinates.

    Raises `ValueError` under `throw` if the information is not positive definite (a flat
    direction, or no minimum), naming the parameter that moves most along the flattest direction;
    otherwise `error` and `covariance` are then `None` and `result` is `singular`.
    """
    free = unconstrain(spec, params)
    flat, unravel = ravel_pytree(free)

    def loss(flat: Array) -> Any:
        return loss_fn(constrain(spec, unravel(flat), params), *args)

    information = eqx.filter_jit(jax.hessian(loss))(flat)
    meat = None
    if per_sample_fn is not None:

        def losses(flat: Array) -> Any:
            return per_sample_fn(constrain(spec, unravel(flat), params), *args)

        scores = eqx.filter_jit(jax.jacobian(losses))(flat)
        meat = jnp.matmul(scores.T, scores, precision=_HIGHEST)
    return invert_information(information, free, spec, params, meat=meat, throw=throw)


def invert_information(
    information: Float[Array, "free free"],
    free: Free,
    spec: PyTree,
    params: PyTree,
    *,
    meat: Float[Array, "free free"] | None = None,
    throw: bool = True,
) -> Uncertainty:
    """`Uncertainty` from an information matrix over `ravel_pytree(free)`; see `standard_errors`."""
    size = len(information)
    singular: Any = RESULTS.singular
    successful: Any = RESULTS.successful
    if not np.isfinite(information).all():
        raise ValueError(f"the information matrix is not finite for {_worst(free, information)}.")
    # Unit diagonal, so that the test below does not depend on the parameters' units.
    diagonal = jnp.diagonal(information)
    scale = jnp.where(diagonal > 0, jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1)), 1)
    scaled = information / jnp.outer(scale, scale)
    eigenvalues, vectors = jnp.linalg.eigh(scaled)
    if not eigenvalues[0] > size * jnp.finfo(information.dtype).eps:
        if throw:
            raise ValueError(
                "the information matrix is not positive definite (smallest scaled eigenvalue "
                f"{float(eigenvalues[0]):.3g}), mostly along {_worst(free, vectors[:, 0])}: the "
                "data do not fix that direction, or this is no minimum. Fix the parameter, "
                "penalise it or fit further; throw=False returns no errors instead."
            )
        return Uncertainty(None, None, singular, eigenvalues)
    root = (vectors / jnp.sqrt(eigenvalues)[None, :]) / scale[:, None]
    covariance = jnp.matmul(root, root.T, precision=_HIGHEST)
    if meat is not None:
        covariance = jnp.linalg.multi_dot([covariance, meat, covariance], precision=_HIGHEST)
    error = propagate(covariance, free, spec, params)
    return Uncertainty(error, covariance, successful, eigenvalues)


def propagate(
    covariance: Float[Array, "free free"], free: Free, spec: PyTree, params: PyTree
) -> PyTree:
    """Standard errors of the parameters from the covariance of the free coordinates."""
    flat, unravel = ravel_pytree(free)

    def floating(flat: Array) -> list[Array]:
        leaves = jax.tree.leaves(constrain(spec, unravel(flat), params))
        return [jnp.asarray(x) for x in leaves if is_floating(x)]

    errors = []
    for jacobian in eqx.filter_jit(jax.jacfwd(floating))(flat):
        through = jnp.matmul(jacobian, covariance.astype(jacobian.dtype), precision=_HIGHEST)
        # A variance that rounds below zero is zero.
        errors.append(jnp.sqrt(jnp.maximum(jnp.sum(through * jacobian, -1), 0)))
    found = iter(errors)

    def error_of(leaf: Any) -> Any:
        if is_floating(leaf):
            return next(found)
        return jnp.zeros_like(leaf) if eqx.is_array(leaf) else leaf

    return jax.tree.map(error_of, params)


def _worst(free: Free, direction: Array) -> str:
    """The name of the free coordinate where a vector (or a matrix's row) is largest."""
    size = np.abs(np.nan_to_num(np.asarray(direction), nan=np.inf))
    index = int(np.argmax(size if size.ndim == 1 else size.max(1)))
    for name, leaf in sorted(free.items()):
        if index < leaf.size:
            entry = [int(i) for i in np.unravel_index(index, leaf.shape)]
            return f"{name} (entry {entry})" if entry else name
        index -= leaf.size
    raise ValueError("the direction does not belong to these coordinates.")
