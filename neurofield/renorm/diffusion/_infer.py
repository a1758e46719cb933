"""infer_graph: who acts on whom, from what neurons did."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from neurofield._results import RESULTS, choose, is_successful
from neurofield._types import Arrayish, PRNGKey
from neurofield.recording import Graph, Raster

from ._latent import latent_var
from ._linear import partial_correlation, var_graph, whitened_graph
from ._point_process import GraphParameters, fit_graph
from ._significance import circular_shift, significance
from ._stream import (
    Recording,
    accumulate,
    correlation_of,
    values_of,
    windowed,
    windowed_chunks,
    with_values,
)

LINEAR = ("lagged", "var", "whitened", "latent", "partial")
METHODS = (*LINEAR, "likelihood")


class InferredGraph(eqx.Module):
    """Who acts on whom, as inferred from a recording.

    **Attributes**

    - `graph`: without self-connections; where significance was tested, without pairs that failed.
    - `score`: `[post, pre]`, of all pairs. Its diagonal is a neuron's effect on itself.
    - `p_value`, `significant`: `[post, pre]`, or None if not tested; the diagonal is not tested
      (1 and False), nor are neurons that do not vary.
    - `parameters`: of the fitted point process (`"likelihood"`), else None.
    - `result`: how an iterative method ended, else None.
    - `method`, `notes`, `provenance`: static; what it has to say of the data, and the settings.
    """

    graph: Graph
    score: Float[Array, "post pre"]
    p_value: Float[Array, "post pre"] | None
    significant: Bool[Array, "post pre"] | None
    parameters: GraphParameters | None
    result: RESULTS | None
    method: str = eqx.field(static=True)
    notes: tuple[str, ...] = eqx.field(static=True, default=())
    provenance: tuple[tuple[str, str], ...] = eqx.field(static=True, default=())

    @property
    def windows(self) -> Float[Array, "window post pre"] | None:
        """Weights in each window of time, of the `"likelihood"`."""
        return None if self.parameters is None else self.parameters.weights


def infer_graph(
    recording: Recording | Iterable[Recording],
    method: str = "var",
    *,
    num_lags: int | None = None,
    lag_weights: Sequence[float] | None = None,
    shrink: float = 0.02,
    window: float = 0.005,
    kernel: Arrayish | None = None,
    l1: float | None = None,
    nuclear: float | None = None,
    smoothness: float = 0.0,
    num_windows: int = 1,
    key: PRNGKey | None = None,
    num_surrogates: int = 0,
    alternative: str = "two-sided",
    false_discovery: float = 0.05,
    tolerance: float = 1e-5,
    max_steps: int = 5000,
    throw: bool = True,
) -> InferredGraph:
    """Infer a graph of neurons from their activity (host only).

    C_l is the correlation of x_i(t + l) with x_j(t) (`lagged_correlation`), post before pre, and
    C_0^e = (1 - `shrink`) C_0 + `shrink` I; T is the number of bins, N that of neurons.

    **Methods**

    - `"lagged"`: sum over l = 1..`num_lags` (3) of `lag_weights` (1) C_l.
    - `"var"`: C_1 (C_0^e)^-1, a first-order vector autoregression.
    - `"whitened"`: (C_0^e)^-1/2 C_1 (C_0^e)^-1/2.
    - `"latent"`: `"var"` less the part of low rank that few hidden neurons which drive many add to
      it (`latent_var`, with `l1` T^-1/2 and `nuclear` (N / T)^1/2 by default).
    - `"partial"`: partial correlation of counts (of means, for an `Activity`) in windows of
      `window` seconds, or one bin if that is longer: undirected, a baseline like FARCI
      (Meamardoost et al. 2021).
    - `"likelihood"`: weights of a logistic point process (`GraphParameters`), its log-likelihood
      maximised less l1 |A|_1 (`l1` in nats, 0) and, with `num_windows` above 1, less `smoothness`
      sum_w |A_w - A_(w-1)|^2: a graph that changes in time. Its lag kernel of `num_lags` (1) bins
      is `kernel`, or else fitted with positive entries that add up to 1. Takes binary rasters.
      The score is the mean over the windows.

    **Arguments**

    - `recording`: leading axes are trials or epochs; no lag crosses their borders or an invalid
      bin. An iterator gives chunks of one recording `[neuron, time]`, one after the other, of any
      length and never held together; a chunk whose `start` is known to lie elsewhere than at the
      last one's end begins a new stretch. (Not for `"likelihood"`.)
    - `num_surrogates`: test each pair against so many surrogates (at least 10; 0: no test), drawn
      with `key`. All presynaptic trains are shifted in a circle against the postsynaptic ones, by
      a common offset within each stretch of valid bins: rates, autocorrelations and the zero-lag
      correlations of the presynaptic neurons stay, so that correlated inputs do not pass for
      effects; every lagged relation goes. (For `"partial"`, which has no sides, each train is
      shifted by itself.) Scores are compared in units of the surrogates' spread, a pair's own
      moderated by that of its row and column (Smyth 2004), with the surrogates of all pairs.
      Not for `"likelihood"`.
    - `alternative`: `"two-sided"`, `"greater"` (excitation) or `"less"` (inhibition).
    - `false_discovery`: rate at which Benjamini and Hochberg (1995) call pairs significant.
    - `tolerance`, `max_steps`: of `"likelihood"`, the largest step left, in standard errors, and
      the descent's steps; `max_steps` of `"latent"` too.

    Raises `ValueError` for arguments that do not go together and a recording that is too short;
    with `throw`, `RuntimeError` where an iterative method did not converge (else see `result`). A
    neuron that does not vary has score 0, and a note says so.
    """
    lags, weights = _lags(method, num_lags, lag_weights)
    if not 0 <= shrink <= 1:
        raise ValueError(f"shrink must be in [0, 1], got {shrink}.")
    if not window > 0:
        raise ValueError(f"window must be positive, got {window} s.")
    for name, value in (("l1", l1), ("nuclear", nuclear), ("smoothness", smoothness)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}.")
    settings = {"lags": lags, "shrink": float(shrink)}
    if method == "likelihood":
        if num_surrogates:
            raise ValueError("surrogates test the linear methods; likelihood selects by l1.")
        settings |= {"l1": l1 or 0.0, "smoothness": smoothness, "num_windows": num_windows}
        settings |= {"kernel": "fitted" if kernel is None else np.asarray(kernel).tolist()}
        found = _likelihood(
            recording, lags, kernel, l1 or 0.0, smoothness, num_windows, tolerance, max_steps
        )
    else:
        keys = _surrogate_keys(recording, key, num_surrogates, alternative, false_discovery)
        settings |= {
            "lag_weights": weights,
            "num_surrogates": num_surrogates,
            "alternative": alternative,
            "false_discovery": float(false_discovery),
        }
        if method == "partial":
            settings["window"] = window
            recording = _in_windows(recording, window)
        elif method == "latent":
            settings |= {"l1": l1, "nuclear": nuclear}
        score_of = partial(_score, method, weights, shrink, l1, nuclear, max_steps)
        found = _linear(recording, method, lags, score_of, keys, alternative, false_discovery)
    if throw and found.result is not None and not is_successful(found.result):
        raise RuntimeError(
            f"infer_graph(method={method!r}) did not converge in {max_steps} steps. Raise "
            "max_steps or l1 (without it, pairs that never fire in turn have no finite weight); "
            "throw=False takes it as it is."
        )
    provenance = (("method", method), *((name, str(value)) for name, value in settings.items()))
    return replace(found, provenance=provenance)


def _linear(
    recording: Recording | Iterable[Recording],
    method: str,
    lags: tuple[int, ...],
    score_of: Any,
    keys: Any,
    alternative: str,
    false_discovery: float,
) -> InferredGraph:
    statistics, labels, dtype = accumulate(recording, lags)
    with jax.enable_x64(True):
        active = np.asarray(statistics.active)
    pairs = int(statistics.pairs[-1])
    first = lags.count(0)
    correlation = correlation_of(statistics, 0, dtype) if first else None
    lagged = [correlation_of(statistics, index, dtype) for index in range(first, len(lags))]
    del statistics  # with the sums in float64: the largest arrays there are
    score, result = score_of(pairs, correlation, lagged)
    del lagged
    if not bool(jnp.all(jnp.isfinite(score))):
        raise ValueError(
            "the zero-lag correlation is not positive definite: neurons repeat each other, or "
            "there are more neurons than bins. Raise shrink."
        )
    p_value = significant = None
    if len(keys) and isinstance(recording, Recording):
        null = [
            np.asarray(_null_score(key, recording, lags, pairs, correlation, score_of))
            for key in keys
        ]
        tested = active[:, None] & active[None] & ~np.eye(len(active), dtype=bool)
        undirected = method == "partial"
        p, discovered = significance(
            *(np.asarray(score), np.stack(null), np.tril(tested) if undirected else tested),
            *(alternative, false_discovery),
        )
        if undirected:
            p, discovered = np.minimum(p, p.T), discovered | discovered.T
        p_value, significant = jnp.asarray(p, dtype), jnp.asarray(discovered)
    return InferredGraph(
        Graph(_edges(score, significant), labels=labels),
        score,
        p_value,
        significant,
        None,
        result,
        method,
        _notes(active, labels),
    )


def _null_score(
    key: PRNGKey,
    recording: Recording,
    lags: tuple[int, ...],
    pairs: int,
    correlation: Array | None,
    score_of: Any,
) -> Array:
    """The scores where presynaptic trains are shifted against postsynaptic ones."""
    values, mask = values_of(recording)[0], recording.mask
    directed = [lag for lag in lags if lag]
    if directed:
        sums, _, dtype = accumulate(
            recording, directed, circular_shift(key, values, mask, common=True)
        )
        moved = [correlation_of(sums, index, dtype) for index in range(len(directed))]
        return score_of(pairs, correlation, moved)[0]
    moved = with_values(recording, circular_shift(key, values, mask, common=False))
    sums, _, dtype = accumulate(moved, lags)
    return score_of(pairs, correlation_of(sums, 0, dtype), [])[0]


@partial(jax.jit, static_argnums=(0, 5))
def _score(
    method, weights, shrink, l1, nuclear, max_steps, pairs, correlation, lagged
) -> tuple[Array, RESULTS | None]:
    if method == "lagged":
        score = jnp.zeros_like(lagged[0])
        for c, w in zip(lagged, weights, strict=True):
            score = score + w * c
        return score, None
    if method == "partial":
        return partial_correlation(correlation, shrink), None
    if method == "whitened":
        return whitened_graph(correlation, lagged[0], shrink), None
    score = var_graph(correlation, lagged[0], shrink)
    if method == "var":
        return score, None
    noise = 1 / jnp.sqrt(jnp.asarray(pairs, score.dtype))
    hidden = latent_var(
        correlation,
        lagged[0],
        noise if l1 is None else l1,
        noise * len(score) ** 0.5 if nuclear is None else nuclear,
        shrink=shrink,
        max_steps=max_steps,
    )
    return score - hidden.low_rank, hidden.result


def _likelihood(
    recording: Recording | Iterable[Recording],
    lags: tuple[int, ...],
    kernel: Arrayish | None,
    l1: float,
    smoothness: float,
    num_windows: int,
    tolerance: float,
    max_steps: int,
) -> InferredGraph:
    if not isinstance(recording, Raster):
        raise ValueError("likelihood needs a whole Raster: not an Activity, nor an iterator.")
    if int(jnp.max(recording.spikes, initial=0)) > 1:
        raise ValueError("likelihood is binary, the raster holds counts over 1: use counts=False.")
    if not 1 <= num_windows <= recording.num_bins:
        raise ValueError(f"num_windows must be from 1 to the number of bins, got {num_windows}.")
    if kernel is not None and np.shape(kernel) != (len(lags),):
        raise ValueError(f"kernel must have num_lags = {len(lags)} entries, got {kernel}.")
    if recording.num_bins <= len(lags) + 1:
        raise ValueError(
            f"the recording is too short: {recording.num_bins} bins for {len(lags)} lags."
        )
    dtype = jnp.result_type(float)
    # Sums over 10^5 bins lose in float32 what the line search has to see.
    with jax.enable_x64(True):
        params, state, active = fit_graph(
            recording,
            num_windows=num_windows,
            num_lags=len(lags),
            kernel=None if kernel is None else jnp.asarray(np.asarray(kernel, float)),
            l1=float(l1),
            smoothness=float(smoothness),
            max_steps=max_steps,
            tolerance=tolerance,
        )
        converged = state.residual <= tolerance
        score = jnp.mean(params.weights, axis=0).astype(dtype)
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    return InferredGraph(
        Graph(_edges(score, None), labels=recording.labels),
        score,
        None,
        None,
        params,
        choose(converged, RESULTS.successful, RESULTS.nonlinear_max_steps_reached),
        "likelihood",
        _notes(np.asarray(active), recording.labels),
    )


def _in_windows(recording: Recording | Iterable[Recording], window: float) -> Any:
    if isinstance(recording, Recording):
        return windowed(recording, window)
    return windowed_chunks(recording, window)


def _lags(
    method: str, num_lags: int | None, lag_weights: Sequence[float] | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if lag_weights is not None and method != "lagged":
        raise ValueError(f"lag_weights are for method='lagged', not {method!r}.")
    if method in ("lagged", "likelihood"):
        if num_lags is None:
            num_lags = {"lagged": 3, "likelihood": 1}[method]
            num_lags = num_lags if lag_weights is None else len(lag_weights)
        weights = (1.0,) * num_lags if lag_weights is None else tuple(map(float, lag_weights))
        if num_lags < 1 or len(weights) != num_lags or min(weights) < 0:
            raise ValueError(
                f"{method} needs num_lags >= 1 and as many lag_weights, none negative, got "
                f"{num_lags} and {weights}."
            )
        return tuple(range(1, num_lags + 1)), weights
    if num_lags not in (None, 0 if method == "partial" else 1):
        raise ValueError(f"num_lags is for 'lagged' and 'likelihood', not {method!r}.")
    return ((0,) if method == "partial" else (0, 1)), (1.0,)


def _surrogate_keys(
    recording: Recording | Iterable[Recording],
    key: PRNGKey | None,
    num_surrogates: int,
    alternative: str,
    false_discovery: float,
) -> Any:
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(
            f"alternative must be 'two-sided', 'greater' or 'less', got {alternative!r}."
        )
    if not 0 < false_discovery < 1:
        raise ValueError(f"false_discovery must be in (0, 1), got {false_discovery}.")
    if num_surrogates == 0:
        return ()
    if num_surrogates < 10:
        raise ValueError(f"num_surrogates must be 0 or at least 10, got {num_surrogates}.")
    if key is None:
        raise ValueError("surrogates are drawn at random: pass key=jax.random.key(seed).")
    if not isinstance(recording, Recording):
        raise ValueError("surrogates need the whole recording at once, not an iterator of chunks.")
    return jax.random.split(key, num_surrogates)


def _edges(score: Array, significant: Array | None) -> Array:
    kept = ~jnp.eye(len(score), dtype=bool)
    return jnp.where(kept if significant is None else kept & significant, score, 0)


def _notes(active: np.ndarray, labels: Sequence[str]) -> tuple[str, ...]:
    silent = [label for label, varies in zip(labels, active, strict=True) if not varies]
    if not silent:
        return ()
    named = ", ".join(silent[:10]) + (", ..." if len(silent) > 10 else "")
    return (f"{len(silent)} neurons do not vary and have score 0: {named}.",)
