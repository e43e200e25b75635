"""Tables in a file: CSV and its kin, JSON lines, JSON documents (also gzipped) and Parquet, told apart by content."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from lightcrl.data.base import Rejection, Row
from lightcrl.data.columns import Columns
from lightcrl.data.delimited import TORN, read_delimited
from lightcrl.data.documents import read_document, read_records
from lightcrl.data.files import existing, name_below, some, visible
from lightcrl.data.parquet import read_parquet
from lightcrl.errors import DataError

Rows = Iterator[Row | Rejection]
Reader = Callable[[Path, str, Columns, str], Rows]


@dataclass(frozen=True)
class TableFile:
    """The rows of one file; its extension says how it is read.

    Attributes:
        kinds: modality to `"text"`, `"image"` or `"audio"`.
        path: the file.
        columns: modality to column, where the names differ.
        key: column whose equal values make rows one group; None goes by the first picture or sound.
        split_column: column with `train`, `dev` (`val`, `validation`) or `test`.
        root: folder that relative paths in the table are below; the file's own if None.
        base: folder below which files are named; two tables with files of the same name need a common one.
        notes: further columns that rows carry along, where they are there; `columns.ALL` takes all.
        encoding: of text files, by Python's name.
        one_split: all rows are in one split, whatever the file says of splits.
    """

    kinds: Mapping[str, str]
    path: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    split_column: str | None = None
    root: str | Path | None = None
    base: str | Path | None = None
    notes: Sequence[str] = ()
    encoding: str = "utf-8"
    one_split: bool = False

    def rows(self) -> Rows:
        """Every row, in the file's order, known as `train.jsonl:17` (in Parquet: the 17th row).

        Raises:
            DataError: there is no such file, or it is no table.
            ModalityError: a column is not there.
        """
        path = existing(self.path, f"a table ({', '.join(READERS)}, all but .parquet also with .gz)")
        root, base = Path(self.root or path.parent), Path(self.base or path.parent)
        layout = Columns(
            self.kinds,
            self.columns,
            self.key,
            self.split_column,
            root,
            None if self.root else base,
            tuple(self.notes),
            self.one_split,
        )
        return _reader(path)(path, name_below(path, base), layout, _encoding(self.encoding))


def read_json(path: Path, name: str, layout: Columns, encoding: str) -> Rows:
    """One JSON object a line; a line that is not one is set aside, blank ones are passed over.

    A file that is one document instead is read by `read_document`.
    """
    if _is_document(path):
        with _open(path) as file:
            try:
                content = file.read()
                yield from read_document(content if encoding == "utf-8" else content.decode(encoding), name, layout)
            except TORN as error:
                yield Rejection(f"{name}:1", "torn file", str(error))
            except UnicodeDecodeError as error:
                raise DataError(f"{name}: {error}. Say in data.encoding which encoding it has.") from None
        return
    with _open(path) as file:
        yield from read_records(_json_lines(file, name, encoding), name, layout)


def _json_lines(file: BinaryIO, name: str, encoding: str) -> Iterator[tuple[str, dict[str, Any]] | Rejection]:
    """Where each object is, and the object; a torn file ends in a `Rejection`."""
    for number, line in _numbered(file, name):
        source = f"{name}:{number}"
        if isinstance(line, Rejection):
            yield line
            return
        if not line.strip():
            continue
        try:
            values = json.loads(line if encoding == "utf-8" else line.decode(encoding))
        except (ValueError, RecursionError) as error:
            hint = "; data.encoding names another encoding" if isinstance(error, UnicodeDecodeError) else ""
            yield Rejection(source, "broken JSON line", f"{error}{hint}")
            continue
        if isinstance(values, dict):
            yield source, values
        else:
            yield Rejection(source, "broken JSON line", f"expected an object, found {type(values).__name__}")


def read_text_table(path: Path, name: str, layout: Columns, encoding: str) -> Rows:
    """Cells with a delimiter between them; see `read_delimited`."""
    with _open(path) as file:
        yield from read_delimited(file, name, layout, encoding, "\t" if _suffix(path) == ".tsv" else ",")


def read_parquet_file(path: Path, name: str, layout: Columns, encoding: str) -> Rows:
    """Parquet, which says its encoding itself."""
    return read_parquet(path, name, layout)


READERS: Mapping[str, Reader] = {
    ".csv": read_text_table,
    ".tsv": read_text_table,
    ".txt": read_text_table,
    ".token": read_text_table,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": read_parquet_file,
}


def _is_document(path: Path) -> bool:
    """Whether a JSON file is one document: an array, an object over several lines, or one that is the only line."""
    try:
        with _open(path) as file:
            start = file.read(1 << 20)
    except TORN:
        return False
    start = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if start[:1] == b"[":
        return True
    named = _suffix(path) == ".json"
    line, end, rest = start.partition(b"\n")
    if rest.strip():
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            # The first line of an object over several lines is no JSON; nor is a broken first line of many.
            return line.strip() == b"{" or (start[:1] == b"{" and named)
        return False
    return named and (b'"images"' in start[:4096] or not end)


def _reader(path: Path) -> Reader:
    if path.is_dir():
        tables = [entry.name for entry in visible(path) if _suffix(entry) in READERS]
        raise DataError(
            f"{path} is a folder with {some(tables)}; expected one table. Name the file, or one per split under "
            'data.train, data.dev and data.test; pictures in class folders are source = "folder".'
        )
    if _suffix(path) not in READERS or (path.suffix == ".gz" and _suffix(path) == ".parquet"):
        raise DataError(f"{path} is no table: found {path.suffix or 'no extension'}, expected {', '.join(READERS)}.")
    return READERS[_suffix(path)]


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _numbered(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes | Rejection]]:
    """Lines from 1; a gzip file that ends too early ends in a `Rejection`."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            yield number, line
    except TORN as error:
        yield number + 1, Rejection(f"{name}:{number + 1}", "torn file", str(error))


def _encoding(name: str) -> str:
    """The standard name of an encoding.

    Raises:
        DataError: there is none of this name.
    """
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise DataError(f"data.encoding is {name!r}, which is unknown; expected such as latin-1.") from None
