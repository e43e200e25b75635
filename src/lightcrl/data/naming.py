"""Numbering of very many names: each is represented by 16 bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

# Longer names are hashed separately.
LONG = 64
# Odd numbers of 64 bits without a pattern: two seeds, and two factors of the mixing (those of MurmurHash3).
SEEDS = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)
FACTORS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)


def digests(names: pa.Array) -> np.ndarray:
    """Return digests [N, 2] uint64 of N strings: equal for equal names, different for different names.

    With 128 bits, the probability of any collision among a thousand million names is below 1e-20.
    """
    names = names.cast(pa.large_binary())
    offsets = np.frombuffer(names.buffers()[1], np.int64)[names.offset : names.offset + len(names) + 1]
    lengths = np.diff(offsets)
    longest = int(lengths.max(initial=0))
    if longest > LONG:
        short = [name if len(name) <= LONG else hashlib.blake2b(name).digest() for name in names.to_pylist()]
        return digests(pa.array(short, pa.large_binary()))
    words = np.zeros((len(names), -(-longest // 8) * 8), np.uint8)
    if longest:
        content = np.frombuffer(names.buffers()[2], np.uint8)
        words[np.arange(words.shape[1]) < lengths[:, None]] = content[offsets[0] : offsets[-1]]
    result = np.empty((len(names), 2), np.uint64)
    for lane, seed in enumerate(SEEDS):
        mixed = np.uint64(seed) ^ lengths.astype(np.uint64)
        for place, word in enumerate(np.ascontiguousarray(words.view(np.uint64).T)):
            new = mixed ^ word
            for factor in FACTORS:
                new *= np.uint64(factor)
                new ^= new >> np.uint64(32)
            # The factors of a name must not depend on the names beside it.
            mixed = np.where(lengths > 8 * place, new, mixed)
        result[:, lane] = mixed
    return result


def number_names(columns: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Number the names behind columns of digests [N, 2] by first appearance; return numbers and the count of names."""
    # Consecutive equal names, such as those of a picture's captions, count once.
    heads = [np.concatenate([[True], (column[1:] != column[:-1]).any(1)])[: len(column)] for column in columns]
    lists = [column if head.all() else column[head] for column, head in zip(columns, heads, strict=True)]
    # Modalities mostly have the same groups in the same order; a single list then serves all.
    places = [next(n for n, other in enumerate(lists) if np.array_equal(digest, other)) for digest in lists]
    chosen = sorted(set(places))
    renumbered, count = _number(np.concatenate([lists[n] for n in chosen]) if len(chosen) > 1 else lists[0])
    cuts = np.cumsum([len(lists[n]) for n in chosen])[:-1]
    parts = dict(zip(chosen, np.split(renumbered, cuts), strict=True))
    numbers = [
        parts[place] if head.all() else parts[place][np.cumsum(head) - 1]
        for place, head in zip(places, heads, strict=True)
    ]
    return numbers, count


def _number(keys: np.ndarray) -> tuple[np.ndarray, int]:
    kind = np.int32 if len(keys) < 2**31 else np.int64
    if not _repeats(np.sort(keys[:, 0])).any():
        return np.arange(len(keys), dtype=kind), len(keys)
    order = np.argsort(keys[:, 0], kind="stable").astype(kind)
    same = _repeats(keys[order, 0])
    if not np.array_equal(same, same & _repeats(keys[order, 1])):
        order = np.lexsort((keys[:, 1], keys[:, 0])).astype(kind)
        same = _repeats(keys[order, 0]) & _repeats(keys[order, 1])
    starts = np.flatnonzero(~same).astype(kind)
    # The sort is stable: the first of equal names is the one that appears first.
    first = np.zeros(len(order), bool)
    first[order[starts]] = True
    number = np.cumsum(first, dtype=kind) - 1
    renumbered = np.empty_like(number)
    renumbered[order] = np.repeat(number[order[starts]], np.diff(starts, append=kind(len(order))))
    return renumbered, len(starts)


def _repeats(values: np.ndarray) -> np.ndarray:
    """Return a mask [N], true where a value equals the one before it."""
    return np.concatenate([[False], values[1:] == values[:-1]])[: len(values)]
