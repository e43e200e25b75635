"""Tables with a delimiter between cells: commas, tabs, semicolons or bars, detected from the content.

image,text                          a header, any of the four delimiters, quotes supported
1000.jpg#0<TAB>A child climbs .     Flickr8k's `Flickr8k.token.txt`, without a header
image_name| comment_number| comment Flickr30k's `results.csv`, a space after each bar
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, BinaryIO

from lightcrl.data.base import Rejection, Row
from lightcrl.data.columns import Columns
from lightcrl.errors import ItemError

TORN = (EOFError, zlib.error, gzip.BadGzipFile)
DELIMITERS = (",", "\t", ";", "|")
LOOKED_AT = 50
"""Number of lines that determine the delimiter."""

_NUMBERED = re.compile(r"\S+#\d+\t")
_LIST = re.compile(r"""\[\s*(["'].*)?\]""", re.DOTALL)
FLICKR30K = {"image_name": "image", "image": "image", "comment_number": "comment_number", "comment": "text"}


def find_delimiter(lines: Sequence[str], usual: str = ",") -> str:
    """Return the delimiter of a table with these first lines; the `usual` delimiter if they are undecided.

    >>> find_delimiter(["image;text", "1.jpg;a dog, running", "2.jpg;a cat, asleep, at home"])
    ';'
    """

    def fit(delimiter: str) -> tuple[float, int]:
        rows: list[list[str]] = []
        with suppress(csv.Error):  # a broken line, which is set aside later
            rows.extend(row for row in csv.reader(lines, delimiter=delimiter) if row)
        width = len(rows[0]) if rows else 0
        if width < 2:
            return 0.0, 0
        return sum(len(row) == width for row in rows) / len(rows), width

    # Among equals the first wins.
    return max((usual, *DELIMITERS), key=fit)


def read_delimited(
    file: BinaryIO, name: str, layout: Columns, encoding: str, usual: str = ","
) -> Iterator[Row | Rejection]:
    """Yield the rows of a table: a header, then a row per line (more within quotes); empty cells are missing.

    A cell with a JSON list of texts has several items. A cell that looks like a list but is not JSON is set aside.
    """
    # Bytes of another encoding become half a pair, and their text is set aside.
    lines = io.TextIOWrapper(file, "utf-8-sig" if encoding == "utf-8" else encoding, "surrogateescape", newline="")
    try:
        try:
            first = list(islice(lines, LOOKED_AT))
        except TORN:
            first = []
        lines.seek(0)
        if first and _NUMBERED.match(first[0]):
            yield from _read_numbered(lines, name, layout)
        else:
            yield from _read_cells(lines, name, layout, find_delimiter(first, usual))
    finally:
        # The caller opened the file and closes it.
        lines.detach()


def _read_cells(lines: io.TextIOWrapper, name: str, layout: Columns, delimiter: str) -> Iterator[Row | Rejection]:
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == "|")
    header: list[str] | None = None
    while True:
        source = f"{name}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Rejection(source, "broken CSV line", str(error))
            continue
        except TORN as error:
            yield Rejection(source, "torn file", str(error))
            return
        if header is None:
            header = [cell.strip() for cell in cells]
            if delimiter == "|" and set(header) <= FLICKR30K.keys() and "comment" in header:
                header = [FLICKR30K[cell] for cell in header]
            layout.check(header, name)
        elif cells and len(cells) != len(header):
            yield Rejection(source, "broken CSV line", f"{len(cells)} cells under a header of {len(header)}")
        elif cells:
            values: dict[str, Any] = dict.fromkeys(header)
            for column, cell in zip(header, cells, strict=True):
                try:
                    values[column] = _cell(cell.strip() if delimiter == "|" else cell)
                except ItemError as error:
                    yield Rejection(source, error.reason, f"column {column!r}: {error.detail}")
            yield from layout.read(values, source)


def _cell(text: str) -> str | list[str] | None:
    """Return a cell's text, its list of texts, or None if it is empty.

    Raises:
        ItemError: the cell looks like a list of texts but is not JSON.
    """
    if not text:
        return None
    if not _LIST.fullmatch(text.strip()):
        return text
    try:
        texts: list[str] = json.loads(text)
    except ValueError as error:
        raise ItemError("broken list", f"{text[:60]!r} looks like a list and is no JSON: {error}") from None
    if not all(isinstance(entry, str) for entry in texts):
        raise ItemError("broken list", f"{text[:60]!r}; expected texts only")
    return texts


def _read_numbered(lines: io.TextIOWrapper, name: str, layout: Columns) -> Iterator[Row | Rejection]:
    """Yield the rows of lines `name#n<TAB>caption`."""
    layout.check(("image", "text"), name)
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            place, tab, caption = line.rstrip("\r\n").partition("\t")
            if not line.strip():
                continue
            if not tab:
                yield Rejection(f"{name}:{number}", "broken line", f"{line[:40]!r}; expected name#number<TAB>caption")
                continue
            values = {"image": place.rpartition("#")[0], "text": caption.strip() or None}
            yield from layout.read(values, f"{name}:{number}")
    except TORN as error:
        yield Rejection(f"{name}:{number + 1}", "torn file", str(error))
