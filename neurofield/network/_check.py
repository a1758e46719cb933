"""What a simulation refuses, and how it says so."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from neurofield._types import PyTree

from ._network import Network
from ._realise import is_traced


def whole_steps(
    name: str, value: float, dt: float, *, least: int = 1, unit: str = "dt", slack: float = 1e-6
) -> int:
    """`value / dt`, which must be a whole number. Raises `ValueError` naming the two."""
    if not (np.isfinite(value) and np.isfinite(dt) and dt > 0):
        raise ValueError(
            f"{name} and {unit} must be finite and {unit} positive, got {value}, {dt}."
        )
    steps = round(value / dt)
    if steps < least or abs(value / dt - steps) > slack * max(steps, 1):
        raise ValueError(
            f"{name} = {value} s is not a whole number of {unit} = {dt} s (at least {least})."
        )
    return steps


def check_network(network: Network, dt: float) -> Network:
    """The network, unless a parameter is not finite or the step too coarse: a `ValueError`.

    Where they are traced, the returned network's arrays carry the check.
    """
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt must be a positive number of seconds, got {dt}.")
    finite, fine = [], []  # of what is traced
    for population in network.populations:
        finite += _check_leaves(population, f"population {population.name!r}")
        if is_traced(population.neuron):
            longest = population.neuron.max_dt()
            fine.append(dt <= jnp.min(jnp.asarray(longest)) * (1 + 1e-6))
            continue
        with jax.ensure_compile_time_eval():
            longest = float(np.min(np.asarray(population.neuron.max_dt())))
        if dt > longest * (1 + 1e-6):
            raise ValueError(
                f"dt = {dt} s is too coarse for {type(population.neuron).__name__} of population "
                f"{population.name!r}: use at most {longest:.3g} s."
            )
    for projection in network.projections:
        finite += _check_leaves(projection, f"projection {projection.name}")
    for noise in network.shared:
        finite += _check_leaves(noise, "shared noise")
    # Concrete leaves stay concrete: drawing lists of synapses needs them so.
    traced, rest = eqx.partition(network, is_traced)
    for holds, message in (
        (finite, "a parameter of the network is not finite."),
        (fine, f"dt = {dt} s is too coarse for a neuron of the network."),
    ):
        if holds:
            traced = eqx.error_if(traced, ~jnp.all(jnp.stack(holds)), message)
    return eqx.combine(traced, rest)


def _check_leaves(tree: PyTree, what: str) -> list[Array]:
    """Raises for a leaf that is not finite; whether it is, for each that is traced."""
    finite = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not eqx.is_inexact_array(leaf):
            continue
        if is_traced(leaf):
            finite.append(jnp.all(jnp.isfinite(leaf)))
        elif not np.isfinite(leaf).all():
            name = jax.tree_util.keystr(path).lstrip(".")
            raise ValueError(f"{what}: {name} is not finite ({np.asarray(leaf).ravel()[:5]}).")
    return finite


def check_end(
    result: PyTree,
    finite: Array,
    num_active: Array,
    most: Array,
    capacity: int,
    dt: float,
    throw: bool,
) -> PyTree:
    """`result`, or an error for spikes that did not fit and, if `throw`, states that blew up."""
    overflow = (
        f"more sources were active in one step than capacity = {capacity} allows, so that spikes "
        "would be lost: raise capacity (synchronous states need the number of neurons)."
    )
    many = "a neuron spiked more than 255 times in a bin: use a smaller bin_width."
    blown = (
        f"a state or an input became infinite or NaN: dt = {dt} s may be too coarse for this "
        "network, or its activity has no bound."
    )
    failures: list[tuple[Any, type[Exception], str]] = [
        (num_active > capacity, ValueError, overflow),
        (jnp.max(most, initial=0) > 255, ValueError, many),
    ]
    if throw:
        failures.append((~finite, FloatingPointError, blown))
    for failed, error, message in failures:
        if is_traced(failed):
            result = eqx.error_if(result, failed, message)
        elif bool(failed):
            raise error(message)
    return result
