"""Answers over all items: columns, pages of items, the map, duplicates, outliers.

All answers but pages of items are cached until the index changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from lightcrl import __version__
from lightcrl.errors import TooLargeError
from lightcrl.index import find_duplicates, find_outliers
from lightcrl.serve.schemas import (
    ColumnAnswer,
    DuplicatesAnswer,
    InfoAnswer,
    ItemAnswer,
    ItemsAnswer,
    MapAnswer,
    OutliersAnswer,
)
from lightcrl.serve.searching import item_answer, model_name, plain
from lightcrl.serve.service import Service

VALUES = 30
"""Number of a column's commonest values in an answer."""

SHOWN = 240
"""Number of groups of each modality, and of outliers, whose items are in the answer."""

SHOWN_OF_GROUP = 12
"""Number of items of a group that are in the answer."""

KEPT = 4
"""Number of cached answers of each kind."""


def of_generation(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return `make(service, ...)` with a cache of its answers that holds until the index changes."""

    @lru_cache(KEPT)
    def kept(service: Service, generation: int, *given: Any) -> Any:
        return make(service, *given)

    def ask(service: Service, *given: Any) -> Any:
        return kept(service, service.catalog.state().generation, *given)

    return ask


@of_generation
def info(service: Service) -> InfoAnswer:
    """Return a description of the served index."""
    index, columns = service.index, {}
    for name in service.catalog.columns():
        numbers, values = service.catalog.values(name, VALUES)
        columns[name] = ColumnAnswer(type="number" if numbers else "text", values=[plain(value) for value in values])
    return InfoAnswer(
        items=len(index),
        modalities=index.modalities,
        counts=index.counts(),
        columns=columns,
        writable=service.settings.writable,
        model=model_name(service),
        heads=list(service.heads),
        engine=index.manifest["engine"]["name"],
        version=__version__,
    )


def items(service: Service, offset: int, limit: int, where: str | None, modality: str | None) -> ItemsAnswer:
    """Return a page of items, in the order of their addition.

    Raises:
        FilterError: the filter is invalid.
    """
    if where is None:
        total, some = selected(service, None, modality), service.catalog.page(modality, offset, limit)
    else:
        numbers = service.catalog.numbers(modality, where)
        total, some = len(numbers), numbers[offset : offset + limit].tolist()
    records, kinds = service.catalog.records(some), service.index.modalities
    shown = [item_answer(records[number], kinds) for number in some if number in records]
    return ItemsAnswer(items=shown, total=total)


@of_generation
def make_map(service: Service, limit: int) -> MapAnswer:
    """Return items projected to the first two principal axes of their embeddings.

    An index with more than `limit` items is sampled at even distances.
    """
    numbers = service.catalog.numbers()
    if len(numbers) > limit:
        numbers = numbers[np.linspace(0, len(numbers) - 1, limit).astype(np.int64)]
    by_number = service.catalog.records(numbers)
    records = [by_number[number] for number in numbers.tolist() if number in by_number]
    modalities = list(service.index.modalities)
    points = principal_plane(service.index.vectors([record.id for record in records])) if records else np.zeros((0, 2))
    return MapAnswer(
        points=points.round(4).tolist(),
        ids=[record.id for record in records],
        modality=[modalities.index(record.modality) for record in records],
        modalities=modalities,
        columns={name: [plain(record.metadata[name]) for record in records] for name in service.catalog.columns()},
    )


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """Return coordinates [N, 2] of vectors [N, d] on their first two principal axes.

    The sign of an axis makes its component of largest magnitude positive.

    >>> principal_plane(np.array([[0.0, 2.0], [0.0, -2.0], [1.0, 0.0], [-1.0, 0.0]])).tolist()
    [[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    """
    centred = vectors.astype(np.float64) - vectors.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    signs = np.sign(axes[np.abs(axes).argmax(0), range(axes.shape[1])])
    plane: np.ndarray = np.zeros((len(vectors), 2))
    plane[:, : axes.shape[1]] = centred @ (axes * signs)
    return plane + 0.0


@of_generation
def duplicates(service: Service, threshold: float | None, where: str | None, modality: str | None) -> DuplicatesAnswer:
    """Return groups of near-identical items.

    Raises:
        TooLargeError: too many items are to be compared.
        FilterError: the filter is invalid.
    """
    check_compared(service, where, modality)
    groups = find_duplicates(service.index, threshold=threshold, where=where, modality=modality)
    first = [name for side in groups for ids in side.groups[:SHOWN] for name in ids[:SHOWN_OF_GROUP]]
    return DuplicatesAnswer(duplicates=[side.to_json() for side in groups], items=named(service, first))


@of_generation
def outliers(service: Service, most: int | None, where: str | None, modality: str | None) -> OutliersAnswer:
    """Return items far from all others; errors as in `duplicates`."""
    check_compared(service, where, modality)
    distant = find_outliers(service.index, where=where, modality=modality, most=most)
    first = [outlier.id for outlier in distant[:SHOWN]]
    return OutliersAnswer(outliers=[outlier.to_json() for outlier in distant], items=named(service, first))


def selected(service: Service, where: str | None, modality: str | None) -> int:
    """Return the number of items that a filter and a modality select."""
    counts = service.index.counts(where)
    return sum(counts.values()) if modality is None else counts.get(modality, 0)


def check_compared(service: Service, where: str | None, modality: str | None) -> None:
    """Return if the items are few enough to compare them all: a stop of the server waits for the comparison."""
    count, most = selected(service, where, modality), service.settings.limits.compared
    if count > most:
        raise TooLargeError(
            f"{count:,} items to compare with each other; expected at most {most:,}. Ask with a filter, or use "
            "lightcrl index duplicates and lightcrl index outliers."
        )


def named(service: Service, ids: Sequence[str]) -> dict[str, ItemAnswer]:
    """Return items by id."""
    records = service.catalog.named(ids)
    return {name: item_answer(record, service.index.modalities) for name, (_, record) in records.items()}
