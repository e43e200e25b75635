"""The projections of CLIP: with trained towers the complete system, with frozen encoders its heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from lightcrl.methods.dropout import DroppedShare
from lightcrl.methods.heads import Headed
from lightcrl.methods.stems import MethodOptions


class CLIPOptions(MethodOptions):
    """Options of the projections.

    Attributes:
        head: kind of the projection: `"linear"`, or `"gelu_norm"` (a linear map, GELU, LayerNorm).
    """

    input_dropout: DroppedShare = 0.0
    standardise: bool = False
    head: Literal["linear", "gelu_norm"] = "linear"


class CLIP(Headed):
    """e = normalize(head_m(W_m mean_t x_t)), Radford et al. (arXiv 2103.00020, section 2.3), `head` the identity there.

    The mean runs over the real tokens of texts and patches, unless the encoder's `tokens` are "cls". The loss is
    InfoNCE in both directions without label smoothing, with a learnable scale from 1/0.07 to at most 100. No published
    figure is
    reproduced: those need 400 million pairs.
    """

    Options: ClassVar[type[MethodOptions]] = CLIPOptions
    options: CLIPOptions
    suits: ClassVar[Mapping[str, Any]] = {"label_smoothing": 0.0}
    # Small data overfits on frozen encoders, so the grid varies the regularisation.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"input_dropout": "auto"}, {"head": "gelu_norm"})

    def make_head(self, modality: str) -> nn.Module:
        """Return the layers after the linear map."""
        if self.options.head == "linear":
            return nn.Identity()
        return nn.Sequential(nn.GELU(), nn.LayerNorm(self.options.dim))
