"""A look at tables: columns, splits and the folder of their files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lightcrl.data.base import Rejection
from lightcrl.data.files import SPLITS, some, visible
from lightcrl.data.table import is_table_file, raw_rows
from lightcrl.errors import DataError
from lightcrl.studies.survey.columns import Column, read_column

ROWS = 50_000
"""Greatest number of rows that are looked at."""
CHECKED = 20
"""Number of paths that decide on the folder that they start at."""
_SPLIT = re.compile(rf"(^|[_\-.])({'|'.join(sorted(SPLITS, key=len, reverse=True))}|training)(?=$|[_\-.\d])", re.I)


@dataclass(frozen=True)
class Survey:
    """The result of a look.

    Attributes:
        path: the data.
        source: member of `lightcrl.data.SOURCES` that reads it.
        title: its shape in words.
        settings: keys of `[data]` that follow from the shape.
        columns: its columns.
        rows: number of rows or files looked at.
        splits: number of rows by split, as far as the data has splits.
        root: folder that paths of pictures and sounds start at.
        notes: remarks for the user.
        made: rows of a table to write, by split, if no source reads this shape; None is the split of all.
        held_out: files or folders of a test split that training leaves alone.
    """

    path: Path
    source: str
    title: str
    settings: Mapping[str, Any]
    columns: tuple[Column, ...]
    rows: int
    splits: Mapping[str, int] = field(default_factory=dict)
    root: Path | None = None
    notes: tuple[str, ...] = ()
    made: Mapping[str | None, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    held_out: str | None = None

    @property
    def usable(self) -> tuple[Column, ...]:
        """The columns that hold items."""
        return tuple(column for column in self.columns if column.content in ("image", "audio", "text", "vectors"))


def of_tables(files: Mapping[str | None, Path], root: Path | None) -> Survey:
    """Look at the files of a table, by split; None is the split of a single file.

    If the files of the splits have folders of pictures of their own, a table for each is made.
    """
    main = files.get("train") or next(iter(files.values()))
    notes: list[str] = []
    rows: dict[str | None, list[dict[str, Any]]] = {}
    for split, file in files.items():
        rows[split], aside, whole = read_cells(file)
        if aside:
            notes.append(f"{file.name}: {len(aside):,} rows cannot be read; the first: {aside[0]}")
        if not whole:
            notes.append(f"{file.name} has more than {ROWS:,} rows; those were looked at")
    columns = {split: read_columns(values) for split, values in rows.items()}
    settings, held_out = _paths(files)
    if held_out:
        notes.append(f"there is no dev split: it is drawn from {main.name}; {Path(held_out).name} stays unseen")
    roots = {split: find_root(columns[split], file, root) for split, file in files.items()}
    (first, *others), of_main = (
        dict.fromkeys(roots.values()),
        columns["train" if "train" in files else next(iter(files))],
    )
    made: dict[str | None, Sequence[Mapping[str, Any]]] = {}
    if others and not held_out:
        media = {column.name for column in of_main if column.content in ("image", "audio")}
        first = Path(os.path.commonpath([place for place in roots.values() if place is not None]))
        made = {split: _moved(rows[split], media, place, first) for split, place in roots.items()}
        notes.append(f"the splits have folders of their own below {first}; tables with whole paths are written")
    if first is not None and (made or first != main.parent):
        settings["root"] = str(first)
    splits = {split: len(values) for split, values in rows.items() if split}
    if (column := next((column for column in of_main if column.content == "split"), None)) and not splits:
        settings["split_column"] = column.name
        cells = (row.get(column.name) for row in next(iter(rows.values())))
        splits = dict(Counter(SPLITS[str(cell).strip().lower()] for cell in cells if cell))
    title = f"table {main.name}" if len(files) == 1 else f"tables {some([file.name for file in files.values()])}"
    count = sum(map(len, rows.values()))
    return Survey(
        main, "table", title, settings, of_main, count, splits, roots.get("train", first), tuple(notes), made, held_out
    )


def read_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Return the columns of rows, in order of their first appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    return tuple(read_column(name, [row.get(name) for row in rows]) for name in names)


def _moved(
    rows: Sequence[Mapping[str, Any]], media: Collection[str], place: Path | None, base: Path
) -> list[Mapping[str, Any]]:
    """Return rows whose paths start at `base` instead of `place`."""
    if place is None:
        return list(rows)
    start = place.relative_to(base)
    paths = [
        {name: (start / cell).as_posix() for name in media if isinstance(cell := row.get(name), str)} for row in rows
    ]
    return [{**row, **moved} for row, moved in zip(rows, paths, strict=True)]


def read_cells(file: Path) -> tuple[list[dict[str, Any]], list[Rejection], bool]:
    """Return cells by column of the rows of a table, its unreadable rows, and true if these are all."""
    rows: list[dict[str, Any]] = []
    aside = []
    for row in raw_rows(file):
        if isinstance(row, Rejection):
            aside.append(row)
        elif len(rows) == ROWS:
            return rows, aside, False
        else:
            rows.append(dict(row.notes))
    return rows, aside, True


def _paths(files: Mapping[str | None, Path]) -> tuple[dict[str, Any], str | None]:
    """Return the keys of `[data]` for files by split, and the file of a test split without a dev split."""
    if "train" in files and "dev" in files:
        return {split: str(file) for split, file in files.items() if split}, None
    if "train" in files:
        return {"path": str(files["train"])}, str(files["test"]) if "test" in files else None
    return {"path": str(next(iter(files.values())))}, None


def split_of(path: Path) -> str | None:
    """Return the split that a file's name names."""
    match = _SPLIT.search(path.stem)
    return SPLITS.get(match[2].lower(), "train") if match else None


def split_files(path: Path) -> dict[str | None, Path]:
    """Return the files of all splits beside a file of the split `train`; none for any other file."""
    if split_of(path) != "train":
        return {}
    return table_sets([entry for entry in visible(path.parent) if is_table_file(entry)])[set_name(path)]


def set_name(path: Path) -> str:
    """Return the name of a file with a star in place of its split."""
    return _SPLIT.sub(r"\1*", path.stem) + path.suffix


def table_sets(files: Sequence[Path]) -> dict[str, dict[str | None, Path]]:
    """Return tables whose names differ in the split alone as one set, by that name."""
    sets: dict[str, dict[str | None, Path]] = {}
    for file in files:
        sets.setdefault(set_name(file), {}).setdefault(split_of(file), file)
    return sets


def find_root(columns: Sequence[Column], table: Path, given: Path | None) -> Path | None:
    """Return the folder that the paths in a table start at; None if it has none.

    Raises:
        DataError: the files are nowhere near the table.
    """
    paths = [path for column in columns for path in column.paths[:CHECKED] if column.content in ("image", "audio")]
    if not paths:
        return None
    above = [table.parent, *table.parents[1:2]]
    below = [entry for folder in above for entry in visible(folder) if entry.is_dir()][:100]
    deeper = [entry for folder in below for entry in islice(visible(folder), 200) if entry.is_dir()][:200]
    places = [given.absolute()] if given else [*above, *below, *deeper]
    shares = [sum((place / path).is_file() for path in paths) / len(paths) for place in places]
    if max(shares) < 0.1:
        raise DataError(
            f"{table.name} names files such as {paths[0]}; they start at none of "
            f"{some([str(place) for place in places], 3)}. Say which folder they start at: --root FOLDER."
        )
    return places[shares.index(max(shares))]
