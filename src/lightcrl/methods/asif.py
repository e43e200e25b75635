"""ASIF (arXiv 2210.01738, NeurIPS 2023): an embedding made of similarities to pairs that are kept as anchors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightcrl.errors import TrainingError
from lightcrl.methods.base import Method, Step
from lightcrl.methods.stems import Inlet, MethodOptions
from lightcrl.tokens import TokenBatch, TokenSpec


class ASIFOptions(MethodOptions):
    """Options of ASIF.

    Attributes:
        dim: number of anchors, and so the width of the embedding.
        input_dropout: always 0, since nothing is trained.
        neighbours: number of anchors per item, the most similar ones; the paper's 800 of 1.6 M.
        power: exponent of the similarities to the anchors; the paper's 8.
    """

    dim: int = Field(default=6000, gt=0)
    input_dropout: float = Field(default=0.0, ge=0, le=0)
    neighbours: int = Field(default=800, gt=0)
    power: float = Field(default=8.0, gt=0)


class ASIF(Method):
    """e = normalize(top_k(max(0, cos(x, anchor_1..n)))^p): sparse relative representations (section 2).

    Anchor j of a modality is the item of group j in that modality (the mean of several items), so coordinates of
    different modalities have the same meaning. The anchors are the first `dim` groups of an epoch, a sample drawn by
    the seed. With fewer groups, the rest of the embedding is zero. A modality without an item in a group has a zero
    anchor there.

    Nothing is trained; the model consists of its data. It grows with the anchors, and a query costs a product with
    each. As published: top-k, power, unit length. Changed: `standardise` centres the features; the anchors are few,
    like the data. With 6,000 anchors and the features of recipes/flickr8k.toml dev R@1 is 0.121 text to image, 0.130
    image to text.
    """

    Options: ClassVar[type[MethodOptions]] = ASIFOptions
    # Fewer neighbours suit a few thousand anchors, and so does a lower power.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"neighbours": 200},
        {"power": 4.0},
    )
    closed_form: ClassVar[bool] = True
    rigid: ClassVar[str] = "its weights are the training pairs themselves, and a new modality has no items of those"
    options: ASIFOptions

    def __init__(self, modalities: Mapping[str, TokenSpec], options: ASIFOptions) -> None:
        super().__init__(modalities, options)
        # Parameters have names in checkpoints; these are data and receive no gradient.
        self.anchors = nn.ParameterDict(
            {
                name: nn.Parameter(torch.zeros(options.dim, self.stem(name).width), requires_grad=False)
                for name in sorted(self.modalities)
            }
        )

    def make_stem(self, modality: str) -> Inlet:
        """Return an inlet: the features are not projected."""
        return Inlet(self.modalities[modality], self.options)

    @torch.no_grad()
    def solve(self, steps: Iterable[Step]) -> None:
        """Keep the first groups as anchors.

        Raises:
            TrainingError: no two modalities share a group.
        """
        filled = 0
        for anchors in self.anchors.values():
            anchors.zero_()
        seen: set[int] = set()
        for step in steps:
            present = torch.cat([torch.unique(groups) for groups in step.groups.values()])
            numbers, counts = torch.unique(present, return_counts=True)
            fresh = [n for n in numbers[counts > 1].tolist() if n not in seen][: self.options.dim - filled]
            seen.update(fresh)
            for name, tokens in step.tokens.items():
                features = normalize(self.stem(name).features(tokens), dim=-1)
                chosen = (step.groups[name] == torch.tensor(fresh, device=features.device)[:, None]).to(features.dtype)
                self.anchors[name][filled : filled + len(fresh)] = normalize(chosen @ features, dim=-1)
            filled += len(fresh)
            if filled == self.options.dim:
                break
        if not filled:
            raise TrainingError("no two modalities share a group; expected pairs to keep as anchors.")

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        """Return [B, d], mostly zeros."""
        features = normalize(self.stem(modality).features(tokens), dim=-1)
        return sparse_power(features @ self.anchors[modality].T, self.options.neighbours, self.options.power)


def sparse_power(similarities: Tensor, neighbours: int, power: float) -> Tensor:
    """Return [B, n] with the `neighbours` largest of each row to `power`, scaled to a maximum of 1, else zeros.

    Negative similarities become zero. If a row has no positive similarity, only its largest is kept.
    """
    values, places = similarities.topk(min(neighbours, similarities.shape[1]), dim=-1)
    largest = values[:, :1]
    ratio = torch.where(
        largest > 0, values.clamp(min=0) / largest.clamp(min=1e-30), (values == largest).to(values.dtype)
    )
    return torch.zeros_like(similarities).scatter(-1, places, ratio**power)
