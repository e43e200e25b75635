"""Scores of pairs of raw items, by a model's matching head.

matcher = Matcher(lightcrl.load("runs/matched"))
matcher.scores(["two dogs in the snow"], "text", ["a.jpg", "b.jpg"], "image")     # [1, 2]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch

from lightcrl.data.base import Item
from lightcrl.embedder import Embedder
from lightcrl.errors import HeadError, ItemError
from lightcrl.features import encode_items
from lightcrl.heads.base import HeadBatch
from lightcrl.heads.matching import PAIRS, Encoded, Matching
from lightcrl.tokens import TokenBatch


@final
class Matcher:
    """A matching head with the encoders of its model.

    Attributes:
        embedder: the model.
        head: the head.
    """

    def __init__(self, embedder: Embedder, head: str = "matching") -> None:
        """Load the head `head` of a model.

        Raises:
            HeadError: the model has no such head, it was trained on another space, or it scores no pairs.
            CheckpointError: a tensor of the head is wrong.
        """
        loaded = embedder.checkpoint.head(head)
        if not isinstance(loaded, Matching):
            raise HeadError(f"head {head!r} is {type(loaded).__name__}, which scores no pairs; expected 'matching'.")
        self.embedder, self.head = embedder, loaded.to(embedder.device)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The two modalities of a pair."""
        return self.head.modalities

    def other(self, modality: str) -> str:
        """Return the modality that items of `modality` are matched with.

        Raises:
            HeadError: the head does not read this modality.
        """
        if modality not in self.modalities:
            raise HeadError(f"the head matches {' and '.join(self.modalities)}; found an item of {modality!r}.")
        return next(name for name in self.modalities if name != modality)

    @torch.inference_mode()
    def scores(self, queries: Sequence[Any], source: str, items: Sequence[Any], target: str) -> np.ndarray:
        """Return the scores [Q, N] of every query with every item; larger is more alike.

        Args:
            queries: raw items, in the forms of `Embedder.encode`.
            source: modality of the queries.
            items: raw items.
            target: modality of the items.

        Raises:
            HeadError: the head does not match these modalities.
            ItemError: an item is unreadable; the message names it.
        """
        if self.other(source) != target:
            raise HeadError(f"the head matches {' and '.join(self.modalities)}; found {source!r} and {target!r}.")
        if not len(queries) or not len(items):
            return np.zeros((len(queries), len(items)), np.float32)
        left, right = self._encoded(queries, source), self._encoded(items, target)
        step = max(1, PAIRS // len(items))
        parts = []
        for start in range(0, len(queries), step):
            some = left.at(torch.arange(start, min(start + step, len(queries))))
            places = np.tile(np.arange(len(items)), (len(some.vectors), 1))
            scored = self.head.score_lists((source, target), some, right, places, bool(self.head.weight))
            parts.append(scored.total(self.head.local, self.head.weight))
        return torch.cat(parts).cpu().numpy()

    def _encoded(self, items: Sequence[Any], modality: str) -> Encoded:
        wrapped = [Item(str(number), f"item {number}", item) for number, item in enumerate(items)]
        outcomes = dict(encode_items(self.embedder.encoder(modality), wrapped))
        for place, outcome in outcomes.items():
            if isinstance(outcome, ItemError):
                raise ItemError(f"item {place}: {outcome.reason}", outcome.detail)
        tokens = TokenBatch.from_ragged([torch.from_numpy(outcomes[place]).float() for place in range(len(items))])
        vectors = torch.from_numpy(self.embedder.encode_tokens(tokens, modality))
        return self.head.encode(
            modality, HeadBatch({modality: tokens}, {modality: vectors}, {}).to(self.embedder.device)
        )
