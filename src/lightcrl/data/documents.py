"""JSON files with a single document: COCO's captions, Karpathy's splits, an array of records.

The format of a document follows from its content. `DOCUMENTS` is the table: a new format is a recogniser and a function
that yields a record for each row, with the columns `image`, `text` and, if the format has splits, `split`.
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
"""Images that Karpathy reserved from COCO's validation, commonly used for training."""

Records = Iterator[dict[str, Any] | str]
"""A record for each row; a text is the reason to set the row aside."""


@dataclass(frozen=True)
class Document:
    """A format.

    Attributes:
        title: name of the format, for people.
        fits: function that recognises a parsed document.
        records: function that yields its rows.
        splits: true if rows have their split in `split`.
    """

    title: str
    fits: Callable[[Any], bool]
    records: Callable[[Any], Records]
    splits: bool = False


def array_records(document: list[Any]) -> Records:
    """Yield the objects of an array."""
    for value in document:
        yield value if isinstance(value, dict) else f"expected an object, found {type(value).__name__}"


def coco_records(document: Mapping[str, Any]) -> Records:
    """Yield a row for each image of COCO's `images`, with all its captions of `annotations`."""
    captions: dict[Any, list[str]] = {}
    for annotation in document["annotations"]:
        if isinstance(annotation, dict) and isinstance(annotation.get("caption"), str):
            captions.setdefault(annotation.get("image_id"), []).append(annotation["caption"].strip())
    for image in document["images"]:
        if not isinstance(image, dict) or "file_name" not in image:
            yield "an image without file_name"
            continue
        yield {"image": image["file_name"], "text": captions.pop(image.get("id"), []), "id": image.get("id")}
    for number, orphans in captions.items():
        yield f"{len(orphans)} captions of image {number!r}, which is not among the images"


def karpathy_records(document: Mapping[str, Any]) -> Records:
    """Yield a row for each image of a `dataset_*.json` (Karpathy & Li 2015), with its sentences and its split."""
    for image in document["images"]:
        if not isinstance(image, dict) or "filename" not in image:
            yield "an image without filename"
            continue
        sentences = [part["raw"].strip() for part in image.get("sentences", []) if isinstance(part.get("raw"), str)]
        path = str(PurePosixPath(image.get("filepath") or "") / image["filename"])
        yield {
            "image": path,
            "text": sentences,
            "split": KARPATHY_SPLITS.get(str(image.get("split")), image.get("split")),
        }


def _has(document: Any, *names: str) -> bool:
    return isinstance(document, dict) and all(isinstance(document.get(name), list) for name in names)


def _is_karpathy(document: Any) -> bool:
    return _has(document, "images") and any(
        isinstance(entry, dict) and "sentences" in entry for entry in document["images"]
    )


DOCUMENTS: Mapping[str, Document] = {
    "coco": Document("COCO captions", lambda document: _has(document, "images", "annotations"), coco_records),
    "karpathy": Document("Karpathy's splits", _is_karpathy, karpathy_records, splits=True),
    "records": Document("an array of records", lambda document: isinstance(document, list), array_records),
}


def read_document(text: bytes | str, name: str, layout: Columns) -> Iterator[Row | Rejection]:
    """Yield the rows of a document, named like `captions.json:17`, the 17th image or record.

    Raises:
        DataError: the text is not JSON, or has no format of `DOCUMENTS`.
        ModalityError: a column is missing.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON: {error}. Expected one document, or one object a line.") from None
    format = next((kind for kind in DOCUMENTS.values() if kind.fits(document)), None)
    if format is None:
        held = f"an object with {some(list(document))}" if isinstance(document, dict) else type(document).__name__
        titles = ", ".join(kind.title for kind in DOCUMENTS.values())
        raise DataError(f"{name} holds {held}; expected {titles}, or one object a line.")
    if format.splits and layout.split_column is None and not layout.one_split:
        layout = replace(layout, split_column="split")
    yield from read_records(_numbered(format.records(document), name), name, layout)


def read_records(
    records: Iterable[tuple[str, dict[str, Any]] | Rejection], name: str, layout: Columns
) -> Iterator[Row | Rejection]:
    """Yield the rows of records, after all records have been read to know their columns.

    Args:
        records: location and cells by column of each record, or the reason to set it aside.
        name: name of the file.
        layout: layout of the columns.

    Raises:
        ModalityError: none of the records has a column.
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
