"""What each trained rival adds to the stem, against its formula."""

from __future__ import annotations

import math
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from lightcrl.errors import ModalityError, TrainingError
from lightcrl.losses import info_nce, sigmoid
from lightcrl.methods import METHODS, Method, Step
from lightcrl.methods.fusemix import draw_partners
from lightcrl.methods.spec import make_method
from lightcrl.methods.structure import divergence, log_neighbourhoods
from lightcrl.tokens import TokenBatch, TokenSpec
from samples import ragged, randn, units

SPECS = {"image": TokenSpec(4, slots=3), "text": TokenSpec(7)}


def make(name: str, loss: str = "info_nce", **options: Any) -> Method:
    method = make_method(name, SPECS, {"dim": 8, "input_dropout": 0.0} | options, loss).eval()
    with torch.no_grad():
        for modality in SPECS:
            method.stem(modality).mean.copy_(torch.rand_like(method.stem(modality).mean))
            method.stem(modality).deviation.fill_(1.5)
    return method


def step_of(count: int, done: float = 1.0) -> Step:
    tokens = {
        "image": TokenBatch.full(randn(count, 3, 4, seed=3)),
        "text": ragged([1 + n % 3 for n in range(count)], 7),
    }
    return Step(tokens, {name: torch.arange(count) for name in SPECS}, done)


# --- ConVIRT


def test_convirt_is_two_layers_over_the_mean_token():
    method, tokens = make("convirt"), step_of(4).tokens["text"]
    stem, head = method.stem("text"), method.heads["text"][1]
    hidden = ((tokens.mean() - stem.mean) / stem.deviation @ stem.weight[0] + stem.bias[0]).clamp(min=0)
    torch.testing.assert_close(method.embed("text", tokens), hidden @ head.weight.T + head.bias)


def test_convirt_weighs_image_to_text_three_times_as_much_at_temperature_one_tenth():
    method, step = make("convirt"), step_of(6)
    embeddings = {"text": units(6, 8, 1, torch.float32), "image": units(6, 8, 2, torch.float32)}
    logits, own = embeddings["image"] @ embeddings["text"].T / 0.1, torch.arange(6)
    wanted = 0.75 * cross_entropy(logits, own) + 0.25 * cross_entropy(logits.T, own)
    torch.testing.assert_close(method.objective(partial(info_nce, label_smoothing=0.0), embeddings, step), wanted)
    assert not method.logit_scale.requires_grad


def test_convirt_without_its_loss_has_the_recipes():
    method, step = make("convirt", loss_weight=0.5, temperature=None), step_of(6)
    embeddings = {"text": units(6, 8, 1, torch.float32), "image": units(6, 8, 2, torch.float32)}
    wanted = make("linear").objective(info_nce, embeddings, step)
    torch.testing.assert_close(method.objective(info_nce, embeddings, step), wanted)
    assert method.logit_scale.requires_grad


def test_convirt_cannot_weigh_a_loss_without_directions():
    embeddings = {name: units(6, 8, 1, torch.float32) for name in SPECS}
    with pytest.raises(TrainingError, match=r"loss_weight is 0\.75, but the loss has no directions"):
        make("convirt").objective(sigmoid, embeddings, step_of(6))


# --- MLP, SAIL, ShareLock


@pytest.mark.parametrize("layers", [2, 3])
def test_an_mlp_has_as_many_layers_as_it_says(layers):
    method, tokens = make("mlp", layers=layers, hidden=12), step_of(4).tokens["text"]
    stem = method.stem("text")
    found = (tokens.mean() - stem.mean) / stem.deviation @ stem.weight[0] + stem.bias[0]
    linear = [layer for layer in method.heads["text"] if isinstance(layer, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linear] == [(12, 12)] * (layers - 2) + [(8, 12)]
    for layer in linear:
        found = torch.nn.functional.gelu(found) @ layer.weight.T + layer.bias
    torch.testing.assert_close(method.embed("text", tokens), found)


def test_sail_is_a_gated_layer_over_all_slots_side_by_side():
    method, tokens = make("sail", loss="sigmoid", hidden=5), step_of(4).tokens["image"]
    stem, head = method.stem("image"), method.heads["image"]
    flat = ((tokens.values - stem.mean) / stem.deviation).reshape(4, 12).detach().numpy()
    normed = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-5)
    both = normed @ head.branches.weight.detach().numpy().T + head.branches.bias.detach().numpy()
    gated = np.clip(both[:, :5], 0, 6) * both[:, 5:]
    wanted = gated @ head.project.weight.detach().numpy().T + head.project.bias.detach().numpy()
    np.testing.assert_allclose(method.embed("image", tokens).detach(), wanted, atol=1e-5)
    assert method.scale.item() == pytest.approx(20)
    assert method.logit_bias.item() == -10


def test_sharelock_leaves_the_locked_side_as_it_is():
    method, tokens = make("sharelock").train(), step_of(4).tokens["image"]
    flat = ((tokens.values - method.stem("image").mean) / method.stem("image").deviation).flatten(1)
    torch.testing.assert_close(method("image", tokens), normalize(flat, dim=-1))
    assert method.dim == 12
    assert method("text", step_of(4).tokens["text"]).shape == (4, 12)
    assert not [name for name, p in method.named_parameters() if "image" in name]


def test_sharelock_locks_what_it_is_told_to():
    assert make("sharelock", locked="text").dim == 7
    sounds = {"sound": TokenSpec(3), "text": TokenSpec(7)}
    assert make_method("sharelock", sounds, {}, "info_nce").dim == 3
    with pytest.raises(ModalityError, match=r"locked is 'video', but the modalities are image, text"):
        make("sharelock", locked="video")


# --- FuseMix


def test_a_group_has_one_partner_and_one_share_in_all_modalities():
    groups = {"image": torch.tensor([4, 7, 9, 2]), "text": torch.tensor([9, 9, 4, 2, 7, 7, 7])}
    torch.manual_seed(0)
    rows, shares = draw_partners(groups, 1.0)
    partner = {g: groups["image"][row].item() for g, row in zip(groups["image"].tolist(), rows["image"], strict=True)}
    share = dict(zip(groups["image"].tolist(), shares["image"].tolist(), strict=True))
    assert sorted(partner.values()) == [2, 4, 7, 9]
    for place, group in enumerate(groups["text"].tolist()):
        assert groups["text"][rows["text"][place]].item() == partner[group]
        assert shares["text"][place].item() == share[group]
    # A partner with as many items or more shows each once.
    assert len({rows["text"][n].item() for n in (0, 1)}) == min(2, (groups["text"] == partner[9]).sum().item())


def test_a_group_without_pictures_is_never_partner_of_one_that_has_them():
    groups = {"image": torch.arange(5), "text": torch.arange(3, 9)}
    for seed in range(20):
        torch.manual_seed(seed)
        rows, _ = draw_partners(groups, 1.0)
        assert set(groups["image"][rows["image"][:3]].tolist()) == {0, 1, 2}
        assert set(groups["text"][rows["text"][2:]].tolist()) == {5, 6, 7, 8}


def test_fusemix_mixes_features_by_its_formula_and_leaves_labels():
    method, step = make("fusemix"), step_of(6)
    torch.manual_seed(3)
    rows, shares = draw_partners(step.groups, 1.0)
    torch.manual_seed(3)
    mixed = method.augment(step)
    assert mixed.groups is step.groups
    for name, values in (("image", step.tokens["image"].values), ("text", step.tokens["text"].mean()[:, None])):
        for n in range(6):
            share = shares[name][n].item()
            wanted = share * values[n] + (1 - share) * values[rows[name][n]]
            torch.testing.assert_close(mixed.tokens[name].values[n], wanted)
    torch.manual_seed(4)
    assert not torch.equal(method.augment(step).tokens["text"].values, mixed.tokens["text"].values)


def test_fusemix_draws_shares_from_its_beta_distribution():
    groups = {"image": torch.arange(20_000), "text": torch.arange(20_000)}
    torch.manual_seed(0)
    for alpha in (0.3, 1.0, 4.0):
        _, shares = draw_partners(groups, alpha)
        assert shares["image"].mean().item() == pytest.approx(0.5, abs=0.01)
        assert shares["image"].var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_fusemix_without_mixing_treats_an_item_as_its_mean_token():
    method, tokens = make("fusemix"), step_of(5).tokens["text"]
    torch.testing.assert_close(
        method("text", tokens), method("text", TokenBatch.from_vectors(tokens.mean())), atol=1e-5, rtol=0
    )


# --- STRUCTURE


def test_the_divergence_is_jensens_and_shannons():
    rng = np.random.default_rng(0)
    left, right = rng.dirichlet(np.ones(5), 4), rng.dirichlet(np.ones(5), 4)
    middle = (left + right) / 2
    wanted = sum((p * np.log(p / middle)).sum(1).mean() for p in (left, right)) / 2
    found = divergence(torch.from_numpy(left).log(), torch.from_numpy(right).log())
    assert found.item() == pytest.approx(wanted)
    assert divergence(torch.from_numpy(left).log(), torch.from_numpy(left).log()).item() == pytest.approx(0, abs=1e-12)
    apart = torch.tensor([[0.0, -200.0], [-200.0, 0.0]], dtype=torch.float64)
    assert divergence(apart, apart.flip(1)).item() == pytest.approx(math.log(2))


def test_neighbourhoods_are_blind_to_rotations_and_see_what_moved():
    x = units(9, 4)
    rotation = torch.linalg.qr(randn(4, 4, seed=8, dtype=torch.float64))[0]
    kept = log_neighbourhoods(x, 0.05)
    torch.testing.assert_close(kept.exp().sum(1), torch.ones(9, dtype=torch.float64))
    assert divergence(kept, log_neighbourhoods(x @ rotation, 0.05)).item() == pytest.approx(0, abs=1e-9)
    assert divergence(kept, log_neighbourhoods(units(9, 4, seed=5), 0.05)).item() > 0.01


def test_structure_adds_its_weight_times_what_neighbourhoods_lost():
    step = step_of(8)
    plain, full = make("structure", structure_weight=0.0), make("structure", structure_weight=10.0)
    embeddings = {name: units(8, 8, n, torch.float32) for n, name in enumerate(SPECS)}
    lost = []
    for name in SPECS:
        raw = normalize(full.stem(name).features(step.tokens[name]), dim=-1)
        lost.append(divergence(log_neighbourhoods(raw, 0.05), log_neighbourhoods(embeddings[name], 0.05)))
    base = plain.objective(info_nce, embeddings, step)
    torch.testing.assert_close(full.objective(info_nce, embeddings, step), base + 10 * sum(lost) / 2)
    assert plain.scale.item() == pytest.approx(20)
    # The weight rises from nothing over the first tenth of the steps.
    assert full.objective(info_nce, embeddings, step_of(8, done=0.0)).item() == pytest.approx(base.item())
    half = full.objective(info_nce, embeddings, step_of(8, done=0.05))
    torch.testing.assert_close(half, base + 5 * sum(lost) / 2)


# --- the paper's encoder


def test_the_papers_encoder_is_that_of_its_recipe():
    recipe = tomllib.loads((Path(__file__).parents[2] / "recipes/flickr8k_paper.toml").read_text())
    kind = METHODS.load("lightcrl_paper")
    assert recipe["method"].pop("name") == "lightcrl_paper"
    options = kind.Options()
    assert {key: getattr(options, key) for key in recipe["method"]} == recipe["method"]
    wanted = {key: value for key, value in recipe["training"].items() if key in kind.suits and key != "epochs"}
    assert wanted == {key: value for key, value in kind.suits.items() if key != "epochs"}
