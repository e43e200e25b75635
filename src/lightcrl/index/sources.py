"""Sources of an index: folders, files, tables and runs, read as entries.

| source | items |
|---|---|
| a folder of files | every picture and sound below it |
| a picture or sound | itself |
| a `.txt` file | one text per line |
| a table | the modalities' columns of every row; all other columns are metadata |
| a run's folder | the data of its training and evaluation, from its feature stores, without encoding them again |
| the folder of a feature store | its items, likewise; texts and paths are not known |
| a `.npy` file of `lightcrl embed` | its vectors, with the ids of the file beside it |
| a `.npy` file or a folder of arrays | vectors of a modality of kind `"vectors"`, embedded by the model |

`READERS` is the table of readers: the first whose test is true reads the source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lightcrl.data.arrays import AlignedArrays, find_arrays
from lightcrl.data.base import Item, Rejection, Row, bytes_item, digest, file_item, text_item, vector_item
from lightcrl.data.columns import ALL
from lightcrl.data.files import MEDIA, existing, name_below, some
from lightcrl.data.loose import loose_items, vector_items
from lightcrl.data.table import READERS as TABLES
from lightcrl.data.table import TableFile
from lightcrl.data.vectors import read_tokens
from lightcrl.embedder import Embedder
from lightcrl.errors import DataError, EmptyDatasetError, ItemError, ModalityError
from lightcrl.index.base import Entry
from lightcrl.index.encoded import read_run, read_store
from lightcrl.index.export import is_store

Entries: TypeAlias = Iterator[Entry | Rejection]

_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?")


@dataclass(frozen=True)
class Reading:
    """Options of reading sources.

    Attributes:
        columns: columns of a table by modality; by default every modality of the model has the column of its name.
        id_column: column of a table that holds the ids of the items.
        modality: modality of the items in files and lines, if the model has several of one kind.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    id_column: str | None = None
    modality: str | None = None


@dataclass(frozen=True)
class Model:
    """The model of the index that receives the entries.

    Attributes:
        modalities: kind of item by modality.
        embedder: function that returns the model, loaded at its first use.
        check: function that raises `ForeignModelError` if a fingerprint differs from the model's own.
    """

    modalities: Mapping[str, str]
    embedder: Callable[[], Embedder]
    check: Callable[[str], None]


def read_source(source: Path, model: Model, reading: Reading) -> Entries:
    """Yield the entries of a source, and the rejections.

    Raises:
        DataError: the source is missing, or cannot be read.
        ModalityError: the model has no modality for the source, or a column is missing.
        EmptyDatasetError: the source has no items.
    """
    existing(source, "a folder of files, a table, a file, or a run's folder")
    if reading.modality is not None and reading.modality not in model.modalities:
        raise ModalityError(
            f"no modality {reading.modality!r} in the model of the index; it has {', '.join(model.modalities)}."
        )
    source = source.absolute()
    read = next(read for fits, read in READERS if fits(source, reading))
    empty = True
    for entry in read(source, model, reading):
        empty = False
        yield entry
    if empty:
        raise EmptyDatasetError(f"{source} has no items of {_listed(model.modalities)}.")


def make_entry(
    raw: Any, modality: str, modalities: Mapping[str, str], id: str | None, metadata: Mapping[str, Any] | None
) -> Entry:
    """Return the entry of a raw item; see `Index.entry`."""
    if modality not in modalities:
        raise ModalityError(f"no modality {modality!r} in the model of the index; it has {', '.join(modalities)}.")
    given = dict(metadata or {})
    if modalities[modality] == "vectors" and id is not None:
        return Entry(modality, vector_item(read_tokens(raw), id), id, metadata=given)
    if modalities[modality] == "text":
        item = text_item(str(raw), id or digest("text", str(raw))[:12])
        return Entry(modality, item, id, text=str(raw), metadata=given)
    if isinstance(raw, (str, Path)):
        path = Path(raw).absolute()
        return Entry(modality, file_item(path, path.parent), id, str(path), metadata=given)
    if id is None:
        raise DataError(f"an item of {modality!r} that is {type(raw).__name__} has no name; give it an id.")
    if isinstance(raw, bytes):
        return Entry(modality, bytes_item(raw, id), id, metadata=given)
    # The content of an object in memory cannot be compared, so it counts as new each time.
    return Entry(modality, Item(digest("memory", id, str(np.random.default_rng().bytes(8))), id, raw), id, None, None)


# --- files ---


def read_folder(folder: Path, model: Model, reading: Reading) -> Entries:
    """Yield every picture and sound below a folder, with the column `folder`: the subfolder of the file.

    If the model has vectors among its modalities and the folder has arrays of them, it is read as `AlignedArrays`.
    """
    if arrays := _arrays(folder, model, reading):
        for row in arrays.rows():
            yield from [row] if isinstance(row, Rejection) else _row_entries(row, row.notes, folder, reading.id_column)
        return
    modality_of = _by_kind(model, reading)
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder)):
        name = name_below(file, folder)
        kind = MEDIA.get(file.suffix.lower())
        if kind not in modality_of:
            reason = "not a picture or sound" if kind is None else f"no modality of kind {kind!r}"
            yield Rejection(name, reason, f"extension {file.suffix!r}")
            continue
        try:
            item = file_item(file, folder)
        except ItemError as error:
            yield Rejection(name, error.reason, error.detail, modality_of[kind])
            continue
        below = name_below(file.parent, folder)
        metadata = {} if below == "." else {"folder": below}
        yield Entry(modality_of[kind], item, path=str(file), metadata=metadata)


def _arrays(folder: Path, model: Model, reading: Reading) -> AlignedArrays | None:
    """Return the source of a folder with arrays of the model's modalities, or None."""
    given = {name: "vectors" for name, kind in model.modalities.items() if kind == "vectors"}
    kinds = {name: kind for name, kind in given.items() if find_arrays(folder, name, reading.columns.get(name))}
    kinds |= {name: model.modalities[name] for name in reading.columns if name in model.modalities}
    return AlignedArrays(kinds, folder, reading.columns, notes=ALL) if kinds.keys() & given.keys() else None


def read_file(file: Path, model: Model, reading: Reading) -> Entries:
    """Yield a single picture or sound."""
    modality = _by_kind(model, reading).get(MEDIA[file.suffix.lower()])
    if modality is None:
        raise ModalityError(f"{file} is of kind {MEDIA[file.suffix.lower()]!r}; {_listed(model.modalities)}.")
    yield Entry(modality, file_item(file, file.parent), path=str(file))


def read_lines(file: Path, model: Model, reading: Reading) -> Entries:
    """Yield one text per line."""
    modality = _by_kind(model, reading).get("text")
    if modality is None:
        raise ModalityError(f"{file} has texts; {_listed(model.modalities)}.")
    for item in loose_items(file, "text")[0]:
        yield Entry(modality, item, text=str(item.raw), place=f"{file.parent}/{item.source}")


# --- tables ---


def read_table(file: Path, model: Model, reading: Reading) -> Entries:
    """Yield the items of every row, with all other columns as metadata."""
    columns = dict(reading.columns) or _own_columns(file, model)
    kinds = {modality: model.modalities[modality] for modality in columns if modality in model.modalities}
    if len(kinds) < len(columns):
        odd = next(modality for modality in columns if modality not in kinds)
        raise ModalityError(f"no modality {odd!r} in the model of the index; it has {', '.join(model.modalities)}.")
    typed = TABLES.get(_suffix(file)) is TABLES[".csv"]  # all cells of CSV are texts, even numbers
    for row in TableFile(kinds, file, columns, notes=ALL).rows():
        if isinstance(row, Rejection):
            yield row
            continue
        notes = {name: _value(value, typed) for name, value in row.notes.items() if _is_plain(value)}
        yield from _row_entries(row, notes, file, reading.id_column)


def _row_entries(row: Row, notes: Mapping[str, Any], file: Path, id_column: str | None) -> Entries:
    metadata = {**notes, **({"split": row.split} if row.split else {})}
    name = None
    if id_column is not None:
        value = row.notes.get(id_column)
        if value is None or value == "":
            yield Rejection(row.key, "no id", f"column {id_column!r} is empty")
            return
        name = str(value)
    for modality, items in row.cells.items():
        for number, item in enumerate(items, 1):
            ending = f"#{number}" if number > 1 else ""
            suffix = f"/{modality}" if len(row.cells) > 1 else ""
            path = str(item.raw.absolute()) if isinstance(item.raw, Path) else None
            text = item.raw if isinstance(item.raw, str) else None
            named = item if path else replace(item, source=item.source + ending)
            yield Entry(
                modality,
                named,
                None if name is None else name + suffix + ending,
                path,
                text,
                row.key,
                metadata,
                place=None if path else f"{file.parent}/{named.source}",
            )


def _own_columns(file: Path, model: Model) -> dict[str, str]:
    """Return the columns that have the name of a modality, by modality."""
    present = {}
    for modality, kind in model.modalities.items():
        try:
            if any(isinstance(row, Row) for row in TableFile({modality: kind}, file).rows()):
                present[modality] = modality
        except ModalityError:
            continue
    if not present:
        raise ModalityError(
            f"{file.name} has no column of the name of a modality ({', '.join(model.modalities)}) with items in it. "
            "Say which column is whose: --column image=COLUMN."
        )
    return present


def _value(value: Any, typed: bool) -> Any:
    """Return a cell of metadata; a text of CSV that is a number becomes a number."""
    if typed and isinstance(value, str) and (match := _NUMBER.fullmatch(value.strip())):
        return float(value) if match[2] else int(value)
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else value


def _is_plain(value: Any) -> bool:
    """Return True if a cell is metadata, not a picture or sound of another column."""
    return not isinstance(value, bytes) and not (isinstance(value, dict) and "bytes" in value)


# --- embeddings and features ---


def read_embedded(file: Path, model: Model, reading: Reading) -> Entries:
    """Yield the vectors of `lightcrl embed`, with the ids of the file beside them; or items of a modality of vectors.

    A file beside them that names a model says that they are embeddings.
    """
    beside = file.with_suffix(".json")
    if not _names_model(beside) and (modality := _by_kind(model, reading).get("vectors")):
        for item in vector_items(file):
            yield Entry(modality, item, place=f"{file.parent}/{item.source}")
        return
    try:
        description = json.loads(beside.read_text(encoding="utf-8"))
        ids, modality = description["ids"], description["modality"]
        fingerprint = description["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: {beside.name} beside it does not say ids, modality and model ({type(error).__name__}: {error}). "
            "Make both with lightcrl embed."
        ) from None
    model.check(fingerprint)
    vectors = np.load(file, "r", allow_pickle=False)
    if len(vectors) != len(ids):
        raise DataError(f"{file} has {len(vectors)} vectors, {beside.name} {len(ids)} ids. Make both anew.")
    for id, vector in zip(ids, vectors, strict=True):
        key = digest("vector", np.asarray(vector, np.float32).tobytes())
        yield Entry(modality, Item(key, id, None), id, vector=np.asarray(vector))


def _names_model(beside: Path) -> bool:
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "model" in content


READERS: tuple[tuple[Callable[[Path, Reading], bool], Callable[[Path, Model, Reading], Entries]], ...] = (
    (
        lambda source, reading: (source / "recipe.json").is_file(),
        lambda *given: read_run(given[0], given[1].embedder()),
    ),
    (lambda source, reading: is_store(source), lambda *given: read_store(given[0], given[1].embedder())),
    (lambda source, reading: source.is_dir(), read_folder),
    (lambda source, reading: source.suffix.lower() == ".npy", read_embedded),
    (lambda source, reading: source.suffix.lower() in MEDIA, read_file),
    (lambda source, reading: source.suffix.lower() == ".txt" and not reading.columns, read_lines),
    (lambda source, reading: True, read_table),
)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _suffix(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix == ".gz" else file.suffix.lower()


def _by_kind(model: Model, reading: Reading) -> dict[str, str]:
    """Return the modality of each kind of item: the given one, else the first."""
    kinds: dict[str, str] = {}
    for modality, kind in model.modalities.items():
        kinds.setdefault(kind, modality)
    if reading.modality is not None:
        kinds[model.modalities[reading.modality]] = reading.modality
    return kinds


def _listed(modalities: Mapping[str, str]) -> str:
    return "the model's modalities: " + some([f"{name} ({kind})" for name, kind in modalities.items()])
