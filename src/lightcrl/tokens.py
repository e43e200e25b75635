"""The one type that crosses modules: a batch of token sequences with its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightcrl.errors import ShapeError


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """The output of an encoder for B items.

    Attributes:
        values: [B, T, D] floats; values where the mask is False are never read.
        mask: [B, T] bool, True where a token is real. Every item has at least one real token.

    Raises:
        ShapeError: the sizes of `values` and `mask` disagree.

    >>> batch = TokenBatch.from_ragged([torch.ones(2, 3), torch.ones(1, 3)])
    >>> batch.values.shape, batch.mask.tolist()
    (torch.Size([2, 2, 3]), [[True, True], [True, False]])
    """

    values: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[:2] != self.mask.shape or self.mask.dtype != torch.bool:
            raise ShapeError(
                f"tokens of shape {list(self.values.shape)} with a {self.mask.dtype} mask of shape "
                f"{list(self.mask.shape)}; expected values [B, T, D] and a bool mask [B, T]."
            )

    @classmethod
    def from_vectors(cls, vectors: Tensor) -> TokenBatch:
        """Make a batch with one token per item, from `vectors` [B, D]."""
        return cls.full(vectors.unsqueeze(1))

    @classmethod
    def full(cls, values: Tensor) -> TokenBatch:
        """Make a batch without padding, from `values` [B, T, D]."""
        return cls(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    @classmethod
    def from_ragged(cls, sequences: Sequence[Tensor]) -> TokenBatch:
        """Pad sequences [T_i, D] with zeros to the longest."""
        values = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=values.device)
        return cls(values, torch.arange(values.shape[1], device=values.device) < lengths[:, None])

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        """D, the width of a token."""
        return self.values.shape[-1]

    @property
    def lengths(self) -> Tensor:
        """The number of real tokens per item, [B]."""
        return self.mask.sum(1)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TokenBatch:
        """Return the same tokens on `device`, with values as `dtype` if it is given."""
        # A GPU copies from pinned memory while it computes.
        ahead = self.values.is_pinned()
        return TokenBatch(self.values.to(device, dtype, non_blocking=ahead), self.mask.to(device, non_blocking=ahead))

    def pinned(self) -> TokenBatch:
        """Return the same tokens in pinned memory, which a GPU can copy asynchronously."""
        return TokenBatch(self.values.pin_memory(), self.mask.pin_memory())

    def rows(self, index: Tensor | slice) -> TokenBatch:
        """Return the items at `index`, in that order."""
        return TokenBatch(self.values[index], self.mask[index])

    def places(self, first: int, last: int | None = None) -> TokenBatch:
        """Return the tokens from place `first` up to `last` of every item."""
        return TokenBatch(self.values[:, first:last], self.mask[:, first:last])

    def ragged(self) -> list[Tensor]:
        """Return the items without padding, each [T_i, D]."""
        return [values[mask] for values, mask in zip(self.values, self.mask, strict=True)]

    def filled(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return a copy of the values, as `dtype` if it is given, with zeros in the padding."""
        dtype = dtype or self.values.dtype
        # On a CPU the conversion of float16 to bfloat16 is faster through float32.
        through = self.values.float() if self.values.dtype == torch.float16 != dtype else self.values
        values = through.to(dtype, copy=through is self.values)
        if torch.compiler.is_compiling():  # a graph must not have shapes that depend on values
            return values.masked_fill_(~self.mask.unsqueeze(-1), 0)
        # Only the padding is written; masked_fill reads and writes everything, and takes several times as long.
        padding = (~self.mask).flatten().nonzero().squeeze(1)
        return values.flatten(0, 1).index_fill_(0, padding, 0).view(values.shape)

    def mean(self) -> Tensor:
        """Return the mean over real tokens, [B, D]."""
        return self.filled().sum(1) / self.mask.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """The shape of a modality's tokens: see `Encoder.dim`, `Encoder.slots` and `Encoder.sequence`."""

    dim: int
    slots: int = 1
    sequence: bool = False

    def __str__(self) -> str:
        """Format the shape, such as `6 + T x 192`."""
        count = f"{self.slots} + T" if self.sequence else str(self.slots) if self.slots > 1 else "T"
        return f"{count} x {self.dim}"

    def admits(self, count: int) -> bool:
        """Return true if an item may have this number of tokens.

        >>> TokenSpec(4, slots=2, sequence=True).admits(2), TokenSpec(4, slots=2).admits(2)
        (False, True)
        """
        if self.sequence:
            return count > self.slots
        return count == self.slots if self.slots > 1 else count > 0

    def slots_of(self, tokens: TokenBatch) -> TokenBatch:
        """Return the tokens before the sequence; all tokens if there is no sequence."""
        return tokens.places(0, self.slots) if self.sequence else tokens

    def sequence_of(self, tokens: TokenBatch) -> TokenBatch:
        """Return the tokens after the slots; all tokens if there is no sequence."""
        return tokens.places(self.slots) if self.sequence else tokens
