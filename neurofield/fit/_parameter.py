"""Typed parameters: what values a leaf may take, which leaves are fixed, which are one.

A specification is a tree parallel to the parameters (or a prefix of it) whose leaves are the
classes below; `None` means `Real()`. An optimiser then walks in free coordinates: a dict from a
leaf's path (or a shared name) to an unbounded array. The idea of a parallel tree of properties is
that of dynamax; the changes of variables are those of Carpenter et al. (2017), "Stan", sec. 2.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Shaped

from neurofield._types import PyTree


class AbstractParameter(eqx.Module):
    """How one leaf is made from unbounded numbers."""

    @property
    @abc.abstractmethod
    def domain(self) -> str:
        """The allowed values, in words."""

    @abc.abstractmethod
    def forward(self, free: Float[Array, "..."]) -> Float[Array, "..."]:
        """From free coordinates to the parameter."""

    @abc.abstractmethod
    def inverse(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """From the parameter, inside its domain, to free coordinates."""

    @abc.abstractmethod
    def contains(self, value: Shaped[Array, "..."]) -> Bool[Array, ""]:
        """Whether the whole array lies in the domain."""

    @abc.abstractmethod
    def log_det_jacobian(self, free: Float[Array, "..."]) -> Float[Array, ""]:
        """log |det d value / d free|, over the entries of the value that are independent."""


class Real(AbstractParameter):
    """Any finite number."""

    @property
    def domain(self):
        return "finite numbers"

    def forward(self, free):
        return free

    def inverse(self, value):
        return value

    def contains(self, value):
        return jnp.all(jnp.isfinite(value))

    def log_det_jacobian(self, free):
        return jnp.zeros((), free.dtype)


class Positive(AbstractParameter):
    """Numbers above `lower`: value = lower + log(1 + exp(free))."""

    lower: float | int = eqx.field(static=True, default=0.0)

    @property
    def domain(self):
        return f"finite numbers above {self.lower:g}"

    def forward(self, free):
        return self.lower + jax.nn.softplus(free)

    def inverse(self, value):
        excess = value - self.lower
        return excess + jnp.log(-jnp.expm1(-excess))

    def contains(self, value):
        return jnp.all(jnp.isfinite(value) & (value > self.lower))

    def log_det_jacobian(self, free):
        return jnp.sum(jax.nn.log_sigmoid(free))


class Interval(AbstractParameter):
    """Numbers between `lower` and `upper`: value = lower + (upper - lower) sigmoid(free)."""

    lower: float | int = eqx.field(static=True)
    upper: float | int = eqx.field(static=True)

    def __check_init__(self):
        if not (np.isfinite([self.lower, self.upper]).all() and self.lower < self.upper):
            raise ValueError(
                f"an interval needs finite lower < upper, got {self.lower} and {self.upper}; "
                "use Positive(lower) for a half-line."
            )

    @property
    def domain(self):
        return f"numbers strictly between {self.lower:g} and {self.upper:g}"

    def forward(self, free):
        return self.lower + (self.upper - self.lower) * jax.nn.sigmoid(free)

    def inverse(self, value):
        # Two logarithms keep precision near both ends, where a logit of the ratio loses it.
        return jnp.log(value - self.lower) - jnp.log(self.upper - value)

    def contains(self, value):
        return jnp.all((value > self.lower) & (value < self.upper))

    def log_det_jacobian(self, free):
        width = jnp.log(jnp.asarray(self.upper - self.lower, free.dtype))
        return jnp.sum(width + jax.nn.log_sigmoid(free) + jax.nn.log_sigmoid(-free))


class Simplex(AbstractParameter):
    """Positive numbers that sum to one over the last axis: a softmax with the last logit zero."""

    @property
    def domain(self):
        return "positive numbers that sum to one over the last axis"

    def forward(self, free):
        return jnp.exp(self._log(free))

    def _log(self, free):
        zero = jnp.zeros((*free.shape[:-1], 1), free.dtype)
        return jax.nn.log_softmax(jnp.concatenate([free, zero], -1), axis=-1)

    def inverse(self, value):
        return jnp.log(value[..., :-1]) - jnp.log(value[..., -1:])

    def contains(self, value):
        if value.ndim == 0:
            return jnp.asarray(False)
        off = jnp.abs(jnp.sum(value, -1) - 1)
        return jnp.all(value > 0) & jnp.all(off <= value.shape[-1] * jnp.finfo(value.dtype).eps * 4)

    def log_det_jacobian(self, free):
        # d (first K - 1 entries) / d free = diag(p) - p p', whose determinant is prod of all K.
        return jnp.sum(self._log(free))


class SymmetricHollow(AbstractParameter):
    """Symmetric matrices `[..., N, N]` with zero diagonal: free is the strict upper triangle."""

    @property
    def domain(self):
        return "finite symmetric matrices with zero diagonal"

    def forward(self, free):
        size = (1 + int(np.sqrt(1 + 8 * free.shape[-1]))) // 2
        upper = jnp.zeros((*free.shape[:-1], size, size), free.dtype)
        upper = upper.at[(..., *np.triu_indices(size, 1))].set(free)
        return upper + jnp.swapaxes(upper, -1, -2)

    def inverse(self, value):
        return value[(..., *np.triu_indices(value.shape[-1], 1))]

    def contains(self, value):
        if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
            return jnp.asarray(False)
        hollow = jnp.all(jnp.diagonal(value, axis1=-2, axis2=-1) == 0)
        return hollow & jnp.all(jnp.isfinite(value) & (value == jnp.swapaxes(value, -1, -2)))

    def log_det_jacobian(self, free):
        return jnp.zeros((), free.dtype)


class Fixed(eqx.Module):
    """A leaf that keeps its value. Leaves that are not real floating arrays are always fixed."""


class Shared(eqx.Module):
    """Leaves of one `name` are one parameter: they must start equal and stay so."""

    name: str = eqx.field(static=True)
    parameter: AbstractParameter = Real()


Free = dict[str, Float[Array, "..."]]


def unconstrain(spec: PyTree, params: PyTree) -> Free:
    """The free coordinates of `params`: a dict from leaf path (or shared name) to array.

    `spec` is a tree of parameters parallel to `params`, or a prefix of it; `None` is all `Real()`.

    Raises `ValueError` naming the leaf and its domain if a value lies outside it, and for leaves
    that share a name but differ. (Values are not looked at under a JAX transformation.)
    """
    free: Free = {}
    origin: dict[str, tuple[str, PyTree]] = {}
    for path, kind, leaf in _leaves(spec, params):
        if isinstance(kind, Fixed):
            continue
        parameter = kind.parameter if isinstance(kind, Shared) else kind
        if not _is_concrete_true(parameter.contains(leaf)):
            raise ValueError(
                f"{path} must be {parameter.domain}, got {np.array2string(np.asarray(leaf))}: "
                "choose a start inside the domain or another parameter type."
            )
        name = kind.name if isinstance(kind, Shared) else path
        if name in free:
            first_path, first = origin[name]
            if first.shape != leaf.shape or not _is_concrete_true(jnp.array_equal(first, leaf)):
                raise ValueError(
                    f"{path} and {first_path} share the name {name!r} but start from different "
                    "values: give both the same."
                )
            continue
        free[name], origin[name] = parameter.inverse(leaf), (path, leaf)
    return free


def constrain(spec: PyTree, free: Free, params: PyTree) -> PyTree:
    """The parameters at free coordinates; `params` gives the structure and the fixed leaves."""
    leaves = []
    for path, kind, leaf in _leaves(spec, params):
        if isinstance(kind, Shared):
            leaves.append(kind.parameter.forward(free[kind.name]))
        else:
            leaves.append(leaf if isinstance(kind, Fixed) else kind.forward(free[path]))
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def log_det_jacobian(spec: PyTree, free: Free, params: PyTree) -> Float[Array, ""]:
    """log |det d params / d free|, each shared parameter counted once (for densities)."""
    parts = {}
    for path, kind, _ in _leaves(spec, params):
        if isinstance(kind, Shared):
            parts[kind.name] = kind.parameter.log_det_jacobian(free[kind.name])
        elif not isinstance(kind, Fixed):
            parts[path] = kind.log_det_jacobian(free[path])
    with jax.numpy_dtype_promotion("standard"):  # leaves may differ in precision
        return jnp.asarray(sum(parts.values()))


def is_floating(leaf: PyTree) -> bool:
    """Whether a leaf is a floating number or array, and so may be fitted."""
    return eqx.is_inexact_array(leaf) or isinstance(leaf, float | complex)


def _is_kind(x: PyTree) -> bool:
    return isinstance(x, AbstractParameter | Fixed | Shared)


def _leaves(spec: PyTree, params: PyTree) -> list[tuple[str, PyTree, PyTree]]:
    """(path, kind, leaf) of each leaf of `params`, the kinds broadcast from `spec`."""
    try:
        kinds = jax.tree.map(
            lambda kind, part: jax.tree.map(lambda _: Real() if kind is None else kind, part),
            spec,
            params,
            is_leaf=lambda x: x is None or _is_kind(x),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"spec must be a tree of parameter types parallel to params: {error}"
        ) from error
    kinds = jax.tree.leaves(kinds, is_leaf=_is_kind)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    triples = []
    for kind, (key_path, leaf) in zip(kinds, leaves, strict=True):
        path = f"params{jax.tree_util.keystr(key_path)}"
        if not _is_kind(kind):
            raise ValueError(f"spec at {path} must be a parameter type, got {kind!r}.")
        # (is_inexact_array_like fails on tracers.)
        if not (eqx.is_inexact_array(leaf) or isinstance(leaf, float | complex)):
            kind = Fixed()
        elif not isinstance(kind, Fixed):
            if jnp.iscomplexobj(leaf):
                raise ValueError(f"{path} is complex: fit its real and imaginary part instead.")
            leaf = jnp.asarray(leaf)
        triples.append((path, kind, leaf))
    return triples


def _is_concrete_true(condition: Bool[Array, ""]) -> bool:
    return isinstance(condition, Tracer) or bool(condition)
