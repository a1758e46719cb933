"""One `solve` for the three back ends of the reduction."""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from neurofield._results import RESULTS
from neurofield._types import PRNGKey

from ._chain import run_chain
from ._closure import nodes_of
from ._grid import voltage_grid
from ._map import require_like, run_map
from ._ode import DriveFactor, Field, initial_state, integrate
from ._parameters import Parameters
from ._solution import Solution

_VOLTAGE_BIN = {"ode": 1.0, "map": 2.0, "markov": 2.0}


def solve(
    params: Parameters,
    duration: float,
    *,
    backend: str = "ode",
    closure: str = "coloured",
    num_nodes: int = 4,
    voltage_bin: float | None = None,
    lowest: float = -40.0,
    initial: Any = "reset",
    drive_factor: DriveFactor | None = None,
    key: PRNGKey | None = None,
    save_dt: float = 1e-3,
    save_occupancy: bool = False,
    dt: float = 1e-4,
    refractory: str = "exact",
    rtol: float = 1e-4,
    atol: float = 1e-7,
    max_steps: int | None = None,
    adjoint: str = "reverse",
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    throw: bool = True,
) -> Solution:
    """The rates, synaptic moments and voltage occupancies of a network's populations in time.

    **Back ends**

    - `"ode"`: differential equations of the occupancies (finite volumes), integrated by diffrax
      with adaptive steps. Deterministic, smooth in every parameter.
    - `"map"`: the published discrete-time map in steps of `dt`. Deterministic.
    - `"markov"`: whole numbers of neurons, moved by multinomial draws with the map's transition
      probabilities: noise of finite size, metastability. Needs `key`; it has no gradient.

    The spiking network itself is
    `network.simulate(key, markov.to_network(params), duration, dt=1e-4)`.

    **Arguments**

    - `duration`: seconds, a multiple of `save_dt` (static, like all that is no array here).
    - `closure`: `"coloured"`, which keeps the correlation between synaptic fluctuation and voltage
      on `num_nodes` nodes a sign of input, or `"published"`, for which the input forgets within
      `params.correlation_time`.
    - `voltage_bin`, `lowest`: mV, of the grid; a bin is by default 1 mV for `"ode"`, else 2.
    - `initial`: `"reset"` (all neurons there), `"uniform"` (between reset and threshold), or the
      `final` of another solution by the same back end, closure and grid. Its neurons are taken as
      shares of a population, so that `size` may differ; `"markov"` needs the same.
    - `drive_factor`: function of time (s, 0 at the start of this solve, also of one that goes on
      from `final`), differentiable if an `eqx.Module`, that multiplies `drive` and
      `drive_variance`: a number or `[population]`, not negative. `"ode"` then takes steps of at
      most `save_dt` and 1 ms: what is shorter may be missed, unless `controller` is given.
    - `save_dt`: seconds, of the bins that are returned; for `"map"` and `"markov"` a multiple of
      `dt`. In single precision `"ode"` counts spikes from the start to 1e-7: cut long solves into
      parts that go on from `final`.
    - `dt`, `refractory`: of `"map"` and `"markov"`. `"exact"`, or `"published"` for the published
      bookkeeping, with its rounding (whose derivative is that of what is rounded).
    - `rtol`, `atol`, `max_steps`, `solver`, `controller`: of `"ode"`. The tolerances are those of
      a step, on fractions of a population. `solver`: any of diffrax, in place of the linearly
      implicit one.
    - `adjoint`: of `"ode"`: `"reverse"` for `jax.grad`, `"forward"` for `jax.jvp` and `jacfwd`.

    **Raises** `ValueError` for a bad argument; `RuntimeError` under `throw` if the solve does not
    end well: else `result` says why, and what follows the end is infinite or NaN.
    """
    _check(duration, save_dt, dt, backend, key)
    width = _VOLTAGE_BIN[backend] if voltage_bin is None else voltage_bin
    grid = voltage_grid(params, width, lowest)
    nodes = nodes_of(closure, num_nodes)
    if backend == "ode":
        field = Field(params, drive_factor, grid, closure, num_nodes)
        state = initial_state(params, grid, nodes, initial) if isinstance(initial, str) else initial
        require_like(state, initial_state(params, grid, nodes))
        state = eqx.tree_at(lambda s: s.spikes, state, jnp.zeros_like(state.spikes))
        trace, final, result, stats = integrate(
            field,
            state,
            duration,
            save_dt,
            save_occupancy=save_occupancy,
            rtol=rtol,
            atol=atol,
            max_steps=1_000_000 if max_steps is None else max_steps,
            adjoint=adjoint,
            solver=solver,
            controller=controller,
        )
    else:
        step = {"map": run_map, "markov": run_chain}[backend]
        keyed = {} if backend == "map" else {"key": key}
        trace, final, result, stats = step(
            params,
            duration,
            closure=closure,
            nodes=nodes,
            grid=grid,
            initial=initial,
            drive_factor=drive_factor,
            save_dt=save_dt,
            save_occupancy=save_occupancy,
            dt=dt,
            refractory=refractory,
            **keyed,
        )
    if throw:
        # All that is returned: under `jit` an error tied to an unused number would be lost.
        trace, final = eqx.error_if(
            (trace, final),
            result != RESULTS.successful,
            f"markov.solve: backend {backend!r} did not reach the end (too many steps, or not "
            "finite). Raise max_steps or rtol, check the parameters, or take throw=False and look "
            "at `result` and `stats`.",
        )
    rate = trace.spikes[1:].T / save_dt

    def later(x: Array) -> Array:
        return jnp.moveaxis(x[1:], 0, -1)

    return Solution(
        time=jnp.asarray(save_dt * np.arange(1, rate.shape[1] + 1), rate.dtype),
        rate=rate,
        mean=later(trace.moments.mean),
        variance=later(trace.moments.variance),
        occupancy=None if trace.occupancy is None else later(trace.occupancy),
        refractory=later(trace.refractory) if save_occupancy else None,
        voltage=later(trace.voltage),
        final=final,
        params=params,
        result=result,
        stats=stats,
        save_dt=save_dt,
        grid=grid,
        backend=backend,
        closure=closure,
    )


def _check(duration: float, save_dt: float, dt: float, backend: str, key: Any) -> None:
    if backend not in _VOLTAGE_BIN:
        raise ValueError(f"backend must be one of {', '.join(_VOLTAGE_BIN)}; got {backend!r}.")
    if (key is None) == (backend == "markov"):
        needs = "needs a key" if key is None else "draws nothing: it takes no key"
        raise ValueError(f"backend {backend!r} {needs}.")
    _require_multiple("duration", duration, "save_dt", save_dt)
    if backend != "ode":
        _require_multiple("save_dt", save_dt, "dt", dt)


def _require_multiple(what: str, value: float, of: str, unit: float) -> None:
    if not (unit > 0 and value > 0):
        raise ValueError(f"{what} and {of} must be positive (seconds), got {value} and {unit}.")
    if abs(value / unit - round(value / unit)) > 1e-6 * (value / unit) or round(value / unit) < 1:
        raise ValueError(
            f"{what} = {value} s must be a multiple of {of} = {unit} s; the nearest is "
            f"{max(round(value / unit), 1) * unit:.9g} s."
        )
