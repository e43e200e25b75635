"""The interface of decoders: from what is known of an item to the next piece of its caption."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from lightcrl.tokens import TokenBatch


@dataclass(frozen=True)
class State:
    """The progress of N unfinished captions.

    Attributes:
        layers: tensors that grow by a place per piece; the caption's number is their first axis.
        fixed: tensors that do not grow, the same for all captions of an item.
        length: number of pieces so far.
    """

    layers: tuple[Tensor, ...]
    fixed: tuple[Tensor, ...] = ()
    length: int = 0

    def rows(self, index: Tensor) -> State:
        """Return the captions at `index`, in that order; a caption may be repeated."""
        return State(tuple(part[index] for part in self.layers), tuple(part[index] for part in self.fixed), self.length)

    def reordered(self, index: Tensor) -> State:
        """Return the captions at `index`, each of the same item as the caption in whose place it is."""
        return State(tuple(part[index] for part in self.layers), self.fixed, self.length)


class Decoder(nn.Module, ABC):
    """A distribution over the next piece, given an item's memory and the pieces before.

    The memory is tokens [B, T, width] of B items; its padding is never read. `forward` reads whole captions, for
    training; `begin` and `advance` go piece by piece, and give the same logits.
    """

    width: int
    """Width of a token of the memory."""

    @abstractmethod
    def forward(self, memory: TokenBatch, owners: Tensor, pieces: Tensor) -> Tensor:
        """Return logits [M, V] of the piece after each of `pieces` [N, L] that is not padding, in their order.

        `owners` [N] are the rows of the memory.
        """

    @abstractmethod
    def begin(self, memory: TokenBatch) -> State:
        """Return the state of a caption without pieces of each item."""

    @abstractmethod
    def advance(self, state: State, pieces: Tensor) -> tuple[Tensor, State]:
        """Return logits [N, V] of the piece after `pieces` [N], the next of each caption, and the new state."""
