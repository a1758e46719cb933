"""Maximum likelihood of the kinetic model: one logistic regression a neuron, all at once."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from neurofield._numerics import contract
from neurofield._results import RESULTS, is_successful
from neurofield.lattice._action import Kinetic
from neurofield.lattice._data import Segments
from neurofield.lattice._likelihood import known_past
from neurofield.lattice._newton import (
    SEPARATED,
    Optimum,
    Regression,
    regress,
    regression_information,
)

# Numbers in the information matrices that are held at once (256 MiB).
_INFORMATION = 2**25


def raised_cosine(
    num_basis: int, num_lags: int, *, stretch: float = 1.0
) -> Float[Array, "basis lag"]:
    """Raised-cosine bumps on a logarithmic axis of lags 1..num_lags (Pillow et al. 2008).

    Each row is one bump of peak 1; `stretch` (bins) is the offset of log(lag + stretch): larger
    means closer to evenly spaced. Give it to `fit(..., basis=...)` to write a history of
    `num_lags` bins with `num_basis` numbers.
    """
    if not 1 <= num_basis <= num_lags:
        raise ValueError(f"num_basis must be from 1 to num_lags = {num_lags}, got {num_basis}.")
    if stretch <= 0:
        raise ValueError(f"stretch must be positive, got {stretch}.")
    position = np.log(np.arange(1, num_lags + 1) + stretch)
    centres = np.linspace(position[0], position[-1], num_basis)
    spacing = (position[-1] - position[0]) / max(num_basis - 1, 1) or 1.0
    phase = np.clip((position[None] - centres[:, None]) * np.pi / (2 * spacing), -np.pi, np.pi)
    return jnp.asarray(0.5 * (np.cos(phase) + 1))


def fit_kinetic(
    data: Segments,
    *,
    num_lags: int,
    basis: ArrayLike | None,
    l2: float,
    firth: bool,
    max_steps: int,
) -> tuple[Kinetic, Kinetic, Optimum]:
    """The fitted model, its standard errors, and how Newton's method ended."""
    bumps = jnp.eye(num_lags) if basis is None else jnp.asarray(basis, jnp.float64)
    if bumps.ndim != 2 or bumps.shape[1] != num_lags:
        raise ValueError(f"basis must be [num_basis, num_lags = {num_lags}], got {bumps.shape}.")
    num_neurons = data.spikes.shape[1]
    num_features = 1 + bumps.shape[0] * num_neurons
    if data.covariates is not None:
        num_features += data.covariates.shape[1]
    # The regressions are independent: as many at once as their information matrices fit.
    group = max(1, _INFORMATION // num_features**2)
    solved = [
        _solve(
            data,
            bumps,
            jnp.asarray(l2, jnp.float64),
            jnp.arange(begin, min(begin + group, num_neurons)),
            firth=firth,
            max_steps=max_steps,
        )
        for begin in range(0, num_neurons, group)
    ]
    optima, errors, flat = zip(*solved, strict=True)
    optimum = _together(optima, separated=any(bool(f) for f in flat))
    weight, stimulus = _split(optimum.value, bumps, num_neurons)
    model = Kinetic(optimum.value[:, 0], weight, stimulus)
    field_error, weight_error, stimulus_error = zip(*errors, strict=True)
    whole = [
        jnp.concatenate(field_error),
        jnp.concatenate(weight_error, axis=1),
        jnp.concatenate(stimulus_error),
    ]
    return model, eqx.tree_at(jax.tree.leaves, model, whole), optimum


def _together(optima: tuple[Optimum, ...], separated: bool) -> Optimum:
    """One outcome of all groups: the first that is not a success."""
    failed = [o.result for o in optima if not is_successful(o.result)]
    success: Any = RESULTS.separation if separated else RESULTS.successful
    return Optimum(
        jnp.concatenate([o.value for o in optima]),
        sum((o.loss for o in optima), jnp.zeros(())),
        sum((o.decrement for o in optima), jnp.zeros(())),
        jnp.max(jnp.stack([o.num_steps for o in optima])),
        failed[0] if failed else success,
    )


@functools.partial(jax.jit, static_argnames=("firth", "max_steps"))
def _solve(data: Segments, bumps: Array, l2: Array, neurons: Array, *, firth: bool, max_steps: int):
    problem = _regression(data, bumps, l2)
    problem = eqx.tree_at(lambda p: p.target, problem, problem.target[neurons])
    rate = contract("nt,t->n", problem.target, problem.weight) / jnp.sum(problem.weight)
    # A neuron without spikes starts at a finite log-odds; the errors tell that it has no maximum.
    floor = 0.5 / jnp.sum(problem.weight)
    rate = jnp.clip(rate, floor, 1 - floor)
    start = jnp.zeros((problem.target.shape[0], problem.design.shape[0]), rate.dtype)
    start = start.at[:, 0].set(jnp.log(rate) - jnp.log1p(-rate))
    optimum = regress(problem, start, firth=firth, max_steps=max_steps)
    covariance = jnp.linalg.inv(regression_information(problem, optimum.value))
    variance = jnp.diagonal(covariance, axis1=1, axis2=2)
    num_neurons, num_basis = data.spikes.shape[1], bumps.shape[0]
    last = 1 + num_basis * num_neurons
    blocks = covariance[:, 1:last, 1:last].reshape(
        neurons.shape[0], num_basis, num_neurons, num_basis, num_neurons
    )
    # weight_l = sum_b bump_bl coefficient_b: errors by the covariance of the coefficients.
    weight = contract("bl,cl,ibjcj->lij", bumps, bumps, blocks)
    errors = [jnp.sqrt(v) for v in (variance[:, 0], weight, variance[:, last:])]
    return optimum, errors, jnp.any(~(variance < SEPARATED**2))


def _regression(data: Segments, bumps: Array, l2: Array) -> Regression:
    """Rows of the design: 1, then every basis function's view of every neuron, then covariates."""
    num_lags = bumps.shape[1]
    num_steps = data.spikes.shape[-1]
    dtype = bumps.dtype
    if num_steps <= num_lags:
        raise ValueError(
            f"segments of {num_steps} bins hold no bin with {num_lags} bins before it."
        )
    x = data.spikes.astype(dtype)
    past = [x[..., num_lags - lag : num_steps - lag] for lag in range(1, num_lags + 1)]
    weight = known_past(data.mask, num_lags)[:, num_lags:].astype(dtype)
    rows = [jnp.ones_like(weight)[:, None, :]]
    if num_lags:
        filtered = contract("bl,lsnt->sbnt", bumps, jnp.stack(past))
        rows.append(filtered.reshape(filtered.shape[0], -1, filtered.shape[-1]))
    if data.covariates is not None:
        rows.append(data.covariates[..., num_lags:].astype(dtype))
    flat = lambda a: a.transpose(1, 0, 2).reshape(a.shape[1], -1)  # noqa: E731
    design = flat(jnp.concatenate(rows, axis=1))
    ridge = jnp.full(design.shape[0], l2).at[0].set(0.0)
    return Regression(design, flat(x[..., num_lags:]), weight.reshape(-1), ridge)


def _split(value: Array, bumps: Array, num_neurons: int) -> tuple[Array, Array]:
    num_basis = bumps.shape[0]
    last = 1 + num_basis * num_neurons
    coefficients = value[:, 1:last].reshape(value.shape[0], num_basis, num_neurons)
    return contract("bl,ibj->lij", bumps, coefficients), value[:, last:]
