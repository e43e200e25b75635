"""What to keep of a model's hidden states: which blocks, and how the tokens of each are pooled.

Pure functions over `Layer`; nothing here knows of models or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from lightcrl.encoders.base import Kind
from lightcrl.errors import EncoderError
from lightcrl.tokens import TokenBatch

# By kind: the pools of `tokens = "pooled"`, for models with and without a CLS token.
POOLED: dict[Kind, tuple[str, str]] = {"text": ("mean", "mean"), "image": ("cls", "mean"), "audio": ("mean", "mean")}

# Of `tokens = "auto"`: the pools of the last layer, and those of every other (docs/LOG.md has the figures).
AUTO: dict[Kind, tuple[tuple[str, str], tuple[str, str]]] = {
    "text": (("mean+cls+max", "mean"), ("mean+max", "mean")),
    "image": (("cls+mean", "cls+mean"), ("mean+max", "mean")),
    "audio": (("mean+max", "mean"), ("mean+max", "mean")),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """The tokens after one block.

    Attributes:
        values: [B, T, D].
        mask: [B, T] bool, True where a token is real.
        cls: the first token sums up the item.
        prefix: how many leading tokens stand for no part of the item (CLS and registers of an image). Only `cls` and
            `all` look at them. Of a text, all tokens count as parts.
        grid: rows and columns of the tokens after the prefix, where they are patches of an image.
    """

    values: Tensor
    mask: Tensor
    cls: bool = False
    prefix: int = 0
    grid: tuple[int, int] | None = None

    def content(self) -> TokenBatch:
        """The tokens after the prefix."""
        return TokenBatch(self.values[:, self.prefix :], self.mask[:, self.prefix :])


def auto_layers(blocks: int) -> tuple[int, ...]:
    """The layers of `layers = "auto"`: the last and two more, a fifth and two fifths of the depth before it.

    >>> auto_layers(24), auto_layers(12), auto_layers(6), auto_layers(3)
    ((-1, -6, -11), (-1, -3, -6), (-1, -2, -4), (-1,))
    """
    return tuple(-1 - step * (blocks + 2) // 5 for step in range(3)) if blocks >= 4 else (-1,)


def choose_layers(wanted: Sequence[int] | str, widths: Sequence[int]) -> tuple[int, ...]:
    """Indices of the blocks to keep, from the width of each block.

    Blocks of unequal width are the stages of a CNN or of a pyramid, whose early ones see little: `"auto"` takes the
    last alone.

    Raises:
        EncoderError: a layer that the model does not have, or none at all.
    """
    blocks = len(widths)
    if isinstance(wanted, str):
        return auto_layers(blocks) if len(set(widths)) == 1 else (-1,)
    if not wanted:
        raise EncoderError("layers = [] keeps nothing; expected at least one, such as [-1].")
    for layer in wanted:
        if not -blocks <= layer < blocks:
            raise EncoderError(f"layer {layer} of a model with {blocks} blocks; expected {-blocks} to {blocks - 1}.")
    return tuple(wanted)


def choose_tokens(wanted: str, kind: Kind, cls: bool, layers: int) -> str:
    """`"auto"` and `"pooled"` as the pools they stand for; anything else as it is.

    >>> choose_tokens("auto", "text", cls=True, layers=3)
    'mean+cls+max,mean,mean'
    """
    if wanted == "pooled":
        return POOLED[kind][0 if cls else 1]
    if wanted == "auto":
        last, others = AUTO[kind][0 if cls else 1]
        return ",".join([last, *[others] * (layers - 1)])
    return wanted


def describe_layout(layers: Sequence[int] | str, tokens: str, kind: Kind) -> dict[str, Any]:
    """Both settings as JSON values for a fingerprint; `"auto"` with its rule, so that a new rule makes another one."""
    return {
        "layers": ["auto", *auto_layers(100)] if isinstance(layers, str) else list(layers),
        "tokens": ["auto", *map(list, AUTO[kind])] if tokens == "auto" else tokens,
    }


def pools_by_layer(tokens: str, layers: int) -> list[list[str]]:
    """The pools of each layer: `"a+b,c"` gives the first two and the second one, `"a+b"` gives every layer the same.

    Raises:
        EncoderError: there are neither one nor as many as layers.
    """
    parts = tokens.split(",")
    if len(parts) not in (1, layers):
        raise EncoderError(f"tokens = {tokens!r} has pools for {len(parts)} layers, found {layers} layers.")
    return [part.split("+") for part in (parts * layers if len(parts) == 1 else parts)]


def count_slots(tokens: str, layers: int) -> int:
    """Tokens per item that have a meaning of their own: all pools of all layers; 1 for `grid:N` and `all`."""
    if tokens == "all" or tokens.startswith("grid:"):
        return 1
    return sum(map(len, pools_by_layer(tokens, layers)))


def own_vectors(tokens: TokenBatch, layout: str, depths: Sequence[int]) -> Tensor:
    """[B, D] the mean over the deepest layer's tokens, or that layer's first pool where the mean is not among them.

    Args:
        tokens: what `lay_out` gave.
        layout: what `choose_tokens` gave.
        depths: of the layers, larger is deeper.
    """
    deepest = max(range(len(depths)), key=depths.__getitem__)
    if layout == "all" or layout.startswith("grid:"):
        return tokens.mean().chunk(len(depths), -1)[deepest]
    pools = pools_by_layer(layout, len(depths))
    before = sum(map(len, pools[:deepest]))
    return tokens.values[:, before + (pools[deepest].index("mean") if "mean" in pools[deepest] else 0)]


def lay_out(layers: Sequence[Layer], tokens: str) -> TokenBatch:
    """The tokens of `layers` as `tokens` wants them (what `choose_tokens` gave), in float32.

    Pools are tokens, ordered layer by layer; narrower layers are filled up with zeros to the width of the widest. With
    `grid:N` and `all`, the layers of one place stand side by side in one token.

    Raises:
        EncoderError: `cls` without a CLS token, a grid finer than the model's, `all` of layers that differ in tokens.
    """
    if tokens == "all":
        return _side_by_side([TokenBatch(layer.values, layer.mask) for layer in layers])
    if tokens.startswith("grid:"):
        return _side_by_side([_divide(layer, int(tokens.removeprefix("grid:"))) for layer in layers])
    width = max(layer.values.shape[-1] for layer in layers)
    chosen = zip(layers, pools_by_layer(tokens, len(layers)), strict=True)
    vectors = [POOLS[pool](layer).float() for layer, pools in chosen for pool in pools]
    return TokenBatch.full(torch.stack([pad(vector, (0, width - vector.shape[-1])) for vector in vectors], dim=1))


def _side_by_side(parts: Sequence[TokenBatch]) -> TokenBatch:
    counts = [part.values.shape[1] for part in parts]
    if len(set(counts)) > 1:
        raise EncoderError(
            f"layers with {', '.join(map(str, counts))} tokens cannot stand side by side. Keep one layer, or use "
            "pools or 'grid:N'."
        )
    return TokenBatch(torch.cat([part.values.float() for part in parts], dim=-1), parts[0].mask)


def _cls(layer: Layer) -> Tensor:
    if not layer.cls:
        raise EncoderError("tokens = 'cls', but this model has no CLS token. Use 'mean', 'max' or 'mean+max'.")
    return layer.values[:, 0]


def _mean(layer: Layer) -> Tensor:
    content = layer.content()
    return TokenBatch(content.values.float(), content.mask).mean()


def _max(layer: Layer) -> Tensor:
    content = layer.content()
    return content.values.masked_fill(~content.mask.unsqueeze(-1), -torch.inf).amax(1)


POOLS: dict[str, Callable[[Layer], Tensor]] = {"cls": _cls, "mean": _mean, "max": _max}


def _divide(layer: Layer, parts: int) -> TokenBatch:
    """`grid:N` of one layer: N x N patches (the CLS token before them), or N segments of a sequence."""
    if layer.grid is None:
        return average_segments(layer.content(), parts)
    rows, columns = layer.grid
    if parts > min(rows, columns):
        raise EncoderError(f"tokens = 'grid:{parts}' of a model with {rows} x {columns} patches; a grid only averages.")
    patches = layer.content().values.float().mT
    cells = adaptive_avg_pool2d(patches.reshape(*patches.shape[:2], rows, columns), parts).flatten(2).mT
    return TokenBatch.full(torch.cat([layer.values[:, :1].float(), cells], dim=1) if layer.cls else cells)


def average_segments(tokens: TokenBatch, parts: int) -> TokenBatch:
    """Cut the real tokens of each item, in order, into `parts` equal segments and average each.

    An item of L < `parts` tokens keeps its L tokens.

    >>> tokens = TokenBatch.full(torch.tensor([[[1.0], [3.0], [5.0], [7.0]]]))
    >>> average_segments(tokens, 2).values.flatten().tolist()
    [2.0, 6.0]
    """
    lengths = tokens.lengths[:, None]
    counts = lengths.clamp(max=parts)
    edges = torch.arange(parts + 1, device=lengths.device) * lengths // counts.clamp(min=1)
    place = (tokens.mask.cumsum(1) - 1).unsqueeze(1)
    inside = (place >= edges[:, :-1, None]) & (place < edges[:, 1:, None]) & tokens.mask.unsqueeze(1)
    weights = inside / inside.sum(-1, keepdim=True).clamp(min=1)
    values = tokens.values.float().masked_fill(~tokens.mask.unsqueeze(-1), 0)
    return TokenBatch(weights @ values, torch.arange(parts, device=lengths.device) < counts)
