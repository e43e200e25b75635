"""A comparison as a self-contained page."""

from __future__ import annotations

import numpy as np

from lightcrl import __version__
from lightcrl.errors import MissingExtraError
from lightcrl.files.local import write_text
from lightcrl.studies.compare.outcome import Comparison, remarks, sentences
from lightcrl.studies.compare.tables import difference_sheet, fit_words, growth_sheet, recall_sheet, tried_sheet
from lightcrl.training.log import read_log


def render(comparison: Comparison) -> str:
    """Return the page as HTML.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    try:
        from lightcrl.report.comparison_figures import draw
        from lightcrl.report.page import fill
    except ImportError as error:
        raise MissingExtraError("the page of a comparison", "report") from error
    return fill(
        "comparison.html.j2",
        draw(comparison, learning_curves(comparison)),
        comparison=comparison,
        version=__version__,
        sentences=sentences(comparison),
        remarks=remarks(comparison),
        recall=recall_sheet(comparison),
        differences=difference_sheet(comparison),
        tried=tried_sheet(comparison),
        growth=growth_sheet(comparison.growth) if comparison.growth else None,
        fit_words=fit_words,
    )


def write_comparison(comparison: Comparison) -> None:
    """Write the page into the comparison's folder, if the extra `report` is installed."""
    try:
        page = render(comparison)
    except MissingExtraError:
        return
    write_text(comparison.folder / "report.html", page)


def learning_curves(comparison: Comparison) -> dict[str, np.ndarray]:
    """Return step and mean R@1 on dev of the first seed, [E, 2], by label; methods without steps are omitted."""
    learning = {}
    for method in comparison.ranked:
        log = read_log(method.cells[0].folder)
        points = [(event["step"], event["dev_mean_recall@1"]) for event in log if event["event"] == "evaluation"]
        if points and points[-1][0] > 0:
            learning[method.label] = np.array(points, dtype=np.float64)
    return learning
