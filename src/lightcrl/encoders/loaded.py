"""A model in place: what is known of it once it has run, and what its items and its outputs have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightcrl.encoders.layout import Layer

# Weights that hidden states do not depend on: heads, and tokens that only training puts in.
UNUSED = re.compile(r"(^|\.)(pooler|head|masked_spec_embed|mask_token|num_batches_tracked)(\.|$)")

Prepared = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in place, and what a trial of it has shown.

    Attributes:
        network: frozen, in eval mode, on its device.
        accepts: the names of its inputs.
        blocks: how many there are.
        layers: of the blocks, those to keep.
        tokens: the layout, as `lay_out` takes it.
        pads: items of unequal length can share a batch: padding changes nothing.
        dim: width of a token.
        slots: tokens per item with a meaning of their own.
        sequence: more tokens follow them.
        widths: of the tokens of each block.
        last: tokens of the last block, as a trial gave them.
        own: the pool of the last block that is what the model was trained to give, where that is known.
    """

    network: torch.nn.Module
    accepts: frozenset[str]
    blocks: int
    layers: tuple[int, ...]
    tokens: str
    pads: bool
    dim: int
    slots: int
    sequence: bool
    widths: tuple[int, ...]
    last: Layer
    own: str | None = None


def attends(config: Any) -> bool:
    """Whether a model's config, or that of a tower in it, speaks of attention heads."""
    return bool(re.search(r'"\w*heads?"', json.dumps(config.to_dict(), default=str)))


def alike(items: Sequence[Prepared], pads: bool) -> list[list[int]]:
    """Numbers of the items that can share a batch: of one shape, but for its length where padding changes nothing."""
    groups: dict[Any, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(tuple(v.shape[1:] if pads else v.shape for v in item.values()), []).append(number)
    return list(groups.values())


def same(alone: Sequence[Layer], batch: Sequence[Layer]) -> bool:
    """The first item has the same tokens in both, up to the rounding of the dtype."""
    for one, other in zip(alone, batch, strict=True):
        mine, theirs = one.values[0, one.mask[0]], other.values[0, other.mask[0]]
        if mine.shape != theirs.shape:
            return False
        tolerance = 1e-4 if mine.dtype == torch.float32 else 5e-2
        error = (mine.float() - theirs.float()).norm(dim=-1).max()
        if error > tolerance * mine.float().norm(dim=-1).mean():
            return False
    return True
