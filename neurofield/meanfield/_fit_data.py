"""What a fit compares: measured and predicted numbers as vectors, with errors and names."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield.network import Network
from neurofield.statistics import Statistics

from ._observables import Observables, measured_fields, predict_observables
from ._solution import Solution
from ._statistics import with_deviations

_STATISTICS = ("rate", "covariance", "lagged", "spectrum")


class Known(eqx.Module):
    """What was measured, as one real vector.

    - `target`, `error`: `[datum]`; infinite errors where nothing is known.
    - `apart`: `[part, datum]`, deviations whose products sum to the covariance of the errors;
      `None` where they are taken as independent.
    - `labels`: of the data; `use`: the fields; `shape`: lags, frequencies and bins (static).
    """

    target: Float[Array, " datum"]
    error: Float[Array, " datum"]
    apart: Float[Array, "part datum"] | None
    labels: tuple[str, ...] = eqx.field(static=True)
    use: tuple[str, ...] = eqx.field(static=True)
    shape: tuple[Any, ...] = eqx.field(static=True)


def known_data(
    measured: Observables | Statistics | Sequence[Statistics],
    network: Network,
    use: Sequence[str] | None,
) -> Known:
    """The numbers of the fields `use`, for fits of a network; by default all but the spectrum.

    Raises `ValueError` for fields without numbers or errors, and populations of another network.
    """
    apart = None
    if not isinstance(measured, Observables | Statistics):
        measured, apart = _several(measured)
    if tuple(measured.labels) != network.names:
        raise ValueError(
            f"measured is of populations {list(measured.labels)}, the network of "
            f"{list(network.names)}: they must be the same."
        )
    if isinstance(measured, Observables):
        measured = _of_spikes(measured, network)
        fields = usual = measured_fields(measured)
        apart = measured.deviations
    else:
        fields = tuple(name for name in _STATISTICS if getattr(measured, name) is not None)
        usual = tuple(name for name in ("rate", "lagged") if name in fields)
    use = usual if use is None else tuple(use)
    if not use or not set(use) <= set(fields):
        raise ValueError(f"use must be of what was measured, {fields}, got {use}.")
    target, error, labels = _flatten(measured, use)
    return Known(target, error, _joined(apart, use), tuple(labels), use, _shape(measured))


def prediction(
    solution: Solution, use: tuple[str, ...], shape: tuple[Any, ...], key: PRNGKeyArray
) -> tuple[Array, Array | None, Array | None]:
    """Predictions, their errors, and the deviations that make these up, as far as known."""
    if shape[0] == "observables":
        window = shape[3] if "interval_cv" in use else None
        found = predict_observables(solution, shape[1], bin_width=shape[2], window=window, key=key)
        values, apart = join([getattr(found, n) for n in use]), _joined(found.deviations, use)
        if found.error is None:
            return values, None, apart
        return values, join([getattr(found.error, n) for n in use]), apart
    length = shape[2] if "spectrum" in use else None
    found, each = with_deviations(solution, shape[3], shape[1], length)
    values = join([getattr(found, n) for n in use])
    if each is None:
        return values, None, None
    apart = _joined(each, use)
    assert apart is not None
    return values, jnp.sqrt(jnp.sum(apart**2, axis=0)), apart


def _several(each: Sequence[Statistics]) -> tuple[Statistics, dict[str, Array]]:
    """Means over networks, with the errors of their spread, and deviations `[network, ...]`."""
    if len(each) < 2:
        raise ValueError(f"errors are from the spread of two Statistics or more, got {len(each)}.")
    first = each[0]
    if any(jax.tree.structure(x) != jax.tree.structure(first) for x in each):
        raise ValueError("all Statistics must be of the same populations, bins and fields.")
    scale = (len(each) * (len(each) - 1)) ** -0.5
    mean, apart = {}, {}
    for name in _STATISTICS:
        if getattr(first, name) is None:
            continue
        values = jnp.stack([getattr(x, name) for x in each])
        mean[name] = jnp.mean(values, axis=0)
        apart[name] = scale * (values - mean[name][None])
        # Of complex numbers, the root mean square modulus.
        mean[f"{name}_error"] = jnp.sqrt(jnp.sum(jnp.abs(apart[name]) ** 2, axis=0))
        masks = [getattr(x, f"{name}_mask") for x in each]
        if masks[0] is not None:
            mean[f"{name}_mask"] = jnp.all(jnp.stack(masks), axis=0)
    frame = {"frequency": first.frequency, "bin_width": first.bin_width, "labels": first.labels}
    return Statistics(**mean, **frame), apart


def _joined(apart: dict[str, Array] | None, use: tuple[str, ...]) -> Array | None:
    if apart is None:
        return None
    return jax.vmap(lambda *x: join(x))(*(apart[name] for name in use))


def _error_of(measured: Observables | Statistics, name: str) -> Array:
    if isinstance(measured, Observables):
        error = None if measured.error is None else getattr(measured.error, name)
    else:
        error = getattr(measured, f"{name}_error")
        mask = getattr(measured, f"{name}_mask")
        error = error if error is None or mask is None else jnp.where(mask, error, jnp.inf)
    if error is None:
        raise ValueError(f"measured has no error of {name}: measure it, or leave it out.")
    # An error of zero is of what never varied, and says nothing.
    return jnp.where(error > 0, error, jnp.inf)


def _of_spikes(measured: Observables, network: Network) -> Observables:
    """Without the intervals of what does not spike."""
    if measured.interval_cv is None or measured.error is None:
        return measured
    spiking = jnp.asarray([population.neuron.kind == "spike" for population in network.populations])
    error = jnp.where(spiking, measured.error.interval_cv, jnp.inf)
    return eqx.tree_at(lambda m: m.error.interval_cv, measured, error)


def _shape(measured: Observables | Statistics) -> tuple[Any, ...]:
    if isinstance(measured, Observables):
        return ("observables", measured.lags, measured.bin_width, measured.window)
    length = None
    if measured.frequency is not None:
        length = round(1 / (float(measured.frequency[1]) * measured.bin_width))
    num_lags = 1 if measured.lagged is None else measured.lagged.shape[-3]
    return ("statistics", num_lags, length, measured.bin_width)


def _flatten(
    measured: Observables | Statistics, use: tuple[str, ...]
) -> tuple[Array, Array, list[str]]:
    """Data, errors and names; infinite errors where a number is there already."""
    spread, labels = [], []
    for name in use:
        own, shape = _error_of(measured, name), getattr(measured, name).shape
        index = [" ".join(map(str, place)) for place in np.ndindex(*shape)]
        if name in ("covariance", "population_covariance", "lagged", "spectrum"):
            again = np.tril(np.ones(shape[-2:], bool), -1)
            again = np.broadcast_to(again, shape).copy()
            if name == "lagged":
                again[1:] = False
            own = jnp.where(jnp.asarray(again), jnp.inf, own)
        if name == "spectrum":
            assert isinstance(measured, Statistics)
            turns = np.asarray(measured.frequency) * measured.bin_width
            ends = (turns < 1e-6) | (turns > 0.5 - 1e-6)
            real = np.eye(shape[-1], dtype=bool)[None] | ends[:, None, None]
            spread += [
                jnp.where(real, own, own * 0.5**0.5),
                jnp.where(real, jnp.inf, own * 0.5**0.5),
            ]
            labels += [f"{name} {i} real" for i in index] + [f"{name} {i} imag" for i in index]
        else:
            spread.append(own)
            labels += [f"{name} {i}" for i in index]
    target = join([getattr(measured, name) for name in use])
    return target, jnp.concatenate([x.ravel() for x in spread]), labels


def join(parts: Sequence[Array]) -> Array:
    """One real vector: of complex arrays the real parts, then the imaginary ones."""
    flat = []
    for x in parts:
        flat += [y.ravel() for y in ((x.real, x.imag) if jnp.iscomplexobj(x) else (x,))]
    return jnp.concatenate(flat)
