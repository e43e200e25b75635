"""Captions by retrieval: the training caption on which the item's nearest training captions agree.

This is the nearest-neighbour approach of Devlin et al. (arXiv 1505.04467) in the space: a baseline that many captioners
do not beat, and a captioner without any training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lightcrl.errors import HeadError
from lightcrl.heads.captioning.agreement import WordAgreement, consensus
from lightcrl.heads.captioning.writer import Caption, CaptionWriter, Search
from lightcrl.tokens import TokenBatch, TokenSpec

if TYPE_CHECKING:
    from lightcrl.heads.captioning.head import CaptioningOptions

SEPARATOR = "\0"
"""Character between two captions; no text contains it."""


class RetrievalWriter(CaptionWriter):
    """The consensus of the k training captions that are nearest to an item.

    Attributes:
        vectors: embeddings of the training captions, [C, d] float16.
        texts: the captions in UTF-8, separated by `SEPARATOR`, [B].
    """

    closed_form: ClassVar[bool] = True
    sized: ClassVar[tuple[str, ...]] = ("vectors", "texts")
    vectors: Tensor
    texts: Tensor

    def __init__(self, spec: TokenSpec, dim: int, options: CaptioningOptions) -> None:
        super().__init__(spec, dim, options)
        self.options = options
        self.register_buffer("vectors", torch.zeros(0, dim, dtype=torch.float16))
        self.register_buffer("texts", torch.zeros(0, dtype=torch.uint8))
        self._captions: tuple[bytes, list[str]] | None = None
        self._words: tuple[bytes, WordAgreement] | None = None

    @property
    def captions(self) -> list[str]:
        """The training captions, in order of their vectors."""
        data = self._data()
        if self._captions is None or self._captions[0] != data:
            self._captions = data, data.decode().split(SEPARATOR)
        return self._captions[1]

    def learn(self, captions: Sequence[str], vectors: Callable[[], Tensor]) -> None:
        """Keep the captions, each text once."""
        places: dict[str, int] = {}
        for place, text in enumerate(captions):
            places.setdefault(text.replace(SEPARATOR, " "), place)
        data = bytearray(SEPARATOR.join(places).encode())
        self.texts = torch.frombuffer(data, dtype=torch.uint8).to(self.texts.device)
        self.vectors = vectors()[list(places.values())].to(self.vectors)

    def pieces(self, captions: Sequence[str]) -> Tensor:
        """Return [N, 0]: nothing is generated."""
        return torch.zeros(len(captions), 0, dtype=torch.int64)

    def loss(self, tokens: TokenBatch, embeddings: Tensor, owners: Tensor, pieces: Tensor) -> Tensor:
        """Return zero: there is nothing to train."""
        return embeddings.new_zeros(())

    def likelihoods(self, tokens: TokenBatch, embeddings: Tensor, pieces: Tensor, vectors: Tensor) -> Tensor:
        """Return the mean cosine [N] of a caption and those nearest to the item, weighted as in `consensus`."""
        places, closeness = self._nearest(embeddings)
        shares = (self.options.sharpness * closeness).softmax(1)
        cosines = torch.einsum("nkd,nd->nk", self.vectors[places].to(vectors), vectors)
        return (cosines * shares).sum(1)

    @torch.inference_mode()
    def write(self, tokens: TokenBatch, embeddings: Tensor, search: Search) -> list[list[Caption]]:
        """Return the `search.beams` captions with the greatest consensus."""
        captions = self.captions
        places, closeness = self._nearest(embeddings)
        written = []
        for near, close in zip(places, closeness, strict=True):
            scores = consensus(self._agreement(near), close, self.options.sharpness)
            best = scores.sort(descending=True, stable=True).indices[: search.beams].tolist()
            written.append([Caption(captions[near[n]], float(scores[n]), float(scores[n])) for n in best])
        return written

    def _agreement(self, places: Tensor) -> Tensor:
        """Return the agreement [k, k] of captions with each other."""
        if self.options.agreement == "space":
            vectors = self.vectors[places].float()
            return vectors @ vectors.T
        data = self._data()
        if self._words is None or self._words[0] != data:
            self._words = data, WordAgreement(self.captions)
        return self._words[1](places.cpu().numpy()).to(places.device)

    def _nearest(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return places and cosines [N, k] of the nearest training captions."""
        best = (embeddings @ self.vectors.to(embeddings).T).topk(min(self.options.neighbours, len(self.captions)), 1)
        return best.indices, best.values

    def _data(self) -> bytes:
        if not len(self.texts):
            raise HeadError("the captioner has no captions yet; expected training before captions.")
        return self.texts.cpu().numpy().tobytes()
