"""The interface of the ways to caption: tokens and embeddings of items in, captions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from lightcrl.heads.base import Graph
from lightcrl.heads.captioning.search import Rules
from lightcrl.registry import Table
from lightcrl.tokens import TokenBatch, TokenSpec

if TYPE_CHECKING:
    from lightcrl.heads.captioning.head import CaptioningOptions

DECODERS: Table[type[CaptionWriter]] = Table(
    "decoder of captions",
    {
        "transformer": "lightcrl.heads.captioning.generation:TransformerWriter",
        "prefix": "lightcrl.heads.captioning.generation:PrefixWriter",
        "retrieval": "lightcrl.heads.captioning.retrieval:RetrievalWriter",
    },
)


@dataclass(frozen=True)
class Caption:
    """A caption of an item.

    Attributes:
        text: the caption.
        score: score by which captions of the item are ordered, the greatest first.
        likelihood: mean log probability of its pieces; for a caption found by retrieval its score.
    """

    text: str
    score: float
    likelihood: float


@dataclass(frozen=True)
class Search:
    """Settings of the search for captions.

    Attributes:
        beams: number of beams, and of captions per item; 1 is greedy search.
        nucleus: probability of the set of pieces that sampling draws from; 0 searches by beams instead.
        temperature: divisor of the logits in sampling.
        seed: seed of sampling; an item draws from a generator of its own, with this seed plus its number.
        numbers: numbers of the items; by default 0, 1, ...
        rules: rules of length and repetition.
    """

    beams: int = 5
    nucleus: float = 0.0
    temperature: float = 1.0
    seed: int = 0
    numbers: tuple[int, ...] = ()
    rules: Rules = field(default_factory=Rules)


class CaptionWriter(nn.Module, ABC):
    """A way to caption.

    Attributes:
        closed_form: true if `learn` determines everything, so that there are no steps.
        sized: names of buffers whose length the training data determines.
    """

    closed_form: ClassVar[bool] = False
    sized: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __init__(self, spec: TokenSpec, dim: int, options: CaptioningOptions) -> None:
        """Make a writer for items with tokens of shape `spec` and embeddings of width `dim`."""
        super().__init__()

    def fit(self, tokens: TokenBatch) -> None:
        """Set statistics of features from a sample of the training split."""

    @abstractmethod
    def learn(self, captions: Sequence[str], vectors: Callable[[], Tensor]) -> None:
        """Receive the training captions, and a function that returns their embeddings [C, d], before the first step."""

    @abstractmethod
    def pieces(self, captions: Sequence[str]) -> Tensor:
        """Return captions as numbers [N, L], the targets of `loss`; [N, 0] if there are none."""

    @abstractmethod
    def loss(self, tokens: TokenBatch, embeddings: Tensor, owners: Tensor, pieces: Tensor) -> Tensor:
        """Return the scalar to minimise, for captions [N, L] of the items at `owners` [N]."""

    @abstractmethod
    def likelihoods(self, tokens: TokenBatch, embeddings: Tensor, pieces: Tensor, vectors: Tensor) -> Tensor:
        """Return a number [N] for the i-th caption of the i-th item, greater for a caption that fits better.

        Args:
            tokens: tokens of the items.
            embeddings: embeddings [N, d] of the items.
            pieces: captions [N, L].
            vectors: embeddings [N, d] of the captions.
        """

    def graphs(self) -> Mapping[str, Graph]:
        """Return the graphs of an export by suffix of the file's name; none by default."""
        return {}

    @abstractmethod
    def write(self, tokens: TokenBatch, embeddings: Tensor, search: Search) -> list[list[Caption]]:
        """Return captions of each item, the best first; they depend on this item alone."""
