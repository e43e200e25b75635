"""The one type that crosses modules: a batch of token sequences with its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightcrl.errors import ShapeError


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """What an encoder says of B items.

    Attributes:
        values: [B, T, D] floats; what stands under the mask's False is never read.
        mask: [B, T] bool, True where a token is real. Every item has at least one.

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
        """One token per item, from `vectors` [B, D]."""
        return cls.full(vectors.unsqueeze(1))

    @classmethod
    def full(cls, values: Tensor) -> TokenBatch:
        """Nothing padded, from `values` [B, T, D]."""
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
        """[B] real tokens per item."""
        return self.mask.sum(1)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TokenBatch:
        """The same tokens on `device`, the values as `dtype` where one is given."""
        return TokenBatch(self.values.to(device, dtype), self.mask.to(device))

    def rows(self, index: Tensor | slice) -> TokenBatch:
        """The items at `index`, in that order."""
        return TokenBatch(self.values[index], self.mask[index])

    def places(self, first: int, last: int | None = None) -> TokenBatch:
        """The tokens from place `first` up to `last` of every item."""
        return TokenBatch(self.values[:, first:last], self.mask[:, first:last])

    def ragged(self) -> list[Tensor]:
        """The items without padding, each [T_i, D]."""
        return [values[mask] for values, mask in zip(self.values, self.mask, strict=True)]

    def mean(self) -> Tensor:
        """[B, D], the mean over real tokens."""
        weights = self.mask.unsqueeze(-1)
        return self.values.masked_fill(~weights, 0).sum(1) / weights.sum(1).clamp(min=1)
