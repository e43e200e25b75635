"""Exported graphs against the embedder that they come from."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from packaging.version import Version
from typer.testing import CliRunner

import tiny
from lightcrl.checkpoint import Checkpoint
from lightcrl.cli import app
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.errors import CheckpointError, EncoderError, ItemError, MissingExtraError, ModalityError
from lightcrl.export import ExportedEmbedder, export_onnx
from lightcrl.methods import Step
from lightcrl.methods.hubs import Hubs
from lightcrl.methods.spec import make_method
from lightcrl.tokens import TokenSpec
from samples import units

ITEMS = {"image": tiny.pictures(), "text": list(tiny.TEXTS), "words": list(tiny.TEXTS)}


def make_embedder(specs: dict[str, EncoderSpec], name: str, **options: object) -> Embedder:
    """Random weights, what is solved solved, means and deviations those of the items."""
    encoders = {modality: load_encoder(spec) for modality, spec in specs.items()}
    tokens = {
        modality: encoder.encode([encoder.prepare(item) for item in ITEMS[modality]])
        for modality, encoder in encoders.items()
    }
    shapes = {
        modality: TokenSpec(encoder.dim, encoder.slots, encoder.sequence) for modality, encoder in encoders.items()
    }
    method = make_method(name, shapes, options, "info_nce", seed=3)
    for modality, found in tokens.items():
        method.fit(modality, method.visible(modality, found))
    if method.solves:
        method.solve([Step(tokens, {modality: torch.arange(len(found)) for modality, found in tokens.items()})])
    fingerprints = {modality: encoder.fingerprint for modality, encoder in encoders.items()}
    return Embedder(Checkpoint(method, name=name, loss="info_nce", encoders=specs, fingerprints=fingerprints))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A DFE of two transformers' models and a weightless one, corrected for hubs, and its export."""
    folder = tmp_path_factory.mktemp("export")
    specs = {
        "image": EncoderSpec(kind="image", model=str(tiny.vit(folder / "vit", blocks=2))),
        "text": EncoderSpec(kind="text", model=str(tiny.bert(folder / "bert", blocks=2)), batch_size=2),
        "words": EncoderSpec(kind="text", model="builtin"),
    }
    embedder = make_embedder(specs, "dfe", dim=32, heads=2, feedforward=24, fusion="scaled_dot_product")
    banks = {name: units(80, embedder.dim, seed).float() for seed, name in enumerate(specs)}
    embedder.method.hubs = Hubs.measured(banks)
    embedder.checkpoint.save(folder / "model")
    return embedder, export_onnx(embedder, folder / "onnx"), folder


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.13"), reason="torch exports grouped-query attention from version 2.13 on"
)
@pytest.mark.parametrize("tokens", ["auto", "trained+last|all"])
def test_an_export_has_the_last_token_and_the_vector_trained(tokens, tmp_path):
    folder = tiny.qwen3(tmp_path / "model", blocks=1)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": n, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["lasttoken", "weightedmean"]}))
    layers = "auto" if tokens == "auto" else (-1,)
    spec = EncoderSpec(kind="text", model=str(folder), tokens=tokens, layers=layers)
    embedder = make_embedder({"text": spec, "words": EncoderSpec(kind="text", model="builtin")}, "linear", dim=8)
    used = ExportedEmbedder(export_onnx(embedder, tmp_path / "onnx", ["text"]), threads=1)
    np.testing.assert_allclose(used.encode(ITEMS["text"], "text"), embedder.encode(ITEMS["text"], "text"), atol=1e-5)


def test_a_network_that_torch_cannot_export_is_named(tmp_path):
    spec = EncoderSpec(kind="text", model=str(tiny.bert(tmp_path / "model", blocks=1)))
    embedder = make_embedder({"text": spec, "words": EncoderSpec(kind="text", model="builtin")}, "linear", dim=8)
    network = embedder.encoder("text").loaded.network  # type: ignore[attr-defined]
    forward = network.forward

    def branching(input_ids: torch.Tensor, **inputs: torch.Tensor):
        assert int(input_ids.sum()) > 0, "a branch that depends on values"
        return forward(input_ids=input_ids, **inputs)

    network.forward = branching
    with pytest.raises(EncoderError, match=r"^torch 2\S+ cannot export the graph of 'text': .+ A newer torch and "):
        export_onnx(embedder, tmp_path / "onnx", ["text"])


@pytest.mark.parametrize("modality", ITEMS)
def test_an_export_gives_the_embedders_vectors(exported, modality):
    embedder, folder, _ = exported
    items = ITEMS[modality]
    used = ExportedEmbedder(folder, threads=1)
    found, wanted = used.encode(items, modality), embedder.encode(items, modality)
    assert found.shape == (5, used.dim) == (5, embedder.dim)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    # One item, and more than the graph was traced with, some of them longer.
    np.testing.assert_allclose(used.encode(items[:1], modality), wanted[:1], atol=1e-5)
    np.testing.assert_allclose(used.encode(items * 3, modality), np.tile(wanted, (3, 1)), atol=1e-5)
    assert used.encode([], modality).shape == (0, used.dim)


def test_a_model_with_encoders_in_bfloat16_is_exported_in_float32(exported, tmp_path):
    specs = {name: exported[0].checkpoint.encoders[name] for name in ("text", "words")}
    embedder = make_embedder(specs, "linear", dim=8)  # its graph takes half of the time
    specs = {"text": specs["text"].model_copy(update={"dtype": "bfloat16"})}
    fingerprints = {"text": load_encoder(specs["text"]).fingerprint}
    half = Embedder(
        Checkpoint(embedder.method, name="linear", loss="info_nce", encoders=specs, fingerprints=fingerprints)
    )
    used = ExportedEmbedder(export_onnx(half, tmp_path / "onnx", ["text"]), threads=1)
    found = used.encode(ITEMS["text"], "text")
    np.testing.assert_allclose(found, embedder.encode(ITEMS["text"], "text"), atol=1e-5)
    rounded = half.encode(ITEMS["text"], "text")
    assert 1e-5 < np.abs(found - rounded).max() < 0.1
    manifest = json.loads((tmp_path / "onnx/model.json").read_text())
    assert manifest["modalities"]["text"]["fingerprint"] == fingerprints["text"]


def test_a_graph_runs_without_this_library(exported):
    """Inputs by the names that the tokenizer beside it gives."""
    from transformers import AutoTokenizer

    embedder, folder, _ = exported
    session = onnxruntime.InferenceSession(str(folder / "text.onnx"))
    prepared = AutoTokenizer.from_pretrained(folder / "text")(tiny.TEXTS, padding=True, return_tensors="np")
    names = [one.name for one in session.get_inputs()]
    (vectors,) = session.run(["vectors"], {name: prepared[name].astype(np.int64) for name in names})
    np.testing.assert_allclose(vectors, embedder.encode(ITEMS["text"], "text"), atol=1e-5)


def test_padding_changes_nothing(exported):
    embedder, folder, _ = exported
    session = onnxruntime.InferenceSession(str(folder / "text.onnx"))
    encoder = embedder.encoder("text")
    inputs = encoder.batch([encoder.prepare(text) for text in ITEMS["text"]])
    garbage = {
        name: torch.full((len(value), 4), 0 if name == "attention_mask" else 7) for name, value in inputs.items()
    }
    padded = {name: torch.cat([value, garbage[name]], 1) for name, value in inputs.items()}
    vectors = [session.run(None, {name: one[name].numpy() for name in one})[0] for one in (inputs, padded)]
    np.testing.assert_allclose(*vectors, atol=1e-5)


def test_the_command_line_exports_and_eight_bits_are_near(exported, tmp_path):
    embedder, folder, place = exported
    words = ["export", str(place / "model"), "--output", str(tmp_path), "--modality", "text", "--int8"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "text.onnx" in done.output
    assert not (tmp_path / "image.onnx").exists()
    found, wanted = ExportedEmbedder(tmp_path).encode(ITEMS["text"], "text"), embedder.encode(ITEMS["text"], "text")
    assert 0.95 < (found * wanted).sum(1).min() < 1 - 1e-6
    assert json.loads((tmp_path / "model.json").read_text())["int8"]
    assert onnx.TensorProto.INT8 in weight_types(tmp_path / "text.onnx")
    assert onnx.TensorProto.INT8 not in weight_types(folder / "text.onnx")


def weight_types(path):
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


def test_what_cannot_be_used_is_said(exported, tmp_path, monkeypatch):
    embedder, folder, _ = exported
    used = ExportedEmbedder(folder)
    with pytest.raises(ModalityError, match="no modality 'sound' in this export; it has image, text, words"):
        used.encode(["x"], "sound")
    for modality in ("text", "words"):
        with pytest.raises(ItemError, match="item 1: empty text"):
            used.encode(["a dog", ""], modality)
    with pytest.raises(CheckpointError, match="no export in"):
        ExportedEmbedder(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads up to 1"):
        ExportedEmbedder(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    for use in (lambda: ExportedEmbedder(folder), lambda: export_onnx(embedder, tmp_path)):
        with pytest.raises(MissingExtraError, match=r"lightcrl\[onnx\]"):
            use()
