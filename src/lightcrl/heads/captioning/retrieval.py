"""Captions by retrieval: the training caption on which the item's nearest training captions agree.

This is the nearest-neighbour approach of Devlin et al. (arXiv 1505.04467) in the space: a baseline that many captioners do
not beat, and a captioner for spaces without a trained one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lightcrl.errors import HeadError
from lightcrl.heads.captioning.writer import Caption, CaptionWriter, Search
from lightcrl.tokens import TokenBatch, TokenSpec

if TYPE_CHECKING:
    from lightcrl.heads.captioning.head import CaptioningOptions

SEPARATOR = 0
"""Byte between two captions; no text contains it."""


class RetrievalWriter(CaptionWriter):
    """The consensus of the k training captions that are nearest to an item.

        N = the k captions c with the greatest e · c
        score(c) = mean of the m greatest c · c' over c' in N without c

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
        self.neighbours, self.agreeing = options.neighbours, options.agreeing
        self.register_buffer("vectors", torch.zeros(0, dim, dtype=torch.float16))
        self.register_buffer("texts", torch.zeros(0, dtype=torch.uint8))
        self._captions: tuple[bytes, list[str]] | None = None

    @property
    def captions(self) -> list[str]:
        """The training captions, in order of their vectors."""
        if not len(self.texts):
            raise HeadError("the captioner has no captions yet; expected training before captions.")
        data = self.texts.cpu().numpy().tobytes()
        if self._captions is None or self._captions[0] != data:
            self._captions = data, data.decode().split(chr(SEPARATOR))
        return self._captions[1]

    def learn(self, captions: Sequence[str], vectors: Callable[[], Tensor]) -> None:
        """Keep the captions, each text once."""
        first = {text.replace(chr(SEPARATOR), " "): place for place, text in reversed(list(enumerate(captions)))}
        texts = list(first)[::-1]
        data = bytearray(chr(SEPARATOR).join(texts).encode())
        self.texts = torch.frombuffer(data, dtype=torch.uint8).to(self.texts.device)
        self.vectors = vectors()[[first[text] for text in texts]].to(self.vectors)

    def pieces(self, captions: Sequence[str]) -> Tensor:
        """Return [N, 0]: nothing is generated."""
        return torch.zeros(len(captions), 0, dtype=torch.int64)

    def loss(self, tokens: TokenBatch, embeddings: Tensor, owners: Tensor, pieces: Tensor) -> Tensor:
        """Return zero: there is nothing to train."""
        return embeddings.new_zeros(())

    def likelihoods(self, tokens: TokenBatch, embeddings: Tensor, pieces: Tensor, vectors: Tensor) -> Tensor:
        """Return how far the item's nearest captions agree on a caption, a cosine [N]."""
        _, near = self._nearest(embeddings)
        closeness = torch.einsum("nkd,nd->nk", near, vectors)
        return closeness.topk(min(self.agreeing, closeness.shape[1]), 1).values.mean(1)

    @torch.inference_mode()
    def write(self, tokens: TokenBatch, embeddings: Tensor, search: Search) -> list[list[Caption]]:
        """Return the `search.beams` captions with the greatest consensus."""
        places, near = self._nearest(embeddings)
        scores = consensus(near, self.agreeing)
        best = scores.sort(1, descending=True, stable=True)
        chosen = places.gather(1, best.indices)[:, : search.beams].tolist()
        values = best.values[:, : search.beams].tolist()
        return [
            [Caption(self.captions[place], score, score) for place, score in zip(row, ranked, strict=True)]
            for row, ranked in zip(chosen, values, strict=True)
        ]

    def _nearest(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return places [N, k] and vectors [N, k, d] of the nearest training captions."""
        captions = self.captions
        scores = embeddings @ self.vectors.to(embeddings).T
        places = scores.topk(min(self.neighbours, len(captions)), 1).indices
        return places, self.vectors[places].to(embeddings)


def consensus(near: Tensor, agreeing: int) -> Tensor:
    """Return the mean [N, k] of the `agreeing` greatest cosines of each vector of [N, k, d] to the others.

    >>> consensus(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]), 1).tolist()
    [[1.0, 1.0, 0.0]]
    """
    closeness = near @ near.mT
    count = near.shape[1]
    own = torch.eye(count, dtype=torch.bool, device=near.device)
    closeness = closeness.masked_fill(own, -2.0 if count > 1 else 0.0)
    return closeness.topk(max(1, min(agreeing, count - 1)), -1).values.mean(-1)
