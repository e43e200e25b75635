"""Texts as hashed n-grams of words and letters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lightcrl.encoders.base import Encoder
from lightcrl.errors import EncoderError, ItemError, MissingExtraError
from lightcrl.tokens import TokenBatch

WIDEST = 1 << 20
"""Greatest useful width: with more numbers than n-grams, the rest would be zeros."""


class HashedNgrams(Encoder):
    """Texts as two tokens: words and pairs of words; runs of three to five letters.

    Counts enter by 1 + log, vectors have unit length before they are hashed to `dim` numbers of about unit size
    (a sparse random projection: each n-gram adds to eight places, with signs).

    Args:
        dim: width of a token.

    Raises:
        EncoderError: `dim` is not a valid width.
        MissingExtraError: scikit-learn is not installed.
    """

    kind = "text"
    version = 1
    slots = 2
    places = 8

    def __init__(self, dim: int = 512) -> None:
        try:
            from sklearn.feature_extraction.text import HashingVectorizer
        except ImportError as error:
            raise MissingExtraError("the built-in text encoder", "builtin") from error
        if not isinstance(dim, int) or isinstance(dim, bool) or not 1 <= dim <= WIDEST:
            raise EncoderError(f"dim = {dim!r}: expected a whole number from 1 to {WIDEST:,}.")
        self.dim = dim
        shared = {"n_features": WIDEST, "alternate_sign": False, "norm": None, "dtype": np.float32}
        self._views = (
            HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **shared),
            HashingVectorizer(ngram_range=(3, 5), analyzer="char_wb", **shared),
        )

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
        return np.stack([self._project(view.transform([raw])) for view in self._views])

    def encode(self, prepared: Sequence[np.ndarray]) -> TokenBatch:
        """Return the tokens as a batch."""
        return TokenBatch.full(torch.from_numpy(np.stack(prepared)))

    def _project(self, counts: Any) -> np.ndarray:
        ngrams, weights = counts.indices.astype(np.uint64), 1 + np.log(counts.data)
        hashes = _mix(ngrams[:, None] * np.uint64(self.places) + np.arange(self.places, dtype=np.uint64))
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
