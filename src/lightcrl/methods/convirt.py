"""ConVIRT's projection heads (arXiv 2010.00747, section 3.2): the baseline of the LightCRL paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from lightcrl.methods.base import Method, MethodOptions, TokenSpec
from lightcrl.tokens import TokenBatch


class ConVIRTOptions(MethodOptions):
    """Options of ConVIRT: those of every method. Two layers want less input dropout than one (docs/LOG.md)."""

    input_dropout: float = Field(default=0.2, ge=0, lt=1)


class ConVIRT(Method):
    """e = normalize(W2 relu(W1 x)), two layers per modality, nothing shared and no context.

    Trained with the recipe's loss, as every method; the paper's own weights (lambda 0.75, temperature 0.1) are not
    part of it.
    """

    Options: ClassVar[type[MethodOptions]] = ConVIRTOptions

    def __init__(self, modalities: Mapping[str, TokenSpec], options: MethodOptions) -> None:
        super().__init__(modalities, options)
        self.heads = nn.ModuleDict(
            {name: nn.Sequential(nn.ReLU(), nn.Linear(options.dim, options.dim)) for name in sorted(self.modalities)}
        )

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """[B, d]."""
        pooled = TokenBatch(self.stem(modality)(tokens), tokens.mask).mean()
        return self.heads[modality](pooled)
