"""Embedding of stored features by a method, to unit vectors."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from lightcrl.encoders.base import Encoder
from lightcrl.features.base import Store
from lightcrl.features.table import Features, Split
from lightcrl.methods.base import Method
from lightcrl.processes import gather_rows, launched, rank, share

# Number of tokens per batch, so that long sequences and single vectors take similar memory.
TOKENS_PER_BATCH = 65_536
SAMPLE = 4_096
"""Greatest number of training items that items are compared with."""


def batch_rows(store: Store) -> int:
    """Return the number of a store's items per batch."""
    return max(1, TOKENS_PER_BATCH // max(1, store.longest))


@torch.inference_mode()
def embed_rows(method: Method, store: Store, modality: str, rows: np.ndarray) -> Tensor:
    """Return unit vectors [N, d] float32 on the CPU of the items at `rows` [N], in eval mode."""
    was_training = method.training
    method.eval()
    device = next(method.parameters()).device
    per_batch = batch_rows(store)
    gather = partial(store.gather, sequence=method.sequences)
    parts = [
        method(modality, gather(rows[start : start + per_batch]).to(device)).cpu()
        for start in range(0, len(rows), per_batch)
    ]
    method.train(was_training)
    return torch.cat(parts) if parts else torch.zeros(0, method.dim)


@torch.inference_mode()
def own_rows(encoder: Encoder, store: Store, rows: np.ndarray) -> Tensor:
    """Return the encoder's own vectors [N, D] float32 (`Encoder.own_vectors`) of the items at `rows` [N]."""
    per_batch = batch_rows(store)
    parts = [
        encoder.own_vectors(store.gather(rows[start : start + per_batch]).to("cpu", torch.float32))
        for start in range(0, len(rows), per_batch)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, store.dim)


def embed_split(method: Method, features: Features, split: Split) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Return unit vectors [N_m, d] of every item of a split, and links [L_m, 2] (item number, group number)."""
    vectors = {
        modality: embed_rows(method, features.store(modality), modality, np.unique(members.rows))
        for modality, members in split.members.items()
    }
    return vectors, split_links(split)


def embed_together(method: Method, features: Features, split: Split) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Embed a split as `embed_split`, to the bit, with all processes; each embeds its share of the batches."""
    count = launched()
    if count == 1:
        return embed_split(method, features, split)
    vectors = {}
    device = next(method.parameters()).device
    for modality, members in split.members.items():
        rows = np.unique(members.rows)
        store = features.store(modality)
        own = embed_rows(method, store, modality, rows[share(len(rows), rank(), count, batch_rows(store))])
        vectors[modality] = gather_rows(own.to(device), len(rows), batch_rows(store)).cpu()
    return vectors, split_links(split)


def split_links(split: Split) -> dict[str, np.ndarray]:
    """Return links [L_m, 2] of a split by modality: item number in order of rows, group number."""
    return {
        modality: np.stack([np.unique(members.rows, return_inverse=True)[1], members.groups], 1)
        for modality, members in split.members.items()
    }


def sample_rows(split: Split, modality: str) -> np.ndarray:
    """Return at most `SAMPLE` rows of a modality's items in a split, always the same."""
    rows = np.unique(split.members[modality].rows)
    drawn: np.ndarray = np.sort(np.random.default_rng(0).permutation(rows)[:SAMPLE])
    return drawn
