"""The page of a run, or of several side by side."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from lightcrl.errors import MissingExtraError
from lightcrl.report.facts import Report
from lightcrl.report.imagining_page import picture_uri
from lightcrl.report.run_sheets import run_sheets, together_sheet
from lightcrl.tasks.text_similarity import aligned_spaces


def render(*reports: Report) -> str:
    """Return the page of a run, or of several side by side and then each alone, as HTML.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    try:
        from lightcrl.report.figures import draw, draw_together, outline
        from lightcrl.report.page import fill, mark
    except ImportError as error:
        raise MissingExtraError("the report", "report") from error
    names = Counter(report.name for report in reports)
    labels = [report.name if names[report.name] == 1 else report.folder for report in reports]
    measured = {(report.split, *sorted(report.models[0].retrieval.counts.items())) for report in reports}
    directions = list(dict.fromkeys(chain.from_iterable(report.directions for report in reports)))
    return fill(
        "report.html.j2",
        draw_together(dict(zip(labels, reports, strict=True))) if len(reports) > 1 else {},
        runs=[
            {"label": label, "report": report, "figures": mark(draw(report)), "sheets": run_sheets(report)}
            for label, report in zip(labels, reports, strict=True)
        ],
        alike=len(measured) == 1,
        together=together_sheet(dict(zip(labels, reports, strict=True)), directions, len(measured) == 1),
        outline=outline,
        aligned_spaces=aligned_spaces,
        uri=picture_uri,
    )
