"""JSON files that are one document: COCO's captions, Karpathy's splits, an array of records.

What a document is follows from its content. `DOCUMENTS` is the table: a new format is a recogniser and a function that
gives one record for each row, with the columns `image`, `text` and, where the format has splits, `split`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from lightcrl.data.base import Rejection, Row
from lightcrl.data.columns import Columns
from lightcrl.data.files import some
from lightcrl.errors import DataError

KARPATHY_SPLITS = {"restval": "train"}
"""Images that Karpathy set aside of COCO's validation, which everybody trains on."""

Records = Iterator[dict[str, Any] | str]
"""A record for each row; a text says why the row is set aside."""


@dataclass(frozen=True)
class Document:
    """A format.

    Attributes:
        title: for people.
        fits: whether a parsed document is of it.
        records: its rows.
        splits: rows say their split in `split`.
    """

    title: str
    fits: Callable[[Any], bool]
    records: Callable[[Any], Records]
    splits: bool = False


def array_records(document: list[Any]) -> Records:
    """The objects of an array, as they are."""
    for value in document:
        yield value if isinstance(value, dict) else f"expected an object, found {type(value).__name__}"


def coco_records(document: Mapping[str, Any]) -> Records:
    """A row for each image of COCO's `images`, with all its captions of `annotations`."""
    captions: dict[Any, list[str]] = {}
    for annotation in document["annotations"]:
        if isinstance(annotation, dict) and isinstance(annotation.get("caption"), str):
            captions.setdefault(annotation.get("image_id"), []).append(annotation["caption"].strip())
    for image in document["images"]:
        if not isinstance(image, dict) or "file_name" not in image:
            yield "an image without file_name"
            continue
        yield {"image": image["file_name"], "text": captions.pop(image.get("id"), []), "id": image.get("id")}
    for number, found in captions.items():
        yield f"{len(found)} captions of image {number!r}, which is not among the images"


def karpathy_records(document: Mapping[str, Any]) -> Records:
    """A row for each image of a `dataset_*.json` (Karpathy & Li 2015), with its sentences and its split."""
    for image in document["images"]:
        if not isinstance(image, dict) or "filename" not in image:
            yield "an image without filename"
            continue
        sentences = [one["raw"].strip() for one in image.get("sentences", []) if isinstance(one.get("raw"), str)]
        path = str(PurePosixPath(image.get("filepath") or "") / image["filename"])
        yield {
            "image": path,
            "text": sentences,
            "split": KARPATHY_SPLITS.get(str(image.get("split")), image.get("split")),
        }


def _has(document: Any, *names: str) -> bool:
    return isinstance(document, dict) and all(isinstance(document.get(name), list) for name in names)


def _is_karpathy(document: Any) -> bool:
    return _has(document, "images") and any(isinstance(one, dict) and "sentences" in one for one in document["images"])


DOCUMENTS: Mapping[str, Document] = {
    "coco": Document("COCO captions", lambda found: _has(found, "images", "annotations"), coco_records),
    "karpathy": Document("Karpathy's splits", _is_karpathy, karpathy_records, splits=True),
    "records": Document("an array of records", lambda found: isinstance(found, list), array_records),
}


def read_document(text: bytes | str, name: str, layout: Columns) -> Iterator[Row | Rejection]:
    """The rows of a document, known as `captions.json:17`, the 17th image or record.

    Raises:
        DataError: it is not JSON, or of no format in `DOCUMENTS`.
        ModalityError: a column is not there.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON: {error}. Expected one document, or one object a line.") from None
    format = next((found for found in DOCUMENTS.values() if found.fits(document)), None)
    if format is None:
        held = f"an object with {some(list(document))}" if isinstance(document, dict) else type(document).__name__
        known = ", ".join(found.title for found in DOCUMENTS.values())
        raise DataError(f"{name} holds {held}; expected {known}, or one object a line.")
    if format.splits and layout.split_column is None and not layout.one_split:
        layout = replace(layout, split_column="split")
    yield from read_records(_numbered(format.records(document), name), name, layout)


def read_records(
    records: Iterable[tuple[str, dict[str, Any]] | Rejection], name: str, layout: Columns
) -> Iterator[Row | Rejection]:
    """The rows of records whose columns are known only once all of them have been seen.

    Args:
        records: where each is, and its cells by column; or why it is set aside.
        name: of the file.
        layout: how columns are read.

    Raises:
        ModalityError: a column is in none of the records.
    """
    names: dict[str, None] = {}
    for record in records:
        if isinstance(record, Rejection):
            yield record
            continue
        source, values = record
        names.update(dict.fromkeys(values))
        yield from layout.read(values, source)
    if names:
        layout.check(names, name)


def _numbered(records: Records, name: str) -> Iterator[tuple[str, dict[str, Any]] | Rejection]:
    for number, record in enumerate(records, 1):
        source = f"{name}:{number}"
        yield Rejection(source, "broken record", record) if isinstance(record, str) else (source, record)
