"""Activity in blocks of time, and what is measured block by block, for the bootstrap."""

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofield.recording import Activity, Raster

from ._phenomenological_nulls import flat, stretches

# Of normalised activity, in standard deviations; what lies beyond is in no bin.
EDGES = np.linspace(-6.0, 14.0, 81)


class Blocks(NamedTuple):
    """Pieces of `[unit, time]`, of about equal length, none of which holds an invalid bin."""

    chosen: list[np.ndarray]  # [unit, time], by which pairs or modes are chosen
    measured: list[np.ndarray]
    step: float  # seconds a bin
    length: int  # bins of a block
    mean: Float[np.ndarray, "unit 1"]  # over the measured blocks

    def centred(self, block: Shaped[np.ndarray, "unit time"]) -> Float[np.ndarray, "unit time"]:
        return block.astype(self.mean.dtype) - self.mean

    def covariance(self) -> Float[np.ndarray, "unit unit"]:
        """Over the chosen blocks."""
        total = np.zeros(len(self.mean))
        product = np.zeros((len(self.mean),) * 2)
        count = 0
        for block in self.chosen:
            x = self.centred(block)
            total += x.sum(axis=1, dtype=float)
            product += x @ x.T
            count += x.shape[1]
        found = product / count - np.outer(total, total) / count**2
        # Rounding leaves a unit that never changes with some variance.
        first = self.chosen[0][:, :1]
        still = np.all([np.all(b == first, axis=1) for b in self.chosen], axis=0)
        found[still] = found[:, still] = 0
        return found


def cut(data: Raster | Activity, block_duration: float | None, cross_validate: bool) -> Blocks:
    """Every second block is for choosing, the others for measuring, or all are for both."""
    values, masks = flat(data)
    step = data.bin_width if isinstance(data, Raster) else data.sample_interval
    runs = stretches(masks)
    num_valid = sum(stop - first for _, first, stop in runs)
    length = max(math.ceil(num_valid / 40), 2)
    if block_duration is not None:
        length = round(block_duration / step)
        if length < 2:
            raise ValueError(f"block_duration must be at least two bins, {2 * step:g} s.")
    pieces = []
    for epoch, first, stop in runs:
        count = max(round((stop - first) / length), 1)
        bounds = np.linspace(first, stop, count + 1).round().astype(int)
        pieces += [values[epoch, :, a:b] for a, b in itertools.pairwise(bounds)]
    chosen, measured = (pieces[::2], pieces[1::2]) if cross_validate else (pieces, pieces)
    if len(measured) < 2 or num_valid < 4:
        raise ValueError(
            f"{num_valid} valid bins make {len(pieces)} blocks of {length}: expected at least "
            "four; pass a shorter block_duration, or more data."
        )
    dtype = np.float32 if values.dtype in (np.uint8, np.float32) else np.float64
    total = sum(block.sum(axis=1, dtype=float) for block in measured)
    mean = np.asarray(total) / sum(block.shape[1] for block in measured)
    return Blocks(chosen, measured, float(step), length, mean[:, None].astype(dtype))


def resampling(
    rng: np.random.Generator, num_blocks: int, num_bootstrap: int
) -> Int[np.ndarray, "draw block"]:
    """How often each block occurs: once in draw 0, the data; at random in the others."""
    drawn = rng.multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), num_bootstrap)
    return np.concatenate([np.ones((1, num_blocks), int), drawn])


class Shape(NamedTuple):
    """Sums over each block, of normalised activity: of powers 0 to 4, and counts in bins."""

    powers: Float[np.ndarray, "block 5 unit"]
    counts: Float[np.ndarray, "block bin"]

    @classmethod
    def of(cls, z: Float[np.ndarray, "unit time"]) -> "Shape":
        """Of one block, without its axis."""
        square = z * z
        counts, _ = np.histogram(z, len(EDGES) - 1, (EDGES[0], EDGES[-1]))
        powers = [
            np.full(len(z), z.shape[1], float),
            z.sum(axis=1, dtype=float),
            square.sum(axis=1, dtype=float),
            np.einsum("it,it->i", square, z),
            np.einsum("it,it->i", square, square),
        ]
        return cls(np.stack(powers), counts.astype(float))

    def kurtosis(self, weights: Int[np.ndarray, "draw block"]) -> Float[np.ndarray, " draw"]:
        """Excess kurtosis, mean over units; of a unit that does not change there is none."""
        count, *sums = np.moveaxis(np.einsum("sb,bpu->spu", weights, self.powers), 1, 0)
        m1, m2, m3, m4 = (x / count for x in sums)
        variance = m2 - m1**2
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        moved = variance > 1e-6  # of the normalised activity, whose variance is 1 or 0
        ratio = np.where(moved, fourth / np.where(moved, variance, 1) ** 2 - 3, 0)
        number = moved.sum(axis=1)
        return np.where(number > 0, ratio.sum(axis=1) / np.maximum(number, 1), np.nan)

    def density(self, weights: Int[np.ndarray, "draw block"]) -> Float[np.ndarray, "draw bin"]:
        """Of the normalised activity of all units, per standard deviation."""
        total = weights @ self.powers[:, 0].sum(axis=1)
        return weights @ self.counts / total[:, None] / np.diff(EDGES)[None]


def stack(shapes: list[Shape]) -> Shape:
    return Shape(*(np.stack(parts) for parts in zip(*shapes, strict=True)))
