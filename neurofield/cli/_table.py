"""The table that a run prints."""

from typing import Any

from ._models import Row

# Left out in this order where the terminal is narrow; scores.csv holds them all.
_OPTIONAL = ("KS", "params", "steps", "over row above", "seconds")


def print_table(summary: dict[str, Any], rows: list[Row]) -> None:
    from rich.console import Console

    pseudo = any(row.pseudo is not None for row in rows)
    columns = _columns(summary, rows, pseudo)
    console = Console(highlight=False)
    # A pipe has no width of its own.
    console = console if console.is_terminal else Console(highlight=False, width=160)
    # Measured against a wide console, since a table never asks for more than there is.
    ruler = Console(width=1000)
    for name in _OPTIONAL:
        if ruler.measure(_table(summary, columns)).maximum > console.width:
            del columns[name]
    console.print(_table(summary, columns))
    print(_legend(summary, rows, columns))


def _columns(summary: dict[str, Any], rows: list[Row], pseudo: bool) -> dict[str, list[str]]:
    def score(row: Row, name: str) -> str:
        if row.score is None:
            return "n/a"
        value, error = getattr(row.score, name), getattr(row.score, f"{name}_error")
        return _with_error(float(value), float(error))

    columns = {
        "model": [row.model for row in rows],
        "params": [str(row.num_parameters) for row in rows],
        "bits per bin": [score(row, "bits_per_bin") for row in rows],
        "bits per spike": [
            "0 (reference)" if row.model == "independent" else score(row, "bits_per_spike")
            for row in rows
        ],
        "over row above": ["" if row.step is None else _with_error(*row.step) for row in rows],
        "pseudo bits/bin*": [
            "n/a" if row.pseudo is None else _with_error(*row.pseudo) for row in rows
        ],
        "KS": ["n/a" if row.distance is None else f"{row.distance:.2f}" for row in rows],
        "steps": [str(int(row.fit.stats["num_steps"])) for row in rows],
        "seconds": [
            f"({row.seconds:.1f})" if row.resumed else f"{row.seconds:.1f}" for row in rows
        ],
        "fit": ["ok" if row.result == "ok" else "failed" for row in rows],
    }
    if not pseudo:
        del columns["pseudo bits/bin*"]
    return columns


def _table(summary: dict[str, Any], columns: dict[str, list[str]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"Held-out scores: {summary['num_units']} units, bins of "
        f"{1e3 * summary['config']['bin_width']:g} ms",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for name in columns:
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _legend(summary: dict[str, Any], rows: list[Row], columns: dict[str, list[str]]) -> str:
    config = summary["config"]
    scored = next((row.score for row in rows if row.score is not None), None)
    lines = []
    if scored is not None:
        lines.append(
            f"Scored on {scored.num_bins} held-out bins with {scored.num_spikes} spikes; trained "
            f"on {summary['num_train_bins']} bins. Errors are one standard error."
        )
    explained = {
        "bits per bin": "mean log2-likelihood of a bin given the past, summed over units",
        "bits per spike": "gain over the independent model, divided by the spikes",
        "over row above": "the same over the model above, with the error of that difference",
        "KS": "time-rescaling distance from a perfect model, mean over units (0 is perfect)",
        "pseudo bits/bin*": "log2 P(x_i | all other sites) summed over units; not a likelihood: it "
        "sees the future and counts shared structure twice, so compare it in its column alone",
    }
    lines += [f"{name}: {text}." for name, text in explained.items() if name in columns]
    resumed = " (in brackets: of an earlier run)" if any(row.resumed for row in rows) else ""
    penalty = f"l2 = {config['l2']:g}" + (" and Firth's" if config["firth"] else "")
    lines.append(f"Penalty: {penalty}. Seconds include compilation{resumed}.")
    if config["covariate"] is not None:
        lines.append(f"The kinetic model is driven by {config['covariate']}; the others are not.")
    lines += [f"{row.why_no_score}." for row in rows if row.why_no_score]
    lines.append(f"Written to {summary['out']}: {', '.join(summary['files'])}")
    lines.append(f"{summary['seconds']:.0f} s in all.")
    return "\n".join(lines)


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}"
