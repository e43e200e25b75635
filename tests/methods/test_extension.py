"""A method that grows: what is shared is frozen, what is new starts fresh, what is solved follows what was solved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightcrl.checkpoint import load_folder
from lightcrl.errors import GrowthError, TrainingError
from lightcrl.losses import info_nce, sigmoid
from lightcrl.methods import METHODS, Method, MethodOptions, Step
from lightcrl.methods.extension import Extension, grow, grown_up
from lightcrl.methods.fusion import OPERATIONS
from lightcrl.methods.solve import regress_stems
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenBatch, TokenSpec
from samples import randn, units

SPECS = {"image": TokenSpec(6, 2), "text": TokenSpec(5, 1, True)}
NEW = {"audio": TokenSpec(4, 3)}
GOLDEN = Path(__file__).parents[1] / "golden"


def made(name: str = "dfe", loss: str = "info_nce", **options: object) -> Method:
    return make_method(name, SPECS, {"dim": 16, **options}, loss).eval()


def step(groups: Mapping[str, list[int]], dim: int) -> Step:
    tokens = {
        name: TokenBatch.full(
            randn(len(found), 3, 4, seed=1) if name == "audio" else units(len(found), dim)[:, None].float()
        )
        for name, found in groups.items()
    }
    return Step(tokens, {name: torch.tensor(found) for name, found in groups.items()})


@pytest.mark.parametrize("name", METHODS)
def test_leaves_belong_to_a_modality_or_to_all(name):
    method = made(name)
    own = [method.leaves_of(modality) for modality in SPECS]
    assert not own[0] & own[1]
    shared = {leaf for leaf in method.state_dict() if not any(leaf in leaves for leaves in own)}
    assert not [leaf for leaf in shared if {"image", "text"} & set(leaf.split("."))]
    assert {"logit_scale"} <= shared


@pytest.mark.parametrize("name", METHODS)
def test_extended_and_made_anew_all_else_is_kept(name):
    method = made(name)
    for specs in (NEW, {"text": TokenSpec(7)}):
        grown = method.extended(specs, seed=5)
        fresh = frozenset[str]().union(*map(grown.leaves_of, specs))
        state = method.state_dict()
        assert all(torch.equal(value, state[leaf]) for leaf, value in grown.state_dict().items() if leaf not in fresh)
        trained = {leaf for leaf, parameter in grown.named_parameters() if parameter.requires_grad}
        assert trained <= fresh
        other = method.extended(specs, seed=6)
        assert (
            any(not torch.equal(grown.state_dict()[leaf], other.state_dict()[leaf]) for leaf in trained) or not trained
        )


def test_the_bias_of_the_sigmoid_loss_stays(tmp_path):
    method = made(loss="sigmoid")
    with torch.no_grad():
        method.logit_bias.fill_(-3.0)
    assert method.extended(NEW).logit_bias.item() == -3.0
    assert grown_up(method, grow(method, "dfe", NEW, ["text"], "info_nce")).logit_bias.item() == -3.0


@pytest.mark.parametrize("most", [10, 100])
def test_a_canonical_part_stays_whatever_comes_or_goes(monkeypatch, most):
    """17 features, then 29 with a limit of 20; and none where there was none."""
    monkeypatch.setattr("lightcrl.methods.dfe.MOST_FEATURES", most)
    method = made()
    assert bool(method.canonical) == (most == 100)
    if method.canonical:
        method.share.fill_(0.125)
    monkeypatch.setattr("lightcrl.methods.dfe.MOST_FEATURES", 20 if most == 100 else 1000)
    grown = grown_up(method, grow(method, "dfe", NEW, ["text"], "info_nce"))
    smaller = grown.without("image")
    for found in (grown, smaller):
        assert (found.dim, bool(found.canonical)) == (method.dim, bool(method.canonical))
        assert torch.equal(found.share, method.share)
        again = make_method("dfe", found.modalities, found.options.model_dump(mode="json"), "info_nce")
        assert again.state_dict().keys() == found.state_dict().keys()


def test_a_model_whose_parts_have_one_scale_grows_and_resumes_with_it():
    """As those of checkpoints before format 5; what is added has a scale for each part."""
    method = load_folder(GOLDEN / "checkpoint-1-dfe").method
    assert [method.stem(name).deviation.shape for name in ("image", "text")] == [(2, 1), (1, 1)]
    grown = grown_up(method, grow(method, "dfe", {"audio": TokenSpec(6, 2)}, ["text"], "info_nce"))
    assert grown.stem("audio").deviation.shape == (2, 2)
    tokens = TokenBatch.full(torch.randn(3, 2, 6))
    assert torch.equal(grown("image", tokens), method("image", tokens))
    again = grown_up(method, grow(method, "dfe", {"image": TokenSpec(7, 3)}, ["text"], "info_nce"))
    assert again.stem("image").deviation.shape == (3, 2)
    assert again.stem("text").deviation.shape == (1, 1)
    resumed = make_method("dfe", SPECS, method.options.model_dump(mode="json"), "info_nce").eval()
    resumed.fit("image", tokens)
    resumed.take_state(method.state_dict())
    assert torch.equal(resumed("image", tokens), method("image", tokens))


def test_sharelock_keeps_its_lock():
    method = make_method("sharelock", {"text": TokenSpec(5), "video": TokenSpec(6, 2)}, {"dim": 16}, "info_nce")
    assert method.locked == "text"
    assert method.extended({"image": TokenSpec(3)}).locked == "text"


class Counting(Method):
    """A method whose shared part is as wide as there are modalities: no modality can be added."""

    def __init__(self, modalities: Mapping[str, TokenSpec], options: MethodOptions) -> None:
        super().__init__(modalities, options)
        self.mix = nn.Linear(len(modalities), options.dim)

    def embed(self, modality: str, tokens: TokenBatch) -> Tensor:
        return self.pooled(modality, tokens)


def test_a_method_of_ones_own_that_cannot_grow_is_told_which_leaf():
    method = Counting(SPECS, MethodOptions(dim=4))
    with pytest.raises(GrowthError, match=r"Counting cannot be extended: its leaf 'mix.weight' is \[4, 2\], and"):
        method.extended(NEW)


def test_shared_parts_are_in_eval_mode_unless_asked():
    method = made()
    plain, noisy = (grow(method, "dfe", NEW, ["text"], "info_nce", shared_dropout=on).train() for on in (False, True))
    assert not plain.body.block.training
    assert noisy.body.block.training
    for found in (plain, noisy):
        assert found.body.training
        assert found.body.stem("audio").training
    assert not plain.eval().body.stem("audio").training


def test_what_is_new_drops_as_much_as_its_own_groups_ask_for():
    found = grow(made(input_dropout="auto"), "dfe", NEW, ["text"], "info_nce")
    found.regularise(groups=25, steps=400)
    penalty = 2.5 * (found.body.stem("audio").width / 25) ** 0.5
    assert found.body.stem("audio").dropout.p == pytest.approx(penalty / (1 + penalty))


def test_embeddings_pass_as_they_are():
    found = grow(made(), "dfe", NEW, ["text", "image"], "info_nce").eval()
    vectors = units(5, found.dim).float()
    torch.testing.assert_close(found("text", TokenBatch.full(vectors[:, None])), vectors, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["linear", "dfe"])
def test_the_loss_is_of_pairs_with_what_is_new(name):
    """Of image, text and audio, image with text has no part; weights count."""
    body = made(name)
    given = step({"audio": [0, 1, 2], "image": [0, 1, 2], "text": [0, 0, 1, 2]}, body.dim)
    plain = grow(body, name, NEW, ["image", "text"], "info_nce").eval()
    weighted = grow(body, name, NEW, ["image", "text"], "info_nce", weights={"image": 0.25}).eval()
    embeddings = {modality: plain(modality, tokens) for modality, tokens in given.tokens.items()}
    pairs = {
        other: plain.body.objective(info_nce, {key: embeddings[key] for key in ("audio", other)}, given).item()
        for other in ("image", "text")
    }
    assert plain.objective(info_nce, embeddings, given).item() == pytest.approx((pairs["image"] + pairs["text"]) / 2)
    expected = (0.25 * pairs["image"] + pairs["text"]) / 1.25
    assert weighted.objective(info_nce, embeddings, given).item() == pytest.approx(expected)
    apart = step({"audio": [0, 1], "image": [2, 3], "text": [2, 3]}, body.dim)
    with pytest.raises(TrainingError, match="no new modality shares a group with another"):
        plain.objective(info_nce, {modality: plain(modality, found) for modality, found in apart.tokens.items()}, apart)


def test_gradients_reach_all_that_is_new_and_nothing_else():
    found = grow(made(), "dfe", NEW, ["text"], "sigmoid").train()
    given = step({"audio": [0, 1, 2], "text": [0, 1, 2]}, found.dim)
    embeddings = {modality: found(modality, tokens) for modality, tokens in given.tokens.items()}
    found.objective(sigmoid, embeddings, given).backward()
    reached = {name for name, parameter in found.named_parameters() if parameter.grad is not None}
    expected = {name for name, parameter in found.named_parameters() if parameter.requires_grad}
    assert reached == expected
    assert {"body.stems.audio.weight", "body.context.vectors.audio", "body.logit_scale", "body.logit_bias"} <= expected
    assert not [name for name in expected if {"text", "image", "block"} & set(name.split("."))]


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, "auto"])
def test_regression_is_ridge_regression(shrinkage):
    """Against the normal equations; items of two embeddings count twice."""
    stem = made("linear").extended(NEW).stem("audio")
    x, vectors = randn(40, 3, 4, seed=2), units(41, 16).float()
    groups = [*range(40), 0]
    given = Step(
        {"audio": TokenBatch.full(x), "text": TokenBatch.from_vectors(vectors)},
        {"audio": torch.arange(40), "text": torch.tensor(groups)},
    )
    regress_stems({"audio": stem}, [given], shrinkage)
    rows = stem.features(given.tokens["audio"]).double()
    pairs, targets = rows[groups], vectors.double()
    covariance = torch.cov(rows.T, correction=0)
    share = 12 / (12 + 40) if shrinkage == "auto" else shrinkage
    cross = (pairs - pairs.mean(0)).T @ (targets - targets.mean(0)) / len(pairs)
    expected = torch.linalg.solve(covariance + share / (1 - share) * covariance.diagonal().diag(), cross)
    stem.eval()
    found = TokenBatch(stem(given.tokens["audio"]), given.tokens["audio"].mask).mean().double()
    torch.testing.assert_close(found, (rows - rows.mean(0)) @ expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(TrainingError, match="no item of 'audio' shares a group with an embedding"):
        regress_stems({"audio": stem}, [step({"audio": [0], "text": [1]}, 16)])


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("fusion", OPERATIONS)
def test_the_trained_stem_starts_where_the_embeddings_are(fusion, sequence):
    """Features that are a rotation of the embeddings are mapped back to them before the first step, in every part."""
    body = made(fusion=fusion, heads=2, feedforward=8, canonical=0.2)
    vectors = units(600, body.dim).float()
    turned = vectors @ torch.linalg.qr(randn(body.dim, body.dim, seed=3))[0]
    tokens = turned.unflatten(1, (2, -1))
    if sequence:
        tokens = torch.cat([tokens, randn(600, 3, tokens.shape[2], seed=4)], 1)
    spec = TokenSpec(tokens.shape[2], 2, sequence)
    found = grow(body, "dfe", {"audio": spec}, ["text"], "info_nce")
    given = Step(
        {"audio": TokenBatch.full(tokens), "text": TokenBatch.from_vectors(vectors)},
        dict.fromkeys(("audio", "text"), torch.arange(600)),
    )
    found.fit("audio", given.tokens["audio"])
    found.solve([given])
    with torch.no_grad():
        mapped = found.eval()("audio", given.tokens["audio"])
    for part, wanted in zip(mapped.chunk(3, 1), vectors.chunk(3, 1), strict=True):
        assert torch.cosine_similarity(part, wanted).mean() > 0.97


def test_it_is_no_member_of_the_table_and_cannot_grow_itself():
    assert Extension.rigid
    assert not [name for name in METHODS if METHODS.load(name) is Extension]
