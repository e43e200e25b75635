"""Files of the data: existence, content and names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from lightcrl.errors import DataError

EXTENSIONS = {
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"),
    "audio": ("wav", "flac", "mp3", "ogg", "opus", "m4a", "aiff", "aif"),
    "text": ("txt", "text", "caption"),
    "vectors": ("npy",),
}
MEDIA = {f".{extension}": kind for kind in ("image", "audio") for extension in EXTENSIONS[kind]}

SPLITS = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def existing(path: str | Path, expected: str) -> Path:
    """Return `path`, which must exist.

    Raises:
        DataError: it does not exist; the message lists the files beside it.
    """
    path = Path(path)
    if path.exists():
        return path
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    beside = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    near = get_close_matches(path.name, beside, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DataError(f"{path} is not there.{hint} Expected {expected}; {folder} holds {some(beside)}.")


def name_below(path: Path, base: Path) -> str:
    """Return the path relative to `base`, or in full if it is elsewhere.

    >>> name_below(Path("/data/a/1.jpg"), Path("/data"))
    'a/1.jpg'
    """
    try:
        return path.relative_to(base).as_posix()
    except ValueError:
        return str(path)


def visible(folder: Path) -> Iterator[Path]:
    """Yield the visible entries of a folder, by name."""
    return (entry for entry in sorted(folder.iterdir()) if not entry.name.startswith("."))


def some(names: list[str], most: int = 8) -> str:
    """Format the first of many names, for a message.

    >>> some(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + rest


def expand(pattern: str) -> list[str]:
    """Expand a brace pattern to a list of names.

    >>> expand("{a,b}-{008..010}.tar")[2:4]
    ['a-010.tar', 'b-008.tar']
    """
    braces = _BRACES.search(pattern)
    if not braces:
        return [pattern]
    inside = braces[1]
    if ends := _RANGE.fullmatch(inside):
        width = len(ends[1])
        choices = [f"{number:0{width}}" for number in range(int(ends[1]), int(ends[2]) + 1)]
    else:
        choices = inside.split(",")
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    return [head + choice + rest for choice in choices for rest in expand(tail)]
