"""Limits of requests (sizes, pixels, seconds, depth), and readers that keep to them.

All functions take untrusted bytes. Errors state the excess or the fault; nothing is ever fetched from an address.
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
"""Formats of pictures that Pillow reads without another program."""


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Attributes:
        body: largest size of a body in bytes.
        seconds_of_body: time for a whole body to arrive, in seconds.
        depth: largest depth of nested JSON.
        text: largest length of a text in characters.
        pixels: largest number of pixels of a picture.
        seconds: longest duration of a sound in seconds.
        samples: largest number of samples of a sound, over all channels.
        compared: largest number of items that are compared with each other; 100,000 take about a minute.
    """

    body: int = 32 * 2**20
    seconds_of_body: float = 30.0
    depth: int = 32
    text: int = 20_000
    pixels: int = 50_000_000
    seconds: float = 120.0
    samples: int = 50_000_000
    compared: int = 100_000


async def read_body(stream: AsyncIterator[bytes], length: str | None, limits: Limits) -> bytes:
    """Return all bytes of a request's body.

    Args:
        stream: parts of the body, in order of arrival.
        length: header `Content-Length`, which may be false.
        limits: limits of the body in bytes and seconds.

    Raises:
        TooLargeError: the body has too many bytes.
        SlowRequestError: the body does not arrive in time.
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
    """Return the JSON value of a body.

    >>> read_json(b'{"k": [1, 2.5]}', Limits())
    {'k': [1, 2.5]}

    Raises:
        RequestError: the body is not JSON in UTF-8, is nested too deeply, or has numbers that are not finite.
    """
    try:
        text = body.decode("utf-8")
        if (depth := json_depth(text)) > limits.depth:
            raise RequestError(f"JSON {depth} levels deep; expected at most {limits.depth}.")
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON ({error}). Expected one JSON object in UTF-8.") from None


def json_depth(text: str) -> int:
    """Return the depth of nested brackets in a JSON text; brackets in strings do not count.

    >>> json_depth('{"a": [1, "[[[["]}'), json_depth("3")
    (2, 0)
    """
    brackets = re.sub(r'"(?:[^"\\]|\\.)*"|[^"\[\]{}]+', "", text, flags=re.DOTALL)
    codes = np.frombuffer(brackets.encode("utf-8", "replace"), dtype=np.uint8)
    steps = np.isin(codes, (ord("["), ord("{"))).astype(np.int64) - np.isin(codes, (ord("]"), ord("}")))
    return int(np.cumsum(steps).max(initial=0))


def read_data_url(url: str) -> tuple[str, bytes]:
    """Return the kind of item and the bytes of a data URL, such as `data:image/png;base64,...`.

    >>> read_data_url("data:audio/wav;base64,UklGRg==")
    ('audio', b'RIFF')

    Raises:
        DataError: the text is no data URL of a picture or sound; web addresses and paths are not fetched.
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
    """Return a decoded picture; its size is checked before its pixels are decoded.

    Raises:
        ItemError: the bytes are no picture, or a broken one.
        TooLargeError: the picture has too many pixels.
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
    except Exception as error:  # Pillow's readers raise many types: OSError, SyntaxError, ValueError, struct.error
        raise ItemError("unreadable image", f"{str(error) or type(error).__name__}; expected {FORMATS}") from None
    return image


def read_sound(data: bytes, limits: Limits) -> tuple[np.ndarray, int]:
    """Return the samples [T, C] float32 of a sound, and its sampling rate in Hz.

    Raises:
        ItemError: the bytes are no sound, or a broken one.
        TooLargeError: the sound is too long.
        MissingExtraError: the package of the extra `audio` is missing.
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
            # The header may be false, so at most one sample beyond the limit is read.
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
    """Return a text after checks of its length.

    Raises:
        ItemError: the text is empty or blank.
        TooLargeError: the text is too long.
    """
    if not text.strip():
        raise ItemError("empty text")
    if len(text) > limits.text:
        raise _too_large("a text", len(text), limits.text, "characters")
    return text


def read_content(url: str, limits: Limits) -> tuple[str, Any]:
    """Return the kind and the decoded picture or sound of a data URL."""
    kind, data = read_data_url(url)
    return kind, read_media(data, kind, limits)


def read_media(data: bytes, kind: str, limits: Limits) -> Any:
    """Return a decoded picture or sound in the form that encoders take."""
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
