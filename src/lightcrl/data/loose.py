"""Items that stand alone: a file, the files of a folder, the lines of a text file."""

from __future__ import annotations

from pathlib import Path

from lightcrl.data.base import Item, digest, file_item
from lightcrl.data.files import MEDIA, existing
from lightcrl.errors import EmptyDatasetError


def loose_items(path: Path, kind: str) -> list[Item]:
    """The items at `path`, in the order of their names or lines.

    Texts are the non-empty lines of a file; pictures and sounds are a file, or all files of that kind below a folder.

    Raises:
        DataError: nothing is there.
        EmptyDatasetError: what is there has no item of that kind.
    """
    existing(path, "a file or a folder")
    if kind == "text":
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        items = [
            Item(digest("text", line), f"{path.name}:{number}", line)
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    elif path.is_file():
        items = [file_item(path, path.parent)]
    else:
        items = [file_item(file, path) for file in sorted(path.rglob("*")) if MEDIA.get(file.suffix.lower()) == kind]
    if not items:
        expected = "a file with one text a line" if kind == "text" else f"{kind} files, or a folder of them"
        raise EmptyDatasetError(f"{path} has no {kind} items; expected {expected}.")
    return items
