"""A data set written anew with some items left out, merged or replaced.

A table is written back in its own format, row by row, with all its columns. Any other source, and a table whose
pictures or sounds are bytes, becomes JSON lines with the columns `group`, `split` and one per modality. If texts are
replaced, a column `recaptioned` holds the new ones of every row.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightcrl.data import open_sources
from lightcrl.data.base import Item, Rejection, Row
from lightcrl.data.files import EXTENSIONS, name_below
from lightcrl.data.spec import DataSpec
from lightcrl.errors import DataError
from lightcrl.files.local import make_folder, whole_file, write_text

Place = tuple[str, str, str]
"""Group, modality and item."""
GROUP, SPLIT, RECAPTIONED = "group", "split", "recaptioned"


@dataclass(frozen=True)
class Edits:
    """Changes to a data set.

    Attributes:
        splits: split of every group that stays.
        dropped: items that leave their group.
        replaced: text in place of an item's.
        merged: name of the group into which a group is merged, by its own name.
        copies: item in place of another of the same content, by modality and digest.
        moved: group into which an item goes.
    """

    splits: Mapping[str, str]
    dropped: frozenset[Place] = frozenset()
    replaced: Mapping[Place, str] = field(default_factory=dict)
    merged: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[tuple[str, str], Item] = field(default_factory=dict)
    moved: Mapping[Place, str] = field(default_factory=dict)


def rewrite(spec: DataSpec, kinds: Mapping[str, str], edits: Edits, folder: Path, name: str = "cleaned") -> DataSpec:
    """Write the edited data into a folder and return the `[data]` table that reads it.

    Args:
        spec: the original data.
        kinds: kind of item by modality.
        edits: changes.
        folder: folder of the new tables.
        name: stem of their names.

    Raises:
        DataError: the data cannot be read a second time.
    """
    media = [modality for modality, kind in kinds.items() if kind != "text"]
    back = {split: WRITERS.get(_suffix(path)) for split, path in spec.paths.items()}
    rows = {split: list(_edited(source, edits, split)) for split, source in _sources(spec, kinds)}
    stored = any(
        isinstance(item.raw, Path) is False for part in rows.values() for row in part for item in _media(row, media)
    )
    if spec.source != "table" or stored or None in back.values() or not _keeps_splits(spec):
        return _write_groups(spec, kinds, [row for part in rows.values() for row in part], edits, folder, name)
    root = Path(spec.root or _common(list(spec.paths.values()))).absolute()
    changed: dict[str, Any] = {"root": str(root)}
    for split, path in spec.paths.items():
        target = folder / f"{name}{f'-{split}' if split else ''}{_plain(_suffix(path))}"
        columns = {modality: spec.columns.get(modality, modality) for modality in kinds}
        records = [_record(row, columns, kinds, root, spec.key) for row in rows[split]]
        back[split](target, records)  # type: ignore[misc]
        changed[split or "path"] = str(target.absolute())
    return spec.model_copy(update={**changed, "encoding": None})


def _sources(spec: DataSpec, kinds: Mapping[str, str]) -> Iterator[tuple[str | None, Any]]:
    """Yield the sources; tables with all their columns."""
    options = {**spec.options, "notes": ("*",)} if spec.source == "table" else spec.options
    yield from open_sources(spec.model_copy(update={"options": options}), kinds)


def _edited(source: Any, edits: Edits, split: str | None) -> Iterator[Row]:
    """Yield the rows that stay, edited; the group and split of each are the new ones."""
    # The first row of each group that items go to, and these items.
    hosts: dict[str, Row] = {}
    arrivals: dict[str, list[tuple[str, Item]]] = {group: [] for group in edits.moved.values()}
    for row in source.rows():
        if isinstance(row, Rejection) or row.key not in edits.splits:
            continue
        if (split or row.split or edits.splits[row.key]) != edits.splits[row.key]:
            continue
        cells = {modality: list(_kept(row.key, modality, items, edits)) for modality, items in row.cells.items()}
        if row.key in arrivals:
            hosts.setdefault(row.key, row)
        for modality, items in row.cells.items():
            for item in items:
                if (into := edits.moved.get((row.key, modality, item.key))) is not None:
                    arrivals[into].append((modality, item))
        notes = {**row.notes, RECAPTIONED: _new_texts(row, edits)} if edits.replaced else row.notes
        # A row whose item was dropped must not leave the rest of it behind as a row of its own.
        if any(not kept and row.cells[modality] for modality, kept in cells.items()):
            cells = {modality: kept for modality, kept in cells.items() if kept}
            if len(cells) < 2:
                continue
        yield _renamed(row, cells, edits, notes)
    for group, items in arrivals.items():
        if group in hosts:
            yield from _arrived(hosts[group], items, edits)


def _renamed(row: Row, cells: Mapping[str, list[Item]], edits: Edits, notes: Mapping[str, Any]) -> Row:
    """Return the row with other cells, in the group into which its own is merged."""
    into = edits.merged.get(row.key, row.key)
    return replace(row, key=into, cells=cells, split=edits.splits[row.key], notes=notes)


def _arrived(host: Row, items: Sequence[tuple[str, Item]], edits: Edits) -> Iterator[Row]:
    """Yield a further row of a group for each item that goes there."""
    notes = {**host.notes, RECAPTIONED: None} if edits.replaced else host.notes
    cells = {name: list(_kept(host.key, name, cell, edits)) for name, cell in host.cells.items()}
    for modality, item in items:
        beside = {name: kept for name, kept in cells.items() if kept and name != modality}
        yield _renamed(host, {**beside, modality: [item]}, edits, notes)


def _new_texts(row: Row, edits: Edits) -> str | list[str] | None:
    """Return the texts of a row that replace others: one, several or none."""
    places = ((row.key, modality, item.key) for modality, items in row.cells.items() for item in items)
    texts = [edits.replaced[place] for place in places if place in edits.replaced]
    return texts if len(texts) > 1 else next(iter(texts), None)


def _kept(group: str, modality: str, items: Sequence[Item], edits: Edits) -> Iterator[Item]:
    for item in items:
        place = group, modality, item.key
        if place in edits.dropped or place in edits.moved:
            continue
        if place in edits.replaced:
            yield replace(item, raw=edits.replaced[place])
        else:
            yield edits.copies.get((modality, item.key), item)


def _record(
    row: Row, columns: Mapping[str, str], kinds: Mapping[str, str], root: Path, key: str | None
) -> dict[str, Any]:
    """Return the cells of a row by column."""
    record = dict(row.notes)
    if key is not None and key in record:
        record[key] = row.key if str(record[key]) != row.key else record[key]
    for modality, items in row.cells.items():
        values = [
            str(item.raw) if kinds[modality] == "text" else name_below(Path(item.raw).absolute(), root)
            for item in items
        ]
        record[columns[modality]] = values[0] if len(values) == 1 else values
    return record


def _write_groups(
    spec: DataSpec, kinds: Mapping[str, str], rows: Sequence[Row], edits: Edits, folder: Path, name: str
) -> DataSpec:
    """Write JSON lines of groups; pictures and sounds that are no files become files below `media`."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    splits: dict[str, str] = {}
    fresh: dict[str, list[str]] = {}
    for row in rows:
        cells = groups.setdefault(row.key, {modality: {} for modality in kinds})
        splits[row.key] = row.split or edits.splits[row.key]
        texts = row.notes.get(RECAPTIONED) or []
        fresh.setdefault(row.key, []).extend([texts] if isinstance(texts, str) else texts)
        for modality, items in row.cells.items():
            for item in items:
                # A replaced text has the digest of the one before it.
                value = str(item.raw) if kinds[modality] == "text" else _file(item, kinds[modality], folder / "media")
                cells[modality][value] = None
    lines = [
        json.dumps(
            {GROUP: key, SPLIT: splits[key], **{name: list(values) for name, values in cells.items()}}
            | ({RECAPTIONED: fresh[key]} if edits.replaced else {}),
            ensure_ascii=False,
        )
        for key, cells in groups.items()
    ]
    path = folder / f"{name}.jsonl"
    write_text(path, "".join(f"{line}\n" for line in lines))
    return DataSpec(
        source="table", path=str(path.absolute()), key=GROUP, split_column=SPLIT, max_rejected=spec.max_rejected
    )


def _file(item: Item, kind: str, folder: Path) -> str:
    """Return the path of a picture or sound, which is written if it is no file."""
    raw = item.read()
    if isinstance(raw, Path):
        return str(raw.absolute())
    suffix = next((end for end in EXTENSIONS[kind] if item.source.lower().endswith(f".{end}")), EXTENSIONS[kind][0])
    if not isinstance(raw, bytes):
        raw, suffix = _encoded(raw, kind)
    path = make_folder(folder) / f"{item.key}.{suffix}"
    if not path.exists():
        with whole_file(path) as temporary:
            temporary.write_bytes(raw)
    return str(path.absolute())


def _encoded(raw: Any, kind: str) -> tuple[bytes, str]:
    """Return a picture (PNG) or a sound (WAV) in memory as the bytes of a file, and its extension.

    Raises:
        DataError: the item has a form that no file has.
    """
    stream = io.BytesIO()
    if kind == "image" and hasattr(raw, "save"):
        raw.save(stream, "PNG")
        return stream.getvalue(), "png"
    if kind == "audio" and isinstance(raw, tuple):
        import wave

        import numpy as np

        samples, rate = raw
        with wave.open(stream, "wb") as file:
            file.setparams((1, 2, int(rate), len(samples), "NONE", ""))
            file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
        return stream.getvalue(), "wav"
    raise DataError(f"found {type(raw).__name__} as an item of kind {kind!r}; expected a file, or bytes, to write.")


def _write_json(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records))


def _write_delimited(path: Path, records: Sequence[Mapping[str, Any]], delimiter: str = ",") -> None:
    columns = list(dict.fromkeys(column for record in records for column in record))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        cells = (record.get(column) for column in columns)
        writer.writerow(["" if cell is None else _list(cell) if isinstance(cell, list) else cell for cell in cells])
    write_text(path, stream.getvalue())


def _list(values: list[Any]) -> str:
    return json.dumps(values, ensure_ascii=False)


def _write_tabs(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    _write_delimited(path, records, "\t")


def _write_parquet(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    several = {column for record in records for column, value in record.items() if isinstance(value, list)}
    even = [
        {
            name: [value] if name in several and value is not None and not isinstance(value, list) else value
            for name, value in each.items()
        }
        for each in records
    ]
    with whole_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(even), temporary)


Writer = Callable[[Path, Sequence[Mapping[str, Any]]], None]
WRITERS: Mapping[str, Writer] = {
    ".csv": _write_delimited,
    ".txt": _write_tabs,
    ".token": _write_tabs,
    ".tsv": _write_tabs,
    ".jsonl": _write_json,
    ".ndjson": _write_json,
    ".json": _write_json,
    ".parquet": _write_parquet,
}
"""Functions that write records to a file, by the suffix of the original table."""


def _suffix(path: str) -> str:
    file = Path(path)
    return Path(file.stem).suffix.lower() if file.suffix == ".gz" else file.suffix.lower()


def _plain(suffix: str) -> str:
    """Return the suffix of a written table.

    >>> [_plain(suffix) for suffix in (".csv", ".token", ".json")]
    ['.csv', '.tsv', '.jsonl']
    """
    return {".token": ".tsv", ".txt": ".tsv", ".json": ".jsonl", ".ndjson": ".jsonl"}.get(suffix, suffix)


def _keeps_splits(spec: DataSpec) -> bool:
    """True if the rows of a table have their splits from files or a column; drawn ones might change with the groups."""
    return spec.split_column is not None or None not in spec.paths


def _common(paths: Sequence[str]) -> str:
    parents = {str(Path(path).absolute().parent) for path in paths}
    return parents.pop() if len(parents) == 1 else "/"


def _media(row: Row, modalities: Sequence[str]) -> Iterator[Item]:
    return (item for modality in modalities for item in row.cells.get(modality, ()))
