"""The common style of all figures: SVG inside a page, with the page's colours and font."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Figures are drawn in these colours and shown in the page's variables at the same position, for light and dark pages.
INK, MUTED, RULE, ON_COLOUR = "#1a1d21", "#5c6671", "#dfe3e8", "#fffffe"
SERIES = ("#0b6599", "#b4540a", "#5b4a9e", "#3d7a34", "#a3316f", "#6b6300", "#1f7a78", "#8a4b3a")
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    ON_COLOUR: "var(--on-colour)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)},
}
MARKERS = ("o", "^", "s", "D", "v", "P")
STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.8,
}
WIDTH = 4.7  # inches: text keeps its size on a phone


@contextmanager
def drawing() -> Iterator[None]:
    """Draw figures and convert them to SVG in the style of the pages, within this context."""
    with rc_context(STYLE), warnings.catch_warnings():
        # The browser has glyphs for all languages; the font for the layout does not.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def draw_lines(axes: Axes, lines: Mapping[str, np.ndarray], marker: str | None = None) -> None:
    """Draw lines [n, 2], each with its name at its end."""
    # A method in closed form is measured once, at step 0.
    last = max(points[-1, 0] for points in lines.values()) or 1
    top = max(points[:, 1].max() for points in lines.values())
    for at, points in enumerate(lines.values()):
        axes.plot(*points.T, color=colour(at), marker=marker, markersize=3.5)
    ends = {at: float(points[-1, 1]) for at, points in enumerate(lines.values())}
    below = -np.inf
    for at in sorted(ends, key=lambda at: ends[at]):
        below = max(ends[at], below + 0.08 * top)
        axes.text(last * 1.02, below, list(lines)[at], color=colour(at), va="center", fontweight="bold")
    axes.set_xlim(0, last * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")


def make_axes(height: float = 2.6) -> tuple[Figure, Axes]:
    """Make a figure of `WIDTH` by `height` inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def make_grid(rows: int, columns: int, height: float, more: float) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure of `WIDTH` with rows of axes, each `height` inches, and `more` inches for its margins."""
    figure = Figure(figsize=(WIDTH, rows * height + more), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def add_legend(axes: Axes) -> None:
    """Add names above the axes, bars and points before lines."""
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda at: names[at].startswith("chance"))
    axes.legend(
        [handles[at] for at in order],
        [names[at] for at in order],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(names),
        handlelength=1,
        columnspacing=1.6,
        frameon=False,
    )


def colour(number: int) -> str:
    """Return the colour of the series with this number; colours repeat after eight."""
    return SERIES[number % len(SERIES)]


def to_svg(figure: Figure, name: str, about: str) -> str:
    """Return the figure as SVG without prologue, metadata, global styles, namespaces and font."""
    stream = io.StringIO()
    canvas, layout = FigureCanvasSVG(figure), figure.get_layout_engine()
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set(facecolor="none", edgecolor="none")
    if layout is not None:  # `savefig` draws everything once for the layout alone
        layout.execute(figure)
        figure.set_layout_engine("none")
    with rc_context({"svg.hashsalt": name}):
        canvas.print_svg(stream)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "var(--font)", svg)
    svg = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{escape(about)}">', svg
    )
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return re.sub(r"\n\s*", "\n", svg).strip()
