"""The forms in which Python programs hold pictures and sounds, brought to the few that are decoded.

| form | from |
|---|---|
| a path, `~` and `file://` included | files |
| bytes, `BytesIO`, an open binary file | uploads, archives |
| `{"bytes": ..., "path": ...}` | undecoded columns of Hugging Face data sets |
| `{"array": ..., "sampling_rate": ...}`, `(samples, rate)` | decoded sounds |
| NumPy arrays, torch tensors | other libraries |

A tensor or a sound whose shape may be read in two ways is refused. NumPy pictures have their channels last wherever
their last axis can hold them, as NumPy's users have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch

from lightcrl.errors import ItemError

CHANNELS = (1, 3, 4)
"""Of pictures: grey, RGB, RGB with transparency."""
MOST_CHANNELS = 8
"""Of sounds: an axis with more entries is time."""


def content(raw: Any, what: str) -> Any:
    """A path or bytes in place of the forms that stand for one of them; everything else as it is.

    Args:
        raw: an item.
        what: `"image"` or `"sound"`, for messages.

    Raises:
        ItemError: a web address, a file that is open as text, or a mapping without `bytes` or `path`.
    """
    if isinstance(raw, Mapping) and "array" not in raw and ("bytes" in raw or "path" in raw):
        # Both may be given: the path then is only a name.
        held = raw.get("bytes") if raw.get("bytes") is not None else raw.get("path")
        if held is None:
            raise ItemError(f"no {what}", "bytes and path are both None; expected one of them")
        return content(held, what)
    if isinstance(raw, (bytearray, memoryview)):
        return bytes(raw)
    if hasattr(raw, "read") and hasattr(raw, "seek"):
        place = raw.tell()
        found = raw.read()
        raw.seek(place)
        if not isinstance(found, bytes):
            raise ItemError("not a file of bytes", "the file is open as text; open it with mode 'rb'")
        return found
    if isinstance(raw, str):
        return _local(raw)
    return raw.expanduser() if isinstance(raw, Path) else raw


def _local(place: str) -> str:
    """A place of a file as a path."""
    if place.startswith(("http://", "https://")):
        raise ItemError("not a local file", f"{place} is a web address; download it first and give the file")
    if place.startswith("file://"):
        parts = urlsplit(place)
        if parts.netloc not in ("", "localhost"):
            raise ItemError("not a local file", f"{place} names the host {parts.netloc!r}; expected file:///path")
        return unquote(parts.path)
    return str(Path(place).expanduser()) if place.startswith("~") else place


def pixels(raw: np.ndarray | torch.Tensor) -> np.ndarray:
    """Pixels as uint8 [H, W] or [H, W, C], C in `CHANNELS`.

    Args:
        raw: uint8, or floats from 0 to 1; [H, W], [H, W, C] or [C, H, W].

    Raises:
        ItemError: another shape or type, a tensor that may be read in two ways, or floats outside of 0 to 1.
    """
    values = raw.detach().cpu().numpy() if isinstance(raw, torch.Tensor) else raw
    shape = f"{type(raw).__name__} of shape {list(values.shape)} and {values.dtype}"
    if values.size == 0 or values.ndim not in (2, 3):
        raise ItemError("not an image", f"{shape}; expected [H, W], [H, W, 3] or [3, H, W]")
    if values.ndim == 3:
        first, last = values.shape[0] in CHANNELS, values.shape[2] in CHANNELS
        if first and last and isinstance(raw, torch.Tensor):
            raise ItemError("not an image", f"{shape} may have its channels first or last; give a PIL image")
        if not first and not last:
            raise ItemError("not an image", f"{shape}; expected [H, W, 3] or [3, H, W]")
        # Arrays have their channels last by all conventions; a thin picture of three rows stays one.
        values = values if last else values.transpose(1, 2, 0)
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            found = f"{shape} with values from {low:.3g} to {high:.3g}"
            raise ItemError("not an image", f"{found}; expected 0 to 1, or uint8")
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise ItemError("not an image", f"{shape}; expected uint8, or floats from 0 to 1")
    return np.ascontiguousarray(values)


def samples_and_rate(raw: Any) -> tuple[Any, ...] | None:
    """Samples and their rate, where that is what is held; None for what is decoded from a file."""
    if isinstance(raw, Mapping):
        if "array" in raw and "sampling_rate" in raw:
            return raw["array"], raw["sampling_rate"]
        raise ItemError(
            "not a sound",
            f"found keys {', '.join(map(repr, raw))}; expected 'array' and 'sampling_rate', or 'bytes' and 'path'",
        )
    if hasattr(raw, "get_all_samples"):  # torchcodec's decoder, as data sets of the hub give it
        found = raw.get_all_samples()
        return found.data, found.sample_rate
    return raw if isinstance(raw, tuple) else None


def time_first(samples: np.ndarray) -> np.ndarray:
    """Samples [N] or [N, C] from [N], [N, C] or [C, N].

    Raises:
        ItemError: neither axis, or both, can be that of channels.
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
