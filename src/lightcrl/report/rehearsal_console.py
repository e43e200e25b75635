"""Console output of a rehearsal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from lightcrl.report.progress import console
from lightcrl.studies.rehearse import Rehearsal
from lightcrl.studies.rehearse.forecast import Forecast


def print_rehearsal(done: Rehearsal) -> None:
    """Print the parts, the forecast, and what would break."""
    table = Table(title=f"rehearsal of {escape(done.name)}: {done.seconds:.0f} s", title_justify="left")
    for heading in ("part", "seconds", "result"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    for part in done.parts:
        table.add_row(part.name, f"{part.seconds:.1f}", escape(part.outcome))
    console.print(table)
    if done.forecast is not None:
        _print_forecast(done.forecast)
    for note in done.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for problem in done.problems:
        console.print(f"would break: {problem}", markup=False, soft_wrap=True)
    if not done.problems:
        console.print("nothing would break; nothing was left behind")


def _print_forecast(forecast: Forecast) -> None:
    table = Table(title=f"the whole run: {duration(forecast.seconds)}", title_justify="left")
    for heading in ("part", "time", "disk", "counts"):
        table.add_column(heading, justify="left" if heading in ("part", "counts") else "right")
    for modality, each in forecast.encoding.items():
        stored = f", {each.stored:,} of them stored already" if each.stored else ""
        row = duration(each.seconds), size(each.nbytes), f"{each.items:,} items{stored}"
        table.add_row(f"encode {escape(modality)}", *row)
    if forecast.tasks:
        table.add_row("encode tasks", duration(forecast.tasks), "", "")
    for name, (rate, seeds) in forecast.training.items():
        counts = (
            f"{seeds} x {rate.plan.steps:,} steps of {rate.plan.batch_size:,} groups, {rate.evaluations} evaluations"
        )
        table.add_row(f"train {escape(name)}", duration(rate.seconds * seeds), "", counts)
    table.add_row("checkpoints and logs", "", size(forecast.run_bytes), "")
    console.print(table)
    held = "all features" if forecast.held else "a window of the features"
    console.print(
        f"disk {size(forecast.feature_bytes + forecast.run_bytes)}, memory about {size(forecast.memory)} ({held})"
    )


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(12.3), duration(600), duration(7260)
    ('12 s', '10 min', '2.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Format a number of bytes.

    >>> size(1500), size(3 * 2**30)
    ('0.0 MiB', '3.0 GiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
