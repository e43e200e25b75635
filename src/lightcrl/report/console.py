"""Tables of figures on the console."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape
from rich.table import Table

from lightcrl.checkpoint import Checkpoint
from lightcrl.data.base import Rejection
from lightcrl.metrics.result import Result
from lightcrl.pipeline import Model, Run
from lightcrl.recipe import Recipe
from lightcrl.report.progress import console
from lightcrl.sheets import Sheet
from lightcrl.studies.check.advice import advise
from lightcrl.studies.check.check import Check
from lightcrl.studies.check.tables import sheets
from lightcrl.studies.compare import Comparison
from lightcrl.studies.compare.outcome import MAIN, remarks, sentences
from lightcrl.studies.reproduce import Reproduction
from lightcrl.studies.reproduce.outcome import remarks as reproduction_remarks
from lightcrl.studies.reproduce.tables import sheets as reproduction_sheets
from lightcrl.tasks.text_similarity import aligned_spaces

if TYPE_CHECKING:
    from lightcrl.demo import Demo

# Least width, in characters, at which a comparison shows each direction.
WIDE = 120

Figure = tuple[Result, str]
"""A result, and the name of one of its metrics."""


def print_run(run: Run, recipe: Recipe) -> None:
    """Print the tables of a run: every model, mean and deviation over seeds, and the further tasks."""
    names = _shown(run.models[0].retrieval)
    zero_shot = run.models[0].results.get("zero_shot")
    table = Table(title=f"{recipe.name}: {recipe.evaluation.split} split, 95 % intervals over groups")
    table.add_column("method", no_wrap=True)
    table.add_column("seed", justify="right", no_wrap=True)
    for name in names + ["zero-shot/top1"] * bool(zero_shot):
        table.add_column(_heading(name), justify="right", no_wrap=True)

    rows = []
    for model in run.models:
        more = [(model.results["zero_shot"], "top1")] if zero_shot else []
        rows.append((model, [*((model.retrieval, name) for name in names), *more]))
    _add_models(table, rows)
    chance = [result.chance[name] for result, name in rows[0][1]]
    table.add_row("chance", "", *(f"{value:.3f}" for value in chance), style="dim")
    console.print(table)
    label = "text_similarity"
    similarity = [(model, model.results[label]) for model in run.models if label in model.results]
    if similarity:
        _print_similarity(similarity, tuned=bool(recipe.tuning))
    for label in recipe.evaluation.tasks:
        for model in run.models:
            _print_figures(model.results[label], f"{label}: {model.method}, seed {model.seed}")
    console.print(f"model, logs and figures: {run.folder}", soft_wrap=True)


def _add_models(table: Table, rows: Sequence[tuple[Model, Sequence[Figure]]]) -> None:
    """Add a row for each model, and a row with the mean over seeds for each method with several."""
    by_method: dict[str, list[tuple[Model, Sequence[Figure]]]] = defaultdict(list)
    for row in rows:
        by_method[row[0].method].append(row)
    for method, alike in by_method.items():
        label = f"{method}\n[dim]{alike[0][0].parameters / 1e6:.2f} M[/dim]"
        for model, figures in alike:
            seed = f"{model.seed}\n[dim]{model.seconds:.0f} s[/dim]"
            table.add_row(label, seed, *(_with_interval(*figure) for figure in figures))
        if len(alike) > 1:
            columns = zip(*(figures for _, figures in alike), strict=True)
            means = [_over_seeds([result for result, _ in column], column[0][1]) for column in columns]
            table.add_row(method, "mean", *means, style="bold", end_section=True)


def _print_similarity(models: Sequence[tuple[Model, Result]], tuned: bool) -> None:
    """Print a column for each aligned space, and a row for each model and for the frozen encoders.

    Args:
        models: models with their figures.
        tuned: true if encoders were trained too, so that each model has its own.
    """
    first = models[0][1]
    measure, heading = ("accuracy", "accuracy") if first.thresholds else ("spearman", "Spearman correlation")
    alone = aligned_spaces(first)
    table = Table(title=f"text similarity: {heading} on {first.counts['pairs']:,} pairs, 95 % intervals")
    table.add_column("method", no_wrap=True)
    table.add_column("seed", justify="right", no_wrap=True)
    for space in alone:
        table.add_column(space.removeprefix("aligned ").replace("-", "-\n"), justify="right", no_wrap=True)
    rows = [(model, [(result, f"{space}/{measure}") for space in alone]) for model, result in models]
    _add_models(table, rows)
    for model, result in models if tuned else models[:1]:
        label = f"encoders of\n{model.method} {model.seed}" if tuned else "frozen\nencoders"
        table.add_row(label, "", *(_with_interval(result, f"{raw}/{measure}") if raw else "" for raw in alone.values()))
    if measure == "accuracy":
        table.add_row("chance", "", *(f"{first.chance[f'{space}/{measure}']:.3f}" for space in alone), style="dim")
    console.print(table)


def print_demo(done: Demo) -> None:
    """Print the demo's results: every direction beside baseline and chance, an example query, and the page."""
    models = done.run.models
    own = models[0].retrieval
    directions = [name for name in own.metrics if name.endswith("/recall@1")]
    table = Table(title="recall@1 on scenes outside the training data")
    table.add_column("query to result")
    for heading in (*(model.method for model in models), "chance"):
        table.add_column(heading, justify="right")
    for name in (*directions, "mean_recall@1"):
        direction = name.removesuffix("/recall@1").replace("_to_", " to ") if "/" in name else "mean"
        cells = [_with_interval(model.retrieval, name) for model in models]
        table.add_row(direction, *cells, f"{own.chance[name]:.3f}", end_section=name == directions[-1])
    if (zero_shot := models[0].results.get("zero_shot")) is not None:
        table.add_section()
        cells = [_with_interval(model.results["zero_shot"], "top1") for model in models]
        table.add_row(f"zero-shot, {zero_shot.counts['classes']} classes", *cells, f"{zero_shot.chance['top1']:.3f}")
    console.print(table)
    example = done.example
    console.print(f'\n"{escape(example.item.text)}" finds these pictures, each shown as its caption:')
    for hit in (*example.found, *([example.answer] if example.answer else [])):
        mark = "[green]right[/green]" if hit.right else "     "
        console.print(f" {hit.place:3}. {hit.score:.2f} {mark} {escape(hit.item.text)}", soft_wrap=True)
    console.print(f"\nmodel, logs and figures: {done.run.folder} ({done.seconds:.0f} s in all)", soft_wrap=True)
    print_page(done.page or "left out; it needs pip install 'lightcrl[report]'")


def print_comparison(comparison: Comparison) -> None:
    """Print a comparison: the table, sentences on the differences, notes, and recall by number of groups."""
    ranked, split = comparison.ranked, comparison.recipe.evaluation.split
    two = len(comparison.directions) == 2 and console.width >= WIDE
    each = [f"{name}/recall@1" for name in comparison.directions] if two else []
    shown = [MAIN, *each, *comparison.headlines]
    seeds = f"{len(comparison.seeds)} seed" + "s" * (len(comparison.seeds) > 1)
    table = Table(title=f"{comparison.recipe.name}: {split} split, {seeds}, 95 % intervals")
    table.add_column("method", overflow="fold")
    for name in shown:
        table.add_column(_heading(name), justify="right", no_wrap=True)
    table.add_column("minus the\nbest other", justify="right", no_wrap=True)
    table.add_column("\ntraining", justify="right", no_wrap=True)
    for method in ranked:
        cells = [(method.figures[name].mean, method.figures[name].both) for name in shown]
        _, difference = method.rivals.get(MAIN, ("", None))
        versus = f"{difference.mean:+.3f}\n[dim]{difference.word}[/dim]" if difference else ""
        memory = "" if method.memory is None else f"\n[dim]{method.memory / 2**20:,.0f} MiB[/dim]"
        table.add_row(
            f"{escape(method.label)}\n[dim]{method.cells[0].parameters / 1e6:.2f} M[/dim]",
            *(f"{mean:.3f}\n[dim]{low:.3f}-{high:.3f}[/dim]" for mean, (low, high) in cells),
            versus,
            f"{method.seconds:.0f} s{memory}",
        )
    chances = [comparison.chance.get(name) for name in shown]
    table.add_row("chance", *("" if each is None else f"{each:.3f}" for each in chances), "", "", style="dim")
    console.print(table)
    for line in (*sentences(comparison), *remarks(comparison)):
        console.print(line, markup=False)
    for grown in comparison.growth:
        recall = ", ".join(f"{n:,}: {mean:.3f}" for n, mean in zip(grown.sizes, grown.recall.mean(0), strict=True))
        forecast = f"; {grown.forecast.words}" if grown.forecast else ""
        console.print(f"{grown.label} by training groups: {recall}{forecast}.", markup=False)
    console.print(f"figures, models, page: {comparison.folder}", soft_wrap=True, markup=False)


def print_check(check: Check) -> None:
    """Print the tables of a check, then its advice."""
    for sheet in sheets(check):
        print_sheet(sheet)
    console.print()
    for advice in advise(check):
        mark = "[red]![/red]" if advice.urgent else "-"
        console.print(f"{mark} {escape(advice.text)}", soft_wrap=True)
    console.print(f"checked in {check.seconds:.0f} s; nothing was trained", style="dim")


def print_reproduction(done: Reproduction) -> None:
    """Print every table beside the published one, the verdicts on the claims, and the notes."""
    for sheet in reproduction_sheets(done):
        print_sheet(sheet)
    for line in (*done.words(), *reproduction_remarks(done)):
        console.print(line, markup=False)
    console.print(f"tables and models: {done.folder}", soft_wrap=True, markup=False)


def print_result(result: Result, rejected: Sequence[Rejection]) -> None:
    """Print the figures of an evaluation."""
    _print_figures(result, sentence(result.counts))
    _print_rejected(rejected)


def _print_figures(result: Result, title: str) -> None:
    table = Table(title=title)
    for heading in ("metric", "value", "95 % interval", "chance"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, value in result.metrics.items():
        ends = "{:.3f} to {:.3f}".format(*result.interval[name]) if name in result.interval else ""
        table.add_row(name, f"{value:.4g}", ends, f"{result.chance[name]:.4f}" if name in result.chance else "")
    console.print(table)


def sentence(counts: Mapping[str, int]) -> str:
    """Return counts in words; queries and gallery of a direction stand together."""
    parts = []
    for name, count in counts.items():
        direction, slash, end = name.rpartition("/")
        words = direction.replace("_", " ")
        if slash and end == "queries" and f"{direction}/gallery" in counts:
            parts.append(f"{words}: {count:,} queries in a gallery of {counts[f'{direction}/gallery']:,}")
        elif not (end == "gallery" and f"{direction}/queries" in counts):
            parts.append(f"{count:,} {words} {end}" if slash else f"{count:,} {name}")
    return "; ".join(parts)


def print_embedded(output: Path, shape: tuple[int, ...], rejected: Sequence[Rejection]) -> None:
    """Print the summary of `lightcrl embed`."""
    console.print(
        f"{shape[0]:,} vectors of width {shape[1]} in {output}, their ids in {output.with_suffix('.json')}",
        soft_wrap=True,
    )
    _print_rejected(rejected)


def print_exported(folder: Path) -> None:
    """Print the files of `lightcrl export` and their sizes."""
    for path in sorted(folder.glob("*.onnx")):
        console.print(f"{path}: {path.stat().st_size / 2**20:,.1f} MiB", soft_wrap=True)


def print_page(page: Path | str) -> None:
    """Print the path of a page, or the reason why it was left out."""
    console.print(f"report: {page}", soft_wrap=True, markup=False)


def print_info(checkpoint: Checkpoint) -> None:
    """Print the modalities, the parameters by part and the figures of a model."""
    options = ", ".join(f"{key} {value}" for key, value in checkpoint.method.options.model_dump(mode="json").items())
    console.print(f"method {checkpoint.name} ({options}), loss {checkpoint.loss}")
    table = Table(title="modalities")
    for heading in ("modality", "kind", "encoder", "tokens", "fingerprint"):
        table.add_column(heading)
    for modality, spec in checkpoint.encoders.items():
        tokens = str(checkpoint.method.modalities[modality])
        table.add_row(modality, spec.kind, spec.model, tokens, checkpoint.fingerprints[modality])
    console.print(table)
    table = Table(title="trained parameters")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    parts = checkpoint.parts()
    for part, count in parts.items():
        table.add_row(part, f"{count:,}")
    table.add_row("all", f"{sum(parts.values()):,}", style="bold")
    console.print(table)
    if checkpoint.figures:
        print_result(Result.from_json(checkpoint.figures), ())


def print_sheet(sheet: Sheet) -> None:
    """Print a table with its note."""
    table = Table(title=sheet.title)
    for place, heading in enumerate(sheet.headings):
        table.add_column(heading, justify="left" if place == 0 else "right")
    for row in sheet.rows:
        table.add_row(*map(escape, row))
    console.print(table)
    if sheet.note:
        console.print(sheet.note, style="dim", markup=False)


def _print_rejected(rejected: Sequence[Rejection]) -> None:
    if rejected:
        reasons = ", ".join(
            f"{count:,} {reason}" for reason, count in Counter(item.reason for item in rejected).most_common()
        )
        console.print(f"set aside: {reasons}. First: {rejected[0]}")


def _shown(result: Result) -> list[str]:
    """Return the columns that fit a terminal: mean R@1, and with two modalities R@1 of each direction."""
    directions = [name for name in result.metrics if name.endswith("/recall@1")]
    return ["mean_recall@1", *(directions if len(directions) <= 2 else [])]


def _heading(name: str) -> str:
    """Return a metric's name on two lines, narrow enough for a terminal of 80 columns."""
    subject, _, measure = name.replace("zero_shot", "zero-shot").rpartition("/")
    measure = measure.replace("mean_recall@", "mean R@").replace("recall@", "R@")
    return f"{subject.replace('_to_', ' to ')}\n{measure}" if subject else f"\n{measure}"


def _with_interval(result: Result, name: str) -> str:
    low, high = result.interval[name]
    return f"{result.metrics[name]:.3f}\n[dim]{low:.3f}-{high:.3f}[/dim]"


def _over_seeds(results: Sequence[Result], name: str) -> str:
    values = np.array([result.metrics[name] for result in results])
    return f"{values.mean():.3f}\n±{values.std(ddof=1):.3f}"
