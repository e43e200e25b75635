"""Changes of a served index: addition and removal of items. Uploaded files are stored in the index's folder."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lightcrl.data.base import digest
from lightcrl.data.files import MEDIA
from lightcrl.errors import DataError, LightCRLError, QueryError, RequestError, UnknownItemError, first_line
from lightcrl.files.local import make_folder, whole_file
from lightcrl.index import Entry
from lightcrl.index.schema import MOST_COLUMNS, OWN
from lightcrl.serve.limits import read_data_url, read_media, read_text
from lightcrl.serve.schemas import AddedAnswer, NewItem, Rejected
from lightcrl.serve.searching import encode
from lightcrl.serve.service import Service

ENDINGS = {"image": ".png", "audio": ".wav"}
"""Extensions, by kind, of stored files whose own name has no matching one."""


@dataclass(frozen=True)
class Upload:
    """A picture or sound of a request.

    Attributes:
        item: id, modality and metadata from the request.
        name: name of the client's file.
        kind: kind of the item, such as `image`.
        data: bytes of the file.
    """

    item: NewItem
    name: str
    kind: str
    data: bytes


@dataclass(frozen=True)
class Read:
    """A decoded item of a request.

    Attributes:
        source: name of the item in messages.
        given: text or upload from the request.
        modality: modality of the item.
        decoded: item in the form that encoders take.
    """

    source: str
    given: NewItem | Upload
    modality: str
    decoded: Any


async def add(service: Service, given: Sequence[NewItem | Upload]) -> AddedAnswer:
    """Add items; they are on the disk when this function returns. Unreadable items are set aside.

    Raises:
        BusyError: too many requests or items wait.
        RequestError: the index would have too many columns.
    """
    check_columns(service, given)
    readable: list[Read] = []
    rejected: list[Rejected] = []
    for number, item in enumerate(given, 1):
        source = item.name if isinstance(item, Upload) else item.id or f"item {number}"
        try:
            readable.append(await service.searches.run(read, service, item, source))
        except LightCRLError as error:
            if isinstance(error, RequestError) and error.status == 429:
                raise
            rejected.append(Rejected(source=source, reason=first_line(error)))
    vectors: dict[int, np.ndarray] = {}
    for modality in dict.fromkeys(item.modality for item in readable):
        places = [place for place, item in enumerate(readable) if item.modality == modality]
        for start in range(0, len(places), service.settings.batch):
            batch = places[start : start + service.settings.batch]
            rows = await encode(service, [readable[place].decoded for place in batch], modality)
            vectors.update(zip(batch, rows, strict=True))
    if not readable:
        return AddedAnswer(added=0, rejected=rejected)
    # The disconnection of the client must not cancel a commit in progress.
    stored = asyncio.ensure_future(service.writes.run(store, service, readable, vectors))
    answer = await asyncio.shield(stored)
    return answer.model_copy(update={"rejected": [*rejected, *answer.rejected]})


def check_columns(service: Service, given: Sequence[NewItem | Upload]) -> None:
    """Return if the columns of new items fit into the index.

    Raises:
        RequestError: the index would have too many columns.
    """
    items = [item.item if isinstance(item, Upload) else item for item in given]
    columns = {name.lower() for item in items for name in item.metadata}
    count = len(columns | {name.lower() for name in (*OWN, *service.catalog.columns())})
    if count > MOST_COLUMNS - len(OWN):
        raise RequestError(f"{count} columns of metadata; an index keeps at most {MOST_COLUMNS - len(OWN)}.")


def read(service: Service, given: NewItem | Upload, source: str) -> Read:
    """Decode an item of a request."""
    limits = service.settings.limits
    if isinstance(given, Upload):
        if given.kind not in ENDINGS:
            raise DataError("not a picture or sound, by the file's name and type")
        modality = service.modality_of(given.kind, given.item.modality)
        return Read(source, given, modality, read_media(given.data, given.kind, limits))
    if (given.text is None) == (given.data is None):
        raise DataError("expected either text or data")
    if given.text is not None:
        return Read(source, given, service.modality_of("text", given.modality), read_text(given.text, limits))
    kind, data = read_data_url(given.data or "")
    upload = Upload(given, given.id or "", kind, data)
    return Read(source, upload, service.modality_of(kind, given.modality), read_media(data, kind, limits))


def store(service: Service, readable: Sequence[Read], vectors: dict[int, np.ndarray]) -> AddedAnswer:
    """Store the files, then add all items in one commit."""
    entries = [entry(service, item, vectors[place]) for place, item in enumerate(readable)]
    # The addition may calibrate, with the encoders that the batcher uses.
    with service.batcher.encoding:
        done = service.index.add(entries)
    rejected = [Rejected(source=item.source, reason=item.reason) for item in done.rejected]
    ids = [added.id for added in entries if added.id is not None]
    return AddedAnswer(added=done.added, replaced=done.replaced, ids=ids, rejected=rejected)


def entry(service: Service, item: Read, vector: np.ndarray) -> Entry:
    """Return the index entry of an item, after its file is stored."""
    if isinstance(item.given, NewItem):
        text = str(item.given.text)
        name = item.given.id or f"text-{digest('text', text)[:12]}"
        made = service.index.entry(text, item.modality, name, item.given.metadata)
    else:
        path = keep(service.uploads, item.given)
        name = item.given.item.id or free_name(service, item.given.name, path)
        made = service.index.entry(path, item.modality, name, item.given.item.metadata)
    return Entry(made.modality, made.item, made.id, made.path, made.text, made.group, made.metadata, vector)


def keep(folder: Path, upload: Upload) -> Path:
    """Store the file of an upload under the digest of its bytes, and return its path.

    The file is written completely or not at all. Only the extension of the client's file name is used.
    """
    ending = PurePosixPath(upload.name).suffix.lower()
    ending = ending if MEDIA.get(ending) == upload.kind else ENDINGS[upload.kind]
    path = make_folder(folder) / f"{digest(upload.data)}{ending}"
    if not path.exists():
        with whole_file(path) as temporary:
            temporary.write_bytes(upload.data)
    return path


def free_name(service: Service, name: str, path: Path) -> str:
    """Return an id for a file: its name, plus the start of its digest if another file has that name."""
    name = PurePosixPath(name.replace("\\", "/").replace("\0", "")).name[-200:] or path.name
    try:
        record = service.index.get(name)
    except QueryError:
        return name
    return name if record.path == str(path) else f"{Path(name).stem}-{path.stem[:8]}{Path(name).suffix}"


def remove(service: Service, ids: Sequence[str], where: str | None) -> int:
    """Remove items and their uploaded files, and return the number of removed items.

    Raises:
        UnknownItemError: no item has one of the ids.
        FilterError: the filter is invalid.
    """
    index = service.index
    if where is not None:
        paths = [record.path for record in service.catalog.listed(None, where)]
    else:
        records = service.catalog.named(ids)
        if missing := [name for name in ids if name not in records]:
            raise UnknownItemError(f"no item {missing[0]!r}.")
        paths = [record.path for _, record in records.values()]
    count = index.remove(ids, where=where)
    for path in {path for path in paths if path is not None}:
        if Path(path).parent == service.uploads.absolute() and service.catalog.at_path(path) is None:
            Path(path).unlink(missing_ok=True)
    return count
