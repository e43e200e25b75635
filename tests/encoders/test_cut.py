"""A tower run from stored states is the whole tower: same tokens, same gradients, whatever the model and the batch."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

import tiny
from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.tower import Tower, TuningSpec, state_encoder
from lightcrl.errors import NoCutError


def deep_wav2vec2(folder: Path) -> Path:
    """More blocks than layers of convolution, as all published models have."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

    config = {**tiny.SOUND, "num_hidden_layers": 8, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
    masked = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return tiny.save(folder, Wav2Vec2Config(**config, **tiny.SOUND_DROP), masked)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folders: dict[str, tuple[str, Path]] = {}

    def load(name: str, **given: object) -> Encoder:
        if name not in folders:
            kind, write = tiny.MODELS.get(name, ("audio", deep_wav2vec2))
            folders[name] = kind, write(tmp_path_factory.mktemp(name))
        kind, folder = folders[name]
        return load_encoder(EncoderSpec(kind=kind, model=str(folder), **given))  # type: ignore[arg-type]

    return load


def prepared(encoder: Encoder) -> list:
    return [encoder.prepare(item) for item in tiny.ITEMS[encoder.kind]()]


CASES = [
    ("bert", {}, {"blocks": 2}),  # slots above and below the cut, then the words
    ("bert", {"tokens": "cls+mean", "layers": (-4, -1, -5)}, {"blocks": 1, "lora": 2}),
    ("fnet", {}, {"blocks": 2}),  # texts of unequal length cannot share a batch
    ("llama", {"tokens": "all", "layers": (-1, -2)}, {"blocks": 2}),
    ("qwen3", {}, {"blocks": 3}),
    ("siglip-text", {}, {"blocks": 2}),  # padding is seen, and a head follows the blocks
    ("vit", {"tokens": "cls+mean|grid:2", "layers": (-1, -3)}, {"blocks": 2}),
    ("clip-image", {}, {"blocks": 4}),  # a norm before the blocks, a projection after them
    ("deep-wav2vec2", {}, {"blocks": 2}),  # masks of samples, masks of frames
    ("whisper", {}, {"blocks": 1}),  # filled up to one length, of which a part is real
]


@pytest.mark.parametrize(("name", "given", "tuning"), CASES, ids=[f"{c[0]}-{n}" for n, c in enumerate(CASES)])
def test_tokens_and_gradients_from_states_are_those_of_the_whole_tower(made, name, given, tuning):
    if "lora" in tuning:
        pytest.importorskip("peft")
    encoder = made(name, **given)
    items = prepared(encoder)
    tower = Tower(encoder, TuningSpec(crop=1.0, **tuning))
    tower.read_states(items[:3])
    tower.double()
    if "lora" in tuning:  # adapters begin without effect
        for key, value in tower.network.named_parameters():
            value.data += 0.1 * ("lora_B" in key)
    assert tower.cut is not None
    states = tower.cut.enter(items)
    assert not states.values.requires_grad
    assert states.values.dtype == torch.float64
    results = []
    for read in (items, states):
        tower.zero_grad()
        tokens = tower(read)
        assert tokens.mask.shape == tokens.values.shape[:2]
        tokens.values[tokens.mask].square().sum().backward()
        gradients = {key: p.grad.clone() for key, p in tower.network.named_parameters() if p.grad is not None}
        results.append((tokens.values[tokens.mask].detach(), gradients))
    (whole, wanted), (part, given_by_states) = results
    torch.testing.assert_close(part, whole, rtol=1e-10, atol=1e-10)
    assert given_by_states.keys() == wanted.keys()
    assert sum(bool(gradient.any()) for gradient in wanted.values()) > len(wanted) // 2
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    for key, gradient in wanted.items():
        torch.testing.assert_close(given_by_states[key], gradient, rtol=1e-10, atol=1e-10 * scale, msg=key)
    # The network is left as it was: raw items still run through all of it.
    torch.testing.assert_close(tower(items).values, tower(items).values, rtol=0, atol=0)
    assert not any("forward" in vars(module) for module in tower.network.modules())


def test_states_are_an_encoder_of_their_own_for_every_cut(made):
    encoder = made("bert")
    items = prepared(encoder)
    two, same, adapters, one = (
        state_encoder(encoder, TuningSpec(**given), items)
        for given in ({"blocks": 2}, {"blocks": 2, "learning_rate": 0.1}, {"blocks": 2, "lora": 2}, {"blocks": 1})
    )
    assert two.fingerprint == same.fingerprint == adapters.fingerprint
    assert len({two.fingerprint, one.fingerprint, encoder.fingerprint}) == 3
    # Sizes, the slots of layers before the cut, the words: the shortest text has one word and two special tokens.
    slots = encoder.choices().chosen
    assert two.slots == 1 + sum(slot.layer < -2 for slot in slots)
    assert two.encode(items).lengths.min() == two.slots + 3
    again = pickle.loads(pickle.dumps(two.origin))()
    torch.testing.assert_close(again.encode(items).values, two.encode(items).values, rtol=0, atol=0)


REFUSED = [
    ("bert", {"blocks": 2, "cache": False}, {}, "cache = false"),
    ("bert", {"lora": 2}, {}, "all blocks are trained"),
    ("bert", {"blocks": 5}, {}, "all blocks are trained"),
    ("bert", {"blocks": 2}, {"weights": "random"}, "random weights"),
    ("bert", {"blocks": 2}, {"tokens": "all", "layers": (-1, -4)}, "all positions of a frozen layer"),
    ("vit", {"blocks": 2}, {}, "crops and mirroring"),
    ("vit", {"blocks": 2, "crop": 1.0, "flip": True}, {}, "crops and mirroring"),
    ("resnet", {"blocks": 2, "crop": 1.0}, {}, "do not pass on tokens"),
    ("t5", {"blocks": 2}, {}, "its trained part"),  # its first block makes the positions of all
    ("xlnet", {"blocks": 2}, {}, "its trained part"),  # segments reach every block
]


@pytest.mark.parametrize(("name", "tuning", "given", "reason"), REFUSED, ids=[c[3][:20] for c in REFUSED])
def test_a_tower_that_cannot_read_states_says_why(made, name, tuning, given, reason):
    encoder = made(name, **given)
    with pytest.raises(NoCutError, match=reason):
        state_encoder(encoder, TuningSpec(**tuning), prepared(encoder))


def test_frozen_blocks_have_no_dropout_and_trained_ones_do(made):
    encoder = made("bert")
    tower = Tower(encoder, TuningSpec(blocks=2)).train()
    active = {
        key.split(".")[2] for key, module in tower.network.named_modules() if "dropout" in key and module.training
    }
    assert active == {"3", "4"}
    whole = Tower(encoder, TuningSpec()).train()
    assert all(module.training for module in whole.network.modules())
