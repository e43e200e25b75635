"""The results of a search on one self-contained page, with the pictures and sounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightcrl import __version__
from lightcrl.errors import ItemError, MissingExtraError
from lightcrl.index.base import Hit
from lightcrl.index.outcome import Outcome
from lightcrl.index.previews import Preview

PIXELS = 320
"""Longer side of a picture on the page."""


def render_search(outcome: Outcome, preview: Callable[[str], Preview | None] = lambda id: None) -> str:
    """The page, as HTML.

    Args:
        outcome: a search and its results.
        preview: function from the id of an item without a file to its preview.

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
            "item": show_hit(hit, outcome.kinds[hit.modality], preview),
            "metadata": {name: value for name, value in hit.metadata.items() if value not in (None, "")},
        }
        for hit in outcome.hits
    ]
    return fill("search.html.j2", {}, outcome=outcome, asked=asked, hits=hits, version=__version__)


def show_hit(hit: Hit, kind: str, preview: Callable[[str], Preview | None]) -> Any:
    """An item as a page can show it: a text, or a picture or sound where its file or a preview can be read."""
    from lightcrl.report.gallery import Shown

    if hit.text is not None:
        return Shown("text", hit.text)
    if hit.path is None and hit.preview and (small := preview(hit.id)) is not None:
        return _read(kind, small.data, hit.id)
    return _read(kind, hit.path, hit.id)


def _read(kind: str, place: str | bytes | None, name: str) -> Any:
    from lightcrl.report.gallery import SHOW, Shown

    if place is None or kind not in SHOW:
        return Shown("text", name)
    try:
        return SHOW[kind](place if isinstance(place, bytes) else Path(place), name, PIXELS)
    except ItemError:  # embedded once, but gone or changed since
        return Shown("text", name)


def _shown(kind: str, item: str, minus: bool, weight: float, outcome: Outcome) -> dict[str, Any]:
    from lightcrl.report.gallery import Shown

    shown = _read(kind, item, item) if kind in ("image", "audio") else Shown("text", item)
    return {"item": shown, "minus": minus, "weight": weight, "like": kind == "like"}
