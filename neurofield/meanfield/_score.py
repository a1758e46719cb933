"""Score-function derivatives of moments of sampled spikes.

With s(t) the log-probability of what a path emitted up to t, less its own value (so that s is zero,
and its derivative the score), <f(t)> is estimated by the mean of f(t) + (f(t) - b) s(t): the same
value, and the derivative of the expectation, that of f at given spikes included. f(t) may depend on
spikes up to t only (causality), and b is the mean of f(t) over paths, which lowers the variance.
After Williams (1992), Foerster et al. (2018).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import contract

from ._paths import PathOutput
from ._theory import Theory


def step_scores(theory: Theory, output: PathOutput) -> Float[Array, "population path"]:
    """Zero, with the derivative of the log-probability of what was emitted in one step."""
    rows = []
    for population, value, chance in zip(
        theory.populations, output.values, output.intensities, strict=True
    ):
        if population.neuron.kind == "rate" or chance is None:
            rows.append(jnp.zeros_like(value))
            continue
        # A zero chance of what did not happen, or a sure one, has no say.
        chance = chance * theory.dt if population.neuron.kind == "spike" else chance
        limits = jnp.finfo(value.dtype)
        chance = jnp.clip(chance.astype(value.dtype), limits.tiny, 1 - limits.epsneg)
        log = jnp.where(value > 0, jnp.log(chance), jnp.log1p(-chance))
        rows.append(log - jax.lax.stop_gradient(log))
    return jnp.stack(rows)


def windowed(
    scores: Float[Array, "time population path"], num_steps: int
) -> Float[Array, "time population path"]:
    """Scores of the last `num_steps` steps up to each."""
    sums = jnp.cumsum(scores, axis=0)
    earlier = jnp.pad(sums, ((num_steps, 0), (0, 0), (0, 0)))[: sums.shape[0]]
    return sums - earlier


def scored_mean(x: Float[Array, "*rows path"], score: Array | None) -> Float[Array, "*rows"]:
    """Means over paths."""
    mean = jnp.mean(x, axis=-1)
    if score is None:
        return mean
    fixed = jax.lax.stop_gradient(x - mean[..., None])
    return mean + jnp.sum(fixed * score, axis=-1) / (x.shape[-1] - 1)


def scored_lagged(
    earlier: Float[Array, "row time path"],
    now: Float[Array, "row path"],
    score: Float[Array, "row path"] | None,
) -> Float[Array, "row time"]:
    """<x(t) x(now)>, `score` being that up to now."""
    num = now.shape[1]
    if score is None:
        return contract("rtm,rm->rt", earlier, now) / num
    share = num / (num - 1)
    found = contract("rtm,rm->rt", earlier, now * (1 + share * score)) / num
    baseline = jax.lax.stop_gradient(found) * share
    return found - baseline * jnp.mean(score, axis=1)[:, None]


def scored_second(x: Float[Array, "row time path"], score: Array | None) -> Array:
    """<x(t) x(t')>, `[row, time, time]`."""
    num = x.shape[2]
    if score is None:
        return contract("rtm,rsm->rts", x, x) / num
    share = num / (num - 1)
    found = contract("rtm,rsm->rts", x, x * (1 + share * score)) / num
    baseline = jax.lax.stop_gradient(found) * share
    found = found - baseline * jnp.mean(score, axis=2)[:, None]
    # The later time's score: columns s of rows t <= s.
    upper = jnp.triu(found)
    return upper + jnp.swapaxes(jnp.triu(found, 1), 1, 2)


def stream_score(theory: Theory, score: Array | None) -> Float[Array, "stream time path"] | None:
    """Scores of the streams from those of the populations: up to the step before."""
    if score is None:
        return None
    score = jnp.pad(score, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return score[jnp.asarray(theory.sources, jnp.int32)]
