"""The paper's figure of retrieval: precision over the first k, a line for each model."""

from __future__ import annotations

import io
import re

from lightcrl.files.local import write_text
from lightcrl.studies.reproduce.outcome import Done, Reproduction
from lightcrl.studies.reproduce.published import RAW

_AT = re.compile(r"precision@(\d+)")


def write_figures(reproduction: Reproduction) -> None:
    """Write `<task>.svg` of every retrieval task, if the extra `report` is installed."""
    for task in reproduction.tasks:
        if task.spec.task == "retrieval":
            try:
                figure = precision_svg(task)
            except ImportError:
                return
            write_text(reproduction.folder / f"{task.name}.svg", figure)


def precision_svg(task: Done) -> str:
    """Return a retrieval task as an SVG file: a panel for each direction, mean precision by k of every model.

    Raises:
        ImportError: the extra `report` is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

    from lightcrl.report.drawing import colour, drawing, make_grid

    directions = list(dict.fromkeys(space for spaces in task.judged.values() for space in spaces))
    with drawing(), rc_context({"svg.hashsalt": task.name}):
        figure, axes = make_grid(len(directions), 1, 2.3, 0.5)
        for (only,), direction in zip(axes, directions, strict=True):
            for at, (label, spaces) in enumerate(task.judged.items()):
                if label == RAW or direction not in spaces:
                    continue
                means = {
                    int(match[1]): spaces[direction][name].mean
                    for name in spaces[direction]
                    if (match := _AT.fullmatch(name))
                }
                # The last of the models is the rival of all the others.
                style = "solid" if at + 1 < len(task.judged) else (0, (4, 2))
                only.plot(
                    list(means),
                    list(means.values()),
                    color=colour(at),
                    marker="o",
                    markersize=3,
                    linestyle=style,
                    label=label if only is axes[0][0] else None,
                )
            only.set_title(direction.replace("_to_", " → "), loc="left", fontsize=8.5)
            only.set_xscale("log")
            only.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:,.0f}"))
            only.xaxis.set_minor_formatter(NullFormatter())
            only.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            only.set_ylim(bottom=0)
            only.set_ylabel("precision")
            only.grid(axis="y")
        axes[-1][0].set_xlabel("first k (logarithmic)")
        figure.legend(loc="outside upper left", ncols=4, frameon=False, handlelength=1.6)
        stream = io.StringIO()
        # The background is white, so that the figure is legible on a page of any colour.
        figure.savefig(stream, format="svg", facecolor="white", metadata={"Date": None})
    return stream.getvalue()
