"""Graphs of the reference tables of Laplacian renormalization, and their spectra.

The tables in `tests/reference/renorm/lrg_*.csv` were made by independent code (networkx, NumPy);
the generators and seeds below reproduce every column to the digits that are printed.
"""

import csv
import itertools
from pathlib import Path

import jax.numpy as jnp
import networkx as nx
import numpy as np

from neurofield.renorm import Thermodynamics

REFERENCE = Path(__file__).parent / "reference" / "renorm"


def table(name):
    with (REFERENCE / name).open() as file:
        return list(csv.DictReader(file))


def matrix(graph):
    return nx.to_numpy_array(graph, weight=None)


def spectrum(graph):
    return np.linalg.eigvalsh(nx.laplacian_matrix(graph, weight=None).toarray().astype(float))


def ring_spectrum(n, reach=1):
    angle = 2 * np.pi * np.arange(n) / n
    return np.sort(sum(2 - 2 * np.cos(k * angle) for k in range(1, reach + 1)))


def sums(*spectra):
    total = spectra[0]
    for other in spectra[1:]:
        total = np.add.outer(total, other).ravel()
    return np.sort(total)


def curves(spectrum, times):
    """Thermodynamics from a known spectrum, in plain NumPy."""
    rows = []
    for time in times:
        energy = time * (spectrum - spectrum[0])
        weight = np.exp(-energy)
        partition = weight.sum()
        mean = (weight * energy).sum() / partition
        variance = (weight * (energy - mean) ** 2).sum() / partition
        log_partition = np.log(partition)
        rows.append((log_partition + mean, variance, 2 * mean, log_partition))
    return Thermodynamics(*map(jnp.asarray, [times, *np.array(rows).T]))


def gasket(generation):
    triangles = [((0, 0), (2**generation, 0), (0, 2**generation))]

    def middle(p, q):
        return (p[0] + q[0]) // 2, (p[1] + q[1]) // 2

    for _ in range(generation):
        triangles = [
            (a, middle(a, b), middle(a, c))
            for t in triangles
            for a, b, c in (t, t[1:] + t[:1], t[2:] + t[:2])
        ]
    graph = nx.Graph()
    for t in triangles:
        graph.add_edges_from(itertools.combinations(t, 2))
    return graph


def flower(u, v, generation):
    edges, count = [(0, 1)], 2
    for _ in range(generation):
        grown = []
        for a, b in edges:
            for length in (u, v):
                path = [a, *range(count, count + length - 1), b]
                count += length - 1
                grown += itertools.pairwise(path)
        edges = grown
    return nx.Graph(edges)


def modules(seed, num_modules=64, size=8):
    """Cliques joined in a binary tree by one random edge a join."""
    rng = np.random.default_rng(seed)
    num_nodes = num_modules * size
    weights = np.kron(np.eye(num_modules), np.ones((size, size))) - np.eye(num_nodes)
    while size < num_nodes:
        for start in range(0, num_nodes, 2 * size):
            i, j = start + rng.integers(size), start + size + rng.integers(size)
            weights[i, j] = weights[j, i] = 1
        size *= 2
    return nx.from_numpy_array(weights)


def tree(seed):
    sequence = np.random.default_rng(seed).integers(1024, size=1022)
    return nx.from_prufer_sequence(sequence.tolist())


def blocks(seed):
    inside = np.full((8, 8), 0.004) + np.eye(8) * (0.25 - 0.004)
    return nx.stochastic_block_model([64] * 8, inside.tolist(), seed=seed)


def planted(scales=(1.0, 0.03, 0.001), branching=4):
    """Dyson-like: complete, with weights that fall with the level of the common ancestor."""
    weights = np.zeros((1, 1))
    for level, scale in enumerate(scales):
        size = branching**level
        weights = np.kron(np.eye(branching), weights) + scale * (
            1 - np.kron(np.eye(branching), np.ones((size, size)))
        )
    return weights


def exact_spectra():
    r64, r16 = ring_spectrum(64), ring_spectrum(16)
    return {
        "ring_N1024": ring_spectrum(1024),
        "torus2d_64x64": sums(r64, r64),
        "torus3d_16^3": sums(r16, r16, r16),
        "gasket_g6": spectrum(gasket(6)),
        "flower_2_2_n5": spectrum(flower(2, 2, 5)),
        "flower_1_2_n6_DGM": spectrum(flower(1, 2, 6)),
    }


RANDOM = {
    "BA_m1_N1024": lambda seed: nx.barabasi_albert_graph(1024, 1, seed=seed),
    "BA_m3_N1024": lambda seed: nx.barabasi_albert_graph(1024, 3, seed=seed),
    "ER_k8_N1024": lambda seed: nx.gnp_random_graph(1024, 8 / 1023, seed=seed),
    "random_tree_N1024": tree,
    "HMN_64mod_x8_N512": modules,
    "WS_k6_p0.01_N1024": lambda seed: nx.watts_strogatz_graph(1024, 6, 0.01, seed=seed),
    "SBM_8x64_pin.25_pout.004": blocks,
}
