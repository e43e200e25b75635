"""A look at unknown data: its shape, its columns and its splits.

`SHAPES` is the table of the shapes of folders: the first function that returns a survey has recognised the folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lightcrl.data.files import MEDIA, existing
from lightcrl.errors import DataError
from lightcrl.studies.survey.columns import PLURALS
from lightcrl.studies.survey.folders import of_arrays, of_class_folders, of_files, of_hub, of_shards, of_table_folder
from lightcrl.studies.survey.tables import Survey, of_tables, split_files, split_of

SHAPES: tuple[Callable[[Path, Path | None], Survey | None], ...] = (
    of_hub,
    of_shards,
    of_arrays,
    of_table_folder,
    of_class_folders,
    of_files,
)


def look(path: Path, root: Path | None = None) -> Survey:
    """Look at a table or a folder.

    Args:
        path: the data.
        root: folder that paths in a table start at; by default it is searched for.

    Raises:
        DataError: the path is missing, or has no known shape; the message says what was found.
    """
    path = existing(path, "a table, or a folder of files").absolute()
    if path.is_file():
        if path.suffix == ".tar":
            survey = of_shards(path)
        elif path.suffix == ".npy":
            raise DataError(
                f"{path} holds vectors alone; expected what belongs to them beside it. Give their folder, with a table "
                "or with arrays of another modality."
            )
        else:
            survey = of_tables({split_of(path): path} if not split_files(path) else split_files(path), root)
    else:
        survey = next((found_shape for shape in SHAPES if (found_shape := shape(path, root)) is not None), None)
    if survey is None:
        raise DataError(_nothing(path))
    return survey


def _nothing(path: Path) -> str:
    if path.is_file():
        ending = path.suffix or "no extension"
        return f"{path} is no table: found {ending}. Expected CSV, JSON, Parquet, .tar, or a folder."
    files = (entry for entry in path.rglob("*") if entry.is_file())
    counts = Counter(MEDIA.get(entry.suffix.lower(), entry.suffix.lower() or "no ending") for entry in files)
    if not counts:
        return f"{path} is empty. Expected a table, or pictures or sounds with their texts."
    listed = ", ".join(f"{count:,} {PLURALS.get(kind, kind)}" for kind, count in counts.most_common(5))
    return (
        f"{path} has {listed}, and nothing says what belongs together. Expected a table of pairs (columns such as "
        "image and caption), a folder per class, or files of one name but for the ending (1.jpg and 1.txt)."
    )
