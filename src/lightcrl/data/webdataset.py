"""WebDataset shards: tar files whose members `0001.jpg`, `0001.txt` are a sample."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lightcrl.data.base import Item, Rejection, Row, cell_items, digest
from lightcrl.data.files import EXTENSIONS, existing, expand, name_below, some, visible
from lightcrl.errors import DataError, ItemError, ModalityError, UnknownNameError

BLOCK = 512


@dataclass(frozen=True, slots=True)
class TarSlice:
    """A reader of a member of a tar file, without the tar file's index."""

    path: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        """Return the bytes.

        Raises:
            ItemError: the tar file is gone, or shorter than it was.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise ItemError("missing shard", str(error)) from None
        if len(data) < self.size:
            raise ItemError("torn shard", f"{self.path.name} ends within a member")
        return data


@dataclass(frozen=True)
class Shards:
    """Samples of uncompressed tar files, each a group; only headers and texts are read.

    Attributes:
        kinds: `"text"`, `"image"`, `"audio"` or `"vectors"` by modality.
        path: pattern with braces (`shard-{000..003}.tar`) or stars, a folder of tar files, or a tar file.
        columns: extension by modality (`"jpg"`, `"seg.png"`), or `"json:caption"` for a field of the sample's JSON.
            By default the first of the usual extensions of its kind that a sample has.
        base: folder to which shard names are relative; two folders with shards of the same name need a common base.
    """

    kinds: Mapping[str, str]
    path: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    base: str | Path | None = None

    def rows(self) -> Iterator[Row | Rejection]:
        """Yield every sample, in the order of the shards, named like `shard-000.tar/0001`.

        Raises:
            DataError: a shard is missing, or not a tar file.
            ModalityError: no sample of any shard has a modality's extension.
        """
        shards = _shards(str(self.path))
        base = Path(self.base or os.path.commonpath([shard.parent for shard in shards]))
        seen: dict[str, None] = {}
        for shard in shards:
            name = name_below(shard, base)
            modified = str(shard.stat().st_mtime_ns)
            samples: dict[str, dict[str, tarfile.TarInfo]] = {}
            torn = None
            with _open(shard) as tar:
                for member in _members(tar, shard):
                    if isinstance(member, str):
                        torn = Rejection(name, "torn shard", member)
                    elif (place := _sample(member.name)) is not None:
                        samples.setdefault(place[0], {})[place[1]] = member
                for sample, members in samples.items():
                    seen.update(dict.fromkeys(members))
                    yield from self._read(tar, shard, f"{name}/{sample}", members, modified)
            if torn:
                yield torn
        self._check(seen, base)

    def _read(
        self, tar: tarfile.TarFile, shard: Path, name: str, members: Mapping[str, tarfile.TarInfo], modified: str
    ) -> Iterator[Row | Rejection]:
        items: dict[str, list[Item]] = {}
        for modality, kind in self.kinds.items():
            column = self._column(modality, members)
            extension, _, key = column.partition(":")
            member = members.get(extension)
            if member is None:
                continue
            source = f"{name}.{extension}"
            if kind != "text" and not key:
                place = digest("tar", name, extension, str(member.size), modified)
                items[modality] = [Item(place, source, TarSlice(shard, member.offset_data, member.size))]
                continue
            try:
                value = _text(tar, member, key)
            except ItemError as error:
                yield Rejection(source, error.reason, error.detail, modality)
                continue
            for item in cell_items(value, kind, shard.parent, source):
                if isinstance(item, Item):
                    items.setdefault(modality, []).append(item)
                else:
                    yield Rejection(source, item.reason, item.detail, modality)
        if items:
            yield Row(name, items)

    def _column(self, modality: str, present: Mapping[str, Any]) -> str:
        usual = EXTENSIONS[self.kinds[modality]]
        return self.columns.get(modality) or next((extension for extension in usual if extension in present), usual[0])

    def _check(self, seen: Mapping[str, None], base: Path) -> None:
        for modality in self.kinds:
            extension = self._column(modality, seen).partition(":")[0]
            if seen and extension not in seen:
                raise ModalityError(
                    f"{base}: {UnknownNameError('extension', extension, seen)} Expected one for modality "
                    f'{modality!r}: name it under data.columns, {modality} = "<extension>".'
                )


def _shards(pattern: str) -> list[Path]:
    """Return every shard that a pattern names, in order."""
    paths: list[Path] = []
    for name in expand(pattern):
        path = Path(name)
        if not path.exists() and any(sign in name for sign in "*?["):
            matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        elif existing(path, "a tar file, a folder of them, or a pattern").is_dir():
            matches = [entry for entry in visible(path) if entry.suffix == ".tar"]
        else:
            matches = [path]
        if not matches:
            folder = path if path.is_dir() else path.parent
            inside = [entry.name for entry in visible(folder)] if folder.is_dir() else []
            raise DataError(f"{name}: found no tar files, only {some(inside)}. Expected shards such as shard-000.tar.")
        paths += matches
    return paths


def _open(shard: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(shard, "r:")
    except tarfile.TarError as error:
        raise DataError(
            f"{shard} is no tar file: {error}. Expected an uncompressed one: pictures and sounds are read from the "
            "middle of it (for a compressed one, run gunzip first)."
        ) from None


def _members(tar: tarfile.TarFile, shard: Path) -> Iterator[tarfile.TarInfo | str]:
    """Yield the complete members; if the file is torn, a final string describes the damage."""
    length = shard.stat().st_size
    kept = 0
    try:
        for member in tar:
            if member.offset_data + member.size > length:
                yield f"{member.name} ends after {length - member.offset_data} of {member.size} bytes; {kept} are whole"
                return
            if member.isreg():
                kept += 1
                yield member
    except tarfile.TarError as error:
        yield f"{error}; {kept} members are whole"
        return
    # tarfile takes a broken header for the end, too; only zeros are a valid end.
    with shard.open("rb") as file:
        file.seek(tar.offset)
        block = file.read(BLOCK)
    if len(block) < BLOCK or any(block):
        yield f"no end mark at byte {tar.offset}; {kept} members are whole"


def _sample(name: str) -> tuple[str, str] | None:
    """Return a member's sample and extension.

    >>> _sample("photos/0001.seg.PNG"), _sample(".hidden")
    (('photos/0001', 'seg.png'), None)
    """
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return (str(path.with_name(stem)), extension.lower()) if stem and extension else None


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo, key: str) -> Any:
    """Return a text member, or a field of a JSON member (None if it has no such field)."""
    file = tar.extractfile(member)
    data = file.read() if file else b""
    try:
        text = data.decode()
        if not key:
            return text.strip()
        values = json.loads(text)
    except UnicodeDecodeError as error:
        raise ItemError("text that is not UTF-8", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ItemError("broken JSON", str(error)) from None
    if not isinstance(values, dict):
        raise ItemError("broken JSON", f"expected an object, found {type(values).__name__}")
    return values.get(key)
