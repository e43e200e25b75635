"""Fast encoding of raw items: decoded in threads, batched by length, in no particular order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from lightcrl.data.base import Item
from lightcrl.encoders.base import Encoder
from lightcrl.errors import ItemError, LightCRLError
from lightcrl.features.packing import PACKED, pack

# Number of items in a window, within which batches are sorted by length while the next window is decoded.
WINDOW_BATCHES = 16
# Number of items that a thread decodes at a time.
PORTION = 16


def encode_items(encoder: Encoder, items: Sequence[Item], *, workers: int = 4) -> Iterator[tuple[int, Any]]:
    """Encode items without a store; yield place and tokens [T, D] float32, or the `ItemError` of that item.

    Places come in the order of batches, not of items.
    """
    encoder.observe(item.read for item in items)
    return encode(encoder, items, range(len(items)), "float32", workers=workers)


def encode(
    encoder: Encoder,
    items: Sequence[Item],
    places: Sequence[int],
    dtype: str,
    *,
    workers: int = 4,
    cut: Callable[[int], None] = lambda place: None,
) -> Iterator[tuple[int, np.ndarray | ItemError]]:
    """Encode the items at `places` as in `encode_items`, with tokens as they are stored in `dtype`.

    Threads decode a window ahead; batches are formed by length. `cut` is called with the place of every text whose end
    the encoder leaves out, before that text comes.
    """
    width = WINDOW_BATCHES * encoder.batch_size
    windows = [places[start : start + width] for start in range(0, len(places), width)]
    with ThreadPoolExecutor(workers) as pool:

        def submit(window: Sequence[int]) -> list[Future[list[Any]]]:
            portions = [window[start : start + PORTION] for start in range(0, len(window), PORTION)]
            return [pool.submit(_prepare, encoder, [items[place] for place in portion]) for portion in portions]

        pending = submit(windows[0]) if windows else []
        for number, window in enumerate(windows):
            current, pending = pending, submit(windows[number + 1]) if number + 1 < len(windows) else []
            ready = []
            outcomes = (outcome for future in current for outcome in future.result())
            for place, outcome in zip(window, outcomes, strict=True):
                if isinstance(outcome, ItemError):
                    yield place, outcome
                else:
                    ready.append((place, outcome))
                    if encoder.cut(outcome):
                        cut(place)
            ready.sort(key=lambda pair: encoder.length(pair[1]))
            for batch in batches([encoder.length(prepared) for _, prepared in ready], encoder):
                tokens = encoder.encode([prepared for _, prepared in ready[batch]])
                for (place, _), sequence in zip(ready[batch], tokens.to("cpu", torch.float32).ragged(), strict=True):
                    yield place, _stored(sequence.numpy(), dtype)


def batches(lengths: Sequence[int], encoder: Encoder) -> Iterator[slice]:
    """Cut items of ascending `lengths` [N] into batches of at most `batch_size` items and `batch_length` in total."""
    start = 0
    for stop, length in enumerate(lengths, 1):
        size = stop - start
        if size > 1 and (size > encoder.batch_size or size * length > encoder.batch_length):
            yield slice(start, stop - 1)
            start = stop - 1
    if start < len(lengths):
        yield slice(start, len(lengths))


def _prepare(encoder: Encoder, items: Sequence[Item]) -> list[Any]:
    """Return the result of `Encoder.prepare` for each item, or its `ItemError`."""
    return [_prepare_one(encoder, item) for item in items]


def _prepare_one(encoder: Encoder, item: Item) -> Any:
    try:
        return encoder.prepare(item.read())
    except ItemError as error:
        return error
    except LightCRLError:
        raise
    except Exception as error:  # a decoder's own failure concerns only this item
        return ItemError("unreadable", f"{type(error).__name__}: {error}")


def _stored(sequence: np.ndarray, dtype: str) -> np.ndarray | ItemError:
    with np.errstate(over="ignore", invalid="ignore"):
        stored = pack(sequence, dtype)
    if len(stored) == 0:
        return ItemError("no tokens")
    if not np.isfinite(sequence if dtype == PACKED else stored).all():
        return ItemError("not finite", f"the encoder's output does not fit {dtype} or is not a number")
    return stored
