"""The encoder of kind `"vectors"`: items are vectors or tokens that another program has computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lightcrl.data.vectors import read_tokens
from lightcrl.encoders.base import Encoder, EncoderSpec
from lightcrl.encoders.inputs import array
from lightcrl.errors import EncoderError, ItemError
from lightcrl.tokens import TokenBatch


class GivenVectors(Encoder):
    """Vectors [D] or tokens [T, D] as they come, in any form of `lightcrl.data.vectors`.

    The name of their maker and its revision identify them: vectors of another maker need another name. Their width is
    that of the first readable item, unless it is given.

    Args:
        spec: the table of the recipe.
        dim: D, width of a vector.
        slots: number of tokens with a fixed meaning at the start of every item, such as pools of layers.
        sequence: true if tokens of varying number follow the slots.
        revision: revision of the maker.

    Raises:
        EncoderError: a number is not positive.
    """

    kind = "vectors"
    batch_size = 1024

    def __init__(
        self,
        spec: EncoderSpec,
        *,
        dim: int | None = None,
        slots: int = 1,
        sequence: bool = False,
        revision: str | None = None,
    ) -> None:
        for name, number in (("dim", dim), ("slots", slots)):
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
                raise EncoderError(f"{name} = {number!r} of {spec.model!r}: expected a whole number from 1.")
        self._spec, self._dim, self._revision = spec, dim, revision
        self.slots, self.sequence = slots, sequence

    @property
    def spec(self) -> EncoderSpec:
        """The table of the recipe, with the width of the vectors once it is known."""
        width = {} if self._dim is None else {"dim": self._dim}
        return self._spec.model_copy(update={"options": {**self._spec.options, **width}})

    @property
    def dim(self) -> int:  # type: ignore[override]
        """D, the width of a vector."""
        if self._dim is None:
            raise EncoderError(
                f"the width of the vectors of {self._spec.model!r} is that of the first one, and there was none yet; "
                "options = { dim = D } tells it before."
            )
        return self._dim

    def describe(self) -> Mapping[str, Any]:
        """Return the maker's name and revision, and the meaning of the tokens."""
        return {
            "encoder": "vectors",
            "model": self._spec.model,
            "revision": self._revision,
            "slots": self.slots,
            "sequence": self.sequence,
        }

    def observe(self, reads: Iterable[Callable[[], Any]]) -> None:
        """Take the width of the first readable item, if none is known."""
        if self._dim is not None:
            return
        for read in reads:
            try:
                self._settle(_tokens(read()).shape[1])
                return
            except ItemError:
                continue

    def prepare(self, raw: Any) -> np.ndarray:
        """Return tokens [T, D] of an item, float32.

        Raises:
            ItemError: the item is not an array of numbers, or its shape differs from that of the others.
        """
        tokens = _tokens(raw)
        if self._dim is not None and tokens.shape[1] != self._dim:
            raise ItemError("another width", f"found {tokens.shape[1]} numbers; expected {self._dim}")
        least = self.slots + 1 if self.sequence else self.slots
        if (self.sequence or self.slots > 1) and (len(tokens) < least or (len(tokens) > least and not self.sequence)):
            raise ItemError("another number of tokens", f"found {len(tokens)}; expected {least}")
        return tokens

    def length(self, prepared: np.ndarray) -> int:
        """Return the number of tokens."""
        return len(prepared)

    def encode(self, prepared: Sequence[np.ndarray]) -> TokenBatch:
        """Return the tokens as a batch."""
        if self._dim is None:
            self._settle(prepared[0].shape[1])
        return TokenBatch.from_ragged([torch.from_numpy(np.array(tokens)) for tokens in prepared])

    def _settle(self, dim: int) -> None:
        self._dim = dim
        if isinstance(self.origin, partial):
            # An encoder on another machine does not see the first item.
            self.origin = partial(self.origin.func, self.spec)


def _tokens(raw: Any) -> np.ndarray:
    return read_tokens(array(raw, "a vector") if isinstance(raw, torch.Tensor) else raw)
