"""Dropout with cheap masks: on a CPU, drawing one random number per feature takes longer than multiplying by it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 256


class Dropout(nn.Module):
    """As `torch.nn.Dropout`, with one random byte per feature: the share dropped is `p` to the nearest 1/256.

    What is kept grows by the share that is really kept, so that the mean stays exactly as it is.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """The same shape, in training with features set to zero."""
        if not self.training or not self.p:
            return values
        return values * self.mask(values.shape, values)

    def mask(self, shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
        """Factors of 0 or 1 / share kept, ones outside of training, on the device and of the dtype of `like`."""
        if not self.training or not self.p:
            return like.new_ones(shape)
        kept = max(1, round((1 - self.p) * LEVELS))
        count = torch.Size(shape).numel()
        words = torch.empty(-(-count // 8), dtype=torch.int64, device=like.device).random_(-(2**63), None)
        drawn = words.view(torch.uint8)[:count].view(shape)
        return (drawn < kept).to(like.dtype) * (LEVELS / kept)
