"""Dual encoders: the vectors that their two towers project into the space of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.files import quiet
from lightcrl.encoders.tower import Tower, TuningSpec
from lightcrl.errors import EncoderError

FOLDERS = {"clip": tiny.clip, "siglip": tiny.siglip}


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory) -> Path:
    return FOLDERS[request.param](tmp_path_factory.mktemp(request.param))


def make(folder: Path, kind: str, **settings: Any) -> Encoder:
    return load_encoder(EncoderSpec.model_validate({"kind": kind, "model": str(folder), **settings}))


def encoded(encoder: Encoder) -> Any:
    return encoder.encode([encoder.prepare(item) for item in tiny.ITEMS[encoder.kind]()])


def features(model: Any, encoder: Encoder) -> Tensor:
    """What the model itself says, one item at a time."""
    rows = []
    for item in tiny.ITEMS[encoder.kind]():
        with torch.no_grad():
            if encoder.kind == "image":
                pixels = encoder.prepare(item)["pixel_values"].unsqueeze(0)
                output = model.get_image_features(pixel_values=pixels.to(model.dtype))
            elif model.config.model_type == "siglip":
                output = model.get_text_features(**encoder.processor(item, padding="max_length", return_tensors="pt"))
            else:
                output = model.get_text_features(**encoder.processor(item, return_tensors="pt"))
        rows.append(output.pooler_output[0])
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_projected_vector_is_a_slot_and_what_it_says_by_itself(folder, kind, reference):
    encoder = make(folder, kind)
    pools = encoder.loaded.tokens.partition(",")[0]
    cls = encoder.loaded.last.cls
    assert pools == ("cls+mean+trained" if cls else "mean+max+trained")
    tokens, expected = encoded(encoder), features(reference(folder), encoder)
    width = expected.shape[1]
    torch.testing.assert_close(encoder.own_vectors(tokens).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens.values[:, 2, :width].double(), expected, rtol=1e-5, atol=1e-5)
    assert not tokens.values[:, 2, width:].any()
    alone = make(folder, kind, tokens="trained", layers=(-1,))
    torch.testing.assert_close(encoded(alone).values[:, 0].double(), expected, rtol=1e-5, atol=1e-5)


def test_the_texts_of_siglip_are_filled_up_and_their_real_tokens_kept(tmp_path, reference):
    """The model sees the padding, as it did in training; of its tokens the real ones are pooled."""
    folder = tiny.siglip(tmp_path)
    encoder = make(folder, "text", layers=(-1,), tokens="mean")
    found, model = encoded(encoder).values[:, 0], reference(folder).text_model
    for one, text in zip(found, tiny.TEXTS, strict=True):
        words = encoder.processor(text, padding="max_length", return_tensors="pt", return_attention_mask=True)
        with torch.no_grad():
            states = model(words["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(
            one.double(), states[words["attention_mask"][0].bool()].mean(0), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("kind", ["text", "image"])
def test_sentence_transformers_says_the_same_of_its_clip(kind, tmp_path):
    """The old form has the model in a folder of its own; what follows it is applied."""
    tiny.clip(tmp_path / "0_CLIPModel")
    kinds = {"0_CLIPModel": "CLIPModel", "1_Normalize": "Normalize"}
    entries = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
        for n, (path, name) in enumerate(kinds.items())
    ]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    encoder = make(tmp_path, kind)
    with torch.no_grad(), quiet():
        from transformers import AutoModel

        expected = features(AutoModel.from_pretrained(tmp_path / "0_CLIPModel").eval(), encoder)
    found = encoder.own_vectors(encoded(encoder))
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32


def test_random_weights_were_trained_to_give_nothing(tmp_path):
    encoder = make(tiny.clip(tmp_path), "text", weights="random")
    assert encoder.loaded.tokens == "mean+max,mean,mean|all"
    assert encoder.fingerprint != make(tmp_path, "text").fingerprint


@pytest.mark.parametrize("name", ["text_projection.weight", "text_model.head.weight"])
def test_a_projection_without_weights_is_refused(name, tmp_path):
    folder = (tiny.clip if name.startswith("text_projection") else tiny.siglip)(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match="lacks 1 of the model's"):
        _ = make(folder, "text").dim


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("tokens", ["auto", "mean"])
def test_a_tower_trains_the_projection_where_it_is_kept(kind, tokens, tmp_path):
    tower = Tower(make(tiny.clip(tmp_path), kind, tokens=tokens), TuningSpec(blocks=1))
    prepared = [tower.encoder.prepare(item) for item in tiny.ITEMS[kind]()]
    tower(prepared).values.pow(2).sum().backward()
    trained = {name for name, weight in tower.network.named_parameters() if weight.requires_grad}
    assert ("trained_vector.after.0.weight" in trained) == (tokens == "auto")
    assert trained >= {name for name, weight in tower.network.named_parameters() if weight.grad is not None}
    assert (dict(tower.network.named_parameters())["trained_vector.after.0.weight"].grad is None) == (tokens != "auto")
