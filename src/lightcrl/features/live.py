"""Features of a modality with a trained encoder: items through a tower, with the interface of a store."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightcrl.data.base import Item
from lightcrl.encoders.augment import crop_and_flip
from lightcrl.encoders.image import read_image
from lightcrl.encoders.tower import Tower
from lightcrl.errors import StoreError
from lightcrl.features.base import Store, WrappedStore, item_keys, rows_by_item
from lightcrl.features.states import prepared_sample
from lightcrl.features.store import FeatureStore
from lightcrl.tokens import TokenBatch

# Number of tokens per pass through the trained part of a tower: more activations than these need much memory.
STATE_TOKENS = 16_384


class LiveStore(WrappedStore):
    """A store whose items go through the tower on every request, from raw items or from stored states.

    The store of the tower's initial outputs, which it wraps, still provides the groups and the readable items.
    Outputs of the tower are not kept.

    Attributes:
        tower: the encoder in training.
        workers: number of decoding threads.
        items: raw item of each row, [rows].
        states: store of the states that enter the first trained block, if there is one.
        chunk: number of items per pass through the tower.

    Raises:
        StoreError: `states` lacks items.
    """

    def __init__(
        self,
        store: Store,
        tower: Tower,
        items: Sequence[Item],
        *,
        workers: int = 4,
        states: FeatureStore | None = None,
    ) -> None:
        """Wrap `store`, with the raw items of the data set that it was made from; `workers` is a number of threads."""
        super().__init__(store)
        self.tower = tower
        self.workers = workers
        by_key, keys = {item.key: item for item in items}, item_keys(store)
        self.items = [by_key[key] for key in keys]
        self.states = states
        self.chunk = tower.encoder.batch_size
        if states is not None:
            places = rows_by_item(states)
            if missing := [key for key in keys if key not in places]:
                raise StoreError(
                    f"{len(missing)} items have no stored states in {states.folder}: they may not fit its dtype. "
                    "Say features.dtype = 'float32', or cache = false in the [tuning] table."
                )
            self._places = np.array([places[key] for key in keys], dtype=np.int64)
            self.chunk = max(self.chunk, STATE_TOKENS * states.rows // max(1, states.tokens))
            tower.read_states(prepared_sample(tower.encoder, self.items))

    def hold(self, limit: float) -> None:
        """Read the states into memory if they have at most `limit` bytes."""
        if self.states is not None and self.states.nbytes <= limit:
            self.states = self.states.in_memory()

    def prepare(self, rows: np.ndarray, generator: np.random.Generator | None = None) -> list[Any] | TokenBatch:
        """Return the items at `rows` [B] for the tower: their states, or decoded items.

        `generator` crops and mirrors decoded pictures.
        """
        if self.states is not None:
            return self.states.gather(self._places[rows])
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
        size = self.chunk
        parts: list[Tensor] = []
        for start in range(0, len(rows), size):
            tokens = self.tower(self.prepare(np.asarray(rows[start : start + size])))
            parts += tokens.to("cpu").ragged()
        self.tower.train(was_training)
        batch = TokenBatch.from_ragged(parts)
        return batch if sequence or not self.sequence else batch.places(0, self.slots)
