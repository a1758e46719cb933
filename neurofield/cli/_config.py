"""What runs of `neurofield fit` and `flow` are made of, and their TOML files."""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Model = Literal["independent", "pairwise", "lattice", "kinetic"]
MODELS: tuple[Model, ...] = ("independent", "pairwise", "lattice", "kinetic")
Device = Literal["cpu", "gpu", "tpu"]
Inference = Literal["lagged", "var", "whitened", "latent", "partial", "likelihood"]
GraphNull = Literal["configuration", "erdos_renyi", "weights", "strength"]
DEFAULT_BIN_WIDTH = 0.02

_several = Parameter(consume_multiple=True, negative=())


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """What is taken of a recording, and how it is computed."""

    bin_width: float | None = None
    """Bin width in seconds: 0.02, or the file's own if it holds a raster."""

    epochs: Annotated[list[str] | None, _several] = None
    """Epochs by name, or intervals START:STOP in seconds; all by default."""

    units: Annotated[list[str] | None, _several] = None
    """Units by label or index, or the name of one region; all by default."""

    time_unit: str | None = None
    """Unit of the file's spike times: s, ms, us, or ticks per second as a number."""

    seed: int = 0
    """Seed of all random draws."""

    device: Device | None = None
    """Where to compute; JAX's first choice by default."""

    def without(self, *names: str) -> dict[str, Any]:
        """The settings as JSON-able values, less some."""
        settings = dataclasses.asdict(self)
        return {name: value for name, value in settings.items() if name not in names}


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class FitConfig(SourceConfig):
    """All that decides the result of a run of `fit`, besides the data."""

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


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class FlowConfig(SourceConfig):
    """All that decides the result of a run of `flow`, besides the data."""

    method: Inference = "var"
    """How the graph of a recording is inferred."""

    num_surrogates: int = 100
    """Surrogates that each pair is tested against; 0 keeps all pairs (as likelihood does)."""

    coarsening: Literal["linkage", "threshold", "wilson", "equilibrium"] = "linkage"
    """How a graph is coarse-grained."""

    diffusion_time: float | None = None
    """Diffusion time of every level; by default each level's own scale, if it has one."""

    graph_null: Annotated[list[GraphNull], _several] = dataclasses.field(
        default_factory=lambda: ["configuration"]
    )
    """Graphs that the graph's flow is held against."""

    space: Literal["real", "momentum"] = "real"
    """Activity is coarse-grained by summing correlated pairs, or by keeping leading modes."""

    block_duration: float | None = None
    """Seconds of the blocks that errors of activity are resampled by; a fortieth by default."""

    num_bootstrap: int = 100
    """Resamples of these blocks."""


def to_toml(source: str, config: SourceConfig, version: str) -> str:
    """A file that the command's `--config` takes; settings that are `None` are left out."""
    settings = {"source": source, **config.without()}
    command = "flow" if isinstance(config, FlowConfig) else "fit"
    lines = [
        f"# neurofield {version}: run again with  neurofield {command} --config THIS_FILE --out DIR"
    ]
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
