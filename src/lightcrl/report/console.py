"""What the command line shows: a live progress line, and tables of figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lightcrl.checkpoint import Checkpoint
from lightcrl.data.base import Rejection
from lightcrl.metrics.result import Result
from lightcrl.pipeline import Model, Run
from lightcrl.recipe import Recipe
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

console = Console()
# Columns from which a comparison shows each direction.
WIDE = 120

Figure = tuple[Result, str]
"""A metric of a result."""


class Live:
    """Turns the events of a run into progress bars and lines."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}
        self._steps = 0
        self._recall = ""

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Show one event; see `lightcrl.pipeline.Tell`."""
        show = getattr(self, f"_on_{event['event']}", None)
        if show is not None:
            show(event)

    def _bar(self, name: str, total: int) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        return self._tasks[name]

    def _on_waiting(self, event: Mapping[str, Any]) -> None:
        self._progress.print(
            f"{event['folder']}: waiting for {event['holder']}, which writes it", markup=False, soft_wrap=True
        )

    def _on_data(self, event: Mapping[str, Any]) -> None:
        groups = ", ".join(f"{count:,} {split}" for split, count in event["groups"].items())
        aside = f"; {event['rejected']:,} things set aside" if event["rejected"] else ""
        self._progress.print(f"data: {groups} groups{aside}")

    def _on_encode(self, event: Mapping[str, Any]) -> None:
        self._progress.update(self._bar(f"encode {event['modality']}", event["total"]), completed=event["done"])

    def _on_encoded(self, event: Mapping[str, Any]) -> None:
        bar = self._tasks.pop(f"encode {event['modality']}", None)
        if bar is not None:
            self._progress.remove_task(bar)
        reused = event["copied"] + event["kept"]
        work = f"encoded {event['encoded']:,}" if event["encoded"] else "encoded nothing"
        aside = "".join(f", set aside {count:,} ({reason})" for reason, count in event["rejected"].items())
        self._progress.print(
            f"{event['modality']}: {event['items']:,} items, {work}, {reused:,} were there already{aside}; "
            f"{event['bytes'] / 2**20:.1f} MiB"
        )

    def _on_start(self, event: Mapping[str, Any]) -> None:
        self._steps = event["steps"]
        self._recall = ""

    def _on_step(self, event: Mapping[str, Any]) -> None:
        name = f"train {escape(event['method'])} seed {event['seed']}"
        total = self._steps or None
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note="")
        note = f"loss {event['loss']:.3f} rate {event['learning_rate']:.1e} scale {event['logit_scale']:.1f}"
        self._progress.update(self._tasks[name], completed=event["step"] + 1, note=note + self._recall)

    def _on_evaluation(self, event: Mapping[str, Any]) -> None:
        figures = {"dev R@1": "dev_mean_recall@1", "dev top-1": "dev_top1", "test top-1": "test_top1"}
        self._recall = "".join(f" {words} {event[name]:.3f}" for words, name in figures.items() if name in event)

    def _on_trained(self, event: Mapping[str, Any]) -> None:
        method = escape(event["method"])
        bar = self._tasks.pop(f"train {method} seed {event['seed']}", None)
        if bar is not None:
            self._progress.remove_task(bar)
        self._progress.print(f"trained {method} seed {event['seed']} in {event['seconds']:.0f} s")


def print_run(run: Run, recipe: Recipe) -> None:
    """The tables of a run: every model, then mean and deviation over seeds; and of text similarity where asked for."""
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
    """A row for each model with its figures, and one for a method's mean over seeds."""
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
    """A column for each aligned space, a row for each model and for the encoders as they come.

    Args:
        models: each with its figures.
        tuned: encoders were trained too, so that each model has its own.
    """
    first = models[0][1]
    what, said = ("accuracy", "accuracy") if first.thresholds else ("spearman", "Spearman correlation")
    alone = aligned_spaces(first)
    table = Table(title=f"text similarity: {said} on {first.counts['pairs']:,} pairs, 95 % intervals")
    table.add_column("method", no_wrap=True)
    table.add_column("seed", justify="right", no_wrap=True)
    for space in alone:
        table.add_column(space.removeprefix("aligned ").replace("-", "-\n"), justify="right", no_wrap=True)
    rows = [(model, [(result, f"{space}/{what}") for space in alone]) for model, result in models]
    _add_models(table, rows)
    for model, result in models if tuned else models[:1]:
        label = f"encoders of\n{model.method} {model.seed}" if tuned else "encoders\nas they come"
        table.add_row(label, "", *(_with_interval(result, f"{raw}/{what}") if raw else "" for raw in alone.values()))
    if what == "accuracy":
        table.add_row("chance", "", *(f"{first.chance[f'{space}/{what}']:.3f}" for space in alone), style="dim")
    console.print(table)


def print_demo(done: Demo) -> None:
    """What the demo came to: every direction beside the baseline and chance, a query with its results, the page."""
    models = done.run.models
    own = models[0].retrieval
    directions = [name for name in own.metrics if name.endswith("/recall@1")]
    table = Table(title="recall@1 on scenes never trained on")
    table.add_column("query to result")
    for heading in (*(model.method for model in models), "chance"):
        table.add_column(heading, justify="right")
    for name in (*directions, "mean_recall@1"):
        what = name.removesuffix("/recall@1").replace("_to_", " to ") if "/" in name else "mean"
        cells = [_with_interval(model.retrieval, name) for model in models]
        table.add_row(what, *cells, f"{own.chance[name]:.3f}", end_section=name == directions[-1])
    if (zero_shot := models[0].results.get("zero_shot")) is not None:
        table.add_section()
        cells = [_with_interval(model.results["zero_shot"], "top1") for model in models]
        table.add_row(f"zero-shot, {zero_shot.counts['classes']} classes", *cells, f"{zero_shot.chance['top1']:.3f}")
    console.print(table)
    example = done.example
    console.print(f'\n"{escape(example.item.text)}" finds these pictures, told by their captions:')
    for one in (*example.found, *([example.answer] if example.answer else [])):
        mark = "[green]right[/green]" if one.right else "     "
        console.print(f" {one.place:3}. {one.score:.2f} {mark} {escape(one.item.text)}", soft_wrap=True)
    console.print(f"\nmodel, logs and figures: {done.run.folder} ({done.seconds:.0f} s in all)", soft_wrap=True)
    print_page(done.page or "left out; it needs pip install 'lightcrl[report]'")


def print_comparison(comparison: Comparison) -> None:
    """Who is better: the table, the words, what a reader has to know, what more groups would bring."""
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
    for one in ranked:
        cells = [(one.figures[name].mean, one.figures[name].both) for name in shown]
        _, found = one.rivals.get(MAIN, ("", None))
        versus = f"{found.mean:+.3f}\n[dim]{found.word}[/dim]" if found else ""
        memory = "" if one.memory is None else f"\n[dim]{one.memory / 2**20:,.0f} MiB[/dim]"
        table.add_row(
            f"{escape(one.label)}\n[dim]{one.cells[0].parameters / 1e6:.2f} M[/dim]",
            *(f"{mean:.3f}\n[dim]{low:.3f}-{high:.3f}[/dim]" for mean, (low, high) in cells),
            versus,
            f"{one.seconds:.0f} s{memory}",
        )
    chances = [comparison.chance.get(name) for name in shown]
    table.add_row("chance", *("" if each is None else f"{each:.3f}" for each in chances), "", "", style="dim")
    console.print(table)
    for line in (*sentences(comparison), *remarks(comparison)):
        console.print(line, markup=False)
    for grown in comparison.growth:
        recall = ", ".join(f"{n:,}: {mean:.3f}" for n, mean in zip(grown.sizes, grown.recall.mean(0), strict=True))
        said = f"; {grown.forecast.words}" if grown.forecast else ""
        console.print(f"{grown.label} by training groups: {recall}{said}.", markup=False)
    console.print(f"figures, models, page: {comparison.folder}", soft_wrap=True, markup=False)


def print_check(check: Check) -> None:
    """The tables of a check, then its advice."""
    for sheet in sheets(check):
        _print_sheet(sheet)
    console.print()
    for advice in advise(check):
        mark = "[red]![/red]" if advice.urgent else "-"
        console.print(f"{mark} {escape(advice.text)}", soft_wrap=True)
    console.print(f"checked in {check.seconds:.0f} s; nothing was trained", style="dim")


def print_reproduction(done: Reproduction) -> None:
    """Every table beside the published one, what becomes of the claims, what a reader has to know."""
    for sheet in reproduction_sheets(done):
        _print_sheet(sheet)
    for line in (*done.words(), *reproduction_remarks(done)):
        console.print(line, markup=False)
    console.print(f"tables and models: {done.folder}", soft_wrap=True, markup=False)


def print_result(result: Result, rejected: Sequence[Rejection]) -> None:
    """The figures of one evaluation."""
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
    """Counts in words: both ends of each direction together, then the others."""
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
    """What `embed` wrote."""
    console.print(
        f"{shape[0]:,} vectors of width {shape[1]} in {output}, their ids in {output.with_suffix('.json')}",
        soft_wrap=True,
    )
    _print_rejected(rejected)


def print_exported(folder: Path) -> None:
    """What `export` wrote."""
    for path in sorted(folder.glob("*.onnx")):
        console.print(f"{path}: {path.stat().st_size / 2**20:,.1f} MiB", soft_wrap=True)


def print_page(page: Path | str) -> None:
    """Where a page was written, or why not."""
    console.print(f"report: {page}", soft_wrap=True, markup=False)


def print_info(checkpoint: Checkpoint) -> None:
    """Modalities, parameters by part, figures."""
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


def _print_sheet(sheet: Sheet) -> None:
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
            f"{count:,} {reason}" for reason, count in Counter(one.reason for one in rejected).most_common()
        )
        console.print(f"set aside: {reasons}. First: {rejected[0]}")


def _shown(result: Result) -> list[str]:
    """R@1 of every direction with two modalities, else the mean alone, to fit a terminal."""
    directions = [name for name in result.metrics if name.endswith("/recall@1")]
    return ["mean_recall@1", *(directions if len(directions) <= 2 else [])]


def _heading(name: str) -> str:
    """A metric's name on two lines, narrow enough for a terminal of 80 columns."""
    what, _, measure = name.replace("zero_shot", "zero-shot").rpartition("/")
    measure = measure.replace("mean_recall@", "mean R@").replace("recall@", "R@")
    return f"{what.replace('_to_', ' to ')}\n{measure}" if what else f"\n{measure}"


def _with_interval(result: Result, name: str) -> str:
    low, high = result.interval[name]
    return f"{result.metrics[name]:.3f}\n[dim]{low:.3f}-{high:.3f}[/dim]"


def _over_seeds(results: Sequence[Result], name: str) -> str:
    values = np.array([result.metrics[name] for result in results])
    return f"{values.mean():.3f}\n±{values.std(ddof=1):.3f}"
