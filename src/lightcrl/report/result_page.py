"""An evaluation as a self-contained page: its figures with intervals, and its charts."""

from __future__ import annotations

from lightcrl import __version__
from lightcrl.errors import MissingExtraError
from lightcrl.metrics.result import Result
from lightcrl.report.sheets import figures_sheet

TOLD = {
    "similarities": "Share of pairs by cosine similarity, for each class separately. Where the two colours overlap, no "
    "threshold separates them. The vertical line is the threshold, calibrated on other pairs.",
    "precision": "Precision: the share of right items among the first k. Recall: the share of a query's right items "
    "that are among them. Means over queries; ties count as if broken at random.",
    "epochs": "Accuracy on test by epoch. The dashed line is, for linear probes, logistic regression fitted to "
    "convergence; for fine-tuning, the checkpoint chosen by held-out items.",
}
"""The caption below each figure."""


def render_result(result: Result, task: str, data: str, model: str) -> str:
    """Return the page as HTML.

    Args:
        result: the measured figures.
        task: name of the task in `EVALUATIONS`.
        data: description of the measured data, for people.
        model: description of the measured model, for people.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    try:
        from lightcrl.report.curves import draw_result
        from lightcrl.report.page import fill
    except ImportError as error:
        raise MissingExtraError("the page", "report") from error
    spaces: dict[str, dict[str, str]] = {}
    for name in result.metrics:
        space, _, short = name.partition("/") if not name.startswith("epoch") else ("", "", name)
        spaces.setdefault(space if short else "", {})[name] = short or name
    return fill(
        "result.html.j2",
        draw_result(result, model),
        result=result,
        task=task,
        data=data,
        model=model,
        told=TOLD,
        spaces={space: figures_sheet(result, "", names) for space, names in spaces.items()},
        version=__version__,
    )
