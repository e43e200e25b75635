"""The search for a caption: beam search, of which greedy search is the case of one beam, and nucleus sampling.

Every item is searched by itself: its captions do not depend on the other items of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightcrl.heads.captioning.decoder import Decoder
from lightcrl.heads.captioning.words import Words
from lightcrl.tokens import TokenBatch

NEVER = -torch.inf


@dataclass(frozen=True)
class Rules:
    """The rules of a search.

    Attributes:
        longest: greatest number of pieces of a caption.
        shortest: least number of pieces.
        length: exponent a of the rule by which captions of different lengths are compared: the sum of log
            probabilities divided by ((5 + pieces) / 6)^a (arXiv 1609.08144); 0 prefers short captions.
        repeats: length in pieces of sequences that may not occur twice in a caption; 0 allows everything.
    """

    longest: int = 30
    shortest: int = 1
    length: float = 0.6
    repeats: int = 3

    def score(self, total: float, pieces: int) -> float:
        """Return the score of a caption with the sum `total` of log probabilities, its end among the `pieces`."""
        return total / float(((5 + pieces) / 6) ** self.length)


@dataclass(frozen=True)
class Hypothesis:
    """A caption in pieces, without the first and the last, which are no text.

    Attributes:
        pieces: numbers of the pieces.
        likelihood: sum of the log probabilities of the pieces and of the end.
        score: likelihood by the rule of length.
    """

    pieces: tuple[int, ...]
    likelihood: float
    score: float


@torch.inference_mode()
def beam_search(decoder: Decoder, words: Words, memory: TokenBatch, beams: int, rules: Rules) -> list[list[Hypothesis]]:
    """Return the best captions of each item, at most `beams` of them, the best first.

    A caption is finished where the end is among the `beams` best continuations. The search for an item ends when it has
    `beams` captions, and no unfinished one has a better score so far.
    """
    count, device = len(memory), memory.values.device
    state = decoder.begin(memory).rows(torch.arange(count, device=device).repeat_interleave(beams))
    pieces = torch.full((count * beams, 1), words.start, device=device)
    # All beams of an item start equal: only the first may be continued.
    totals = torch.full((count, beams), NEVER, device=device)
    totals[:, 0] = 0.0
    done: list[list[Hypothesis]] = [[] for _ in range(count)]
    searched = set(range(count))
    for length in range(1, rules.longest + 2):
        logits, state = decoder.advance(state, pieces[:, -1])
        chances = _allowed(logits.float().log_softmax(-1), pieces, words, rules)
        best, places = (totals.view(-1, 1) + chances).view(count, -1).topk(2 * beams, 1)
        before, following = places // chances.shape[1], places % chances.shape[1]
        ends = following == words.end
        for item, rank in (ends[:, :beams] & (best[:, :beams] > NEVER)).nonzero().tolist():
            if item in searched:
                row = pieces[item * beams + int(before[item, rank])].tolist()
                total = float(best[item, rank])
                done[item].append(Hypothesis(tuple(row[1:]), total, rules.score(total, len(row))))
        # Of 2 x beams continuations at most `beams` are ends: each beam has one.
        kept = ends.int().argsort(dim=1, stable=True)[:, :beams]
        totals = best.gather(1, kept)
        searched -= {item for item in searched if _settled(done[item], float(totals[item, 0]), beams, length, rules)}
        if not searched:
            break
        rows = (torch.arange(count, device=device)[:, None] * beams + before.gather(1, kept)).flatten()
        state = state.reordered(rows)
        pieces = torch.cat([pieces[rows], following.gather(1, kept).flatten()[:, None]], 1)
    return [sorted(captions, key=lambda each: -each.score)[:beams] for captions in done]


def _settled(done: Sequence[Hypothesis], best: float, beams: int, length: int, rules: Rules) -> bool:
    """Return true if `beams` captions are finished, and the best unfinished one has a lower score than all of them."""
    if best == NEVER:
        return True
    return len(done) >= beams and rules.score(best, length) <= sorted(each.score for each in done)[-beams]


def _allowed(chances: Tensor, pieces: Tensor, words: Words, rules: Rules) -> Tensor:
    """Return log probabilities [N, V] with the forbidden pieces at minus infinity; `pieces` [N, L] are those so far."""
    length, end = pieces.shape[1], words.end
    chances[:, list(words.barred)] = NEVER
    chances[:, len(words) :] = NEVER
    if length <= rules.shortest:
        chances[:, end] = NEVER
    if rules.repeats and length > rules.repeats:
        _forbid_repeats(chances, pieces, rules.repeats)
    if length > rules.longest:
        last = chances[:, end].clone()
        chances[:] = NEVER
        chances[:, end] = last
    return chances


def _forbid_repeats(chances: Tensor, pieces: Tensor, size: int) -> None:
    """Forbid the pieces that would complete a sequence of `size` pieces a second time."""
    windows = pieces.unfold(1, size, 1)  # [N, L - size + 1, size]
    tail = pieces[:, pieces.shape[1] - size + 1 :]
    rows, places = (windows[:, :, :-1] == tail[:, None]).all(-1).nonzero(as_tuple=True)
    chances[rows, windows[rows, places, -1]] = NEVER


@torch.inference_mode()
def sample(
    decoder: Decoder,
    words: Words,
    memory: TokenBatch,
    rules: Rules,
    *,
    nucleus: float,
    temperature: float,
    seeds: Sequence[int],
) -> list[Hypothesis]:
    """Return a random caption of each item, drawn from the smallest set of pieces of probability `nucleus`.

    Nucleus sampling is described in arXiv 1904.09751. Item i draws from a generator of its own with `seeds[i]`.
    """
    count, device = len(memory), memory.values.device
    sources = [torch.Generator().manual_seed(seed) for seed in seeds]
    state = decoder.begin(memory)
    pieces = torch.full((count, 1), words.start, device=device)
    totals, lengths = [0.0] * count, [0] * count
    unfinished = set(range(count))
    for length in range(1, rules.longest + 2):
        logits, state = decoder.advance(state, pieces[:, -1])
        plain = logits.float().log_softmax(-1)
        chances = _nucleus(_allowed(plain / temperature, pieces, words, rules).softmax(-1), nucleus).cpu()
        drawn = [int(torch.multinomial(row, 1, generator=each)) for row, each in zip(chances, sources, strict=True)]
        for item in sorted(unfinished):
            totals[item] += float(plain[item, drawn[item]])
            if drawn[item] == words.end:
                unfinished.discard(item)
                lengths[item] = length - 1
        if not unfinished:
            break
        pieces = torch.cat([pieces, torch.tensor(drawn, device=device)[:, None]], 1)
    return [
        Hypothesis(tuple(row[1 : size + 1]), total, rules.score(total, size + 1))
        for row, size, total in zip(pieces.tolist(), lengths, totals, strict=True)
    ]


def _nucleus(chances: Tensor, share: float) -> Tensor:
    """Return probabilities [N, V] with those outside the smallest set of `share` set to zero."""
    ordered, places = chances.sort(descending=True)
    outside = ordered.cumsum(1) - ordered >= share
    return chances.scatter(1, places, ordered.masked_fill(outside, 0.0))
