"""Searches and embeddings: decode the parts of a request, search in shared batches, and write the answer."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import Response
from pydantic_core import to_json

from lightcrl.errors import DataError, LightCRLError, RequestError
from lightcrl.index import Hit, Part, Record
from lightcrl.index.imagined import through_prior
from lightcrl.index.outcome import Outcome
from lightcrl.index.reordering import reorder, single
from lightcrl.serve.content import stored
from lightcrl.serve.joint import JOINT, Search, search_together
from lightcrl.serve.limits import read_content, read_text
from lightcrl.serve.schemas import (
    MOST_PARTS,
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ItemAnswer,
    Parts,
    SearchRequest,
)
from lightcrl.serve.service import Service


async def search(service: Service, asked: SearchRequest) -> Response:
    """Return the items nearest to a query, as the JSON of a `SearchAnswer`.

    Raises:
        BusyError: too many requests or items wait.
        LightCRLError: a part is unreadable, an id or a modality is unknown, or the filter is invalid.
    """
    begun = time.perf_counter()
    wanted = await read_search(service, asked)
    outcome = await find(service, wanted)
    nearest = await reordered(service, outcome.hits, wanted, asked.rerank) if asked.rerank else outcome.hits
    hits = [hit_fields(hit, outcome.kinds) for hit in nearest[: asked.k]]
    answer = {"hits": hits, "nothing": outcome.matches is False, "seconds": time.perf_counter() - begun}
    # The fields are those of the model by construction; a validation of each hit takes longer than the search.
    return Response(to_json(answer), media_type="application/json")


async def read_search(service: Service, asked: SearchRequest) -> Search:
    """Return a search with its contents checked and decoded."""
    service.check_modality(asked.modality)
    given = {kind: list(listed(getattr(asked, kind))) for kind in Parts.model_fields}
    away = {kind: list(listed(getattr(asked.minus, kind, None))) for kind in Parts.model_fields}
    if (count := sum(len(parts) for side in (given, away) for parts in side.values())) > MOST_PARTS:
        raise RequestError(f"a query of {count} parts; expected at most {MOST_PARTS}.")
    decoded = {kind: await read_parts(service, kind, parts) for kind, parts in given.items()}
    minus = [part for kind, parts in away.items() for part in await read_parts(service, kind, parts)]
    return Search(decoded, minus, asked.modality, asked.filter, max(asked.k, asked.rerank), asked.prior)


async def find(service: Service, search: Search) -> Outcome:
    """Return the outcome of a search, made together with those of other clients if possible."""
    if search.prior:
        (outcome,) = await service.searches.run(_through_prior, service, search)
    else:
        encoded = await encode_search(service, search)
        if search.where is None and service.settings.batch > 1:
            (outcome,) = await asyncio.wrap_future(service.finder.submit([encoded], JOINT))
        else:  # a filter may take seconds
            (outcome,) = await service.searches.run(search_together, service.index, [encoded], service.like)
    if isinstance(outcome, LightCRLError):
        raise outcome
    return outcome


async def encode_search(service: Service, search: Search) -> Search:
    """Return a search with vectors in place of contents, encoded in batches with items of other clients."""
    contents = search.contents
    vectors: dict[int, np.ndarray] = {}
    for modality in dict.fromkeys(str(part.modality) for part in contents):
        parts = [part for part in contents if part.modality == modality]
        rows = await encode(service, [part.item for part in parts], modality)
        vectors.update((id(part), row) for part, row in zip(parts, rows, strict=True))
    return search.with_vectors(vectors)


def _through_prior(service: Service, search: Search) -> list[Outcome | LightCRLError]:
    """Search with the embeddings that the model's prior makes.

    Raises:
        RequestError: the server encodes queries by an exported model, which gives no tokens.
        HeadError: the model has no prior.
        QueryError: the query has no text.
    """
    if service.settings.encoder is not None:
        raise RequestError("this server encodes by an exported model; expected prior = false, or a server without it.")
    asked = {**{kind: list(parts) for kind, parts in search.given.items()}, "minus": list(search.minus)}
    made = through_prior(service.prior(), service.index.modalities, asked)
    embedder = service.index.embedder
    vectors = {
        id(part): embedder.encode([part.item], str(part.modality))[0] if part.vector is None else part.vector
        for parts in made.values()
        for part in parts
        if part.kind != "like"
    }
    minus = made.pop("minus")
    ready = replace(search, given=made, minus=minus).with_vectors(vectors)
    return search_together(service.index, [ready], service.like)


async def reordered(service: Service, hits: Sequence[Hit], wanted: Search, count: int) -> Sequence[Hit]:
    """Return the hits with the first `count` in the order of the model's matching head.

    Raises:
        RequestError: the server encodes queries by an exported model, which gives no tokens.
        HeadError: the model has no matching head.
        QueryError: the query has several parts, or a hit has no content.
    """
    if service.settings.encoder is not None:
        raise RequestError("this server encodes by an exported model; expected rerank = 0, or a server without it.")
    contents: dict[str, Any] = {kind: list(parts) for kind, parts in wanted.given.items() if parts}
    contents |= {"minus": list(wanted.minus)}
    query = single(contents, service.index.modalities, service.record)
    ordered: list[Hit] = await service.searches.run(reorder, service.index.embedder, hits, query, count)
    return ordered


def listed(value: Any) -> Iterator[tuple[str, float]]:
    """Yield the content and weight of each part of one kind, from any form that a request allows."""
    for part in value if isinstance(value, list) else [] if value is None else [value]:
        if isinstance(part, str):
            yield part, 1.0
        else:
            content = next(getattr(part, name) for name in ("value", "data", "id") if hasattr(part, name))
            yield content, part.weight


async def read_parts(service: Service, kind: str, parts: Sequence[tuple[str, float]]) -> list[Part]:
    """Return the parts of a query with decoded contents; ids stay unchanged."""
    if kind == "like" or not parts:
        return [Part(name, weight, kind="like") for name, weight in parts]
    modality = service.modality_of(kind)
    items = await decode(service, [content for content, _ in parts], kind)
    return [Part(item, weight, kind, modality) for item, (_, weight) in zip(items, parts, strict=True)]


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


def preview_of(service: Service, record: Record, size: int) -> tuple[bytes, str]:
    """Return the content of an item without a file, and its media type.

    Raises:
        UnknownItemError: neither the index nor its run holds the content.
    """
    return stored(service.index.preview(record.id), record, size, service.settings.limits)


def item_fields(item: Record | Hit, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of an `ItemAnswer`, with the name of the item's file but not the folder."""
    shown = item.path is not None or item.text is not None or item.preview
    return {
        "id": item.id,
        "modality": item.modality,
        "kind": kinds.get(item.modality, ""),
        "path": None if item.path is None else Path(item.path).name,
        "text": item.text,
        "metadata": {name: plain(value) for name, value in item.metadata.items() if value is not None},
        "content": f"/items/{quote(item.id, safe='')}/content" if shown else None,
    }


def item_answer(item: Record | Hit, kinds: Mapping[str, str]) -> ItemAnswer:
    """Return the answer for an item."""
    return ItemAnswer(**item_fields(item, kinds))


def hit_fields(hit: Hit, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a `HitAnswer`, for a result of a search."""
    return {**item_fields(hit, kinds), "score": hit.score, "share": hit.share}


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
