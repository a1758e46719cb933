"""Maximum pseudo-likelihood of an action of any size, range and with directed couplings."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import HIGHEST, contract, softplus
from neurofield._results import RESULTS, is_successful
from neurofield.lattice._action import Action
from neurofield.lattice._data import (
    Segments,
    check_extremes,
    interior,
    moments,
    touches_boundary,
)
from neurofield.lattice._newton import SEPARATED, Optimum, truncated_newton
from neurofield.lattice._weight import local_field, shift

# A dense Hessian for the errors: 3000 numbers are N = 76 neurons with one lag.
MAX_ERROR_PARAMETERS = 3000
# Bins whose scores are summed before their covariance is taken, so that neighbours' dependence
# (a spike enters the scores of several bins) is in the errors.
_SCORE_BLOCK = 64
# Fewer blocks know their own covariance too badly; short data have shorter blocks.
_MIN_BLOCKS = 32


def fit_pseudo(
    data: Segments,
    *,
    pairwise: bool,
    num_lags: int,
    num_transfer_lags: int,
    l2: float,
    max_steps: int,
) -> tuple[Action, Action | None, Optimum]:
    """The fitted action, sandwich errors (Godambe), and how Newton's method ended."""
    n = data.spikes.shape[1]
    num_covariates = 0 if data.covariates is None else data.covariates.shape[1]
    layout = Layout(n, pairwise, num_lags, num_transfer_lags, num_covariates)
    measured = moments(data, num_lags)
    check_extremes(measured)
    separated = l2 == 0 and touches_boundary(measured, pairwise)
    optimum = _solve(data, jnp.asarray(l2, jnp.float64), layout=layout, max_steps=max_steps)
    model = layout.action(optimum.value)
    error = None
    if layout.num_parameters <= MAX_ERROR_PARAMETERS:
        block = max(layout.reach + 1, min(_SCORE_BLOCK, data.mask.size // _MIN_BLOCKS))
        errors, flat = _errors(
            data, jnp.asarray(l2, jnp.float64), optimum.value, layout=layout, block=block
        )
        error, separated = layout.action(errors), separated or bool(flat)
    if separated and is_successful(optimum.result):
        optimum = eqx.tree_at(lambda o: o.result, optimum, RESULTS.separation)
    return model, error, optimum


class Layout(eqx.Module):
    """Where each number of an action lies in the vector that Newton's method works on."""

    num_neurons: int = eqx.field(static=True)
    pairwise: bool = eqx.field(static=True)
    num_lags: int = eqx.field(static=True)
    num_transfer_lags: int = eqx.field(static=True)
    num_covariates: int = eqx.field(static=True)

    @property
    def reach(self) -> int:
        """Bins on either side that a site's conditional looks at."""
        return max(self.num_lags, self.num_transfer_lags)

    @property
    def num_pairs(self) -> int:
        return self.num_neurons * (self.num_neurons - 1) // 2 if self.pairwise else 0

    @property
    def num_parameters(self) -> int:
        n = self.num_neurons
        return n * (1 + self.num_lags + self.num_covariates + n * self.num_transfer_lags) + (
            self.num_pairs
        )

    def action(self, theta: Float[Array, " p"]) -> Action:
        n = self.num_neurons
        field, pairs, history, transfer, stimulus = jnp.split(
            theta,
            np.cumsum([n, self.num_pairs, n * self.num_lags, n * n * self.num_transfer_lags]),
        )
        space = jnp.zeros((n, n), theta.dtype)
        if self.pairwise:
            space = space.at[jnp.triu_indices(n, 1)].set(pairs)
            space = space + space.T
        transfer = transfer.reshape(self.num_transfer_lags, n, n)
        transfer = transfer * self._directed(theta.dtype)
        empty = Action(jnp.zeros(n, theta.dtype))
        # Put in place, not constructed: the same layout holds errors, which may be infinite.
        return eqx.tree_at(
            lambda a: (a.field, a.space, a.history, a.transfer, a.stimulus),
            empty,
            (field, space, history.reshape(self.num_lags, n), transfer, stimulus.reshape(n, -1)),
        )

    def _directed(self, dtype) -> Array:
        """No self-coupling at the lags that the own history covers."""
        off = 1 - jnp.eye(self.num_neurons, dtype=dtype)
        own = jnp.arange(self.num_transfer_lags)[:, None, None] < self.num_lags
        return jnp.where(own, off[None], jnp.ones((1, 1, 1), dtype))

    def features(self, neuron: Array, x: Array, data: Segments) -> tuple[Array, Array]:
        """Indices `[f]` into the vector, features `[s, f, t]`: h_i = sum_f theta_f feature_f."""
        n, dtype = self.num_neurons, x.dtype
        nowhere = self.num_parameters
        own = x[:, neuron]
        index, rows = [neuron[None]], [jnp.ones_like(own)[:, None]]
        base = n
        if self.pairwise:
            table = np.full((n, n), nowhere)
            i, j = np.triu_indices(n, 1)
            table[i, j] = table[j, i] = base + np.arange(self.num_pairs)
            index.append(jnp.asarray(table)[neuron])
            rows.append(x)
        base += self.num_pairs
        for lag in range(self.num_lags):
            index.append((base + lag * n + neuron)[None])
            rows.append((shift(own, lag + 1, "open") + shift(own, -lag - 1, "open"))[:, None])
        base += n * self.num_lags
        others = jnp.arange(n)
        for lag in range(self.num_transfer_lags):
            start = base + lag * n * n
            owned = (others == neuron) & (lag < self.num_lags)
            index.append(jnp.where(owned, nowhere, start + neuron * n + others))
            rows.append(shift(x, lag + 1, "open"))
            index.append(jnp.where(owned, nowhere, start + others * n + neuron))
            rows.append(shift(x, -lag - 1, "open"))
        base += n * n * self.num_transfer_lags
        if data.covariates is not None:
            index.append(base + neuron * self.num_covariates + jnp.arange(self.num_covariates))
            rows.append(data.covariates.astype(dtype))
        return jnp.concatenate(index), jnp.concatenate(rows, axis=1)


@functools.partial(jax.jit, static_argnames=("layout", "max_steps"))
def _solve(data: Segments, l2: Array, *, layout: Layout, max_steps: int) -> Optimum:
    valid = interior(data.mask, layout.reach).astype(l2.dtype)
    x = data.spikes.astype(l2.dtype) * data.mask[:, None].astype(l2.dtype)
    total = jnp.sum(valid)
    rate = contract("snt,st->n", x, valid) / total
    rate = jnp.clip(rate, 0.5 / total, 1 - 0.5 / total)
    start = jnp.zeros(layout.num_parameters, l2.dtype)
    start = start.at[: layout.num_neurons].set(jnp.log(rate) - jnp.log1p(-rate))
    args = (data, l2, _curvature(layout, rate, total, l2, data), valid)
    return truncated_newton(
        functools.partial(_loss, layout=layout),
        start,
        args,
        lambda v, a: v / a[2],
        max_steps=max_steps,
    )


def _loss(theta: Array, args, *, layout: Layout) -> Float[Array, ""]:
    data, l2, _, valid = args
    action = layout.action(theta)
    x = data.spikes.astype(theta.dtype) * data.mask[:, None].astype(theta.dtype)
    h = local_field(action, x, covariates=data.covariates)
    nats = jnp.sum((softplus(h) - x * h) * valid[:, None])
    return nats + 0.5 * l2 * jnp.sum(theta[layout.num_neurons :] ** 2)


def _curvature(layout: Layout, rate: Array, total: Array, l2: Array, data: Segments) -> Array:
    """The Hessian's diagonal were the neurons independent: the preconditioner."""
    n = layout.num_neurons
    variance = rate * (1 - rate)
    both = variance[:, None] * rate[None, :] + rate[:, None] * variance[None, :]
    parts = [variance]
    if layout.pairwise:
        parts.append(both[jnp.triu_indices(n, 1)])
    parts.append(jnp.tile(2 * variance * rate * (1 + rate), layout.num_lags))
    parts.append(jnp.tile(both.reshape(-1), layout.num_transfer_lags))
    if data.covariates is not None:
        power = jnp.mean(data.covariates.astype(rate.dtype) ** 2, axis=(0, 2))
        parts.append((variance[:, None] * power[None]).reshape(-1))
    ridge = jnp.full(layout.num_parameters, l2).at[:n].set(0.0)
    return total * jnp.concatenate(parts) + ridge + 1e-3


@functools.partial(jax.jit, static_argnames=("layout", "block"))
def _errors(
    data: Segments, l2: Array, theta: Array, *, layout: Layout, block: int
) -> tuple[Array, Array]:
    """Sandwich errors H^-1 V H^-1 with V the covariance of block sums of the scores.

    Also whether the objective is flat along a parameter, whose error is then infinite: V vanishes
    there with H and would not show it.
    """
    p = layout.num_parameters
    valid = interior(data.mask, layout.reach).astype(theta.dtype)
    x = data.spikes.astype(theta.dtype) * data.mask[:, None].astype(theta.dtype)
    num_segments, _, num_steps = x.shape
    num_blocks = -(-num_steps // block)
    padding = num_blocks * block - num_steps
    padded = jnp.concatenate([theta, jnp.zeros(1, theta.dtype)])

    def add(carry, neuron):
        hessian, scores = carry
        index, z = layout.features(neuron, x, data)
        h = contract("f,sft->st", padded[index], z)
        mean = jax.nn.sigmoid(h)
        curvature = mean * (1 - mean) * valid
        information = contract("sft,sgt->fg", z * curvature[:, None], z)
        residual = ((x[:, neuron] - mean) * valid)[:, None] * z
        residual = jnp.pad(residual, [(0, 0), (0, 0), (0, padding)])
        sums = jnp.sum(residual.reshape(num_segments, -1, num_blocks, block), axis=-1)
        sums = sums.transpose(1, 0, 2).reshape(sums.shape[1], -1)
        hessian = hessian.at[index[:, None], index[None, :]].add(information)
        return (hessian, scores.at[index].add(sums)), None

    empty = (
        jnp.zeros((p + 1, p + 1), theta.dtype),
        jnp.zeros((p + 1, num_segments * num_blocks), theta.dtype),
    )
    (hessian, scores), _ = jax.lax.scan(add, empty, jnp.arange(layout.num_neurons))
    ridge = jnp.full(p, l2).at[: layout.num_neurons].set(0.0)
    # Parameters that the layout holds at zero (self-transfer) have no score and no curvature.
    free = jnp.diagonal(hessian)[:p] > 0
    hessian = hessian[:p, :p] + jnp.diag(ridge + jnp.where(free, 0.0, 1.0))
    variance = jnp.matmul(scores[:p], scores[:p].T, precision=HIGHEST)
    # The scores sum to zero at the optimum, which takes away one degree of freedom.
    used = jnp.sum(jnp.any(scores != 0, axis=0), dtype=theta.dtype)
    variance = variance * used / jnp.maximum(used - 1, 1)
    inverse = jnp.linalg.inv(hessian)
    flat = ~(jnp.diagonal(inverse) < SEPARATED**2)
    sandwich = contract("ab,bc,ac->a", inverse, variance, inverse)
    errors = jnp.where(flat, jnp.inf, jnp.sqrt(jnp.maximum(sandwich, 0.0)))
    return errors, jnp.any(flat)
