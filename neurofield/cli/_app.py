"""The commands, and how their errors reach the user. Nothing here imports jax at the top."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Dict

from neurofield import __version__

from ._config import Device, FitConfig, FlowConfig, read_toml
from ._log import Log

_flag = Parameter(negative=())
Verbose = Annotated[bool, Parameter(alias="-v", negative=())]
Json = Annotated[bool, Parameter(name="--json", negative=())]


def _config_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill what the command line leaves open from the TOML file that it names."""
    for argument in arguments:
        if argument.name == "--config" and argument.tokens:
            path = Path(argument.tokens[-1].value)
            settings = read_toml(path)
            config = FlowConfig if commands == ("flow",) else FitConfig
            ours = set(config.__dataclass_fields__) | {"source", "out"}
            unknown = [key for key in settings if key.replace("-", "_") not in ours]
            if unknown:
                raise ValueError(
                    f"{path} holds unknown keys {unknown}; known are "
                    f"{sorted(key.replace('_', '-') for key in ours)}."
                )
            settings = {key.replace("_", "-"): value for key, value in settings.items()}
            Dict(settings, use_commands_as_keys=False, source=str(path))(app, commands, arguments)


Task = Literal["solve", "sweep", "bifurcation"]
_several = Parameter(consume_multiple=True, negative=())

app = App(
    name="neurofield",
    help="Fit field theories of neural activity to recordings, simulate networks of neurons, "
    "reduce them to equations of their populations, and coarse-grain activity and graphs.",
    help_epilogue="Exit codes: 0 done; 1 the run failed (a fit did not converge, a file could not "
    "be written); 2 wrong usage or unusable input; 130 interrupted.",
    version=__version__,
    config=_config_file,
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)


@app.command
def fit(
    source: str,
    *,
    config: FitConfig | None = None,
    out: Path | None = None,
    overwrite: Annotated[bool, _flag] = False,
    resume: Annotated[bool, _flag] = False,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    json: Json = False,
    quiet: Annotated[bool, Parameter(alias="-q", negative=())] = False,
    verbose: Verbose = False,
) -> int:
    """Fit models to a recording and compare them on held-out blocks.

    Writes the resolved configuration, each fit, the scores and the figures to a folder, and prints
    a table. Computes in float64.

    Parameters
    ----------
    source
        head_direction (ships with the package), or the path of a recording: NWB, Phy/Kilosort,
        .npz, .csv, and what Neo reads.
    out
        Folder for the results; by default neurofield-out/<name of the source>.
    overwrite
        Write into a folder that holds an earlier run.
    resume
        Go on in a folder with the same settings: models already fitted there are not refitted.
    config_file
        A TOML file of settings; options on the command line win over it.
    json
        Print one JSON object instead of the table.
    quiet
        No progress.
    verbose
        More progress, and tracebacks of errors.
    """
    from ._job import run_fit

    del config_file  # _config_file has read it
    log = Log(quiet=quiet, verbose=verbose)
    return run_fit(
        source, config or FitConfig(), out, overwrite=overwrite, resume=resume, json=json, log=log
    )


@app.command
def info(
    file: str,
    *,
    bin_width: float = 0.02,
    time_unit: str | None = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Say what a recording holds: units, rates, epochs, covariates, and how fine bins must be.

    Parameters
    ----------
    file
        As for fit: head_direction or a path.
    bin_width
        Bin width in seconds of the raster whose size is told.
    time_unit
        Unit of the file's spike times: s, ms, us, or ticks per second as a number.
    json
        Print one JSON object.
    verbose
        Tracebacks of errors.
    """
    from ._info import run_info

    return run_info(file, bin_width, time_unit, json=json, log=Log(verbose=verbose))


@app.command
def simulate(
    config: str | None = None,
    /,
    *,
    list_: Annotated[bool, Parameter(name="--list", negative=())] = False,
    scale: float | None = None,
    duration: float | None = None,
    warm_up: float | None = None,
    dt: float | None = None,
    bin_width: float | None = None,
    seed: int | None = None,
    device: Device | None = None,
    x64: Annotated[bool | None, _flag] = None,
    out: Path | None = None,
    overwrite: Annotated[bool, _flag] = False,
    resume: Annotated[bool, _flag] = False,
    json: Json = False,
    quiet: Annotated[bool, Parameter(alias="-q", negative=())] = False,
    verbose: Verbose = False,
) -> int:
    """Simulate a network that a TOML file describes.

    Writes the resolved configuration, the raster, traces, statistics and figures to a folder, and
    prints the rate of each population. Options win over the file.

    Parameters
    ----------
    config
        A TOML file, or the name of a configuration that ships with the package (--list).
    list_
        Name the configurations that ship with the package.
    scale
        Share of the neurons and in-degrees that is kept, with stronger weights and a constant input
        that keep the mean and the variance of each neuron's input.
    duration
        Seconds to record.
    warm_up
        Seconds before the recording.
    dt
        Step in seconds.
    bin_width
        Bin width of the raster in seconds.
    seed
        Seed of connections, initial states and noise.
    device
        Where to compute; JAX's first choice by default.
    x64
        Compute in float64.
    out
        Folder for the results; by default neurofield-out/<name of the configuration>.
    overwrite
        Write into a folder that holds an earlier run.
    resume
        Go on in a folder with the same settings, from the last checkpoint.
    json
        Print one JSON object instead of the table.
    quiet
        No progress.
    verbose
        Tracebacks of errors.
    """
    from ._simulate import list_configs, run_simulate

    if list_:
        return list_configs(json=json)
    if config is None:
        raise ValueError("simulate needs a TOML file or a name; --list tells the names.")
    overrides = {
        "duration": duration,
        "warm_up": warm_up,
        "dt": dt,
        "bin_width": bin_width,
        "seed": seed,
        "device": device,
        "x64": x64,
    }
    log = Log(quiet=quiet, verbose=verbose)
    return run_simulate(
        config, overrides, scale, out, overwrite=overwrite, resume=resume, json=json, log=log
    )


@app.command
def markov(
    config: str | None = None,
    /,
    *,
    list_: Annotated[bool, Parameter(name="--list", negative=())] = False,
    task: Annotated[list[Task] | None, _several] = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    seed: int | None = None,
    device: Device | None = None,
    x64: bool | None = None,
    out: Path | None = None,
    overwrite: Annotated[bool, _flag] = False,
    json: Json = False,
    quiet: Annotated[bool, Parameter(alias="-q", negative=())] = False,
    verbose: Verbose = False,
) -> int:
    """Reduce a network that a TOML file describes to equations of its populations.

    Solves them, sweeps parameters, or follows equilibria and cycles to their bifurcations; writes
    the resolved configuration, the results and figures to a folder, and prints them. Options win
    over the file.

    Parameters
    ----------
    config
        A TOML file, or the name of a configuration that ships with the package (--list).
    list_
        Name the configurations that ship with the package.
    task
        What to do, of the tables solve, sweep and bifurcation; by default the file's task, or all
        the tables that it has.
    set_
        KEY=VALUE, a setting such as solve.duration=0.5 or 'parameters."charge[E,I]"=3'; repeatable.
    seed
        Seed of the Markov chain.
    device
        Where to compute; JAX's first choice by default.
    x64
        Compute in float64, the default.
    out
        Folder for the results; by default neurofield-out/<name of the configuration>.
    overwrite
        Write into a folder that holds an earlier run.
    json
        Print one JSON object instead of the table.
    quiet
        No progress.
    verbose
        Tracebacks of errors.
    """
    from ._markov import list_configs, run_markov

    if list_:
        return list_configs(json=json)
    if config is None:
        raise ValueError("markov needs a TOML file or a name; --list tells the names.")
    overrides = {"task": task, "seed": seed, "device": device, "x64": x64}
    log = Log(quiet=quiet, verbose=verbose)
    return run_markov(config, set_ or [], overrides, out, overwrite=overwrite, json=json, log=log)


@app.command
def meanfield(
    config: str | None = None,
    /,
    *,
    list_: Annotated[bool, Parameter(name="--list", negative=())] = False,
    check: Annotated[bool, _flag] = False,
    duration: float | None = None,
    dt: float | None = None,
    method: str | None = None,
    order: str | None = None,
    num_paths: int | None = None,
    seed: int | None = None,
    device: Device | None = None,
    x64: bool | None = None,
    out: Path | None = None,
    overwrite: Annotated[bool, _flag] = False,
    json: Json = False,
    quiet: Annotated[bool, Parameter(alias="-q", negative=())] = False,
    verbose: Verbose = False,
) -> int:
    """Predict means and covariances of a network that a TOML file describes.

    Solves the self-consistent equations of single neurons in Gaussian inputs; writes the resolved
    configuration, the solution and a figure to a folder, and prints a table. Options win over the
    file.

    Parameters
    ----------
    config
        A TOML file, or the name of a configuration that ships with the package (--list).
    list_
        Name the configurations that ship with the package.
    check
        Simulate the network too, and report what disagrees.
    duration
        Seconds of the paths that are drawn, or of the course.
    dt
        Step in seconds.
    method
        stationary, march or relaxation; chosen from the network by default.
    order
        leading, shared or nested: whether and how finite sizes are followed.
    num_paths
        Neurons drawn of each population.
    seed
        Seed of the paths, and of the simulations.
    device
        Where to compute; JAX's first choice by default.
    x64
        Compute in float64, the default.
    out
        Folder for the results; by default neurofield-out/<name of the configuration>.
    overwrite
        Write into a folder that holds an earlier run.
    json
        Print one JSON object instead of the table.
    quiet
        No progress.
    verbose
        Tracebacks of errors.
    """
    from ._meanfield import list_configs, run_meanfield

    if list_:
        return list_configs(json=json)
    if config is None:
        raise ValueError("meanfield needs a TOML file or a name; --list tells the names.")
    overrides = {
        "duration": duration,
        "dt": dt,
        "method": method,
        "order": order,
        "num_paths": num_paths,
        "seed": seed,
        "device": device,
        "x64": x64,
    }
    log = Log(quiet=quiet, verbose=verbose)
    return run_meanfield(config, overrides, check, out, overwrite=overwrite, json=json, log=log)


@app.command
def flow(
    source: str,
    *,
    config: FlowConfig | None = None,
    out: Path | None = None,
    overwrite: Annotated[bool, _flag] = False,
    resume: Annotated[bool, _flag] = False,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    json: Json = False,
    quiet: Annotated[bool, Parameter(alias="-q", negative=())] = False,
    verbose: Verbose = False,
) -> int:
    """Renormalize: a graph by diffusion on it, activity by its own correlations, beside nulls.

    A recording is coarse-grained twice: its activity, and the graph that is inferred from it.
    Writes the resolved configuration, the flows, a table and a figure to a folder, and prints
    exponents, scales and what there is to say of them. Computes in float64.

    Parameters
    ----------
    source
        head_direction, celegans, celegans_gap, calcium or calcium_spikes (which ship with the
        package), the path of a recording as for fit, or that of a graph: a matrix (.csv, .npy,
        .npz; rows are postsynaptic), a list of edges (.csv with columns pre and post, .npz) or
        .graphml.
    out
        Folder for the results; by default neurofield-out/<name of the source>.
    overwrite
        Write into a folder that holds an earlier run.
    resume
        Go on in a folder with the same settings: what is finished there is not done again.
    config_file
        A TOML file of settings; options on the command line win over it.
    json
        Print one JSON object instead of the tables.
    quiet
        No progress.
    verbose
        Tracebacks of errors.
    """
    from ._flow import run_flow

    del config_file  # _config_file has read it
    log = Log(quiet=quiet, verbose=verbose)
    return run_flow(
        source, config or FlowConfig(), out, overwrite=overwrite, resume=resume, json=json, log=log
    )


@app.command
def doctor(*, json: Json = False, verbose: Verbose = False) -> int:
    """Check the installation: versions, devices, precision, compilation cache, one known number.

    Parameters
    ----------
    json
        Print one JSON object.
    verbose
        Tracebacks of errors.
    """
    from ._doctor import run_doctor

    del verbose
    return run_doctor(json=json)


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` by default) and return its exit code.

    0 done; 1 the run failed; 2 wrong usage or unusable input; 130 interrupted. Expected errors
    are one message on stderr, with the traceback only under -v.
    """
    tokens = sys.argv[1:] if tokens is None else list(tokens)
    verbose = any(token in ("-v", "--verbose") for token in tokens)
    return _guarded(lambda: app(tokens, exit_on_error=False, print_error=False), verbose)


def _guarded(command: Callable[[], Any], verbose: bool) -> int:
    try:
        return int(command() or 0)
    except CycloptsError as error:
        return _complain(f"{error}  (neurofield --help lists commands and options.)", 2, verbose)
    except KeyboardInterrupt:
        return _complain(
            "interrupted; what is finished is in the out folder: --resume of fit, simulate and "
            "flow goes on.",
            130,
            False,
        )
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, FileNotFoundError, FileExistsError, IsADirectoryError) as error:
        return _complain(str(error), 2, verbose)
    except FloatingPointError as error:
        return _complain(str(error), 1, verbose)
    except OSError as error:
        code = 2 if error.errno in (errno.EACCES, errno.EPERM, errno.ENOTDIR) else 1
        return _complain(error.strerror or str(error), code, verbose)
    except MemoryError as error:
        return _complain(
            f"out of memory ({error}); take fewer units or neurons, less time or wider bins.",
            1,
            verbose,
        )


def _complain(message: str, code: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    print(f"neurofield: error: {message}", file=sys.stderr)
    return code
