"""Covariances of order 1 / N on a course in time: populations of finite size and shared noise.

Streams, which is what populations transmit, fluctuate by the noise of their neurons and by their
response to the fields, and the fields follow them at once: a linear equation that is triangular in
time, solved forwards (eqs. 7-9 of the theory). Covariances are those over networks, each with its
own connections and noise: the noise of a neuron is all in which it differs from others of its
population, for good or for a moment, and a population's mean fluctuates by its share of 1 / N.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield._numerics import contract, matmul

from ._course_response import CourseResponses, course_responses, drive_course
from ._intensity import noise_across, noise_two_time, output_noise, own_noise, two_time, variances
from ._paths import field_noise, init_paths
from ._response import carries_variance
from ._shared import external_noise
from ._theory import Theory


class Parts(eqx.Module):
    """What the covariances are made of, of one group of paths.

    `own`: of each population `[row, row, time, time]`, covariances of single neurons but for what
    all feel alike; the rows are the output and the streams from there. `mean`: of the streams.
    """

    responses: CourseResponses
    own: tuple[Float[Array, "_ _ time time"], ...]
    mean: Float[Array, "stream time"]


class CourseShared(NamedTuple):
    """`field[f, g, t, t']`: of what all neurons receive alike. `population[p, q, t, t']`."""

    field: Float[Array, "field field time time"]
    population: Float[Array, "population population time time"]


@eqx.filter_jit
def course_parts(theory: Theory, keys, mean, h, covariance, factor, num_slopes, jitter) -> Parts:
    """Of each replica, `[replica, ...]`, from the means, the paths of its fields and their law.

    `factor`: of the covariance of what the fields hold besides, see `draw_shared`.
    """

    def one(args):
        key, mean, h, covariance = args
        felt = None if factor is None else draw_shared(key, theory, factor, h.shape[2])
        driven_by = h if felt is None else h + felt
        responses = course_responses(key, theory, mean, driven_by, covariance, num_slopes, jitter)
        paths = drive_course(key, theory, mean, driven_by)
        x, y = paths.x, paths.y
        mean_y = jnp.mean(y, axis=2)
        if felt is not None:
            owner = [p for p, _ in theory.fields]
            x = jnp.stack(
                [
                    row
                    - sum(
                        contract("ts,sm->tm", responses.output[f], felt[f])
                        for f, q in enumerate(owner)
                        if q == p
                    )
                    for p, row in enumerate(x)
                ]
            )
            y = y - contract("sftu,fum->stm", responses.stream, felt)
        x, y = (v - jnp.mean(v, axis=2)[:, :, None] for v in (x, y))
        own = []
        for p in range(len(theory.populations)):
            rows = jnp.concatenate([x[p : p + 1], y[jnp.asarray(_from(theory, p), jnp.int32)]])
            own.append(contract("atm,bsm->abts", rows, rows) / (rows.shape[2] - 1))
        if theory.expected:
            own = _with_noise(key, theory, paths.x, own)
        return Parts(responses, tuple(own), mean_y)

    return jax.lax.map(one, (keys, mean, h, covariance))


def draw_shared(
    key: PRNGKeyArray, theory: Theory, factor: Float[Array, "row row"], num_paths: int
) -> Float[Array, "field time path"]:
    """Paths of what all neurons receive alike, one each; `factor`: of `factor_shared`."""
    num = len(theory.fields)
    shape = (factor.shape[0] // num, num_paths)
    z = field_noise(jax.random.split(key, 4)[3], theory, shape, True)
    drawn = matmul(factor, jnp.swapaxes(z, 0, 1).reshape(factor.shape[0], num_paths))
    return jnp.swapaxes(drawn.reshape(shape[0], num, num_paths), 0, 1)


@eqx.filter_jit
def factor_shared(
    covariance: Float[Array, "field field time time"], jitter: float
) -> Float[Array, "row row"]:
    """A factor of the covariance by time and, at each, field."""
    num_fields, num_steps = covariance.shape[1:3]
    flat = jnp.transpose(covariance, (2, 0, 3, 1)).reshape((num_fields * num_steps,) * 2)
    largest = jnp.max(jnp.diagonal(covariance, axis1=2, axis2=3), axis=2)
    extra = jnp.tile(jitter * jnp.diagonal(largest) + 1e-30, num_steps)
    return jnp.linalg.cholesky(flat + jnp.diag(extra))


def covariances(theory: Theory, parts: Parts) -> CourseShared:
    """Of fields and population means, from the parts of one group of paths, or their mean."""
    rows, noises = _loops(theory, parts)
    pairs = zip(rows, noises, strict=True)
    found = jnp.asarray(sum(contract("ai,ij,bj->ab", row, noise, row) for row, noise in pairs))
    num, num_steps = len(theory.populations), parts.mean.shape[1]
    size = num + len(theory.fields)
    blocks = jnp.swapaxes(found.reshape(size, num_steps, size, num_steps), 1, 2)
    return CourseShared(blocks[num:, num:], blocks[:num, :num])


@eqx.filter_jit
def shared_fields(theory: Theory, parts: Parts) -> Float[Array, "field field time time"]:
    """That of the fields from the mean of all groups of paths."""
    return covariances(theory, mean_parts(parts)).field


def equal_times(theory: Theory, parts: Parts) -> tuple[Array, Array]:
    """The same at equal times alone: `[field, field, time]`, `[population, population, time]`."""
    rows, noises = _loops(theory, parts)
    num, num_steps = len(theory.populations), parts.mean.shape[1]
    found = jnp.zeros((), theory.dtype)
    for row, noise in zip(rows, noises, strict=True):
        through, row = ((a.reshape(-1, num_steps, a.shape[1])) for a in (matmul(row, noise), row))
        found = found + contract("ati,bti->abt", through, row)
    return found[num:, num:], found[:num, :num]


@eqx.filter_jit
def pooled(theory: Theory, parts: Parts) -> CourseShared:
    """From all replicas together, `[replica, ...]`: jackknife pseudo-values (`pooled_shared`)."""
    num = parts.mean.shape[0]
    together = covariances(theory, mean_parts(parts))

    def without(i):
        weight = jnp.where(jnp.arange(num, dtype=jnp.int32) == i, 0, 1 / (num - 1))
        left = jax.tree.map(lambda x: jnp.tensordot(weight.astype(x.dtype), x, 1), parts)
        return covariances(theory, left)

    left = jax.lax.map(without, jnp.arange(num, dtype=jnp.int32))
    return jax.tree.map(lambda a, b: num * a[None] - (num - 1) * b, together, left)


def mean_parts(parts: Parts) -> Parts:
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), parts)


def _from(theory: Theory, p: int) -> list[int]:
    return [s for s, source in enumerate(theory.sources) if source == p]


def _with_noise(key, theory: Theory, x: Array, own: list[Array]) -> list[Array]:
    """With the noise that is left of expectations given the input."""
    num_steps = x.shape[1]
    start_key = jax.random.split(key, 3)[0]
    noise = own_noise(theory, init_paths(start_key, theory, x.shape[2]), num_steps)
    outputs = two_time(output_noise(theory, x, num_steps))
    streams = None if noise is None else noise_two_time(noise, variances(theory, x))
    across = None if noise is None else noise_across(theory, noise, variances(theory, x))
    found = []
    for p, block in enumerate(own):
        block = block.at[0, 0].add(outputs[p])
        for a, s in enumerate(_from(theory, p), 1):
            assert streams is not None
            assert across is not None
            block = block.at[a, a].add(streams[s])
            block = block.at[0, a].add(across[s]).at[a, 0].add(across[s].T)
        found.append(block)
    return found


def _loops(theory: Theory, parts: Parts) -> tuple[list[Array], list[Array]]:
    """Of each source of noise, its covariance and its way to population means and fields.

    Rows are population means and then fields, times within each.
    """
    responses, num_steps = parts.responses, parts.mean.shape[1]
    num, num_fields, num_streams = len(theory.populations), len(theory.fields), len(theory.streams)
    dtype = theory.dtype
    owner = jnp.asarray([[q == p for q, _ in theory.fields] for p in range(num)], dtype)
    # What streams and outputs answer to the streams through the fields.
    through = contract("sftu,fr->srtu", responses.stream, theory.mean)
    output = contract("pf,ftu->pftu", owner, responses.output)
    to_output = contract("pftu,fr->prtu", output, theory.mean)
    if responses.stream_variance is not None and responses.output_variance is not None:
        share = _variance_share(theory, parts.mean)
        through = through + contract("sftu,fru->srtu", responses.stream_variance, share)
        varied = contract("pf,ftu->pftu", owner, responses.output_variance)
        to_output = to_output + contract("pftu,fru->prtu", varied, share)
    # By time first, where it is triangular: streams answer after a step.
    flat = jnp.transpose(through, (2, 0, 3, 1)).reshape((num_streams * num_steps,) * 2)
    eye = jnp.eye(flat.shape[0], dtype=dtype)
    inverse = solve_triangular(eye - flat, eye, lower=True, unit_diagonal=True)
    inverse = inverse.reshape(num_steps, num_streams, num_steps, num_streams)
    inverse = _rows(jnp.transpose(inverse, (1, 3, 0, 2)))
    weights = theory.mean[:, :, None, None] * jnp.eye(num_steps, dtype=dtype)[None, None]
    up = jnp.concatenate([_rows(to_output), _rows(weights)])
    from_streams = matmul(up, inverse)
    rows, noises = [], []
    columns = from_streams.reshape(from_streams.shape[0], num_streams, num_steps)
    for p in range(num):
        direct = jnp.zeros((num + num_fields, num_steps, num_steps), dtype)
        direct = direct.at[p].set(jnp.eye(num_steps, dtype=dtype)).reshape(-1, num_steps)
        chosen = columns[:, jnp.asarray(_from(theory, p), jnp.int32)]
        rows.append(jnp.concatenate([direct, chosen.reshape(chosen.shape[0], -1)], axis=1))
        noises.append(_rows(parts.own[p]) / theory.sizes[p])
    if theory.shared:
        unit = jnp.eye(num_fields, dtype=dtype)[:, :, None, None]
        unit = unit * jnp.eye(num_steps, dtype=dtype)[None, None]
        direct = jnp.concatenate([_rows(output), _rows(unit)])
        rows.append(direct + matmul(from_streams, _rows(responses.stream)))
        step = jnp.arange(num_steps, dtype=dtype)
        noises.append(_rows(external_noise(theory, jnp.abs(step[:, None] - step[None]))))
    return rows, noises


def _rows(blocks: Float[Array, "a b time time"]) -> Float[Array, "row column"]:
    a, b, num, _ = blocks.shape
    return jnp.swapaxes(blocks, 1, 2).reshape(a * num, b * num)


def _variance_share(theory: Theory, mean: Float[Array, "stream time"]) -> Array:
    """Change of a field's variance per unit of a stream at that step, `[field, stream, time]`."""
    columns = []
    for s, stream in enumerate(theory.streams):
        kind = theory.populations[stream.source].neuron.kind
        if kind == "rate" or not carries_variance(stream):
            columns.append(jnp.zeros((len(theory.fields), mean.shape[1]), theory.dtype))
        elif kind == "binary":
            columns.append(theory.vQ[:, s, None] - 2 * theory.vM[:, s, None] * mean[s][None])
        else:
            share = theory.vQ[:, s, None] / theory.dt
            columns.append(jnp.broadcast_to(share, (len(theory.fields), mean.shape[1])))
    return jnp.stack(columns, axis=1)
