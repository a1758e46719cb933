"""One model of a run: fitted or found in the out folder, then scored."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from neurofield import lattice
from neurofield.fit import RESULTS, Fit, FitError, is_successful, load, read_header, save
from neurofield.statistics import mean_error

from ._config import FitConfig, Model
from ._data import Data

MAX_EXACT = 20  # units; beyond, lattice.fit takes the pseudo-likelihood


@dataclasses.dataclass(frozen=True)
class Row:
    """What the table, the files and the figures say of one model."""

    model: Model
    fit: Fit
    seconds: float
    resumed: bool
    score: lattice.Score | None = None
    step: tuple[float, float] | None = None
    """Bits per spike over the row above, and the error of this difference."""
    why_no_score: str = ""
    pseudo: tuple[float, float] | None = None
    """Pseudo-log-likelihood in bits per bin and its error: not a likelihood."""
    distance: float | None = None
    """Mean over units of the time-rescaling Kolmogorov-Smirnov distance."""
    num_passing: int | None = None

    @property
    def result(self) -> str:
        return "ok" if is_successful(self.fit.result) else RESULTS[self.fit.result]

    @property
    def num_parameters(self) -> int:
        """Free numbers: of `space`, one a pair."""
        value = self.fit.value
        sizes = sum(leaf.size for leaf in jax.tree.leaves(value))
        if isinstance(value, lattice.Action):
            n = value.num_neurons
            empty = self.model == "independent"
            sizes += (0 if empty else n * (n - 1) // 2) - value.space.size
        return int(sizes)

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "model": self.model,
            "result": self.result,
            "estimator": self.fit.provenance["estimator"],
            "num_parameters": self.num_parameters,
            "num_steps": int(self.fit.stats["num_steps"]),
            "seconds": round(self.seconds, 3),
            "resumed": self.resumed,
            "train_loss_nats": float(self.fit.loss),
        }
        for name in ("bits_per_bin", "bits_per_spike"):
            for field in (name, f"{name}_error"):
                row[field] = None if self.score is None else float(getattr(self.score, field))
        row["over_previous"] = None if self.step is None else self.step[0]
        row["over_previous_error"] = None if self.step is None else self.step[1]
        row["num_bins"] = None if self.score is None else self.score.num_bins
        row["num_spikes"] = None if self.score is None else self.score.num_spikes
        row["pseudo_bits_per_bin"] = None if self.pseudo is None else self.pseudo[0]
        row["pseudo_bits_per_bin_error"] = None if self.pseudo is None else self.pseudo[1]
        row["ks_distance"] = self.distance
        row["ks_num_passing"] = self.num_passing
        row["note"] = self.why_no_score
        return row


def fit_path(out: Path, model: Model) -> Path:
    return out / f"fit_{model}.npz"


def find_fit(path: Path, config: FitConfig, fingerprint: str) -> tuple[Fit, float]:
    """A fit of an earlier run, and its seconds. Raises `ValueError` if it is another fit's."""
    header = read_header(path)["header"]
    differing = differences(header.get("config", {}), config)
    if differing:
        raise ValueError(
            f"{path} was made with other settings ({differing}): choose another --out, or pass "
            "--overwrite."
        )
    if header.get("data") != fingerprint:
        raise ValueError(
            f"{path} was fitted to other data than these: choose another --out, or pass "
            "--overwrite."
        )
    return load(path), float(header["seconds"])


def differences(earlier: dict[str, Any], config: FitConfig) -> str:
    """The settings that differ, but for those that leave a fit as it is."""
    ours = config.without("models", "device", "seed")
    names = [name for name in ours if earlier.get(name) != ours[name]]
    return ", ".join(f"{name}: {earlier.get(name)} then, {ours[name]} now" for name in names)


def fit_model(
    model: Model, data: Data, config: FitConfig, source: str, path: Path, *, overwrite: bool
) -> tuple[Fit, float]:
    """Fit one model and, unless it failed, save it; the fit and its seconds, compile included."""
    begin = time.perf_counter()
    driven = model == "kinetic" and config.covariate is not None
    try:
        fitted = lattice.fit(
            data.split.train,
            model,
            num_lags=config.num_lags,
            l2=config.l2,
            firth=config.firth,
            covariates=data.split.train_covariates if driven else None,
        )
    except FitError as error:
        return error.fit, time.perf_counter() - begin
    jax.block_until_ready(eqx.filter(fitted, eqx.is_array))
    seconds = time.perf_counter() - begin
    header = {
        "command": "neurofield fit",
        "source": source,
        "config": config.without("models"),
        "data": data.fingerprint,
        "seconds": seconds,
    }
    save(path, fitted, header=header, overwrite=overwrite)
    return fitted, seconds


def judge(
    row: Row, reference: lattice.Kinetic, previous: Row | None, data: Data, config: FitConfig
) -> Row:
    """Score a fitted model on the test blocks, on the same bins as all the others."""
    test = data.split.test
    covariates = data.split.test_covariates if row.fit.value.stimulus.shape[-1] else None
    model, exact = _scoreable(row)
    changes: dict[str, Any] = {}
    if exact:

        def score(reference: lattice.Action | lattice.Kinetic) -> lattice.Score:
            return lattice.score(
                model, test, covariates=covariates, reference=reference, skip=config.num_lags
            )

        changes["score"] = score(reference)
        if previous is not None and previous.score is not None:
            # Both models see the same bins, so that their difference is known far better than
            # either score.
            gain = score(_scoreable(previous)[0])
            changes["step"] = float(gain.bits_per_spike), float(gain.bits_per_spike_error)
        test_of_fit = lattice.goodness_of_fit(
            jax.random.key(config.seed), model, test, covariates=covariates
        )
        changes["distance"] = float(np.mean(test_of_fit.distance))
        changes["num_passing"] = int(np.sum(test_of_fit.p_value >= 0.05))
    else:
        changes["why_no_score"] = (
            f"{row.model}: fitted by pseudo-likelihood, which leaves no exact likelihood to score "
            f"({test.num_neurons} units, num-lags {config.num_lags}; exact up to {MAX_EXACT} units "
            "and 1 lag)"
        )
    if isinstance(row.fit.value, lattice.Action) and any_pseudo(data, config):
        changes["pseudo"] = _pseudo_score(row.fit.value, data, config)
    return dataclasses.replace(row, **changes)


def _scoreable(row: Row) -> tuple[lattice.Action | lattice.Kinetic, bool]:
    """The model whose exact likelihood is to be scored, and whether there is one."""
    value = row.fit.value
    if row.model == "independent":
        return without_couplings(value), True
    return value, row.fit.provenance["estimator"] == "likelihood"


def without_couplings(action: lattice.Action) -> lattice.Kinetic:
    """The independent model as a causal one: the same distribution, at any number of units."""
    return lattice.Kinetic(action.field)


def any_pseudo(data: Data, config: FitConfig) -> bool:
    """Whether an action of this run is fitted by pseudo-likelihood."""
    wide = data.split.test.num_neurons > MAX_EXACT or config.num_lags > 1
    return wide and any(model in ("pairwise", "lattice") for model in config.models)


def _pseudo_score(action: lattice.Action, data: Data, config: FitConfig) -> tuple[float, float]:
    """Mean over bins of the sum over neurons of log2 P(x_i | all other sites), and its error."""
    test = data.split.test
    sites = lattice.pseudo_log_likelihood(action, test.spikes) / np.log(2)
    valid = np.ones(sites.shape[:-2] + sites.shape[-1:], bool)
    if test.mask is not None:
        valid &= np.asarray(test.mask)
    # Every bin needs its surroundings: num_lags valid bins on either side.
    inner = valid.copy()
    for lag in range(1, config.num_lags + 1):
        inner[..., lag:] &= valid[..., :-lag]
        inner[..., :-lag] &= valid[..., lag:]
        inner[..., :lag] = inner[..., valid.shape[-1] - lag :] = False
    estimate = mean_error(jnp.sum(sites, axis=-2), inner)
    return float(estimate.mean), float(estimate.error)
