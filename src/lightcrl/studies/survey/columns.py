"""The content of a column, from a sample of its cells."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from lightcrl.data.files import MEDIA, SPLITS

PLURALS = {"image": "pictures", "audio": "sounds", "text": "texts", "vectors": "vectors"}

LEAST = 0.8
"""Share of the cells that have to agree on the content."""
SAMPLES = 64
"""Number of items that are kept of a column."""
MEDIA_MARKS: Mapping[bytes, str] = {
    b"\x89PNG": "image",
    b"\xff\xd8\xff": "image",
    b"GIF8": "image",
    b"BM": "image",
    b"II*\0": "image",
    b"MM\0*": "image",
    b"fLaC": "audio",
    b"OggS": "audio",
    b"ID3": "audio",
    b"\xff\xfb": "audio",
    b"\x93NUMPY": "vectors",
}
"""First bytes of files by kind; RIFF is told apart by its form."""
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Column:
    """A column of a table, or an extension of the files of a sample.

    Attributes:
        name: name of the column.
        content: `"image"`, `"audio"`, `"text"` or `"vectors"`: items; `"label"`, `"split"`, `"number"`, `"id"` or
            `"other"`: none.
        filled: share of cells that are not empty.
        distinct: number of different values among the sampled cells.
        sampled: number of sampled cells that are not empty.
        words: mean number of words of a text, or width of a vector.
        several: true if cells hold lists of items.
        samples: some of its items, spread over the sample.
        example: a short example.
    """

    name: str
    content: str
    filled: float = 1.0
    distinct: int = 0
    sampled: int = 0
    words: float = 0.0
    several: bool = False
    samples: tuple[Any, ...] = ()
    example: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths among the samples."""
        return tuple(path for value in self.samples if (path := _path(value)))

    @property
    def repeats(self) -> bool:
        """True if many rows share a value, as rows of one group do."""
        return self.distinct < 0.9 * self.sampled

    def describe(self) -> str:
        """Return the content in words."""
        lists = ", several per row" if self.several else ""
        words = {
            "image": f"pictures{lists}, such as {self.example}",
            "audio": f"sounds{lists}, such as {self.example}",
            "text": f'texts of {self.words:.0f} words{lists}, such as "{self.example}"',
            "vectors": f"vectors of {self.words:.0f} numbers{lists}" if self.words else f"arrays, {self.example}",
            "label": f"{self.distinct} labels, such as {self.example}",
            "split": f"splits: {self.example}",
            "number": f"numbers, such as {self.example}",
            "id": f"ids, such as {self.example}",
            "other": f"something else, such as {self.example}",
        }[self.content]
        return words + (f"; {1 - self.filled:.0%} of the rows are empty" if self.filled < 0.995 else "")


def read_column(name: str, cells: Sequence[Any]) -> Column:
    """Return the content of a column, from its sampled cells."""
    present = [cell for cell in cells if cell is not None and cell != "" and not (isinstance(cell, list) and not cell)]
    filled = len(present) / max(1, len(cells))
    if not present:
        return Column(name, "other", 0.0, example="nothing")
    several = sum(_is_list(cell) for cell in present) > LEAST * len(present)
    values = [value for cell in present for value in _members(cell)]
    kinds = Counter(map(_kind, values))
    content, count = kinds.most_common(1)[0] if kinds else ("other", 0)
    if count < LEAST * len(values):
        content = "text" if kinds["text"] + kinds["number"] >= LEAST * len(values) else "other"
    texts = [_shown(value) for value in values]
    distinct, words = len(set(texts)), 0.0
    if content == "text":
        words = float(np.mean([len(text.split()) for text in texts]))
        content = _kind_of_text(texts, distinct, words)
    elif content == "vectors":
        words = float(next((_width(value) for value in values if _width(value)), 0))
    step = max(1, len(values) // SAMPLES)
    example = ", ".join(sorted(set(texts))) if content == "split" else texts[0]
    return Column(
        name,
        content,
        filled,
        distinct,
        len(values),
        words,
        several,
        tuple(values[::step][:SAMPLES]),
        example if len(example) <= 60 else f"{example[:57]}...",
    )


def _members(cell: Any) -> Iterator[Any]:
    """Yield the items of a cell: those of a list, unless it is a list of numbers."""
    if _is_list(cell):
        yield from (entry for entry in cell if entry is not None)
    else:
        yield cell


def _is_list(cell: Any) -> bool:
    return isinstance(cell, (list, tuple)) and bool(cell) and not _is_vector(cell)


def _is_vector(value: Any) -> bool:
    first = value
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    return isinstance(value, (list, tuple, np.ndarray)) and isinstance(first, Real) and not isinstance(first, bool)


def _kind(value: Any) -> str:
    """Return the content of one value."""
    if isinstance(value, Mapping):
        held = value.get("bytes") or value.get("path")
        return _kind(held) if isinstance(held, (bytes, str)) else "other"
    if isinstance(value, bytes):
        form = {b"WEBP": "image", b"WAVE": "audio"}.get(value[8:12], "other") if value[:4] == b"RIFF" else ""
        return form or next((kind for mark, kind in MEDIA_MARKS.items() if value.startswith(mark)), "other")
    if _is_vector(value) or (isinstance(value, str) and _width(value)):
        return "vectors"
    if isinstance(value, (bool, Real)):
        return "number"
    if not isinstance(value, str):
        return "other"
    suffix = PurePosixPath(value.strip()).suffix.lower()
    if suffix == ".npy":
        return "vectors"
    return MEDIA.get(suffix) or ("number" if _NUMBER.fullmatch(value.strip()) else "text")


def _width(value: Any) -> int:
    """Return the width of a vector; 0 for anything else."""
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("[") or text[1:].lstrip("[ ")[:1].strip("+-.0123456789"):
            return 0
        try:
            value = json.loads(text)
        except ValueError:
            value = [[0.0] * len(text.split("]")[0].split())]
    while isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple)):
        value = value[0]
    return len(value) if _is_vector(value) else 0


def _kind_of_text(texts: Sequence[str], distinct: int, words: float) -> str:
    if {text.strip().lower() for text in texts} <= SPLITS.keys():
        return "split"
    if words < 1.2 and distinct > 0.9 * len(texts) and any(sign.isdigit() or sign == "_" for sign in texts[0]):
        return "id"
    few = distinct <= max(2, 0.05 * len(texts)) or (distinct <= 0.2 * len(texts) and words < 1.5)
    return "label" if few and words < 4 and len(texts) >= 8 else "text"


def _path(value: Any) -> str:
    if isinstance(value, Mapping):
        return "" if value.get("bytes") else str(value.get("path") or "")
    return value if isinstance(value, str) and not value.lstrip().startswith("[") else ""


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("path") or f"{len(value.get('bytes') or b'')} bytes")
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return str(value) if isinstance(value, str) else json.dumps(value, default=str)
