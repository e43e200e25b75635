"""Figures of results: precision and recall over the first k, distributions of similarities, probes by epoch."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from lightcrl.metrics.result import Result
from lightcrl.metrics.similarity import CLASSES
from lightcrl.report.drawing import INK, MUTED, colour, draw_lines, drawing, make_axes, make_grid, to_svg
from lightcrl.tasks.text_similarity import aligned_spaces

ABOUT = {
    "precision": "Precision and recall over the first k by direction and model",
    "similarities": "Distributions of similarities of similar and dissimilar pairs by space, with the threshold",
    "epochs": "Accuracy on test by epoch and space",
}
_EPOCH = re.compile(r"(?:(.*)/)?epoch(\d+)/top1")


def draw_result(result: Result, label: str = "") -> dict[str, str]:
    """Return every figure of a result as `<svg>` by name; `label` names its model."""
    columns = {name for curve in result.curves.values() for name in curve}
    with drawing():
        drawn = {}
        if "precision" in columns:
            drawn["precision"] = precision({label: result})
        if "similar" in columns:
            drawn["similarities"] = similarities(result)
        if any(_EPOCH.fullmatch(name) for name in result.metrics):
            drawn["epochs"] = epochs(result)
        return {name: to_svg(figure, name, ABOUT[name]) for name, figure in drawn.items()}


def precision(results: Mapping[str, Result]) -> Figure:
    """Draw a row for each direction: precision on the left, recall on the right, with a line per model."""
    directions = list(dict.fromkeys(name for result in results.values() for name in result.curves))
    # Two names fit beside each other.
    figure, axes = make_grid(len(directions), 2, 1.9, 0.5 + 0.19 * -(-len(results) // 2))
    for row, direction in zip(axes, directions, strict=True):
        for at, (label, result) in enumerate(results.items()):
            if direction in result.curves:
                curve = result.curves[direction]
                for panel, what in zip(row, ("precision", "recall"), strict=True):
                    panel.plot(curve["k"], curve[what], color=colour(at), label=label if row is axes[0] else None)
        for panel, what in zip(row, ("precision", "recall"), strict=True):
            panel.set_title(f"{direction.replace('_to_', ' → ')}: {what}", loc="left", fontsize=8.5)
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:,.0f}"))
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_ylim(bottom=0)
            panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            panel.grid(axis="y")
            if row is axes[-1]:
                panel.set_xlabel("first k (logarithmic)")
    if any(results):
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, handlelength=1)
    return figure


def similarities(result: Result) -> Figure:
    """Draw a panel per space: shares of both classes by similarity, and the calibrated threshold."""
    figure, axes = make_grid(len(result.curves), 1, 1.25, 0.5)
    for (only,), (space, curve) in zip(axes, result.curves.items(), strict=True):
        for at, name in enumerate(("dissimilar", "similar")):
            only.fill_between(curve["similarity"], curve[name], color=colour(at), alpha=0.3, linewidth=0)
            only.plot(curve["similarity"], curve[name], color=colour(at), linewidth=1.3, label=name)
        # Room for the words beside the threshold.
        only.set_ylim(0, 1.3 * max(max(curve["similar"]), max(curve["dissimilar"])))
        _mark(only, result.thresholds[space])
        only.set_title(space, loc="left", fontsize=8.5)
        only.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        only.grid(axis="y")
    axes[-1][0].set_xlabel("cosine similarity")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, handlelength=1)
    return figure


def epochs(result: Result) -> Figure:
    """Draw a line per space over the epochs of the paper's protocol; further figures are dashed lines."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, value in result.metrics.items():
        if match := _EPOCH.fullmatch(name):
            lines.setdefault(match[1] or "", []).append((int(match[2]), value))
    figure, axes = make_axes(3.0)
    draw_lines(axes, {space: np.array(points) for space, points in lines.items()}, marker="o")
    for at, space in enumerate(lines):
        axes.axhline(
            result.metrics[f"{space}/top1".lstrip("/")], color=colour(at), linewidth=1.1, linestyle=(0, (4, 3))
        )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy on test")
    return figure


def classes_by_epoch(lines: Mapping[str, np.ndarray], result: Result, best: int) -> Figure:
    """Draw a panel per aligned space: precision of both classes over epochs.

    Args:
        lines: finished epochs, and precision of similar and of dissimilar pairs, [E, 3], by space.
        result: figures of the kept checkpoint, with the frozen-encoder baselines, which are dashed.
        best: number of epochs at the kept checkpoint, marked by a vertical line.
    """
    figure, axes = make_grid(len(lines), 1, 1.45, 0.5)
    alone = aligned_spaces(result)
    for (only,), (space, points) in zip(axes, lines.items(), strict=True):
        only.axvline(best, color=MUTED, linewidth=0.9)
        for column, (name, similar) in enumerate(CLASSES, 1):
            tone = colour(int(similar))
            only.plot(points[:, 0], points[:, column], color=tone, marker="o", markersize=3, label=name)
            if raw := alone.get(space):
                value = result.metrics[f"{raw}/{name}/precision"]
                only.axhline(value, color=tone, linewidth=1.1, linestyle=(0, (4, 3)))
        only.set_title(space, loc="left", fontsize=8.5)
        only.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        only.yaxis.set_major_locator(MaxNLocator(4))
        only.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        only.grid(axis="y")
        only.set_xlim(left=0)
    # A common scale makes panels comparable; unused ranges are cut off.
    low, high = (end(only.get_ylim()[side] for (only,) in axes) for side, end in enumerate((min, max)))
    for (only,) in axes:
        only.set_ylim(max(0, low), min(1.02, high))
    axes[-1][0].set_xlabel("epoch")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=2, frameon=False, handlelength=1)
    return figure


def _mark(axes: Axes, threshold: float) -> None:
    """Draw a line at the threshold with its value, on the side with enough room."""
    low, high = axes.get_xlim()
    # A threshold beyond all cosines puts every pair into the same class.
    place = min(max(threshold, low), high)
    axes.axvline(place, color=INK, linewidth=1.2)
    right = place < (low + high) / 2
    axes.text(
        place,
        0.97,
        f" from {threshold:.3g} similar " if low <= threshold <= high else " all alike ",
        ha="left" if right else "right",
        va="top",
        transform=axes.get_xaxis_transform(),
        fontsize=8,
    )
