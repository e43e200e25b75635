"""The Deep Fusion Encoder: one small network that all modalities share, told apart by a context vector each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from lightcrl.fusion.operations import OPERATIONS, shrink
from lightcrl.fusion.pool import SequencePool
from lightcrl.losses import Loss
from lightcrl.methods.base import Method, MethodOptions, Stem, Step, TokenSpec
from lightcrl.tokens import TokenBatch


class DFEOptions(MethodOptions):
    """Options of the Deep Fusion Encoder.

    Attributes:
        dim: width of the embedding, of all its parts together.
        parts: the embedding is this many unit vectors side by side, each with its own context, through one encoder.
        fusion: the fusion operation.
        heads: attention heads of each part, in the pooling of sequences and in the transformer layer.
        feedforward: width of the transformer layer's feed-forward part.
        dropout: share of hidden features of the feed-forward part set to zero in training.
        key_dropout: share of tokens that attention cannot see in training.
        layer_scale: how strongly the transformer's output is added at the start, learnable per feature; `"none"`
            adds it as it is.
        inner_residual: the transformer's output keeps what went in and what attention added, as in the paper; false
            keeps the feed-forward part's output alone, which overfits less on small data.
        summary: only the mean of the tokens asks in the transformer layer (class attention, arXiv 2103.17239); false
            lets every token ask, as in the paper.
    """

    dim: int = Field(default=512, gt=0)
    parts: int = Field(default=2, gt=0)
    fusion: str = "addition"
    heads: int = Field(default=8, gt=0)
    feedforward: int = Field(default=512, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    key_dropout: float = Field(default=0.5, ge=0, lt=1)
    layer_scale: Annotated[float, Field(gt=0)] | Literal["none"] = 0.1
    inner_residual: bool = False
    summary: bool = True

    @field_validator("fusion")
    @classmethod
    def _known(cls, name: str) -> str:
        if ":" not in name:
            OPERATIONS[name]
        return name

    @model_validator(mode="after")
    def _divides(self) -> DFEOptions:
        if self.dim % (self.parts * self.heads):
            raise ValueError(f"dim {self.dim} does not divide into {self.parts} parts of {self.heads} heads")
        return self


class DeepFusionEncoder(Method):
    """Section 3 of the LightCRL paper (arXiv 2403.04650), padding masked, for slots and sequences.

        u = stem_m(x)                         per token, with the pooled sequence the only weights of modality m
        v = fuse(u, c_m)                      c_m: learnable vector of m through a small MLP that all modalities share
        z = v + g Transformer(LayerNorm(v))   one shared pre-norm layer; g: layer scale
        e = normalize(masked mean of z)

    A sequence after the slots is pooled to one more token (`SequencePool`). Of an embedding in several parts, each part
    is an embedding in its own right, with its share of u, its own c_m and its own loss; side by side they err less
    than one of their joint width, as an ensemble does. With one token per item (T = 1) attention has nothing to choose
    from.
    """

    Options: ClassVar[type[MethodOptions]] = DFEOptions
    sequences: ClassVar[bool] = True

    def __init__(self, modalities: Mapping[str, TokenSpec], options: DFEOptions) -> None:
        self.parts_count = options.parts
        super().__init__(modalities, options)
        width = options.dim // options.parts
        self.pools = nn.ModuleDict(
            {
                name: SequencePool(
                    spec.dim, options.dim, options.parts * options.heads, options.input_dropout, options.parts
                )
                for name, spec in sorted(self.modalities.items())
                if spec.sequence
            }
        )
        self.context = ContextEncoder(sorted(self.modalities), options.parts, width)
        self.fusion = OPERATIONS.load(options.fusion)(width)
        self.norm = nn.LayerNorm(width)
        self.transformer = TransformerLayer(width, options)
        self.layer_scale = None
        if options.layer_scale != "none":
            self.layer_scale = nn.Parameter(torch.full((width,), options.layer_scale))
        self.summary = options.summary

    def make_stem(self, modality: str) -> Stem:
        """A stem whose parts drop their own features."""
        return Stem(self.modalities[modality], self.options, parts=self.parts_count)

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """[B, d]."""
        stem, mask = self.stem_tokens(modality, tokens)
        contexts = self.fusion.neutral + self.context(modality)
        parts = [
            self.encode(part, mask, context)
            for part, context in zip(stem.chunk(len(contexts), -1), contexts, strict=True)
        ]
        return torch.cat([normalize(part.float(), dim=-1) for part in parts], -1)

    def stem_tokens(self, modality: str, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """u [B, T, d] and its mask: the projected slots and the pooled sequence, or every token of a plain one."""
        spec = self.modalities[modality]
        if not spec.sequence:
            return self.stem(modality)(tokens), tokens.mask
        slots = tokens.places(0, spec.slots)
        pooled = self.pools[modality](tokens.places(spec.slots))
        mask = torch.cat([slots.mask, slots.mask[:, :1]], 1)
        return torch.cat([self.stem(modality)(slots), pooled.unsqueeze(1)], 1), mask

    def encode(self, stem: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        """One part [B, d] from its tokens [B, T, d] and its context [d]."""
        fused = self.fusion(stem, mask, context)
        asking = TokenBatch(fused, mask).mean().unsqueeze(1) if self.summary else fused
        refined = self.transformer(self.norm(asking), self.norm(fused), mask)
        if self.layer_scale is not None:
            refined = self.layer_scale * refined
        refined = asking + refined
        return refined.squeeze(1) if self.summary else TokenBatch(refined, mask).mean()

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Take means and deviations of features from a sample of the training split."""
        spec = self.modalities[modality]
        if spec.sequence:
            pool = self.pools[modality]
            assert isinstance(pool, SequencePool)
            pool.fit(tokens.places(spec.slots))
            tokens = tokens.places(0, spec.slots)
        self.stem(modality).fit(tokens)

    def objective(self, loss: Loss, embeddings: Mapping[str, Tensor], step: Step) -> Tensor:
        """The mean over parts of the loss of each."""
        values = []
        for number in range(self.parts_count):
            part = {name: normalize(e.chunk(self.parts_count, -1)[number], dim=-1) for name, e in embeddings.items()}
            values.append(super().objective(loss, part, step))
        return torch.stack(values).mean()


class ContextEncoder(nn.Module):
    """Learnable vectors for each part of each modality, through a small MLP that all share."""

    def __init__(self, modalities: list[str], parts: int, dim: int) -> None:
        super().__init__()
        self.vectors = nn.ParameterDict({name: nn.Parameter(torch.randn(parts, dim) * 0.02) for name in modalities})
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        shrink(self.mlp[-1])

    def forward(self, modality: str) -> Tensor:
        """The encoded contexts [parts, d] of a modality."""
        return self.mlp(self.vectors[modality])


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer (arXiv 2002.04745, figure 1b) over masked tokens."""

    def __init__(self, dim: int, options: DFEOptions) -> None:
        super().__init__()
        self.heads = options.heads
        self.key_dropout = options.key_dropout
        self.inner_residual = options.inner_residual
        self.attention_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, options.feedforward),
            nn.GELU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.feedforward, dim),
        )

    def forward(self, asking: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """[B, Q, d] that ask, [B, T, d] that answer, their mask [B, T] -> [B, Q, d]."""
        attended = asking + self.attend(self.attention_norm(asking), self.attention_norm(tokens), mask)
        fed = self.feedforward(attended)
        return attended + fed if self.inner_residual else fed

    def attend(self, asking: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """All who ask look at every real token; in training some are hidden, the same for all heads."""
        batch, length, dim = tokens.shape
        query = self.query(asking).view(batch, -1, self.heads, dim // self.heads).transpose(1, 2)
        key, value = self.key_value(tokens).view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        visible = mask
        if self.training and self.key_dropout:
            kept = mask & (torch.rand(mask.shape, device=mask.device) >= self.key_dropout)
            # An item that would lose all of its tokens keeps them all.
            visible = torch.where(kept.any(1, keepdim=True), kept, mask)
        # What padding holds must not matter, not even as 0 * inf.
        value = value.masked_fill(~mask[:, None, :, None], 0)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=visible[:, None, None, :])
        return self.project_out(mixed.transpose(1, 2).reshape(asking.shape))
