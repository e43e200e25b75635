"""One search with its question and its verdict, as the command line and the page show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightcrl.index.base import Hit, Part
from lightcrl.index.calibration import chance
from lightcrl.index.index import Index

LIKELY = 0.5
"""The probability that chance alone scores as high, from which on a hit does not count as a match."""


@dataclass(frozen=True)
class Outcome:
    """What was asked, and what came of it.

    Attributes:
        asked: by kind (`"text"`, `"image"`, `"audio"`, `"like"`, `"minus"`), the parts of the query.
        where: the filter.
        modality: of the results, where it was asked for.
        hits: the results.
        counts: items of the index by modality.
        kinds: modality to kind of item.
    """

    asked: Mapping[str, tuple[Part, ...]]
    where: str | None
    modality: str | None
    hits: tuple[Hit, ...]
    counts: Mapping[str, int]
    kinds: Mapping[str, str]

    def chance(self, hit: Hit) -> float | None:
        """The probability that the best of as many random items as there are scores as high; None if unknown."""
        return None if hit.share is None else chance(hit.share, self.counts[hit.modality])

    @property
    def matches(self) -> bool | None:
        """Whether anything here matches: the best results are better than chance. None where this is not known."""
        chances = [found for hit in self.hits if (found := self.chance(hit)) is not None]
        return min(chances) < LIKELY if chances else (None if self.hits else False)

    def verdict(self) -> str:
        """The verdict in words; empty where there is nothing to say."""
        if not self.hits:
            return "nothing fits the filter" if self.where or self.modality else "the index is empty"
        if self.matches is False:
            best = min(found for hit in self.hits if (found := self.chance(hit)) is not None)
            return f"nothing here matches: random items score as high as the best with probability {best:.2f}"
        return ""

    def words(self) -> str:
        """The question in words."""
        signs = {"minus": "minus "}
        said = [
            f"{signs.get(kind, '')}{'' if kind in ('text', 'minus') else kind + ' '}{_quoted(part, kind)}"
            for kind, parts in self.asked.items()
            for part in parts
        ]
        return ", ".join(said)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        asked = {
            kind: [{"item": str(part.item), "weight": part.weight} for part in parts]
            for kind, parts in self.asked.items()
        }
        hits = [{**hit.to_json(), "chance": self.chance(hit)} for hit in self.hits]
        told = {"query": asked, "filter": self.where, "modality": self.modality, "items": dict(self.counts)}
        return {**told, "matches": self.matches, "verdict": self.verdict(), "hits": hits}


def look(index: Index, asked: Mapping[str, Any], *, where: str | None, modality: str | None, k: int) -> Outcome:
    """Search, and keep what was asked beside what came of it; arguments are those of `Index.search`."""
    hits = index.search(**asked, where=where, modality=modality, k=k)
    parts = {
        kind: tuple(
            part if isinstance(part, Part) else Part(part) for part in ([given], given)[isinstance(given, list)]
        )
        for kind, given in asked.items()
        if given is not None
    }
    return Outcome(parts, where, modality, tuple(hits), index.counts(), index.modalities)


def _quoted(part: Part, kind: str) -> str:
    weight = "" if part.weight == 1 else f"^{part.weight:g}"
    text = kind in ("text", "minus") and part.kind in (None, "text")
    return (f'"{part.item}"' if text else str(part.item)) + weight
