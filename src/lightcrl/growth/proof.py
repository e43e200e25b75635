"""The proof that nothing old has moved: every leaf and every old embedding compared, bit by bit."""

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
"""Random items that are embedded by both models."""


@dataclass(frozen=True)
class Proof:
    """What was found equal.

    Attributes:
        base: digest of the model that grew.
        leaves: tensors that both have, all equal to the bit.
        numbers: how many numbers are in them.
        modalities: whose embeddings of random tokens are equal to the bit.
    """

    base: str
    leaves: int
    numbers: int
    modalities: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return {**vars(self), "modalities": list(self.modalities)}


def prove(base: Checkpoint, grown: Checkpoint, changed: Collection[str]) -> Proof:
    """Compare a model with the one that it grew from.

    Args:
        base: the model before.
        grown: after.
        changed: modalities that are new, made anew or removed.

    Raises:
        GrowthError: names the leaf or the modality that is not the same.
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
    """Whether two tensors have one shape, one dtype and the same bytes."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    one, other = (found.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for found in (left, right))
    return torch.equal(one, other)


def random_tokens(method: Method, modality: str) -> TokenBatch:
    """Tokens of some items, as the modality has them."""
    spec = method.modalities[modality]
    more = 5 if spec.sequence or spec.slots == 1 else 0
    generator = torch.Generator().manual_seed(0)
    return TokenBatch.full(torch.randn(ITEMS, spec.slots + more, spec.dim, generator=generator))


@torch.inference_mode()
def embedded(method: Method, modality: str, tokens: TokenBatch) -> Tensor:
    """Unit vectors [B, d], in eval mode."""
    was_training = method.training
    method.eval()
    vectors: Tensor = method(modality, tokens.to(method.logit_scale.device)).cpu()
    method.train(was_training)
    return vectors
