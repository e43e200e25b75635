"""Reading of items' tokens from files: neighbours in a single read, into memory of their own.

Nothing is mapped, so only requested values are resident.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lightcrl.errors import TornStoreError
from lightcrl.features.packing import unpack
from lightcrl.tokens import TokenBatch

# Greatest gap in bytes between two items in a single read; the gap is discarded.
GAP = 64 * 2**10
# Greatest number of bytes per read.
RUN = 4 * 2**20


@dataclass(frozen=True)
class Excerpt:
    """Some items of a store, held in memory.

    Attributes:
        rows: rows of the store [N], ascending.
        values: tokens of the items as stored, [tokens, W], concatenated.
        offsets: start of each item, [N + 1].
        slots: number of places in a batch without items.
    """

    rows: np.ndarray
    values: np.ndarray
    offsets: np.ndarray
    slots: int

    @property
    def tokens(self) -> np.ndarray:
        """Tokens [tokens, D] of the items, concatenated."""
        tokens: np.ndarray = unpack(torch.from_numpy(self.values)).numpy()
        return tokens

    def gather(self, rows: np.ndarray) -> TokenBatch:
        """Return the tokens of the items at `rows` [B], in that order; all of them must be in the excerpt."""
        return pad(self.values, self.offsets, np.searchsorted(self.rows, rows), self.slots)


def pad(values: np.ndarray, offsets: np.ndarray, items: np.ndarray, slots: int, most: int | None = None) -> TokenBatch:
    """Return tokens of `items` [B] out of stored `values` [tokens, W], padded to the longest; at most `most` each."""
    starts = np.asarray(offsets[items])
    lengths = np.asarray(offsets[items + 1]) - starts
    if most is not None:
        lengths = np.minimum(lengths, most)
    # A process may have no items of a modality in a batch; its tokens still need the right shape.
    places = np.arange(int(lengths.max()) if len(items) else slots)
    mask = places < lengths[:, None]
    # Padding repeats the item's first token: it is masked, and the index stays within the item.
    index = starts[:, None] + np.where(mask, places, 0)
    # Torch releases the interpreter lock meanwhile, unlike numpy.
    padded = unpack(torch.from_numpy(values).index_select(0, torch.from_numpy(index.reshape(-1))))
    return TokenBatch(padded.view(*index.shape, padded.shape[1]), torch.from_numpy(mask))


def read_tokens(path: Path, header: int, starts: np.ndarray, counts: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` [sum(counts), W] with `counts` [N] tokens from each of `starts` [N], ascending, of an array in a file.

    Args:
        path: path of a `.npy` file.
        header: number of bytes before the array.
        starts: first token of each item.
        counts: number of tokens of each item.
        out: destination of the tokens, item after item.

    Raises:
        TornStoreError: the file ends before the last token.
    """
    if not len(out):
        return
    width = out.shape[1] * out.itemsize
    ends = starts + counts
    apart = (starts[1:] - ends[:-1]) * width > GAP
    apart |= np.diff(starts * width // RUN) > 0
    first = np.concatenate([[0], np.flatnonzero(apart) + 1])
    places = np.concatenate([[0], np.cumsum(counts)])
    file = os.open(path, os.O_RDONLY)
    try:
        for low, high in zip(first.tolist(), [*first[1:].tolist(), len(starts)], strict=True):
            begin, size = int(starts[low]), int(ends[high - 1] - starts[low])
            wanted = out[places[low] : places[high]]
            if size == len(wanted):
                _read(file, path, header + begin * width, wanted)
            else:
                run = np.empty((size, out.shape[1]), out.dtype)
                _read(file, path, header + begin * width, run)
                shift = starts[low:high] - begin - (places[low:high] - places[low])
                np.take(run, np.arange(len(wanted)) + np.repeat(shift, counts[low:high]), 0, out=wanted, mode="clip")
    finally:
        os.close(file)


def _read(file: int, path: Path, position: int, into: np.ndarray) -> None:
    left = into.reshape(-1).view(np.uint8).data
    while left:
        count = os.preadv(file, [left], position)
        if not count:
            raise TornStoreError(
                f"{path} ends at byte {position}, {len(left)} bytes short: it was truncated after the store was "
                "opened. Remove it and manifest.json and run the recipe again."
            )
        left, position = left[count:], position + count
