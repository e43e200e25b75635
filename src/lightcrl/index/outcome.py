"""A search with its query and its verdict, as the command line and the page show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightcrl.imaginer import TextPrior
from lightcrl.index.base import Hit, Part
from lightcrl.index.imagined import through_prior
from lightcrl.index.index import Index
from lightcrl.index.reordering import reorder, single

RARE = 0.05
"""Share of ordinary queries below which the verdict is that nothing matches."""


@dataclass(frozen=True)
class Outcome:
    """A query and its results.

    Attributes:
        asked: parts of the query by kind (`"text"`, `"image"`, `"audio"`, `"like"`, `"minus"`).
        where: the filter.
        modality: modality of the results, if the query asks for one.
        hits: the results.
        ordinary: share of ordinary queries that find nothing nearer; None if it was not measured.
        counts: items of the index by modality.
        kinds: modality to kind of item.
    """

    asked: Mapping[str, tuple[Part, ...]]
    where: str | None
    modality: str | None
    hits: tuple[Hit, ...]
    ordinary: float | None
    counts: Mapping[str, int]
    kinds: Mapping[str, str]

    @property
    def matches(self) -> bool | None:
        """True if an item matches, False if none does; None if the index cannot tell."""
        if not self.hits:
            return False
        return None if self.ordinary is None else self.ordinary >= RARE

    def verdict(self) -> str:
        """Return the verdict in words; an empty text if there is none."""
        if not self.hits:
            return "nothing fits the filter" if self.where or self.modality else "the index is empty"
        if self.matches is False:
            return f"nothing here matches: {1 - (self.ordinary or 0):.0%} of ordinary queries find something nearer"
        return ""

    def words(self) -> str:
        """Return the query in words."""
        signs = {"minus": "minus "}
        words = [
            f"{signs.get(kind, '')}{'' if kind in ('text', 'minus') else kind + ' '}{_quoted(part, kind)}"
            for kind, parts in self.asked.items()
            for part in parts
        ]
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON."""
        asked = {
            kind: [{"item": str(part.item), "weight": part.weight} for part in parts]
            for kind, parts in self.asked.items()
        }
        described = {"query": asked, "filter": self.where, "modality": self.modality, "items": dict(self.counts)}
        return {
            **described,
            "matches": self.matches,
            "ordinary": self.ordinary,
            "verdict": self.verdict(),
            "hits": [hit.to_json() for hit in self.hits],
        }


def look(
    index: Index,
    asked: Mapping[str, Any],
    *,
    where: str | None,
    modality: str | None,
    k: int,
    rerank: int = 0,
    prior: TextPrior | None = None,
) -> Outcome:
    """Search, and return the query with its results.

    Args:
        index: the index.
        asked: items by argument of `Index.search`.
        where: filter of the results.
        modality: modality of the results.
        k: number of results.
        rerank: number of first hits that are reordered.
        prior: prior that makes the embeddings of texts.
    """
    query = index.query(**(asked if prior is None else through_prior(prior, index.modalities, asked)))
    hits = tuple(index.search_queries([query], where=where, modality=modality, k=max(k, rerank))[0])
    if rerank:
        hits = tuple(reorder(index.embedder, hits, single(asked, index.modalities, index.get), rerank))[:k]
    parts = {
        kind: tuple(part if isinstance(part, Part) else Part(part) for part in given)
        for kind, value in asked.items()
        if (given := value if isinstance(value, list) else [value] if value is not None else [])
    }
    ordinary = index.ordinary(query.modality, hits, where=where)
    return Outcome(parts, where, modality, hits, ordinary, index.counts(), index.modalities)


def _quoted(part: Part, kind: str) -> str:
    weight = "" if part.weight == 1 else f"^{part.weight:g}"
    text = kind in ("text", "minus") and part.kind in (None, "text")
    return (f'"{part.item}"' if text else str(part.item)) + weight
