"""Communities as the hidden labels of a model of all pairs' scores."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ._spectral import k_means, spectral_labels

_SWEEPS = 100
_MOST = 30  # communities that are tried


class BlockModel(NamedTuple):
    labels: Int[np.ndarray, " node"]
    evidence: float  # nats, over a single community


class _Fit(NamedTuple):
    share: Float[np.ndarray, "node community"]
    evidence: float
    slope: float  # log-likelihood ratio of a pair with score s: slope (s - middle)
    middle: float


def block_model(
    rng: np.random.Generator,
    scores: Float[np.ndarray, "node node"],
    number: int | None,
    num_starts: int,
) -> BlockModel:
    """Scores of pairs, normal with one mean within communities and another, lower one across.

    Variational inference (Daudin, Picard and Robin 2008): means, variance and sizes by maximum
    likelihood, at their price of half a logarithm each, labels independent. Effects of single
    nodes are removed first, as a_i + a_j. Starts: the spectral partitions of the positive part and
    of the centred scores, then random labels that are cooled down in the field of the best fit so
    far.
    """
    scores = (scores + scores.T) / 2
    centred = _centre(scores)
    numbers = range(2, min(_MOST, len(scores) // 2) + 1) if number is None else (number,)
    best = BlockModel(np.zeros(len(scores), int), 0.0)
    since = 0
    for k in numbers:
        if k == 1:
            break
        fit = _fit(rng, scores, centred, k, num_starts)
        # One more mean than a single community has, and k - 1 sizes.
        price = np.log(len(scores) * (len(scores) - 1) / 2) / 2 + (k - 1) * np.log(len(scores)) / 2
        evidence = fit.evidence - float(price)
        since += 1
        if number is not None or evidence > best.evidence:
            best, since = BlockModel(fit.share.argmax(1), evidence), 0
        if since == 3:
            break
    return best


def _fit(rng, scores, centred, k, num_starts) -> _Fit:
    positive = np.maximum(scores, 0)
    np.fill_diagonal(positive, 0)
    starts = [_leading_labels(rng, centred, k)]
    if positive.sum(1).all():
        starts.append(spectral_labels(rng, positive, k, num_starts))
    fits = [_climb(rng, centred, 0.9 * np.eye(k)[s] + 0.1 / k) for s in starts]
    best = max(fits, key=lambda fit: fit.evidence)
    for _ in range(num_starts):
        again = _climb(rng, centred, _cool(rng, centred, best))
        best = max(best, again, key=lambda fit: fit.evidence)
    return best


def _centre(scores: np.ndarray) -> np.ndarray:
    """Less a constant and an effect of each node, by least squares over pairs; unit variance."""
    num_nodes = len(scores)
    hollow = scores - np.diag(np.diag(scores))
    total = hollow.sum(1)
    mean = total.sum() / (num_nodes * (num_nodes - 1))
    effect = (total - (num_nodes - 1) * mean) / (num_nodes - 2)
    hollow = hollow - mean - effect[:, None] - effect[None]
    np.fill_diagonal(hollow, 0)
    spread = np.sqrt((hollow**2).sum() / (num_nodes * (num_nodes - 1)))
    # Rounding alone is no structure.
    return hollow / spread if spread > 1e-9 * np.abs(scores).max() else np.zeros_like(hollow)


def _leading_labels(rng, centred: np.ndarray, k: int) -> np.ndarray:
    values, vectors = np.linalg.eigh(centred)
    rows = vectors[:, -k + 1 :] * np.sqrt(np.maximum(values[-k + 1 :], 0))[None]
    return k_means(rng, rows, k, 10)


def _climb(rng, centred: np.ndarray, share: np.ndarray) -> _Fit:
    """Sweeps of single nodes' shares, the parameters anew before each, until it rises no more."""
    num_nodes, k = share.shape
    upper = np.triu_indices(num_nodes, 1)
    pairs = centred[upper]
    fit = _Fit(share, -np.inf, 0.0, 0.0)
    for _ in range(_SWEEPS):
        together = (share @ share.T)[upper]
        inside = np.clip(together.mean(), 1e-12, 1 - 1e-12)
        mean_in = together @ pairs / (inside * len(pairs))
        mean_out = (pairs.sum() - together @ pairs) / ((1 - inside) * len(pairs))
        if not mean_in > mean_out:
            break
        variance = max(pairs.var() - inside * (1 - inside) * (mean_in - mean_out) ** 2, 1e-9)
        slope, middle = (mean_in - mean_out) / variance, (mean_in + mean_out) / 2
        prior = np.log((share.sum(0) + 1) / (num_nodes + k))
        share = _sweep(rng, centred, share, slope, middle, prior)
        together = (share @ share.T)[upper]
        likelihood = (
            slope * (together @ (pairs - middle))
            - ((pairs - mean_out) ** 2).sum() / (2 * variance)
            + ((pairs - pairs.mean()) ** 2).sum() / (2 * max(pairs.var(), 1e-9))
            - len(pairs) / 2 * np.log(variance / max(pairs.var(), 1e-9))
        )
        entropy = -(share * np.log(np.maximum(share, 1e-300))).sum()
        evidence = float(likelihood + (share @ prior).sum() + entropy)
        rises = evidence > fit.evidence + 1e-6 * abs(evidence)
        if evidence > fit.evidence:
            fit = _Fit(share, evidence, slope, middle)
        if not rises:
            break
    return fit


def _cool(rng, centred: np.ndarray, best: _Fit) -> np.ndarray:
    """Labels from random ones, in the field of a fit that is raised from 0.3 to 1."""
    num_nodes, k = best.share.shape
    share = rng.dirichlet(np.ones(k), num_nodes)
    for inverse_temperature in np.linspace(0.3, 1, 8):
        prior = np.log((share.sum(0) + 1) / (num_nodes + k))
        slope = inverse_temperature * best.slope
        share = _sweep(rng, centred, share, slope, best.middle, inverse_temperature * prior)
    return share


def _sweep(rng, centred, share, slope: float, middle: float, prior: np.ndarray) -> np.ndarray:
    share = share.copy()
    total = share.sum(0)
    for node in rng.permutation(len(share)):
        # The diagonal of the centred scores is 0: a node does not vote for itself.
        field = slope * (centred[node] @ share - middle * (total - share[node])) + prior
        field = np.exp(field - field.max())
        field /= field.sum()
        total += field - share[node]
        share[node] = field
    return share
