"""Strict modes for every test: x64, no silent rank or dtype promotion, warnings are errors."""

import gc
import itertools
import os
from pathlib import Path

os.environ.setdefault("EQX_ON_ERROR", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")
# Two thirds of the time of a run is compilation: the workers, the processes that tests start and
# the next run share what was compiled.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import equinox.internal as eqxi
import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# Linux lets a process map 65,530 areas of memory by default, and every compiled function takes a
# few: beyond that the compiler crashes.
_MAPS = Path("/proc/self/maps")
_MOST_MAPS = 25_000


_TESTS = itertools.count(1)


@pytest.fixture(autouse=True)
def _few_compiled_functions():
    yield
    if next(_TESTS) % 10 == 0 and _MAPS.exists():
        with _MAPS.open("rb") as maps:
            many = sum(1 for _ in maps) > _MOST_MAPS
        if many:
            jax.clear_caches()
            gc.collect()


@pytest.fixture
def getkey():
    """A source of fresh keys from a fixed seed: `getkey()` is new at every call."""
    legacy = eqxi.GetKey(2024)
    return lambda: jax.random.wrap_key_data(legacy())
