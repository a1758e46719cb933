"""Names for the scalar-like and array types that signatures share."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, Shaped

PyTree: TypeAlias = Any
# What a constructor turns into an array: JAX's own `ArrayLike` leaves out nested lists.
Arrayish: TypeAlias = ArrayLike | Sequence[Any]
PRNGKey: TypeAlias = Key[Array, ""]
RealScalar: TypeAlias = float | int | Float[Array, ""] | Int[Array, ""]
# A spike array is uint8 (0/1 or counts), but any real type is taken: soft spins are floats.
Spikes: TypeAlias = Shaped[Array, "*batch neuron time"] | Shaped[np.ndarray, "*batch neuron time"]
Mask: TypeAlias = Bool[Array, "*batch time"] | Bool[np.ndarray, "*batch time"]
# External covariates on the bins of a raster; trials may share them.
Covariates: TypeAlias = (
    Float[Array, "*#batch covariate time"] | Float[np.ndarray, "*#batch covariate time"]
)
