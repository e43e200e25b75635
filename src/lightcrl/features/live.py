"""Features of a modality with a trained encoder: raw items through a tower, with the interface of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightcrl.data.base import Item
from lightcrl.encoders.augment import crop_and_flip
from lightcrl.encoders.image import read_image
from lightcrl.encoders.tower import Tower
from lightcrl.features.base import Store, item_keys
from lightcrl.tokens import TokenBatch


class LiveStore:
    """A store whose items go through the tower on every request.

    A `features.Store`: the store of the tower's initial outputs still provides the groups and the readable items.
    Outputs of the tower are not kept.

    Attributes:
        tower: the encoder in training.
        workers: number of decoding threads.
        items: raw item of each row, [rows].
    """

    memory = True  # no stored values are read

    def __init__(self, store: Store, tower: Tower, items: Sequence[Item], *, workers: int = 4) -> None:
        """Wrap `store`, with the raw items of the data set that it was made from; `workers` is a number of threads."""
        self._stored = store
        self.fingerprint, self.rows, self.longest = store.fingerprint, store.rows, store.longest
        self.tokens, self.nbytes, self.cut = store.tokens, store.nbytes, store.cut
        self.dim, self.slots, self.sequence = store.dim, store.slots, store.sequence
        self.tower = tower
        self.workers = workers
        by_key = {item.key: item for item in items}
        self.items = [by_key[key] for key in item_keys(store)]

    def metadata(self) -> pa.Table:
        """Return the metadata of the store before training; see `FeatureStore.metadata`."""
        return self._stored.metadata()

    def lines(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the lines of the store before training; see `FeatureStore.lines`."""
        return self._stored.lines(columns)

    def count_lines(self) -> int:
        """Return the number of lines of the store before training."""
        return self._stored.count_lines()

    def in_memory(self) -> LiveStore:
        """Return this store: there is nothing to read."""
        return self

    def prepare(self, rows: np.ndarray, generator: np.random.Generator | None = None) -> list[Any]:
        """Return the items at `rows` [B], decoded for the tower; `generator` crops and mirrors pictures."""
        encoder, spec = self.tower.encoder, self.tower.spec
        changed = generator is not None and encoder.kind == "image"
        seeds = generator.integers(2**63, size=len(rows)) if generator is not None else np.zeros(len(rows), int)

        def one(row: int, seed: int) -> Any:
            raw = self.items[row].read()
            if changed:
                picture = read_image(raw, encoder.spec.max_pixels)
                raw = crop_and_flip(picture, np.random.default_rng(seed), spec.crop, spec.flip)
            return encoder.prepare(raw)

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(one, rows.tolist(), seeds.tolist()))

    @torch.no_grad()
    def gather(self, rows: np.ndarray, *, sequence: bool = True) -> TokenBatch:
        """Return tokens of the items at `rows` [B] from the tower's current weights, in eval mode without gradient."""
        was_training = self.tower.training
        self.tower.eval()
        size = self.tower.encoder.batch_size
        parts: list[Tensor] = []
        for start in range(0, len(rows), size):
            tokens = self.tower(self.prepare(np.asarray(rows[start : start + size])))
            parts += tokens.to("cpu").ragged()
        self.tower.train(was_training)
        batch = TokenBatch.from_ragged(parts)
        return batch if sequence or not self.sequence else batch.places(0, self.slots)
