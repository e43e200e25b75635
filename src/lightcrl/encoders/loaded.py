"""A loaded model: its properties from a trial run, and helpers for its items and outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightcrl.encoders.layout import Layer

# Weights without effect on hidden states: heads, and tokens that only training inserts.
UNUSED = re.compile(r"(^|\.)(pooler|head|masked_spec_embed|mask_token|num_batches_tracked)(\.|$)")

Prepared = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded model with the results of a trial run.

    Attributes:
        network: the frozen network, in eval mode, on its device.
        accepts: names of its inputs.
        blocks: number of blocks.
        layers: blocks to keep.
        tokens: layout for `lay_out`.
        pads: true if items of unequal length can share a batch, since padding has no effect.
        dim: width of a token.
        slots: number of tokens with a fixed meaning per item.
        sequence: true if more tokens follow them.
        widths: widths of the tokens of each block.
        last: tokens of the last block in the trial.
        own: pool of the last block that the model was trained to give, if known.
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
    """Return true if a model's config, or that of a tower in it, has attention heads."""
    return bool(re.search(r'"\w*heads?"', json.dumps(config.to_dict(), default=str)))


def alike(items: Sequence[Prepared], pads: bool) -> list[list[int]]:
    """Return groups of items that can share a batch: equal shapes, except for the length if padding has no effect."""
    groups: dict[Any, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(tuple(v.shape[1:] if pads else v.shape for v in item.values()), []).append(number)
    return list(groups.values())


def same(alone: Sequence[Layer], batch: Sequence[Layer]) -> bool:
    """Return true if the first item has the same tokens in both, up to the rounding of the dtype."""
    for single, other in zip(alone, batch, strict=True):
        mine, theirs = single.values[0, single.mask[0]], other.values[0, other.mask[0]]
        if mine.shape != theirs.shape:
            return False
        tolerance = 1e-4 if mine.dtype == torch.float32 else 5e-2
        error = (mine.float() - theirs.float()).norm(dim=-1).max()
        if error > tolerance * mine.float().norm(dim=-1).mean():
            return False
    return True
