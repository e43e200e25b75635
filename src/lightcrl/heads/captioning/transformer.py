"""The library's own decoder: a small transformer with cross-attention to an item's tokens (arXiv 1706.03762)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from lightcrl.heads.captioning.decoder import Decoder, State
from lightcrl.heads.captioning.words import PAD
from lightcrl.methods.dropout import Dropout
from lightcrl.tokens import TokenBatch


class TransformerDecoder(Decoder):
    """Pre-norm blocks of self-attention, attention to the memory and a feed-forward layer; embeddings are tied.

    x = E[piece] + P[place]
    x = x + self(norm(x));  x = x + cross(norm(x), memory);  x = x + feed(norm(x))     per block
    logits = norm(x) Eᵀ + b
    """

    def __init__(
        self, pieces: int, width: int, blocks: int, heads: int, feedforward: int, longest: int, dropout: float
    ) -> None:
        """Make a decoder of `blocks` blocks for captions of at most `longest` pieces, the start included."""
        super().__init__()
        self.width = width
        self.embedding = nn.Parameter(torch.randn(pieces, width) * 0.02)
        self.bias = nn.Parameter(torch.zeros(pieces))
        self.places = nn.Parameter(torch.randn(longest, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, heads, feedforward, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, memory: TokenBatch, owners: Tensor, pieces: Tensor) -> Tensor:
        """Return logits [M, V]."""
        values = self.dropout(self.embedding[pieces.clamp(min=0)] + self.places[: pieces.shape[1]])
        mask = memory.mask[owners, None, None]
        for block in self._blocks():
            keys, contents = (part[owners] for part in block.remember(memory.values))
            values, _ = block(values, None, keys, contents, mask)
        return self._logits(values[pieces != PAD])

    def following(self, memory: Tensor, mask: Tensor, pieces: Tensor) -> Tensor:
        """Return logits [N, V] of the piece after all of `pieces` [N, L], for memory [N, T, d] and mask [N, T]."""
        values = self.embedding[pieces] + self.places[: pieces.shape[1]]
        for block in self._blocks():
            values, _ = block(values, None, *block.remember(memory), mask[:, None, None])
        return self._logits(values[:, -1])

    def begin(self, memory: TokenBatch) -> State:
        """Return each item's keys and values of the memory, by block."""
        remembered = [part for block in self._blocks() for part in block.remember(memory.values)]
        empty = [part[:, :, :0] for part in remembered]
        return State(tuple(empty), (memory.mask[:, None, None], *remembered))

    def advance(self, state: State, pieces: Tensor) -> tuple[Tensor, State]:
        """Return logits [N, V] and the state with one place more."""
        values = self.embedding[pieces, None] + self.places[state.length]
        mask, *remembered = state.fixed
        layers: list[Tensor] = []
        for number, block in enumerate(self._blocks()):
            pair = slice(2 * number, 2 * number + 2)
            values, grown = block(values, state.layers[pair], *remembered[pair], mask)
            layers += grown
        return self._logits(values)[:, 0], State(tuple(layers), state.fixed, state.length + 1)

    def _logits(self, values: Tensor) -> Tensor:
        return linear(self.dropout(self.norm(values)), self.embedding, self.bias)

    def _blocks(self) -> list[_Block]:
        return [block for block in self.blocks if isinstance(block, _Block)]


class _Block(nn.Module):
    """A block; keys and values are [N, heads, T, width / heads]."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.within, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.memory = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.looked = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.dropout = Dropout(dropout)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the memory [B, T, d]."""
        keys, values = self._split(self.memory(memory)).chunk(2, 1)
        return keys, values

    def forward(
        self, x: Tensor, before: tuple[Tensor, ...] | None, keys: Tensor, contents: Tensor, mask: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return [N, L, d], and keys and values of all places so far; `before` are those of earlier places."""
        query, key, value = self._split(self.within(self.norms[0](x))).chunk(3, 1)
        if before is not None:  # a single new place, which may look at all
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        own = _attend(query, key, value, causal=before is None)
        x = x + self.dropout(self.joined(_merge(own)))
        query = self._split(self.query(self.norms[1](x)))
        x = x + self.dropout(self.looked(_merge(_attend(query, keys, contents, mask))))
        x = x + self.dropout(self.narrow(self.dropout(gelu(self.wide(self.norms[2](x))))))
        return x, (key, value)

    def _split(self, values: Tensor) -> Tensor:
        """Return [N, parts x heads, L, width / heads] of [N, L, parts x width]."""
        width = self.looked.in_features // self.heads
        return values.reshape(*values.shape[:2], -1, width).transpose(1, 2)


def _merge(values: Tensor) -> Tensor:
    return values.transpose(1, 2).flatten(2)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Return attention in float32, whose gradient in bfloat16 takes four times as long on a CPU."""
    with torch.autocast(query.device.type, enabled=False):
        parts = query.float(), keys.float(), values.float()
        return scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=causal)
