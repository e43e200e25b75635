"""Proof that old weights and embeddings are unchanged: every old leaf and embedding is compared bit by bit."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from lightcrl.checkpoint import Checkpoint
from lightcrl.errors import GrowthError
from lightcrl.methods import Method
from lightcrl.tokens import TokenBatch

ITEMS = 16
"""Number of random items per modality that both models embed."""


@dataclass(frozen=True)
class Proof:
    """Old weights and embeddings that are equal to the bit.

    Attributes:
        base: digest of the model before the extension.
        leaves: number of tensors in both models, all equal to the bit.
        numbers: number of elements in these tensors.
        modalities: modalities whose embeddings of random tokens are equal to the bit.
    """

    base: str
    leaves: int
    numbers: int
    modalities: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the proof as plain JSON values."""
        return {**vars(self), "modalities": list(self.modalities)}


def prove(base: Checkpoint, grown: Checkpoint, changed: Collection[str]) -> Proof:
    """Compare an extended model with the model that it was extended from.

    Args:
        base: the model before the extension.
        grown: the model after the extension.
        changed: modalities that were added, made anew or removed.

    Raises:
        GrowthError: a leaf or the embeddings of a modality differ.
    """
    before, after = base.method.state_dict(), grown.method.state_dict()
    own = frozenset[str]().union(
        *(
            method.leaves_of(name)
            for method in (base.method, grown.method)
            for name in changed
            if name in method.modalities
        )
    )
    kept = sorted(before.keys() - own)
    for leaf in kept:
        if leaf not in after or not same_bits(before[leaf], after[leaf]):
            raise GrowthError(f"the leaf {leaf!r} is not as it was in the model that grew; expected it bit for bit.")
    modalities = tuple(sorted(base.method.modalities.keys() - set(changed)))
    for name in modalities:
        tokens = random_tokens(base.method, name)
        if not same_bits(embedded(base.method, name, tokens), embedded(grown.method, name, tokens)):
            raise GrowthError(
                f"embeddings of {name!r} are not as they were in the model that grew; expected every bit."
            )
    return Proof(base.digest, len(kept), sum(before[leaf].numel() for leaf in kept), modalities)


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Return true if two tensors have the same shape, dtype and bytes."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    first, second = (tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right))
    return torch.equal(first, second)


def random_tokens(method: Method, modality: str) -> TokenBatch:
    """Return random tokens [ITEMS, T, D] of the shape of a modality, drawn with seed 0."""
    spec = method.modalities[modality]
    more = 5 if spec.sequence or spec.slots == 1 else 0
    generator = torch.Generator().manual_seed(0)
    return TokenBatch.full(torch.randn(ITEMS, spec.slots + more, spec.dim, generator=generator))


@torch.inference_mode()
def embedded(method: Method, modality: str, tokens: TokenBatch) -> Tensor:
    """Return unit vectors [B, d], computed in eval mode."""
    was_training = method.training
    method.eval()
    vectors: Tensor = method(modality, tokens.to(method.logit_scale.device)).cpu()
    method.train(was_training)
    return vectors
