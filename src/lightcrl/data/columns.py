"""Groups from the columns of a table: the column of each modality, the group's name, the split."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lightcrl.data.base import Item, Rejection, Row, cell_items, read_cells
from lightcrl.data.files import SPLITS, name_below
from lightcrl.errors import DataError, ItemError, ModalityError, UnknownNameError


class Cells(Protocol):
    """A table whose cells can be read again."""

    def cell(self, row: int, column: str) -> Any:
        """Return the cell as it was when the table was scanned; called from several threads."""
        ...


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A reader of a picture, sound or vector in its table, so that a scan does not hold all of them in memory."""

    table: Cells
    row: int
    column: str
    kind: str
    key: str

    def __call__(self) -> bytes | np.ndarray:
        """Return the bytes, or the numbers of a vector.

        Raises:
            ItemError: they are no longer there.
        """
        for item in cell_items(self.table.cell(self.row, self.column), self.kind, Path(), ""):
            if isinstance(item, Item) and item.key == self.key and isinstance(item.raw, (bytes, np.ndarray)):
                return item.raw
        raise ItemError("changed since it was listed", f"row {self.row + 1}, column {self.column!r}")


ALL = ("*",)
"""Stands for all further columns, those of no modality."""


@dataclass(frozen=True)
class Columns:
    """The layout of a table's columns.

    Rows with the same value of the `key` column are a group. Without a key, rows with the same first picture or sound
    are a
    group: a photo in five rows with a caption each is a single photo.

    Attributes:
        kinds: `"text"`, `"image"`, `"audio"` or `"vectors"` by modality.
        columns: column by modality; a modality without an entry has the column of its own name.
        key: column of the group's name.
        split_column: column of the split.
        root: base folder of relative paths of pictures and sounds.
        base: folder to which their names are relative; `root` if None.
        notes: further columns that rows carry along unchanged, if present; `ALL` for all columns.
        one_split: true if all rows are in the same split, whatever the file contains.
    """

    kinds: Mapping[str, str]
    columns: Mapping[str, str]
    key: str | None = None
    split_column: str | None = None
    root: Path = Path()
    base: Path | None = None
    notes: tuple[str, ...] = ()
    one_split: bool = False

    def column(self, modality: str) -> str:
        """Return the column of a modality."""
        return self.columns.get(modality, modality)

    def wanted(self, present: Collection[str]) -> list[str]:
        """Return every column that is read, once each, out of the `present` columns, which `check` has accepted."""
        if self.notes == ALL:
            return list(present)
        named = [self.column(modality) for modality in self.kinds]
        named += [name for name in (self.key, self.split_column, *self.notes) if name]
        return [name for name in dict.fromkeys(named) if name in present]

    def check(self, present: Iterable[str], where: str) -> None:
        """Check that every wanted column is present.

        Raises:
            ModalityError: a modality's column is missing; the message names the nearest.
            DataError: the `key` or `split_column` is missing.
        """
        present = list(dict.fromkeys(present))
        for modality in self.kinds:
            if (column := self.column(modality)) not in present:
                raise ModalityError(
                    f"{where}: {UnknownNameError('column', column, present)} Expected one for modality {modality!r}: "
                    f'name it under data.columns, {modality} = "<column>".'
                )
        for setting, name in (("key", self.key), ("split_column", self.split_column)):
            if name is not None and name not in present:
                raise DataError(f"{where}: {UnknownNameError('column', name, present)} Check data.{setting}.")

    def read(
        self, values: Mapping[str, Any], source: str, stored: Cells | None = None, number: int = 0
    ) -> Iterator[Row | Rejection]:
        """Return a row of the table, after the rejections in it.

        Args:
            values: cells by column; a missing cell counts as empty.
            source: location of the row, for people; also the group's name if there is no other.
            stored: table from which bytes can be read again later; `number` is the row in it, from 0.
        """
        split = None
        if self.split_column is not None:
            given = values.get(self.split_column)
            split = SPLITS.get(str(given).strip().lower())
            if split is None:
                yield Rejection(
                    source, "unknown split", f"{given!r} in {self.split_column!r}; known: {', '.join(SPLITS)}"
                )
                return
        cells = {modality: values.get(self.column(modality)) for modality in self.kinds}
        items, rejected = read_cells(cells, self.kinds, self.root, source, self.base)
        yield from rejected
        if not items:
            return
        name = self._group(values, cells, items) or source
        if stored is not None:
            for modality, members in items.items():
                column, kind = self.column(modality), self.kinds[modality]
                items[modality] = [
                    replace(item, raw=StoredCell(stored, number, column, kind, item.key))
                    if isinstance(item.raw, (bytes, np.ndarray))
                    else item
                    for item in members
                ]
        yield Row(name, items, split, self._noted(values))

    def _noted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if self.notes == ALL:
            taken = {self.column(modality) for modality in self.kinds}
            return {column: value for column, value in values.items() if column not in taken}
        return {column: values[column] for column in self.notes if column in values}

    def _group(
        self, values: Mapping[str, Any], cells: Mapping[str, Any], items: Mapping[str, list[Item]]
    ) -> str | None:
        media = [name for name, kind in self.kinds.items() if kind in ("image", "audio") and cells[name] is not None]
        if self.key is not None:
            for modality, kind in self.kinds.items():
                if kind == "vectors" and self.column(modality) == self.key:
                    return items[modality][0].key if modality in items else None
            media = [modality for modality in media if self.column(modality) == self.key]
            if not media:
                value = values.get(self.key)
                return None if value is None or value == "" else str(value)
        for modality in media[:1]:
            value = cells[modality]
            if isinstance(value, (str, Path)) and str(value):
                return name_below(self.root / value, self.base or self.root)
            if not isinstance(value, (list, tuple)) and items.get(modality):
                (item,) = items[modality]
                return item.source if isinstance(item.raw, Path) else item.key
        return None
