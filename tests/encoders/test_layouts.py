"""Layouts of sentence-transformers beyond a text model and its pooling, against what the library makes of them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from lazily import Lazily
from lightcrl.encoders import Encoder, EncoderSpec, load_encoder
from lightcrl.encoders.files import quiet
from lightcrl.encoders.library import LibraryEncoder
from lightcrl.encoders.routes import read_router
from lightcrl.errors import EncoderError, ItemError, MissingExtraError

library = Lazily("sentence_transformers")
base = Lazily("sentence_transformers.base.modules")
modules = Lazily("sentence_transformers.sentence_transformer.modules")
TEXTS = list(tiny.TEXTS)


def save(folder: Path, *modules: Any) -> Path:
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        library.SentenceTransformer(modules=list(modules), device="cpu").save(str(folder), create_model_card=False)
    return folder


def transformer(folder: Path) -> Any:
    with quiet():
        return base.Transformer(str(folder))


def load(folder: Path, kind: str = "text", **settings: Any) -> Encoder:
    return load_encoder(EncoderSpec.model_validate({"kind": kind, "model": str(folder), **settings}))


def vectors(encoder: Encoder, items: Sequence[Any]) -> Tensor:
    return encoder.own_vectors(encoder.encode([encoder.prepare(item) for item in items]))


def theirs(folder: Path, items: Sequence[Any], **settings: Any) -> Tensor:
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        model = library.SentenceTransformer(str(folder), device="cpu")
        return torch.from_numpy(model.encode(list(items), show_progress_bar=False, **settings))


def assert_theirs(folder: Path, items: Sequence[Any], kind: str = "text", task: str | None = None) -> None:
    expected = theirs(folder, items, **({"task": task} if task else {}))
    given = {"prompt": task} if task else {}
    close = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}
    torch.testing.assert_close(vectors(load(folder, kind, **given), items), expected, **close)


@pytest.fixture(scope="module")
def routed(tmp_path_factory) -> Path:
    """Queries and documents through different models."""
    place = tmp_path_factory.mktemp("routed")
    query = [transformer(tiny.bert(place / "one")), modules.Pooling(32, "mean"), modules.Dense(32, 24)]
    document = [transformer(tiny.qwen3(place / "two")), modules.Pooling(32, "lasttoken"), modules.Dense(32, 24)]
    return save(place / "saved", base.Router.for_query_document(query, document), base.Normalize())


@pytest.mark.parametrize("task", ["query", "document", None])
def test_a_router_takes_the_route_of_the_prompt(routed, task):
    assert_theirs(routed, TEXTS, task=task)


def test_routes_have_fingerprints_of_their_own(routed):
    marks = {load(routed, prompt=task).fingerprint for task in ("query", "document")}
    assert len(marks) == 2


def test_a_router_takes_the_route_of_the_kind(tmp_path):
    text = [transformer(tiny.bert(tmp_path / "bert")), modules.Pooling(32, "mean")]
    image = [transformer(tiny.vit(tmp_path / "vit")), modules.Pooling(32, "mean")]
    folder = save(
        tmp_path / "saved", base.Router({"text": text, "image": image}, allow_empty_key=False), base.Normalize()
    )
    assert_theirs(folder, TEXTS)
    assert_theirs(folder, tiny.pictures(), "image")
    with pytest.raises(EncoderError, match=r"has no route for audio items; it has text, image"):
        load(folder, "audio")


def test_rules_of_a_router_come_in_the_librarys_order(tmp_path):
    parts = {
        name: [transformer(tiny.bert(tmp_path / name, seed)), modules.Pooling(32, "mean")]
        for seed, name in enumerate("ab")
    }
    rules = {("query", "text"): "b", (None, "text"): "a"}
    folder = save(tmp_path / "saved", base.Router(parts, route_mappings=rules))
    assert read_router(folder).mappings == rules
    assert_theirs(folder, TEXTS)
    assert_theirs(folder, TEXTS, task="query")
    assert not torch.allclose(vectors(load(folder), TEXTS), vectors(load(folder, prompt="query"), TEXTS))


@pytest.mark.parametrize(
    "broken", ["{", "{}", '{"types": {"../x": "a.B"}, "structure": {"a": ["../x"]}, "parameters": {}}']
)
def test_a_router_without_a_sound_description_is_refused(broken, routed, tmp_path):
    shutil.copytree(routed, tmp_path / "copy")
    (tmp_path / "copy/router_config.json").write_text(broken)
    with pytest.raises(EncoderError, match=r"router_config\.json"):
        load(tmp_path / "copy")


@pytest.fixture(scope="module", params=["today", "legacy"])
def clip(request, tmp_path_factory) -> Path:
    """CLIP in the layout of version 6, and in that of the models `clip-ViT-B-32` and the like."""
    place = tmp_path_factory.mktemp(request.param)
    if request.param == "today":
        return save(place / "saved", transformer(tiny.clip(place / "plain")))
    tiny.clip(place / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (place / "modules.json").write_text(json.dumps([module]))
    return place


@pytest.mark.parametrize("kind", ["text", "image"])
def test_clip_encodes_texts_and_pictures(clip, kind):
    assert_theirs(clip, TEXTS if kind == "text" else tiny.pictures(), kind)


@pytest.mark.parametrize(("pooling", "tokens"), [("mean", "auto"), ("cls", "cls"), ("max", "cls+mean|all")])
def test_a_pooling_of_pictures_counts_the_cls_token(pooling, tokens, tmp_path):
    folder = save(tmp_path / "saved", transformer(tiny.vit(tmp_path / "vit")), modules.Pooling(32, pooling))
    expected = theirs(folder, tiny.pictures())
    encoder = load(folder, "image", tokens=tokens, layers=(-1,))
    torch.testing.assert_close(vectors(encoder, tiny.pictures()), expected, rtol=1e-5, atol=1e-5)


# --- what only the library reads ---


@pytest.fixture(scope="module")
def static(tmp_path_factory) -> Path:
    """A model without a transformer."""
    weights = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    bag = modules.StaticEmbedding(tiny.bert_words().backend_tokenizer, embedding_weights=weights)
    return save(tmp_path_factory.mktemp("static") / "saved", bag, base.Normalize())


def test_a_model_without_a_transformer_is_run_by_the_library(static):
    encoder = load(static)
    assert isinstance(encoder, LibraryEncoder)
    assert (encoder.dim, encoder.slots, encoder.sequence) == (24, 1, False)
    tokens = encoder.encode([encoder.prepare(text) for text in TEXTS])
    assert tokens.values.shape == (len(TEXTS), 1, 24)
    assert_theirs(static, TEXTS)
    assert encoder.origin().fingerprint == encoder.fingerprint
    with pytest.raises(ItemError, match="empty text"):
        encoder.prepare(" ")
    with pytest.raises(ItemError, match="not a text: found int"):
        encoder.prepare(3)


def test_the_library_encodes_only_its_kinds_and_has_no_hidden_states(static):
    with pytest.raises(EncoderError, match="encodes text, not image"):
        load(static, "image")
    with pytest.raises(EncoderError, match=r"is run by sentence-transformers \(StaticEmbedding is not read\)"):
        load(static, tokens="max")


def test_a_module_that_is_rare_is_run_by_the_library(tmp_path):
    from sentence_transformers.sentence_transformer.modules import CNN

    torch.manual_seed(0)
    parts = [transformer(tiny.bert(tmp_path / "bert")), CNN(32, 8), modules.Pooling(24, "mean")]
    folder = save(tmp_path / "saved", *parts)
    assert isinstance(load(folder), LibraryEncoder)
    assert_theirs(folder, TEXTS)
    # The transformer's own hidden states need no library.
    assert not isinstance(load(folder, tokens="mean", layers=(-1,)), LibraryEncoder)


def test_without_the_library_its_extra_is_named(static, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lightcrl\[sentence-transformers\]'"):
        load(static)


def test_a_changed_weight_changes_the_fingerprint(static, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(static, tmp_path / "copy")
    path = next((tmp_path / "copy").rglob("model.safetensors"))
    tensors = {name: tensor + 1 for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    assert load(tmp_path / "copy").fingerprint != load(static).fingerprint
    assert np.isfinite(vectors(load(tmp_path / "copy"), TEXTS).numpy()).all()
