"""The prior: what its models learn, and its designed errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lightcrl.errors import HeadError
from lightcrl.heads.base import Space
from lightcrl.heads.prior.head import Prior, PriorOptions, all_pairs, choose
from lightcrl.heads.prior.model import MODELS
from lightcrl.heads.spec import make_head
from lightcrl.tokens import TokenBatch, TokenSpec
from samples import make_split, randn, units

DIM, OUT = 6, 4
SPEC = TokenSpec(5, slots=1, sequence=True)


def make(model: str, **options):
    torch.manual_seed(0)
    return MODELS.load(model)(SPEC, DIM, OUT, PriorOptions(model=model, width=32, blocks=1, dropout=0, **options))


def items(count: int, seed: int) -> tuple[TokenBatch, torch.Tensor]:
    values = randn(count, 3, SPEC.dim, seed=seed)
    return TokenBatch.full(values), units(count, DIM, seed + 1).float()


@pytest.mark.parametrize("words", [True, False])
def test_ridge_finds_a_linear_map_of_the_embedding_and_of_the_words(words):
    maps = randn(DIM, OUT, seed=1), randn(SPEC.dim, OUT, seed=2)

    def batches(seed):
        tokens, embeddings = items(300, seed)
        yield tokens, embeddings, embeddings @ maps[0] + tokens.values[:, 1:].mean(1) @ maps[1]

    ridge = make("ridge", words=words)
    ridge.learn(lambda: batches(10), lambda: batches(20))
    tokens, embeddings, targets = next(batches(30))
    made = ridge.generate(tokens, embeddings, torch.zeros(300, 2, OUT), 1.0, 1)
    assert torch.equal(made[:, 0], made[:, 1])
    explained = 1 - (made[:, 0] - targets).square().mean() / targets.var(0).mean()
    # Without words, the part of the target that only they tell is missing.
    assert explained > 0.99 if words else 0.05 < explained < 0.7


def trained(model: str, steps: int = 180, **options):
    """A model of items whose first number tells whether the target is (±1, ±1, ...), either sign as often, or zero."""
    network = make(model, words=False, input_dropout=0, **options)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(steps):
        tokens, embeddings = items(64, step + 100)
        side = torch.randint(0, 2, (64, 1), generator=torch.Generator().manual_seed(step)) * 2.0 - 1
        network.loss(tokens, embeddings, ((embeddings[:, :1] > 0) * side).expand(64, OUT)).backward()
        optimiser.step()
        optimiser.zero_grad()
    return network.eval()


def test_a_flow_draws_every_answer_where_a_regression_gives_their_mean():
    tokens, embeddings = items(2, 7)
    embeddings[:, 0] = torch.tensor([0.8, -0.8])
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 200, OUT), np.float32))
    flow, mlp = trained("flow", unconditional=0.2), trained("mlp", 80)
    with torch.inference_mode():
        drawn = flow.generate(tokens, embeddings, noise, 1.0, 32).mean(2)
        assert drawn[0].abs().mean() > 0.8
        assert 0.3 < (drawn[0] > 0).float().mean() < 0.7
        assert drawn[1].abs().median() < 0.4
        mean = mlp.generate(tokens, embeddings, noise, 1.0, 32)
    assert mean[0].abs().max() < 0.4


def test_guidance_zero_forgets_the_condition():
    flow = make("flow", unconditional=0.2).eval()
    with torch.no_grad():
        for number, parameter in enumerate(flow.parameters()):
            parameter.add_(0.3 * randn(*parameter.shape, seed=number))
    tokens, embeddings = items(2, 3)
    noise = randn(1, 1, OUT, seed=0).expand(2, 1, OUT)
    made = {strength: flow.generate(tokens, embeddings, noise, strength, 8) for strength in (0.0, 1.0, 2.0)}
    torch.testing.assert_close(made[0.0][0], made[0.0][1])
    assert not torch.allclose(made[1.0][0], made[1.0][1], atol=1e-2)
    assert not torch.allclose(made[2.0], made[1.0], atol=1e-2)


def test_of_several_samples_the_nearest_to_the_text_is_taken():
    samples = normalize(randn(3, 4, DIM), dim=-1)
    best = choose(samples, samples[:, 2])
    torch.testing.assert_close(best, samples[:, 2])


def test_each_text_has_a_picture_of_its_group_in_turn():
    split = make_split({"text": [[0, 1, 2], [3], [4]], "image": [[7, 8], [], [9]]})
    assert all_pairs(split, "text", "image").tolist() == [[0, 7], [1, 8], [2, 7], [4, 9]]


def test_a_slot_of_the_encoder_is_made_in_place_of_the_embedding():
    space = Space({"text": SPEC, "image": TokenSpec(9, slots=3)}, DIM)
    head = make_head("prior", space, {"model": "mlp", "slot": 2})
    assert isinstance(head, Prior)
    assert (head.width, head.targets, head.modalities) == (9, (), ("text", "image"))
    tokens, embeddings = items(2, 3)
    assert head.sample(tokens, embeddings, numbers=[0, 1]).shape == (2, 2, 9)
    for options, message in (
        ({"slot": 3}, "slot 3 of 'image', which has 3 slots"),
        ({"source": "text", "target": "text"}, "from 'text' to itself"),
        ({"source": "sound"}, "reads 'sound', and the space has text, image"),
    ):
        with pytest.raises(HeadError, match=message):
            make_head("prior", space, options)
