"""Frozen text encoders of the transformers library: BERT and its variants, causal language models, towers of CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightcrl.encoders.base import EncoderSpec
from lightcrl.encoders.huggingface import HuggingFaceEncoder
from lightcrl.encoders.layout import Layer
from lightcrl.encoders.loaded import Prepared
from lightcrl.encoders.trained import FILLED
from lightcrl.errors import EncoderError, ItemError

LONGEST = 512
ENDLESS = 1 << 62


class CutText(dict[str, Tensor]):
    """The output of `TextEncoder.prepare` for a text whose end was cut off."""


class TextEncoder(HuggingFaceEncoder):
    """Texts as the hidden states of their tokens.

    Attributes:
        prompt: text put before every text; empty for none.
        skip: number of leading tokens, those of the prompt, that are excluded from the vector that the model was
            trained to give.
        max_length: greatest number of tokens of a text, including special tokens and the prompt's; by default the model
            makers' setting, otherwise the model's limit, at most 512.

    Raises:
        EncoderError: `max_length` leaves no room for a token or exceeds the model's limit, or the model has no such
            `prompt`.
    """

    tower = "text_model"
    processor_class = ("AutoTokenizer", "tokenizer")
    batches = ((64, 1024), (1024, 1 << 16))

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        if self.sentence and self.sentence.lower_case:
            _lower(self.processor)
        self.prompt = self._named_prompt(spec.prompt)
        self.filled = self.config.model_type in FILLED
        self.unseen = frozenset({"attention_mask"} if self.filled else ())
        bare = self._tokenize("", None)
        self.special = bare["input_ids"]
        # Among models with segments, some have a separate segment for special tokens (XLNet).
        self.typed = any(bare.get("token_type_ids", ()))
        before = self._tokenize(self.prompt, None)
        if self.sentence and not self.sentence.include_prompt and self.prompt:
            self.skip = len(before["input_ids"]) - before["special_tokens_mask"][-1]
        most, self.max_length = self._limits(spec)
        least = len(before["input_ids"]) + 1
        if not least <= self.max_length <= most:
            raise EncoderError(f"max_length = {self.max_length} for {spec.model!r}; expected {least} to {most} tokens.")
        # Truncation is state of the tokenizer: set here once, so that threads only read it.
        self._tokenize("", self.max_length)

    def describe(self) -> Mapping[str, Any]:
        """Return the settings of `HuggingFaceEncoder`, the greatest length and the prompt."""
        prompt = {"prompt": self.prompt} if self.prompt else {}
        filled = {"filled": True} if self.filled else {}
        return {**super().describe(), "max_length": self.max_length, **prompt, **filled}

    def prepare(self, raw: Any) -> Prepared:
        """Return token ids [T] of a string and their mask [T], as a `CutText` if the string is longer.

        Raises:
            ItemError: the item is not a string, or has no token for this tokenizer.
        """
        if not isinstance(raw, str):
            raise ItemError("not a text", f"found {type(raw).__name__}")
        encoded = self._tokenize(self.prompt + raw, self.max_length)
        if all(encoded["special_tokens_mask"]) or (self.prompt and not raw.strip()):
            raise ItemError("empty text", f"no token in {raw[:40]!r}")
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self.typed else [])]
        item = {name: torch.tensor(encoded[name]) for name in names}
        return CutText(item) if self._exceeds(encoded, self.prompt + raw) else item

    def cut(self, prepared: Prepared) -> bool:
        """Return true if the text had more than `max_length` tokens."""
        return isinstance(prepared, CutText)

    def length(self, prepared: Prepared) -> int:
        """Return the number of tokens of the text."""
        return len(prepared["input_ids"])

    def trial(self) -> list[Prepared]:
        """Return two texts of arbitrary words."""
        words = [number % len(self.processor) for number in range(5, 14)]
        return [self._trial([*self.special[:1], *words[:n]][: self.max_length]) for n in (3, 9)]

    def places(self, network: torch.nn.Module, layer: Tensor, inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Return true if the tokenizer puts a CLS token first; the BOS token of a causal model has no information."""
        return {"cls": bool(self.special) and self.special[0] == self.processor.cls_token_id}

    def _layer(self, network: Any, state: Tensor, inputs: Mapping[str, Tensor]) -> Layer:
        layer = super()._layer(network, state, inputs)
        return layer.real_first() if self.filled else layer

    def _named_prompt(self, name: str | None) -> str:
        if self.sentence:
            return self.sentence.prompt(name)
        if name:
            raise EncoderError(
                f"prompt = {name!r}: {self.spec.model!r} comes without prompts (there is no "
                "config_sentence_transformers.json). Leave it out."
            )
        return ""

    def _limits(self, spec: EncoderSpec) -> tuple[int, int]:
        """Return the model's limit of tokens, and the number of tokens kept of a text."""
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        # A model without a limit has None, 0 or -1; a tokenizer has a number of thirty digits.
        most = min(limit for limit in (self.processor.model_max_length, positions, ENDLESS) if limit and limit > 0)
        if spec.max_length is not None:
            return most, int(spec.max_length)
        if self.sentence and (self.sentence.max_length or most < ENDLESS):
            return most, min(most, self.sentence.max_length or most)
        return most, min(most, LONGEST)

    def _tokenize(self, text: str, max_length: int | None) -> Any:
        """Tokenize a text, cut at `max_length` and padded to it if the model requires that."""
        return self.processor(
            text,
            truncation=max_length is not None,
            max_length=max_length,
            padding="max_length" if self.filled and max_length is not None else False,
            return_attention_mask=True,
            return_special_tokens_mask=True,
        )

    def _exceeds(self, encoded: Any, text: str) -> bool:
        if sum(encoded["attention_mask"]) < self.max_length:
            return False
        if encoded.encodings is not None:
            return bool(encoded.encodings[0].overflowing)
        return len(self._tokenize(text, None)["input_ids"]) > self.max_length

    def _trial(self, ids: list[int]) -> Prepared:
        missing = self.max_length - len(ids) if self.filled else 0
        mask = [1] * len(ids) + [0] * missing
        item = {"input_ids": torch.tensor(ids + [self.processor.pad_token_id] * missing)}
        types = {"token_type_ids": torch.zeros(len(mask), dtype=torch.long)} if self.typed else {}
        return {**item, "attention_mask": torch.tensor(mask), **types}


def _lower(tokenizer: Any) -> None:
    """Make a tokenizer lower-case all texts first."""
    from tokenizers import normalizers

    before = tokenizer.backend_tokenizer.normalizer
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *([before] if before else [])]
    )
