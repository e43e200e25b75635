"""The page of a cleaning: suspected pairs with their pictures, to be sorted, filtered and decided anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightcrl import __version__
from lightcrl.data import Item, load_dataset
from lightcrl.errors import ItemError, MissingExtraError
from lightcrl.studies.clean.decisions import Decision
from lightcrl.studies.clean.outcome import Cleaning, sheets

MOST = 400
"""Greatest number of pairs on the page."""
SAMPLE = 60
"""Number of pairs that were found right, for comparison."""
PIXELS = 160
"""Longer side of a picture on the page."""


def render_cleaning(cleaning: Cleaning) -> str:
    """Return the page as HTML.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    try:
        from lightcrl.report.page import fill
    except ImportError as error:
        raise MissingExtraError("the page of a cleaning", "report") from error
    shown = choose_pairs(cleaning.decisions)
    dataset = load_dataset(cleaning.original.data, cleaning.original.kinds)
    wanted = {each.group for each in shown} | {each.moved_to for each in shown if each.moved_to}
    anchors = _anchors(dataset.groups, dataset.links[cleaning.anchor], wanted)
    show = _Shower(dataset.items[cleaning.anchor], cleaning.original.kinds[cleaning.anchor])
    by_key = {
        modality: {item.key: item for item in dataset.items[modality]}
        for modality in dict.fromkeys(each.modality for each in shown)
    }
    pairs = [
        {
            "decision": each,
            "anchor": show(anchors[each.group]) if each.group in anchors else None,
            "home": show(anchors[each.moved_to]) if each.moved_to in anchors else None,
            "item": None if each.content is not None else _shown(by_key[each.modality], each, cleaning.original.kinds),
        }
        for each in shown
    ]
    return fill(
        "cleaning.html.j2",
        {},
        cleaning=cleaning,
        pairs=pairs,
        sheets=sheets(cleaning),
        total=len(cleaning.decisions),
        suspected=sum((each.wrong or 0) > cleaning.threshold for each in cleaning.decisions),
        version=__version__,
    )


def choose_pairs(decisions: tuple[Decision, ...]) -> list[Decision]:
    """Return the pairs that a person should see: the most suspected, all duplicates, and some that were found right.

    >>> choose_pairs(())
    []
    """
    ordered = sorted(decisions, key=lambda each: -(each.wrong or 0.0))
    duplicates = [each for each in ordered if each.duplicate_of or each.near or each.reason in ("leak", "review")]
    suspected = [each for each in ordered if each.reason not in ("right", "not judged")]
    first = dict.fromkeys([*suspected[: MOST - SAMPLE - min(len(duplicates), SAMPLE)], *duplicates[:SAMPLE]])
    right = [each for each in ordered if each.reason == "right" and each not in first]
    return [*first, *right[:: max(1, len(right) // SAMPLE)][:SAMPLE]]


def _anchors(groups: Sequence[str], links: Any, wanted: set[str]) -> dict[str, int]:
    """Return the first anchor of each wanted group."""
    first: dict[str, int] = {}
    for item, group in links.tolist():
        if (name := groups[group]) in wanted:
            first.setdefault(name, item)
    return first


class _Shower:
    """Shows items by number, each read once."""

    def __init__(self, items: Sequence[Item], kind: str) -> None:
        self.items, self.kind = items, kind
        self._read: dict[int, Any] = {}

    def __call__(self, number: int) -> Any:
        if number not in self._read:
            self._read[number] = _show(self.items[number], self.kind)
        return self._read[number]


def _shown(items: Mapping[str, Item], decision: Decision, kinds: Mapping[str, str]) -> Any:
    item = items.get(decision.item)
    return _show(item, kinds[decision.modality]) if item is not None else None


def _show(item: Item, kind: str) -> Any:
    from lightcrl.report.gallery import SHOW, Shown

    if kind == "text":
        return Shown("text", str(item.read()))
    source = str(item.raw) if isinstance(item.raw, Path) else item.source
    try:
        return SHOW[kind](item.read(), source, PIXELS)
    except ItemError:  # encoded once, but gone or changed since
        return Shown("text", source)
