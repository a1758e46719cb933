"""Spectral clustering."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int


def spectral_labels(
    rng: np.random.Generator, weights: Float[np.ndarray, "node node"], number: int, num_starts: int
) -> Int[np.ndarray, " node"]:
    """k-means of the rows, normalised, of the lowest eigenvectors of the normalised Laplacian."""
    _, vectors = np.linalg.eigh(normalised(weights))
    rows = vectors[:, :number]
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return k_means(rng, rows / np.where(norm > 0, norm, 1), number, num_starts)


def normalised(weights: Float[np.ndarray, "node node"]) -> Float[np.ndarray, "node node"]:
    """I - D^-1/2 B D^-1/2, in double precision whatever JAX computes in."""
    degree = weights.sum(1)
    linked = degree > 0
    scale = np.where(linked, 1 / np.sqrt(np.where(linked, degree, 1)), 0)
    return np.diag(linked.astype(float)) - scale[:, None] * weights * scale[None]


def k_means(
    rng: np.random.Generator, rows: Float[np.ndarray, "node axis"], number: int, num_starts: Any
) -> Int[np.ndarray, " node"]:
    """Labels of `number` groups of rows, or of fewer where there are fewer different rows."""
    from sklearn.cluster import KMeans

    number = min(number, len(np.unique(rows.round(12), axis=0)))
    seed = int(rng.integers(2**31))
    return KMeans(number, n_init=num_starts, random_state=seed).fit_predict(rows)
