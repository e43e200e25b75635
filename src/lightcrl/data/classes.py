"""A labelled data set of the hub, written once as class folders for zero-shot classification and probes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lightcrl.data.files import SPLITS
from lightcrl.data.hub import open_hub
from lightcrl.errors import DataError, ModalityError
from lightcrl.files.local import make_folder, recover_folder, whole_folder

_FORMATS = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp"}


def class_folders(place: str, cache: Path, *, picture: str = "image", label: str = "label") -> Path:
    """Return a folder with `<split>/<class>/<row>.<ext>` for every known split; a local folder is returned unchanged.

    Args:
        place: a folder, or the id of a data set of pictures on the hub.
        cache: folder below which the class folders are written, once.
        picture: column of the pictures.
        label: column of the classes: names, or numbers that the data set has names for.

    Raises:
        DataError: there is no such folder or data set, or its pictures have an unknown format.
        ModalityError: the data set has no such column.
    """
    if Path(place).is_dir():
        return Path(place)
    if place.count("/") != 1 or Path(place).is_absolute():
        raise DataError(
            f"{place} is not there. Expected a folder of class folders, or the id of a data set on the hub "
            "(owner/name)."
        )
    name = "--".join((*place.split("/"), hashlib.blake2b(f"{picture} {label}".encode(), digest_size=4).hexdigest()))
    folder = make_folder(cache) / name
    recover_folder(folder)
    if folder.is_dir():
        return folder
    with whole_folder(folder) as fresh:
        for split, rows in open_hub(place).items():
            if split in SPLITS:
                _write(rows, fresh / SPLITS[split], f"{place}[{split}]", picture, label)
    return folder


def _write(rows: Any, folder: Path, title: str, picture: str, label: str) -> None:
    for column in (picture, label):
        if column not in rows.column_names:
            raise ModalityError(f"{title} has no column {column!r}; it has {', '.join(rows.column_names)}.")
    names = getattr(rows.features[label], "names", None)
    for number, row in enumerate(rows.select_columns([picture, label]).with_format("arrow").iter(1)):
        cell, kind = row[picture][0].as_py(), row[label][0].as_py()
        content: bytes = (cell["bytes"] if isinstance(cell, dict) else None) or b""
        ending = next((ending for start, ending in _FORMATS.items() if content.startswith(start)), None)
        if ending is None:
            raise DataError(f"{title}, row {number + 1}: column {picture!r} holds no picture in a format known here.")
        place = folder / str(names[kind] if names and isinstance(kind, int) else kind).replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:07}{ending}").write_bytes(content)
