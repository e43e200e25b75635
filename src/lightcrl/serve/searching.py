"""Searches and embeddings: decode the parts of a request, encode them in shared batches, compose a query, search."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import numpy as np

from lightcrl.embedder import Embedder
from lightcrl.errors import DataError, RequestError, UnknownItemError
from lightcrl.index import Hit, Part, Record
from lightcrl.index.outcome import Outcome
from lightcrl.index.query import compose
from lightcrl.index.reordering import reorder, single
from lightcrl.serve.limits import read_content, read_text
from lightcrl.serve.schemas import (
    MOST_PARTS,
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    HitAnswer,
    ItemAnswer,
    Parts,
    SearchAnswer,
    SearchRequest,
)
from lightcrl.serve.service import Service


async def search(service: Service, asked: SearchRequest) -> SearchAnswer:
    """Return the items nearest to a query.

    Raises:
        BusyError: too many requests or items wait.
        LightCRLError: a part is unreadable, an id or a modality is unknown, or the filter is invalid.
    """
    begun = time.perf_counter()
    service.check_modality(asked.modality)
    given = {kind: list(listed(getattr(asked, kind))) for kind in Parts.model_fields}
    away = {kind: list(listed(getattr(asked.minus, kind, None))) for kind in Parts.model_fields}
    if (count := sum(len(parts) for side in (given, away) for parts in side.values())) > MOST_PARTS:
        raise RequestError(f"a query of {count} parts; expected at most {MOST_PARTS}.")
    encoded = {kind: await encode_parts(service, kind, parts) for kind, parts in given.items()}
    minus = [part for kind, parts in away.items() for part in await encode_parts(service, kind, parts)]
    outcome = await service.searches.run(look, service, encoded, minus, asked)
    if asked.rerank:
        outcome = replace(outcome, hits=await reordered(service, outcome.hits, given, away, asked))
    hits = [hit_answer(hit, outcome.kinds) for hit in outcome.hits[: asked.k]]
    return SearchAnswer(hits=hits, nothing=outcome.matches is False, seconds=time.perf_counter() - begun)


async def reordered(
    service: Service,
    hits: Sequence[Hit],
    given: Mapping[str, Sequence[tuple[str, float]]],
    away: Mapping[str, Sequence[tuple[str, float]]],
    asked: SearchRequest,
) -> tuple[Hit, ...]:
    """Return the hits with the first `asked.rerank` in the order of the model's matching head.

    Raises:
        RequestError: the server encodes queries by an exported model, which gives no tokens.
        HeadError: the model has no matching head.
        QueryError: the query has several parts, or a hit has no content.
    """
    if service.settings.encoder is not None:
        raise RequestError("this server encodes by an exported model; expected rerank = 0, or a server without it.")
    contents: dict[str, Any] = {kind: [content for content, _ in parts] for kind, parts in given.items() if parts}
    contents |= {"minus": [content for parts in away.values() for content, _ in parts]}
    for kind in contents.keys() & {"text", "image", "audio"}:
        contents[kind] = await decode(service, contents[kind], kind)
    query = single(contents, service.index.modalities, lambda name: record(service, name))
    return tuple(await service.searches.run(reorder, service.index.embedder, hits, query, asked.rerank))


def listed(value: Any) -> Iterator[tuple[str, float]]:
    """Yield the content and weight of each part of one kind, from any form that a request allows."""
    for part in value if isinstance(value, list) else [] if value is None else [value]:
        if isinstance(part, str):
            yield part, 1.0
        else:
            content = next(getattr(part, name) for name in ("value", "data", "id") if hasattr(part, name))
            yield content, part.weight


async def encode_parts(service: Service, kind: str, parts: Sequence[tuple[str, float]]) -> list[Part]:
    """Return the parts of a query with vectors in place of their contents; ids stay unchanged."""
    if kind == "like" or not parts:
        return [Part(name, weight, kind="like") for name, weight in parts]
    modality = service.modality_of(kind)
    items = await decode(service, [content for content, _ in parts], kind)
    vectors = await encode(service, items, modality)
    return [Part(vector, weight, kind, modality) for vector, (_, weight) in zip(vectors, parts, strict=True)]


async def decode(service: Service, contents: Sequence[str], kind: str) -> list[Any]:
    """Return checked texts, or the pictures and sounds of data URLs, decoded in a pool."""
    limits = service.settings.limits
    if kind == "text":
        return [read_text(content, limits) for content in contents]
    items = []
    for content in contents:
        its_kind, item = await service.searches.run(read_content, content, limits)
        if its_kind != kind:
            raise DataError(f"a data URL of kind {its_kind!r} where {kind!r} was expected.")
        items.append(item)
    return items


async def encode(service: Service, items: Sequence[Any], modality: str) -> np.ndarray:
    """Return vectors [N, d] of decoded items, encoded in batches with items of other clients."""
    return await asyncio.wrap_future(service.batcher.submit(items, modality))


class _Encoded:
    """Stand-in for an embedder whose items are encoded already."""

    def __init__(self, modalities: Mapping[str, str]) -> None:
        self.modalities = modalities

    def encode(self, items: Sequence[np.ndarray], modality: str) -> np.ndarray:
        return np.stack(items)


def look(service: Service, given: Mapping[str, list[Part]], minus: list[Part], asked: SearchRequest) -> Outcome:
    """Compose a query from encoded parts, and search."""
    index = service.index

    def like(name: str) -> tuple[str, str, np.ndarray]:
        return name, record(service, name).modality, index.vectors([name])[0]

    embedder = cast(Embedder, _Encoded(index.modalities))
    query = compose(lambda: embedder, like, given, minus)
    hits = tuple(index.search_query(query, where=asked.filter, modality=asked.modality, k=max(asked.k, asked.rerank)))
    ordinary = index.ordinary(query.modality, hits, where=asked.filter)
    return Outcome({}, asked.filter, asked.modality, hits, ordinary, index.counts(), index.modalities)


def record(service: Service, name: str) -> Record:
    """Return the item with exactly this id.

    Raises:
        UnknownItemError: no item has this id.
    """
    named = service.catalog.named([name])
    if name not in named:
        raise UnknownItemError(f"no item {name[:200]!r}.")
    return named[name][1]


def item_answer(item: Record | Hit, kinds: Mapping[str, str]) -> ItemAnswer:
    """Return the answer for an item, with the name of its file but not the folder."""
    return ItemAnswer(
        id=item.id,
        modality=item.modality,
        kind=kinds.get(item.modality, ""),
        path=None if item.path is None else Path(item.path).name,
        text=item.text,
        metadata={name: plain(value) for name, value in item.metadata.items() if value is not None},
        content=None if item.path is None and item.text is None else f"/items/{quote(item.id, safe='')}/content",
    )


def hit_answer(hit: Hit, kinds: Mapping[str, str]) -> HitAnswer:
    """Return the answer for a result of a search."""
    return HitAnswer(**item_answer(hit, kinds).model_dump(), score=hit.score, share=hit.share)


def plain(value: Any) -> Any:
    """Return a cell as a value of JSON: None for a number that is not finite, hexadecimal digits for bytes."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.hex() if isinstance(value, bytes) else value


async def embeddings(service: Service, asked: EmbeddingsRequest) -> EmbeddingsAnswer:
    """Return embeddings of texts and data URLs, in OpenAI's format."""
    inputs = [asked.input] if isinstance(asked.input, str) else asked.input
    service.check_modality(asked.modality)
    places: dict[str, list[int]] = {}
    for place, content in enumerate(inputs):
        kind = next((kind for kind in ("image", "audio") if content.startswith(f"data:{kind}/")), "text")
        places.setdefault(kind, []).append(place)
    rows: dict[int, np.ndarray] = {}
    for kind, at in places.items():
        modality = service.modality_of(kind, asked.modality)
        items = await decode(service, [inputs[place] for place in at], kind)
        rows.update(zip(at, await encode(service, items, modality), strict=True))
    coded = asked.encoding_format == "base64"
    data = [
        Embedding(index=place, embedding=as_base64(rows[place]) if coded else rows[place].tolist())
        for place in range(len(inputs))
    ]
    return EmbeddingsAnswer(data=data, model=asked.model or model_name(service))


def as_base64(vector: np.ndarray) -> str:
    """Return a vector [d] as base64 of little-endian float32, the format of OpenAI's clients."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def model_name(service: Service) -> str:
    """Return the name of the model's folder, or the start of its fingerprint."""
    return Path(service.index.manifest["model"]["place"] or service.index.fingerprint[:12]).name
