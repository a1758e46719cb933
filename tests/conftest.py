"""Strict modes for every test: x64, no silent rank or dtype promotion, warnings are errors."""

import gc
import itertools
import os
from pathlib import Path

os.environ.setdefault("EQX_ON_ERROR", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")
# XLA calls it an error that a program compiled here was tuned for here (prefer-no-gather).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import equinox.internal as eqxi
import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Two thirds of the time of a run is compilation: its workers and the next run share the results.
jax.config.update(
    "jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
