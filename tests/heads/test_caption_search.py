"""Words, decoders and the search: step by step as in one go, and the best of all captions by brute force."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lazily import Lazily
from lightcrl.encoders.files import quiet
from lightcrl.errors import HeadError
from lightcrl.heads.captioning.agreement import WordAgreement, consensus
from lightcrl.heads.captioning.decoder import Decoder, State
from lightcrl.heads.captioning.head import CaptioningOptions
from lightcrl.heads.captioning.objective import caption_loss, likelihoods
from lightcrl.heads.captioning.prefix import PrefixDecoder
from lightcrl.heads.captioning.retrieval import RetrievalWriter
from lightcrl.heads.captioning.search import Rules, beam_search, sample
from lightcrl.heads.captioning.transformer import TransformerDecoder
from lightcrl.heads.captioning.words import PAD, LearntWords
from lightcrl.heads.captioning.writer import Search
from lightcrl.metrics.captions import Cider, words
from lightcrl.tokens import TokenBatch, TokenSpec
from samples import GARBAGE, padded, ragged, randn, units
from tiny import llama

transformers = Lazily("transformers")

TEXTS = ["A dog runs .", "a cat runs", "Two dogs and a cat sit on the mat, in the sun ."]
WORDS = LearntWords.learn(TEXTS, 60)


class Table(Decoder):
    """The next piece depends on the last one and on the item: logits [V, V] of the previous piece, plus the memory."""

    width = 6

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.table = 2 * randn(6, 6, seed=seed)

    def forward(self, memory: TokenBatch, owners: Tensor, pieces: Tensor) -> Tensor:
        logits = self.table[pieces.clamp(min=0)] + memory.mean()[owners, None]
        return logits[pieces != PAD]

    def begin(self, memory: TokenBatch) -> State:
        return State((), (memory.mean(),))

    def advance(self, state: State, pieces: Tensor) -> tuple[Tensor, State]:
        return self.table[pieces] + state.fixed[0], State((), state.fixed, state.length + 1)


class Six(LearntWords):
    """Six pieces: start, end, unknown, and three words."""

    def __init__(self) -> None:
        super().__init__(WORDS.tokenizer)

    def __len__(self) -> int:
        return 6


SIX = Six()


def best_of_all(decoder: Decoder, memory: TokenBatch, rules: Rules) -> tuple[int, ...]:
    """The caption of the greatest score among all captions that the rules allow, for the first item."""
    scored = {}
    for size in range(rules.shortest, rules.longest + 1):
        for pieces in product((3, 4, 5), repeat=size):
            row = torch.tensor([[SIX.start, *pieces, SIX.end]])
            total = float(likelihoods(decoder, memory, torch.tensor([0]), row)) * (size + 1)
            scored[pieces] = rules.score(total, size + 1)
    return max(scored, key=scored.__getitem__)


@pytest.mark.parametrize("rules", [Rules(4, 1, 0.6, 0), Rules(3, 2, 0.0, 0), Rules(4, 1, 2.0, 0)])
def test_enough_beams_find_the_best_of_all_captions(rules):
    for seed in range(3):
        decoder, memory = Table(seed), ragged((2,), 6, seed=seed)
        found = beam_search(decoder, SIX, memory, 40, rules)[0]
        assert found[0].pieces == best_of_all(decoder, memory, rules)
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
        assert all(rules.shortest <= len(each.pieces) <= rules.longest for each in found)


def test_one_beam_is_greedy_search_and_so_is_the_smallest_nucleus():
    decoder, memory, rules = Table(3), ragged((2, 3, 1), 6), Rules(8, 1, 0.0, 0)
    expected = []
    for row in memory.mean():
        pieces = [SIX.start]
        while len(pieces) <= rules.longest and (pieces[-1] != SIX.end or len(pieces) == 1):
            logits = decoder.table[pieces[-1]] + row
            allowed = [3, 4, 5] if len(pieces) == 1 else [SIX.end, 3, 4, 5]
            pieces.append(max(allowed, key=lambda piece: float(logits[piece])))
        expected.append(tuple(piece for piece in pieces[1:] if piece != SIX.end))
    assert [each[0].pieces for each in beam_search(decoder, SIX, memory, 1, rules)] == expected
    drawn = sample(decoder, SIX, memory, rules, nucleus=1e-9, temperature=1.0, seeds=(0, 1, 2))
    assert [each.pieces for each in drawn] == expected


def test_a_nucleus_is_drawn_by_its_own_seed_and_temperature_widens_it():
    decoder, memory, rules = Table(1), ragged((2, 2, 2, 2), 6), Rules(12, 1, 0.0, 0)

    def draw(seeds, temperature=1.0, nucleus=0.9):
        return [
            each.pieces
            for each in sample(decoder, SIX, memory, rules, nucleus=nucleus, temperature=temperature, seeds=seeds)
        ]

    assert draw((5, 6, 7, 8)) == draw((5, 6, 7, 8))
    assert draw((5, 6, 7, 8))[1:] == [
        each.pieces
        for each in sample(decoder, SIX, memory.rows(slice(1, 4)), rules, nucleus=0.9, temperature=1.0, seeds=(6, 7, 8))
    ]
    cold = {each for seed in range(20) for each in draw((seed,) * 4, 0.05)}
    hot = {each for seed in range(20) for each in draw((seed,) * 4, 3.0)}
    assert len(hot) > 3 * len(cold)


def test_no_sequence_of_pieces_occurs_twice_in_a_caption():
    decoder, memory = Table(2), ragged((2,), 6)
    decoder.table[:, SIX.end] -= 20
    for size in (1, 2, 3):
        pieces = beam_search(decoder, SIX, memory, 4, Rules(12, 1, 0.6, size))[0][0].pieces
        windows = [pieces[place : place + size] for place in range(len(pieces) - size + 1)]
        assert len(windows) == len(set(windows))
    free = beam_search(decoder, SIX, memory, 4, Rules(12, 1, 0.6, 0))[0][0].pieces
    assert len(free) == 12


def test_pieces_go_to_texts_and_back():
    assert WORDS.decode(WORDS.encode(["Two dogs , on the mat ."])[0]) == "two dogs, on the mat"
    again = LearntWords.from_bytes(WORDS.to_bytes())
    assert again.encode(TEXTS) == WORDS.encode(TEXTS)
    assert WORDS.encode(["ß"])[0].count(2) == 1  # unknown
    cased = LearntWords.learn(TEXTS, 60, lowercase=False)
    assert cased.decode(cased.encode(["A dog"])[0]) == "A dog"
    batch = WORDS.batch(["a cat", "a dog runs"], longest=3)
    assert batch[:, 0].tolist() == [WORDS.start] * 2
    assert batch[0].tolist().count(WORDS.end) == 1
    assert (batch == PAD).sum() == (batch[0] == PAD).sum() > 0


def speaking(folder: Path) -> str:
    """A tiny language model with random weights, its output layer included."""
    llama(folder)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return str(folder)


def transformer() -> Decoder:
    torch.manual_seed(0)
    return TransformerDecoder(len(WORDS), 16, 2, 2, 24, 31, 0.1).eval()


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Decoder:
    torch.manual_seed(0)
    return PrefixDecoder(speaking(tmp_path_factory.mktemp("llama")), 16, 2, 3).eval()


@pytest.fixture(params=["transformer", "prefix"])
def decoder(request) -> Decoder:
    return transformer() if request.param == "transformer" else request.getfixturevalue("prefix")


def captions_of(decoder: Decoder) -> tuple[Tensor, Tensor]:
    words = getattr(decoder, "words", WORDS)
    return words.batch(["a dog runs", "two cat and a red bird", "the mat"], 12), torch.tensor([1, 0, 1])


@torch.no_grad()
def test_a_decoder_says_step_by_step_what_it_says_in_one_go(decoder):
    memory = ragged((4, 2), 16)
    pieces, owners = captions_of(decoder)
    state, steps = decoder.begin(memory).rows(owners), []
    for column in pieces.T:
        logits, state = decoder.advance(state, column.clamp(min=0))
        steps.append(logits)
    torch.testing.assert_close(
        torch.stack(steps, 1)[pieces != PAD], decoder(memory, owners, pieces), atol=2e-5, rtol=1e-4
    )


@torch.no_grad()
def test_padding_of_memory_and_of_captions_never_matters(decoder):
    memory = ragged((4, 2), 16)
    pieces, owners = captions_of(decoder)
    expected = likelihoods(decoder, memory, owners, pieces)
    wider = torch.nn.functional.pad(pieces, (0, 4), value=PAD)
    for garbage in GARBAGE[:2]:
        found = likelihoods(decoder, padded(memory, 3, garbage), owners, wider)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    alone = likelihoods(decoder, memory.rows(slice(1, 2)), torch.tensor([0]), pieces[2:])
    torch.testing.assert_close(alone, expected[2:], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_loss_without_smoothing_is_the_mean_of_all_pieces(decoder):
    memory = ragged((4, 2), 16)
    pieces, owners = captions_of(decoder)
    counts = (pieces[:, 1:] != PAD).sum(1)
    expected = -(likelihoods(decoder, memory, owners, pieces) * counts).sum() / counts.sum()
    torch.testing.assert_close(caption_loss(decoder, memory, owners, pieces, 0.0), expected)
    assert not torch.isclose(caption_loss(decoder, memory, owners, pieces, 0.2), expected)


def test_captions_of_an_item_do_not_depend_on_its_batch(decoder):
    words = getattr(decoder, "words", WORDS)
    memory, rules = ragged((4, 2, 3), 16), Rules(6)
    whole = beam_search(decoder, words, memory, 3, rules)
    alone = [beam_search(decoder, words, memory.rows(slice(n, n + 1)), 3, rules)[0] for n in range(3)]
    for together, single in zip(whole, alone, strict=True):
        assert [each.pieces for each in together] == [each.pieces for each in single]
        assert [each.score for each in together] == pytest.approx([each.score for each in single], abs=1e-4)
        assert not any(piece in words.barred for each in together for piece in each.pieces)


def test_a_language_model_stays_as_it_is_and_is_no_part_of_the_state(prefix):
    before = {name: weight.clone() for name, weight in prefix.model.state_dict().items()}
    pieces, owners = captions_of(prefix)
    prefix.train()
    caption_loss(prefix, ragged((4, 2), 16), owners, pieces, 0.1).backward()
    assert not prefix.model.training
    assert all(not weight.requires_grad for weight in prefix.model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in prefix.model.state_dict().items())
    assert not any(name.startswith(("model", "_model")) for name in prefix.state_dict())
    assert all(weight.grad.abs().max() > 0 for weight in prefix.parameters())
    prefix.eval()


def test_a_prefix_is_for_one_language_model(prefix, tmp_path):
    other = PrefixDecoder(speaking(tmp_path), 16, 2, 3)
    other.load_state_dict(prefix.state_dict())
    with torch.no_grad():
        other.model.lm_head.weight[0] += 1
    other.model.save_pretrained(tmp_path)
    changed = PrefixDecoder(str(tmp_path), 16, 2, 3)
    with pytest.raises(HeadError, match="has other weights than the one that the prefix was trained for"):
        changed.load_state_dict(prefix.state_dict())


def test_something_else_than_a_language_model_is_refused(tmp_path):
    with pytest.raises(HeadError, match="no causal language model"):
        PrefixDecoder(str(tmp_path), 16, 2, 3)
    with pytest.raises(HeadError, match="has no weights for lm_head"):
        PrefixDecoder(str(llama(tmp_path)), 16, 2, 3)


def test_retrieval_says_the_caption_on_which_the_nearest_agree():
    table = {"decoder": "retrieval", "neighbours": 3, "sharpness": 0.0}
    writers = {
        how: RetrievalWriter(TokenSpec(4), 8, CaptioningOptions(agreement=how, **table)) for how in ("words", "space")
    }
    item, noise = units(1, 8, seed=1)[0].float(), units(5, 8, seed=2).float()
    vectors = torch.nn.functional.normalize(item + torch.tensor([0.4, 0.1, 0.1, 9, 9])[:, None] * noise, dim=-1)
    captions = ["a cat", "a dog runs", "the dog runs", "a bird", "a bird"]
    for how, writer in writers.items():
        with pytest.raises(HeadError, match="no captions yet"):
            writer.write(ragged((1,), 4), item[None], Search())
        writer.learn(captions, lambda: vectors)
        assert writer.captions == captions[:4]  # each text once
        found = writer.write(ragged((1,), 4), item[None], Search(beams=2))[0]
        assert {each.text for each in found} == {"a dog runs", "the dog runs"}, how
    pairs = torch.stack([item, item])
    fits = writer.likelihoods(ragged((1, 1), 4), pairs, torch.zeros(2, 0), torch.stack([item, vectors[3]]))
    assert fits[0] > 0.9 > fits[1]


def test_the_agreement_of_words_is_cider_without_its_clipping():
    captions = ["a dog runs on grass", "two dogs run on grass", "a cat", "a dog"]
    cider = Cider([[text] for text in captions])
    agreement = WordAgreement(captions)(np.arange(4))
    for row, text in enumerate(captions):
        expected = [cider.score(words(text), [words(other)]) / 10 for other in captions]
        # No n-gram occurs twice in a caption here, so nothing is clipped but where lengths differ in orders.
        np.testing.assert_allclose(agreement[row], expected, atol=1e-6)


def test_the_nearest_captions_weigh_most():
    agreement = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.3], [0.0, 0.3, 1.0]])
    even = consensus(agreement, torch.tensor([0.1, 0.1, 0.9]), 0.0)
    sharp = consensus(agreement, torch.tensor([0.1, 0.1, 0.9]), 100.0)
    torch.testing.assert_close(even, torch.tensor([0.45, 0.6, 0.15]))
    torch.testing.assert_close(sharp, torch.tensor([0.0, 0.3, 0.15]))
