"""A plain multilayer perceptron per modality: what a network adds to a linear map, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from lightcrl.methods.base import MethodOptions, Stem
from lightcrl.methods.heads import Headed


class MLPOptions(MethodOptions):
    """Options of the perceptrons.

    Attributes:
        layers: linear layers, the stem among them.
        hidden: width of what is between two layers.
        dropout: share of hidden features set to zero in training.
    """

    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    layers: Literal[2, 3] = 2
    hidden: int = Field(default=512, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)


class MLP(Headed):
    """e = normalize(W_k ... drop(gelu(W_1 x))); no norms, no residual paths, nothing published to reproduce."""

    Options: ClassVar[type[MethodOptions]] = MLPOptions
    # Less and more dropout at the input, where small data overfits first; one layer more.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"input_dropout": 0.0},
        {"input_dropout": 0.45},
        {"layers": 3},
    )
    options: MLPOptions

    def make_stem(self, modality: str) -> Stem:
        """The first layer."""
        return Stem(self.modalities[modality], self.options, self.options.hidden)

    def make_head(self, modality: str) -> nn.Module:
        """The layers behind it: [B, hidden] -> [B, d]."""
        widths = [self.options.hidden] * (self.options.layers - 1) + [self.options.dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.GELU(), nn.Dropout(self.options.dropout), nn.Linear(before, after)]
        return nn.Sequential(*layers)
