"""The table that a run prints."""

from typing import Any

from ._models import Row


def print_table(summary: dict[str, Any], rows: list[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    pseudo = any(row.pseudo is not None for row in rows)
    config = summary["config"]
    table = Table(
        title=f"Held-out scores: {summary['num_units']} units, bins of "
        f"{1e3 * config['bin_width']:g} ms",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("model", no_wrap=True)
    for name in ("params", "bits per bin", "bits per spike", "over row above"):
        table.add_column(name, justify="right", no_wrap=True)
    if pseudo:
        table.add_column("pseudo bits/bin*", justify="right", no_wrap=True)
    for name in ("KS", "steps", "seconds", "fit"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        s = row.score
        cells = [row.model, str(row.num_parameters)]
        cells += ["n/a", "n/a"] if s is None else [
            _with_error(float(s.bits_per_bin), float(s.bits_per_bin_error)),
            "0 (reference)"
            if row.model == "independent"
            else _with_error(float(s.bits_per_spike), float(s.bits_per_spike_error)),
        ]  # fmt: skip
        cells.append("" if row.step is None else _with_error(*row.step))
        if pseudo:
            cells.append("n/a" if row.pseudo is None else _with_error(*row.pseudo))
        cells.append("n/a" if row.distance is None else f"{row.distance:.2f}")
        seconds = f"({row.seconds:.1f})" if row.resumed else f"{row.seconds:.1f}"
        cells += [str(int(row.fit.stats["num_steps"])), seconds]
        cells.append("ok" if row.result == "ok" else "failed")
        table.add_row(*cells)
    console = Console(highlight=False)
    # A pipe has no width of its own; rich's guess of 80 would cut the columns.
    console.print(table) if console.is_terminal else Console(highlight=False, width=120).print(
        table
    )
    print(_legend(summary, rows, pseudo))


def _legend(summary: dict[str, Any], rows: list[Row], pseudo: bool) -> str:
    config = summary["config"]
    scored = next((row.score for row in rows if row.score is not None), None)
    lines = []
    if scored is not None:
        lines.append(
            f"Scored on {scored.num_bins} held-out bins with {scored.num_spikes} spikes; trained "
            f"on {summary['num_train_bins']} bins. Errors are one standard error."
        )
    lines += [
        "bits per bin: mean log2-likelihood of a bin given the past, summed over units.",
        "bits per spike: gain over the independent model, divided by the spikes;",
        "over row above: the same over the model above, with the error of that difference.",
        "KS: time-rescaling distance from a perfect model, mean over units (0 is perfect).",
        f"Penalty l2 = {config['l2']:g}" + (", Firth's penalty" if config["firth"] else "")
        + "; seconds include compilation"
        + (" (in brackets: of an earlier run)." if any(row.resumed for row in rows) else "."),
    ]  # fmt: skip
    if config["covariate"] is not None:
        lines.append(f"The kinetic model is driven by {config['covariate']}; the others are not.")
    if pseudo:
        lines.append(
            "* log2 P(x_i | all other sites) summed over units: not a likelihood, since it sees "
            "the future and counts shared structure twice. Compare it within its column alone."
        )
    lines += [f"{row.why_no_score}." for row in rows if row.why_no_score]
    lines.append(f"Written to {summary['out']}: {', '.join(summary['files'])}")
    lines.append(f"{summary['seconds']:.0f} s in all.")
    return "\n".join(lines)


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}"
