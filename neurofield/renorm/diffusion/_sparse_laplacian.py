"""Laplacians of large graphs, with a product that is as fast as compiled sparse code."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Complex, Float, Int

from neurofield._numerics import as_complex
from neurofield._types import RealScalar
from neurofield.recording import SparseGraph

from ._checks import require
from ._weights import pairs_of

# Rows are cut into pieces of at most the last of these numbers of entries, and padded to one of
# them: a loop over slots, each a gather of contiguous rows, that XLA fuses.
_WIDTHS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24])


class SparseLaplacian(eqx.Module):
    """A Hermitian Laplacian of a large graph; `laplacian(SparseGraph)` makes it.

    `matrix @ x` is the product with `[node]` or, several times faster for each, `[node, vector]`.
    It and `thermodynamics` are differentiable in the weights that the Laplacian was made from.

    **Attributes** (nodes in the order of `order`; pieces of rows in buckets of equal length)

    - `diagonal`: `[node]`.
    - `hops`, `neighbours`: one `[slot, piece]` a bucket: minus the entries off the diagonal, and
      where they lead. The first pieces are those of the nodes, in order.
    - `extra`: the rows of the further pieces, which only long rows have.
    - `order`: `[node]`: the node of the graph at each place.
    - `null`, `component`: `[node]`: eigenvectors of eigenvalue 0 that are known beforehand, one a
      connected component (0 where it has none), and `num_null`, how many they are (static).
    """

    diagonal: Float[Array, " node"]
    hops: tuple[Float[Array, "_ _"] | Complex[Array, "_ _"], ...]
    neighbours: tuple[Int[Array, "_ _"], ...]
    extra: Int[Array, " piece"]
    order: Int[Array, " node"]
    null: Float[Array, " node"]
    component: Int[Array, " node"]
    num_null: int = eqx.field(static=True)

    @property
    def num_nodes(self) -> int:
        return len(self.diagonal)

    @property
    def dtype(self) -> jnp.dtype:
        """Of its entries: complex for a magnetic Laplacian."""
        return self.hops[0].dtype

    def __matmul__(self, x: Array) -> Array:
        block = x if x.ndim == 2 else x[:, None]
        y = self.product(block[self.order].astype(self.dtype))
        y = jnp.zeros_like(y).at[self.order].set(y, unique_indices=True)
        return y if x.ndim == 2 else y[:, 0]

    def product(self, x: Array) -> Array:
        """The product with `[node, vector]`, both in the order of `order`."""
        own, others, start = [], [], 0
        for hops, neighbours in zip(self.hops, self.neighbours, strict=True):
            num_pieces = neighbours.shape[1]
            here = slice(start, start + num_pieces)
            is_extra = start >= self.num_nodes
            y = jnp.zeros((num_pieces, x.shape[1]), x.dtype)
            if not is_extra:
                y = self.diagonal[here].astype(x.dtype)[:, None] * x[here]
            for hop, neighbour in zip(hops, neighbours, strict=True):
                y = y - hop[:, None] * x.at[neighbour].get(mode="promise_in_bounds")
            (others if is_extra else own).append(y)
            start += num_pieces
        y = jnp.concatenate(own)
        return y.at[self.extra].add(jnp.concatenate(others)) if others else y

    def bound(self) -> Float[Array, ""]:
        """An upper bound of the eigenvalues (Gershgorin)."""
        one = jnp.ones((self.num_nodes, 1), self.diagonal.dtype)
        sizes = eqx.tree_at(
            lambda s: (s.diagonal, s.hops),
            self,
            (jnp.abs(self.diagonal), tuple(-jnp.abs(h) for h in self.hops)),
        )
        return jnp.max(sizes.product(one))

    def without_null(self, x: Array) -> Array:
        """`[node, vector]`, in the order of `order`, without its part along `null`."""
        if self.num_null == 0:
            return x
        null = self.null.astype(x.dtype)[:, None]

        def total(y):
            # Nodes of unbalanced components share a place with others, where they add 0.
            return jax.ops.segment_sum(y, self.component, self.num_null)

        norm = total(null**2)
        return x - null * (total(null * x) / norm)[self.component]


def sparse_laplacian(graph: SparseGraph, kind: str, charge: RealScalar) -> SparseLaplacian:
    """See `laplacian`. The edges are looked at on the host; the weights may be traced."""
    if kind not in ("combinatorial", "normalised", "signed", "magnetic"):
        raise ValueError(
            "kind of a SparseGraph's Laplacian must be 'combinatorial', 'normalised', 'signed' or "
            f"'magnetic', got {kind!r}."
        )
    num_nodes = graph.num_nodes
    low, high, weights, loops = pairs_of(graph)
    if kind != "signed":
        wanted = 'not negative: take diffusion_weights(graph), or kind "signed" for inhibition'
        weights = require(weights, lambda w: w >= 0, "weights", wanted)
    forth, back = weights
    if kind != "magnetic":
        tolerance = 1e3 * jnp.finfo(weights.dtype).eps * jnp.max(jnp.abs(weights), initial=0.0)
        forth = require(
            forth,
            lambda w: jnp.abs(w - back) <= tolerance,
            "weights",
            'symmetric: take diffusion_weights(graph), or for a directed graph kind "magnetic"',
        )
    hop = (forth + back) / 2

    def at_nodes(x: Array) -> Array:
        """The sum over the pairs of each node."""
        return jnp.zeros(num_nodes, x.dtype).at[low].add(x).at[high].add(x)

    degree = at_nodes(jnp.abs(hop))
    diagonal, null = degree, jnp.ones_like(degree)
    if kind == "normalised":
        degree = degree + loops
        linked = degree > 0  # a node without edges is a component of its own: eigenvalue 0
        safe = jnp.where(linked, degree, 1)
        hop = hop / jnp.sqrt(safe[low] * safe[high])
        diagonal = jnp.where(linked, 1 - loops / safe, 0)
        null = jnp.sqrt(safe)
    values = jnp.concatenate([hop, hop])
    if kind == "magnetic":
        charge = jnp.asarray(charge, hop.dtype)
        charge = require(charge, lambda q: (q >= 0) & (q < 0.5), "charge", "[0, 1/2)")
        phase = 2 * jnp.pi * charge * (forth - back) / jnp.where(hop > 0, 2 * hop, 1)
        values = jnp.concatenate([as_complex(hop), as_complex(hop)]) * jnp.concatenate(
            [jnp.exp(1j * s * as_complex(phase)) for s in (1.0, -1.0)]
        )
    place, sign, num_null = _null_modes(low, high, hop, num_nodes, kind)
    slots, neighbours, extra, order = _layout(np.r_[low, high], np.r_[high, low], num_nodes)
    values = jnp.concatenate([values, jnp.zeros(1, values.dtype)])
    return SparseLaplacian(
        diagonal[order],
        _fill(values, tuple(slots)),
        tuple(map(jnp.asarray, neighbours)),
        jnp.asarray(extra),
        jnp.asarray(order),
        jax.lax.stop_gradient(null * jnp.asarray(sign, null.dtype))[order],
        jnp.asarray(place[order]),
        num_null,
    )


@jax.jit  # one compilation for all buckets
def _fill(values: Array, slots: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(values[slot] for slot in slots)


def _null_modes(low: np.ndarray, high: np.ndarray, hop: Array, num_nodes: int, kind: str):
    """Where the null modes are, their signs on the nodes (0: none there), and how many they are."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nothing = np.zeros(num_nodes, np.int32), np.zeros(num_nodes), 0
    known = not isinstance(hop, Tracer)
    if kind == "magnetic" or (kind == "signed" and not known):
        return nothing
    strength = np.asarray(hop) if known else np.ones(len(low))
    linked = strength != 0
    low, high, negative = low[linked], high[linked], strength[linked] < 0

    def components(rows, columns, count):
        pattern = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count))
        return connected_components(pattern, directed=False)

    count, label = components(low, high, num_nodes)
    if kind != "signed":
        return label.astype(np.int32), np.ones(num_nodes), int(count)
    # Balanced components are those that fall into two sheets in the signed double cover.
    rows = np.r_[low, low + num_nodes]
    columns = np.r_[high + num_nodes * negative, high + num_nodes * ~negative]
    _, sheet = components(rows, columns, 2 * num_nodes)
    upper, lower = sheet[:num_nodes], sheet[num_nodes:]
    first = np.unique(label, return_index=True)[1]
    sign = np.where(upper == upper[first][label], 1.0, -1.0) * (upper != lower)
    balanced = sign[first] != 0
    place = np.where(balanced, np.cumsum(balanced) - 1, 0)
    return place[label].astype(np.int32), sign, int(balanced.sum())


def _layout(rows: np.ndarray, columns: np.ndarray, num_nodes: int):
    """Buckets of pieces of rows: which entry, or none, fills each slot, and where it leads."""
    sorting = np.lexsort((columns, rows))
    rows, columns = rows[sorting], columns[sorting]
    degree = np.bincount(rows, minlength=num_nodes)
    longest = _WIDTHS[-1]
    rank = np.arange(len(rows)) - (np.cumsum(degree) - degree)[rows]
    # First pieces of all the nodes, then the others.
    more = np.maximum(-(-degree // longest) - 1, 0)
    piece = np.where(
        rank < longest, rows, num_nodes + (np.cumsum(more) - more)[rows] + rank // longest - 1
    )
    owner = np.r_[np.arange(num_nodes), np.repeat(np.arange(num_nodes), more)]
    length = np.bincount(piece, minlength=len(owner))
    width = np.searchsorted(_WIDTHS, length)
    is_extra = np.arange(len(owner)) >= num_nodes
    ranking = np.lexsort((width, is_extra))
    at = np.argsort(ranking)
    order = ranking[:num_nodes]
    place = np.empty(num_nodes, np.int32)
    place[order] = np.arange(num_nodes)
    entries, neighbours = [], []
    for extra in (False, True):
        for w in np.unique(width[is_extra == extra]):
            pieces = ranking[(is_extra == extra)[ranking] & (width[ranking] == w)]
            shape = (int(_WIDTHS[w]), len(pieces))
            start = at[pieces[0]]
            mine = np.flatnonzero((width[piece] == w) & (is_extra[piece] == extra))
            slot = rank[mine] % longest, at[piece[mine]] - start
            entry = np.full(shape, -1)
            entry[slot] = sorting[mine]
            target = np.broadcast_to(place[owner[pieces]], shape).copy()
            target[slot] = place[columns[mine]]
            entries.append(entry)
            neighbours.append(target)
    extra = place[owner[ranking[num_nodes:]]]
    return entries, neighbours, extra, order.astype(np.int32)
