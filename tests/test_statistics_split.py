"""The block splitter: nothing lost, nothing leaked, nothing joined across an edge."""

import numpy as np
import pytest

from neurofield.recording import Raster
from neurofield.statistics import split_blocks

BIN = 0.02


def numbered_raster(num_bins, mask=None, **options):
    """Two neurons whose joint count encodes the bin's index, so that blocks can be traced."""
    index = np.arange(num_bins)
    return Raster(np.stack([index % 256, index // 256]), BIN, mask=mask, **options)


def origin(part):
    """Indices of the valid bins of every block."""
    spikes = np.asarray(part.spikes).astype(int)
    index = spikes[:, 0] + 256 * spikes[:, 1]
    valid = np.ones(index.shape, bool) if part.mask is None else np.asarray(part.mask)
    return [row[keep] for row, keep in zip(index, valid, strict=True)]


def test_train_and_test_share_out_every_bin_once():
    raster = numbered_raster(1030, start=5.0, labels=["a", "b"], populations=np.array([0, 1]))
    split = split_blocks(raster, 100 * BIN)
    assert split.train.spikes.shape == (9, 2, 100)
    assert split.test.spikes.shape == (2, 2, 100)
    blocks = origin(split.train) + origin(split.test)
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(1030))
    assert all((np.diff(block) == 1).all() for block in blocks)
    for part in (split.train, split.test):
        np.testing.assert_allclose(part.start, [5 + BIN * b[0] for b in origin(part)])
        assert part.labels == ("a", "b")
        np.testing.assert_array_equal(part.populations, [0, 1])
    # Evenly spread: the test blocks' mean time is near the middle.
    assert [b[0] for b in origin(split.test)] == [200, 800]
    # The short last block is padded with silence and masked.
    last = next(i for i, b in enumerate(origin(split.train)) if b[0] == 1000)
    assert not np.asarray(split.train.mask)[last, 30:].any()
    assert not np.asarray(split.train.spikes)[last, :, 30:].any()


def test_folds_partition_the_data():
    raster = numbered_raster(1000)
    folds = split_blocks(raster, 100 * BIN, num_folds=5)
    tested = np.concatenate([np.concatenate(origin(fold.test)) for fold in folds])
    np.testing.assert_array_equal(np.sort(tested), np.arange(1000))
    for fold in folds:
        assert fold.train.mask is None
        both = np.concatenate(origin(fold.train) + origin(fold.test))
        np.testing.assert_array_equal(np.sort(both), np.arange(1000))


@pytest.mark.parametrize("gap", [7, 130])
def test_gap_drops_train_bins_near_test_bins(gap):
    raster = numbered_raster(2000)
    whole = split_blocks(raster, 100 * BIN)
    split = split_blocks(raster, 100 * BIN, gap=gap * BIN)
    test = np.concatenate(origin(split.test))
    train = np.concatenate(origin(split.train))
    np.testing.assert_array_equal(test, np.concatenate(origin(whole.test)))
    distance = np.abs(train[:, None] - test[None]).min(axis=1)
    assert distance.min() == gap + 1
    everything = np.setdiff1d(np.arange(2000), test)
    far = everything[np.abs(everything[:, None] - test[None]).min(axis=1) > gap]
    np.testing.assert_array_equal(np.sort(train), far)


def test_blocks_stop_at_epochs_and_invalid_bins_and_carry_covariates():
    rng = np.random.default_rng(0)
    spikes = rng.integers(0, 2, (2, 3, 400))
    mask = np.ones((2, 400), bool)
    mask[0, 130:150] = False
    mask[1, 333:] = False
    covariates = np.stack([np.arange(800.0).reshape(2, 400), rng.normal(size=(2, 400))], axis=1)
    raster = Raster(spikes, BIN, mask=mask, start=np.array([0.0, 100.0]))
    split = split_blocks(raster, 50 * BIN, covariates=covariates, gap=0.1)
    assert split.train_covariates is not None
    assert split.test_covariates is not None
    parts = [(split.train, split.train_covariates), (split.test, split.test_covariates)]
    for part, covariate in parts:
        valid = np.ones(covariate[:, 0].shape, bool) if part.mask is None else part.mask
        for block, inputs, keep, start in zip(
            np.asarray(part.spikes),
            np.asarray(covariate),
            np.asarray(valid),
            part.start,
            strict=True,
        ):
            index = inputs[0, keep].astype(int)
            assert (np.diff(index) == 1).all()
            assert mask.reshape(-1)[index].all()
            epoch, first = divmod(index[0], 400)
            assert start == pytest.approx([0.0, 100.0][epoch] + first * BIN)
            np.testing.assert_array_equal(
                block[:, keep], spikes[epoch][:, first : first + len(index)]
            )


def test_whole_trials():
    rng = np.random.default_rng(1)
    spikes = rng.integers(0, 2, (10, 4, 30))
    mask = rng.random((10, 30)) > 0.1
    split = split_blocks(Raster(spikes, BIN, mask=mask), None, test_fraction=0.3)
    assert split.test.spikes.shape == (3, 4, 30)
    test = [1, 5, 8]
    np.testing.assert_array_equal(split.test.spikes, spikes[test])
    np.testing.assert_array_equal(split.test.mask, mask[test])
    np.testing.assert_array_equal(split.train.spikes, np.delete(spikes, test, axis=0))


def test_split_errors_say_what_to_do():
    raster = numbered_raster(100)
    with pytest.raises(ValueError, match="no leading axis"):
        split_blocks(raster, None)
    with pytest.raises(ValueError, match="shorter block_duration"):
        split_blocks(raster, 10.0)
    with pytest.raises(ValueError, match="at least one bin"):
        split_blocks(raster, 0.001)
    with pytest.raises(ValueError, match="num_folds"):
        split_blocks(raster, 1.0, num_folds=9)
    with pytest.raises(ValueError, match="nothing to train"):
        split_blocks(raster, 1.0, gap=5.0)
    with pytest.raises(ValueError, match="test_fraction"):
        split_blocks(raster, 1.0, test_fraction=1.5)
    with pytest.raises(ValueError, match="covariates must be"):
        split_blocks(raster, 1.0, covariates=np.zeros((2, 50)))
