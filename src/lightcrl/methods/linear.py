"""A linear map per modality: the baseline that every other method has to beat."""

from __future__ import annotations

from torch import Tensor

from lightcrl.methods.base import Method
from lightcrl.tokens import TokenBatch


class Linear(Method):
    """e = normalize(mean_t W x_t): the stem alone. With slots, one linear map of the slots side by side."""

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """[B, d]."""
        return TokenBatch(self.stem(modality)(tokens), tokens.mask).mean()
