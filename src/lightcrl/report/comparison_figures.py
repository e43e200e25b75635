"""The figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from lightcrl.report.drawing import INK, MUTED, SERIES, colour, draw_lines, drawing, make_axes, to_svg
from lightcrl.studies.compare.outcome import MAIN, Comparison

ABOUT = {
    "forest": "Mean recall@1 of every method with its interval",
    "learning": "Mean recall@1 on dev by step",
    "growth": "Mean recall@1 by number of training groups",
}
MOST = len(SERIES)
"""Greatest number of methods in a line chart: the best ones."""


def draw(comparison: Comparison, curves: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return every figure by name, as `<svg>`; `curves` are [E, 2] step and recall by label."""
    with drawing():
        drawn = {"forest": _forest(comparison)}
        if curves:
            drawn["learning"] = _learning(dict(list(curves.items())[:MOST]), comparison.chance[MAIN])
        if comparison.growth:
            drawn["growth"] = _growth(comparison)
        return {name: to_svg(figure, name, ABOUT[name]) for name, figure in drawn.items()}


def _forest(comparison: Comparison) -> Figure:
    """Draw a dot and its intervals per method, the best on top; methods that differ significantly from it are muted."""
    ranked = comparison.ranked
    figure, axes = make_axes(0.9 + 0.3 * len(ranked))
    for place, method in enumerate(ranked):
        recall = method.figures[MAIN]
        level = place == 0 or comparison.differences[ranked[0].label, method.label].word == "not significant"
        tone = colour(0) if level else MUTED
        axes.hlines(place, *recall.both, color=tone, linewidth=1.2)
        axes.hlines(place, *recall.items, color=tone, linewidth=3.2)
        axes.plot([recall.mean], [place], color=tone, marker="o", markersize=5.5)
        text = f"{100 * recall.mean:.1f}"
        axes.annotate(text, (recall.mean, place), (0, 5), textcoords="offset points", ha="center", color=tone)
    axes.set_yticks(range(len(ranked)), [method.label for method in ranked])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(ranked) - 0.5, -0.75)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"mean recall@1 on {comparison.recipe.evaluation.split}, with 95 % intervals")
    return figure


def _learning(curves: Mapping[str, np.ndarray], chance: float) -> Figure:
    figure, axes = make_axes(3.0)
    draw_lines(axes, curves, marker="o")
    axes.axhline(chance, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("step")
    axes.set_ylabel("mean recall@1 on dev")
    return figure


def _growth(comparison: Comparison) -> Figure:
    """Draw means with the seeds' range, and fitted curves up to three times the data."""
    figure, axes = make_axes(3.2 + 0.09 * len(comparison.growth[:MOST]))
    growth = comparison.growth[:MOST]
    most = float(growth[0].sizes[-1])
    for number, method in enumerate(growth):
        means = method.recall.mean(0)
        tone = colour(number)
        axes.vlines(method.sizes, method.recall.min(0), method.recall.max(0), color=tone, linewidth=1.2)
        style = "none" if method.forecast else "solid"
        axes.plot(method.sizes, means, color=tone, marker="o", markersize=4, linestyle=style, label=method.label)
        if method.forecast:
            for first, last, dashes in ((float(method.sizes[0]), most, "solid"), (most, 3 * most, (0, (3, 2)))):
                places = np.geomspace(first, last, 60)
                axes.plot(places, method.forecast.curve(places), color=tone, linewidth=1.3, linestyle=dashes)
    target = next((method.forecast.target for method in growth if method.forecast), None)
    if target is not None:
        axes.axhline(target, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_xticks(growth[0].sizes, [f"{size:,}" for size in growth[0].sizes.tolist()], rotation=35, ha="right")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}%"))
    figure.legend(frameon=False, loc="outside lower left", ncols=2, fontsize=8, handlelength=1)
    axes.grid(axis="y")
    axes.set_xlabel("training groups (logarithmic)")
    axes.set_ylabel("mean recall@1")
    return figure
