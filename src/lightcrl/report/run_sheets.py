"""Tables on the page of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightcrl.metrics.result import Result
from lightcrl.report.facts import GrowthFacts, ModelFacts, Report
from lightcrl.report.sheets import figures_sheet, head_figures, parts_sheet, percent
from lightcrl.sheets import Cell, Row, Sheet
from lightcrl.tasks.text_similarity import aligned_spaces

MEAN = "mean_recall@1"
MIB = 2**20
LABELLED = {
    "accuracy": "accuracy",
    "similar/precision": "precision, similar",
    "dissimilar/precision": "precision, dissimilar",
    "similar/f1": "F1, similar",
    "dissimilar/f1": "F1, dissimilar",
}
SCORED = {"spearman": "Spearman", "pearson": "Pearson"}
"""Headings of the figures of text similarity, by their names."""


def together_sheet(reports: Mapping[str, Report], directions: Sequence[tuple[str, str, str]], alike: bool) -> Sheet:
    """Return all models of several runs.

    Args:
        reports: run by label.
        directions: source, target and name of every direction.
        alike: true if all runs were measured on the same numbers of items, so that chance is the same.
    """
    zero_shot = any(report.confusion for report in reports.values())
    names = [MEAN, *(f"{name}/recall@1" for _, _, name in directions)]
    rows: list[Row] = []
    for label, report in reports.items():
        for number, model in enumerate(report.models):
            cells = [percent(model.retrieval, name, own=name == MEAN and number == 0) for name in names]
            top = [percent(model.zero_shot, "top1") if model.zero_shot else ""] * zero_shot
            size = f"{sum(facts.nbytes for facts in report.modalities) / MIB:.1f}"
            parts = f"{sum(model.parts.values()):,}"
            rows.append((label, model.method, f"{model.seed}", *cells, *top, parts, f"{model.seconds:.1f}", size))
    models = len(rows)
    for label, report in list(reports.items())[: 1 if alike else None]:
        own = report.models[0]
        top = [_chance(own.zero_shot, "top1")] * zero_shot
        name = "chance" if alike else f"chance, {label}"
        rows.append((name, "", "", *(_chance(own.retrieval, each) for each in names), *top, "", "", ""))
    shown = [f"{source} → {target}" for source, target, _ in directions] + ["zero-shot"] * zero_shot
    headings = ("run", "method", "seed", "mean recall@1", *shown, "trained parameters", "seconds", "features, MiB")
    looks = dict.fromkeys(range(models, len(rows)), "faint")
    return Sheet("Every model, in per cent", headings, rows, words=frozenset({0, 1}), looks=looks)  # type: ignore[arg-type]


def run_sheets(report: Report) -> dict[str, Any]:
    """Return the tables of a run by their names in the template."""
    own = report.models[0]
    title = f"Figures of {own.method}, first seed, with 95 % intervals"
    return {
        "modalities": modality_sheet(report),
        "models": model_sheet(report),
        "heads": head_sheet(report) if report.heads else None,
        "growth": growth_sheets(report.growth) if report.growth else (),
        "objectives": objectives_sheet(report),
        "parts": parts_sheet(f"Trained parameters of {own.method}", own.parts),
        "retrieval": retrieval_sheet(report),
        "zero_shot": zero_shot_sheet(report) if own.zero_shot else None,
        "spaces": space_sheet(own) if own.text_similarity else None,
        "similarity": similarity_sheet(report) if own.text_similarity else None,
        "others": {label: figures_sheet(result, title) for label, result in own.others.items()},
    }


def growth_sheets(growth: GrowthFacts) -> tuple[Sheet, ...]:
    """Return the line of an extended model, and recall with the old index and a new one if an encoder was replaced."""
    rows = [[cell.strip("`") for cell in row[:4]] for row in growth.history]
    headings = ("model", "change", "date", "data")
    history = Sheet("Models of the line, the first first", headings, rows, words=frozenset(range(4)))
    replacement = growth.figures["replacement"]
    return (history, replacement_sheet(replacement)) if replacement else (history,)


def replacement_sheet(replacement: Mapping[str, Any]) -> Sheet:
    """Return mean R@1 by queries and index, from the JSON of a `Replacement`."""
    rows = [
        (case, Cell(f"{figure['mean']:.3f}", "{:.3f}–{:.3f}".format(*figure["interval"])))
        for case, figure in replacement["mean_recall@1"].items()
    ]
    title = f"{replacement['modality']}: queries/index, mean R@1 over directions, 95 % intervals"
    return Sheet(title, ("queries/index", "mean R@1"), rows)


def modality_sheet(report: Report) -> Sheet:
    """Return the modalities with their encoders and features."""
    rows = [
        (
            facts.name,
            f"{facts.encoder}, {facts.kind}, {'trained too' if facts.trained else 'frozen'}",
            facts.tokens,
            f"{facts.items:,}",
            f"{facts.nbytes / MIB:.1f} MiB",
        )
        for facts in report.modalities
    ]
    return Sheet("", ("modality", "encoder", "tokens × width", "items", "features"), rows, words=frozenset({0, 1}))


def model_sheet(report: Report) -> Sheet:
    """Return every model with its cost and its headline figures, and chance."""
    own = report.models[0]
    rows: list[Row] = [
        (
            model.method,
            f"{model.seed}",
            f"{sum(model.parts.values()):,}",
            f"{model.seconds:.1f}",
            percent(model.retrieval, MEAN, own=model is own),
            *([percent(model.zero_shot, "top1", own=model is own)] if model.zero_shot else []),
        )
        for model in report.models
    ]
    top = [_chance(own.zero_shot, "top1")] if own.zero_shot else []
    rows.append(("chance", "", "", "", _chance(own.retrieval, MEAN), *top))
    headings = ("method", "seed", "parameters", "seconds", "mean recall@1, %", *(["zero-shot, %"] if top else []))
    return Sheet("Every model of the run", headings, rows, looks={len(report.models): "faint"})


def head_sheet(report: Report) -> Sheet:
    """Return the heads on the space of the run's own method."""
    rows = []
    for name, head in report.heads.items():
        seconds = f"{head.figures['seconds']:.1f}"
        rows.append((name, ", ".join(head.modalities), f"{head.parameters:,}", seconds, head_figures(head)))
    headings = ("head", "modalities", "parameters", "seconds", "figures on the groups that chose it")
    return Sheet(f"Heads on the space of {report.models[0].method}", headings, rows, words=frozenset({0, 1, 4}))


def objectives_sheet(report: Report) -> Sheet | None:
    """Return what matching and captioning add to the space, over the seeds of the run's own method; None without heads.

    Heads never change the space: what one adds does not depend on the others.
    """
    models = [model for model in report.models if model.method == report.models[0].method]
    rows: list[Row] = [("contrast", _over_seeds(models, "", MEAN), "", "", "")]
    for label, result in models[0].others.items():
        if MEAN in result.metrics and result.counts == models[0].retrieval.counts:
            gains = [100 * (each.others[label].metrics[MEAN] - each.retrieval.metrics[MEAN]) for each in models]
            gain = Cell(f"{sum(gains) / len(gains):+.1f}", f"{min(gains):+.1f} to {max(gains):+.1f}")
            rows.append((f"contrast + matching ({label})", _over_seeds(models, label, MEAN), gain, "", ""))
        elif "bleu_4" in result.metrics:
            figures = (_over_seeds(models, label, "bleu_4"), _over_seeds(models, label, "cider"))
            rows.append((f"contrast + captioning ({label})", rows[0][1], "", *figures))
    if not report.heads or len(rows) == 1:
        return None
    headings = ("objectives", "mean recall@1, %", "gain", "BLEU-4, %", "CIDEr-D, %")
    title = f"What each objective adds: mean of {len(models)} seed{'s' * (len(models) > 1)}, least to greatest"
    return Sheet(title, headings, rows, words=frozenset({0}))


def _over_seeds(models: Sequence[ModelFacts], label: str, name: str) -> Cell:
    """Return the mean of a figure in per cent; an empty label is the space's own retrieval."""
    values = [100 * (each.others[label] if label else each.retrieval).metrics[name] for each in models]
    ends = f"{min(values):.1f}–{max(values):.1f}" if len(values) > 1 else ""
    return Cell(f"{sum(values) / len(values):.1f}", ends)


def retrieval_sheet(report: Report) -> Sheet:
    """Return recall in every direction: the first seed of all methods, further figures of the run's own."""
    own = report.models[0]
    metrics, counts = own.retrieval.metrics, own.retrieval.counts
    rows: list[Row] = [
        (
            f"{source} → {target}",
            *_beside([model.retrieval for model in report.compared], f"{name}/recall@1"),
            *(f"{100 * metrics[f'{name}/recall@{k}']:.1f}" for k in (5, 10)),
            f"{metrics[f'{name}/median_rank']:g}",
            f"{counts[f'{name}/queries']:,}",
            f"{counts[f'{name}/gallery']:,}",
        )
        for source, target, name in report.directions
    ]
    rows.append(("mean", *_beside([model.retrieval for model in report.compared], MEAN), *[""] * 5))
    first = (*(f"recall@1 {model.method}" for model in report.compared), "chance")
    more = (f"recall@5 {own.method}", f"recall@10 {own.method}", "median rank", "queries", "gallery")
    return Sheet("", ("query → result, %", *first, *more), rows, looks={len(report.directions): "sum"})


def zero_shot_sheet(report: Report) -> Sheet:
    """Return the accuracies whose chance is below one half, for the first seed of all methods."""
    own = report.models[0].zero_shot
    assert own is not None
    results = [model.zero_shot for model in report.compared]
    rows = [(name, *_beside(results, name)) for name in own.metrics if own.chance[name] < 0.5]
    return Sheet("", ("accuracy, %", *(model.method for model in report.compared), "chance"), rows)


def space_sheet(model: ModelFacts) -> Sheet:
    """Return text similarity in every space of a model, and chance."""
    result = model.text_similarity
    assert result is not None
    alone = aligned_spaces(result)
    labelled = bool(result.thresholds)
    shown = LABELLED if labelled else SCORED
    rows: list[Row] = []
    for space in (*alone, *filter(None, alone.values())):
        cells = [percent(result, f"{space}/{name}", own=space in alone and name == next(iter(shown))) for name in shown]
        rows.append((space, *cells, *([f"{result.thresholds[space]:.3g}"] if labelled else [])))
    looks = {len(rows): "faint"} if labelled else {}
    if labelled:
        rows.append(("chance", _chance(result, f"{next(iter(alone))}/accuracy"), *[""] * len(shown)))
    title = f"Spaces of {model.method}, {'in per cent' if labelled else 'correlations times 100'}"
    headings = ("space", *shown.values(), *(["similar from"] if labelled else []))
    return Sheet(title, headings, rows, looks=looks)  # type: ignore[arg-type]


def similarity_sheet(report: Report) -> Sheet:
    """Return the headline of text similarity of every model, by aligned space."""
    own = report.models[0].text_similarity
    assert own is not None
    alone, labelled = aligned_spaces(own), bool(own.thresholds)
    measure = "accuracy" if labelled else "spearman"
    rows: list[Row] = [
        (
            model.method,
            f"{model.seed}",
            *(percent(result, f"{space}/{measure}", own=model is report.models[0]) for space in alone),
        )
        for model in report.models
        if (result := model.text_similarity)
    ]
    title = "Accuracy of every model, in per cent" if labelled else "Spearman correlation of every model, times 100"
    return Sheet(title, ("method", "seed", *alone), rows)


def _beside(results: Sequence[Result | None], name: str) -> list[str | Cell]:
    """Return a figure of the compared models, and its chance."""
    cells = [percent(each, name, own=number == 0) if each else "" for number, each in enumerate(results)]
    return [*cells, _chance(results[0], name)]


def _chance(result: Result | None, name: str) -> str:
    return f"{100 * result.chance[name]:.1f}" if result is not None and name in result.chance else ""
