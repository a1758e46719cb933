"""What a Markov solve returns."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from neurofield._results import RESULTS
from neurofield._types import PyTree

from ._grid import Grid
from ._parameters import Parameters


class Solution(eqx.Module):
    """Populations in time, from any back end.

    **Attributes** (leading axes where solves were batched)

    - `time`: `[time]`, seconds: ends of bins of `save_dt` seconds (static), from the solve's start.
    - `rate`: `[population, time]`, hertz per neuron, the mean over each bin.
    - `mean`, `variance`: `[post, pre, time]`, of the pending spikes, at `time`.
    - `occupancy`: `[population, K, time]`, fraction of neurons in each cell of `grid` (static) at
      `time`, and `refractory`: `[population, time]`; `None` unless `save_occupancy`.
    - `voltage`: `[population, time]`, mV, mean over the population, refractory neurons at the
      reset.
    - `final`: the state at the end, which `initial=` of another solve takes.
    - `params`: what was solved.
    - `backend`, `closure`: their names (static).
    - `result`: `RESULTS.successful`, or why the solve ended before.
    - `stats`: `num_steps` and more, by back end.
    """

    time: Float[Array, "*batch time"]
    rate: Float[Array, "*batch population time"]
    mean: Float[Array, "*batch post pre time"]
    variance: Float[Array, "*batch post pre time"]
    occupancy: Float[Array, "*batch population bin time"] | None
    refractory: Float[Array, "*batch population time"] | None
    voltage: Float[Array, "*batch population time"]
    final: PyTree
    params: Parameters
    result: RESULTS
    stats: dict[str, Any]
    save_dt: float = eqx.field(static=True)
    grid: Grid = eqx.field(static=True)
    backend: str = eqx.field(static=True)
    closure: str = eqx.field(static=True)
