"""Selection of a model's hidden states: the blocks, and the pooling of each block's tokens.

Pure functions over `Layer`; this module does not depend on models or files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from lightcrl.encoders.base import Kind, Slot
from lightcrl.errors import EncoderError
from lightcrl.tokens import TokenBatch

# The pools of `tokens = "pooled"` by kind, for models with and without a CLS token.
POOLED: dict[Kind, tuple[str, str]] = {"text": ("mean", "mean"), "image": ("cls", "mean"), "audio": ("mean", "mean")}

# The pools of `tokens = "auto"`: those of the last layer, and those of every other (docs/LOG.md has the figures), for
# models with and without a CLS token; then the sequence of the last layer.
SEQUENCE: dict[Kind, str] = {"text": "all", "image": "grid:7", "audio": "grid:16"}
AUTO: dict[Kind, tuple[tuple[str, str], tuple[str, str]]] = {
    "text": (("mean+cls+max", "mean"), ("mean+max", "mean")),
    "image": (("cls+mean", "cls+mean"), ("mean+max", "mean")),
    "audio": (("mean+max", "mean"), ("mean+max", "mean")),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """The tokens after a block.

    Attributes:
        values: tokens [B, T, D].
        mask: [B, T] bool, True where a token is real.
        cls: true if the first token summarises the item.
        prefix: number of leading tokens that are not parts of the item (CLS and registers of an image). Only `cls` and
            `all` use them. In a text, all tokens count as parts.
        grid: rows and columns of the tokens after the prefix, if they are patches of an image.
        trained: vector that the model was trained to give, [B, D'], of the last layer only.
    """

    values: Tensor
    mask: Tensor
    cls: bool = False
    prefix: int = 0
    grid: tuple[int, int] | None = None
    trained: Tensor | None = None

    def real_first(self) -> Layer:
        """Return the same tokens with the real tokens of every item before its padding, in order."""
        order = self.mask.int().argsort(stable=True, dim=1, descending=True)
        values = self.values.gather(1, order.unsqueeze(-1).expand_as(self.values))
        return replace(self, values=values, mask=self.mask.gather(1, order))

    def content(self) -> TokenBatch:
        """Return the tokens after the prefix."""
        return TokenBatch(self.values[:, self.prefix :], self.mask[:, self.prefix :])


def auto_layers(blocks: int) -> tuple[int, ...]:
    """Return the layers of `layers = "auto"`: the last, and those a fifth and two fifths of the depth before it.

    >>> auto_layers(24), auto_layers(12), auto_layers(6), auto_layers(3)
    ((-1, -6, -11), (-1, -3, -6), (-1, -2, -4), (-1,))
    """
    return tuple(-1 - step * (blocks + 2) // 5 for step in range(3)) if blocks >= 4 else (-1,)


def choose_layers(wanted: Sequence[int] | str, widths: Sequence[int]) -> tuple[int, ...]:
    """Return indices of the blocks to keep, from the width of each block.

    Blocks of unequal width are the stages of a CNN or of a pyramid, whose early stages have small receptive fields:
    `"auto"` takes only the last.

    Raises:
        EncoderError: the model lacks a layer, or there are no layers.
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


def choose_tokens(wanted: str, kind: Kind, last: Layer, layers: int, own: str | None = None) -> str:
    """Resolve `"auto"` and `"pooled"` from the model's last layer; other values are returned unchanged.

    Args:
        wanted: tokens of the recipe.
        kind: kind of items.
        last: the model's last layer.
        layers: number of kept layers.
        own: pool of the first of them that the model was trained to give; `"auto"` includes it.

    >>> words = Layer(torch.zeros(1, 4, 8), torch.ones(1, 4, dtype=torch.bool), cls=True)
    >>> choose_tokens("auto", "text", words, layers=3)
    'mean+cls+max,mean,mean|all'
    """
    cls = last.cls
    if wanted == "pooled":
        return POOLED[kind][0 if cls else 1]
    start, _, given = wanted.partition("|")
    if start == "auto":
        first, others = AUTO[kind][0 if cls else 1]
        if own is not None and own not in first.split("+"):
            first = f"{first}+{own}"
        pools = ",".join([first, *[others] * (layers - 1)])
        sequence = given or ("grid:7" if last.grid else SEQUENCE[kind])
        if last.grid and sequence != "all":  # a grid only averages
            sequence = f"grid:{min(int(sequence.removeprefix('grid:')), *last.grid)}"
        # A single position has no more information than the mean.
        return pools if last.content().mask.shape[1] == 1 or sequence == "grid:1" else f"{pools}|{sequence}"
    return wanted


def describe_layout(layers: Sequence[int] | str, tokens: str, kind: Kind) -> dict[str, Any]:
    """Return both settings as JSON values for a fingerprint; `"auto"` includes its rule, so a new rule changes it."""
    start, _, given = tokens.partition("|")
    return {
        "layers": ["auto", *auto_layers(100)] if isinstance(layers, str) else list(layers),
        "tokens": ["auto", *map(list, AUTO[kind]), given or SEQUENCE[kind]] if start == "auto" else tokens,
    }


def pools_by_layer(tokens: str, layers: int) -> list[list[str]]:
    """Return the pools of each layer: `"a+b,c"` has a list per layer, `"a+b"` the same list for every layer.

    Raises:
        EncoderError: the number of lists is neither one nor the number of layers.
    """
    parts = tokens.split(",")
    if len(parts) not in (1, layers):
        raise EncoderError(f"tokens = {tokens!r} has pools for {len(parts)} layers, found {layers} layers.")
    return [part.split("+") for part in (parts * layers if len(parts) == 1 else parts)]


def every_layer(widths: Sequence[int], chosen: Sequence[int] = (), most: int = 12) -> tuple[int, ...]:
    """Return about `most` layers spread over the depth, including those of `"auto"` and `chosen`, as negative indices
    from the last on.

    >>> every_layer([8] * 5), every_layer([8] * 24, most=6)
    ((-1, -2, -3, -4, -5), (-1, -6, -11, -15, -19, -24))
    """
    blocks = len(widths)
    first = {*choose_layers("auto", widths), *chosen}
    if blocks <= most:
        return tuple(range(-1, -blocks - 1, -1))
    spare = [-1 - round(place * (blocks - 1) / (most - 1)) for place in range(most)]
    # An evenly spread layer next to a layer of "auto" is dropped in its favour.
    spare.sort(key=lambda layer: min(abs(layer - other) for other in first), reverse=True)
    return tuple(
        sorted(first.union([layer for layer in spare if layer not in first][: max(0, most - len(first))]), reverse=True)
    )


def every_pool(cls: bool, more: Collection[str], layers: int) -> str:
    """Return the alternative pools in the form of `tokens`: those of every layer, and the last layer's trained vector.

    Args:
        cls: true if there is a CLS token.
        more: pools that must be included.
        layers: number of layers, the last of the model first.

    >>> every_pool(True, {"mean"}, 2), every_pool(False, {"last", "trained"}, 2)
    ('cls+mean+max', 'mean+max+last+trained,mean+max+last')
    """
    pools = ("cls+" if cls else "") + "mean+max" + ("+last" if "last" in more else "")
    return ",".join([f"{pools}+trained", *[pools] * (layers - 1)]) if "trained" in more else pools


def from_the_end(layers: Sequence[int], blocks: int) -> list[int]:
    """Return indices of blocks as negative indices.

    >>> from_the_end((-1, 0, 5), 6)
    [-1, -6, -1]
    """
    return [layer % blocks - blocks for layer in layers]


def slots_of(layers: Sequence[int], tokens: str) -> tuple[Slot, ...]:
    """Return the slots that `lay_out` makes of pools, in its order.

    >>> slots_of((-1, -3), "cls+mean,max")
    (Slot(layer=-1, pool='cls'), Slot(layer=-1, pool='mean'), Slot(layer=-3, pool='max'))
    """
    chosen = zip(layers, pools_by_layer(tokens, len(layers)), strict=True)
    return tuple(Slot(layer, pool) for layer, pools in chosen for pool in pools)


def write_layout(slots: Sequence[Slot]) -> tuple[tuple[int, ...], str]:
    """Return the `layers` and `tokens` of a recipe for these slots, last layer first; the inverse of `slots_of`.

    >>> write_layout([Slot(-3, "max"), Slot(-1, "mean"), Slot(-1, "cls")])
    ((-1, -3), 'mean+cls,max')
    """
    layers = tuple(sorted({slot.layer for slot in slots}, reverse=True))
    pools = ["+".join(dict.fromkeys(slot.pool for slot in slots if slot.layer == layer)) for layer in layers]
    return layers, pools[0] if len(set(pools)) == 1 else ",".join(pools)


def count_slots(tokens: str, layers: int) -> int:
    """Return the number of tokens with a fixed meaning per item: all pools of all layers; 1 for `grid:N` and `all`."""
    if is_sequence(tokens):
        return 1
    return sum(map(len, pools_by_layer(tokens.partition("|")[0], layers)))


def is_sequence(tokens: str) -> bool:
    """Return true if all tokens of a layout are positions of the layers side by side."""
    return tokens == "all" or tokens.startswith("grid:")


def own_vectors(tokens: TokenBatch, layout: str, depths: Sequence[int]) -> Tensor:
    """Return the mean over the deepest layer's tokens, [B, D], or that layer's first pool if the mean is missing.

    Args:
        tokens: output of `lay_out`.
        layout: output of `choose_tokens`.
        depths: depths of the layers, larger is deeper.
    """
    deepest = max(range(len(depths)), key=depths.__getitem__)
    if is_sequence(layout):
        return tokens.mean().chunk(len(depths), -1)[deepest]
    pools = pools_by_layer(layout.partition("|")[0], len(depths))
    before = sum(map(len, pools[:deepest]))
    return tokens.values[:, before + (pools[deepest].index("mean") if "mean" in pools[deepest] else 0)]


def lay_out(layers: Sequence[Layer], tokens: str) -> TokenBatch:
    """Return the tokens of `layers` in the layout `tokens` (from `choose_tokens`), in float32.

    Pools are tokens, ordered layer by layer; narrower tokens are padded with zeros to the widest. After a `|`, the
    first layer's sequence follows them. With `grid:N` and `all` alone, the layers of a position are concatenated in one
    token.

    Raises:
        EncoderError: there is `cls` without a CLS token, `last` for pictures, `trained` without such a vector, a grid
            finer than the model's, or `all` for layers with different tokens.
    """
    if is_sequence(tokens):
        return _side_by_side([_sequence(layer, tokens) for layer in layers])
    pools, _, sequence = tokens.partition("|")
    chosen = zip(layers, pools_by_layer(pools, len(layers)), strict=True)
    vectors = [full(POOLS[pool](layer)) for layer, pools in chosen for pool in pools]
    width = max(values.shape[-1] for values in (*vectors, *([layers[0].values] if sequence else [])))
    slots = TokenBatch.full(torch.stack([pad(vector, (0, width - vector.shape[-1])) for vector in vectors], dim=1))
    if not sequence:
        return slots
    rest = _sequence(layers[0], sequence)
    values = pad(full(rest.values), (0, width - rest.dim))
    return TokenBatch(torch.cat([slots.values, values], 1), torch.cat([slots.mask, rest.mask], 1))


def full(values: Tensor) -> Tensor:
    """Return values in float32, or in float64 if they are."""
    return values if values.dtype == torch.float64 else values.float()


def _sequence(layer: Layer, tokens: str) -> TokenBatch:
    if tokens == "all":
        return TokenBatch(layer.values, layer.mask)
    return _divide(layer, int(tokens.removeprefix("grid:")))


def _side_by_side(parts: Sequence[TokenBatch]) -> TokenBatch:
    counts = [part.values.shape[1] for part in parts]
    if len(set(counts)) > 1:
        raise EncoderError(
            f"layers with {', '.join(map(str, counts))} tokens cannot stand side by side. Keep one layer, or use "
            "pools or 'grid:N'."
        )
    return TokenBatch(torch.cat([full(part.values) for part in parts], dim=-1), parts[0].mask)


def _cls(layer: Layer) -> Tensor:
    if not layer.cls:
        raise EncoderError("tokens = 'cls', but this model has no CLS token. Use 'mean', 'max' or 'mean+max'.")
    return layer.values[:, 0]


def _mean(layer: Layer) -> Tensor:
    content = layer.content()
    return TokenBatch(full(content.values), content.mask).mean()


def _max(layer: Layer) -> Tensor:
    content = layer.content()
    return content.values.masked_fill(~content.mask.unsqueeze(-1), -torch.inf).amax(1)


def _last(layer: Layer) -> Tensor:
    if layer.grid is not None:
        raise EncoderError("tokens = 'last' of pictures, whose patches have no last one. Use 'cls', 'mean' or 'max'.")
    places = (layer.mask * torch.arange(layer.mask.shape[1], device=layer.mask.device)).argmax(1)
    # Not len(): an exporter would treat the number of items as a constant.
    return layer.values[torch.arange(places.shape[0], device=places.device), places]


def _trained(layer: Layer) -> Tensor:
    if layer.trained is None:
        raise EncoderError(
            "tokens = 'trained', which the last layer alone has, of a folder in sentence-transformers' layout or of a "
            "dual encoder such as CLIP. Use 'cls', 'mean', 'max' or 'last'."
        )
    return layer.trained


POOLS: dict[str, Callable[[Layer], Tensor]] = {
    "cls": _cls,
    "mean": _mean,
    "max": _max,
    "last": _last,
    "trained": _trained,
}


def _divide(layer: Layer, parts: int) -> TokenBatch:
    """Return `grid:N` of a layer: N x N patches (after the CLS token), or N segments of a sequence."""
    if layer.grid is None:
        return average_segments(layer.content(), parts)
    rows, columns = layer.grid
    if parts > min(rows, columns):
        raise EncoderError(f"tokens = 'grid:{parts}' of a model with {rows} x {columns} patches; a grid only averages.")
    patches = full(layer.content().values).mT
    cells = adaptive_avg_pool2d(patches.reshape(*patches.shape[:2], rows, columns), parts).flatten(2).mT
    return TokenBatch.full(torch.cat([full(layer.values[:, :1]), cells], dim=1) if layer.cls else cells)


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
    values = full(tokens.values).masked_fill(~tokens.mask.unsqueeze(-1), 0)
    return TokenBatch(weights.to(values.dtype) @ values, torch.arange(parts, device=lengths.device) < counts)
