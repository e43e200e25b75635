"""ShareLock (arXiv 2410.07173): one modality keeps its features, and the others are trained to match them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from lightcrl.errors import ModalityError
from lightcrl.methods.dropout import DroppedShare
from lightcrl.methods.heads import Headed
from lightcrl.methods.stems import Inlet, MethodOptions, Stem
from lightcrl.tokens import TokenBatch, TokenSpec


class ShareLockOptions(MethodOptions):
    """Options of ShareLock.

    Attributes:
        dim: width of the heads' hidden layers. The embedding is as wide as the locked features.
        locked: modality that keeps its features; null takes `image`, else the first in alphabetical order.
        layers: number of linear layers of a head.
        dropout: share of hidden features set to zero in training; the paper's 0.2.
    """

    dim: int = Field(default=512, gt=0)
    input_dropout: DroppedShare = 0.2
    locked: str | None = None
    layers: int = Field(default=3, ge=2, le=64)
    dropout: float = Field(default=0.2, ge=0, lt=1)


class ShareLock(Headed):
    """e = normalize(MLP(x)) for trained modalities, e = normalize(x) for the locked modality, with concatenated slots.

    An index over the locked modality can be made before training and stays valid after it.

    As published: the locked side, ReLU, dropout 0.2, InfoNCE. Changed: layers of 512 instead of 4,096, three of them,
    to stay below 2.5 M parameters; layer norm instead of batch norm, so that an embedding does not depend on the batch;
    features are standardised unless `standardise` is false. The paper's figures are those of 563 k pairs and were not
    reproduced.
    """

    Options: ClassVar[type[MethodOptions]] = ShareLockOptions
    suits: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-3, "label_smoothing": 0.0}
    # More dropout; a shallower head; locked features without centring, as in the paper.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"dropout": 0.5},
        {"layers": 2},
        {"standardise": False},
    )
    options: ShareLockOptions

    def __init__(self, modalities: Mapping[str, TokenSpec], options: ShareLockOptions) -> None:
        self.locked = options.locked or ("image" if "image" in modalities else min(modalities, default=""))
        if self.locked not in modalities:
            raise ModalityError(
                f"method.locked is {self.locked!r}, but the modalities are {', '.join(sorted(modalities))}."
            )
        super().__init__(modalities, options)

    def settled_options(self) -> ShareLockOptions:
        """Options that lock the same modality, whatever others there are."""
        return self.options.model_copy(update={"locked": self.locked})

    @property
    def dim(self) -> int:
        """d, the width of the locked features."""
        return self.stem(self.locked).width

    def make_stem(self, modality: str) -> Inlet:
        """Return a projection for a trained modality, an inlet for the locked one."""
        return (Inlet if modality == self.locked else Stem)(self.modalities[modality], self.options)

    def make_head(self, modality: str) -> nn.Module:
        """Return the layers after the stem; the identity for the locked modality."""
        if modality == self.locked:
            return nn.Identity()
        widths = [self.options.dim] * (self.options.layers - 1) + [self.dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.LayerNorm(before), nn.ReLU(), nn.Dropout(self.options.dropout), nn.Linear(before, after)]
        return nn.Sequential(*layers)

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return [B, d]."""
        if modality == self.locked:
            return self.stem(modality).features(tokens)
        return super().embed(modality, tokens)
