"""The Deep Fusion Encoder: one small network that all modalities share, told apart by a context vector each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lightcrl.fusion.operations import OPERATIONS, shrink
from lightcrl.methods.base import Method, MethodOptions, TokenSpec
from lightcrl.tokens import TokenBatch


class DFEOptions(MethodOptions):
    """Options of the Deep Fusion Encoder.

    Attributes:
        fusion: the fusion operation.
        heads: attention heads of the shared transformer layer.
        feedforward: width of its feed-forward part.
        dropout: share of hidden features of the feed-forward part set to zero in training.
        key_dropout: share of tokens that attention cannot see in training.
        layer_scale: how strongly the transformer's output is added at the start, learnable per feature; `"none"`
            adds it as it is.
        inner_residual: the transformer's output keeps what went in and what attention added, as in the paper; false
            keeps the feed-forward part's output alone, which overfits less on small data.
    """

    fusion: str = "addition"
    heads: int = Field(default=4, gt=0)
    feedforward: int = Field(default=256, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    key_dropout: float = Field(default=0.5, ge=0, lt=1)
    layer_scale: Annotated[float, Field(gt=0)] | Literal["none"] = 0.1
    inner_residual: bool = False

    @field_validator("fusion")
    @classmethod
    def _known(cls, name: str) -> str:
        if ":" not in name:
            OPERATIONS[name]
        return name

    @model_validator(mode="after")
    def _divides(self) -> DFEOptions:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} does not divide into {self.heads} heads")
        return self


class DeepFusionEncoder(Method):
    """Section 3 of the LightCRL paper (arXiv 2403.04650), padding masked.

        u = stem_m(x)                         per token, the only weights of modality m
        v = fuse(u, c_m)                      c_m: learnable vector of m through a small MLP that all modalities share
        z = v + g Transformer(LayerNorm(v))   one shared pre-norm layer; g: layer scale
        e = normalize(masked mean of z)

    With one token per item (T = 1) attention has nothing to choose from.
    """

    Options: ClassVar[type[MethodOptions]] = DFEOptions

    def __init__(self, modalities: Mapping[str, TokenSpec], options: DFEOptions) -> None:
        super().__init__(modalities, options)
        self.context = ContextEncoder(sorted(self.modalities), options.dim)
        self.fusion = OPERATIONS.load(options.fusion)(options.dim)
        self.norm = nn.LayerNorm(options.dim)
        self.transformer = TransformerLayer(options)
        self.layer_scale = None
        if options.layer_scale != "none":
            self.layer_scale = nn.Parameter(torch.full((options.dim,), options.layer_scale))

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """[B, d]."""
        stem = self.stem(modality)(tokens)
        fused = self.fusion(stem, tokens.mask, self.fusion.neutral + self.context(modality))
        refined = self.transformer(self.norm(fused), tokens.mask)
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


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer (arXiv 2002.04745, figure 1b) over masked tokens."""

    def __init__(self, options: DFEOptions) -> None:
        super().__init__()
        dim = options.dim
        self.heads = options.heads
        self.key_dropout = options.key_dropout
        self.inner_residual = options.inner_residual
        self.attention_norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, options.feedforward),
            nn.GELU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.feedforward, dim),
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """[B, T, d], [B, T] -> [B, T, d]."""
        attended = tokens + self.attend(self.attention_norm(tokens), mask)
        fed = self.feedforward(attended)
        return attended + fed if self.inner_residual else fed

    def attend(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Every token looks at every real one; in training some are hidden, the same for all heads."""
        batch, length, dim = tokens.shape
        query, key, value = self.project_in(tokens).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        visible = mask
        if self.training and self.key_dropout:
            kept = mask & (torch.rand(mask.shape, device=mask.device) >= self.key_dropout)
            # An item that would lose all of its tokens keeps them all.
            visible = torch.where(kept.any(1, keepdim=True), kept, mask)
        # What padding holds must not matter, not even as 0 * inf.
        value = value.masked_fill(~mask[:, None, :, None], 0)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=visible[:, None, None, :])
        return self.project_out(mixed.transpose(1, 2).reshape(batch, length, dim))
