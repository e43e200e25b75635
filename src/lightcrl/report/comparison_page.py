"""A comparison on one self-contained page."""

from __future__ import annotations

import numpy as np

from lightcrl import __version__
from lightcrl.errors import MissingExtraError
from lightcrl.files.local import write_text
from lightcrl.studies.compare.outcome import MAIN, Comparison, remarks, sentences
from lightcrl.studies.compare.tables import costs, fit_words, heading, settings
from lightcrl.training.log import read_log


def render(comparison: Comparison) -> str:
    """The page, as HTML.

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
        main=MAIN,
        versus=comparison.versus,
        heading=heading,
        costs=costs,
        fit_words=fit_words,
        settings=settings,
    )


def write_comparison(comparison: Comparison) -> None:
    """Write the page into the comparison's folder, where the extra `report` is installed."""
    try:
        page = render(comparison)
    except MissingExtraError:
        return
    write_text(comparison.folder / "report.html", page)


def learning_curves(comparison: Comparison) -> dict[str, np.ndarray]:
    """By label, [E, 2] step and mean R@1 on dev of the first seed; methods without steps are left out."""
    found = {}
    for one in comparison.ranked:
        log = read_log(one.cells[0].folder)
        points = [(event["step"], event["dev_mean_recall@1"]) for event in log if event["event"] == "evaluation"]
        if points and points[-1][0] > 0:
            found[one.label] = np.array(points, dtype=np.float64)
    return found
