"""A plain multilayer perceptron per modality: it shows the effect of depth over a linear map."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from lightcrl.methods.dropout import DroppedShare
from lightcrl.methods.heads import Headed
from lightcrl.methods.stems import MethodOptions, Stem


class MLPOptions(MethodOptions):
    """Options of the perceptrons.

    Attributes:
        layers: number of linear layers, including the stem.
        hidden: width between two layers.
        dropout: share of hidden features set to zero in training.
    """

    input_dropout: DroppedShare = 0.2
    layers: Literal[2, 3] = 2
    hidden: int = Field(default=512, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)


class MLP(Headed):
    """e = normalize(W_k ... drop(gelu(W_1 x))), without norms, residual paths or a published model to reproduce."""

    Options: ClassVar[type[MethodOptions]] = MLPOptions
    # Less and more dropout at the input, where small data overfits first; an additional layer.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"input_dropout": 0.0},
        {"input_dropout": "auto"},
        {"layers": 3},
    )
    options: MLPOptions

    def make_stem(self, modality: str) -> Stem:
        """Return the first layer."""
        return Stem(self.modalities[modality], self.options, self.options.hidden)

    def make_head(self, modality: str) -> nn.Module:
        """Return the layers after the stem, [B, hidden] -> [B, d]."""
        widths = [self.options.hidden] * (self.options.layers - 1) + [self.options.dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.GELU(), nn.Dropout(self.options.dropout), nn.Linear(before, after)]
        return nn.Sequential(*layers)
