"""Strict modes for every test: x64, no silent rank or dtype promotion, warnings are errors."""

import os

os.environ.setdefault("EQX_ON_ERROR", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")

import equinox.internal as eqxi
import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def getkey():
    """A source of fresh keys from a fixed seed: `getkey()` is new at every call."""
    legacy = eqxi.GetKey(2024)
    return lambda: jax.random.wrap_key_data(legacy())
