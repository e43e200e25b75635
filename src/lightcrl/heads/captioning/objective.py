"""The loss of captions: cross-entropy of every next piece, with label smoothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightcrl.heads.captioning.decoder import Decoder
from lightcrl.heads.captioning.words import PAD
from lightcrl.tokens import TokenBatch

PART = 64
"""Number of captions that are padded together: captions of similar length, so that little is computed in vain."""


def caption_loss(decoder: Decoder, memory: TokenBatch, owners: Tensor, pieces: Tensor, smoothing: float) -> Tensor:
    """Return the mean over all pieces of the cross-entropy of the next piece.

    Args:
        decoder: the decoder.
        memory: memory of the items.
        owners: row of the memory of each caption, [N].
        pieces: pieces of the captions from start to end, [N, L], padded by `PAD`.
        smoothing: share of the target that is spread over all pieces.
    """
    total = memory.values.new_zeros(())
    for part, target in _parts(pieces):
        logits = decoder(memory, owners[part], _preceding(target)).float()
        total = total + cross_entropy(logits, _following(target), label_smoothing=smoothing, reduction="sum")
    return total / (pieces[:, 1:] != PAD).sum().clamp(min=1)


@torch.no_grad()
def likelihoods(decoder: Decoder, memory: TokenBatch, owners: Tensor, pieces: Tensor) -> Tensor:
    """Return the mean log probability of the pieces of each caption, [N]; arguments as in `caption_loss`."""
    result = memory.values.new_zeros(len(pieces))
    for part, target in _parts(pieces):
        chances = decoder(memory, owners[part], _preceding(target)).float().log_softmax(-1)
        own = chances.gather(1, _following(target)[:, None])[:, 0]
        real = target[:, 1:] != PAD
        rows = torch.arange(len(part), device=own.device).repeat_interleave(real.sum(1))
        result[part] = own.new_zeros(len(part)).index_add(0, rows, own) / real.sum(1).clamp(min=1)
    return result


def _parts(pieces: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return rows of captions of similar length, each with their pieces without needless padding."""
    lengths = (pieces != PAD).sum(1)
    rows = torch.split(lengths.argsort(stable=True), PART)
    return [(part, pieces[part, : int(lengths[part].max())]) for part in rows]


def _preceding(pieces: Tensor) -> Tensor:
    """Return the pieces [N, L - 1] that another piece follows."""
    return pieces[:, :-1].masked_fill(pieces[:, 1:] == PAD, PAD)


def _following(pieces: Tensor) -> Tensor:
    """Return the pieces [M] that follow another one."""
    return pieces[:, 1:][pieces[:, 1:] != PAD]
