"""Captions end to end on a small world: training by the command, captions of files, figures, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import growing
import lightcrl
from lightcrl.cli import app
from lightcrl.data.base import Item
from lightcrl.data.synthetic import Synthetic
from lightcrl.errors import HeadError, ItemError, LightCRLError
from lightcrl.growth.head import HeadRecipe, add_heads
from lightcrl.heads.captioning.writer import Caption, Search
from lightcrl.specs import parse

SMALL = {
    "decoder": "transformer",
    "width": 16,
    "heads": 2,
    "blocks": 1,
    "feedforward": 16,
    "vocabulary": 90,
    "judged": 8,
}
TRAINING = {"epochs": 2, "batch_size": 16, "precision": "float32", "tensorboard": False}
A_DOG = Caption("a dog", -1.0, -0.5)
WORLD = Synthetic({"image": "image"}, groups=3, seed=9)


def pictures() -> list:
    return [row.cells["image"][0].read() for row in WORLD.rows()]


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    return growing.base(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model(space) -> Path:
    """A model with a trained captioner and one by retrieval."""
    heads = {
        "captioning": {**SMALL, "training": TRAINING},
        "nearest": {"kind": "captioning", "decoder": "retrieval", "neighbours": 20},
    }
    recipe = parse(HeadRecipe, {"name": "captioned", "output": str(space.parent / "captioned"), "heads": heads})
    return add_heads(str(space), recipe).folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, picture in enumerate(pictures()):
        picture.save(folder / f"{number}.png")
    return folder


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["--quiet", *map(str, words)])
    return result.exit_code, result.output


def test_a_captioner_is_listed_with_its_figures_and_the_space_is_as_before(space, model):
    loaded = lightcrl.load_checkpoint(model)
    assert loaded.digest == lightcrl.load_checkpoint(space).digest
    assert set(loaded.heads["captioning"].figures["metrics"]) == {"dev_cider", "dev_rouge_l"}
    assert loaded.heads["nearest"].figures["metrics"]["dev_rouge_l"] > 0.3
    assert loaded.heads["captioning"].modalities == ("image", "text")


def test_captions_of_files_and_of_items_are_the_same(model, photos):
    code, output = command("caption", model, photos, "--head", "captioning", "--beams", 3, "--json", "-")
    assert code == 0, output
    entries = json.loads(output)["captions"]
    captioner = lightcrl.Captioner.load(model, head="captioning")
    expected = captioner.captions(pictures(), beams=3)
    assert [entry["caption"] for entry in entries] == [each[0].text for each in expected]
    assert [entry["caption"] for entry in entries] == captioner.caption(pictures(), beams=3)
    assert [len(entry["captions"]) for entry in entries] == [3, 3, 3]
    assert all(entry["caption"].strip() for entry in entries)
    drawn = captioner.caption(pictures(), nucleus=0.95, seed=4)
    assert drawn == captioner.caption(pictures(), nucleus=0.95, seed=4)
    assert drawn != captioner.caption(pictures(), nucleus=0.95, seed=5)


def test_retrieval_says_training_captions(model, space):
    captioner = lightcrl.Captioner.load(model, head="nearest")
    rows = Synthetic({"text": "text"}, groups=growing.GROUPS).rows()
    texts = {item.read() for row in rows for item in row.cells["text"]}
    captions = captioner.captions(pictures(), beams=4)
    assert {each.text for written in captions for each in written} <= texts
    for written in captions:
        assert [each.score for each in written] == sorted((each.score for each in written), reverse=True)


def test_a_broken_file_is_set_aside_and_named(model, photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, output = command("caption", model, photos, tmp_path / "broken.png", "--head", "nearest", "--json", "-")
    found = json.loads(output)
    assert code == 0
    assert len(found["captions"]) == 3
    assert found["rejected"][0].startswith("broken.png: unreadable image")
    captioner = lightcrl.Captioner.load(model, head="nearest")
    with pytest.raises(ItemError, match="item 1: unreadable image"):
        captioner.caption([pictures()[0], b"no picture"])
    code, output = command("caption", model, tmp_path / "broken.png", "--head", "nearest")
    assert code == 1
    assert "no item could be captioned" in output


def test_a_model_without_a_captioner_and_one_with_two_say_what_to_do(space, model, photos):
    code, output = command("caption", space, photos)
    assert code == 1
    assert "has no captioner; train one" in output
    loaded = lightcrl.load(model)
    assert lightcrl.Captioner(loaded).head.options.decoder == "transformer"  # the one called captioning
    heads = loaded.checkpoint.heads
    loaded.checkpoint.heads = {"first": heads["captioning"], "second": heads["nearest"]}
    with pytest.raises(HeadError, match="has the captioners first, second; name one of them"):
        lightcrl.Captioner(loaded)


def test_evaluation_measures_captions_beside_retrieval_and_people(model, tmp_path):
    code, output = command("evaluate", "captioning", model, "--head", "nearest", "--retrieval", "--json", "-")
    assert code == 0, output
    found = json.loads(output)
    spaces = ("", "retrieval/", "people/")
    measures = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")
    assert set(found["metrics"]) == {space + measure for space in spaces for measure in measures}
    for name, value in found["metrics"].items():
        low, high = found["interval"][name]
        assert low <= value <= high
    assert found["metrics"]["bleu_1"] > 0.2
    lines = (Path(model) / "captioning" / "captions.jsonl").read_text().splitlines()
    assert len(lines) == found["counts"]["groups"]
    assert set(json.loads(lines[0])) == {"source", "caption", "references"}


def test_figures_without_references_are_refused(model, tmp_path):
    (tmp_path / "bare.jsonl").write_text('{"image": "a.png", "text": null}\n{"image": null, "text": "a dog"}\n')
    pictures()[0].save(tmp_path / "a.png")
    code, output = command("evaluate", "captioning", model, "--head", "nearest", "--data", tmp_path / "bare.jsonl")
    assert code == 1
    assert "has both an item of 'image' and a caption of 'text'" in " ".join(output.split())


def test_exported_graphs_say_what_the_head_says(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from lightcrl.export import export_onnx

    captioner = lightcrl.Captioner.load(model, head="captioning")
    folder = export_onnx(captioner.embedder, tmp_path, [])
    manifest = json.loads((folder / "model.json").read_text())
    assert set(manifest["heads"]) == {"head-captioning-memory.onnx", "head-captioning-step.onnx"}
    memory, step = (
        onnxruntime.InferenceSession(folder / f"head-captioning-{part}.onnx") for part in ("memory", "step")
    )
    tokens, vectors = _tokens(captioner)
    given = {"values": tokens.values.numpy(), "mask": tokens.mask.numpy(), "vectors": vectors.numpy()}
    remembered = memory.run(None, given)[0]
    expected = captioner.head.writer.reader(tokens, vectors)
    np.testing.assert_allclose(remembered, expected.values.detach().numpy(), atol=1e-4)
    pieces = captioner.head.writer.pieces(["two red stars", "a dog", "a blue ring on the left"])[:, :4].clamp(min=0)
    state = captioner.head.writer.decoder.begin(expected)
    for column in pieces.T:
        logits, state = captioner.head.writer.decoder.advance(state, column)
    found = step.run(None, {"memory": remembered, "mask": expected.mask.numpy(), "pieces": pieces.numpy()})[0]
    np.testing.assert_allclose(found, logits.detach().numpy(), atol=1e-4)


def test_captioning_needs_texts_to_learn_from(space):
    for table, message in (
        ({"target": "words"}, "learns from 'words', and the space has image, text"),
        ({"source": "sound"}, "reads 'sound', and the space has image, text"),
        ({"decoder": "prefix"}, "decoder 'prefix' has no language model"),
        ({"source": "text", "target": "image"}, "whose items are no texts"),
        ({"decoder": "tranformer"}, "Did you mean 'transformer'"),
        ({"width": 10, "heads": 4}, "width 10 does not divide into 4 heads"),
    ):
        with pytest.raises(LightCRLError, match=message):
            add_heads(
                str(space),
                parse(
                    HeadRecipe,
                    {
                        "name": "wrong",
                        "output": str(space.parent / "wrong"),
                        "heads": {"captioning": {**SMALL, **table, "training": TRAINING}},
                    },
                ),
            )


def test_a_captioner_of_another_space_is_refused(model, space, tmp_path):
    loaded = lightcrl.load_checkpoint(model)
    other = lightcrl.load_checkpoint(growing.base(tmp_path, method="linear", epochs=1))
    other.heads = loaded.heads
    with pytest.raises(HeadError, match="was trained on the space"):
        other.head("captioning")


@pytest.mark.real
def test_stories260k_captions_through_a_prefix(space, tmp_path):
    folder = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    table = {"decoder": "prefix", "language_model": str(folder), "width": 16, "heads": 2, "prefix": 4, "judged": 4}
    training = TRAINING | {"epochs": 1, "learning_rate": 0.01}
    heads = {"captioning": {**table, "longest": 12, "training": training}}
    recipe = parse(HeadRecipe, {"name": "told", "output": str(tmp_path / "told"), "heads": heads})
    done = add_heads(str(space), recipe)
    assert done.heads["captioning"].parameters < 40_000  # of the language model nothing is kept
    captioner = lightcrl.Captioner.load(done.folder)
    written = captioner.head.write(*_tokens(captioner), Search(beams=2))
    assert all(each.text for captions in written for each in captions)


def _tokens(captioner: lightcrl.Captioner):
    embedder = captioner.embedder
    encoder = embedder.encoder("image")
    tokens = encoder.encode([encoder.prepare(picture) for picture in pictures()])
    return tokens, torch.from_numpy(embedder.encode_tokens(tokens, "image"))


def test_an_item_whose_captions_are_all_blank_is_set_aside(model, monkeypatch):
    captioner = lightcrl.Captioner.load(model, head="nearest")
    blank = [Caption(" ", 0.0, 0.0)]
    monkeypatch.setattr(captioner.head.writer, "write", lambda tokens, vectors, search: [blank, *([[A_DOG]] * 2)])
    captions, rejected = captioner.caption_some([Item(str(n), f"{n}.png", raw) for n, raw in enumerate(pictures())])
    assert captions == [[], [A_DOG], [A_DOG]]
    assert [(each.source, each.reason) for each in rejected] == [("0.png", "empty caption")]
    with pytest.raises(ItemError, match="item 0: empty caption"):
        captioner.caption(pictures())
