"""Captions from a decoder, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.export import Dim

from lightcrl.errors import HeadError
from lightcrl.heads.base import Graph
from lightcrl.heads.captioning.decoder import Decoder
from lightcrl.heads.captioning.objective import caption_loss, likelihoods
from lightcrl.heads.captioning.prefix import PrefixDecoder
from lightcrl.heads.captioning.reader import Reader
from lightcrl.heads.captioning.search import Hypothesis, beam_search, sample
from lightcrl.heads.captioning.transformer import TransformerDecoder
from lightcrl.heads.captioning.words import LearntWords, Words
from lightcrl.heads.captioning.writer import Caption, CaptionWriter, Search
from lightcrl.tokens import TokenBatch, TokenSpec

if TYPE_CHECKING:
    from lightcrl.heads.captioning.head import CaptioningOptions


class GeneratingWriter(CaptionWriter):
    """A reader of an item's tokens and a decoder that attends to them.

    Attributes:
        reader: network that makes the decoder's memory of tokens.
        decoder: distribution over pieces, given the memory.
    """

    decoder: Decoder

    def __init__(self, spec: TokenSpec, dim: int, options: CaptioningOptions) -> None:
        super().__init__(spec, dim, options)
        self.options, self.dim = options, dim
        self.reader = Reader(
            spec, dim if options.embedding else 0, options.width, options.input_dropout, options.hidden_tokens
        )

    @property
    def words(self) -> Words:
        """The vocabulary."""
        raise NotImplementedError

    def fit(self, tokens: TokenBatch) -> None:
        self.reader.fit(tokens)

    def pieces(self, captions: Sequence[str]) -> Tensor:
        return self.words.batch(captions, self.options.longest)

    def loss(self, tokens: TokenBatch, embeddings: Tensor, owners: Tensor, pieces: Tensor) -> Tensor:
        memory = self.reader(tokens, embeddings)
        return caption_loss(self.decoder, memory, owners, pieces, self.options.smoothing)

    def likelihoods(self, tokens: TokenBatch, embeddings: Tensor, pieces: Tensor, vectors: Tensor) -> Tensor:
        owners = torch.arange(len(pieces), device=pieces.device)
        return likelihoods(self.decoder, self.reader(tokens, embeddings), owners, pieces)

    @torch.inference_mode()
    def write(self, tokens: TokenBatch, embeddings: Tensor, search: Search) -> list[list[Caption]]:
        memory, rules = self.reader(tokens, embeddings), search.rules
        if search.nucleus:
            seeds = [search.seed + number for number in search.numbers or range(len(memory))]
            drawn = sample(
                self.decoder,
                self.words,
                memory,
                rules,
                nucleus=search.nucleus,
                temperature=search.temperature,
                seeds=seeds,
            )
            rows = [[each] for each in drawn]
        else:
            rows = beam_search(self.decoder, self.words, memory, search.beams, rules)
        return [[self._caption(each) for each in captions] for captions in rows]

    def _caption(self, hypothesis: Hypothesis) -> Caption:
        mean = hypothesis.likelihood / (len(hypothesis.pieces) + 1)
        return Caption(self.words.decode(hypothesis.pieces), hypothesis.score, mean)


class TransformerWriter(GeneratingWriter):
    """The library's own decoder with a vocabulary learnt from the training captions.

    Attributes:
        vocabulary: JSON of the tokenizer as bytes, [B].
    """

    sized: ClassVar[tuple[str, ...]] = ("vocabulary",)
    vocabulary: Tensor
    decoder: TransformerDecoder

    def __init__(self, spec: TokenSpec, dim: int, options: CaptioningOptions) -> None:
        super().__init__(spec, dim, options)
        self.decoder = TransformerDecoder(
            options.vocabulary,
            options.width,
            options.blocks,
            options.heads,
            options.feedforward,
            options.longest + 1,
            options.dropout,
        )
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.uint8))
        self._words: tuple[bytes, LearntWords] | None = None

    @property
    def words(self) -> Words:
        """The vocabulary, read from the buffer when that has changed."""
        if not len(self.vocabulary):
            raise HeadError("the captioner has no vocabulary yet; expected training before captions.")
        data = self.vocabulary.cpu().numpy().tobytes()
        if self._words is None or self._words[0] != data:
            self._words = data, LearntWords.from_bytes(data)
        return self._words[1]

    def graphs(self) -> Mapping[str, Graph]:
        """Return two graphs: the memory of N items, and logits of the next piece of N captions, for a search outside.

            memory   values [N, T, D], mask [N, T], vectors [N, d] -> `memory` [N, T', w]
            step     memory [N, T', w], mask [N, T'], pieces [N, L] -> `logits` [N, V]

        With the embedding in the memory T' is T + 1, and the mask of the second graph starts with true.
        """
        spec, extra = self.reader.spec, int(self.options.embedding)
        fixed = spec.slots > 1 and not spec.sequence
        places = spec.slots if fixed else spec.slots + 4
        least = {"min": spec.slots + 1} if spec.sequence else {}
        items, pieces = Dim("items"), Dim("pieces", max=self.options.longest)
        values, mask = torch.zeros(3, places, spec.dim), torch.ones(3, places, dtype=torch.bool)
        tokens: dict[int, Any] = {0: items} if fixed else {0: items, 1: Dim("tokens", **least)}
        first = {"values": values, "mask": mask, "vectors": torch.ones(3, self.dim)}
        remembered: dict[int, Any] = {0: items} if fixed else {0: items, 1: Dim("remembered", min=1)}
        second = {
            "memory": torch.zeros(3, places + extra, self.decoder.width),
            "mask": torch.ones(3, places + extra, dtype=torch.bool),
            "pieces": torch.zeros(3, 4, dtype=torch.int64),
        }
        return {
            "memory": Graph(_Memory(self), first, {"values": tokens, "mask": tokens, "vectors": {0: items}}, "memory"),
            "step": Graph(
                _Following(self),
                second,
                {"memory": remembered, "mask": remembered, "pieces": {0: items, 1: pieces}},
                "logits",
            ),
        }

    def learn(self, captions: Sequence[str], vectors: Callable[[], Tensor]) -> None:
        """Learn the vocabulary."""
        words = LearntWords.learn(captions, self.options.vocabulary, lowercase=self.options.lowercase)
        data = torch.frombuffer(bytearray(words.to_bytes()), dtype=torch.uint8)
        self.vocabulary = data.to(self.vocabulary.device)


class _Memory(nn.Module):
    """The reader, with tensors as arguments."""

    def __init__(self, writer: TransformerWriter) -> None:
        super().__init__()
        self.reader = writer.reader

    def forward(self, values: Tensor, mask: Tensor, vectors: Tensor) -> Tensor:
        memory: TokenBatch = self.reader(TokenBatch(values, mask), vectors)
        return memory.values


class _Following(nn.Module):
    """A step of the decoder, with tensors as arguments."""

    def __init__(self, writer: TransformerWriter) -> None:
        super().__init__()
        self.decoder = writer.decoder

    def forward(self, memory: Tensor, mask: Tensor, pieces: Tensor) -> Tensor:
        return self.decoder.following(memory, mask, pieces)


class PrefixWriter(GeneratingWriter):
    """A frozen language model with a trained prefix."""

    decoder: PrefixDecoder

    def __init__(self, spec: TokenSpec, dim: int, options: CaptioningOptions) -> None:
        super().__init__(spec, dim, options)
        if not options.language_model:
            raise HeadError(
                "decoder 'prefix' has no language model; expected heads.captioning.language_model, the folder or hub "
                "id of a causal language model."
            )
        self.decoder = PrefixDecoder(options.language_model, options.width, options.heads, options.prefix)

    @property
    def words(self) -> Words:
        """The language model's vocabulary."""
        return self.decoder.words

    def learn(self, captions: Sequence[str], vectors: Callable[[], Tensor]) -> None:
        """Do nothing: the vocabulary is the language model's."""
