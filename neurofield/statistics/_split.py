"""Held-out data: a raster cut in blocks for train, test and cross-validation folds."""

from typing import NamedTuple, overload

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from neurofield.recording import Raster


class Split(eqx.Module):
    """Train and test data, the leading axis the block; covariates `[block, covariate, time]`."""

    train: Raster
    test: Raster
    train_covariates: Float[Array, "train covariate train_time"] | None = None
    test_covariates: Float[Array, "test covariate test_time"] | None = None


class _Block(NamedTuple):
    """`length` bins from bin `first` of epoch `epoch`; `run` numbers the unbroken stretch."""

    epoch: int
    first: int
    length: int
    run: int


@overload
def split_blocks(
    raster: Raster,
    block_duration: float | int | None,
    *,
    test_fraction: float = 0.2,
    num_folds: None = None,
    gap: float | int = 0.0,
    covariates: ArrayLike | None = None,
) -> Split: ...


@overload
def split_blocks(
    raster: Raster,
    block_duration: float | int | None,
    *,
    num_folds: int,
    gap: float | int = 0.0,
    covariates: ArrayLike | None = None,
) -> list[Split]: ...


def split_blocks(
    raster: Raster,
    block_duration: float | int | None,
    *,
    test_fraction: float = 0.2,
    num_folds: int | None = None,
    gap: float | int = 0.0,
    covariates: ArrayLike | None = None,
) -> Split | list[Split]:
    """Cut a raster into blocks and share them between train and test (host function).

    Test blocks are spread evenly, so that slow drift touches both sets alike; nothing is drawn at
    random. Blocks never cross the end of an epoch (leading axis) nor a bin that the mask calls
    invalid; a block that such an edge cuts short is padded with zeros and masked.

    **Arguments**

    - `block_duration`: seconds, rounded to whole bins. `None`: every trial (leading axis) is one
      block, whole, its mask as it was.
    - `test_fraction`: share of the blocks that are tested.
    - `num_folds`: return this many splits instead; their test sets partition the blocks (block i
      is tested in fold i modulo `num_folds`).
    - `gap`: seconds of train data dropped on either side of a test block that it touches.
    - `covariates`: `[..., covariate, time]` with the raster's leading axes, cut alike.

    **Returns** `Split(train, test, train_covariates, test_covariates)`, or a list of them.
    """
    spikes, mask, start, covariates = _flatten_epochs(raster, covariates)
    if block_duration is None:
        if raster.spikes.ndim == 2:
            raise ValueError(
                "block_duration=None splits whole trials, but this raster has no leading axis; "
                "give block_duration in seconds."
            )
        length = raster.num_bins
        blocks = [_Block(e, 0, length, e) for e in range(len(spikes)) if mask[e].any()]
    else:
        length = round(block_duration / raster.bin_width)
        if length < 1:
            raise ValueError(
                f"block_duration must be at least one bin ({raster.bin_width} s), got "
                f"{block_duration} s."
            )
        blocks = _cut(mask, min(length, raster.num_bins))
    gap_bins = int(np.ceil(gap / raster.bin_width - 1e-9))
    if gap_bins < 0:
        raise ValueError(f"gap must not be negative, got {gap} s.")

    def one_split(test_indices: np.ndarray) -> Split:
        is_test = np.zeros(len(blocks), bool)
        is_test[test_indices] = True
        test = [block for block, tested in zip(blocks, is_test, strict=True) if tested]
        train = _train_blocks(blocks, is_test, gap_bins)
        if not train:
            raise ValueError(f"a gap of {gap} s leaves nothing to train on; use a shorter one.")
        parts = [_gather(raster, part, spikes, mask, start, covariates) for part in (train, test)]
        return Split(parts[0][0], parts[1][0], parts[0][1], parts[1][1])

    count = len(blocks)
    if num_folds is None:
        if not 0 < test_fraction < 1:
            raise ValueError(f"test_fraction must be between 0 and 1, got {test_fraction}.")
        if count < 2:
            raise ValueError(
                f"{count} block(s) of {block_duration} s cannot be shared between train and test; "
                "use a shorter block_duration."
            )
        num_test = int(np.clip(round(test_fraction * count), 1, count - 1))
        return one_split(((np.arange(num_test) + 0.5) * count / num_test).astype(int))
    if not 2 <= num_folds <= count:
        raise ValueError(
            f"num_folds must be from 2 to the number of blocks ({count}), got {num_folds}."
        )
    return [one_split(np.arange(fold, count, num_folds)) for fold in range(num_folds)]


def _flatten_epochs(raster: Raster, covariates: ArrayLike | None):
    *batch, num_neurons, num_bins = raster.spikes.shape
    spikes = np.asarray(raster.spikes).reshape(-1, num_neurons, num_bins)
    mask = np.ones((*batch, num_bins), bool) if raster.mask is None else np.asarray(raster.mask)
    start = None if raster.start is None else np.asarray(raster.start).reshape(-1)
    if covariates is not None:
        covariates = np.asarray(covariates)
        expected = (*batch, num_bins)
        if covariates.ndim != len(batch) + 2 or expected != (
            *covariates.shape[:-2],
            covariates.shape[-1],
        ):
            raise ValueError(
                "covariates must be [..., covariate, time] with the raster's leading axes and "
                f"time, {(*batch, 'covariate', num_bins)}, got {covariates.shape}."
            )
        covariates = covariates.reshape(-1, *covariates.shape[-2:])
        covariates = covariates if covariates.dtype.kind == "f" else covariates.astype(float)
    return spikes, mask.reshape(-1, num_bins), start, covariates


def _cut(mask: np.ndarray, length: int) -> list[_Block]:
    blocks = []
    run = 0
    for epoch, valid in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]])))
        for first, end in edges.reshape(-1, 2).tolist():
            blocks += [
                _Block(epoch, t, min(length, end - t), run) for t in range(first, end, length)
            ]
            run += 1
    return blocks


def _train_blocks(blocks: list[_Block], is_test: np.ndarray, gap: int) -> list[_Block]:
    """The blocks that are not tested, less `gap` bins wherever a test block is nearer than that."""
    kept = []
    for i, block in enumerate(blocks):
        if is_test[i]:
            continue
        first, end = block.first, block.first + block.length
        # A gap may be longer than the blocks between it and the test block, so look at all.
        for other, tested in zip(blocks, is_test, strict=True):
            if tested and gap and other.run == block.run:
                if other.first < block.first:
                    first = max(first, other.first + other.length + gap)
                else:
                    end = min(end, other.first - gap)
        if first < end:
            kept.append(_Block(block.epoch, first, end - first, block.run))
    return kept


def _gather(
    raster: Raster,
    blocks: list[_Block],
    spikes: np.ndarray,
    mask: np.ndarray,
    start: np.ndarray | None,
    covariates: np.ndarray | None,
) -> tuple[Raster, Array | None]:
    length = max(block.length for block in blocks)
    block_spikes = np.zeros((len(blocks), raster.num_neurons, length), spikes.dtype)
    block_mask = np.zeros((len(blocks), length), bool)
    block_covariates = None
    if covariates is not None:
        block_covariates = np.zeros((len(blocks), covariates.shape[1], length), covariates.dtype)
    for row, block in enumerate(blocks):
        window = slice(block.first, block.first + block.length)
        block_spikes[row, :, : block.length] = spikes[block.epoch, :, window]
        block_mask[row, : block.length] = mask[block.epoch, window]
        if covariates is not None and block_covariates is not None:
            block_covariates[row, :, : block.length] = covariates[block.epoch, :, window]
    block_start = None
    if start is not None:
        block_start = np.array([start[b.epoch] + b.first * raster.bin_width for b in blocks])
    part = Raster(
        block_spikes,
        raster.bin_width,
        mask=None if block_mask.all() else block_mask,
        start=block_start,
        populations=raster.populations,
        labels=raster.labels,
        population_names=raster.population_names,
    )
    return part, None if block_covariates is None else jax.numpy.asarray(block_covariates)
