"""The common base of methods with a network per modality after the stem."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from lightcrl.methods.base import Method
from lightcrl.methods.stems import MethodOptions
from lightcrl.tokens import TokenBatch, TokenSpec


class Headed(Method):
    """e = normalize(head_m(mean_t stem_m(x_t))): no weights are shared between modalities, and there is no context."""

    def __init__(self, modalities: Mapping[str, TokenSpec], options: MethodOptions) -> None:
        super().__init__(modalities, options)
        self.heads = nn.ModuleDict({name: self.make_head(name) for name in sorted(self.modalities)})

    @abstractmethod
    def make_head(self, modality: str) -> nn.Module:
        """Return a fresh head for a modality: [B, width of the stem] -> [B, d]."""

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return [B, d]."""
        return self.heads[modality](self.pooled(modality, tokens))
