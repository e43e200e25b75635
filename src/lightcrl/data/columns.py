"""From the columns of a table to groups: which column is which modality, the group's name, the split."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lightcrl.data.base import Item, Rejection, Row, cell_items, read_cells
from lightcrl.data.files import SPLITS, name_below
from lightcrl.errors import DataError, ItemError, ModalityError, UnknownNameError


class Cells(Protocol):
    """A table whose cells can be read once more."""

    def cell(self, row: int, column: str) -> Any:
        """The cell as it was when the table was scanned; called from several threads."""
        ...


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """Reads a picture or sound back from its table, so that a scan need not hold them all in memory."""

    table: Cells
    row: int
    column: str
    key: str

    def __call__(self) -> bytes:
        """The bytes.

        Raises:
            ItemError: they are no longer there.
        """
        for found in cell_items(self.table.cell(self.row, self.column), "image", Path(), ""):
            if isinstance(found, Item) and found.key == self.key:
                return bytes(found.raw)
        raise ItemError("changed since it was listed", f"row {self.row + 1}, column {self.column!r}")


ALL = ("*",)
"""In place of names of further columns: all that are no modality's."""


@dataclass(frozen=True)
class Columns:
    """How the columns of a table are read.

    Rows are one group if they share the value of the `key` column. Without one they are if they share their first
    picture or sound: the photo that stands in five rows with a caption each is one photo.

    Attributes:
        kinds: modality to `"text"`, `"image"` or `"audio"`.
        columns: modality to column; a modality that is not in it has the column of its own name.
        key: the column that names the group.
        split_column: the column that names the split.
        root: folder that relative paths of pictures and sounds are below.
        base: folder below which they are named; `root` if None.
        notes: further columns that rows carry along as they are, those of them that are there; `ALL` takes all.
        one_split: all rows are in one split, whatever the file says of splits.
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
        """The column of a modality."""
        return self.columns.get(modality, modality)

    def wanted(self, found: Collection[str]) -> list[str]:
        """Every column that is read, once each, out of those `found`, which `check` has seen."""
        if self.notes == ALL:
            return list(found)
        named = [self.column(modality) for modality in self.kinds]
        named += [name for name in (self.key, self.split_column, *self.notes) if name]
        return [name for name in dict.fromkeys(named) if name in found]

    def check(self, found: Iterable[str], where: str) -> None:
        """See that every wanted column is there.

        Raises:
            ModalityError: a modality's column is not; names the nearest.
            DataError: the `key` or `split_column` is not.
        """
        found = list(dict.fromkeys(found))
        for modality in self.kinds:
            if (column := self.column(modality)) not in found:
                raise ModalityError(
                    f"{where}: {UnknownNameError('column', column, found)} Expected one for modality {modality!r}: "
                    f'name it under data.columns, {modality} = "<column>".'
                )
        for setting, name in (("key", self.key), ("split_column", self.split_column)):
            if name is not None and name not in found:
                raise DataError(f"{where}: {UnknownNameError('column', name, found)} Check data.{setting}.")

    def read(
        self, values: Mapping[str, Any], source: str, stored: Cells | None = None, number: int = 0
    ) -> Iterator[Row | Rejection]:
        """One row of the table, after what had to be set aside in it.

        Args:
            values: cells by column; a missing one is an empty one.
            source: where the row is, for people; also the group's name where nothing else gives one.
            stored: the table, if its bytes are to be read again later; `number` is the row in it, from 0.
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
            for modality, found in items.items():
                items[modality] = [
                    replace(item, raw=StoredBytes(stored, number, self.column(modality), item.key))
                    if isinstance(item.raw, bytes)
                    else item
                    for item in found
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
        media = [modality for modality, kind in self.kinds.items() if kind != "text" and cells[modality] is not None]
        if self.key is not None:
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
