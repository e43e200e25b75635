"""Tables of figures on the console."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.markup import escape

from lightcrl.checkpoint import Checkpoint
from lightcrl.data.base import Rejection
from lightcrl.heads.captioning.writer import Caption
from lightcrl.heads.state import TrainedHead
from lightcrl.metrics.result import Result
from lightcrl.recipe import Recipe
from lightcrl.report.progress import console
from lightcrl.report.sheets import figures_sheet, head_figures, parts_sheet, print_sheet, share
from lightcrl.runs import Model, Run
from lightcrl.sheets import Cell, Row, Sheet
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
    headings = [_heading(name) for name in names + ["zero-shot/top1"] * bool(zero_shot)]
    rows = []
    for model in run.models:
        more = [(model.results["zero_shot"], "top1")] if zero_shot else []
        rows.append((model, [*((model.retrieval, name) for name in names), *more]))
    chance = ("chance", "", *(f"{result.chance[name]:.3f}" for result, name in rows[0][1]))
    title = f"{recipe.name}: {recipe.evaluation.split} split, 95 % intervals over groups"
    print_sheet(_models(title, headings, rows, faint=[chance]))
    label = "text_similarity"
    similarity = [(model, model.results[label]) for model in run.models if label in model.results]
    if similarity:
        _print_similarity(similarity, tuned=bool(recipe.tuning))
    for label in recipe.evaluation.tasks:
        for model in run.models:
            print_sheet(figures_sheet(model.results[label], f"{label}: {model.method}, seed {model.seed}"))
    console.print(f"model, logs and figures: {run.folder}", soft_wrap=True)


def _models(
    title: str,
    headings: Sequence[str],
    measured: Sequence[tuple[Model, Sequence[Figure]]],
    after: Sequence[Row] = (),
    faint: Sequence[Row] = (),
) -> Sheet:
    """Return a table with a row for each model, and the mean over seeds of each method with several; then more rows."""
    by_method: dict[str, list[tuple[Model, Sequence[Figure]]]] = defaultdict(list)
    for model, figures in measured:
        by_method[model.method].append((model, figures))
    rows: list[Row] = []
    looks: dict[int, Literal["faint", "sum"]] = {}
    for method, alike in by_method.items():
        label = Cell(method, f"{alike[0][0].parameters / 1e6:.2f} M")
        for model, figures in alike:
            rows.append((label, Cell(f"{model.seed}", f"{model.seconds:.0f} s"), *(share(*each) for each in figures)))
        if len(alike) > 1:
            looks[len(rows)] = "sum"
            columns = zip(*(figures for _, figures in alike), strict=True)
            means = [_over_seeds([result for result, _ in column], column[0][1]) for column in columns]
            rows.append((method, "mean", *means))
    rows += [*after, *faint]
    looks |= dict.fromkeys(range(len(rows) - len(faint), len(rows)), "faint")
    return Sheet(title, ("method", "seed", *headings), rows, looks=looks)


def _print_similarity(models: Sequence[tuple[Model, Result]], tuned: bool) -> None:
    """Print a column for each aligned space, and a row for each model and for the frozen encoders.

    Args:
        models: models with their figures.
        tuned: true if encoders were trained too, so that each model has its own.
    """
    first = models[0][1]
    measure, heading = ("accuracy", "accuracy") if first.thresholds else ("spearman", "Spearman correlation")
    alone = aligned_spaces(first)
    title = f"text similarity: {heading} on {first.counts['pairs']:,} pairs, 95 % intervals"
    headings = [space.removeprefix("aligned ").replace("-", "-\n") for space in alone]
    frozen: list[Row] = []
    for model, result in models if tuned else models[:1]:
        label = f"encoders of\n{model.method} {model.seed}" if tuned else "frozen\nencoders"
        frozen.append((label, "", *(share(result, f"{raw}/{measure}") if raw else "" for raw in alone.values())))
    chance = ("chance", "", *(f"{first.chance[f'{space}/{measure}']:.3f}" for space in alone if measure == "accuracy"))
    rows = [(model, [(result, f"{space}/{measure}") for space in alone]) for model, result in models]
    print_sheet(_models(title, headings, rows, frozen, [chance] if measure == "accuracy" else []))


def print_demo(done: Demo) -> None:
    """Print the demo's results: every direction beside baseline and chance, an example query, and the page."""
    models = done.run.models
    own = models[0].retrieval
    directions = [name for name in own.metrics if name.endswith("/recall@1")]
    rows: list[Row] = []
    for name in (*directions, "mean_recall@1"):
        direction = name.removesuffix("/recall@1").replace("_to_", " to ") if "/" in name else "mean"
        rows.append((direction, *(share(model.retrieval, name) for model in models), f"{own.chance[name]:.3f}"))
    if (zero_shot := models[0].results.get("zero_shot")) is not None:
        cells = [share(model.results["zero_shot"], "top1") for model in models]
        rows.append((f"zero-shot, {zero_shot.counts['classes']} classes", *cells, f"{zero_shot.chance['top1']:.3f}"))
    headings = ("query to result", *(model.method for model in models), "chance")
    title = "recall@1 on scenes outside the training data"
    print_sheet(Sheet(title, headings, rows, looks={len(directions): "sum"}))
    example = done.example
    console.print(f'\n"{escape(example.item.text)}" finds these pictures, each shown as its caption:')
    for hit in (*example.found, *([example.answer] if example.answer else [])):
        mark = "[green]right[/green]" if hit.right else "     "
        console.print(f" {hit.place:3}. {hit.score:.2f} {mark} {escape(hit.item.text)}", soft_wrap=True)
    console.print(f"\nmodel, logs and figures: {done.run.folder} ({done.seconds:.0f} s in all)", soft_wrap=True)
    print_page(done.page or "left out; it needs pip install 'lightcrl[report]'")
    console.print(f"search it in the browser: lightcrl serve {done.run.folder}", soft_wrap=True, markup=False)


def print_comparison(comparison: Comparison) -> None:
    """Print a comparison: the table, sentences on the differences, notes, and recall by number of groups."""
    ranked, split = comparison.ranked, comparison.recipe.evaluation.split
    two = len(comparison.directions) == 2 and console.width >= WIDE
    each = [f"{name}/recall@1" for name in comparison.directions] if two else []
    shown = [MAIN, *each, *comparison.headlines]
    seeds = f"{len(comparison.seeds)} seed" + "s" * (len(comparison.seeds) > 1)
    headings = ("method", *map(_heading, shown), "minus the\nbest other", "\ntraining")
    rows: list[Row] = []
    for method in ranked:
        cells = [(method.figures[name].mean, method.figures[name].both) for name in shown]
        _, difference = method.rivals.get(MAIN, ("", None))
        rows.append(
            (
                Cell(method.label, f"{method.cells[0].parameters / 1e6:.2f} M"),
                *(Cell(f"{mean:.3f}", f"{low:.3f}–{high:.3f}") for mean, (low, high) in cells),
                Cell(f"{difference.mean:+.3f}", difference.word) if difference else "",
                Cell(f"{method.seconds:.0f} s", "" if method.memory is None else f"{method.memory / 2**20:,.0f} MiB"),
            )
        )
    chances = [comparison.chance.get(name) for name in shown]
    rows.append(("chance", *("" if each is None else f"{each:.3f}" for each in chances), "", ""))
    title = f"{comparison.recipe.name}: {split} split, {seeds}, 95 % intervals"
    print_sheet(Sheet(title, headings, rows, looks={len(ranked): "faint"}))
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
    print_sheet(figures_sheet(result, sentence(result.counts)))
    _print_rejected(rejected)


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


def print_captions(
    sources: Sequence[str], captions: Sequence[Sequence[Caption]], rejected: Sequence[Rejection], *, all_beams: bool
) -> None:
    """Print each item with its best caption, or with all of them and their scores."""
    for source, written in zip(sources, captions, strict=True):
        for each in written if all_beams else written[:1]:
            score = f"  ({each.score:.2f})" if all_beams else ""
            console.print(f"{source}: {each.text}{score}", soft_wrap=True, markup=False, highlight=False)
    _print_rejected(rejected)


def print_pictures(texts: Sequence[str], paths: Sequence[Sequence[Path]]) -> None:
    """Print each prompt with the files of its pictures."""
    for text, made in zip(texts, paths, strict=True):
        console.print(f"{text}: {', '.join(map(str, made))}", soft_wrap=True, markup=False, highlight=False)


def print_exported(folder: Path) -> None:
    """Print the files of `lightcrl export` and their sizes."""
    for path in sorted(folder.glob("*.onnx")):
        console.print(f"{path}: {path.stat().st_size / 2**20:,.1f} MiB", soft_wrap=True)


def print_page(page: Path | str) -> None:
    """Print the path of a page, or the reason why it was left out."""
    console.print(f"report: {page}", soft_wrap=True, markup=False)


def print_info(checkpoint: Checkpoint) -> None:
    """Print the modalities, the parameters by part and the figures of a model."""
    options, settled = checkpoint.method.options, checkpoint.method.settled_options().model_dump(mode="json")
    words = [
        f"{key} {value}" + ("" if settled[key] == value else f" ({_short(settled[key])})")
        for key, value in options.model_dump(mode="json").items()
    ]
    console.print(f"method {checkpoint.name} ({', '.join(words)}), loss {checkpoint.loss}")
    rows = [
        (name, spec.kind, spec.model, str(checkpoint.method.modalities[name]), checkpoint.fingerprints[name])
        for name, spec in checkpoint.encoders.items()
    ]
    headings = ("modality", "kind", "encoder", "tokens", "fingerprint")
    print_sheet(Sheet("modalities", headings, rows, words=frozenset(range(len(headings)))))
    print_sheet(parts_sheet("trained parameters", checkpoint.parts()))
    if checkpoint.heads:
        print_heads(checkpoint.heads)
    if checkpoint.figures:
        print_result(Result.from_json(checkpoint.figures), ())


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_heads(heads: Mapping[str, TrainedHead]) -> None:
    """Print kind, modalities, size and figures of a model's heads."""
    rows = [
        (name, head.kind, ", ".join(head.modalities), f"{head.parameters:,}", head_figures(head))
        for name, head in heads.items()
    ]
    headings = ("head", "kind", "modalities", "parameters", "figures")
    print_sheet(Sheet("heads", headings, rows, words=frozenset({0, 1, 2, 4})))


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


def _over_seeds(results: Sequence[Result], name: str) -> Cell:
    values = np.array([result.metrics[name] for result in results])
    return Cell(f"{values.mean():.3f}", f"±{values.std(ddof=1):.3f}")
