"""Previews of items that lie in no file of their own: a small picture or a short sound, stored with the index.

Items of archives, data sets and generated worlds have neither a path nor a text, so the index would show nothing of
them. A preview takes about 8 KiB for a picture, and 32 KiB for each second of a sound. Items of a run have none: the
index stores the folder of the run, whose data holds them.
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from typing import Any

from lightcrl.encoders.audio import read_sound
from lightcrl.encoders.image import read_image
from lightcrl.errors import ItemError, MissingExtraError
from lightcrl.index.base import Entry

OF_RUN = "run"
"""Media type of a preview that is made on demand; its data is the folder of the run."""

PIXELS = 256
"""Longest edge of a stored picture."""

MOST_PIXELS = 100_000_000
"""Greatest number of pixels of a picture that gets a preview."""

RATE = 16_000
"""Sampling rate of a stored sound, in Hz."""

SECONDS = 4.0
"""Greatest length of a stored sound."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A small version of an item.

    Attributes:
        media: media type, `image/jpeg`, `audio/wav` or `OF_RUN`.
        data: content of the file.
    """

    media: str
    data: bytes


def needs_preview(entry: Entry) -> bool:
    """Return True if nothing else can show the item: it has neither a file nor a text, but its content is at hand."""
    return entry.path is None and entry.text is None and (entry.run is not None or entry.item.raw is not None)


def make_preview(entry: Entry, kind: str) -> Preview | None:
    """Return the preview of an item of a kind; None if there is none for its kind, or the item is unreadable.

    An item of a run gets a reference to the run.

    >>> import numpy as np
    >>> from lightcrl.data.base import Item
    >>> entry = Entry("image", Item("key", "grey", np.full((300, 600, 3), 128, np.uint8)))
    >>> preview = make_preview(entry, "image")
    >>> preview.media, preview.data[:3] == bytes([0xFF, 0xD8, 0xFF])
    ('image/jpeg', True)
    """
    if entry.run is not None:
        return Preview(OF_RUN, entry.run.encode()) if kind in ("image", "audio") else None
    try:
        if kind == "image":
            return Preview("image/jpeg", _small_picture(entry.item.read()))
        return Preview("audio/wav", _short_sound(entry.item.read())) if kind == "audio" else None
    except (ItemError, MissingExtraError, OSError):  # the item has its embedding, but cannot be shown
        return None


def _small_picture(raw: Any) -> bytes:
    image = read_image(raw, MOST_PIXELS, PIXELS)
    image.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _short_sound(raw: Any) -> bytes:
    samples = (read_sound(raw, RATE, SECONDS).clip(-1, 1) * 32767).round().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    return buffer.getvalue()
