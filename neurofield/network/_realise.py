"""Drawing the weights of a network: dense where it must be traced, lists where it is sparse."""

from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from neurofield._types import Arrayish, PyTree

from ._connectivity import Connectivity
from ._delay import DelayDistribution
from ._deliver import Dense, Lists
from ._fixed_indegree import FixedIndegree
from ._network import Network, Projection

Form: TypeAlias = Literal["auto", "dense", "lists"]
_SPARSE = 0.25  # below this density rows of targets are faster than dense rows (measured)
_SMALL = 10**6  # weights; smaller matrices of rate units are dense in any case
_MOST_DENSE = 2**32  # bytes
_CHUNK = 2**24  # weights drawn at once on the way to lists


def realise(
    key: PRNGKeyArray, network: Network, dt: float | None = None, *, form: Form = "auto"
) -> Network:
    """The network with the weights (and distributed delays) of its projections drawn.

    Both forms hold the same weights for the same key. `"auto"` takes lists where fewer than a
    quarter of the weights are not zero, and dense weights under tracing (`vmap` over keys,
    gradients with respect to weights), which lists do not bear. `dt`, in seconds, is needed where
    delays are distributed: they are drawn as whole numbers of steps.

    Weights that are drawn already stay, so that `realise` once and `vmap` over the keys of
    `simulate` runs many realisations of the noise on one connectivity.
    """
    projections = []
    for index, projection in enumerate(network.projections):
        rule = projection.connectivity
        if isinstance(rule, Connectivity):
            own = jax.random.fold_in(key, index)
            projection = _realise_one(own, network, projection, dt, form)
        projections.append(projection)
    return Network(network.populations, projections, network.shared)


def _realise_one(
    key: PRNGKeyArray, network: Network, projection: Projection, dt: float | None, form: Form
) -> Projection:
    source, target = network[projection.source], network[projection.target]
    rule, num_pre, num_post = projection.connectivity, source.size, target.size
    assert isinstance(rule, Connectivity)
    delay = projection.delay
    distributed = isinstance(delay, DelayDistribution)
    what = f"projection {projection.name}"
    if distributed and dt is None:
        raise ValueError(f"{what} has distributed delays: realise needs dt, the step in seconds.")
    if is_traced((rule, key)):
        if distributed or form == "lists":
            raise ValueError(
                f"{what}: {'distributed delays' if distributed else 'lists'} cannot be drawn under "
                "tracing; call network.realise(key, network, dt) outside of jit, vmap and grad."
            )
        form = "dense"
    if distributed:
        form = "lists"
    if form == "auto":
        density = _density(key, rule, num_pre, num_post)
        small = source.neuron.kind == "rate" and num_pre * num_post <= _SMALL
        form = "dense" if small or density > _SPARSE else "lists"
    if form == "dense":
        if 4 * num_pre * num_post > _MOST_DENSE:
            raise ValueError(
                f"{what}: {num_post} x {num_pre} dense weights do not fit; use form='lists' (and "
                "realise outside of jit, vmap and grad)."
            )
        weights: Dense | Lists = Dense(_rows(rule, key, jnp.arange(num_post), num_post, num_pre).T)
    else:
        post, pre, values = _edges(key, rule, num_pre, num_post)
        delays = None
        if isinstance(delay, DelayDistribution) and dt is not None:
            drawn = delay.sample(jax.random.fold_in(key, num_post), (len(pre),), dt)
            delays = np.asarray(drawn) * dt
        weights = from_edges(pre, post, values, num_pre=num_pre, num_post=num_post, delays=delays)
    return Projection(
        projection.source,
        projection.target,
        weights,
        kernel=projection.kernel,
        delay=None if distributed else projection.delay,
        channel=projection.channel,
        plasticity=projection.plasticity,
    )


def is_traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


@eqx.filter_jit
def _rows(rule: Connectivity, key: PRNGKeyArray, posts: Array, num_post: int, num_pre: int):
    """Rows of weights[post, pre], each from a key of its own."""

    def row(post):
        return rule.row(jax.random.fold_in(key, post), post, num_post, num_pre)

    return jax.vmap(row)(posts)


@eqx.filter_jit
def _inputs(rule: FixedIndegree, key: PRNGKeyArray, posts: Array, num_post: int, num_pre: int):
    """Sources and weights of each target's synapses."""

    def inputs(post):
        return rule.inputs(jax.random.fold_in(key, post), post, num_post, num_pre)

    return jax.vmap(inputs)(posts)


def _density(key: PRNGKeyArray, rule: Connectivity, num_pre: int, num_post: int) -> float:
    if isinstance(rule, FixedIndegree):
        return rule.indegree / num_pre
    posts = jnp.arange(min(num_post, 16)) * max(num_post // 16, 1)
    return float(jnp.mean(_rows(rule, key, posts, num_post, num_pre) != 0))


def _edges(
    key: PRNGKeyArray, rule: Connectivity, num_pre: int, num_post: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target, source and weight of each synapse, some rows at a time."""
    per_row = rule.indegree if isinstance(rule, FixedIndegree) else num_pre
    chunk = max(min(_CHUNK // max(per_row, 1), num_post), 1)
    found = []
    for begin in range(0, num_post, chunk):
        # Clipped at the end, so that every call has the same shape.
        posts = np.minimum(np.arange(begin, begin + chunk), num_post - 1)
        kept = min(chunk, num_post - begin)
        if isinstance(rule, FixedIndegree):
            drawn = _inputs(rule, key, jnp.asarray(posts), num_post, num_pre)
            pre, values = (np.asarray(x)[:kept] for x in drawn)
            post = np.broadcast_to(posts[:kept, None], pre.shape)
            found.append((post.ravel(), pre.ravel(), values.ravel()))
        else:
            rows = np.asarray(_rows(rule, key, jnp.asarray(posts), num_post, num_pre))[:kept]
            post, pre = np.nonzero(rows)
            found.append((posts[post], pre, rows[post, pre]))
    post, pre, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return post, pre, values


def from_edges(
    pre: Arrayish,
    post: Arrayish,
    weights: Arrayish,
    *,
    num_pre: int,
    num_post: int,
    delays: Arrayish | None = None,
) -> Lists:
    """Weights from a list of synapses (host function).

    - `pre`, `post`: `[edge]`, source and target of each synapse; pairs may repeat.
    - `weights`: `[edge]`, or one number for all. `delays`: `[edge]`, seconds, or `None`.

    Raises `ValueError` for indices out of range and lists of different lengths.
    """
    pre, post = np.asarray(pre), np.asarray(post)
    delays = None if delays is None else np.asarray(delays)
    values = np.asarray(weights, dtype=np.result_type(np.asarray(weights), np.float32))
    for name, index, size in (("pre", pre, num_pre), ("post", post, num_post)):
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise ValueError(
                f"{name} must be whole numbers [edge], got {index.dtype} {index.shape}."
            )
        if index.size and not (index.min() >= 0 and index.max() < size):
            raise ValueError(
                f"{name} must lie in 0 .. {size - 1}, got {index.min()} to {index.max()}."
            )
    wrong = [a.shape for a in (post, values, delays) if a is not None and np.ndim(a)]
    if any(shape != pre.shape for shape in wrong):
        raise ValueError(f"pre has shape {pre.shape}; post, weights, delays have {wrong}.")
    order = np.argsort(pre, kind="stable")
    degree = np.bincount(pre, minlength=num_pre)
    longest = max(int(degree.max(initial=0)), 1)
    row = pre[order]
    column = np.arange(len(pre)) - np.repeat(np.cumsum(degree) - degree, degree)

    def padded(entries: np.ndarray, fill: float | int | np.number, dtype) -> Array:
        table = np.full((num_pre, longest), fill, dtype)
        table[row, column] = entries[order]
        return jnp.asarray(table)

    if values.size == 0 or (values == values.flat[0]).all():
        same = values.flat[0] if values.size else values.dtype.type(0)
        table = jnp.full((num_pre, 1), same)
    else:
        table = padded(values, 0, values.dtype)
    return Lists(
        targets=padded(post, num_post, np.int32),
        weights=table,
        # A filling synapse delivers nothing; its delay only has to be a valid one.
        delays=None if delays is None else padded(delays, np.max(delays, initial=0.0), float),
        num_post=num_post,
    )
