"""Lanczos runs on large Laplacians, many vectors at a time, and their lowest modes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float

from neurofield._numerics import matmul
from neurofield._types import PRNGKey

from ._sparse_laplacian import SparseLaplacian

# Vectors that go through a product together: of 100,000 nodes, few enough to stay in the cache.
BLOCK = 4
# Low modes count as found where |L v - lambda v| is below this share of lambda; the error of their
# eigenvalues is of the order of its square.
_MODE_RTOL = 0.02
_MAX_ROUNDS = 8
# Degree of the filter's polynomial, in units of sqrt(bound / cut), in the first and other rounds.
_FIRST_DEGREE, _DEGREE = 9.0, 7.0


class Modes(eqx.Module):
    """Low eigenpairs; those that were not `found` have vectors of zeros."""

    values: Float[Array, " mode"]
    vectors: Float[Array, "node mode"] | Complex[Array, "node mode"]
    found: Bool[Array, " mode"]

    def project_out(self, x: Array) -> Array:
        return x - matmul(self.vectors, matmul(self.vectors.conj().T, x))


def low_modes(key: PRNGKey, laplacian: SparseLaplacian, num_modes: int, num_steps: int) -> Modes:
    """The lowest modes besides the known null ones, vectors in the order of `order`.

    Subspace iteration with a Chebyshev filter (Zhou, Saad, Tiago and Chelikowsky 2006) whose edge
    comes from the density of states of a few Lanczos runs; its first round, which does most of the
    work, is in single precision. From the first mode that is not found on, none are.
    """
    num_nodes, num_null = laplacian.num_nodes, laplacian.num_null
    num_modes = min(num_modes, num_nodes - num_null)
    width = -(-(num_modes + num_modes // 2 + 8) // (2 * BLOCK)) * 2 * BLOCK
    if num_modes == 0 or 3 * width > num_nodes:
        dense = laplacian.product(jnp.eye(num_nodes, dtype=laplacian.dtype))
        values, vectors = jnp.linalg.eigh((dense + dense.conj().T) / 2)
        kept = slice(num_null, num_null + num_modes)
        return Modes(values[kept], vectors[:, kept], jnp.ones(num_modes, bool))
    guess = jax.random.normal(key, (num_nodes, width), laplacian.diagonal.dtype)
    guess = guess.astype(laplacian.dtype)
    cut = _quantile(laplacian, laplacian.without_null(guess[:, :BLOCK]), num_steps, width)

    def ritz(vectors: Array) -> tuple[Array, Array, Array]:
        """The best eigenpairs in a span, and their residuals."""
        basis, _ = jnp.linalg.qr(laplacian.without_null(vectors))
        image = _by_blocks(laplacian.product, basis, BLOCK)
        inner = matmul(basis.conj().T, image)
        values, rotation = jnp.linalg.eigh((inner + inner.conj().T) / 2)
        vectors, image = matmul(basis, rotation), matmul(image, rotation)
        residual = jnp.linalg.norm(image - vectors * values[None].astype(vectors.dtype), axis=0)
        return values, vectors, residual

    def good(values: Array, residual: Array) -> Array:
        return residual[:num_modes] <= _MODE_RTOL * values[:num_modes]

    def goes_on(state) -> Array:
        (values, _, residual), num_rounds = state
        return ~jnp.all(good(values, residual)) & (num_rounds < _MAX_ROUNDS)

    def improve(state):
        (_, vectors, _), num_rounds = state
        vectors = _by_blocks(lambda x: _filter(laplacian, x, cut, _DEGREE), vectors, BLOCK)
        return ritz(vectors), num_rounds + 1

    short = jax.tree.map(_single, laplacian)
    rough = _by_blocks(
        lambda x: _filter(short, x, _single(cut), _FIRST_DEGREE), _single(guess), 2 * BLOCK
    )
    start = ritz(rough.astype(laplacian.dtype)), jnp.ones((), jnp.int32)
    (values, vectors, residual), _ = jax.lax.while_loop(goes_on, improve, start)
    found = jnp.cumprod(good(values, residual)) > 0
    vectors = vectors[:, :num_modes] * found[None].astype(vectors.dtype)
    return Modes(values[:num_modes], vectors, found)


def _filter(laplacian: SparseLaplacian, x: Array, cut: Array, steepness: float) -> Array:
    """Times the Chebyshev polynomial that is small on [cut, bound] and 1 at 0."""
    bound = laplacian.bound()
    centre, half = (bound + cut) / 2, (bound - cut) / 2
    num_pairs = jnp.ceil(steepness / 2 * jnp.sqrt(bound / cut)).astype(jnp.int32)
    first = -half / centre

    def step(x: Array, y: Array, sigma: Array) -> tuple[Array, Array]:
        new = 1 / (2 / first - sigma)
        z = laplacian.product(y) - _scale(centre, y)
        return _scale(2 * new / half, z) - _scale(sigma * new, x), new

    def pair(_, state):
        # Two at a time, so that no array changes its place in the state.
        x, y, sigma = state
        x, sigma = step(x, y, sigma)
        y, sigma = step(y, x, sigma)
        return x, y, sigma

    y = _scale(first / half, laplacian.product(x) - _scale(centre, x))
    return jax.lax.fori_loop(0, num_pairs, pair, (x, y, first))[1]


def _quantile(laplacian: SparseLaplacian, start: Array, num_steps: int, rank: int) -> Array:
    """About the eigenvalue of that rank above the null ones."""
    run = lanczos(laplacian, start, num_steps)
    nodes, vectors = run.ritz()
    share = vectors[:, 0] ** 2 * (laplacian.num_nodes - laplacian.num_null) / start.shape[1]
    sorting = jnp.argsort(nodes.ravel())
    count = jnp.cumsum(share.ravel()[sorting])
    found = nodes.ravel()[sorting][jnp.minimum(jnp.searchsorted(count, rank), count.size - 1)]
    bound = laplacian.bound()
    return jnp.clip(found, 1e3 * jnp.finfo(found.dtype).eps * bound, bound / 2)


class Run(eqx.Module):
    """Tridiagonal matrices of the Krylov spaces of some vectors, whose norms are `norm`.

    `combined` is the sum of each basis with the weights that were asked for.
    """

    diagonal: Float[Array, "vector step"]
    beside: Float[Array, "vector step_less_one"]
    norm: Float[Array, " vector"]
    combined: Float[Array, "node vector"] | Complex[Array, "node vector"] | None

    def ritz(self) -> tuple[Float[Array, "vector step"], Float[Array, "vector step step"]]:
        """Eigenvalues, and eigenvectors as columns."""
        size = self.diagonal.shape[1]
        rows = jnp.arange(size)
        matrix = jnp.zeros((len(self.diagonal), size, size), self.diagonal.dtype)
        matrix = matrix.at[:, rows, rows].set(self.diagonal)
        matrix = matrix.at[:, rows[1:], rows[:-1]].set(self.beside)
        return tuple(jnp.linalg.eigh(matrix, UPLO="L", symmetrize_input=False))


def lanczos(
    laplacian: SparseLaplacian,
    start: Float[Array, "node vector"] | Complex[Array, "node vector"],
    num_steps: int,
    weights: Float[Array, "vector step"] | None = None,
) -> Run:
    """Lanczos' recurrence from each start, without orthogonalisation.

    Copies of eigenvalues that rounding makes share the weight of the one that they are copies of,
    which leaves quadrature right (Chen, Trogdon and Ubaru 2022).
    """

    def norm_of(x: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.real(x.conj() * x), axis=0))

    tiny = jnp.finfo(laplacian.diagonal.dtype).eps * laplacian.bound()

    def step(carry, weight):
        before, now, beta, total = carry
        if weights is not None:
            total = total + now * weight[None].astype(now.dtype)
        image = laplacian.product(now) - before * beta[None].astype(now.dtype)
        alpha = jnp.sum(jnp.real(now.conj() * image), axis=0)
        image = image - now * alpha[None].astype(now.dtype)
        beta = norm_of(image)
        beta = jnp.where(beta > tiny, beta, 0)  # the Krylov space ends there
        after = image * _inverse(beta)[None].astype(now.dtype)
        return (now, after, beta, total), (alpha, beta)

    norm = norm_of(start)
    now = start * _inverse(norm)[None].astype(start.dtype)
    total = None if weights is None else jnp.zeros_like(now)
    carry = (jnp.zeros_like(now), now, jnp.zeros_like(norm), total)
    scanned = None if weights is None else weights.T
    (*_, total), (alpha, beta) = jax.lax.scan(step, carry, scanned, length=num_steps, unroll=2)
    alive = jnp.cumprod(jnp.concatenate([jnp.ones_like(beta[:1]), beta[:-1]]) > 0, axis=0)
    alpha = jnp.where(alive > 0, alpha, alpha[:1])  # of weight 0, and within the spectrum
    return Run(alpha.T, beta[:-1].T, norm, total)


def _by_blocks(fn, columns: Array, size: int) -> Array:
    """`fn` of `[node, vector]`, `size` vectors at a time."""
    blocks = jnp.moveaxis(columns.reshape(len(columns), -1, size), 1, 0)
    return jnp.moveaxis(jax.lax.map(fn, blocks), 0, 1).reshape(columns.shape)


def _inverse(x: Array) -> Array:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)


def _single(x: Array) -> Array:
    narrow = {jnp.dtype("float64"): jnp.float32, jnp.dtype("complex128"): jnp.complex64}
    return x.astype(narrow.get(x.dtype, x.dtype))


def _scale(factor: Array, x: Array) -> Array:
    return x * factor.astype(x.dtype)
