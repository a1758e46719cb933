"""From the SOURCE argument to train and test rasters."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from neurofield.recording import (
    Activity,
    Graph,
    Raster,
    Recording,
    RecordingWarning,
    bin_covariate,
    bin_spikes,
    example,
    raster_bytes,
    read,
    select,
)
from neurofield.statistics import Split, split_blocks

from ._config import DEFAULT_BIN_WIDTH, FitConfig, SourceConfig
from ._log import Log

_INTERVAL = re.compile(r"\s*(-?[\d.]+(?:e-?\d+)?)\s*:\s*(-?[\d.]+(?:e-?\d+)?)\s*", re.IGNORECASE)


def name_of(source: str) -> str:
    return Path(source).name.split(".")[0] or "recording"


def resolve(source: str) -> str:
    """A path made absolute; the name of an example as it is."""
    is_name = Path(source).name == source and not Path(source).exists()
    return source if is_name else str(Path(source).expanduser().absolute())


def open_source(
    source: str, *, time_unit: str | None, bin_width: float | None, log: Log
) -> Recording | Raster:
    """The recording or raster that SOURCE names. Raises `ValueError` for anything else."""
    with log.noting(RecordingWarning):
        data = open_any(source, time_unit, bin_width)
    if isinstance(data, Activity | Graph):
        raise ValueError(
            f"{source} holds {'real-valued activity' if isinstance(data, Activity) else 'a graph'},"
            " not spikes: binarise it in Python (neurofield.recording.Raster) first."
        )
    return data


def open_any(source: str, time_unit: str | None, bin_width: float | None) -> Any:
    """An example, or whatever `recording.read` makes of a file."""
    # Examples are plain words; a file with such a name is reached by ./name.
    if Path(source).name == source and "." not in source:
        try:
            return example(source)
        except ValueError as error:
            if not Path(source).exists():
                raise ValueError(f"no file is named {source!r}, and {error}") from None
    ticks: str | float | None = time_unit
    if time_unit is not None and re.fullmatch(r"[\d.]+(e\d+)?", time_unit):
        ticks = float(time_unit)
    return read(source, time_unit=ticks, bin_width=bin_width)


@dataclasses.dataclass(frozen=True)
class Data:
    """`raster` is all of it; `split` what models are trained and tested on."""

    raster: Raster
    split: Split
    recording: Recording | None
    dropped: tuple[str, ...]
    fingerprint: str

    @property
    def num_train_bins(self) -> int:
        return _num_bins(self.split.train)

    @property
    def num_test_bins(self) -> int:
        return _num_bins(self.split.test)


def load_data(source: str, config: FitConfig, log: Log) -> tuple[Data, FitConfig]:
    """The data of a run, and the configuration with the bin width that they have."""
    wanted = DEFAULT_BIN_WIDTH if config.bin_width is None else config.bin_width
    opened = open_source(source, time_unit=config.time_unit, bin_width=wanted, log=log)
    covariates = None
    epochs = epochs_of(config.epochs)
    recording = opened if isinstance(opened, Recording) else None
    if config.covariate is not None:
        if recording is None:
            raise ValueError(f"--covariate needs spike times, but {source} holds a raster.")
        if config.covariate not in recording.covariates:
            raise ValueError(
                f"no covariate is named {config.covariate!r}; the recording has "
                f"{list(recording.covariates)}."
            )
        epochs = recording.covariates[config.covariate].support if epochs is None else epochs
    raster = raster_of(opened, source, config, epochs, log)
    if config.covariate is not None and recording is not None:
        covariates = bin_covariate(recording, config.covariate, raster)
    split = split_blocks(
        raster,
        config.block_duration,
        test_fraction=config.test_fraction,
        covariates=covariates,
    )
    split, dropped = _drop_constant(split)
    if dropped:
        log.note(
            f"unit {', '.join(dropped)} left out: the same in every training bin, so that nothing "
            "can be learned of it."
        )
        keep = [label for label in raster.labels if label not in dropped]
        raster = select(raster, units=keep)
    data = Data(raster, split, recording, dropped, _fingerprint(split))
    return data, dataclasses.replace(config, bin_width=float(raster.bin_width))


def raster_of(
    opened: Recording | Raster, source: str, config: SourceConfig, epochs: Any, log: Log
) -> Raster:
    """The chosen units of a recording in bins, or of a raster that is in bins already."""
    if isinstance(opened, Recording):
        wanted = DEFAULT_BIN_WIDTH if config.bin_width is None else config.bin_width
        units = _units(config.units, opened)
        size = raster_bytes(opened, wanted, epochs=epochs, units=units)
        log.detail(f"the raster takes {size / 1e6:.1f} MB")
        with log.noting(RecordingWarning):
            return bin_spikes(opened, wanted, epochs=epochs, units=units)
    if config.epochs is not None:
        raise ValueError(f"--epochs needs spike times, but {source} holds a raster.")
    if config.bin_width not in (None, opened.bin_width):
        raise ValueError(
            f"{source} holds a raster in bins of {opened.bin_width:g} s, which cannot be "
            f"changed to {config.bin_width:g} s: leave out --bin-width."
        )
    if config.units is None:
        return opened
    return select(opened, units=_units(config.units, None, opened.labels))


def epochs_of(given: list[str] | None) -> Any:
    """Names, or intervals in seconds, as `bin_spikes` takes them."""
    if given is None:
        return None
    matches = [(_INTERVAL.fullmatch(text), text) for text in given]
    chosen = [(float(m[1]), float(m[2])) if m else text for m, text in matches]
    return chosen[0] if len(chosen) == 1 else chosen


def _units(
    given: list[str] | None, recording: Recording | None, labels: tuple[str, ...] = ()
) -> Any:
    """Labels first, then indices; one name that is neither may be a region."""
    if given is None:
        return None
    labels = labels if recording is None else recording.labels
    chosen = [int(u) if u not in labels and u.isdigit() else u for u in given]
    return chosen[0] if len(chosen) == 1 and isinstance(chosen[0], str) else chosen


def _num_bins(raster: Raster) -> int:
    return int(np.prod(raster.spikes.shape[:-2], dtype=int) * raster.num_bins) if (
        raster.mask is None
    ) else int(np.sum(np.asarray(raster.mask)))  # fmt: skip


def _drop_constant(split: Split) -> tuple[Split, tuple[str, ...]]:
    """Leave out units that are silent, or always active, in all training bins."""
    active = np.asarray(split.train.spikes > 0).sum(axis=(0, 2))
    keep = np.flatnonzero((active > 0) & (active < _num_bins(split.train)))
    labels = split.train.labels
    if len(keep) == len(labels):
        return split, ()
    if not len(keep):
        raise ValueError("every unit is silent, or active in every bin, of the training blocks.")
    split = dataclasses.replace(
        split, train=select(split.train, units=keep), test=select(split.test, units=keep)
    )
    return split, tuple(label for i, label in enumerate(labels) if i not in set(keep.tolist()))


def _fingerprint(split: Split) -> str:
    """A hash of all that models are fitted to, so that --resume never mixes data."""
    digest = hashlib.sha256()
    for part in (split.train, split.test):
        digest.update(repr((part.spikes.shape, part.bin_width, part.labels)).encode())
        digest.update(np.packbits(np.asarray(part.spikes) > 0).tobytes())
        if part.mask is not None:
            digest.update(np.packbits(np.asarray(part.mask)).tobytes())
    if split.train_covariates is not None:
        digest.update(np.ascontiguousarray(np.asarray(split.train_covariates)).tobytes())
    return digest.hexdigest()
