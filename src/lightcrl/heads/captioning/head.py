"""Captioning (BLIP, arXiv 2201.12086): a text for an item of any modality with tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from lightcrl.errors import HeadError
from lightcrl.features.table import Split
from lightcrl.heads.base import Graph, Head, HeadBatch, HeadOptions, Material, Space, other_modality
from lightcrl.heads.captioning.search import Rules
from lightcrl.heads.captioning.writer import DECODERS, Caption, CaptionWriter, Search
from lightcrl.machine import multiplies_bfloat16
from lightcrl.metrics.captions import Cider, rouge_l
from lightcrl.tokens import TokenBatch

PART = 64
"""Number of items that are captioned together."""


class CaptioningOptions(HeadOptions):
    """Options of captioning.

    Attributes:
        source: modality of the captioned items; by default the first that is not `target`.
        target: modality of the captions.
        decoder: a member of `DECODERS`: `"transformer"`, `"prefix"`, `"retrieval"`, or `"package.module:Class"`.
        embedding: true if the decoder sees the item's embedding beside its tokens.
        width: width of the decoder and of its memory.
        blocks: number of blocks of the transformer.
        heads: number of attention heads.
        feedforward: width of the transformer's feed-forward layers.
        dropout: share of the decoder's features set to zero in training.
        input_dropout: share of the encoder's features set to zero in training.
        hidden_tokens: share of an item's sequence that is hidden in training.
        smoothing: share of the target probability that is spread over all pieces.
        vocabulary: greatest number of pieces that are learnt from the captions.
        lowercase: true to learn captions in lower case.
        longest: greatest number of pieces of a caption.
        shortest: least number of pieces of a caption.
        length: exponent of the rule of length (`search.Rules`).
        repeats: length in pieces of sequences that may not occur twice in a caption; 0 allows everything.
        language_model: folder or hub id of the causal language model of `"prefix"`.
        prefix: number of vectors that stand before a caption.
        neighbours: number of nearest training captions of `"retrieval"`.
        agreement: `"words"` to compare these captions by their n-grams, `"space"` by their embeddings.
        sharpness: weight of their closeness to the item; 0 weighs all alike.
        judged: greatest number of groups whose captions judge the head.
        beams: beams of captions that judge the head.
    """

    source: str | None = None
    target: str = "text"
    decoder: str = "retrieval"
    embedding: bool = True
    width: int = Field(default=256, gt=0)
    blocks: int = Field(default=2, gt=0)
    heads: int = Field(default=4, gt=0)
    feedforward: int = Field(default=512, gt=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    hidden_tokens: float = Field(default=0.0, ge=0, lt=1)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    vocabulary: int = Field(default=2000, gt=3)
    lowercase: bool = True
    longest: int = Field(default=30, gt=0)
    shortest: int = Field(default=1, ge=1)
    length: float = Field(default=0.6, ge=0)
    repeats: int = Field(default=3, ge=0)
    language_model: str | None = None
    prefix: int = Field(default=10, gt=0)
    neighbours: int = Field(default=300, gt=0)
    agreement: Literal["words", "space"] = "words"
    sharpness: float = Field(default=20.0, ge=0)
    judged: int = Field(default=300, gt=1)
    beams: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _check(self) -> CaptioningOptions:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest}, expected at most longest, {self.longest}")
        DECODERS.load(self.decoder)
        return self

    @property
    def rules(self) -> Rules:
        """The rules of the search."""
        return Rules(self.longest, self.shortest, self.length, self.repeats)


class Captioning(Head):
    """A captioner of one modality, trained on the texts of the items' groups.

    Attributes:
        source: modality of the captioned items.
        target: modality of the captions.
        writer: the way to caption.
    """

    Options: ClassVar[type[HeadOptions]] = CaptioningOptions
    suits: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-3,
        "batch_size": 32,
        "items_per_group": 5,
        "epochs": 12,
    }
    defaults: ClassVar[Mapping[str, Any]] = {"held_out": 0.05}
    options: CaptioningOptions

    def __init__(self, space: Space, options: CaptioningOptions) -> None:
        super().__init__(space, options)
        self.target = options.target
        if self.target not in space.modalities:
            raise HeadError(
                f"captioning learns from {self.target!r}, and the space has {', '.join(space.modalities)}. Name the "
                "modality of the captions with heads.captioning.target."
            )
        self.source = options.source or other_modality(space.modalities, self.target)
        kind: Any = DECODERS.load(options.decoder)
        self.writer: CaptionWriter = kind(self.need(self.source), space.dim, options)
        self.closed_form = self.writer.closed_form
        self.targets = (self.target,) if self.target != self.source else ()
        # Products are large, though a step has few items.
        fast = multiplies_bfloat16("cpu")
        self.suits = {"precision": "bfloat16" if fast else "float32", **type(self).suits}  # type: ignore[misc]
        # What `prepare` keeps of the data.
        self._pieces = torch.zeros(0, 0, dtype=torch.int64)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The captioned modality and that of the captions, whose tokens are not read."""
        return tuple(dict.fromkeys((self.source, self.target)))

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Set statistics of the captioned modality's features."""
        if modality == self.source:
            self.writer.fit(tokens)

    def prepare(self, material: Material) -> None:
        """Learn the vocabulary from the training captions, and turn all captions into pieces.

        Raises:
            HeadError: the target modality has no texts.
        """
        texts = self._texts(material)
        rows = np.unique(material.features.split("train").members[self.target].rows)
        vectors = material.vectors  # made only if they are asked for
        self.writer.learn([texts[row] for row in rows], lambda: vectors[self.target][torch.from_numpy(rows)])
        self._pieces = self.writer.pieces(texts)

    def attach(self, material: Material) -> None:
        """Turn the captions of the data into pieces of the vocabulary that the head has."""
        self._pieces = self.writer.pieces(self._texts(material))

    def loss(self, batch: HeadBatch) -> Tensor:
        """Return the loss of all captions in the batch, each for an item of its group, drawn at random."""
        groups, others = batch.groups[self.source], batch.groups[self.target]
        owners, taken = draw_owners(groups, others)
        pieces = self._pieces[torch.from_numpy(np.asarray(batch.rows[self.target]))].to(groups.device)[taken]
        return self.writer.loss(batch.tokens[self.source], batch.embeddings[self.source], owners, pieces)

    def forward(self, batch: HeadBatch) -> Tensor:
        """Return the mean log probability of the pieces of the i-th caption of the i-th item, [N]."""
        pieces = self._pieces[torch.from_numpy(np.asarray(batch.rows[self.target]))]
        tokens, embeddings = batch.tokens[self.source], batch.embeddings[self.source]
        return self.writer.likelihoods(tokens, embeddings, pieces.to(embeddings.device), batch.embeddings[self.target])

    def likelihood(self, tokens: TokenBatch, embeddings: Tensor, texts: Sequence[str], vectors: Tensor) -> Tensor:
        """Return the mean log probability of the pieces of the i-th text as a caption of the i-th item, [N].

        Args:
            tokens: tokens of the items.
            embeddings: embeddings [N, d] of the items.
            texts: the captions.
            vectors: embeddings [N, d] of the captions; only `"retrieval"` reads them.
        """
        pieces = self.writer.pieces(texts).to(embeddings.device)
        return self.writer.likelihoods(tokens, embeddings, pieces, vectors)

    def graphs(self) -> Mapping[str, Graph]:
        """Return the graphs of the writer; see `TransformerWriter.graphs`."""
        return self.writer.graphs()

    def search(self, **settings: Any) -> Search:
        """Return settings of the search with the head's rules."""
        return Search(**{"rules": self.options.rules, **settings})

    def write(self, tokens: TokenBatch, embeddings: Tensor, search: Search | None = None) -> list[list[Caption]]:
        """Return captions of each item, the best first.

        Args:
            tokens: tokens [B, T, D] of the items.
            embeddings: embeddings [B, d] of the items.
            search: settings of the search; by default five beams.
        """
        return self.writer.write(tokens, embeddings, search or self.search())

    def write_rows(self, material: Material, rows: np.ndarray, search: Search | None = None) -> list[list[Caption]]:
        """Return captions of stored items at `rows` [N] of the captioned modality."""
        captions: list[list[Caption]] = []
        for start in range(0, len(rows), PART):
            batch = material.batch({self.source: rows[start : start + PART]}, {}, self.sequences)
            batch = batch.to(next(self.buffers()).device)
            captions += self.write(batch.tokens[self.source], batch.embeddings[self.source], search)
        return captions

    def judge(self, material: Material) -> Mapping[str, float]:
        """Return CIDEr-D and ROUGE-L of the captions of dev's items, one a group."""
        rows, references = captioned(material.features.split("dev"), self.source, self.target, self._texts(material))
        if not len(rows):
            raise HeadError(
                f"no group of dev has both an item of {self.source!r} and a caption of {self.target!r}; expected some, "
                "to choose the best captioner. Give data.dev, or heads.captioning.held_out."
            )
        if len(rows) > self.options.judged:
            chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[: self.options.judged])
        else:
            chosen = np.arange(len(rows))
        written = self.write_rows(material, rows[chosen], self.search(beams=self.options.beams))
        texts, truths = [best[0].text for best in written], [references[number] for number in chosen]
        scores = Cider(references)(texts, truths), rouge_l(texts, truths)
        return {"dev_cider": float(scores[0].mean()), "dev_rouge_l": float(scores[1].mean())}

    def _texts(self, material: Material) -> list[str]:
        texts = [item.read() for item in material.items(self.target)]
        if not all(isinstance(text, str) for text in texts):
            raise HeadError(f"captioning learns from texts; found {self.target!r}, whose items are no texts.")
        return texts


def captioned(split: Split, source: str, target: str, texts: Sequence[str]) -> tuple[np.ndarray, list[list[str]]]:
    """Return the first item [G] of every group with items and captions, and the group's captions.

    Args:
        split: groups.
        source: modality of the items.
        target: modality of the captions.
        texts: captions in order of rows.
    """
    items, captions = split.members[source], split.members[target]
    whole = np.flatnonzero((items.counts > 0) & (captions.counts > 0))
    rows = items.rows[items.starts[whole]]
    spans = zip(captions.starts[whole].tolist(), captions.starts[whole + 1].tolist(), strict=True)
    return rows, [[texts[row] for row in captions.rows[first:last]] for first, last in spans]


def draw_owners(groups: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return for captions with an item in their group the place of such an item, drawn at random, and their own places.

    Args:
        groups: group numbers of the items, [N].
        others: group numbers of the captions, [M].
    """
    ordered, places = groups.sort(stable=True)
    first = torch.searchsorted(ordered, others)
    count = torch.searchsorted(ordered, others, right=True) - first
    drawn = (torch.rand(len(others)).to(groups.device) * count).long()
    taken = count > 0
    return places[(first + drawn)[taken]], taken.nonzero()[:, 0]
