"""The pure core of `minimise`: a state, one step, and a loop of steps. Jittable and vmappable."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from neurofield._types import PyTree

from ._parameter import Free, constrain

# Why a run ended. Plain numbers, since a checkpoint keeps them.
RUNNING, CONVERGED, EARLY, MAX_STEPS, STALLED, NONFINITE = range(6)
# Steps of a line search without a lower loss after which it is stalled.
MAX_STALLED = 10


class Problem(eqx.Module):
    """What does not change during a run."""

    loss_fn: Callable[..., Any]
    held_out_fn: Callable[..., Any] | None
    optimiser: optax.GradientTransformationExtraArgs
    spec: PyTree
    params: PyTree  # structure and fixed leaves
    args: tuple[Any, ...]
    key: Array | None  # the loss is stochastic if there is one
    max_steps: Int[Array, ""]
    atol: Float[Array, ""]
    rtol: Float[Array, ""]
    patience: Int[Array, ""]
    held_out_every: Int[Array, ""]

    def objective(self, free: Free, step: Int[Array, ""]) -> Any:
        """The loss in free coordinates."""
        params = constrain(self.spec, free, self.params)
        if self.key is None:
            return self.loss_fn(params, *self.args)
        return self.loss_fn(params, *self.args, key=jax.random.fold_in(self.key, step))


class State(eqx.Module):
    """What changes; `step` counts updates, so `free` is the point after `step` of them."""

    free: Free
    opt_state: PyTree
    step: Int[Array, "*run"]
    outcome: Int[Array, "*run"]
    gradient_norm: Float[Array, "*run"]  # largest component at the last evaluation
    start_loss: Float[Array, "*run"]
    num_stale: Int[Array, "*run"]  # evaluations since the last improvement
    best_free: Free
    best_step: Int[Array, "*run"]
    best_loss: Float[Array, "*run"]
    best_score: Float[Array, "*run"]  # held-out loss if there is one, else the loss


class Curves(eqx.Module):
    """Losses of one call of `run`; the first `length` entries are filled."""

    loss: Float[Array, "*run size"]
    held_out: Float[Array, "*run size"]  # filled only where it was evaluated
    length: Int[Array, "*run"]


def init(problem: Problem, free: Free) -> State:
    """The state before the first step, its dtypes those that every later step has."""
    loss = jax.eval_shape(problem.objective, free, jnp.asarray(0, jnp.int32))
    if jax.tree.structure(loss) != jax.tree.structure(0) or loss.shape != ():
        raise ValueError(f"loss_fn must return one real number, got {loss}: sum or average it.")
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(f"loss_fn must return a real floating number, got {loss.dtype}.")
    zero, infinity = jnp.asarray(0, jnp.int32), jnp.asarray(jnp.inf, loss.dtype)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        opt_state = problem.optimiser.init(free)
    state = State(
        free=free,
        opt_state=opt_state,
        step=zero,
        outcome=zero,
        gradient_norm=infinity,
        start_loss=infinity,
        num_stale=zero,
        best_free=free,
        best_step=zero,
        best_loss=infinity,
        best_score=infinity,
    )
    # Some optax states start as float64 (or weakly typed) and turn to the parameters' dtype.
    after = jax.eval_shape(lambda s: advance(problem, s)[0], state)
    return _cast(state, after)


def advance(
    problem: Problem, state: State
) -> tuple[State, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Evaluate at the current point, decide whether to stop, and if not, update.

    Returns the state, and the loss and the held-out loss at the point before the update.
    """

    def objective(free: Free) -> Any:
        # A line search may promote; the loss must see the dtypes it was given.
        return problem.objective(_cast(free, state.free), state.step)

    stochastic = problem.key is not None
    line_search = keeps_value(state.opt_state)
    if line_search and not stochastic:  # its last trial was at this point
        kept = optax.tree.get(state.opt_state, "value"), optax.tree.get(state.opt_state, "grad")
        loss, gradient = jax.lax.cond(
            jnp.isfinite(kept[0]),
            lambda: (kept[0].astype(state.best_loss.dtype), _cast(kept[1], state.free)),
            lambda: jax.value_and_grad(objective)(state.free),
        )
    else:
        loss, gradient = jax.value_and_grad(objective)(state.free)
    loss = jnp.asarray(loss, state.best_loss.dtype)
    gradient_norm = _largest(gradient, state.gradient_norm.dtype)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)

    scored, held_out = _held_out(problem, state, loss)
    score = jnp.where(scored, held_out, jnp.inf).astype(loss.dtype)
    finite &= ~scored | jnp.isfinite(held_out)
    if problem.held_out_fn is None and stochastic:
        better = finite  # one noisy loss says little: the last point is taken
    else:
        # The best point is evaluated again when a run resumes from its very end.
        better = finite & scored & ((score < state.best_score) | (state.step == state.best_step))
    if problem.held_out_fn is not None:
        stale = jnp.where(scored, jnp.where(better, 0, state.num_stale + 1), state.num_stale)
        ran_out = jnp.where(stale >= problem.patience, EARLY, RUNNING)
    elif line_search and not stochastic:
        stale = jnp.where(better, 0, state.num_stale + 1)
        ran_out = jnp.where(stale >= MAX_STALLED, STALLED, RUNNING)
    else:
        stale, ran_out = state.num_stale, jnp.asarray(RUNNING)

    start_loss = jnp.where(state.step == 0, loss, state.start_loss)
    converged: Bool[Array, ""] = jnp.asarray(False)
    if not stochastic:
        atol, rtol = problem.atol.astype(loss.dtype), problem.rtol.astype(loss.dtype)
        # Not |loss| alone: a loss that runs off to infinity would loosen its own tolerance.
        scale = jnp.minimum(jnp.abs(loss), jnp.abs(start_loss))
        converged = gradient_norm <= (atol + rtol * scale).astype(gradient_norm.dtype)
    outcome = jnp.where(state.step >= problem.max_steps, MAX_STEPS, RUNNING)
    outcome = jnp.where(ran_out != RUNNING, ran_out, outcome)
    outcome = jnp.where(converged, CONVERGED, outcome)
    outcome = jnp.where(finite, outcome, NONFINITE).astype(state.outcome.dtype)

    def update(_: None) -> tuple[Free, PyTree]:
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = problem.optimiser.update(
                gradient, state.opt_state, state.free, value=loss, grad=gradient, value_fn=objective
            )
            free = optax.apply_updates(state.free, updates)
        return _cast((free, opt_state), (state.free, state.opt_state))

    def stay(_: None) -> tuple[Free, PyTree]:
        return jax.tree.map(jnp.asarray, (state.free, state.opt_state))

    going = outcome == RUNNING
    free, opt_state = jax.lax.cond(going, update, stay, None)
    best_free, best_step, best_loss, best_score = jax.tree.map(
        lambda new, old: jnp.where(better, new, old),
        (state.free, state.step, loss, score),
        (state.best_free, state.best_step, state.best_loss, state.best_score),
    )
    state = State(
        free=free,
        opt_state=opt_state,
        step=state.step + going.astype(state.step.dtype),
        outcome=outcome,
        gradient_norm=gradient_norm,
        start_loss=start_loss,
        # A run that ended for want of steps may go on: this evaluation is then made once more.
        num_stale=jnp.where(outcome == MAX_STEPS, state.num_stale, stale).astype(jnp.int32),
        best_free=best_free,
        best_step=best_step,
        best_loss=best_loss,
        best_score=best_score,
    )
    return state, (loss, score)


def run(problem: Problem, state: State, until: Int[Array, ""], size: int) -> tuple[State, Curves]:
    """Advance until `state.step` is `until` or the run ends, at most `size` evaluations."""
    blank = jnp.zeros(size, state.best_loss.dtype)
    curves = Curves(blank, blank, jnp.asarray(0, jnp.int32))

    def going(carry: tuple[State, Curves]) -> Bool[Array, ""]:
        state, curves = carry
        return (state.outcome == RUNNING) & (state.step < until) & (curves.length < size)

    def body(carry: tuple[State, Curves]) -> tuple[State, Curves]:
        state, curves = carry
        state, (loss, held_out) = advance(problem, state)
        curves = Curves(
            curves.loss.at[curves.length].set(loss),
            curves.held_out.at[curves.length].set(held_out),
            curves.length + 1,
        )
        return state, curves

    return jax.lax.while_loop(going, body, (state, curves))


def keeps_value(opt_state: PyTree) -> bool:
    """Whether an optax state keeps the loss and gradient of the point it stepped to."""
    found = [len(optax.tree.get_all_with_path(opt_state, name)) for name in ("value", "grad")]
    return found == [1, 1] and optax.tree.get(opt_state, "grad") is not None


def _held_out(
    problem: Problem, state: State, loss: Float[Array, ""]
) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether the point was scored, and its score: the loss itself if nothing is held out."""
    held_out_fn = problem.held_out_fn
    if held_out_fn is None:
        return jnp.asarray(True), loss
    scored = state.step % problem.held_out_every == 0
    params = constrain(problem.spec, state.free, problem.params)
    score = jax.lax.cond(
        scored,
        lambda: jnp.asarray(held_out_fn(params), loss.dtype),
        lambda: jnp.zeros_like(loss),
    )
    return scored, score


def _largest(gradient: PyTree, dtype: Any) -> Float[Array, ""]:
    largest = [jnp.max(jnp.abs(g), initial=0).astype(dtype) for g in jax.tree.leaves(gradient)]
    return jnp.max(jnp.stack(largest))


def _cast(tree: PyTree, like: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.asarray(x, jnp.result_type(y)), tree, like)
