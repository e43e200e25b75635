"""Views of items: random parts that mean the same, for training, and for the mean of several embeddings.

View 0 is the item itself. A further view of a picture is a random part of it, mirrored in half of the cases; that of a
sound is a random stretch, louder or softer. Its randomness follows from the content of the item and the number of the
view, so that every machine makes the same view.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.encoders.audio import decode_sound
from lightcrl.encoders.augment import crop_and_flip
from lightcrl.encoders.base import EncoderSpec, fingerprint
from lightcrl.encoders.image import read_image
from lightcrl.encoders.inputs import content

FORMAT = 1
# Large JPEGs are decoded at a half or less, with at least twice this number of pixels a side.
LEAST = 512
# Greatest length in seconds of a sound whose stretches are views, and greatest change of its level in decibels.
LONGEST, GAIN = 300.0, 6.0


@dataclass(frozen=True, slots=True)
class View:
    """A view of an item, which is made whenever it is called.

    Attributes:
        raw: raw item, or a function that loads it.
        number: number of the view, from 1.
        spec: table of the encoder, with the settings of its views.
    """

    raw: Any
    number: int
    spec: EncoderSpec

    def __call__(self) -> Any:
        """Return the view as a raw item.

        Raises:
            ItemError: the item is unreadable.
        """
        raw = self.raw() if callable(self.raw) else self.raw
        return MAKERS[self.spec.kind](raw, self.number, self.spec)


def view_mark(number: int, spec: EncoderSpec) -> str:
    """Return 16 hex digits of a view's number and settings."""
    return fingerprint(["view", FORMAT, spec.kind, number, spec.views.crop, spec.views.flip])[:16]


def view_picture(raw: Any, number: int, spec: EncoderSpec) -> Any:
    """Return a random part of a picture, a PIL image."""
    raw = content(raw, "image")
    image = read_image(raw, spec.max_pixels, LEAST)
    return crop_and_flip(image, _generator(raw, image.tobytes, number), spec.views.crop, spec.views.flip)


def view_sound(raw: Any, number: int, spec: EncoderSpec) -> tuple[np.ndarray, int]:
    """Return a random stretch of a sound at another level: samples [N] and their rate."""
    raw = content(raw, "sound")
    samples, rate = decode_sound(raw, LONGEST)
    generator = _generator(raw, samples.tobytes, number)
    length = max(1, round(len(samples) * generator.uniform(spec.views.crop, 1)))
    start = int(generator.integers(len(samples) - length + 1))
    stretch = samples[start : start + length]
    gain = 10 ** (generator.uniform(-GAIN, GAIN) / 20)
    # A louder sound is not clipped.
    return stretch * np.float32(min(gain, max(1.0, 1 / max(1e-9, float(np.abs(stretch).max()))))), rate


MAKERS: Mapping[str, Callable[[Any, int, EncoderSpec], Any]] = {"image": view_picture, "audio": view_sound}
"""Makers of views by kind of item: raw item, number of the view, table of the encoder."""


def _generator(raw: Any, values: Callable[[], bytes], number: int) -> np.random.Generator:
    """Return the source of a view's randomness: the file's bytes, or the decoded values, and the number of the view.

    Decoders differ in the last bits from machine to machine, files do not.
    """
    data = Path(raw).read_bytes() if isinstance(raw, (str, Path)) else raw if isinstance(raw, bytes) else values()
    return np.random.default_rng([int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"), number])
