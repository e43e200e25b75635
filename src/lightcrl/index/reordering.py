"""The first hits of a search in the order of a matching head, which encodes their files and texts again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lightcrl.embedder import Embedder
from lightcrl.errors import QueryError
from lightcrl.index.base import Hit, Record
from lightcrl.index.query import of_kind, parts
from lightcrl.matcher import Matcher

Single = tuple[str, Any]
"""The modality and the raw item of a query that consists of one item."""


def single(asked: Mapping[str, Any], kinds: Mapping[str, str], record: Callable[[str], Record]) -> Single:
    """Return the only item of a query; arguments of the query are those of `Index.search`.

    Raises:
        QueryError: the query has several parts or one to subtract, or its item has no content.
    """
    given = [(kind, part) for kind, value in asked.items() for part in parts(value, kind)]
    if len(given) != 1 or given[0][0] == "minus":
        raise QueryError(
            f"a query of {len(given)} parts; hits are reordered for one text, picture, sound or item, without minus. "
            "Search for one, or leave rerank out."
        )
    kind, part = given[0]
    if kind == "like":
        item = record(part.item)
        return item.modality, content(item)
    return part.modality or of_kind(kinds, kind), part.item


def content(item: Record | Hit) -> Any:
    """Return the text of an item, or the path of its file.

    Raises:
        QueryError: the index has neither.
    """
    if item.text is None and item.path is None:
        raise QueryError(
            f"item {item.id!r} has neither a text nor a file in the index, which reordering reads. Build the index "
            "from files or texts, or leave rerank out."
        )
    return item.path if item.text is None else item.text


def reorder(embedder: Embedder, hits: Sequence[Hit], query: Single, count: int) -> list[Hit]:
    """Return the hits with the first `count` in the order of the model's matching head.

    Hits of modalities that the head does not match with the query keep their places. Scores stay those of the space.

    Args:
        embedder: the model.
        hits: hits, best first.
        query: the query's modality and raw item.
        count: number of hits to reorder.

    Raises:
        HeadError: the model has no matching head, or one for other modalities.
        QueryError: a hit has no content.
        ItemError: a file is unreadable.
    """
    matcher = Matcher(embedder)
    modality, item = query
    other = matcher.other(modality)
    places = [place for place, hit in enumerate(hits[:count]) if hit.modality == other]
    scores = matcher.scores([item], modality, [content(hits[place]) for place in places], other)[0]
    ordered = list(hits)
    for place, best in zip(places, np.argsort(-scores, kind="stable").tolist(), strict=True):
        ordered[place] = hits[places[best]]
    return ordered
