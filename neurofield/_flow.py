"""Flow: a renormalization trajectory, whichever engine made it."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int


class Flow(eqx.Module):
    """A system seen at ever coarser scales; level 0 is the microscopic one.

    **Attributes** (`L` levels)

    - `engine`: what made it, such as `"laplacian"` or `"phenomenological"` (static).
    - `scale_name`, `scale`: what the scale is, with its unit, and its value at each level (`[L]`);
      the scale of level l is that at which level l - 1 was coarse-grained into it, and for level 0
      the smallest one that was looked at, or 0.
    - `size`: `[L]`, number of units.
    - `states`: what is renormalized, one a level: graphs, couplings, activity or tensors.
    - `assignments`: `[units of level l]` for l = 0..L-2: the unit of level l + 1 that each went to,
      or -1 for one that was left out.
    - `observables`: what was measured at each level, leading axis `L` (NaN where a level has none);
      `errors`: standard errors of those that have one, by the same names.
    - `exponents`, `exponent_errors`: scaling exponents of the whole trajectory.
    - `nulls`: trajectories of null models made by the same engine, by name.
    - `notes`: what the engine has to say: no scale, nothing merged, one giant unit (static).
    - `provenance`: pairs of names and values: source, method, settings, seed (static).

    `neurofield.fit.save` writes it to a file and `neurofield.fit.load` reads it back; engines that
    take a Flow where they take a graph go on from its last level.
    """

    engine: str = eqx.field(static=True)
    scale_name: str = eqx.field(static=True)
    scale: Float[Array, " level"] | Float[np.ndarray, " level"]
    size: Int[np.ndarray, " level"]
    states: tuple[Any, ...]
    assignments: tuple[np.ndarray, ...] = ()
    observables: dict[str, Any] = eqx.field(default_factory=dict)
    errors: dict[str, Any] = eqx.field(default_factory=dict)
    exponents: dict[str, Any] = eqx.field(default_factory=dict)
    exponent_errors: dict[str, Any] = eqx.field(default_factory=dict)
    nulls: dict[str, "Flow"] = eqx.field(default_factory=dict)
    notes: tuple[str, ...] = eqx.field(static=True, default=())
    provenance: tuple[tuple[str, str], ...] = eqx.field(static=True, default=())

    def __check_init__(self):
        levels = len(self.size)
        counts = {"scale": len(self.scale), "states": len(self.states)}
        counts |= {f"observables[{k!r}]": len(v) for k, v in self.observables.items()}
        wrong = {name: count for name, count in counts.items() if count != levels}
        if wrong or (self.assignments and len(self.assignments) != levels - 1):
            raise ValueError(
                f"a Flow of {levels} levels needs one entry a level and {levels - 1} assignments, "
                f"got {wrong or len(self.assignments)}."
            )

    @property
    def num_levels(self) -> int:
        return len(self.size)

    def members(self, level: int) -> Int[np.ndarray, " unit"]:
        """`[units of level 0]`: the unit of `level` that each belongs to, -1 if left out."""
        found = np.arange(self.size[0])
        for assignment in self.assignments[: range(self.num_levels)[level]]:
            found = np.where(found < 0, -1, np.asarray(assignment)[found])
        return found
