"""Changes of a served index: items added from requests, with their files kept in the index's folder, and removed."""

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
from lightcrl.index.catalog import MOST_COLUMNS, OWN
from lightcrl.serve.limits import read_data_url, read_media, read_text
from lightcrl.serve.schemas import AddedAnswer, NewItem, Rejected
from lightcrl.serve.searching import encode
from lightcrl.serve.service import Service

ENDINGS = {"image": ".png", "audio": ".wav"}
"""Of files that come without a name."""


@dataclass(frozen=True)
class Upload:
    """A picture or sound that came with a request.

    Attributes:
        item: what was said of it.
        name: of its file.
        kind: its own.
        data: its bytes.
    """

    item: NewItem
    name: str
    kind: str
    data: bytes


@dataclass(frozen=True)
class Read:
    """What was read of a request and can be encoded.

    Attributes:
        source: for people.
        given: a text, or an upload.
        modality: its own.
        decoded: as encoders take it.
    """

    source: str
    given: NewItem | Upload
    modality: str
    decoded: Any


async def add(service: Service, given: Sequence[NewItem | Upload]) -> AddedAnswer:
    """Add items; when this returns they are on the disk. Those that cannot be read are set aside.

    Raises:
        BusyError: too much is asked at once.
        RequestError: there would be too many columns.
    """
    check_columns(service, given)
    readable: list[Read] = []
    rejected: list[Rejected] = []
    for number, one in enumerate(given, 1):
        source = one.name if isinstance(one, Upload) else one.id or f"item {number}"
        try:
            readable.append(await service.searches.run(read, service, one, source))
        except LightCRLError as error:
            if isinstance(error, RequestError) and error.status == 429:
                raise
            rejected.append(Rejected(source=source, reason=first_line(error)))
    vectors: dict[int, np.ndarray] = {}
    for modality in dict.fromkeys(one.modality for one in readable):
        at = [place for place, one in enumerate(readable) if one.modality == modality]
        for start in range(0, len(at), service.settings.batch):
            some = at[start : start + service.settings.batch]
            rows = await encode(service, [readable[place].decoded for place in some], modality)
            vectors.update(zip(some, rows, strict=True))
    if not readable:
        return AddedAnswer(added=0, rejected=rejected)
    # A client that leaves does not stop what has begun.
    kept = asyncio.ensure_future(service.writes.run(store, service, readable, vectors))
    answer = await asyncio.shield(kept)
    return answer.model_copy(update={"rejected": [*rejected, *answer.rejected]})


def check_columns(service: Service, given: Sequence[NewItem | Upload]) -> None:
    """Return if the columns of new items fit into the index.

    Raises:
        RequestError: there would be too many.
    """
    items = [one.item if isinstance(one, Upload) else one for one in given]
    fresh = {name.lower() for item in items for name in item.metadata}
    count = len(fresh | {name.lower() for name in (*OWN, *service.catalog.columns())})
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
    """Keep the files, then add all in one commit."""
    entries = [entry(service, one, vectors[place]) for place, one in enumerate(readable)]
    # Adding may calibrate, with the encoders that the batcher uses.
    with service.batcher.encoding:
        done = service.index.add(entries)
    rejected = [Rejected(source=one.source, reason=one.reason) for one in done.rejected]
    ids = [one.id for one in entries if one.id is not None]
    return AddedAnswer(added=done.added, replaced=done.replaced, ids=ids, rejected=rejected)


def entry(service: Service, one: Read, vector: np.ndarray) -> Entry:
    """An entry of the index, its file kept."""
    if isinstance(one.given, NewItem):
        text = str(one.given.text)
        name = one.given.id or f"text-{digest('text', text)[:12]}"
        made = service.index.entry(text, one.modality, name, one.given.metadata)
    else:
        path = keep(service.uploads, one.given)
        name = one.given.item.id or free_name(service, one.given.name, path)
        made = service.index.entry(path, one.modality, name, one.given.item.metadata)
    return Entry(made.modality, made.item, made.id, made.path, made.text, made.group, made.metadata, vector)


def keep(folder: Path, upload: Upload) -> Path:
    """The file of an upload, written whole under the digest of its bytes; of the client's name only the ending."""
    ending = PurePosixPath(upload.name).suffix.lower()
    ending = ending if MEDIA.get(ending) == upload.kind else ENDINGS[upload.kind]
    path = make_folder(folder) / f"{digest(upload.data)}{ending}"
    if not path.exists():
        with whole_file(path) as temporary:
            temporary.write_bytes(upload.data)
    return path


def free_name(service: Service, name: str, path: Path) -> str:
    """An id for a file: its name, with some of its digest where another file has that name."""
    name = PurePosixPath(name.replace("\\", "/").replace("\0", "")).name[-200:] or path.name
    try:
        record = service.index.get(name)
    except QueryError:
        return name
    return name if record.path == str(path) else f"{Path(name).stem}-{path.stem[:8]}{Path(name).suffix}"


def remove(service: Service, ids: Sequence[str], where: str | None) -> int:
    """Remove items, and those of their files that came with requests; how many items there were.

    Raises:
        UnknownItemError: there is no such item.
        FilterError: the filter is none.
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
