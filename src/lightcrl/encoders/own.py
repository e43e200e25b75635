"""The user's own encoder: any object with `encode`, checked against the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lightcrl.encoders.base import Encoder, EncoderSpec
from lightcrl.errors import EncoderError, ShapeError
from lightcrl.tokens import TokenBatch


class OwnEncoder(Encoder):
    """An object with `encode(list of raw items) -> array [B, D] or [B, T, D], or TokenBatch`.

    Its `prepare`, `dim`, `slots`, `sequence` and `fingerprint` are used if present. The name of its class, its options
    and its `fingerprint` attribute identify its output: when its weights change, one of them must change. Its networks
    are put into eval mode.

    Raises:
        EncoderError: there is no `encode`, or its output is not finite.
        ShapeError: its output is not a row per item.
    """

    def __init__(self, made: Any, spec: EncoderSpec) -> None:
        if not callable(getattr(made, "encode", None)):
            raise EncoderError(
                f"{spec.model!r} gave a {type(made).__name__} without encode(items). Expected a subclass of "
                "lightcrl.encoders.Encoder, or a class with encode(list of raw items) -> array [B, D] or [B, T, D]."
            )
        self.made, self.spec = made, spec
        self.kind = spec.kind
        if spec.batch_size != "auto":
            self.batch_size = spec.batch_size
        self.slots = int(getattr(made, "slots", 1))
        self.sequence = bool(getattr(made, "sequence", False))
        self._dim: int | None = getattr(made, "dim", None)
        for part in (made, *getattr(made, "__dict__", {}).values()):
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """D, the width of a token; known from the first batch on if the object does not define it."""
        if self._dim is None:
            raise EncoderError(
                f"{self.spec.model!r} has encoded nothing yet; an attribute `dim` tells its width before."
            )
        return self._dim

    def describe(self) -> Mapping[str, Any]:
        """Return the class, its options and its `fingerprint` attribute."""
        mark = getattr(self.made, "fingerprint", None)
        return {
            "encoder": self.spec.model,
            "kind": self.kind,
            "options": self.spec.options,
            "fingerprint": mark() if callable(mark) else mark,
        }

    def prepare(self, raw: Any) -> Any:
        """Call the object's own `prepare`, or return the raw item."""
        prepare = getattr(self.made, "prepare", None)
        return raw if prepare is None else prepare(raw)

    def encode(self, prepared: Sequence[Any]) -> TokenBatch:
        """Return the object's output, validated, in float32."""
        with torch.no_grad():
            output = self.made.encode(list(prepared))
        tokens = output if isinstance(output, TokenBatch) else self._tokens(output)
        if len(tokens) != len(prepared) or tokens.dim != (self._dim or tokens.dim):
            raise ShapeError(
                f"{self.spec.model!r} gave tokens of shape {list(tokens.values.shape)} for {len(prepared)} items; "
                f"expected [{len(prepared)}, T, {self._dim or 'D'}]."
            )
        # Copies, since tensors from inference mode cannot be used in training.
        values, mask = tokens.values.detach().to(torch.float32, copy=True), tokens.mask.clone()
        if not torch.isfinite(values[mask]).all():
            raise EncoderError(f"{self.spec.model!r} gave values that are not finite.")
        self._dim = tokens.dim
        return TokenBatch(values, mask)

    def _tokens(self, output: Any) -> TokenBatch:
        values = output if isinstance(output, torch.Tensor) else torch.as_tensor(np.asarray(output))
        if values.ndim not in (2, 3):
            raise ShapeError(
                f"{self.spec.model!r} gave an array of shape {list(values.shape)}; expected [B, D] or [B, T, D]."
            )
        return TokenBatch.from_vectors(values) if values.ndim == 2 else TokenBatch.full(values)
