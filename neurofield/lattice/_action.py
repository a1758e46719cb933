"""The two lattice models: `Action`, the field theory, and `Kinetic`, its causal sibling."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from neurofield._types import Arrayish, Covariates

Basis = Literal["gas", "spin"]
Boundary = Literal["open", "periodic"]


class Action(eqx.Module):
    """A two-body lattice field theory of a raster x_i(t), of weight exp(log-weight).

    log-weight = sum_t [ sum_i field_i x_i(t) + 1/2 sum_ij space_ij x_i(t) x_j(t)
                 + sum_{l,i} history_{l,i} x_i(t+l) x_i(t)
                 + sum_{l,i,j} transfer_{l,i,j} x_i(t+l) x_j(t) ]

    after Bardella, Franchini, Pani and Ferraina (2024); with `transfer` it is the Markov-Ising
    model of Marre, El Boustani, Fregnac and Destexhe (2009). All couplings are log-odds
    (dimensionless). Without `transfer` the stationary theory obeys detailed balance and cannot
    represent a directed delay.

    **Attributes**

    - `field`: `[N]` or `[N, T]`, the external input I.
    - `space`: `[N, N]`, symmetric with zero diagonal, the equal-time couplings A.
    - `history`: `[R, N]`, own-history couplings b at lags 1..R (lag l at index l-1).
    - `transfer`: `[R', N, N]`, directed couplings W at lags 1..R', `transfer[l-1, post, pre]`.
    - `stimulus`: `[N, K]`, weights of K external covariates added to `field`.
    - `basis`: "gas" (x in {0, 1}) or "spin" (x read as 2x - 1); static.
    """

    field: Float[Array, " neuron"] | Float[Array, "neuron time"]
    space: Float[Array, "neuron neuron"]
    history: Float[Array, "lag neuron"]
    transfer: Float[Array, "transfer_lag neuron neuron"]
    stimulus: Float[Array, "neuron covariate"]
    basis: Basis = eqx.field(static=True)

    def __init__(
        self,
        field: Arrayish,
        space: Arrayish | None = None,
        history: Arrayish | None = None,
        transfer: Arrayish | None = None,
        stimulus: Arrayish | None = None,
        *,
        basis: Basis = "gas",
    ):
        """Couplings that are left out are zero.

        Raises `ValueError` for wrong shapes and, unless traced, for an asymmetric `space`, a
        non-zero diagonal (x^2 = x makes it a second `field`) or a non-finite entry.
        """
        if basis not in ("gas", "spin"):
            raise ValueError(f"basis must be 'gas' or 'spin', got {basis!r}.")
        n = _num_neurons(field, (1, 2))
        self.field, self.space, self.history, self.transfer, self.stimulus = _arrays(
            field=(field, None),
            space=(space, (n, n)),
            history=(history, (0, n)),
            transfer=(transfer, (0, n, n)),
            stimulus=(stimulus, (n, 0)),
        )
        self.basis = basis
        _check_values(self)

    @property
    def num_neurons(self) -> int:
        return self.space.shape[-1]

    @property
    def num_lags(self) -> int:
        """The longest lag of any coupling."""
        return max(self.history.shape[-2], self.transfer.shape[-3])


class Kinetic(eqx.Module):
    """The causal logistic model: bins depend on the past alone, neurons independently given it.

    logit P(x_i(t) = 1 | past) = field_i + sum_{l,j} weight_{l,i,j} x_j(t-l)
                                 + sum_k stimulus_ik covariates_k(t)

    which is the kinetic Ising model in {0, 1}, or a point-process GLM with logistic link. It is
    not a two-body `Action`: its normaliser depends on the state.

    **Attributes**

    - `field`: `[N]` log-odds.
    - `weight`: `[R, N, N]`, `weight[l-1, post, pre]`, the pre neuron's own history included.
    - `stimulus`: `[N, K]`, weights of external covariates.
    """

    field: Float[Array, " neuron"]
    weight: Float[Array, "lag neuron neuron"]
    stimulus: Float[Array, "neuron covariate"]

    def __init__(
        self,
        field: Arrayish,
        weight: Arrayish | None = None,
        stimulus: Arrayish | None = None,
    ):
        """Couplings that are left out are zero. Raises `ValueError` for wrong shapes."""
        n = _num_neurons(field, (1,))
        self.field, self.weight, self.stimulus = _arrays(
            field=(field, None), weight=(weight, (0, n, n)), stimulus=(stimulus, (n, 0))
        )
        for name in ("field", "weight", "stimulus"):
            _check_finite(name, getattr(self, name))

    @property
    def num_neurons(self) -> int:
        return self.field.shape[-1]

    @property
    def num_lags(self) -> int:
        return self.weight.shape[-3]


def field_at(model: Action | Kinetic, covariates: Covariates | None) -> Array:
    """The input of each neuron, `[N]`, or `[..., N, T]` where it depends on time."""
    num_covariates = model.stimulus.shape[-1]
    if num_covariates == 0:
        if covariates is not None:
            raise ValueError("covariates were given, but the model has no stimulus weights.")
        return model.field
    if covariates is None:
        raise ValueError(
            f"the model has weights of {num_covariates} covariates: give covariates[..., K, time]."
        )
    if covariates.shape[-2] != num_covariates:
        raise ValueError(
            f"covariates must be [..., K, time] with K = {num_covariates}, got {covariates.shape}."
        )
    field = model.field if model.field.ndim == 2 else model.field[:, None]
    driven = jnp.matmul(
        model.stimulus,
        jnp.asarray(covariates).astype(field.dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.broadcast_to(field, driven.shape) + driven


def to_basis(
    action: Action, basis: Basis, num_steps: int | None = None, boundary: Boundary = "open"
) -> tuple[Action, Float[Array, ""]]:
    """The same theory in the other basis, exactly.

    Returns `(converted, offset)` with
    `log_weight(action, x) = log_weight(converted, x) + offset` for every raster of `num_steps`
    bins. At open ends a coupling over lags has fewer partners near the edges, so that a constant
    field becomes `[N, T]` (lattice-gas to magnetic representation of Bardella et al. 2024).

    Raises `ValueError` where `num_steps` is needed and missing. Models with `stimulus` keep it:
    its share of the offset depends on the covariates, so that they are refused.
    """
    if basis not in ("gas", "spin"):
        raise ValueError(f"basis must be 'gas' or 'spin', got {basis!r}.")
    if action.stimulus.shape[-1]:
        raise ValueError("fold the covariates into field[N, T] before changing the basis.")
    num_steps = _steps_of(action, num_steps)
    if basis == action.basis:
        return action, jnp.zeros((), action.field.dtype)
    # Substitute old = scale * new + shift in every term.
    scale, shift = (0.5, 0.5) if basis == "spin" else (2.0, -1.0)
    cross = scale * shift
    time = jnp.arange(num_steps)
    field = jnp.broadcast_to(
        action.field if action.field.ndim == 2 else action.field[:, None],
        (action.num_neurons, num_steps),
    )
    offset = shift * jnp.sum(field) + shift**2 / 2 * num_steps * jnp.sum(action.space)
    field = scale * field + cross * jnp.sum(action.space, axis=1)[:, None]
    for lag in range(1, action.num_lags + 1):
        has_past = ((time >= lag) | (boundary == "periodic")).astype(field.dtype)[None]
        has_future = ((time < num_steps - lag) | (boundary == "periodic")).astype(field.dtype)[None]
        num_pairs = num_steps if boundary == "periodic" else max(num_steps - lag, 0)
        if lag <= action.history.shape[0]:
            b = action.history[lag - 1]
            field = field + cross * b[:, None] * (has_past + has_future)
            offset = offset + shift**2 * num_pairs * jnp.sum(b)
        if lag <= action.transfer.shape[0]:
            w = action.transfer[lag - 1]
            field = field + cross * jnp.sum(w, axis=1)[:, None] * has_past
            field = field + cross * jnp.sum(w, axis=0)[:, None] * has_future
            offset = offset + shift**2 * num_pairs * jnp.sum(w)
    uniform = boundary == "periodic" or action.num_lags == 0
    converted = eqx.tree_at(
        lambda a: (a.field, a.space, a.history, a.transfer),
        action,
        (
            field[:, 0] if uniform and action.field.ndim == 1 else field,
            scale**2 * action.space,
            scale**2 * action.history,
            scale**2 * action.transfer,
        ),
    )
    return _with_basis(converted, basis), offset


def _with_basis(action: Action, basis: Basis) -> Action:
    return Action(
        action.field, action.space, action.history, action.transfer, action.stimulus, basis=basis
    )


def _steps_of(action: Action, num_steps: int | None) -> int:
    if action.field.ndim == 2:
        if num_steps not in (None, action.field.shape[1]):
            raise ValueError(
                f"field has {action.field.shape[1]} bins, but num_steps is {num_steps}."
            )
        return action.field.shape[1]
    if num_steps is None:
        raise ValueError(
            "num_steps is needed: the offset, and the field at open ends, depend on it."
        )
    return num_steps


def _num_neurons(field: Arrayish, ndims: tuple[int, ...]) -> int:
    shape = np.shape(field)
    if len(shape) not in ndims:
        expected = "[N]" if ndims == (1,) else "[N] or [N, T]"
        raise ValueError(f"field must be {expected}, got shape {shape}.")
    return shape[0]


def _arrays(**given: tuple[Arrayish | None, tuple[int, ...] | None]) -> list[Array]:
    """Each as a floating array of one common dtype; a leading 0 in the shape is any count."""
    floats = [
        jnp.asarray(value) for value, _ in given.values() if value is not None and np.ndim(value)
    ]
    dtype = jnp.result_type(float) if not floats else _common_float([a.dtype for a in floats])
    out = []
    for name, (value, shape) in given.items():
        array = jnp.zeros(shape or (), dtype) if value is None else jnp.asarray(value).astype(dtype)
        if shape is not None:
            expected = tuple("any" if s == 0 else s for s in shape)
            if array.ndim != len(shape) or any(
                s not in (0, got) for s, got in zip(shape, array.shape, strict=True)
            ):
                raise ValueError(f"{name} must have shape {expected}, got {array.shape}.")
        out.append(array)
    return out


def _common_float(dtypes: list) -> np.dtype:
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*dtypes)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def _check_finite(name: str, array: Array) -> None:
    if not isinstance(array, Tracer) and not np.isfinite(np.asarray(array)).all():
        raise ValueError(f"{name} holds NaN or infinity.")


def _check_values(action: Action) -> None:
    for name in ("field", "space", "history", "transfer", "stimulus"):
        _check_finite(name, getattr(action, name))
    if not isinstance(action.space, Tracer):
        space = np.asarray(action.space)
        tolerance = 8 * np.finfo(space.dtype).eps * max(np.abs(space).max(initial=0.0), 1.0)
        if np.abs(space - space.T).max(initial=0.0) > tolerance:
            raise ValueError(
                "space must be symmetric; directed couplings belong in transfer[lag, post, pre]."
            )
        if np.diagonal(space).any():
            raise ValueError("space must have a zero diagonal: x_i^2 = x_i is part of field.")
    shared = min(action.history.shape[0], action.transfer.shape[0])
    if isinstance(action.transfer, Tracer):
        return
    if np.diagonal(np.asarray(action.transfer)[:shared], axis1=1, axis2=2).any():
        raise ValueError(
            "transfer must have a zero diagonal at the lags that history covers: "
            "both couple a neuron to its own past."
        )
