"""The figures of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lightcrl.report.curves import classes_by_epoch, precision
from lightcrl.report.drawing import (
    INK,
    MARKERS,
    ON_COLOUR,
    SERIES,
    add_legend,
    colour,
    draw_lines,
    drawing,
    make_axes,
    to_svg,
)
from lightcrl.report.facts import Confusion, ModelFacts, Report
from lightcrl.report.space import Space

ABOUT = {
    "precision": "Precision and recall over the first k by direction and model",
    "classes": "Classified items and the prompts of their classes on two axes",
    "recall": "Bars of recall@1 by direction and method",
    "loss": "Training loss by step",
    "learning": "Mean recall@1 on dev by step",
    "modalities": "Embeddings on two axes, by modality",
    "labels": "Embeddings on two axes, by label",
    "confusion": "Right classes against predicted classes",
    "similarity": "Precision of similar and of dissimilar pairs by epoch and space",
}
PARTS = 120  # points of a loss curve
FEW = 20  # points that are drawn larger
NUMBERED = 16  # greatest number of classes whose confusion is shown in numbers


def draw(report: Report) -> dict[str, str]:
    """Return every figure of a report by name, as `<svg>`."""
    with drawing():
        compared = {model.method: model for model in report.compared}
        drawn = {"recall": _recall(report), "learning": _learning(compared)}
        if any(model.retrieval.curves for model in report.compared):
            drawn["precision"] = precision({name: model.retrieval for name, model in compared.items()})
        # A closed-form method has no steps.
        if any(len(model.loss) for model in report.compared):
            drawn["loss"] = _loss(report)
        drawn["modalities"] = _points(report.space, by_label=False)
        if report.space.label:
            drawn["labels"] = _points(report.space, by_label=True)
        if report.classes is not None:
            drawn["classes"] = _points(report.classes, by_label=True)
        if report.confusion is not None:
            drawn["confusion"] = _confusion(report.confusion)
        own = report.models[0]
        if own.text_similarity is not None and own.precision:
            drawn["similarity"] = classes_by_epoch(own.precision, own.text_similarity, own.best_epoch)
        return {name: to_svg(figure, name, ABOUT[name]) for name, figure in drawn.items()}


def draw_together(reports: Mapping[str, Report]) -> dict[str, str]:
    """Return figures of several reports by label: each run's own model, then the others as far as colours suffice."""
    own = {label: report.models[0] for label, report in reports.items()}
    others = {f"{label} {model.method}": model for label, report in reports.items() for model in report.compared[1:]}
    shown = dict(list((own | others).items())[: len(SERIES)])
    with drawing():
        drawn = {"learning": _learning(shown)}
        if any(model.retrieval.curves for model in shown.values()):
            drawn["precision"] = precision({label: model.retrieval for label, model in shown.items()})
        return {name: to_svg(figure, name, ABOUT[name]) for name, figure in drawn.items()}


def outline(loudness: Sequence[float]) -> str:
    """Return an SVG path for loudness between 0 and 1, with a bar per unit, around y = 0."""
    return "".join(f"M{at + 0.5:g} {-max(value, 0.04):.2f}V{max(value, 0.04):.2f}" for at, value in enumerate(loudness))


def _recall(report: Report) -> Figure:
    """Draw bars of R@1 by direction and method, their intervals, and chance."""
    models, directions = report.compared, report.directions
    figure, axes = make_axes(0.9 + 0.22 * len(directions) * (len(models) + 0.8))
    height = 0.8 / len(models)
    for at, model in enumerate(models):
        names = [f"{name}/recall@1" for _, _, name in directions]
        values = np.array([model.retrieval.metrics[name] for name in names])
        ends = np.array([model.retrieval.interval[name] for name in names])
        places = np.arange(len(names)) + (at - (len(models) - 1) / 2) * height
        axes.barh(places, values, height * 0.86, color=colour(at), label=model.method)
        axes.hlines(places, ends[:, 0], ends[:, 1], color=INK, linewidth=0.9)
        for place, value, end in zip(places, values, ends[:, 1], strict=True):
            axes.text(end + 0.012, place, f"{100 * value:.1f}", va="center", color=colour(at), fontsize=7.5)
    chances = np.array([models[0].retrieval.chance[f"{name}/recall@1"] for _, _, name in directions])
    rows = np.arange(len(directions))
    axes.vlines(chances, rows - 0.48, rows + 0.48, color=INK, linewidth=1.6, label=f"chance {_range(100 * chances)} %")
    add_legend(axes)
    axes.set_yticks(rows, [f"{a} → {b}" for a, b, _ in directions])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("recall@1, with 95 % interval")
    return figure


def _loss(report: Report) -> Figure:
    figure, axes = make_axes()
    lines = {}
    for model in (model for model in report.compared if len(model.loss)):
        parts = [part for part in np.array_split(model.loss, PARTS) if len(part)]
        lines[model.method] = np.array([part.mean(0) for part in parts])
    draw_lines(axes, lines)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    return figure


def _learning(models: Mapping[str, ModelFacts]) -> Figure:
    figure, axes = make_axes(2.6 + 0.1 * len(models))
    draw_lines(axes, {label: model.recall for label, model in models.items()}, marker="o")
    chance = next(iter(models.values())).retrieval.chance["mean_recall@1"]
    axes.axhline(chance, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.text(0.99, chance + 0.015, f"chance {100 * chance:.1f} %", ha="right", transform=axes.get_yaxis_transform())
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("step")
    axes.set_ylabel("mean recall@1 on dev")
    return figure


def _points(space: Space, by_label: bool) -> Figure:
    figure, axes = make_axes(4.2)
    modalities = list(space.points)
    if by_label:
        middles = []
        names = sorted(set(chain.from_iterable(space.labels.values())) - {""})
        for at, label in enumerate(names):
            here = {name: space.points[name][np.array(space.labels[name]) == label] for name in modalities}
            for number, (name, points) in enumerate(here.items()):
                _scatter(axes, points, colour(at), MARKERS[number % len(MARKERS)], size=_size(space.points[name]))
            middles.append(np.median(np.concatenate(list(here.values())), 0))
        for at, (x, y) in enumerate(_apart(np.array(middles))):
            box = {"boxstyle": "round,pad=0.25", "facecolor": colour(at), "edgecolor": "none"}
            axes.text(
                x, y, names[at], color=ON_COLOUR, bbox=box, ha="center", va="center", fontweight="bold", fontsize=8
            )
    else:
        for at, name in enumerate(modalities):
            _scatter(axes, space.points[name], colour(at), MARKERS[at % len(MARKERS)], name, _size(space.points[name]))
        add_legend(axes)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    for side, share, name in (("bottom", space.variance[0], "first"), ("left", space.variance[1], "second")):
        axes.spines[side].set_visible(True)
        (axes.set_xlabel if side == "bottom" else axes.set_ylabel)(f"{name} principal axis ({share:.0%} of variance)")
    return figure


def _apart(places: np.ndarray) -> np.ndarray:
    """Return places [n, 2] of labels, with overlapping labels moved upwards."""
    wide, high = 0.22 * np.ptp(places[:, 0]), 0.11 * np.ptp(places[:, 1])
    moved = places.copy()
    order = np.argsort(places[:, 1])
    for rank, at in enumerate(order):
        for other in order[:rank]:
            if abs(moved[at, 0] - moved[other, 0]) < wide:
                moved[at, 1] = max(moved[at, 1], moved[other, 1] + high)
    return moved


def _size(points: np.ndarray) -> float:
    """Return the size of a point; a few points, such as class prompts, are large enough to stand out."""
    return 9 if len(points) > FEW else 40


def _scatter(
    axes: Axes, points: np.ndarray, colour: str, marker: str, name: str | None = None, size: float = 9
) -> None:
    axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, marker=marker, alpha=0.55, linewidths=0, label=name)


def _confusion(confusion: Confusion) -> Figure:
    """Draw a matrix: rows are right classes, columns predicted classes; darker is more."""
    count = len(confusion.classes)
    figure, axes = make_axes(4.2)
    shares = confusion.counts / np.maximum(confusion.counts.sum(1, keepdims=True), 1)
    numbered = count <= NUMBERED
    for (row, column), share in np.ndenumerate(shares):
        if share == 0:
            continue
        side = 0.94 if numbered else 1
        square = axes.barh(row, side, side, left=column - side / 2, color=colour(0), alpha=0.12 + 0.88 * share)
        square[0].set_linewidth(0)
        if numbered:
            tone = ON_COLOUR if share > 0.5 else INK
            axes.text(column, row, str(confusion.counts[row, column]), ha="center", va="center", color=tone)
    if numbered:
        axes.set_xticks(np.arange(count), confusion.classes, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(count), confusion.classes)
    axes.tick_params(length=0)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("right class")
    return figure


def _range(values: np.ndarray) -> str:
    low, high = f"{values.min():.1f}", f"{values.max():.1f}"
    return low if low == high else f"{low}–{high}"
