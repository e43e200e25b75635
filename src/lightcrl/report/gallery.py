"""Queries with their results: two random queries, the best and the worst of each direction.

Where no group has items of both modalities there are no right answers; such a direction has random queries alone.
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lightcrl.data import Item
from lightcrl.encoders.audio import read_sound
from lightcrl.encoders.image import read_image
from lightcrl.errors import ItemError
from lightcrl.metrics.ranks import ranks

# The preferred target kinds of a query, and the order of queries on a page.
TARGETS = ("image", "text", "audio", "vectors")
QUERIES = ("text", "audio", "image", "vectors")
DRAWN = 2
UNANSWERED = 8
"""Number of random queries of a direction without right answers."""
SHOWN = {"image": 5, "text": 4, "audio": 4, "vectors": 4}
PIXELS = 128  # longer side of a picture on a page
RATE = 16_000  # Hz
SECONDS = 4.0  # greatest length of a sound on a page
BARS = 48  # number of bars in a sound's outline


@dataclass(frozen=True)
class Shown:
    """An item for display on a page or a terminal.

    Attributes:
        kind: `"text"`, `"image"`, `"audio"` or `"vectors"`.
        text: the text itself; for a picture or sound the first text of its group, otherwise its origin.
        uri: the picture or sound as a data URI.
        outline: loudness of a sound in `BARS` steps, from 0 to 1.
    """

    kind: str
    text: str
    uri: str = ""
    outline: tuple[float, ...] = ()


@dataclass(frozen=True)
class Found:
    """A result of a query: the item, its cosine similarity, its place (1 is first) and its correctness."""

    item: Shown
    score: float
    place: int
    right: bool


@dataclass(frozen=True)
class Query:
    """A query and its first results.

    Attributes:
        why: reason for its choice: `"drawn"`, `"best"` or `"worst"`.
        source: modality of the query.
        target: modality of the gallery.
        item: the query.
        found: the first results.
        answer: the best right result, if it is not among `found`.
        rank: place of the best right result; 0 if there is no right answer.
        size: number of items in the gallery.
    """

    why: str
    source: str
    target: str
    item: Shown
    found: tuple[Found, ...]
    answer: Found | None
    rank: int
    size: int


@dataclass(frozen=True)
class Collection:
    """All items of a split with their embeddings.

    Attributes:
        kinds: `"text"`, `"image"`, `"audio"` or `"vectors"` by modality.
        items: N_m items by modality.
        vectors: unit vectors [N_m, d] by modality.
        links: int64 [L, 2] by modality: item number, group number.
    """

    kinds: Mapping[str, str]
    items: Mapping[str, list[Item]]
    vectors: Mapping[str, Tensor]
    links: Mapping[str, np.ndarray]

    def by_group(self, modality: str) -> dict[int, list[int]]:
        """Return the item numbers of each group."""
        members: dict[int, list[int]] = {}
        for item, group in self.links[modality].tolist():
            members.setdefault(group, []).append(item)
        return members


def gallery(
    collection: Collection, seed: int = 0, directions: Sequence[tuple[str, str]] | None = None
) -> tuple[Query, ...]:
    """Return some queries of every direction.

    Args:
        collection: items to query and to search.
        seed: seed of the random choice.
        directions: source and target of every direction; by default every modality to its preferred target, texts
            first.
    """
    show = _shower(collection)
    if directions is None:
        directions = [
            (source, next(target for target in by_kind(collection.kinds, TARGETS) if target != source))
            for source in by_kind(collection.kinds, QUERIES)
        ]
    return tuple(
        query
        for source, target in directions
        for query in (
            *_direction(collection, source, target, show, seed),
            *_unanswered(collection, source, target, show, seed),
        )
    )


def by_kind(kinds: Mapping[str, str], order: Sequence[str] = TARGETS) -> list[str]:
    """Return modalities in the order of their kinds.

    >>> by_kind({"sound": "audio", "photo": "image"})
    ['photo', 'sound']
    """
    return [name for kind in order for name, medium in kinds.items() if medium == kind]


def _direction(
    collection: Collection, source: str, target: str, show: Callable[[str, int], Shown], seed: int
) -> Iterator[Query]:
    answers = collection.by_group(target)
    right: dict[int, set[int]] = {}
    for item, group in collection.links[source].tolist():
        if group in answers:
            right.setdefault(item, set()).update(answers[group])
    if not right:
        return
    numbers = sorted(right)
    asking, searched = collection.vectors[source], collection.vectors[target]
    pairs = [(at, item) for at, number in enumerate(numbers) for item in sorted(right[number])]
    rank = ranks(asking[numbers], searched, np.array(pairs))[:, 0] + 1
    likeness = np.array([float((searched[sorted(right[number])] @ asking[number]).max()) for number in numbers])
    for why, at in _choose(rank, likeness, seed):
        number = numbers[at]
        scores = (searched @ asking[number]).numpy()
        results = _first(collection, target, scores, right[number], show)
        answer = None
        if not any(result.right for result in results):
            best = max(right[number], key=lambda item: (scores[item], -item))
            answer = Found(show(target, best), float(scores[best]), int(rank[at]), True)
        yield Query(why, source, target, show(source, number), results, answer, int(rank[at]), len(searched))


def _first(
    collection: Collection, target: str, scores: np.ndarray, right: set[int], show: Callable[[str, int], Shown]
) -> tuple[Found, ...]:
    """Return the first results of a query from its similarity [N] to every item of the gallery."""
    best = np.argsort(-scores, kind="stable").tolist()[: SHOWN[collection.kinds[target]]]
    return tuple(
        Found(show(target, item), float(scores[item]), place, item in right) for place, item in enumerate(best, 1)
    )


def _unanswered(
    collection: Collection, source: str, target: str, show: Callable[[str, int], Shown], seed: int
) -> Iterator[Query]:
    """Yield random queries, each with another text, if no group has items of both modalities."""
    if collection.by_group(source).keys() & collection.by_group(target).keys():
        return
    searched, told = collection.vectors[target], set[str]()
    for number in np.random.default_rng(seed).permutation(len(collection.vectors[source])).tolist():
        item = show(source, number)
        if len(told) == UNANSWERED or item.text in told:
            continue
        told.add(item.text)
        scores = (searched @ collection.vectors[source][number]).numpy()
        results = _first(collection, target, scores, set(), show)
        yield Query("drawn", source, target, item, results, None, 0, len(searched))


def _choose(rank: np.ndarray, likeness: np.ndarray, seed: int) -> list[tuple[str, int]]:
    """Return reasons and queries, each query once: the best has the nearest right answer, the worst the last."""
    best, worst = int(np.lexsort((-likeness, rank))[0]), int(np.lexsort((likeness, -rank))[0])
    others = [int(at) for at in np.random.default_rng(seed).permutation(len(rank)) if at not in (best, worst)]
    chosen = [*(("drawn", at) for at in others[:DRAWN]), ("best", best)]
    return chosen if worst == best else [*chosen, ("worst", worst)]


def _shower(collection: Collection) -> Callable[[str, int], Shown]:
    """Return a function that displays an item of a modality."""
    told: dict[int, str] = {}
    for modality, kind in collection.kinds.items():
        if kind == "text":
            for group, members in collection.by_group(modality).items():
                told.setdefault(group, str(collection.items[modality][members[0]].read()))
    # An item of several groups is described by its first group.
    group_of = {modality: dict(reversed(links.tolist())) for modality, links in collection.links.items()}

    def show(modality: str, number: int) -> Shown:
        item, kind = collection.items[modality][number], collection.kinds[modality]
        if kind == "text":
            return Shown(kind, str(item.read()))
        text = told.get(group_of[modality][number], item.source)
        if kind == "vectors":
            return Shown(kind, text)
        try:
            return SHOW[kind](item.read(), text)
        except ItemError:  # the file was encoded once, but is gone or changed since
            return Shown(kind, text)

    return show


def _show_image(raw: Any, text: str, pixels: int = PIXELS) -> Shown:
    picture = read_image(raw, max_pixels=2**31)
    picture.thumbnail((pixels, pixels))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return Shown("image", text, _uri("image/jpeg", stream.getvalue()))


def _show_audio(raw: Any, text: str, pixels: int = PIXELS) -> Shown:
    samples = read_sound(raw, RATE, SECONDS)
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", ""))
        file.writeframes((samples.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    loudness = np.array([np.abs(part).max(initial=0) for part in np.array_split(samples, BARS)])
    outline = tuple((loudness / max(loudness.max(), 1e-9)).round(3).tolist())
    return Shown("audio", text, _uri("audio/wav", stream.getvalue()), outline)


SHOW: Mapping[str, Callable[..., Shown]] = {"image": _show_image, "audio": _show_audio}


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
