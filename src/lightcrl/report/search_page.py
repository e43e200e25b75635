"""The results of a search on one self-contained page, with the pictures and sounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightcrl import __version__
from lightcrl.errors import ItemError, MissingExtraError
from lightcrl.index.base import Hit
from lightcrl.index.outcome import Outcome

PIXELS = 320
"""Longer side of a picture on the page."""


def render_search(outcome: Outcome) -> str:
    """The page, as HTML.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    try:
        from lightcrl.report.page import fill
    except ImportError as error:
        raise MissingExtraError("the page", "report") from error
    asked = [
        _shown(kind if part.kind is None else part.kind, str(part.item), kind == "minus", part.weight, outcome)
        for kind, parts in outcome.asked.items()
        for part in parts
    ]
    hits = [
        {
            "hit": hit,
            "item": show_hit(hit, outcome.kinds[hit.modality]),
            "metadata": {name: value for name, value in hit.metadata.items() if value not in (None, "")},
        }
        for hit in outcome.hits
    ]
    return fill("search.html.j2", {}, outcome=outcome, asked=asked, hits=hits, version=__version__)


def show_hit(hit: Hit, kind: str) -> Any:
    """An item as a page can show it: a text, or a picture or sound where its file can be read."""
    from lightcrl.report.gallery import Shown

    return Shown("text", hit.text) if hit.text is not None else _read(kind, hit.path, hit.id)


def _read(kind: str, path: str | None, name: str) -> Any:
    from lightcrl.report.gallery import SHOW, Shown

    if path is None or kind not in SHOW:
        return Shown("text", name)
    try:
        return SHOW[kind](Path(path), name, PIXELS)
    except ItemError:  # embedded once, but gone or changed since
        return Shown("text", name)


def _shown(kind: str, item: str, minus: bool, weight: float, outcome: Outcome) -> dict[str, Any]:
    from lightcrl.report.gallery import Shown

    shown = _read(kind, item, item) if kind in ("image", "audio") else Shown("text", item)
    return {"item": shown, "minus": minus, "weight": weight, "like": kind == "like"}
