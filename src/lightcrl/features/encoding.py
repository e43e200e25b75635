"""Raw items through a frozen encoder, fast: decoded in threads, batched by length, in no particular order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from lightcrl.data.base import Item
from lightcrl.encoders.base import Encoder
from lightcrl.errors import ItemError, LightCRLError

# Batches are formed within a window of this many, sorted by length, while the next window is being decoded.
WINDOW_BATCHES = 8


def encode_items(encoder: Encoder, items: Sequence[Item], *, workers: int = 4) -> Iterator[tuple[int, Any]]:
    """Encode items without a store: pairs of place and tokens [T, D] float32, or the `ItemError` of that item.

    Places come in the order of batches, not of items.
    """
    return encode(encoder, items, range(len(items)), "float32", workers=workers)


def encode(
    encoder: Encoder, items: Sequence[Item], places: Sequence[int], dtype: str, *, workers: int = 4
) -> Iterator[tuple[int, np.ndarray | ItemError]]:
    """The items at `places`, as `encode_items` has them, their tokens in `dtype`.

    Decodes in threads one window ahead, batches by length, encodes.
    """
    width = WINDOW_BATCHES * encoder.batch_size
    windows = [places[start : start + width] for start in range(0, len(places), width)]
    with ThreadPoolExecutor(workers) as pool:

        def submit(window: Sequence[int]) -> list[Future[Any]]:
            return [pool.submit(_prepare, encoder, items[place]) for place in window]

        pending = submit(windows[0]) if windows else []
        for number, window in enumerate(windows):
            current, pending = pending, submit(windows[number + 1]) if number + 1 < len(windows) else []
            ready = []
            for place, future in zip(window, current, strict=True):
                outcome = future.result()
                if isinstance(outcome, ItemError):
                    yield place, outcome
                else:
                    ready.append((place, outcome))
            ready.sort(key=lambda pair: encoder.length(pair[1]))
            for start in range(0, len(ready), encoder.batch_size):
                batch = ready[start : start + encoder.batch_size]
                tokens = encoder.encode([prepared for _, prepared in batch])
                for (place, _), sequence in zip(batch, tokens.to("cpu", torch.float32).ragged(), strict=True):
                    yield place, _stored(sequence.numpy(), dtype)


def _prepare(encoder: Encoder, item: Item) -> Any:
    try:
        return encoder.prepare(item.read())
    except ItemError as error:
        return error
    except LightCRLError:
        raise
    except Exception as error:  # a decoder's own failure concerns this item alone
        return ItemError("unreadable", f"{type(error).__name__}: {error}")


def _stored(sequence: np.ndarray, dtype: str) -> np.ndarray | ItemError:
    with np.errstate(over="ignore"):
        stored = sequence.astype(dtype)
    if len(stored) == 0:
        return ItemError("no tokens")
    if not np.isfinite(stored).all():
        return ItemError("not finite", f"the encoder's output does not fit {dtype} or is not a number")
    return stored
