"""Texts as hashed n-grams of words and letters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lightcrl.encoders.base import Encoder
from lightcrl.encoders.builtin.hashing import WIDEST, count_columns, letter_runs, words_and_pairs
from lightcrl.errors import EncoderError, ItemError
from lightcrl.tokens import TokenBatch


class HashedNgrams(Encoder):
    """Texts as two tokens: words and pairs of words; runs of three to five letters.

    Counts enter by 1 + log, vectors have unit length before they are hashed to `dim` numbers of about unit size
    (a sparse random projection: each n-gram adds to eight places, with signs).

    Args:
        dim: width of a token; wider than the number of hashed n-grams, the rest would be zeros.

    Raises:
        EncoderError: `dim` is not a valid width.
    """

    kind = "text"
    version = 1
    slots = 2
    places = 8

    def __init__(self, dim: int = 512) -> None:
        if not isinstance(dim, int) or isinstance(dim, bool) or not 1 <= dim <= WIDEST:
            raise EncoderError(f"dim = {dim!r}: expected a whole number from 1 to {WIDEST:,}.")
        self.dim = dim

    def describe(self) -> Mapping[str, Any]:
        """Return name, version and options."""
        return {"encoder": "builtin:ngrams", "version": self.version, "dim": self.dim}

    def prepare(self, raw: Any) -> np.ndarray:
        """Return tokens [2, dim] of a string.

        Raises:
            ItemError: the item is not a string, or empty.
        """
        if not isinstance(raw, str):
            raise ItemError("not a text", f"found {type(raw).__name__}")
        if not raw.strip():
            raise ItemError("empty text")
        return np.stack([self._project(*count_columns(view(raw))) for view in (words_and_pairs, letter_runs)])

    def encode(self, prepared: Sequence[np.ndarray]) -> TokenBatch:
        """Return the tokens as a batch."""
        return TokenBatch.full(torch.from_numpy(np.stack(prepared)))

    def _project(self, ngrams: np.ndarray, counts: np.ndarray) -> np.ndarray:
        weights = 1 + np.log(counts)
        hashes = _mix(
            ngrams.astype(np.uint64)[:, None] * np.uint64(self.places) + np.arange(self.places, dtype=np.uint64)
        )
        signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        values = np.zeros(self.dim)
        np.add.at(values, hashes % np.uint64(self.dim), signs * weights[:, None])
        scale = math.sqrt(self.dim / self.places) / max(float(np.linalg.norm(weights)), 1e-12)
        return (values * scale).astype(np.float32)


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Spread numbers over 64 bits (splitmix64's finaliser): equal on every machine, unlike a library's generator."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
