"""What a flow of activity is held against: data that keep part of the structure."""

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped

from neurofield._types import PRNGKey
from neurofield.recording import Activity, Raster

RASTER_NULLS = ("shift", "rate_matched", "shared_rate")
ACTIVITY_NULLS = ("shift", "shared_rate", "phase", "gaussian")


def null_data(key: PRNGKey, data: Raster | Activity, name: str) -> Raster | Activity:
    """One draw of a null (host only); `phenomenological_flow` says what each keeps."""
    rng = host_rng(key)
    values, masks = flat(data)
    made = values.copy()
    if isinstance(data, Raster) and name != "shift":
        unit_first = np.moveaxis(made, 1, 0)
        fired = unit_first[:, masks] > 0  # [neuron, valid bin]
        draw = same_margins if name == "shared_rate" else _at_same_rates
        unit_first[:, masks] = draw(rng, fired)
    else:
        draw = {"shift": _rotate, "shared_rate": _shared, "phase": _phases, "gaussian": _common}
        for epoch, first, stop in stretches(masks):
            made[epoch, :, first:stop] = draw[name](rng, values[epoch, :, first:stop])
    if isinstance(data, Raster):
        return replace(data, spikes=made.reshape(data.spikes.shape))
    return replace(data, values=made.reshape(data.values.shape))


def host_rng(key: PRNGKey) -> np.random.Generator:
    """NumPy's generator, seeded by a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


def stretches(masks: Bool[np.ndarray, "epoch time"]) -> list[tuple[int, int, int]]:
    """Epoch, first bin and end of every unbroken run of valid bins."""
    found = []
    for epoch, mask in enumerate(masks):
        steps = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
        starts, stops = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)
        found += [(epoch, int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
    return found


def flat(
    data: Raster | Activity,
) -> tuple[Shaped[np.ndarray, "epoch unit time"], Bool[np.ndarray, "epoch time"]]:
    """Values and valid bins, leading axes as one."""
    values = np.asarray(data.spikes if isinstance(data, Raster) else data.values)
    values = values.reshape(-1, *values.shape[-2:])
    if data.mask is None:
        return values, np.ones((len(values), values.shape[-1]), bool)
    return values, np.asarray(data.mask).reshape(-1, values.shape[-1])


def same_margins(
    rng: np.random.Generator, fired: Bool[np.ndarray, "neuron time"]
) -> Bool[np.ndarray, "neuron time"]:
    """Spikes at random among all rasters with the same count of each neuron and in each bin.

    The raster marginals model (Okun et al. 2012), by trades between random pairs of neurons
    (Strona et al. 2014): the spikes that only one of a pair fires are dealt out anew.
    """
    fired = fired.copy()
    count = len(fired)
    # Of a neuron at ten times the rate of the others one spike in twenty has not moved then.
    for _ in range(30):
        order = rng.permutation(count)
        for one, other in zip(order[: count // 2], order[count // 2 :], strict=False):
            contested = np.flatnonzero(fired[one] != fired[other])
            mine = int(np.count_nonzero(fired[one, contested]))
            dealt = np.zeros(len(contested), bool)
            dealt[rng.permutation(len(contested))[:mine]] = True
            fired[one, contested], fired[other, contested] = dealt, ~dealt
    return fired


def _at_same_rates(
    rng: np.random.Generator, fired: Bool[np.ndarray, "neuron time"]
) -> Bool[np.ndarray, "neuron time"]:
    return np.stack([rng.random(len(row), np.float32) < row.mean() for row in fired])


def _rotate(
    rng: np.random.Generator, x: Shaped[np.ndarray, "unit time"]
) -> Shaped[np.ndarray, "unit time"]:
    return np.stack([np.roll(row, rng.integers(len(row))) for row in x])


def _shared(
    rng: np.random.Generator, x: Float[np.ndarray, "unit time"]
) -> Float[np.ndarray, "unit time"]:
    """What each unit shares with the population mean; the rest is rotated, unit by unit."""
    mean = x.mean(axis=1, keepdims=True)
    population = (x - mean).mean(axis=0)
    power = population @ population
    slope = (x - mean) @ population / power if power > 0 else np.zeros(len(x), x.dtype)
    common = mean + slope[:, None] * population[None]
    rest = _rotate(rng, x - common)
    return common + rest - rest.mean(axis=0)[None]  # the population mean stays as it was


def _phases(
    rng: np.random.Generator, x: Float[np.ndarray, "unit time"]
) -> Float[np.ndarray, "unit time"]:
    return _rephased(x, rng.uniform(0, 2 * np.pi, (len(x), x.shape[1] // 2 + 1)))


def _common(
    rng: np.random.Generator, x: Float[np.ndarray, "unit time"]
) -> Float[np.ndarray, "unit time"]:
    return _rephased(x, rng.uniform(0, 2 * np.pi, (1, x.shape[1] // 2 + 1)))


def _rephased(x: np.ndarray, phase: np.ndarray) -> np.ndarray:
    turn = np.exp(1j * phase)
    turn[:, 0] = 1  # the mean stays
    if x.shape[1] % 2 == 0:
        turn[:, -1] = 1  # and the highest frequency, which has no phase
    made = np.fft.irfft(np.fft.rfft(x, axis=1) * turn, n=x.shape[1], axis=1)
    return made.astype(x.dtype)
