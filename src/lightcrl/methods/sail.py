"""SAIL (arXiv 2412.04616): a gated perceptron per modality under the sigmoid loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu6

from lightcrl.methods.base import Method
from lightcrl.methods.dropout import DroppedShare
from lightcrl.methods.stems import Inlet, MethodOptions
from lightcrl.tokens import TokenBatch, TokenSpec

START_SCALE = 20.0


class SAILOptions(MethodOptions):
    """Options of SAIL.

    Attributes:
        hidden: width of each of the two branches.
    """

    input_dropout: DroppedShare = 0.2
    hidden: int = Field(default=320, gt=0)


class SAIL(Method):
    """e = normalize(W3 (relu6(W1 n) * W2 n)), n = LayerNorm(x): LayerNorm and a gated linear unit (section 3.2).

    As published: the layer, the sigmoid loss, its initial scale of 20 and bias of -10, every caption of a picture as a
    positive. Changed: branches of 320 instead of eight times the input, to stay below 2.5 M parameters; input dropout;
    AdamW in batches of about a thousand instead of LION in 32,768; the loss is the sum over a row's pairs, not the
    mean over all, which makes no difference to AdamW. The paper's figures are those of 23 M pairs and were not
    reproduced.
    """

    Options: ClassVar[type[MethodOptions]] = SAILOptions
    suits: ClassVar[Mapping[str, Any]] = {"loss": "sigmoid"}
    # No input dropout, as published, and more input dropout; narrower branches, for less data.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"input_dropout": 0.0},
        {"input_dropout": "auto"},
        {"hidden": 128},
    )
    options: SAILOptions

    def __init__(self, modalities: Mapping[str, TokenSpec], options: SAILOptions) -> None:
        super().__init__(modalities, options)
        self.heads = nn.ModuleDict(
            {name: GatedHead(self.stem(name).width, options) for name in sorted(self.modalities)}
        )

    def make_stem(self, modality: str) -> Inlet:
        """Return an inlet: the layer norm comes before any weight."""
        return Inlet(self.modalities[modality], self.options)

    def start_logits(self, scale: float, bias: float | None) -> None:
        """Set the initial logit scale and bias: with a bias, the scale is the paper's 20."""
        super().start_logits(scale if bias is None else START_SCALE, bias)

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return [B, d]."""
        inlet = self.stem(modality)
        return self.heads[modality](inlet.dropout(inlet.features(tokens)))


class GatedHead(nn.Module):
    """A layer norm, two branches of which one gates the other, and a projection."""

    def __init__(self, width: int, options: SAILOptions) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.branches = nn.Linear(width, 2 * options.hidden)
        self.project = nn.Linear(options.hidden, options.dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, d] from [B, F]."""
        gate, value = self.branches(self.norm(features)).chunk(2, dim=-1)
        return self.project(relu6(gate) * value)
