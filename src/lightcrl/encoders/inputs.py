"""Conversion of the forms of pictures and sounds in Python programs to the few that are decoded.

| form | from |
|---|---|
| a path, `~` and `file://` included | files |
| bytes, `BytesIO`, an open binary file, a stream that can be read once | uploads, archives, pipes |
| `{"bytes": ..., "path": ...}` | undecoded columns of Hugging Face data sets |
| `{"array": ..., "sampling_rate": ...}`, `(samples, rate)` | decoded sounds |
| NumPy arrays, torch tensors (bfloat16 too) | other libraries |

A picture or a sound with an ambiguous shape is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch

from lightcrl.errors import ItemError, first_line

CHANNELS = (1, 3, 4)
"""Numbers of channels of pictures: grey, RGB, RGB with transparency."""
MOST_CHANNELS = 8
"""Greatest number of channels of sounds: an axis with more entries is time."""

# `Path` reduces two slashes to one.
_WEB = re.compile(r"https?:/|[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def content(raw: Any, what: str) -> Any:
    """Return a path or bytes for the forms that represent one of them; other items are returned unchanged.

    Args:
        raw: an item.
        what: `"image"` or `"sound"`, for messages.

    Raises:
        ItemError: the item is a web address, an unknown home, a file that is closed or open as text, or a mapping
            without `bytes` or `path`.
    """
    if isinstance(raw, Mapping) and "array" not in raw and ("bytes" in raw or "path" in raw):
        # Both may be given: the path is then only a name.
        held = raw.get("bytes") if raw.get("bytes") is not None else raw.get("path")
        if held is None:
            raise ItemError(f"no {what}", "bytes and path are both None; expected one of them")
        return content(held, what)
    if isinstance(raw, (bytearray, memoryview)):
        return bytes(raw)
    if hasattr(raw, "read"):
        return _stream(raw)
    return _local(raw) if isinstance(raw, (str, Path)) else raw


def _stream(file: Any) -> bytes:
    """Read the rest of an open file, and restore its position if possible."""
    try:
        again = hasattr(file, "seek") and (file.seekable() if hasattr(file, "seekable") else True)
        place = file.tell() if again else 0
        data = file.read()
        if again:
            file.seek(place)
    except (OSError, ValueError) as error:  # ValueError: the file is closed.
        raise ItemError(
            "not a readable file", f"{first_line(error)} Give an open file, its path or its bytes"
        ) from error
    if not isinstance(data, bytes):
        raise ItemError("not a file of bytes", "the file is open as text; open it with mode 'rb'")
    return data


def _local(place: str | Path) -> str | Path:
    """Return the location of a file as a path, of the given type."""
    text = str(place)
    if text.lower().startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ItemError("not a local file", f"{place} names the host {parts.netloc!r}; expected file:///path")
        return unquote(parts.path)
    if _WEB.match(text):
        raise ItemError("not a local file", f"{place} is a web address; download it first and give the file")
    if not text.startswith("~"):
        return place
    try:
        return type(place)(Path(place).expanduser())
    except RuntimeError:
        raise ItemError("missing file", f"{place}: there is no such home; give the whole path") from None


def array(raw: Any, what: str) -> np.ndarray:
    """Return a tensor, or an input of NumPy, as an array; floats that NumPy lacks (bfloat16) become float32.

    Raises:
        ItemError: the item is not an array: a sparse tensor, or lists of unequal lengths.
    """
    try:
        if not isinstance(raw, torch.Tensor):
            return np.asarray(raw)
        # NumPy's only float of 16 bits or less is float16.
        foreign = raw.is_floating_point() and raw.dtype not in (torch.float16, torch.float32, torch.float64)
        return (raw.float() if foreign else raw).detach().cpu().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        form = f"{raw.dtype}, {raw.layout}" if isinstance(raw, torch.Tensor) else type(raw).__name__
        raise ItemError(f"not {what}", f"found {form}: {first_line(error)} Give a NumPy array of numbers") from error


def pixels(raw: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return pixels as uint8 [H, W] or [H, W, C], C in `CHANNELS`.

    Args:
        raw: uint8, or floats from 0 to 1; [H, W], [H, W, C] or [C, H, W].

    Raises:
        ItemError: the shape or type is wrong or ambiguous, or floats are outside of 0 to 1.
    """
    values = array(raw, "an image")
    shape = f"{type(raw).__name__} of shape {list(values.shape)} and {values.dtype}"
    if values.size == 0 or values.ndim not in (2, 3):
        raise ItemError("not an image", f"{shape}; expected [H, W], [H, W, 3] or [3, H, W]")
    if values.ndim == 3:
        first, last = values.shape[0] in CHANNELS, values.shape[2] in CHANNELS
        if first and last:
            both = f"{shape} may have its channels first or last"
            raise ItemError("not an image", f"{both}; give a PIL image, as Image.fromarray makes of uint8 [H, W, 3]")
        if not first and not last:
            raise ItemError("not an image", f"{shape}; expected [H, W, 3] or [3, H, W]")
        values = values if last else values.transpose(1, 2, 0)
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            shown = f"{shape} with values from {low:.3g} to {high:.3g}"
            raise ItemError("not an image", f"{shown}; expected 0 to 1, or uint8")
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise ItemError("not an image", f"{shape}; expected uint8, or floats from 0 to 1")
    return np.ascontiguousarray(values)


def samples_and_rate(raw: Any) -> tuple[Any, ...] | None:
    """Return decoded samples and their rate; None for an item that is decoded from a file."""
    if isinstance(raw, Mapping):
        if "array" in raw and "sampling_rate" in raw:
            return raw["array"], raw["sampling_rate"]
        raise ItemError(
            "not a sound",
            f"found keys {', '.join(map(repr, raw))}; expected 'array' and 'sampling_rate', or 'bytes' and 'path'",
        )
    if hasattr(raw, "get_all_samples"):  # torchcodec's decoder, as in data sets of the hub
        decoded = raw.get_all_samples()
        return decoded.data, decoded.sample_rate
    return raw if isinstance(raw, tuple) else None


def time_first(samples: np.ndarray) -> np.ndarray:
    """Return samples [N] or [N, C] from [N], [N, C] or [C, N].

    Raises:
        ItemError: neither axis, or both, can be the channels.
    """
    if samples.ndim != 2 or samples.size == 0:
        return samples
    first, last = (length <= MOST_CHANNELS for length in samples.shape)
    if first == last:
        raise ItemError(
            "not a sound",
            f"samples of shape {list(samples.shape)}: which axis is time? Expected [N], or one axis of at most "
            f"{MOST_CHANNELS} channels",
        )
    return samples.T if first else samples
