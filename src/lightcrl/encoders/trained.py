"""The vector that a model was trained to give: its last layer pooled and mapped, or its own projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightcrl.encoders.base import Slot
from lightcrl.encoders.layout import Layer, full, slots_of
from lightcrl.tokens import TokenBatch

# Dual encoders by `model_type`: maps of the pooled output of the text tower and of the picture tower into their
# common space; none if the pooled output is already in it.
DUAL: Mapping[str, Mapping[str, str | None]] = {
    "clip": {"text": "text_projection", "image": "visual_projection"},
    "metaclip_2": {"text": "text_projection", "image": "visual_projection"},
    "siglip": {"text": None, "image": None},
    "siglip2": {"text": None, "image": None},
}
# Models that were trained on texts padded to a fixed length, without a mask.
FILLED = frozenset({"siglip", "siglip2"})

# The submodule of a network that gives the vector.
NAME = "trained_vector"


def projects(config: Any, kind: str) -> bool:
    """Return true if a model is a dual encoder whose tower for `kind` ends in the common space."""
    tower = getattr(config, "vision_config" if kind == "image" else "text_config", None)
    return kind in DUAL.get(config.model_type, {}) and getattr(tower, "vision_use_head", True)


class Unit(nn.Module):
    """Normalisation of vectors [B, D] to unit length."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the vectors, each divided by its norm."""
        return nn.functional.normalize(vectors, dim=-1)


class TrainedVector(nn.Module):
    """Vectors [B, D] float32 from a model's last layer, or from its pooled output.

    Attributes:
        poolings: names in `POOLINGS`, whose vectors are concatenated; none if the model pools by itself.
        skip: number of leading tokens, those of a prompt, that are not pooled.
        after: subsequent maps: a projection, linear maps, a division by the norm.
        dim: number of leading components kept of the result; None for all.
        prefixed: true if the pooled tokens include some that pools of a layer leave out, such as a picture's CLS token.
    """

    prefixed = False

    def __init__(
        self, poolings: Sequence[str], after: Sequence[nn.Module] = (), skip: int = 0, dim: int | None = None
    ) -> None:
        super().__init__()
        self.poolings, self.skip, self.dim = tuple(poolings), skip, dim
        self.after = nn.Sequential(*after).float()

    def forward(self, layer: Layer, pooled: Tensor | None = None) -> Tensor:
        """Return [B, D] from the last layer, or from `pooled` [B, D'], the model's own output."""
        if not self.poolings:
            assert pooled is not None  # guaranteed by `projects`
            return self.finish(pooled)
        kept = layer.mask & (layer.mask.cumsum(1) > self.skip)
        values = full(layer.values)
        return self.finish(torch.cat([POOLINGS[name](values, kept, layer.mask) for name in self.poolings], -1))

    def finish(self, vectors: Tensor) -> Tensor:
        """Return [B, D] from the pooled vectors [B, D']."""
        result: Tensor = self.after(full(vectors))
        return result if self.dim is None else result[:, : self.dim]

    @property
    def pool(self) -> str | None:
        """The pool of the last layer from which it is made, if it is a single one."""
        name = POOLS.get(self.poolings[0]) if len(self.poolings) == 1 and not self.skip else None
        return None if self.prefixed and name != "cls" else name

    def as_pool(self, cls: bool) -> str:
        """Return the pool that equals this vector, up to its length; `"trained"` if there is none.

        Args:
            cls: true if the last layer has a CLS token.
        """
        changed = self.dim is not None or not all(isinstance(module, Unit) for module in self.after)
        if self.pool is None or changed or (self.pool == "cls" and not cls):
            return "trained"
        return self.pool

    def from_tokens(
        self, tokens: TokenBatch, layout: str, layers: Sequence[int], widths: Sequence[int], dim: int
    ) -> Tensor | None:
        """Return [B, dim] from stored tokens; None if they lack the necessary ones.

        Args:
            tokens: output of `lay_out`.
            layout: output of `choose_tokens`.
            layers: negative indices of the layers.
            widths: widths of those layers.
            dim: D, width of this vector.
        """
        pools, _, sequence = layout.partition("|")
        if pools == "all" and -1 in layers:
            place = list(layers).index(-1)
            values = torch.split(tokens.values, list(widths), -1)[place]
            return self.forward(Layer(values, tokens.mask)) if self.poolings else None
        if pools == "all" or pools.startswith("grid:"):
            return None
        slots = slots_of(layers, pools)
        if Slot(-1, "trained") in slots:
            return tokens.values[:, slots.index(Slot(-1, "trained")), :dim].float()
        width = widths[list(layers).index(-1)] if -1 in layers else 0
        if self.pool is not None and Slot(-1, self.pool) in slots:
            return self.finish(tokens.values[:, slots.index(Slot(-1, self.pool)), :width])
        if sequence == "all" and layers[0] == -1 and self.poolings:
            rest = tokens.places(len(slots))
            return self.forward(Layer(rest.values[..., :width], rest.mask))
        return None


def _at(values: Tensor, places: Tensor) -> Tensor:
    return values[torch.arange(values.shape[0], device=values.device), places]


def _first(values: Tensor, kept: Tensor, real: Tensor) -> Tensor:
    return _at(values, kept.int().argmax(1))


def _last(values: Tensor, kept: Tensor, real: Tensor) -> Tensor:
    return _at(values, (kept * torch.arange(kept.shape[1], device=kept.device)).argmax(1))


def _max(values: Tensor, kept: Tensor, real: Tensor) -> Tensor:
    return values.masked_fill(~kept.unsqueeze(-1), -torch.inf).amax(1)


def _sum(values: Tensor, weights: Tensor) -> Tensor:
    return (values.masked_fill(weights.unsqueeze(-1) == 0, 0) * weights.unsqueeze(-1)).sum(1)


def _mean(values: Tensor, kept: Tensor, real: Tensor) -> Tensor:
    return _sum(values, kept) / kept.sum(1, keepdim=True).clamp(min=1)


def _mean_sqrt_len(values: Tensor, kept: Tensor, real: Tensor) -> Tensor:
    return _sum(values, kept) / kept.sum(1, keepdim=True).clamp(min=1).sqrt()


def _weighted_mean(values: Tensor, kept: Tensor, real: Tensor) -> Tensor:
    # A token's weight is its position, including prompts (SGPT, arXiv 2202.08904).
    weights = real.cumsum(1) * kept
    return _sum(values, weights) / weights.sum(1, keepdim=True).clamp(min=1)


POOLINGS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
"""Poolings by sentence-transformers' names: [B, D] from values [B, T, D], masks of pooled and of real tokens [B, T]."""

# Poolings that are pools of a layer too, by their names there.
POOLS: Mapping[str, str] = {"cls": "cls", "max": "max", "mean": "mean", "lasttoken": "last"}
