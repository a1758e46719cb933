"""Fit: what every estimator of the library returns."""

import json
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from neurofield._results import RESULTS
from neurofield._types import PyTree


class Fit(eqx.Module):
    """A fitted value with its errors, how the fit ended, and where it came from.

    **Attributes**

    - `value`: the fitted pytree, most often a model.
    - `error`: one standard error for each number of `value`, in its structure; `None` if the
      fit made none.
    - `loss`: the objective at `value`, in the estimator's own units; `[...]` if several fits
      were made at once by `vmap`.
    - `result`: a `RESULTS` code. A fit that did not converge says so here.
    - `stats`: counts and residuals by name (`num_steps`, `gradient_norm`, ...).
    - `history`: loss curves by name (`loss[step]`, `held_out_loss[evaluation]`, ...) or `None`.
    - `provenance`: what made the fit (a JSON-able dict); static, so read-only.
    """

    value: PyTree
    error: PyTree
    loss: Float[Array, "*batch"] | Float[np.ndarray, "*batch"]
    result: RESULTS
    stats: dict[str, Shaped[Array, "..."] | Shaped[np.ndarray, "..."]]
    history: dict[str, Shaped[Array, "..."] | Shaped[np.ndarray, "..."]] | None
    # A string, because static fields must be hashable and a dict is not.
    _provenance: str = eqx.field(static=True)

    def __init__(
        self,
        value: PyTree,
        *,
        loss: ArrayLike,
        result: RESULTS,
        error: PyTree = None,
        stats: Mapping[str, ArrayLike] | None = None,
        history: Mapping[str, ArrayLike] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ):
        """Raises `ValueError` if `provenance` does not fit in JSON."""
        self.value = value
        self.error = error
        self.loss = _as_array(loss)
        self.result = result
        self.stats = {name: _as_array(entry) for name, entry in (stats or {}).items()}
        self.history = (
            None if history is None else {name: _as_array(x) for name, x in history.items()}
        )
        try:
            self._provenance = json.dumps(dict(provenance or {}), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error_:
            raise ValueError(
                f"provenance must be made of JSON's types (finite numbers, strings, lists, dicts): "
                f"{error_}."
            ) from error_

    @property
    def provenance(self) -> dict[str, Any]:
        return json.loads(self._provenance)

    def summary(self) -> str:
        """One line for people: the kind of value, the loss, how the fit ended (host only)."""
        loss = np.array2string(np.asarray(self.loss), precision=6, threshold=4)
        steps = ""
        if "num_steps" in self.stats:
            steps = f" after {np.array2string(np.asarray(self.stats['num_steps']))} steps"
        outcome = RESULTS[self.result] or "converged"
        kind = "array" if eqx.is_array(self.value) else type(self.value).__name__
        return f"Fit of {kind}: loss {loss}{steps}; {outcome}"


def _as_array(x: ArrayLike) -> Any:
    # Traced and device arrays pass as they are: a copy would add an operation to every program.
    return x if hasattr(x, "dtype") else np.asarray(x)


class FitError(RuntimeError):
    """A fit that did not converge, raised under `throw=True`; `fit` holds where it stood."""

    def __init__(self, message: str, fit: Fit):
        super().__init__(message)
        self.fit = fit
