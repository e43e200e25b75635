"""Composed queries: texts, pictures, sounds and items of the index, each with a weight, as one unit vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lightcrl.embedder import Embedder
from lightcrl.errors import ModalityError, QueryError
from lightcrl.index.base import Part

Asked: TypeAlias = Any
"""One item to search for, or a list of items; each may be a `Part` with a weight."""

LEAST = 1e-3
"""Least length of the sum; the parts of a shorter one cancel each other."""


@dataclass(frozen=True)
class Query:
    """A composed query.

    Attributes:
        vector: [d] float32, of unit length.
        modality: modality of the part with the greatest weight.
        ids: ids of the index's items in the query; they are not among the results.
    """

    vector: np.ndarray
    modality: str
    ids: tuple[str, ...]


def compose(
    embedder: Callable[[], Embedder],
    like: Callable[[str], tuple[str, str, np.ndarray]],
    asked: Mapping[str, Asked],
    minus: Asked,
) -> Query:
    """Return the weighted sum of the parts' embeddings, minus that of `minus`, scaled to unit length.

    Args:
        embedder: function that returns the index's model; only called if an item has to be encoded.
        like: function from an id to the id, modality and embedding [d] of an item of the index.
        asked: items to search for, by kind (`"text"`, `"image"`, `"audio"`, `"like"`).
        minus: items to subtract: texts, or parts with a kind.

    Raises:
        QueryError: the query is empty, an id is unknown, or the parts cancel each other.
        ModalityError: the model has no such modality.
        ItemError: a part cannot be read.
    """
    sums, ids = [], []
    weights: dict[str, float] = {}
    signed = [(kind, part, 1.0) for kind, value in asked.items() for part in parts(value, kind)]
    signed += [(part.kind or "text", part, -1.0) for part in parts(minus, "minus")]
    if not any(sign > 0 for _, _, sign in signed):
        raise QueryError("nothing is asked for; expected a text, an image, a sound or the id of an item.")
    for kind, part, sign in signed:
        if kind == "like":
            name, modality, vector = like(part.item)
            ids.append(name)
        else:
            modality = part.modality or of_kind(embedder().modalities, kind)
            vector = embedder().encode([part.item], modality)[0] if part.vector is None else part.vector
        sums.append(sign * part.weight * vector.astype(np.float64))
        if sign > 0:
            weights[modality] = max(weights.get(modality, 0.0), part.weight)
    total = np.sum(sums, axis=0)
    length = float(np.linalg.norm(total))
    if length < LEAST:
        raise QueryError("the parts of the query cancel each other. Change a weight.")
    return Query((total / length).astype(np.float32), max(weights, key=lambda name: weights[name]), tuple(ids))


def parts(value: Asked, kind: str) -> Iterator[Part]:
    """Yield the parts of one argument of a search: none for None, one for an item, each for a list.

    Raises:
        QueryError: a weight is not a number above 0.
    """
    if value is None:
        return
    many: Sequence[Any] = value if isinstance(value, list) else [value]
    for item in many:
        part = item if isinstance(item, Part) else Part(item)
        if not (0 < part.weight < float("inf")):
            raise QueryError(f"a weight of {part.weight!r} in {kind}; expected a number above 0 (minus takes away).")
        yield part


def of_kind(modalities: Mapping[str, str], kind: str) -> str:
    """Return the first modality of a kind.

    Raises:
        ModalityError: the model has no modality of this kind.
    """
    for modality, its_kind in modalities.items():
        if its_kind == kind:
            return modality
    raise ModalityError(f"the model has no modality of kind {kind!r}; it has {dict(modalities)}.")
