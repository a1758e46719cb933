"""`fit`: from a raster to a lattice model with errors."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from neurofield._results import RESULTS, is_successful
from neurofield._types import Arrayish
from neurofield.fit import Fit, FitError
from neurofield.lattice._data import Segments, interior, segments
from neurofield.lattice._fit_exact import fit_exact
from neurofield.lattice._fit_kinetic import fit_kinetic
from neurofield.lattice._fit_pseudo import fit_pseudo
from neurofield.lattice._likelihood import known_past
from neurofield.lattice._transfer import MAX_EXACT_BITS
from neurofield.recording import Raster

Model = Literal["independent", "pairwise", "lattice", "kinetic"]
MODELS: tuple[Model, ...] = ("independent", "pairwise", "lattice", "kinetic")


def fit(
    raster: Raster,
    model: Model = "lattice",
    *,
    num_lags: int = 1,
    num_transfer_lags: int = 0,
    basis: ArrayLike | None = None,
    covariates: Arrayish | None = None,
    l2: float = 0.0,
    firth: bool = False,
    method: Literal["exact", "pseudolikelihood"] | None = None,
    max_steps: int = 50,
    throw: bool = True,
) -> Fit:
    """Fit a lattice model to a raster by (penalised) maximum likelihood with Newton's method.

    **Arguments**

    - `model`: "independent" (one field a neuron), "pairwise" (static pairwise maximum entropy:
      field and space), "lattice" (pairwise with own-history couplings) or "kinetic" (causal
      logistic model).
    - `num_lags`: own-history range R ("lattice") or range of `weight` ("kinetic").
    - `num_transfer_lags`: range of directed couplings of "lattice" (pseudo-likelihood only).
    - `basis`: `[num_basis, num_lags]`, histories of "kinetic" as sums of these bumps
      (`raised_cosine`); by default every lag has its own number.
    - `covariates`: `[..., K, time]` on the raster's bins (`recording.bin_covariate`). Actions
      with covariates are fitted by pseudo-likelihood.
    - `l2`: penalty l2/2 (coupling)^2 in nats on every coupling, not on the field: a normal prior
      of variance 1/l2. With a `basis` it acts on the coefficients.
    - `firth`: Firth's (1993) penalty, Jeffreys' prior, for histories or pairs that never occur
      and would send a coupling to minus infinity. For exactly fitted actions it is half a count
      in each cell of every pair's 2 x 2 table (of every neuron's two, for "independent"). Not with
      pseudo-likelihood.
    - `method`: "exact" or "pseudolikelihood" (Besag 1975) for actions; by default exact where it
      is available (N <= 20, `num_lags` <= 1, no covariates, no directed couplings).

    **Returns** a `Fit`: `value` is an `Action` or `Kinetic`, `error` its standard errors from the
    Fisher information (penalty included; sandwich errors for the pseudo-likelihood, `None` beyond
    3000 parameters), `loss` the penalised minus log-likelihood in nats, `stats["num_bins"]` the
    bins it sums over. The work is done in float64 and returned in the default precision. An
    action's likelihood is that of a stretch of a stationary raster, per bin
    theta.<statistics> - log lambda, up to its ends: segments should be long against the
    correlation time (errors of histories are too small by 1.8 with 500 segments of 3 bins, right
    with 40 of 40). "independent" and "pairwise" take bins as independent; where they are not, their
    errors are too small.

    **Raises** `ValueError` for bad arguments; `FitError` under `throw=True` when Newton's method
    did not converge, or (`RESULTS.separation`) converged only because a flat likelihood ended it.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {model!r}.")
    if l2 < 0:
        raise ValueError(f"l2 must not be negative, got {l2}.")
    if num_lags < 0 or num_transfer_lags < 0:
        raise ValueError(f"lags must not be negative, got {num_lags} and {num_transfer_lags}.")
    if model == "kinetic" and method is not None:
        raise ValueError("the kinetic model's likelihood is always exact: leave out method.")
    if model != "kinetic" and basis is not None:
        raise ValueError(f"basis belongs to model='kinetic', not {model!r}.")
    if model != "lattice" and num_transfer_lags:
        raise ValueError(f"num_transfer_lags belongs to model='lattice', not {model!r}.")
    if model in ("independent", "pairwise"):
        num_lags = 0
    data = segments(raster, covariates)
    exact = _exact_is_there(data, model, num_lags, num_transfer_lags)
    if method is None:
        method = "exact" if exact or model == "kinetic" else "pseudolikelihood"
    if method == "pseudolikelihood" and firth:
        raise ValueError("firth is not available for the pseudo-likelihood: use l2.")
    if method == "exact" and not exact and model != "kinetic":
        raise ValueError(
            f"method='exact' needs N <= {MAX_EXACT_BITS}, num_lags <= 1, no directed couplings "
            f"and no covariates; got N = {data.spikes.shape[1]}, num_lags = {num_lags}, "
            f"num_transfer_lags = {num_transfer_lags}, covariates "
            f"{'not ' if data.covariates is None else ''}given. Use method='pseudolikelihood'."
        )
    dtype = jnp.result_type(float)
    # Sums over 10^5 bins lose in float32 what the line search has to see.
    with jax.enable_x64(True):
        common = {"l2": l2, "max_steps": max_steps}
        pairwise = model != "independent"
        if model == "kinetic":
            found = fit_kinetic(data, num_lags=num_lags, basis=basis, firth=firth, **common)
        elif method == "exact":
            found = fit_exact(data, pairwise=pairwise, num_lags=num_lags, firth=firth, **common)
        else:
            found = fit_pseudo(
                data,
                pairwise=pairwise,
                num_lags=num_lags,
                num_transfer_lags=num_transfer_lags,
                **common,
            )
        value, error, optimum = jax.tree.map(
            lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, found
        )
    if model == "kinetic":
        counted = known_past(data.mask, num_lags)
    elif method == "exact":
        counted = data.mask
    else:
        counted = interior(data.mask, max(num_lags, num_transfer_lags))
    fitted = Fit(
        value,
        error=error,
        loss=optimum.loss,
        result=optimum.result,
        stats={
            "num_steps": optimum.num_steps,
            "decrement": optimum.decrement,
            "num_bins": jnp.sum(counted),
        },
        provenance={
            "model": model,
            "estimator": "likelihood" if method == "exact" or model == "kinetic" else method,
            "l2": float(l2),
            "firth": bool(firth),
            "bin_width": raster.bin_width,
            "labels": list(raster.labels),
        },
    )
    if throw and not is_successful(optimum.result):
        raise FitError(
            f"fitting the {model} model stopped after {int(optimum.num_steps)} steps with "
            f"{float(optimum.decrement):.3g} nats still to be gained. {RESULTS[optimum.result]} "
            f"(l2 = {l2:g}, firth = {firth}, max_steps = {max_steps}.)",
            fitted,
        )
    return fitted


def _exact_is_there(data: Segments, model: Model, num_lags: int, num_transfer_lags: int) -> bool:
    return (
        (data.spikes.shape[1] <= MAX_EXACT_BITS or model == "independent")
        and num_lags <= 1
        and num_transfer_lags == 0
        and data.covariates is None
    )
