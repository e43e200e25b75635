"""What the suites of the maths are fed with: random tokens, unit vectors, splits and small feature stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.features.store import FeatureStore, write_manifest, write_shard
from lightcrl.features.table import Features, Split, make_members
from lightcrl.tokens import TokenBatch

# What may stand under the mask, and must never matter.
GARBAGE = (7.0, 1e30, float("inf"), float("nan"))


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def units(count: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random unit vectors [count, dim]."""
    return normalize(randn(count, dim, seed=seed, dtype=dtype), dim=-1)


def ragged(lengths: Sequence[int], dim: int, seed: int = 0) -> TokenBatch:
    """Random tokens: as many per item as `lengths` says."""
    return TokenBatch.from_ragged([randn(length, dim, seed=seed * 1000 + n) for n, length in enumerate(lengths)])


def padded(tokens: TokenBatch, extra: int, garbage: float) -> TokenBatch:
    """The same items with `extra` places more, and `garbage` in every place that the mask hides."""
    values = torch.cat([tokens.values, torch.zeros(len(tokens), extra, tokens.dim, dtype=tokens.values.dtype)], 1)
    mask = torch.cat([tokens.mask, torch.zeros(len(tokens), extra, dtype=torch.bool)], 1)
    return TokenBatch(values.masked_fill(~mask.unsqueeze(-1), garbage), mask)


def make_split(owners: Mapping[str, Sequence[Sequence[int]]]) -> Split:
    """A split from, by modality, the rows that each group holds."""
    count = len(next(iter(owners.values())))
    members = {
        modality: make_members(
            np.array([row for rows in groups for row in rows], dtype=np.int64),
            np.array([group for group, rows in enumerate(groups) for _ in rows], dtype=np.int64),
            count,
        )
        for modality, groups in owners.items()
    }
    return Split(count, members)


def make_features(
    folder: Path,
    sequences: Mapping[str, Sequence[Tensor]],
    owners: Mapping[str, Sequence[str]],
    *,
    slots: int = 1,
    sequence: bool = False,
) -> Features:
    """Features on disk from tokens [T_i, D] by modality, and the group "split:name" of each."""
    stores = {}
    for modality, items in sequences.items():
        (folder / modality).mkdir(parents=True)
        metadata = {
            "row": list(range(len(items))),
            "item": [f"{modality}{row}" for row in range(len(items))],
            "group": [owner.partition(":")[2] for owner in owners[modality]],
            "split": [owner.partition(":")[0] for owner in owners[modality]],
            "source": [modality] * len(items),
        }
        dim = items[0].shape[-1]
        arrays = [item.numpy() for item in items]
        shard = write_shard(folder / modality, 0, modality, arrays, metadata, [], dim, "float32")
        header = {"modality": modality, "dim": dim, "slots": slots, "dtype": "float32"} | (
            {"sequence": True} if sequence else {}
        )
        write_manifest(folder / modality, modality, header, [shard])
        stores[modality] = FeatureStore(folder / modality)
    return Features(stores)


def bare(method):
    """What tasks need of a checkpoint when nothing is trained: its method and its name."""
    return SimpleNamespace(method=method, name="dfe")
