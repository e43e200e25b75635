"""The Deep Fusion Encoder: one small network that all modalities share, told apart by a context vector each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from lightcrl.fusion.operations import OPERATIONS, shrink
from lightcrl.methods.base import Method, MethodOptions, TokenSpec
from lightcrl.tokens import TokenBatch


class DFEOptions(MethodOptions):
    """Options of the Deep Fusion Encoder.

    Attributes:
        fusion: the fusion operation.
        heads: attention heads of the shared transformer layer.
        feedforward: width of its feed-forward part.
        dropout: within the transformer layer.
        layer_scale: how strongly the transformer's output is added at the start, learnable per feature; None adds it
            as it is, as the paper does.
    """

    fusion: str = "addition"
    heads: int = Field(default=4, gt=0)
    feedforward: int = Field(default=512, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    layer_scale: float | None = Field(default=0.1, gt=0)

    @field_validator("fusion")
    @classmethod
    def _known(cls, name: str) -> str:
        OPERATIONS[name]
        return name

    @model_validator(mode="after")
    def _divides(self) -> DFEOptions:
        if self.dim % self.heads:
            raise ValueError(f"heads is {self.heads}, expected a divisor of dim, {self.dim}")
        return self


class DeepFusionEncoder(Method):
    """Section 3 of the LightCRL paper (arXiv 2403.04650), padding masked.

        u = stem_m(x)                    per token, the only weights of modality m
        v = fuse(u, c_m)                 c_m: learnable vector of m through a small MLP that all modalities share
        z = v + g Transformer(LayerNorm(v))   one shared pre-norm layer; g: layer scale
        e = normalize(masked mean of z)

    With one token per item (T = 1) attention has nothing to choose from, and the layer is its feed-forward part.
    """

    Options: ClassVar[type[MethodOptions]] = DFEOptions

    def __init__(self, modalities: Mapping[str, TokenSpec], options: DFEOptions) -> None:
        super().__init__(modalities, options)
        dim = options.dim
        self.context = ContextEncoder(sorted(self.modalities), dim)
        self.fusion = OPERATIONS.load(options.fusion)(dim)
        self.norm = nn.LayerNorm(dim)
        self.transformer = nn.TransformerEncoderLayer(
            dim, options.heads, options.feedforward, options.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layer_scale = None
        if options.layer_scale is not None:
            self.layer_scale = nn.Parameter(torch.full((dim,), options.layer_scale))

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """[B, d]."""
        stem = self.stem(modality)(tokens)
        fused = self.fusion(stem, tokens.mask, self.fusion.neutral + self.context(modality))
        refined = self.transformer(self.norm(fused), src_key_padding_mask=~tokens.mask)
        if self.layer_scale is not None:
            refined = self.layer_scale * refined
        return TokenBatch(fused + refined, tokens.mask).mean()


class ContextEncoder(nn.Module):
    """A learnable vector per modality through a small MLP that all modalities share."""

    def __init__(self, modalities: list[str], dim: int) -> None:
        super().__init__()
        self.vectors = nn.ParameterDict({name: nn.Parameter(torch.randn(dim) * 0.02) for name in modalities})
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        shrink(self.mlp[-1])

    def forward(self, modality: str) -> Tensor:
        """The encoded context [d] of a modality."""
        return self.mlp(self.vectors[modality])
