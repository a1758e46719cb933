"""What a run of `neurofield fit` is made of, and its TOML file."""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Model = Literal["independent", "pairwise", "lattice", "kinetic"]
MODELS: tuple[Model, ...] = ("independent", "pairwise", "lattice", "kinetic")
Device = Literal["cpu", "gpu", "tpu"]
DEFAULT_BIN_WIDTH = 0.02

_several = Parameter(consume_multiple=True, negative=())


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class FitConfig:
    """All that decides the result of a run, besides the data."""

    bin_width: float | None = None
    """Bin width in seconds: 0.02, or the file's own if it holds a raster."""

    epochs: Annotated[list[str] | None, _several] = None
    """Epochs by name, or intervals START:STOP in seconds; all by default."""

    units: Annotated[list[str] | None, _several] = None
    """Units by label or index, or the name of one region; all by default."""

    models: Annotated[list[Model], _several] = dataclasses.field(
        default_factory=lambda: list(MODELS)
    )
    """Models to fit."""

    num_lags: int = 1
    """Range in bins of the lattice model's own histories and of the kinetic couplings. Over 1 the
    lattice model is fitted by pseudo-likelihood and has no exact score."""

    l2: float = 1.0
    """Penalty l2/2 (coupling)^2 in nats on every coupling: a normal prior of variance 1/l2."""

    firth: Annotated[bool, Parameter(negative=())] = False
    """Firth's penalty, for pairs and histories that never occur in the training data."""

    covariate: str | None = None
    """A covariate of the recording that drives the kinetic model, such as head_direction."""

    block_duration: float = 30.0
    """Seconds in each of the blocks that are shared between training and test."""

    test_fraction: float = 0.2
    """Share of the blocks that are held out."""

    time_unit: str | None = None
    """Unit of the file's spike times: s, ms, us, or ticks per second as a number."""

    seed: int = 0
    """Seed of the draws in the goodness-of-fit test."""

    device: Device | None = None
    """Where to compute; JAX's first choice by default."""

    def without(self, *names: str) -> dict[str, Any]:
        """The settings as JSON-able values, less some."""
        settings = dataclasses.asdict(self)
        return {name: value for name, value in settings.items() if name not in names}


def to_toml(source: str, config: FitConfig, version: str) -> str:
    """A file that `neurofield fit --config` takes; settings that are `None` are left out."""
    settings = {"source": source, **config.without()}
    lines = [f"# neurofield {version}: run again with  neurofield fit --config THIS_FILE --out DIR"]
    lines += [
        f"{name.replace('_', '-')} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in settings.items()
        if value is not None
    ]
    return "\n".join(lines) + "\n"


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file. Raises `ValueError` naming the file if it is not TOML."""
    if not path.is_file():
        raise FileNotFoundError(f"--config: {path} does not exist or is not a file.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}.") from error
