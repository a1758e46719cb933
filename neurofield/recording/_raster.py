"""Raster: binned spikes on the space-time lattice, the one input of every theory."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped


class Raster(eqx.Module):
    """Spikes on a lattice of neurons and time bins (the kernel Omega of the lattice theory).

    Leading axes of `spikes` are separate epochs, trials or chains: no lag crosses from one to
    the next, nor a bin that `mask` calls invalid.

    **Attributes**

    - `spikes`: `[..., neuron, time]`, uint8: 1 if at least one spike fell in the bin, or counts.
    - `bin_width`: seconds (static).
    - `mask`: `[..., time]`, True where the bin was recorded; `None` if all were.
    - `start`: `[...]`, time of the first bin's left edge in seconds; `None` if unknown.
    - `populations`: `[neuron]` index into `population_names`; `None` for one population.
    - `labels`, `population_names`: names (static).
    """

    spikes: Shaped[Array, "*batch neuron time"]
    bin_width: float = eqx.field(static=True)
    mask: Bool[Array, "*batch time"] | None
    start: Float[Array, "*batch"] | Float[np.ndarray, "*batch"] | None
    populations: Int[Array, " neuron"] | None
    labels: tuple[str, ...] = eqx.field(static=True)
    population_names: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        spikes: ArrayLike,
        bin_width: float,
        *,
        mask: ArrayLike | None = None,
        start: ArrayLike | None = None,
        populations: ArrayLike | None = None,
        labels: Sequence[str] | None = None,
        population_names: Sequence[str] = (),
    ):
        """Raises `ValueError` for wrong shapes, negative or fractional spikes, counts over 255."""
        self.spikes = _as_uint8(spikes)
        *batch, num_neurons, num_bins = self.spikes.shape
        if not (np.isfinite(bin_width) and bin_width > 0):
            raise ValueError(f"bin_width must be a positive number of seconds, got {bin_width!r}.")
        self.bin_width = float(bin_width)
        self.mask = None if mask is None else jnp.asarray(mask, bool)
        if self.mask is not None and self.mask.shape != (*batch, num_bins):
            raise ValueError(
                f"mask must be [..., time] = {(*batch, num_bins)}, got {self.mask.shape}: "
                "it is shared by the neurons."
            )
        # Kept as float64 on the host: float32 cannot tell milliseconds apart after some hours.
        self.start = start if isinstance(start, jax.Array) or start is None else np.asarray(start)
        if self.start is not None and self.start.shape != tuple(batch):
            raise ValueError(f"start must be [...] = {tuple(batch)}, got {self.start.shape}.")
        self.populations = None if populations is None else jnp.asarray(populations)
        if self.populations is not None and self.populations.shape != (num_neurons,):
            raise ValueError(
                f"populations must be [neuron] = ({num_neurons},), got {self.populations.shape}."
            )
        self.labels = tuple(map(str, range(num_neurons) if labels is None else labels))
        if len(self.labels) != num_neurons:
            raise ValueError(
                f"expected {num_neurons} labels, one a neuron, got {len(self.labels)}."
            )
        self.population_names = tuple(map(str, population_names))

    @property
    def num_neurons(self) -> int:
        return self.spikes.shape[-2]

    @property
    def num_bins(self) -> int:
        """Length of the time axis, invalid bins included."""
        return self.spikes.shape[-1]


def _as_uint8(spikes: ArrayLike) -> Array:
    if isinstance(spikes, jax.Array) and spikes.dtype == jnp.uint8:
        # A simulator's own output, perhaps traced: its values are not looked at.
        if spikes.ndim < 2:
            raise ValueError(f"spikes must be [..., neuron, time], got shape {spikes.shape}.")
        return spikes
    values = np.asarray(spikes)
    if values.ndim < 2:
        raise ValueError(f"spikes must be [..., neuron, time], got shape {values.shape}.")
    if values.dtype.kind not in "buif":
        raise ValueError(f"spikes must be numbers, got dtype {values.dtype}.")
    if values.size and values.dtype != bool:
        if not np.isfinite(values).all():
            raise ValueError("spikes hold NaN or infinity; mark missing bins in `mask` instead.")
        if values.min() < 0 or values.max() > 255 or (values != np.floor(values)).any():
            raise ValueError(
                "spikes must be whole numbers from 0 to 255 in each bin, got values from "
                f"{values.min()} to {values.max()}. Spike times are binned by `bin_spikes`; "
                "counts over 255 need a smaller bin_width."
            )
    return jnp.asarray(values.astype(np.uint8))
