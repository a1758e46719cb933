"""Objects of other libraries, by what they offer: pynapple's TsGroup, Neo's SpikeTrain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._files import provenance
from ._recording import Recording


def read_object(source: Any, *, time_unit: Any, epochs: Any) -> Recording:
    kind = f"{type(source).__module__}.{type(source).__name__}"
    if kind.startswith("pynapple") and type(source).__name__ in ("TsGroup", "Ts"):
        return _read_pynapple(source, epochs)
    if kind.startswith("neo") and type(source).__name__ in ("Block", "Segment"):
        segments = source.segments if type(source).__name__ == "Block" else [source]
        return _read_neo([list(segment.spiketrains) for segment in segments], epochs, {})
    if isinstance(source, Sequence) and not isinstance(source, str) and len(source):
        if all(_is_spike_train(train) for train in source):
            return _read_neo([list(source)], epochs, {})
        return Recording(source, epochs=epochs, time_unit=time_unit)
    if isinstance(source, Mapping) and len(source):
        return Recording(source, epochs=epochs, time_unit=time_unit)
    raise ValueError(
        f"cannot read a {kind}; expected a path, a pynapple TsGroup, Neo SpikeTrains (a list, "
        "Segment or Block), a list of arrays of spike times or a mapping from label to array. "
        "A binary array is a Raster(array, bin_width)."
    )


def _read_pynapple(source: Any, epochs: Any) -> Recording:
    """Times are seconds; epochs are the time support."""
    support = source.time_support
    if epochs is None:
        bounds = np.stack([support["start"], support["end"]], axis=1)
        names = ["support"] if len(bounds) == 1 else [f"support_{i}" for i in range(len(bounds))]
        epochs = [(name, float(a), float(b)) for name, (a, b) in zip(names, bounds, strict=True)]
    record = {"source": "pynapple", "format": "pynapple"}
    if type(source).__name__ == "Ts":
        return Recording([source.t], epochs=epochs, provenance=record)
    columns = list(source.metadata_columns)
    region = next((c for c in ("location", "region", "area") if c in columns), None)
    return Recording(
        [source[unit].t for unit in source.index],
        labels=list(source.index),
        regions=None if region is None else [str(r) for r in source[region]],
        epochs=epochs,
        provenance=record,
    )


def _is_spike_train(train: Any) -> bool:
    return hasattr(train, "t_stop") and hasattr(train, "rescale")


def _read_neo(segments: list[list[Any]], epochs: Any, record: dict[str, Any]) -> Recording:
    """One epoch a segment, from the first t_start to the last t_stop of its trains."""
    segments = [trains for trains in segments if trains]
    if not segments:
        raise ValueError("the Neo object holds no spike trains; a Recording needs them.")
    if len({len(trains) for trains in segments}) > 1:
        raise ValueError(
            f"Neo segments hold {[len(trains) for trains in segments]} spike trains; they must "
            "hold the same units in the same order. Read one segment at a time."
        )

    def seconds(quantity: Any) -> Any:
        return quantity.rescale("s").magnitude

    if epochs is None:
        epochs = [
            (
                f"segment_{i}" if len(segments) > 1 else "segment",
                min(float(seconds(train.t_start)) for train in trains),
                max(float(seconds(train.t_stop)) for train in trains),
            )
            for i, trains in enumerate(segments)
        ]
    num_units = len(segments[0])
    names = [str(train.name or i) for i, train in enumerate(segments[0])]
    return Recording(
        [
            np.concatenate([seconds(trains[unit]) for trains in segments])
            for unit in range(num_units)
        ],
        # Neo's names need not differ.
        labels=names if len(set(names)) == num_units else None,
        epochs=epochs,
        provenance={"source": "neo", "format": "neo", **record},
    )


def read_neo_file(path: Path, *, epochs: Any) -> Recording | None:
    """The spike trains of a file in one of Neo's formats; `None` if Neo knows it not."""
    try:
        import neo
    except ImportError:
        return None
    try:
        reader: Any = neo.get_io(str(path))
    except (OSError, ValueError, AssertionError, KeyError):
        return None
    if type(reader).__name__ == "PickleIO":
        raise ValueError(
            f"{path} is a pickle, which is not read because it can run code. Save it in another "
            "format from Neo, or pass its SpikeTrains to read."
        )
    try:
        blocks = reader.read()
    except Exception as error:  # Neo's many readers raise anything at all
        raise ValueError(f"{path}: Neo's {type(reader).__name__} failed ({error}).") from error
    segments = [list(segment.spiketrains) for block in blocks for segment in block.segments]
    return _read_neo(segments, epochs, provenance(path, f"neo {type(reader).__name__}"))
