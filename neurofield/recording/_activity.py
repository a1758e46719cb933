"""Activity: real-valued signals of many neurons, such as calcium fluorescence."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float


class Activity(eqx.Module):
    """Real-valued activity on a regular time grid.

    **Attributes**

    - `values`: `[..., neuron, time]`, of the input's floating dtype.
    - `sample_interval`: seconds between samples (static).
    - `mask`: `[..., time]`, True where the sample is valid; `None` if all are.
    - `labels`: one name a neuron (static).
    """

    values: Float[Array, "*batch neuron time"]
    sample_interval: float = eqx.field(static=True)
    mask: Bool[Array, "*batch time"] | None
    labels: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        values: ArrayLike,
        sample_interval: float | int,
        *,
        mask: ArrayLike | None = None,
        labels: Sequence[str] | None = None,
    ):
        """Raises `ValueError` for wrong shapes, a mask that does not fit, NaN and infinity."""
        if not isinstance(values, jax.Array):
            values = np.asarray(values)
            if values.dtype.kind not in "buif":
                raise ValueError(f"values must be real numbers, got dtype {values.dtype}.")
            if not np.isfinite(values).all():
                raise ValueError(
                    "values hold NaN or infinity; put a number there and mark the sample in `mask`."
                )
            if values.dtype.kind != "f":
                values = values.astype(float)
        self.values = jnp.asarray(values)
        if self.values.ndim < 2:
            raise ValueError(f"values must be [..., neuron, time], got shape {self.values.shape}.")
        *batch, num_neurons, num_samples = self.values.shape
        if not (np.isfinite(sample_interval) and sample_interval > 0):
            raise ValueError(
                f"sample_interval must be a positive number of seconds, got {sample_interval!r}."
            )
        self.sample_interval = float(sample_interval)
        self.mask = None if mask is None else jnp.asarray(mask, bool)
        if self.mask is not None and self.mask.shape != (*batch, num_samples):
            raise ValueError(
                f"mask must be [..., time] = {(*batch, num_samples)}, got {self.mask.shape}."
            )
        self.labels = tuple(map(str, range(num_neurons) if labels is None else labels))
        if len(self.labels) != num_neurons:
            raise ValueError(
                f"expected {num_neurons} labels, one a neuron, got {len(self.labels)}."
            )
