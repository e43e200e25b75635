"""A linear map per modality: the baseline for all other methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lightcrl.methods.base import Method
from lightcrl.tokens import TokenBatch


class Linear(Method):
    """e = normalize(mean_t W x_t): only the stem. With slots, one linear map of the concatenated slots."""

    # Input dropout and width are the only options to tune.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"input_dropout": 0.0},
        {"input_dropout": 0.45},
        {"dim": 512},
    )

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return [B, d]."""
        return self.pooled(modality, tokens)
