"""The Deep Fusion Encoder as published (arXiv 2403.04650), with the training settings of its paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lightcrl.methods.base import Method
from lightcrl.methods.dfe import ContextEncoder
from lightcrl.methods.fusion import OPERATIONS, FusionName
from lightcrl.methods.stems import MethodOptions, Stem
from lightcrl.tokens import TokenBatch, TokenSpec


class PaperOptions(MethodOptions):
    """Options of the encoder as published.

    Attributes:
        fusion: the fusion operation.
        heads: attention heads of the transformer layer.
        feedforward: hidden width of the feed-forward part.
        dropout: share of that part's hidden features set to zero in training.
    """

    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    standardise: bool = False
    by_slot: bool = False
    fusion: FusionName = "addition"
    heads: int = Field(default=4, gt=0)
    feedforward: int = Field(default=2048, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> PaperOptions:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} does not divide into {self.heads} heads")
        return self


class LightCRLPaper(Method):
    """The encoder of section 3 of the paper: one pre-norm transformer layer over all tokens, without standardisation.

            u = stem_m(x)                         for every token
            v = fuse(u, c_m)                      c_m: learnable vector of m, passed through a small shared MLP
        e = normalize(masked mean of v + Transformer(LayerNorm(v)))

    If features have slots and a sequence, it reads the sequence, the tokens of the last layer. The bugs of the
    published code are fixed: padding is masked, a picture's captions are positives of each other, and the logit scale
    starts at 1 / 0.07 (see tests/test_official_mistakes.py). `epochs = "auto"` is 5 here, in place of at most 100 with
    early stop: batches of 64 make an epoch expensive, and the dev loss rises after the second epoch
    (docs/benchmarks.md).
    """

    Options: ClassVar[type[MethodOptions]] = PaperOptions
    sequences: bool = True
    suits: ClassVar[Mapping[str, Any]] = {
        "hubs": False,
        "batch_size": 64,
        "epochs": 5,
        "learning_rate": 1e-3,
        "weight_decay": 1e-3,
        "label_smoothing": 0.0,
        "schedule": "plateau",
    }

    def __init__(self, modalities: Mapping[str, TokenSpec], options: PaperOptions) -> None:
        super().__init__(modalities, options)
        self.context = ContextEncoder(sorted(self.modalities), 1, options.dim)
        self.fusion = OPERATIONS.load(options.fusion)(options.dim)
        self.norm = nn.LayerNorm(options.dim)
        self.transformer = TransformerLayer(options)

    def make_stem(self, modality: str) -> Stem:
        """Return a single projection for all tokens of a sequence."""
        spec = self.modalities[modality]
        return Stem(TokenSpec(spec.dim) if spec.sequence else spec, self.options)

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return [B, d]."""
        tokens = self.modalities[modality].sequence_of(tokens)
        context = self.fusion.neutral + self.context(modality)[0]
        fused = self.fusion(self.stem(modality)(tokens), tokens.mask, context)
        return TokenBatch(fused + self.transformer(self.norm(fused), tokens.mask), tokens.mask).mean()

    def fit(self, modality: str, tokens: TokenBatch) -> None:
        """Set means and deviations of features from a sample of the training split."""
        self.stem(modality).fit(self.modalities[modality].sequence_of(tokens))


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer (arXiv 2002.04745, figure 1b) over masked tokens."""

    def __init__(self, options: PaperOptions) -> None:
        super().__init__()
        dim = options.dim
        self.heads = options.heads
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
        """Return [B, T, d] from tokens [B, T, d] and mask [B, T]."""
        attended = tokens + self.attend(self.attention_norm(tokens), mask)
        fed: Tensor = self.feedforward(attended)
        return attended + fed

    def attend(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the self-attention of the tokens; every token attends to all real tokens."""
        batch, length, dim = tokens.shape
        query, key, value = self.project_in(tokens).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Padding values must have no effect, not even as 0 * inf.
        value = value.masked_fill(~mask[:, None, :, None], 0)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        projected: Tensor = self.project_out(mixed.transpose(1, 2).reshape(batch, length, dim))
        return projected
