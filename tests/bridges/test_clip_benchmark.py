"""CLIP_benchmark's figures of a model of ours, against those of `lightcrl evaluate` on the same items."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import clip_benchmark_stand_in as stand_in
import shelves
import tiny
from lightcrl.bridges import clip_benchmark
from lightcrl.cli import app
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.encoders.base import Encoder
from lightcrl.errors import LightCRLError, ModalityError

TEMPLATE = "a picture of a {}"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Any:
    """A model, data as `lightcrl evaluate` reads it, and the same as CLIP_benchmark reads it."""
    folder = tmp_path_factory.mktemp("clip")
    embedder = shelves.make_embedder()
    embedder.checkpoint.save(folder / "run/best")
    table = write_table(folder / "table", 40)
    classes = write_class_folder(folder / "classes", "shape", 4)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    pairs = [
        {"png": (table.parent / row["image"]).read_bytes(), "txt": "\n".join(row["text"]).encode()} for row in rows
    ]
    stand_in.write(folder / "retrieval", pairs, dataset_type="retrieval")
    names = sorted(path.name for path in classes.iterdir())
    labelled = [
        {"png": path.read_bytes(), "cls": str(label).encode()}
        for label, name in enumerate(names)
        for path in sorted((classes / name).iterdir())
    ]
    templates = {"classnames": "\n".join(names), "zeroshot_classification_templates": TEMPLATE.format("{c}")}
    stand_in.write(folder / "classification", labelled, **templates)
    return SimpleNamespace(folder=folder, run=folder / "run", table=table, classes=classes, embedder=embedder)


def theirs(world: Any, monkeypatch: pytest.MonkeyPatch, task: str, *more: str) -> dict[str, float]:
    stand_in.install(monkeypatch)
    words = {
        "model_type": "lightcrl",
        "model": world.run,
        "pretrained": "best",
        "dataset": f"wds/{task}",
        "dataset_root": world.folder / task,
        "task": f"zeroshot_{task}",
        "output": world.folder / f"{task}.json",
    }
    flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *flags, *more])
    clip_benchmark.main()
    return json.loads((world.folder / f"{task}.json").read_text())["metrics"]


def ours(world: Any, *words: object) -> dict[str, float]:
    place = world.folder / "ours.json"
    told = ["evaluate", words[0], world.run, *words[1:], "--features", world.folder / "features", "--json", place]
    result = CliRunner().invoke(app, list(map(str, told)))
    assert result.exit_code == 0, result.output
    return json.loads(place.read_text())["metrics"]


def test_retrieval_has_our_recall(world, monkeypatch):
    found = theirs(world, monkeypatch, "retrieval", "--no_amp", "--recall_k", "1", "5", "10")
    expected = ours(world, "retrieval", "--data", world.table, "--image-column", "image", "--text-column", "text")
    for name, direction in (("image", "text_to_image"), ("text", "image_to_text")):
        for k in (1, 5, 10):
            assert found[f"{name}_retrieval_recall@{k}"] == pytest.approx(expected[f"{direction}/recall@{k}"], abs=1e-6)


def test_classification_has_our_accuracy(world, monkeypatch):
    found = theirs(world, monkeypatch, "classification", "--no_amp")
    expected = ours(world, "zero-shot", "--data", world.classes, "--template", TEMPLATE)
    assert found["acc1"] == pytest.approx(expected["top1"], abs=1e-6)
    assert found["acc5"] == pytest.approx(expected["top5"], abs=1e-6)


def test_embeddings_keep_their_precision_under_their_default(world):
    model, transform, tokenizer = clip_benchmark.load_lightcrl(str(world.run))
    pictures = torch.stack([transform(picture.resize((48, 48))) for picture in tiny.pictures()])
    with torch.autocast("cpu", enabled=True):
        images, texts = model.encode_image(pictures), model.encode_text(tokenizer(list(tiny.TEXTS)).to("cpu"))
    expected = world.embedder.encode([picture.resize((48, 48)) for picture in tiny.pictures()], "image")
    assert torch.equal(images, torch.from_numpy(expected))
    assert torch.equal(texts, torch.from_numpy(world.embedder.encode(list(tiny.TEXTS), "text")))


@pytest.mark.parametrize("make", [tiny.vit, None], ids=["one tensor", "tensors of several sizes"])
def test_pictures_travel_as_the_encoders_input_or_embedded(make, tmp_path):
    """Their batches are tensors of one shape."""
    encoder = load_encoder(EncoderSpec(kind="image", model=str(make(tmp_path)))) if make else Ragged()
    pack = clip_benchmark._packing(encoder)
    assert (pack is None) == (make is None)
    if pack is not None:
        prepared = encoder.prepare(tiny.pictures()[0])
        assert torch.equal(pack(clip_benchmark._tensor(prepared))["pixel_values"], prepared["pixel_values"])


class Ragged(Encoder):
    """An encoder whose input has the size of the picture."""

    kind, dim = "image", 3

    def describe(self) -> Any:
        return {}

    def prepare(self, raw: Image.Image) -> torch.Tensor:
        return torch.zeros(raw.size)

    def encode(self, prepared: Any) -> Any:
        raise NotImplementedError


def test_a_model_without_pictures_and_a_missing_package_are_refused(tmp_path: Path, monkeypatch):
    shelves.make_embedder(kinds=("text",)).checkpoint.save(tmp_path)
    with pytest.raises(ModalityError, match="needs pictures and texts; this model takes text"):
        clip_benchmark.load_lightcrl(str(tmp_path))
    monkeypatch.setitem(sys.modules, "clip_benchmark", None)
    with pytest.raises(LightCRLError, match=r"CLIP_benchmark cannot be imported: .* pip install clip_benchmark"):
        clip_benchmark.register()


def test_registering_twice_is_registering_once(monkeypatch):
    models = stand_in.install(monkeypatch)
    clip_benchmark.register()
    clip_benchmark.register()
    assert models.MODEL_TYPES == ["open_clip", "lightcrl"]
    assert models.TYPE2FUNC["lightcrl"] is clip_benchmark.load_lightcrl
