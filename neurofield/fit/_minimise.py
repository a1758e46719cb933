"""`minimise`: any optax optimiser on a function of a pytree, with everything a long run needs."""

import contextlib
import functools
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from tqdm import tqdm

from neurofield import __version__
from neurofield._results import RESULTS
from neurofield._types import PRNGKey, PyTree

from . import _descent as descent
from ._descent import Curves, Problem, State
from ._fit import Fit, FitError
from ._parameter import Free, constrain, unconstrain
from ._store import load, read_header, save

_OUTCOMES = {
    descent.RUNNING: RESULTS.stopped,
    descent.CONVERGED: RESULTS.successful,
    descent.EARLY: RESULTS.successful,
    descent.MAX_STEPS: RESULTS.nonlinear_max_steps_reached,
    descent.STALLED: RESULTS.stalled,
    descent.NONFINITE: RESULTS.nonfinite,
}
# Steps of one compiled call at most, and the seconds it should take: Ctrl-C waits for its end.
_CHUNK_STEPS = 1024
_CHUNK_SECONDS = 0.5


def minimise(
    loss_fn: Callable[..., Any],
    params: PyTree,
    *,
    args: tuple[Any, ...] = (),
    optimiser: optax.GradientTransformation | None = None,
    spec: PyTree = None,
    key: PRNGKey | None = None,
    max_steps: int = 1000,
    atol: float | None = None,
    rtol: float | None = None,
    held_out_fn: Callable[[PyTree], Any] | None = None,
    held_out_every: int = 1,
    patience: int = 10,
    num_restarts: int = 1,
    init_fn: Callable[[PRNGKey], PyTree] | None = None,
    restart_key: PRNGKey | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    resume: bool = False,
    provenance: Mapping[str, Any] | None = None,
    throw: bool = True,
) -> Fit:
    """Minimise a scalar function of a pytree (host function; its loop is compiled).

    **Main arguments**

    - `loss_fn(params, *args)` returns one real number; `loss_fn(params, *args, key=key)` if `key`
      is given, with a new key at each step. Data given as `args` are not compiled in.
    - `params`: the start. Floating leaves are fitted, in their own dtype; others stay.
    - `spec`: parameter types parallel to `params` (`Positive()`, `Fixed()`, ...) or `None`.
    - `optimiser`: any optax optimiser; default L-BFGS, or Adam (1e-2) for a stochastic loss.

    **Other arguments**

    - `max_steps`, `atol`, `rtol`: a run has converged when the largest component of the gradient
      in free coordinates is at most `atol + rtol |loss|`, with the smaller of the losses here and
      at the start; defaults `eps**(1/2)` and `eps**(2/3)` of the coarsest leaf. A stochastic
      loss has no such test: it ends well at `max_steps`.
    - `held_out_fn(params)`, every `held_out_every` steps: the run stops, successfully, after
      `patience` of its evaluations without a new best, and the best parameters are returned.
    - `num_restarts`: runs at once by `vmap`, the first from `params`, the others from
      `init_fn(key)` or from `params` plus standard normal noise in free coordinates, drawn with
      `restart_key`; the best is returned, all end losses are in `stats["restart_losses"]`
      (infinite where a run failed).
    - `progress`: a bar with loss, rate and time left.
    - `checkpoint`: a file, written after the first steps, every `checkpoint_every` seconds, on
      Ctrl-C and at the end. If the first cannot be written the run stops with an `OSError`; later
      ones (a disk that fills up) give a warning, and the last good one is kept.
      With `resume=True` a run goes on from it, if it is there, and ends bit for bit where an
      unbroken run would (same machine and versions); `max_steps` may be raised. Without
      `resume` an existing file is an error.

    **Returns** a `Fit` with the best parameters seen (the last ones for a stochastic loss without
    held-out data), `history` with `loss[step]` and `held_out_loss[evaluation]`.

    **Raises** `ValueError` for a start outside its domain, a start where loss or gradient is not
    finite (naming the leaf), and a checkpoint of another problem; `FitError` under `throw` if the
    run did not converge or met a value that is not finite (naming leaf and step). Ctrl-C ends the
    run after the compiled call in progress, saves the checkpoint and raises `KeyboardInterrupt`,
    or under `throw=False` returns the `Fit` so far with `result` `stopped`; a second Ctrl-C
    interrupts at once.
    """
    _check_counts(
        max_steps=max_steps,
        held_out_every=held_out_every,
        patience=patience,
        num_restarts=num_restarts,
    )
    path = _checkpoint_path(checkpoint, resume)
    name = "custom"
    if optimiser is None:
        name = "lbfgs" if key is None else "adam"
        optimiser = _default_optimiser(name)
    free = unconstrain(spec, params)
    if not free:
        raise ValueError("params has no floating leaf that is not fixed: nothing to minimise.")
    eps = max(float(jnp.finfo(x.dtype).eps) for x in free.values())
    tolerances = (
        float(eps ** (1 / 2) if atol is None else atol),
        float(eps ** (2 / 3) if rtol is None else rtol),
    )
    dtype = jnp.result_type(float)
    problem = Problem(
        loss_fn=loss_fn,
        held_out_fn=held_out_fn,
        optimiser=optax.with_extra_args_support(optimiser),
        spec=spec,
        params=params,
        args=args,
        key=key,
        max_steps=jnp.asarray(max_steps, jnp.int32),
        atol=jnp.asarray(tolerances[0], dtype),
        rtol=jnp.asarray(tolerances[1], dtype),
        patience=jnp.asarray(patience, jnp.int32),
        held_out_every=jnp.asarray(held_out_every, jnp.int32),
    )
    if num_restarts > 1:
        free = _starts(spec, free, num_restarts, init_fn, restart_key)
    state = _init(problem, free, num_restarts > 1)
    settings = {
        "method": "minimise",
        "optimiser": name,
        "stochastic": key is not None,
        "atol": tolerances[0],
        "rtol": tolerances[1],
        "held_out": held_out_fn is not None,
        "held_out_every": held_out_every,
        "patience": patience,
        "num_restarts": num_restarts,
        **(provenance or {}),
    }
    identity = {
        **settings,
        "key": None if key is None else np.asarray(jax.random.key_data(key)).tolist(),
        "state": [f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(state)],
        "parameters": sorted(free),
    }
    losses, scores = np.zeros((0, num_restarts)), np.zeros((0, num_restarts))
    if path is not None and path.exists():
        state, losses, scores = _resume(path, identity, problem, state)

    saved, length, warm = None, 1, False  # `saved`: when the last checkpoint was tried
    bar = tqdm(total=max_steps, initial=_step(state), disable=not progress, unit="step")
    with bar, _interruptible() as interrupted:
        while np.any(state.outcome == descent.RUNNING) and not interrupted.is_set():
            began, step = time.monotonic(), _step(state)
            state, curves = _run(problem, state, jnp.asarray(step + length, jnp.int32))
            new_losses, new_scores = _filled(curves)  # waits for the device
            losses, scores = _extend(losses, step, new_losses), _extend(scores, step, new_scores)
            now = time.monotonic()
            if warm:  # the first call compiles and says nothing about speed
                wanted = length * _CHUNK_SECONDS / max(now - began, 1e-6)
                length = int(np.clip(wanted, 1, min(16 * length, _CHUNK_STEPS)))
            warm = True
            bar.set_postfix_str(f"loss {np.min(state.best_loss):.6g}", refresh=False)
            bar.update(_step(state) - step)
            due = saved is None or now - saved >= checkpoint_every
            if path is not None and due and _step(state) > 0:
                _save(path, identity, state, losses, scores, must=saved is None)
                saved = now
    fit = _finish(problem, state, losses, scores, settings | {"max_steps": max_steps})
    if int(fit.stats["num_steps"]) == 0 and fit.result == RESULTS.nonfinite:
        raise ValueError(f"The start is no good: {fit.provenance['failure']}")
    kept = path is not None and _save(path, identity, state, losses, scores, must=False)
    if throw and fit.result == RESULTS.stopped:
        saved_at = f"go on with checkpoint={str(path)!r}, resume=True"
        advice = saved_at if kept else "this state was not saved"
        raise KeyboardInterrupt(f"minimise stopped at step {_step(state)}; {advice}.")
    if throw and not fit.result == RESULTS.successful:
        raise FitError(_advice(fit, *tolerances), fit)
    return fit


# Compiled once for the same functions and shapes, whatever the data.


@eqx.filter_jit
def _init(problem: Problem, free: Free, batched: bool) -> State:
    start = functools.partial(descent.init, problem)
    return jax.vmap(start)(free) if batched else start(free)


@eqx.filter_jit
def _run(problem: Problem, state: State, until: Array) -> tuple[State, Curves]:
    go = functools.partial(descent.run, problem, until=until, size=_CHUNK_STEPS)
    return go(state) if state.step.ndim == 0 else jax.vmap(go)(state)


@eqx.filter_jit
def _evaluate(problem: Problem, free: Free, step: Array) -> tuple[Array, Free]:
    return jax.value_and_grad(problem.objective)(free, step)


@functools.cache
def _default_optimiser(name: str) -> optax.GradientTransformationExtraArgs:
    # Cached, so that two fits of one function share their compiled program.
    made = {"lbfgs": optax.lbfgs, "adam": functools.partial(optax.adam, 1e-2)}[name]()
    return optax.with_extra_args_support(made)


def _starts(
    spec: PyTree,
    free: Free,
    num_restarts: int,
    init_fn: Callable[[PRNGKey], PyTree] | None,
    restart_key: PRNGKey | None,
) -> Free:
    """Free coordinates of all starts, stacked; the first is the given one."""
    if restart_key is None:
        raise ValueError("num_restarts > 1 draws starts: pass restart_key=jax.random.key(seed).")
    starts = [free]
    for key in jax.random.split(restart_key, num_restarts - 1):
        if init_fn is not None:
            starts.append(unconstrain(spec, init_fn(key)))
            continue
        keys = dict(zip(free, jax.random.split(key, len(free)), strict=True))
        starts.append(
            {name: x + jax.random.normal(keys[name], x.shape, x.dtype) for name, x in free.items()}
        )
    shapes = {tuple((k, x.shape, x.dtype) for k, x in sorted(start.items())) for start in starts}
    if len(shapes) > 1:
        raise ValueError("init_fn must return the structure, shapes and dtypes of params.")
    return jax.tree.map(lambda *x: jnp.stack(x), *starts)


def _step(state: State) -> int:
    return int(np.max(state.step))


def _filled(curves: Curves) -> tuple[np.ndarray, np.ndarray]:
    """Losses and scores `[evaluation, run]` of one compiled call, NaN after a run's end."""
    length = np.atleast_1d(curves.length)
    filled = np.arange(length.max())[:, None] < length
    loss, score = (
        np.where(filled, np.atleast_2d(x)[:, : length.max()].T, np.nan)
        for x in (curves.loss, curves.held_out)
    )
    return loss, score


def _extend(curve: np.ndarray, step: int, new: np.ndarray) -> np.ndarray:
    """A curve `[evaluation, run]` with new rows from `step` on; NaN says nothing."""
    rows = np.full((max(len(curve), step + len(new)), curve.shape[1]), np.nan)
    rows[: len(curve)] = curve
    # A run that resumes from its end evaluates its last point once more.
    np.copyto(rows[step : step + len(new)], new, where=~np.isnan(new))
    return rows


def _finish(
    problem: Problem,
    state: State,
    losses: np.ndarray,
    scores: np.ndarray,
    provenance: dict[str, Any],
) -> Fit:
    """The best run as a `Fit`."""
    batched = state.step.ndim > 0
    runs = state if batched else jax.tree.map(lambda x: x[None], state)
    outcomes = np.asarray(runs.outcome)
    failed = outcomes == descent.NONFINITE
    final = np.where(failed, np.inf, np.asarray(runs.best_score))
    best = int(np.argmin(final))
    run: State = jax.tree.map(lambda x: x[best], runs)
    result: Any = _OUTCOMES[int(run.outcome)]
    provenance = {**provenance, "neurofield": __version__, "jax": jax.__version__}
    if np.any(outcomes == descent.RUNNING):
        result = RESULTS.stopped
    elif int(run.outcome) == descent.MAX_STEPS and problem.key is not None:
        result = RESULTS.successful
    elif int(run.outcome) == descent.NONFINITE:
        provenance["failure"] = _name_nonfinite(problem, run)
    dtype = run.best_loss.dtype
    evaluations = int(run.step) + (int(run.outcome) != descent.RUNNING)
    history = {"loss": losses[:evaluations, best].astype(dtype)}
    stats = {
        "num_steps": run.step,
        "best_step": run.best_step,
        "gradient_norm": run.gradient_norm,
    }
    if problem.held_out_fn is not None:
        every = int(problem.held_out_every)
        history["held_out_loss"] = scores[:evaluations:every, best].astype(dtype)
        stats["held_out_loss"] = run.best_score
    if batched:
        stats |= {"restart_losses": np.where(failed, np.inf, runs.best_loss), "best_restart": best}
    return Fit(
        constrain(problem.spec, run.best_free, problem.params),
        loss=run.best_loss,
        result=result,
        stats=stats,
        history=history,
        provenance=provenance,
    )


def _name_nonfinite(problem: Problem, run: State) -> str:
    """A sentence that names the first leaf that is not finite, and the step."""
    step = int(run.step)
    params = constrain(problem.spec, run.free, problem.params)
    name = _first_bad(params)
    if name is not None:
        return f"params{name} is not finite at step {step}; try a smaller learning rate."
    loss, gradient = _evaluate(problem, run.free, run.step)
    if np.isfinite(loss) and all(np.isfinite(g).all() for g in gradient.values()):
        return f"held_out_fn is not finite at step {step}, though loss and parameters are."
    for name, good in run.best_free.items():
        # The leaf to blame is the first whose last good value, or whose gradient, tells it.
        if not np.isfinite(gradient[name]).all():
            entry = np.argwhere(~np.isfinite(np.asarray(gradient[name])))[0].tolist()
            what = f"the gradient for {name} (entry {entry}) is not finite"
        elif step and np.isfinite(_evaluate(problem, run.free | {name: good}, run.step)[0]):
            what = f"it is finite again where {name} keeps its best value"
        else:
            continue
        return (
            f"the loss is {loss} at step {step} and {what}, though all parameters are finite: look "
            "for a log, a root or a division near zero there, give the leaf a bounded type, or "
            "take smaller steps."
        )
    return f"the loss is {loss} at step {step}, though all parameters are finite."


def _first_bad(tree: PyTree) -> str | None:
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if eqx.is_inexact_array(leaf) and not np.isfinite(np.asarray(leaf)).all():
            return jax.tree_util.keystr(key_path)
    return None


def _advice(fit: Fit, atol: float, rtol: float) -> str:
    steps, norm = int(fit.stats["num_steps"]), float(fit.stats["gradient_norm"])
    if fit.result == RESULTS.nonfinite:
        return (
            f"minimise failed: {fit.provenance['failure']} The error's `fit` holds the best so far."
        )
    assert fit.history is not None
    scale = np.min(np.abs(fit.history["loss"][[0, -1]]))
    tolerance = atol + rtol * float(scale)
    what = "found no lower loss" if fit.result == RESULTS.stalled else "did not converge"
    return (
        f"minimise {what} in {steps} steps: the loss is {float(fit.loss):.8g} and the gradient's "
        f"largest component {norm:.3g}, above the tolerance {tolerance:.3g}. Raise max_steps, "
        "loosen atol, use float64, rescale the parameters or start elsewhere; throw=False takes "
        "the fit as it is."
    )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event; the second one interrupts at once."""
    interrupted = threading.Event()
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not default or threading.current_thread() is not threading.main_thread():
        yield interrupted  # someone else handles the signal
        return

    def handle(*_: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Checkpoints: the state at the border of a compiled call, and the curves so far.


def _checkpoint_path(checkpoint: str | os.PathLike[str] | None, resume: bool) -> Path | None:
    if checkpoint is None:
        if resume:
            raise ValueError("resume=True needs checkpoint=, the file to go on from.")
        return None
    path = Path(checkpoint)
    if path.exists() and not resume:
        raise FileExistsError(
            f"{path} exists already: pass resume=True to go on from it, or choose another path."
        )
    return path


def _save(
    path: Path,
    identity: dict[str, Any],
    state: State,
    losses: np.ndarray,
    scores: np.ndarray,
    *,
    must: bool,
) -> bool:
    """Write a checkpoint; unless it `must` be written, a full disk does not end a good run."""
    tree = {"state": jax.tree.leaves(state), "losses": losses, "scores": scores}
    try:
        save(path, tree, header={"checkpoint": identity}, overwrite=True)
    except OSError as error:
        if must:
            raise
        message = f"{error}; the run goes on and the last checkpoint is kept."
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        return False
    return True


def _resume(
    path: Path, identity: dict[str, Any], problem: Problem, start: State
) -> tuple[State, np.ndarray, np.ndarray]:
    """The state and curves of a checkpoint, after checks that it is of this very problem."""
    found = read_header(path)["header"].get("checkpoint")
    if found is None:
        raise ValueError(f"{path} is not a checkpoint of minimise.")
    wanted = json.loads(json.dumps(identity))
    names = sorted(set(found) | set(wanted))
    differing = [name for name in names if found.get(name) != wanted.get(name)]
    if differing:
        raise ValueError(
            f"{path} is the checkpoint of another problem: {', '.join(differing)} differ; e.g. "
            f"{differing[0]} was {found.get(differing[0])}, is {wanted.get(differing[0])}."
        )
    tree = load(path)
    state: State = jax.tree.unflatten(jax.tree.structure(start), tree["state"])
    losses, scores = tree["losses"], tree["scores"]
    _, curves = _run(problem, start, jnp.asarray(1, jnp.int32))
    loss = _filled(curves)[0][0]
    tolerance = float(jnp.finfo(state.best_loss.dtype).eps) ** 0.5
    if not np.allclose(losses[0], loss, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ValueError(
            f"{path} is the checkpoint of another problem: the loss at the start was {losses[0]}, "
            f"is {loss}. Data, model or start differ."
        )
    more = np.asarray((state.outcome == descent.MAX_STEPS) & (state.step < problem.max_steps))
    if more.any():
        outcome = jnp.where(more, descent.RUNNING, state.outcome).astype(jnp.int32)
        state = eqx.tree_at(lambda s: s.outcome, state, outcome)
    return state, losses, scores
