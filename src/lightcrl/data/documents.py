"""JSON files that are one document: COCO's captions, Karpathy's splits, an array of records.

What a document is follows from its content. `DOCUMENTS` is the table: a new format is a recogniser and a function that
gives one record for each row, with the columns `image`, `text` and, where the format has splits, `split`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from lightcrl.data.base import Rejection, Row
from lightcrl.data.columns import Columns
from lightcrl.data.files import some
from lightcrl.errors import DataError

SPLITS = {"restval": "train"}
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
        yield {"image": path, "text": sentences, "split": SPLITS.get(str(image.get("split")), image.get("split"))}


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
    names: dict[str, None] = {}
    for number, record in enumerate(format.records(document), 1):
        source = f"{name}:{number}"
        if isinstance(record, str):
            yield Rejection(source, "broken record", record)
            continue
        names.update(dict.fromkeys(record))
        yield from layout.read(record, source)
    if names:
        layout.check(names, name)
