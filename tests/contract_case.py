"""One entry of the contract table: a public function, and how to make tiny arguments for it."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import neurofield

PLATFORMS = ("cpu", "cuda", "tpu")


class Draw:
    """Random tiny arguments of one seed and floating dtype."""

    def __init__(self, seed: int, dtype: Any):
        self._key = jax.random.key(seed)
        self.dtype = jnp.dtype(dtype)

    def key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key

    def normal(self, *shape: int, scale: float = 1.0) -> jax.Array:
        """Drawn in float32 and then cast, so that both dtypes see the same numbers."""
        return jax.random.normal(self.key(), shape, jnp.float32).astype(self.dtype) * jnp.asarray(
            scale, self.dtype
        )

    def spikes(self, *shape: int, rate: float = 0.4) -> jax.Array:
        return jax.random.bernoulli(self.key(), rate, shape).astype(jnp.uint8)


@dataclass(frozen=True)
class Case:
    """A public function, its static keywords, and how to call it."""

    name: str
    arguments: Callable[[Draw], tuple]
    keywords: dict[str, Any]
    call: Callable[..., Any]
    wrt: tuple[int, ...]
    platforms: tuple[str, ...]
    slow: bool

    @property
    def fn(self) -> Callable:
        """The function by its public name, as a function of arrays alone."""
        public = operator.attrgetter(self.public)(neurofield)
        return partial(self.call, partial(public, **self.keywords))

    @property
    def public(self) -> str:
        return self.name.partition("[")[0]

    def args(self, seed: int = 0, dtype: Any = jnp.float64) -> tuple:
        return self.arguments(Draw(seed, dtype))


CASES: dict[str, Case] = {}


def by_position(fn, *args):
    return fn(*args)


def case(name, *, call=by_position, wrt=(0,), platforms=PLATFORMS, slow=False, **keywords):
    """Enter a function by its public name; `name[variant]` where it has several entries.

    `wrt`: positions of the arguments to differentiate, `()` if the result is discrete.
    `call(fn, *args)`: how to call it where static things stand between the arguments.
    `platforms`: where the function is meant to run. `slow`: its checks run with the slow tests.
    The rest are static keywords.
    """

    def enter(arguments):
        assert name not in CASES, f"{name} is entered twice"
        CASES[name] = Case(name, arguments, keywords, call, wrt, platforms, slow)
        return arguments

    return enter
