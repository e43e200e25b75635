"""FuseMix (arXiv 2312.10144): residual perceptrons trained on mixtures of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lightcrl.methods.base import Step
from lightcrl.methods.dropout import DroppedShare
from lightcrl.methods.heads import Headed
from lightcrl.methods.stems import MethodOptions
from lightcrl.tokens import TokenBatch


class FuseMixOptions(MethodOptions):
    """Options of FuseMix.

    Attributes:
        blocks: residual blocks per modality.
        expansion: inner width of a block, as a multiple of the embedding's width.
        dropout: share of a block's hidden features set to zero in training; the paper's 0.6.
        alpha: parameter of the mixing share, drawn from Beta(alpha, alpha); the paper's 1 is the uniform distribution.
    """

    input_dropout: DroppedShare = 0.2
    blocks: int = Field(default=2, gt=0, le=64)
    expansion: int = Field(default=2, gt=0)
    dropout: float = Field(default=0.6, ge=0, lt=1)
    alpha: float = Field(default=1.0, gt=0)


class FuseMix(Headed):
    """e = normalize(block_k(... block_1(W x))), block(u) = u + W2 drop(gelu(W1 LayerNorm(u))).

    Every training step sees mixtures in place of pairs (section 5): lambda x_i + (1 - lambda) x_j for each modality,
    with the same lambda and the same partner j for all modalities of group i; mixture i is positive of mixture i.

    As published: mixing, residual blocks, their dropout, InfoNCE from temperature 0.07. Changed: the stem comes before
    the blocks, which are two of expansion 2 instead of four of 4, to stay below 2.5 M parameters; a batch is mixed with
    a permutation of itself instead of one half with the other. The paper's figures are those of 5 M pairs and were not
    reproduced.
    """

    Options: ClassVar[type[MethodOptions]] = FuseMixOptions
    suits: ClassVar[Mapping[str, Any]] = {"weight_decay": 0.1, "label_smoothing": 0.0}
    # Input dropout, which the paper lacks; mixtures near one of their two items.
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"input_dropout": 0.0},
        {"input_dropout": "auto"},
        {"alpha": 0.3},
    )
    one_process: ClassVar[bool] = True
    options: FuseMixOptions

    def make_head(self, modality: str) -> nn.Module:
        """Return the blocks, [B, d] -> [B, d]."""
        return nn.Sequential(*(Block(self.options) for _ in range(self.options.blocks)))

    def augment(self, step: Step) -> Step:
        """Mix every group with a partner; tokens without slots are mixed as their mean token."""
        partner, share = draw_partners(step.groups, self.options.alpha)
        tokens = {}
        for name, batch in step.tokens.items():
            fixed = self.modalities[name].slots > 1
            values = batch.values if fixed else batch.mean().unsqueeze(1)
            other = values[partner[name]]
            kept = share[name].to(values.dtype)[:, None, None]
            tokens[name] = TokenBatch.full(kept * values + (1 - kept) * other)
        return Step(tokens, step.groups, step.done)


class Block(nn.Module):
    """A residual perceptron block."""

    def __init__(self, options: FuseMixOptions) -> None:
        super().__init__()
        inner = options.expansion * options.dim
        self.branch = nn.Sequential(
            nn.LayerNorm(options.dim),
            nn.Linear(options.dim, inner),
            nn.GELU(),
            nn.Dropout(options.dropout),
            nn.Linear(inner, options.dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, d] from [B, d]."""
        return features + self.branch(features)


def draw_partners(groups: Mapping[str, Tensor], alpha: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw for every item the row of its partner in the same modality, and the item's share in the mixture.

    Groups are permuted among those with items of the same modalities, so that every partner has them too. Items of a
    group share partner and lambda. If the partner has fewer items, some are used repeatedly.

    Args:
        groups: group numbers [N_m] by modality.
        alpha: lambda ~ Beta(alpha, alpha).

    Returns:
        Partner rows [N_m] and shares [N_m] by modality.
    """
    names = sorted(groups)
    device = groups[names[0]].device
    numbers = torch.unique(torch.cat([groups[name] for name in names]))
    counts = torch.stack(
        [torch.bincount(torch.searchsorted(numbers, groups[n]), minlength=len(numbers)) for n in names]
    )
    _, kinds = torch.unique(counts > 0, dim=1, return_inverse=True)
    partner = torch.arange(len(numbers), device=device)
    for kind in range(int(kinds.max()) + 1):
        members = (kinds == kind).nonzero().flatten()
        partner[members] = members[torch.randperm(len(members), device=device)]
    share = torch.distributions.Beta(alpha, alpha).sample((len(numbers),)).to(device)

    rows, shares = {}, {}
    for name, count in zip(names, counts, strict=True):
        own = torch.searchsorted(numbers, groups[name])
        # Items by group: the k-th item of a group is mixed with the k-th of its partner.
        order = own.argsort(stable=True)
        start = count.cumsum(0) - count
        place = torch.empty_like(own)
        place[order] = torch.arange(len(own), device=device) - start[own[order]]
        other = partner[own]
        rows[name] = order[start[other] + place % count[other]]
        shares[name] = share[own]
    return rows, shares
