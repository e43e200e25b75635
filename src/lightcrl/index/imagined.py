"""Queries through a prior: parts of texts as the embeddings of the pictures that fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from lightcrl.encoders.image import read_image
from lightcrl.errors import ItemError, QueryError
from lightcrl.imaginer import TextPrior
from lightcrl.index.base import Hit, Part
from lightcrl.index.index import Index
from lightcrl.index.query import of_kind, parts

MOST_PIXELS = 2**31


def through_prior(prior: TextPrior, kinds: Mapping[str, str], asked: Mapping[str, Any]) -> dict[str, list[Part]]:
    """Return the parts of a query with an embedding by the prior in place of each item of the prior's modality.

    Args:
        prior: the prior.
        kinds: kind of item by modality of the model.
        asked: items by argument of `Index.search`.

    Raises:
        HeadError: the prior makes features in place of embeddings.
        QueryError: the query has no part that the prior reads, or an empty one.
    """
    listed = {kind: list(parts(value, kind)) for kind, value in asked.items()}
    own = {
        id(part): part
        for kind, given in listed.items()
        for part in given
        if kind != "like" and (part.modality or of_kind(kinds, part.kind or _kind(kind))) == prior.head.source
    }
    if not own:
        raise QueryError(
            f"the query has no item of {prior.head.source!r}, which the prior reads; expected a text, or a query "
            "without the prior."
        )
    prior.need_embeddings()
    vectors = dict(zip(own, prior.vectors([part.item for part in own.values()]), strict=True))
    return {
        kind: [
            replace(part, vector=vectors[id(part)], modality=prior.head.target) if id(part) in vectors else part
            for part in given
        ]
        for kind, given in listed.items()
    }


def pictures_of(index: Index, hits: Sequence[Hit]) -> list[Image.Image]:
    """Return the pictures of hits, from their files or previews.

    Raises:
        QueryError: a hit has neither, or its file is gone.
    """
    pictures = []
    for hit in hits:
        small = None if hit.path is not None else index.preview(hit.id)
        if hit.path is None and small is None:
            raise QueryError(f"item {hit.id!r} has no picture in the index; build the index from files.")
        try:
            pictures.append(read_image(hit.path if small is None else small.data, MOST_PIXELS))
        except ItemError as error:
            raise QueryError(f"item {hit.id!r}: {error}. Add the file to the index again.") from None
    return pictures


def _kind(argument: str) -> str:
    return "text" if argument == "minus" else argument
