"""Towers: the parameters that are to change can, the others cannot, and what was trained comes back whole."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tiny
from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.augment import crop_and_flip
from lightcrl.encoders.tower import Tower, TuningSpec, tuned_encoder
from lightcrl.errors import CheckpointError, EncoderError

MADE = {
    "bert": ("text", tiny.bert),
    "vit": ("image", tiny.vit),
    "resnet": ("image", tiny.resnet),
    "llama": ("text", tiny.llama),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, (_, make) in MADE.items()}


def encoder(made: dict[str, Path], name: str, **given: object) -> Encoder:
    return load_encoder(EncoderSpec(kind=MADE[name][0], model=str(made[name]), **given))  # type: ignore[arg-type]


def trained(tower: Tower) -> set[str]:
    return {name for name, parameter in tower.network.named_parameters() if parameter.requires_grad}


def learn(tower: Tower, steps: int = 2) -> None:
    """Some steps towards whatever makes the tokens smaller."""
    prepared = [tower.encoder.prepare(item) for item in tiny.ITEMS[tower.encoder.kind]()]
    optimizer = torch.optim.SGD([p for p in tower.network.parameters() if p.requires_grad], lr=0.01)
    tower.train()
    for _ in range(steps):
        optimizer.zero_grad()
        tokens = tower(prepared)
        tokens.values[tokens.mask].square().mean().backward()
        optimizer.step()
    tower.eval()


@pytest.mark.parametrize(("name", "blocks"), [("bert", 2), ("vit", 1), ("llama", 3)])
def test_the_last_blocks_and_what_follows_change_and_nothing_else(made, name, blocks):
    frozen = encoder(made, name)
    tower = Tower(frozen, TuningSpec(blocks=blocks))
    before = {key: value.clone() for key, value in tower.network.state_dict().items()}
    learn(tower)
    changed = {key for key, value in tower.network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == trained(tower)
    in_block = {n: any(f".{n}." in f".{key}" for key in changed) for n in range(5)}
    assert in_block == {n: n >= 5 - blocks for n in range(5)}
    assert not any("embed" in key for key in changed)
    # The final norm, where the network has one, follows the last block.
    ends = {"bert": set(), "vit": {"layernorm.weight", "layernorm.bias"}, "llama": {"norm.weight"}}
    assert {key for key in changed if not any(part.isdigit() for part in key.split("."))} == ends[name]


@pytest.mark.parametrize("name", MADE)
def test_all_of_a_network_learns_but_for_its_head(made, name):
    tower = Tower(encoder(made, name), TuningSpec())
    before = {key: value.detach().clone() for key, value in tower.network.named_parameters()}
    learn(tower)
    same = {key for key, value in tower.network.named_parameters() if torch.equal(value, before[key])}
    assert same == {key for key in before if "pooler" in key}


@pytest.mark.parametrize("name", MADE)
def test_the_encoder_itself_stays_as_it_is(made, name):
    frozen = encoder(made, name)
    prepared = [frozen.prepare(item) for item in tiny.ITEMS[frozen.kind]()]
    before = frozen.encode(prepared)
    tower = Tower(frozen, TuningSpec(blocks=1))
    fresh = tower(prepared)
    torch.testing.assert_close(fresh.values[fresh.mask].detach(), before.values[before.mask])
    learn(tower)
    after = tower(prepared)
    assert (after.values[after.mask] - before.values[before.mask]).abs().max() > 1e-4
    torch.testing.assert_close(frozen.encode(prepared).values, before.values, rtol=0, atol=0)


def test_adapters_train_alone_and_start_without_effect(made):
    pytest.importorskip("peft")
    frozen = encoder(made, "bert")
    tower = Tower(frozen, TuningSpec(blocks=2, lora=3))
    prepared = [frozen.prepare(text) for text in tiny.TEXTS]
    torch.testing.assert_close(tower(prepared).values.detach(), frozen.encode(prepared).values)
    assert trained(tower)
    assert all("lora_" in key for key in trained(tower))
    assert not any(f"layer.{n}." in key for key in trained(tower) for n in range(3))
    # Six linear maps in each of two blocks, 32 to 32 four times, 32 to 48 and back, by rank 3.
    count = sum(value.numel() for value in tower.tuned().tensors.values())
    assert count == 2 * 3 * (4 * (32 + 32) + 2 * (32 + 48))
    learn(tower, steps=3)
    assert (tower(prepared).values - frozen.encode(prepared).values).abs().max() > 1e-5


@pytest.mark.parametrize("given", [{}, {"blocks": 2}, {"blocks": 1, "lora": 2}, {"checkpointing": True}])
def test_what_was_trained_comes_back(made, given):
    if "lora" in given:
        pytest.importorskip("peft")
    frozen, spec = encoder(made, "bert"), TuningSpec(**given)
    tower = Tower(frozen, spec)
    learn(tower)
    again = tuned_encoder(encoder(made, "bert"), tower.tuned())
    prepared = [frozen.prepare(text) for text in tiny.TEXTS]
    torch.testing.assert_close(again.encode(prepared).values, tower(prepared).values.detach())
    assert again.fingerprint != frozen.fingerprint
    elsewhere = pickle.loads(pickle.dumps(again.origin))()
    assert elsewhere.fingerprint == again.fingerprint
    torch.testing.assert_close(elsewhere.encode(prepared).values, again.encode(prepared).values, rtol=0, atol=0)
    other = Tower(frozen, spec)
    assert tuned_encoder(frozen, other.tuned()).fingerprint not in (again.fingerprint, frozen.fingerprint)
    assert tuned_encoder(frozen, tower.tuned()).fingerprint == again.fingerprint


def test_checkpointing_gives_the_same_gradient(made):
    found = []
    for checkpointing in (False, True):
        tower = Tower(encoder(made, "vit"), TuningSpec(checkpointing=checkpointing))
        prepared = [tower.encoder.prepare(picture) for picture in tiny.pictures()]
        # In training mode, without which nothing is recomputed; dropout is the same by its seed.
        tower.train()
        torch.manual_seed(0)
        tower(prepared).values.square().mean().backward()
        found.append([p.grad for p in tower.network.parameters() if p.grad is not None])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_random_weights_need_a_config_alone_and_are_the_same_each_time(made, tmp_path):
    for path in made["bert"].iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    one, other = (load_encoder(EncoderSpec(kind="text", model=str(tmp_path), weights="random")) for _ in range(2))
    prepared = [one.prepare(text) for text in tiny.TEXTS]
    torch.testing.assert_close(one.encode(prepared).values, other.encode(prepared).values, rtol=0, atol=0)
    assert one.fingerprint == other.fingerprint != encoder(made, "bert").fingerprint
    # Weights beside the config do not matter.
    beside = encoder(made, "bert", weights="random")
    assert beside.fingerprint == one.fingerprint
    torch.testing.assert_close(beside.encode(prepared).values, one.encode(prepared).values, rtol=0, atol=0)
    # All of such a network is kept: nobody else has its weights.
    assert set(Tower(one, TuningSpec(blocks=1)).tuned().tensors) == set(Tower(one, TuningSpec()).tuned().tensors)
    with pytest.raises(EncoderError, match="no weights"):
        load_encoder(EncoderSpec(kind="text", model=str(tmp_path)))


def test_batch_norms_keep_the_statistics_of_pretrained_weights_and_learn_those_of_random_ones(made):
    for weights, same in (("pretrained", True), ("random", False)):
        tower = Tower(encoder(made, "resnet", weights=weights), TuningSpec())
        norms = [module for module in tower.network.modules() if isinstance(module, nn.BatchNorm2d)]
        before = [norm.running_mean.clone() for norm in norms]
        learn(tower)
        assert all(torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)) == same


def test_what_is_trained_is_in_float32_whatever_the_frozen_encoder_is_in(made):
    frozen = encoder(made, "bert", dtype="bfloat16")
    tower = Tower(frozen, TuningSpec())
    assert {parameter.dtype for parameter in tower.network.parameters()} == {torch.float32}
    assert tower.encoder.spec.dtype == "float32"
    exact = Tower(encoder(made, "bert"), TuningSpec())
    assert all(torch.equal(value, exact.tuned().tensors[name]) for name, value in tower.tuned().tensors.items())
    assert frozen.loaded.network.dtype == torch.bfloat16


def test_it_refuses_what_it_cannot_train(made):
    with pytest.raises(EncoderError, match="HashedNgrams cannot be trained"):
        Tower(load_encoder(EncoderSpec(kind="text", model="builtin")), TuningSpec())
    with pytest.raises(EncoderError, match="has 5 blocks, 6 are to be trained"):
        Tower(encoder(made, "bert"), TuningSpec(blocks=6))
    tower = Tower(encoder(made, "bert"), TuningSpec(blocks=1))
    tensors = tower.tuned().tensors
    name = min(tensors)
    with pytest.raises(CheckpointError, match="missing"):
        tower.load({key: value for key, value in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match="of shape"):
        tower.load({**tensors, name: torch.zeros(3)})


def test_learning_rates_follow_what_is_trained():
    assert TuningSpec(learning_rate=0.5).rate("random") == 0.5
    assert TuningSpec().rate("pretrained") < TuningSpec(lora=2).rate("pretrained") < TuningSpec().rate("random")


def test_crops_keep_the_area_asked_for_and_flips_mirror():
    # Every pixel tells its place.
    y, x = np.mgrid[0:60, 0:80]
    picture = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    areas, mirrored = [], []
    for seed in range(200):
        found = np.asarray(crop_and_flip(picture, np.random.default_rng(seed), 0.4, True)).astype(int)
        step = found[0, 1, 0] - found[0, 0, 0]
        assert abs(step) == 1
        mirrored.append(step == -1)
        wide, high = found.shape[1], found.shape[0]
        assert np.ptp(found[..., 0]) == wide - 1
        assert np.ptp(found[..., 1]) == high - 1
        assert 0.7 < (wide / high) / (80 / 60) < 1.4
        areas.append(wide * high / (60 * 80))
    assert 0.38 < min(areas) < 0.5
    assert max(areas) > 0.9
    assert 0.4 < np.mean(mirrored) < 0.6
    whole = crop_and_flip(picture, np.random.default_rng(0), 1.0, False)
    assert np.array_equal(np.asarray(whole), np.asarray(picture))
