"""One evaluation on one self-contained page: its figures with intervals, and what of it can be drawn."""

from __future__ import annotations

from lightcrl import __version__
from lightcrl.errors import MissingExtraError
from lightcrl.metrics.result import Result

TOLD = {
    "similarities": "Share of pairs by cosine similarity, each class by itself. Where the two colours overlap, no "
    "threshold tells them apart. The upright line is the threshold, calibrated on other pairs.",
    "precision": "Precision: the share of right items among the first k. Recall: the share of a query's right items "
    "that are among them. Means over queries; ties count as if broken at random.",
    "epochs": "Accuracy on test by epoch. Dashed is, of linear probes, logistic regression fitted to the end; of "
    "fine-tuning, the checkpoint that held items chose.",
}
"""What stands below each figure."""


def render_result(result: Result, task: str, data: str, model: str) -> str:
    """The page, as HTML.

    Args:
        result: what was measured.
        task: its name in `EVALUATIONS`.
        data: what it was measured on, for people.
        model: what was measured, for people.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    try:
        from lightcrl.report.curves import draw_result
        from lightcrl.report.page import fill
    except ImportError as error:
        raise MissingExtraError("the page", "report") from error
    spaces: dict[str, list[tuple[str, str]]] = {}
    for name in result.metrics:
        space, _, short = name.partition("/") if not name.startswith("epoch") else ("", "", name)
        spaces.setdefault(space if short else "", []).append((name, short or name))
    return fill(
        "result.html.j2",
        draw_result(result, model),
        result=result,
        task=task,
        data=data,
        model=model,
        told=TOLD,
        spaces=spaces,
        version=__version__,
    )
