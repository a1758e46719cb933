"""Thermodynamics of graphs, in float64: S, C, d_s and ln Z at 200 diffusion times.

- Dense, 2,000 nodes: against a loop of `scipy.linalg.expm`, of which a few times are taken and
  counted as their share of the work.
- Stochastic Lanczos with exact low modes on tori of 20,022 and 100,172 nodes: against the same in
  NumPy and SciPy (CSR products, `eigsh` by shift and invert for the low modes), with as many steps,
  probes and modes. Agreement is that of either with the known spectrum: 0.02 in S at every time.
- The product of a sparse Laplacian with 16 vectors: against SciPy's CSR.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import harness
import numpy as np

TIMES = np.geomspace(1e-2, 1e5, 200)
PROBES, STEPS, MODES = 128, 80, 64


@dataclass(frozen=True)
class Share(harness.Case):
    """The peer does `share` of our work, at the first of its times."""

    share: float = 1.0

    def reports(self, limits: dict[str, float], quick: bool, device: str) -> list[dict[str, Any]]:
        report = harness.measure(self, limits, quick, device)
        for name in ("times_faster", "times_faster_wall"):
            if name in report:
                report[name] /= self.share
        return [report | {"peer_share_of_work": self.share}]


def torus(first: int, second: int):
    """Ends of the edges, both ways, and the spectrum of its Laplacian."""
    nodes = np.arange(first * second).reshape(first, second)
    pairs = [(nodes.ravel(), np.roll(nodes, 1, axis).ravel()) for axis in (0, 1)]
    pre, post = np.concatenate(pairs, axis=1)
    cycles = [2 - 2 * np.cos(2 * np.pi * np.arange(n) / n) for n in (first, second)]
    return (np.r_[pre, post], np.r_[post, pre]), (cycles[0][:, None] + cycles[1][None]).ravel()


def entropy(nodes: np.ndarray, weights: np.ndarray, rest: float = 0.0) -> np.ndarray:
    """S at all times from a weighted spectrum, and `rest` eigenvalues 0."""
    found = []
    for tau in TIMES:
        weight = weights * np.exp(-tau * nodes)
        partition = weight.sum() + rest
        found.append(np.log(partition) + np.sum(weight * tau * nodes) / partition)
    return np.array(found)


def lanczos_by_numpy(matrix, seed: int, num_modes: int) -> np.ndarray:
    """S at all times: low modes by shift and invert, the rest by quadrature from probes."""
    from scipy.sparse.linalg import eigsh

    rng = np.random.default_rng(seed)
    size = matrix.shape[0]
    modes, vectors = eigsh(matrix.tocsc(), num_modes + 1, sigma=-1e-6, tol=1e-3)
    nodes, weights = [modes[1:]], [np.ones(num_modes)]
    for start in range(0, PROBES, 16):
        probes = rng.choice([-1.0, 1.0], (size, min(16, PROBES - start)))
        probes -= vectors @ (vectors.T @ probes)
        norm = np.linalg.norm(probes, axis=0)
        before, now, beta = np.zeros_like(probes), probes / norm, np.zeros(len(norm))
        matrices = np.zeros((len(norm), STEPS, STEPS))
        for step in range(STEPS):
            image = matrix @ now
            image -= before * beta
            alpha = np.einsum("nv,nv->v", image, now)
            image -= now * alpha
            beta = np.linalg.norm(image, axis=0)
            matrices[:, step, step] = alpha
            if step + 1 < STEPS:
                matrices[:, step, step + 1] = matrices[:, step + 1, step] = beta
            before, now = now, image / beta
        ritz, basis = np.linalg.eigh(matrices)
        nodes.append(ritz.ravel())
        weights.append(((norm[:, None] * basis[:, 0]) ** 2).ravel() / PROBES)
    return entropy(np.concatenate(nodes), np.concatenate(weights), rest=1.0)


def largest(a: Any, b: Any) -> float:
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


def cases(quick: bool) -> Iterator[harness.Case]:
    import jax
    import jax.numpy as jnp
    import scipy.linalg

    from neurofield import renorm
    from neurofield.recording import SparseGraph

    rng = np.random.default_rng(0)
    size, num_taken = (60, 200) if quick else (2000, 2)
    weights = np.triu(rng.random((size, size)) < 10 / size, 1).astype(float)
    dense = renorm.laplacian(weights + weights.T)
    host = np.asarray(dense)
    exact = jax.jit(lambda matrix: renorm.thermodynamics(matrix, TIMES).entropy)
    # Times at which no state is pure, so that -Tr rho ln rho from a matrix keeps its digits.
    taken = np.linspace(0, 120, num_taken).astype(int)

    def by_exponentials():
        found = []
        for tau in TIMES[taken]:
            state = scipy.linalg.expm(-tau * host)
            partition = np.trace(state)
            mean = tau * np.sum(state * host) / partition
            found.append(np.log(partition) + mean)
        return np.array(found)

    yield Share(
        name=f"dense, {size} nodes, 200 times",
        ours=lambda: exact(dense),
        peer=by_exponentials,
        peer_name="scipy.linalg.expm",
        disagreement=lambda a, b: largest(np.asarray(a)[taken], b),
        tolerance=1e-8,
        dtype="float64",
        share=num_taken / len(TIMES),
    )
    sides = [(20, 21)] if quick else [(141, 142), (316, 317)]
    for first, second in sides:
        (pre, post), spectrum = torus(first, second)
        graph = SparseGraph(pre, post, np.ones(len(pre)), first * second)
        sparse, matrix = renorm.laplacian(graph), csr(graph)
        truth = entropy(spectrum, np.ones_like(spectrum))
        num_modes = 20 if quick else MODES

        def ours(sparse=sparse, num_modes=num_modes):
            options = {"num_probes": PROBES, "num_steps": STEPS, "num_low_modes": num_modes}
            return renorm.thermodynamics(sparse, TIMES, key=jax.random.key(0), **options).entropy

        yield harness.Case(
            name=f"Lanczos, torus of {first * second} nodes, 200 times",
            ours=ours,
            peer=lambda matrix=matrix, num_modes=num_modes: lanczos_by_numpy(matrix, 0, num_modes),
            peer_name="numpy, scipy.sparse",
            disagreement=lambda a, b, truth=truth: max(largest(a, truth), largest(b, truth)),
            tolerance=0.1 if quick else 0.02,
            dtype="float64",
        )
    size = 500 if quick else 20_000
    ends = rng.integers(size, size=(2, 9 * size // 2))
    ends = np.unique(np.sort(ends[:, ends[0] != ends[1]], axis=0), axis=1)
    both = np.r_[ends[0], ends[1]], np.r_[ends[1], ends[0]]
    graph = SparseGraph(*both, np.ones(len(both[0])), size)
    sparse, matrix = renorm.laplacian(graph), csr(graph)
    x = rng.standard_normal((size, 16))
    block, multiply = jnp.asarray(x), jax.jit(lambda matrix, x: matrix @ x)
    yield harness.Case(
        name=f"sparse product, {size} nodes, {len(both[0])} edges, 16 vectors",
        ours=lambda: multiply(sparse, block),
        peer=lambda: matrix @ x,
        peer_name="scipy.sparse",
        disagreement=largest,
        tolerance=1e-12,
        dtype="float64",
        flops=2.0 * 16 * (len(both[0]) + size),
        bytes=8.0 * 2 * x.size + 12.0 * len(both[0]),
    )


def csr(graph):
    """Its Laplacian in SciPy."""
    from scipy.sparse import diags_array

    weights = graph.to_scipy()
    return (diags_array(np.asarray(weights.sum(1))) - weights).tocsr()


if __name__ == "__main__":
    harness.main(cases)
