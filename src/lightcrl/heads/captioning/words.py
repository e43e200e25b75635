"""The pieces of words that captions are made of: a vocabulary learnt from captions, or that of a language model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

PAD = -1
"""Number in the places of a batch that hold no piece."""
SPECIAL = ("<start>", "<end>", "<unknown>")
"""The first pieces of a learnt vocabulary, which are no text."""


class Words(ABC):
    """Texts to numbers of pieces and back.

    Attributes:
        start: piece before the first of a caption.
        end: piece after its last.
        barred: pieces that a caption never contains.
    """

    start: int
    end: int
    barred: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Return V, the number of pieces."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the pieces of each text, without `start` and `end`."""

    @abstractmethod
    def decode(self, pieces: Sequence[int]) -> str:
        """Return the text of pieces."""

    def batch(self, texts: Sequence[str], longest: int) -> Tensor:
        """Return pieces [N, L] from `start` to `end`, padded by `PAD`; of a longer text the first `longest` pieces."""
        rows = [
            [self.start, *pieces[:longest], *([self.end] if len(pieces) <= longest else [])]
            for pieces in self.encode(texts)
        ]
        width = max(map(len, rows), default=1)
        padded = [row + [PAD] * (width - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64).view(len(rows), width)


class LearntWords(Words):
    """Pieces learnt by the `tokenizers` library.

    Texts are normalised first (NFC): a space before a punctuation mark and the final full stop are dropped, since
    captions differ in them at random, and letters become lower case unless `lowercase` is false.

    Attributes:
        tokenizer: the tokenizer of the `tokenizers` library.

    >>> words = LearntWords.learn(["A dog runs .", "a cat runs"], size=60)
    >>> words.decode(words.encode(["A cat runs ."])[0])
    'a cat runs'
    """

    start, end, barred = 0, 1, (0, 2)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, *, lowercase: bool = True, least: int = 2) -> LearntWords:
        """Learn at most `size` pieces by byte-pair encoding (arXiv 1508.07909), merging pairs seen `least` times."""
        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[2]))
        steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
        steps += [normalizers.Replace(Regex(r"\s+(?=[.,;:!?])"), ""), normalizers.Replace(Regex(r"[\s.]+$"), "")]
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
        )
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=size, min_frequency=least, special_tokens=list(SPECIAL), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def from_bytes(cls, data: bytes) -> LearntWords:
        """Return the vocabulary that `to_bytes` wrote."""
        return cls(Tokenizer.from_str(data.decode()))

    def to_bytes(self) -> bytes:
        """Return the tokenizer's own JSON."""
        return bytes(self.tokenizer.to_str().encode())

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, pieces: Sequence[int]) -> str:
        return str(self.tokenizer.decode([piece for piece in pieces if piece >= len(SPECIAL)])).strip()


class ModelWords(Words):
    """The vocabulary of a language model of transformers.

    Attributes:
        tokenizer: the model's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        ends = tokenizer.eos_token_id, tokenizer.bos_token_id
        self.end = int(next(number for number in ends if number is not None))
        self.start = int(next(number for number in ends[::-1] if number is not None))
        self.barred = tuple(number for number in tokenizer.all_special_ids if number != self.end)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = self.tokenizer([text.strip() for text in texts], add_special_tokens=False)["input_ids"]
        return rows

    def decode(self, pieces: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(pieces), skip_special_tokens=True)).strip()
