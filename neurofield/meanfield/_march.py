"""The forward march: the two-time equations solved row by row, without iteration.

Outputs up to step k - 1 fix the law of the fields at step k given the fields before it; so a path
is drawn one step at a time, from the conditional normal distribution, and its row appended to the
Cholesky factor of the past. With a window the past is cut off, and what is left has another factor,
renewed once a block of steps. Cost: T steps, M paths, window W (T without one): about 2 T W M
operations on the paths, T W^2 for the rows, and with a window T W^3 / (3 block) for the factors.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import contract

from ._intensity import OwnNoise, emit, noise_row, own_noise, response_table, variances
from ._paths import PathState, field_noise, init_paths, step_paths, stream_input, world_input
from ._score import scored_lagged, scored_mean, step_scores
from ._theory import Theory


class Marched(eqx.Module):
    """Paths of one march.

    - `score`: zero with the derivative of the log-probability of what was emitted up to each step,
      where that is the estimator (`_score`).
    - `noise`: that of the streams given their input, where expectations are transmitted.
    - `left`: the share of each field's variance that its past leaves open, `jitter` included.
    """

    x: Float[Array, "population time path"]
    y: Float[Array, "stream time path"]
    h: Float[Array, "field time path"]  # the fields without their means and without shared input
    score: Float[Array, "population time path"] | None
    noise: OwnNoise | None
    left: Float[Array, "field time"]


class _Past(eqx.Module):
    """Zero before the start.

    `law`: the Cholesky factor of the fields' covariance; the covariance itself where a window cuts.
    """

    y: Float[Array, "stream window path"]
    mean: Float[Array, "stream window"]
    h: Float[Array, "field window path"]
    law: Float[Array, "field window window"]


class _Block(eqx.Module):
    """Rows of the block so far; zero below."""

    y: Float[Array, "stream block path"]
    mean: Float[Array, "stream block"]
    z: Float[Array, "field block path"]
    covariance: Float[Array, "field block earlier"]
    cross: Float[Array, "field block window"]  # rows of the factor against the window
    factor: Float[Array, "field block block"]


class _Emitted(eqx.Module):
    """What the estimator needs of what was emitted so far; `None` where it does not."""

    score: Float[Array, "population path"] | None
    arrivals: Float[Array, "stream time"] | None
    variance: Float[Array, " stream"] | None


def march(
    key: PRNGKeyArray,
    theory: Theory,
    num_steps: int,
    num_paths: int,
    *,
    window: int,
    block: int,
    jitter: float,
    num_worlds: int = 1,
    nested: bool = False,
    shared: Float[Array, "field time path"] | None = None,
) -> Marched:
    """Draw `num_worlds` x `num_paths` paths over `num_steps` steps, a multiple of `block`.

    `nested`: paths of a world share its fluctuation of the population means; see `_paths`.
    `shared`: what each path receives beside the fields of the equations (eq. 9).
    """
    total = num_worlds * num_paths
    scored = theory.gradient == "score"
    start_key, run_key, noise_key = jax.random.split(key, 3)
    paths = init_paths(start_key, theory, total, num_worlds if nested else None)
    num_streams, num_fields = len(theory.streams), len(theory.fields)
    sources = jnp.asarray(theory.sources, jnp.int32)
    noise = own_noise(theory, paths, max(num_steps, window + block))
    table = None if noise is None else response_table(noise, window, block)
    emitted = _Emitted(
        jnp.zeros((len(theory.populations), total), theory.dtype) if scored else None,
        None if noise is None else jnp.zeros((num_streams, num_steps), theory.dtype),
        None if noise is None else noise.initial,
    )
    whole = window >= num_steps - block
    nothing = jnp.zeros((num_fields, window, window), theory.dtype)
    past = _Past(
        jnp.zeros((num_streams, window, total), theory.dtype),
        jnp.zeros((num_streams, window), theory.dtype),
        jnp.zeros((num_fields, window, total), theory.dtype),
        factor(nothing, jitter) if whole else nothing,
    )

    def rows(past: _Past, lower: Array, carry: tuple[PathState, _Block, _Emitted], at: Array):
        paths, now, emitted = carry
        step, j = at, at % block
        y = stream_input(theory, paths)
        score = None if emitted.score is None else emitted.score[sources]
        mean_y = scored_mean(y, score)
        now = eqx.tree_at(
            lambda b: (b.y, b.mean),
            now,
            (now.y.at[:, j].set(y), now.mean.at[:, j].set(mean_y)),
        )
        before = jnp.concatenate(
            [scored_lagged(past.y, y, score), scored_lagged(now.y, y, score)], axis=1
        )
        if noise is not None and table is not None and emitted.arrivals is not None:
            before = before + noise_row(noise, table, emitted.arrivals, step, j, block)
        means = jnp.concatenate([past.mean, now.mean], axis=1)
        c = theory.input_covariance(before, means * mean_y[:, None])
        old, new = c[:, :window], c[:, window:]
        variance = jnp.take(new, j, axis=1)
        cross = _solve(lower, old)
        rest = new - contract("fbw,fw->fb", now.cross, cross)
        # Rows below the current one are zero; a unit diagonal keeps the solve defined.
        earlier = jnp.arange(block, dtype=jnp.int32) < j
        unit = jnp.diag(jnp.where(earlier, 0, 1).astype(theory.dtype))
        inner = _solve(now.factor + unit[None], jnp.where(earlier[None], rest, 0))
        pivot = nugget(variance, jitter) - jnp.sum(cross**2, axis=1) - jnp.sum(inner**2, axis=1)
        # Rounding alone can bring the pivot below the nugget.
        least = nugget(variance, jitter) - variance
        pivot = jnp.where(pivot > least / 2, pivot, jax.lax.stop_gradient(least))
        left = pivot / nugget(variance, jitter)
        pivot = jnp.sqrt(pivot)
        z = field_noise(jax.random.fold_in(noise_key, step), theory, (total,), nested)
        weights = _solve(lower, cross, transposed=True)
        h = contract("fw,fwm->fm", weights, past.h) + contract("fb,fbm->fm", inner, now.z)
        h = h + pivot[:, None] * z
        if nested:
            fields = h + world_input(theory, y, num_worlds)
        else:
            fields = h + theory.input_mean(mean_y)[:, None]
        if shared is not None:
            fields = fields + jnp.take(shared, step, axis=1)
        place = jnp.where(jnp.arange(block, dtype=jnp.int32) == j, 1, 0).astype(theory.dtype)
        row = inner + pivot[:, None] * place[None]
        now = _Block(
            now.y,
            now.mean,
            now.z.at[:, j].set(z),
            now.covariance.at[:, j].set(c),
            now.cross.at[:, j].set(cross),
            now.factor.at[:, j].set(row),
        )
        paths, output = step_paths(run_key, theory, paths, step, fields, nested)
        values = jnp.stack(output.values)
        if emitted.score is not None:
            emitted = _Emitted(emitted.score + step_scores(theory, output), None, None)
        if noise is not None and emitted.arrivals is not None and emitted.variance is not None:
            after = variances(theory, values)
            arrivals = emit(noise, emitted.arrivals, step, emitted.variance, after)
            emitted = _Emitted(None, arrivals, after)
        return (paths, now, emitted), (values, y, h, emitted.score, left)

    @partial(jax.checkpoint)
    def one_block(carry: tuple[PathState, _Past, _Emitted], first: Array):
        paths, past, emitted = carry
        lower = past.law if whole else factor(past.law, jitter)
        now = _Block(
            jnp.zeros((num_streams, block, total), theory.dtype),
            jnp.zeros((num_streams, block), theory.dtype),
            jnp.zeros((num_fields, block, total), theory.dtype),
            jnp.zeros((num_fields, block, window + block), theory.dtype),
            jnp.zeros((num_fields, block, window), theory.dtype),
            jnp.zeros((num_fields, block, block), theory.dtype),
        )
        steps = first + jnp.arange(block, dtype=jnp.int32)
        (paths, now, emitted), (x, y, h, score, left) = jax.lax.scan(
            partial(rows, past, lower), (paths, now, emitted), steps
        )
        y, h = jnp.moveaxis(y, 0, 1), jnp.moveaxis(h, 0, 1)
        old, own = now.covariance[:, :, :window], jnp.tril(now.covariance[:, :, window:])
        if whole:
            # What drops out is of before the start, and on its own.
            above, old, own = jnp.zeros_like(old), now.cross, now.factor
        else:
            above, own = old, own + jnp.swapaxes(jnp.tril(own, -1), 1, 2)
        grown = jnp.concatenate(
            [
                jnp.concatenate([past.law, jnp.swapaxes(above, 1, 2)], axis=2),
                jnp.concatenate([old, own], axis=2),
            ],
            axis=1,
        )
        past = _Past(
            jnp.concatenate([past.y, y], axis=1)[:, block:],
            jnp.concatenate([past.mean, now.mean], axis=1)[:, block:],
            jnp.concatenate([past.h, h], axis=1)[:, block:],
            grown[:, block:, block:],
        )
        score = None if score is None else jnp.moveaxis(score, 0, 1)
        return (paths, past, emitted), (jnp.moveaxis(x, 0, 1), y, h, score, left.T)

    firsts = jnp.arange(0, num_steps, block, dtype=jnp.int32)
    _, (x, y, h, score, left) = jax.lax.scan(one_block, (paths, past, emitted), firsts)
    score = None if score is None else _joined(score)
    return Marched(_joined(x), _joined(y), _joined(h), score, noise, _joined(left))


def nugget(variance: Array, jitter: float) -> Array:
    """The variance with a little white noise, without which smooth processes are singular."""
    return variance * (1 + jitter) + 1e-30


def factor(covariance: Float[Array, "row time time"], jitter: float) -> Array:
    """The Cholesky factors of covariances with their nuggets."""
    diagonal = jnp.diagonal(covariance, axis1=1, axis2=2)
    extra = nugget(diagonal, jitter) - diagonal
    eye = jnp.eye(covariance.shape[1], dtype=covariance.dtype)
    return jnp.linalg.cholesky(covariance + extra[:, :, None] * eye[None])


def _solve(lower: Array, b: Array, transposed: bool = False) -> Array:
    """L^-1 b or L^-T b, `[field, row]`."""
    trans = 1 if transposed else 0
    return jax.vmap(lambda a, v: solve_triangular(a, v, trans=trans, lower=True))(lower, b)


def _joined(blocks: Float[Array, "block row step *path"]) -> Float[Array, "row time *path"]:
    moved = jnp.moveaxis(blocks, 0, 1)
    num_blocks, block = moved.shape[1:3]
    return moved.reshape(moved.shape[0], num_blocks * block, *moved.shape[3:])
