"""Sources of an index: files, lists of texts, tables with columns of metadata, and a run's feature stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightcrl.data.base import Item, bytes_item, digest, file_item, text_item
from lightcrl.data.files import MEDIA, existing
from lightcrl.errors import DataError
from lightcrl.index.base import Entry


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Attributes:
        columns: of a table, modality to column; by default every modality of the model has the column of its name.
        id_column: of a table, the column that names the items.
        modality: whose items files are, where the model has several of one kind.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    id_column: str | None = None
    modality: str | None = None


def make_entry(
    raw: Any, modality: str, modalities: Mapping[str, str], id: str | None, metadata: Mapping[str, Any] | None
) -> Entry:
    """An entry of a raw item; see `Index.entry`."""
    kind = modalities[modality]
    given = dict(metadata or {})
    if kind == "text":
        item = text_item(str(raw), id or digest("text", str(raw))[:12])
        return Entry(modality, item, id or item.source, None, str(raw), None, given)
    if isinstance(raw, (str, Path)):
        path = Path(raw).absolute()
        return Entry(modality, file_item(path, path.parent), id, str(path), None, None, given)
    if id is None:
        raise DataError(f"an item of {modality!r} that is {type(raw).__name__} has no name; give it an id.")
    item = bytes_item(raw, id) if isinstance(raw, bytes) else Item(digest("item", id, repr(raw)), id, raw)
    return Entry(modality, item, id, None, None, None, given)


def read_sources(index: Any, source: Path, reading: Reading) -> Iterator[Entry]:
    """The entries of a folder of files."""
    existing(source, "a folder")
    kinds: dict[str, str] = {kind: modality for modality, kind in reversed(index.modalities.items())}
    for file in sorted(source.absolute().rglob("*")):
        if (kind := MEDIA.get(file.suffix.lower())) in kinds:
            yield Entry(kinds[kind], file_item(file, source.absolute()), None, str(file))
