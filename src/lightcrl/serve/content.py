"""Content of items: thumbnails of pictures, and unchanged sounds. Only files that the index records are opened.

Items without a file have a preview in the index.
"""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps

from lightcrl.errors import ItemError, UnknownItemError
from lightcrl.index import Record
from lightcrl.index.previews import PIXELS, Preview
from lightcrl.serve.limits import Limits, read_picture

SIZES = (16, 2048)
"""Least and greatest edge of a thumbnail in pixels."""

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")

KEPT = 512
"""Number of thumbnails kept in memory."""

SOUNDS = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
"""Media types of sounds by extension."""

BYTES = "application/octet-stream"
"""Media type of all other files: no browser runs it."""


def file_of(record: Record) -> Path:
    """Return the file of an item. A link that leads out of the item's folder is not followed.

    Raises:
        UnknownItemError: the item has no file, the file is gone, or it is such a link.
    """
    if record.path is None:
        raise UnknownItemError(f"item {record.id!r} lies in no file of its own; only its embedding is here.")
    path = Path(record.path)
    try:
        target = path.resolve(strict=True)
        whole = path.is_absolute() and target.is_relative_to(path.parent.resolve()) and target.is_file()
    except (OSError, ValueError, RuntimeError):
        whole = False
    if not whole:
        raise UnknownItemError(f"the file of item {record.id!r} is not there any more, or leads elsewhere.")
    return target


def stored(preview: Preview | None, record: Record, size: int, limits: Limits) -> tuple[bytes, str]:
    """Return the preview of an item without a file, at most `size` pixels, and its media type.

    Raises:
        UnknownItemError: the index stores no preview of the item.
    """
    if preview is None:
        raise UnknownItemError(f"item {record.id!r} lies in no file of its own; only its embedding is here.")
    if not preview.media.startswith("image/") or size >= PIXELS:
        return preview.data, preview.media
    return shrink(read_picture(preview.data, limits), size)


def asked_range(header: str | None, size: int) -> slice | None:
    """Return the bytes of a header `Range: bytes=FIRST-LAST`; None for the whole content, or a header of another form.

    >>> asked_range("bytes=2-5", 10), asked_range("bytes=-3", 10), asked_range("bytes=4-", 10)
    (slice(2, 6, None), slice(7, 10, None), slice(4, 10, None))
    >>> asked_range(None, 10), asked_range("bytes=12-", 10), asked_range("bytes=1-2,4-5", 10)
    (None, None, None)
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    return slice(begin, end) if begin < end else None


def thumbnail(path: Path, size: int, limits: Limits) -> tuple[bytes, str]:
    """Return a thumbnail and its media type: JPEG, or PNG for a picture with transparency.

    Args:
        path: file of the picture.
        size: largest length of the thumbnail's longer edge in pixels.
        limits: limits of the picture.

    Raises:
        UnknownItemError: the picture cannot be read.
    """
    try:
        return _thumbnail(path, path.stat().st_mtime_ns, size, limits)
    except (OSError, ItemError) as error:
        raise UnknownItemError(f"the picture {path.name!r} cannot be read ({error}).") from None


@lru_cache(KEPT)
def _thumbnail(path: Path, changed: int, size: int, limits: Limits) -> tuple[bytes, str]:
    return shrink(ImageOps.exif_transpose(read_picture(path.read_bytes(), limits)), size)


def shrink(image: Image.Image, size: int) -> tuple[bytes, str]:
    """Return a picture of at most `size` pixels a side and its media type: JPEG, or PNG if it has transparency."""
    clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    image = image.convert("RGBA" if clear else "RGB")
    image.thumbnail((size, size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if clear else "JPEG", **({} if clear else {"quality": 85}))
    return buffer.getvalue(), "image/png" if clear else "image/jpeg"
