"""Hugging Face `datasets`: an id on the hub, a dataset saved to disk, or a folder of data files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightcrl.data.base import Rejection, Row
from lightcrl.data.columns import Columns
from lightcrl.data.files import SPLITS, name_below
from lightcrl.errors import DataError, MissingExtraError

BATCH_ROWS = 256


@dataclass(frozen=True)
class HubDataset:
    """The splits of a dataset; a dataset with a single split has splits drawn.

    Attributes:
        kinds: `"text"`, `"image"`, `"audio"` or `"vectors"` by modality.
        path: hub id or local folder.
        columns: column by modality, where the names differ.
        key: column of the group's name; None for the first picture or sound.
        split_column: column of the split, in place of the dataset's own splits.
        root: base folder of relative paths in the data; a local dataset's own if None.
        base: folder to which names of local datasets are relative.
        name: configuration of a dataset that has several.
        revision: branch, tag or commit on the hub.
        cache_dir: cache folder of `datasets`; its default if None.
        notes: further columns that rows carry along, if present.
    """

    kinds: Mapping[str, str]
    path: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    split_column: str | None = None
    root: str | Path | None = None
    base: str | Path | None = None
    name: str | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    notes: Sequence[str] = ()

    def rows(self) -> Iterator[Row | Rejection]:
        """Yield every row, split by split, named like `flickr30k[train]:17`.

        Raises:
            DataError: there is no such dataset; the message explains the use of a local folder.
            ModalityError: a column is missing.
        """
        splits = open_hub(self.path, self.name, self.revision, self.cache_dir)
        local = Path(self.path).is_dir()
        folder = Path(self.path) if local else Path()
        base = Path(self.base or folder.parent) if local else None
        title = name_below(folder, base) if base else str(self.path)
        layout = Columns(
            self.kinds,
            self.columns,
            self.key,
            self.split_column,
            Path(self.root or folder),
            None if self.root else base,
            tuple(self.notes),
        )
        for split_name, rows in splits.items():
            split = SPLITS.get(split_name)
            drawn = len(splits) == 1 or self.split_column is not None
            if not drawn and split is None:
                yield Rejection(f"{title}[{split_name}]", "unknown split", f"known: {', '.join(SPLITS)}")
                continue
            layout.check(rows.column_names, f"{title}[{split_name}]")
            table = _ArrowCells(rows.select_columns(layout.wanted(rows.column_names)).with_format("arrow"))
            for number, values in enumerate(table.scan()):
                for row in layout.read(values, f"{title}[{split_name}]:{number + 1}", table, number):
                    yield row if drawn or isinstance(row, Rejection) else replace(row, split=split)


def open_hub(
    path: str | Path, name: str | None = None, revision: str | None = None, cache_dir: str | Path | None = None
) -> Mapping[str, Any]:
    """Return a dataset's splits by name, from the hub or a local folder; for the arguments see `HubDataset`.

    Raises:
        DataError: there is no such dataset; the message explains the use of a local folder.
    """
    if not str(path).strip(" /"):
        raise DataError(
            f"cannot open the dataset {str(path)!r}: expected an id on the hub, such as owner/name, or a folder."
        )
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("reading a data set of the hub", "hub") from error

    folder = Path(path)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            dataset = datasets.load_from_disk(str(folder))
        else:
            dataset = datasets.load_dataset(str(path), name, revision=revision, cache_dir=cache_dir and str(cache_dir))
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cannot open the dataset {str(path)!r} (name {name!r}, revision {revision!r}): "
            f"{type(error).__name__}: {error} Expected a dataset on the Hugging Face hub that this machine can "
            "reach, or a local folder: one written by save_to_disk, or one of .parquet, .jsonl or .csv files or of "
            "pictures. To work without a network, fetch it elsewhere, save_to_disk, and set data.path to the copy."
        ) from error
    return dataset if isinstance(dataset, Mapping) else {"train": dataset}


class _ArrowCells:
    """A dataset as Arrow, which keeps pictures and sounds encoded until they are needed."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def scan(self) -> Iterator[dict[str, Any]]:
        for batch in self.rows.iter(BATCH_ROWS):
            yield from batch.to_pylist()

    def cell(self, row: int, column: str) -> Any:
        return self.rows[row][column][0].as_py()
