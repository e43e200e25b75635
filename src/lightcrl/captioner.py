"""The captioner: raw items in, texts out, by a model's captioning head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lightcrl.data.base import Item, Rejection, digest
from lightcrl.embedder import Embedder, load
from lightcrl.errors import DataError, ItemError
from lightcrl.features import encode_items
from lightcrl.heads.captioning.head import PART
from lightcrl.heads.captioning.writer import Caption, Search
from lightcrl.tasks.captioning import load_captioner
from lightcrl.tokens import TokenBatch


class Captioner:
    """A model's captioning head with the encoder of the captioned modality.

    Attributes:
        embedder: the model.
        head: the head.
    """

    def __init__(self, embedder: Embedder, head: str | None = None) -> None:
        """Take a captioner of the model: by default the one called `captioning`, or its only one.

        Raises:
            HeadError: the model has no captioner, or several, or the head is no captioner.
        """
        self.embedder = embedder
        self.head = load_captioner(embedder.checkpoint, head).to(embedder.device)

    @classmethod
    def load(cls, place: Path | str, *, head: str | None = None, **settings: Any) -> Captioner:
        """Load the captioner of a model's folder or hub id; `settings` are those of `lightcrl.load`."""
        return cls(load(place, **settings), head)

    @property
    def modality(self) -> str:
        """The captioned modality."""
        return self.head.source

    def caption(self, items: Sequence[Any], **search: Any) -> list[str]:
        """Return the best caption of each raw item, in their order.

        Args:
            items: pictures, sounds or texts, in the forms of `lightcrl.encoders.inputs`.
            search: `beams` (5), or `nucleus`, `temperature` and `seed` to draw captions; see
                `heads.captioning.writer.Search`.

        Raises:
            ItemError: an item is unreadable, or no caption of it has any text; the message names it.
        """
        return [captions[0].text for captions in self.captions(items, **search)]

    def captions(self, items: Sequence[Any], **search: Any) -> list[list[Caption]]:
        """Return the captions of each raw item, the best first; arguments and errors as in `caption`."""
        if isinstance(items, (str, bytes, Path)):
            raise DataError(f"caption takes a list of items, found one {type(items).__name__}; put it into a list.")
        wrapped = [Item(digest("item", str(number)), f"item {number}", item) for number, item in enumerate(items)]
        captions, rejected = self.caption_some(wrapped, **search)
        if rejected:
            raise ItemError(f"{rejected[0].source}: {rejected[0].reason}", rejected[0].detail)
        return captions

    def caption_some(self, items: Sequence[Item], **search: Any) -> tuple[list[list[Caption]], list[Rejection]]:
        """Caption items as `captions`, but set those aside that have none: their list is empty, and they are returned.

        An item has none if it is unreadable, or if all of its captions are blank.
        """
        chosen, rejected = self.head.search(**search), []
        captions: list[list[Caption]] = [[] for _ in items]
        waiting: dict[int, torch.Tensor] = {}
        for place, outcome in encode_items(self.embedder.encoder(self.modality), items):
            if isinstance(outcome, ItemError):
                rejected.append(Rejection(items[place].source, outcome.reason, outcome.detail, self.modality))
                continue
            waiting[place] = torch.from_numpy(outcome)
            if len(waiting) == PART:
                self._write(waiting, captions, chosen)
        self._write(waiting, captions, chosen)
        unreadable = {each.source for each in rejected}
        for item, written in zip(items, captions, strict=True):
            if not written and item.source not in unreadable:
                detail = "all beams are blank; train longer, or raise heads.captioning.shortest"
                rejected.append(Rejection(item.source, "empty caption", detail, self.modality))
        return captions, rejected

    def _write(self, waiting: dict[int, torch.Tensor], captions: list[list[Caption]], search: Search) -> None:
        """Caption the waiting items, and empty them."""
        if not waiting:
            return
        tokens = TokenBatch.from_ragged(list(waiting.values())).to(self.embedder.device, torch.float32)
        vectors = torch.from_numpy(self.embedder.encode_tokens(tokens, self.modality)).to(self.embedder.device)
        numbered = replace(search, numbers=tuple(waiting))
        for place, written in zip(waiting, self.head.write(tokens, vectors, numbered), strict=True):
            captions[place] = [caption for caption in written if caption.text.strip()]
        waiting.clear()
