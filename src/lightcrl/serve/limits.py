"""What a request may hold: sizes, pixels, seconds, depth; and reading what came over the network within them.

Everything here takes bytes of strangers. Errors say what is too large or wrong; nothing is ever fetched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import math
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lightcrl.errors import DataError, ItemError, MissingExtraError, RequestError, SlowRequestError, TooLargeError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Of pictures: those that Pillow reads without another program."""


@dataclass(frozen=True)
class Limits:
    """What the server takes.

    Attributes:
        body: bytes of a request.
        seconds_of_body: until a body has to be there.
        depth: of nested JSON.
        text: characters of a text.
        pixels: of a picture.
        seconds: of a sound.
        samples: of a sound, over all of its channels.
    """

    body: int = 32 * 2**20
    seconds_of_body: float = 30.0
    depth: int = 32
    text: int = 20_000
    pixels: int = 50_000_000
    seconds: float = 120.0
    samples: int = 50_000_000


async def read_body(stream: AsyncIterator[bytes], length: str | None, limits: Limits) -> bytes:
    """All bytes of a request.

    Args:
        stream: them, as they come.
        length: header `Content-Length`, which need not be true.
        limits: bytes at most, and seconds to wait.

    Raises:
        TooLargeError: there are more.
        SlowRequestError: they do not come.
    """
    if length is not None and length.isdecimal() and int(length) > limits.body:
        raise _too_large("a body", int(length), limits.body, "bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds_of_body):
            async for part in stream:
                body += part
                if len(body) > limits.body:
                    raise _too_large("a body", len(body), limits.body, "bytes")
    except TimeoutError:
        raise SlowRequestError(
            f"the body was not there after {limits.seconds_of_body:g} s; {len(body):,} bytes had come. Send it again."
        ) from None
    return bytes(body)


def read_json(body: bytes, limits: Limits) -> Any:
    """The JSON value of a body.

    >>> read_json(b'{"k": [1, 2.5]}', Limits())
    {'k': [1, 2.5]}

    Raises:
        RequestError: it is no JSON in UTF-8, nested too deeply, or has numbers that are not finite.
    """
    try:
        text = body.decode("utf-8")
        if (depth := json_depth(text)) > limits.depth:
            raise RequestError(f"JSON {depth} levels deep; expected at most {limits.depth}.")
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON ({error}). Expected one JSON object in UTF-8.") from None


def json_depth(text: str) -> int:
    """How deeply the brackets of a JSON text are nested, those in its strings left out.

    >>> json_depth('{"a": [1, "[[[["]}'), json_depth("3")
    (2, 0)
    """
    brackets = re.sub(r'"(?:[^"\\]|\\.)*"|[^"\[\]{}]+', "", text, flags=re.DOTALL)
    codes = np.frombuffer(brackets.encode("utf-8", "replace"), dtype=np.uint8)
    steps = np.isin(codes, (ord("["), ord("{"))).astype(np.int64) - np.isin(codes, (ord("]"), ord("}")))
    return int(np.cumsum(steps).max(initial=0))


def read_data_url(url: str) -> tuple[str, bytes]:
    """Kind of item and bytes of `data:image/png;base64,...`.

    >>> read_data_url("data:audio/wav;base64,UklGRg==")
    ('audio', b'RIFF')

    Raises:
        DataError: it is not one; web addresses and paths are not fetched.
    """
    head, comma, content = url.partition(",")
    kind = head.removeprefix("data:").partition("/")[0].lower()
    if not (head.startswith("data:") and comma and head.endswith(";base64") and kind in ("image", "audio")):
        raise DataError(
            f"{url[:60]!r} is no picture or sound; expected data:image/TYPE;base64,... or data:audio/TYPE;base64,... "
            "Nothing is fetched from addresses or paths."
        )
    try:
        return kind, base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{head[:60]!r} is not followed by base64 ({error}).") from None


def read_picture(data: bytes, limits: Limits) -> Image.Image:
    """A picture, decoded; its size is looked at before its pixels are.

    Raises:
        ItemError: it is none, or broken.
        TooLargeError: it has too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if (pixels := image.width * image.height) > limits.pixels:
            raise _too_large("a picture", pixels, limits.pixels, "pixels")
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"a picture with too many pixels; expected at most {limits.pixels:,} ({error}).") from None
    except TooLargeError:
        raise
    except Exception as error:  # Pillow's readers raise of many kinds: OSError, SyntaxError, ValueError, struct.error
        raise ItemError("unreadable image", f"{str(error) or type(error).__name__}; expected {FORMATS}") from None
    return image


def read_sound(data: bytes, limits: Limits) -> tuple[np.ndarray, int]:
    """Samples [T, C] float32 of a sound and their rate in Hz.

    Raises:
        ItemError: it is none, or broken.
        TooLargeError: it is too long.
    """
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtraError("sounds", "audio") from error
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels = int(file.samplerate), int(file.channels)
            if not 1_000 <= rate <= 400_000:
                raise ItemError("unreadable sound", f"{rate} Hz; expected 1,000 to 400,000")
            most = min(int(limits.seconds * rate), limits.samples // channels)
            # What the header says need not be true: no more is read than may be there.
            samples = file.read(most + 1, dtype="float32", always_2d=True)
    except ItemError:
        raise
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise ItemError("unreadable sound", str(error)) from None
    if len(samples) > most:
        raise TooLargeError(f"a sound longer than {most / rate:g} s; expected at most {limits.seconds:g} s.")
    if not len(samples) or not np.isfinite(samples).all():
        raise ItemError("unreadable sound", "without samples, or with some that are not finite")
    return samples, rate


def read_text(text: str, limits: Limits) -> str:
    """A text, checked.

    Raises:
        ItemError: there is nothing in it.
        TooLargeError: it is too long.
    """
    if not text.strip():
        raise ItemError("empty text")
    if len(text) > limits.text:
        raise _too_large("a text", len(text), limits.text, "characters")
    return text


def read_content(url: str, limits: Limits) -> tuple[str, Any]:
    """Kind and decoded picture or sound of a data URL."""
    kind, data = read_data_url(url)
    return kind, read_media(data, kind, limits)


def read_media(data: bytes, kind: str, limits: Limits) -> Any:
    """A picture or a sound, as encoders take them."""
    return read_picture(data, limits) if kind == "image" else read_sound(data, limits)


def _too_large(what: str, size: int, most: int, unit: str) -> TooLargeError:
    return TooLargeError(f"{what} of {size:,} {unit}; expected at most {most:,}.")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond the largest number")
    return number
