"""N-grams of a text as numbers, equal on every machine: the columns of scikit-learn's `HashingVectorizer`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np

WIDEST = 1 << 20
"""Number of columns."""
WORD = re.compile(r"\b\w+\b")
GAP = re.compile(r"\s\s+")
REMEMBERED = 1 << 18


def count_columns(ngrams: Iterator[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of n-grams, ascending, and how many n-grams fall on each, float32."""
    columns, counts = np.unique(np.fromiter(map(column_of, ngrams), dtype=np.int64), return_counts=True)
    return columns, counts.astype(np.float32)


def words_and_pairs(text: str) -> Iterator[str]:
    """Yield the words of a text, then its pairs of neighbouring words."""
    words = WORD.findall(text.lower())
    yield from words
    yield from (f"{left} {right}" for left, right in pairwise(words))


def letter_runs(text: str, shortest: int = 3, longest: int = 5) -> Iterator[str]:
    """Yield runs of letters of each word with the spaces around it; of a word shorter than a run, the word, once."""
    for word in GAP.sub(" ", text.lower()).split():
        padded = f" {word} "
        for length in range(shortest, longest + 1):
            yield padded[:length]
            for start in range(1, len(padded) - length + 1):
                yield padded[start : start + length]
            if length >= len(padded):
                break


@lru_cache(REMEMBERED)
def column_of(ngram: str) -> int:
    """Return the column of an n-gram, 0 to `WIDEST` - 1."""
    number = murmur3(ngram.encode())
    return min(number, 2**32 - number) % WIDEST


def murmur3(data: bytes) -> int:
    """Return the 32 bits of MurmurHash3 (x86, seed 0), A. Appleby's, in the public domain.

    >>> f"{murmur3(b'a red dog'):08x}"
    'fa819fce'
    """
    state, whole = 0, len(data) // 4 * 4
    for start in range(0, whole, 4):
        state ^= _scrambled(int.from_bytes(data[start : start + 4], "little"))
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & 0xFFFFFFFF
    state ^= _scrambled(int.from_bytes(data[whole:], "little")) ^ len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    state = (state ^ state >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return state ^ state >> 16


def _scrambled(block: int) -> int:
    block = block * 0xCC9E2D51 & 0xFFFFFFFF
    return (block << 15 | block >> 17) * 0x1B873593 & 0xFFFFFFFF
