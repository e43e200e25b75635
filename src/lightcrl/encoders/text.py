"""Frozen text encoders of the transformers library: BERT and its kin, causal language models, towers of CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightcrl.encoders.base import EncoderSpec
from lightcrl.encoders.huggingface import HuggingFaceEncoder, Prepared
from lightcrl.errors import EncoderError, ItemError

LONGEST = 512


class TextEncoder(HuggingFaceEncoder):
    """Texts as the hidden states of their tokens.

    Attributes:
        max_length: tokens kept of a text, special ones included; by default all that the model takes, at most 512.

    Raises:
        EncoderError: a `max_length` that leaves no room for a token, or that the model cannot take.
    """

    tower = "text_model"
    processor_class = ("AutoTokenizer", "tokenizer")
    batches = ((64, 1024), (1024, 1 << 16))

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        self.special = self._tokenize("", None)["input_ids"]
        text_config = self.config.get_text_config()
        most = min(self.processor.model_max_length, getattr(text_config, "max_position_embeddings", None) or 1 << 62)
        self.max_length = min(most, LONGEST) if spec.max_length is None else int(spec.max_length)
        if not len(self.special) < self.max_length <= most:
            least = len(self.special) + 1
            raise EncoderError(f"max_length = {self.max_length} for {spec.model!r}; expected {least} to {most} tokens.")
        # Truncation is state of the tokenizer: set here once, so that threads only read it.
        self._tokenize("", self.max_length)

    def describe(self) -> Mapping[str, Any]:
        """See `HuggingFaceEncoder`; the cut is part of it."""
        return {**super().describe(), "max_length": self.max_length}

    def prepare(self, raw: Any) -> Prepared:
        """Token ids [T] of a string and their mask [T].

        Raises:
            ItemError: not a string, or nothing in it for this tokenizer.
        """
        if not isinstance(raw, str):
            raise ItemError("not a text", f"found {type(raw).__name__}")
        encoded = self._tokenize(raw, self.max_length)
        if all(encoded["special_tokens_mask"]):
            raise ItemError("empty text", f"no token in {raw[:40]!r}")
        return _prepared(encoded["input_ids"])

    def length(self, prepared: Prepared) -> int:
        """Tokens of the text."""
        return len(prepared["input_ids"])

    def trial(self) -> list[Prepared]:
        """Two texts of arbitrary words."""
        words = [number % len(self.processor) for number in range(5, 14)]
        return [_prepared([*self.special[:1], *words[:n]][: self.max_length]) for n in (3, 9)]

    def places(self, network: torch.nn.Module, layer: Tensor, inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Whether the tokenizer puts a CLS token first; the BOS token of a causal model knows nothing of the text."""
        return {"cls": bool(self.special) and self.special[0] == self.processor.cls_token_id}

    def _tokenize(self, text: str, max_length: int | None) -> Mapping[str, list[int]]:
        encoded: Mapping[str, list[int]] = self.processor(
            text, truncation=max_length is not None, max_length=max_length, return_special_tokens_mask=True
        )
        return encoded


def _prepared(ids: list[int]) -> Prepared:
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), dtype=torch.long)}
