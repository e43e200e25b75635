"""A matching head in use: raw items, searches, a server, an export, a model that grows, and the command line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lightcrl
from growing import DATA, TRAINING, base, encoder, recipe
from lightcrl.cli import app
from lightcrl.embedder import Embedder
from lightcrl.errors import GrowthError, HeadError, ItemError, QueryError
from lightcrl.export import export_onnx
from lightcrl.features import Features, FeatureStore
from lightcrl.growth.extend import extend, remove
from lightcrl.growth.head import HeadRecipe, add_heads
from lightcrl.heads.base import features_of
from lightcrl.heads.matching import Matching
from lightcrl.heads.spec import make_head
from lightcrl.heads.state import TrainedHead
from lightcrl.index import Index, Part
from lightcrl.matcher import Matcher
from lightcrl.recipe import make_recipe
from samples import randn
from served import TEXTS, served_with
from shelves import make_embedder, picture

OPTIONS = {"modalities": ["text", "image"], "width": 8, "heads": 2, "hidden": 6}
RECIPE = """
name = "headed"
[heads.matching]
apart = 0.5
held_out = 0.25
width = 8
heads = 2
hidden = 8
negatives = 3
training = {epochs = 1, batch_size = 8, tensorboard = false}
space_training = {epochs = 2}
"""


def with_head(kinds: tuple[str, ...] = ("text", "image", "audio")) -> Embedder:
    """A model with a matching head, both of random weights: its scores are far from those of the space."""
    embedder = make_embedder(kinds=kinds)
    checkpoint = embedder.checkpoint
    head = make_head("matching", checkpoint.space, OPTIONS)
    for number, crowding in enumerate(head.crowding.values()):
        crowding.take(torch.nn.functional.normalize(randn(5, 16, seed=40 + number), dim=-1))
    with torch.no_grad():
        for number, parameter in enumerate(head.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=number))
    checkpoint.heads["matching"] = TrainedHead.of(head, "matching", checkpoint.digest, {})
    return embedder


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return with_head()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [picture(folder / f"{n}.png", n) for n in range(6)]


@pytest.fixture(scope="module")
def index(tmp_path_factory, embedder, pictures) -> Index:
    opened = Index.create(tmp_path_factory.mktemp("index"), embedder)
    opened.add([opened.entry(path, "image", path.name) for path in pictures])
    opened.add([opened.entry(text, "text", f"t{n}") for n, text in enumerate(TEXTS)])
    return opened


def test_raw_pairs_are_scored_each_alone_and_in_either_direction(embedder, pictures):
    matcher = Matcher(embedder)
    scores = matcher.scores(TEXTS, "text", pictures, "image")
    assert scores.shape == (4, 6)
    np.testing.assert_allclose(scores[2:3, 3:4], matcher.scores([TEXTS[2]], "text", [pictures[3]], "image"), rtol=1e-4)
    np.testing.assert_allclose(scores.T, matcher.scores(pictures, "image", TEXTS, "text"), rtol=1e-4)
    cosines = embedder.encode(TEXTS, "text") @ embedder.encode(pictures, "image").T
    assert np.abs(scores - matcher.head.scale.item() * cosines).max() > 0.1
    with pytest.raises(HeadError, match="matches text and image; found an item of 'audio'"):
        matcher.scores(TEXTS, "audio", pictures, "image")
    with pytest.raises(ItemError, match="item 1: "):
        matcher.scores(TEXTS, "text", [pictures[0], Path("missing.png")], "image")


def test_the_first_hits_of_a_search_are_in_the_order_of_matching(embedder, index, pictures):
    matcher = Matcher(embedder)
    before = index.search(TEXTS[0], modality="image", k=6)
    after = index.search(TEXTS[0], modality="image", k=6, rerank=4)
    first = [hit.path for hit in before[:4]]
    scores = matcher.scores([TEXTS[0]], "text", first, "image")[0]
    assert [hit.path for hit in after[:4]] == [first[place] for place in np.argsort(-scores)]
    assert after[4:] == before[4:]
    assert [hit.path for hit in after[:4]] != first
    # More hits are reordered than are asked for.
    assert index.search(TEXTS[0], modality="image", k=2, rerank=4) == after[:2]
    # A like query reads its item from the index; texts among the hits of a text keep their places.
    assert [hit.id for hit in index.search(like="t0", modality="image", k=6, rerank=4)] == [hit.id for hit in after]
    mixed = index.search(TEXTS[0], k=10, rerank=10)
    assert [hit.modality for hit in mixed] == [hit.modality for hit in index.search(TEXTS[0], k=10)]
    for asked in ({"text": list(TEXTS[:2])}, {"text": "a", "minus": "b"}, {"text": Part("a"), "like": "t1"}):
        with pytest.raises(QueryError, match="reordered for one text"):
            index.search(**asked, rerank=4)
    with pytest.raises(HeadError, match="no head 'matching' in this model; it has none"):
        Matcher(make_embedder())


def test_a_server_reorders_where_the_model_has_the_head(tmp_path, embedder):
    with served_with(tmp_path, embedder) as served:
        assert served.client.get("/info").json()["heads"] == ["matching"]
        asked = {"text": TEXTS[1], "modality": "image", "k": 3}
        answer = served.client.post("/search", json=asked | {"rerank": 3})
        expected = served.index.search(TEXTS[1], modality="image", k=3, rerank=3)
        assert [hit["id"] for hit in answer.json()["hits"]] == [hit.id for hit in expected]
        refused = served.client.post("/search", json={"text": [TEXTS[1], "b"], "rerank": 3})
        assert refused.status_code == 400
        assert "reordered for one text" in refused.json()["error"]["message"]


def test_an_exported_head_gives_the_same_scores(tmp_path, embedder, pictures):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = export_onnx(with_head(), tmp_path, [])
    (entry,) = json.loads((folder / "model.json").read_text())["heads"].values()
    assert (entry["head"], entry["kind"], entry["output"]) == ("matching", "matching", "scores")
    head = embedder.checkpoint.head("matching")
    assert isinstance(head, Matching)
    session = onnxruntime.InferenceSession(str(folder / "head-matching.onnx"))
    for count in (1, 5):
        inputs = {}
        for seed, name in enumerate(head.modalities):
            spec = head.space.modalities[name]
            inputs[f"{name}_values"] = randn(count, spec.slots, spec.dim, seed=seed)
            inputs[f"{name}_mask"] = torch.ones(count, spec.slots, dtype=torch.bool)
            inputs[f"{name}_vectors"] = torch.nn.functional.normalize(randn(count, 16, seed=seed + 7), dim=-1)
        assert set(inputs) == set(entry["inputs"])
        (scores,) = session.run(["scores"], {name: value.numpy() for name, value in inputs.items()})
        (graph,) = head.graphs().values()
        expected = graph.module(*(inputs[name] for name in entry["inputs"])).detach().numpy()
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def headed(tmp_path_factory) -> tuple[Path, Path]:
    """A model and the same with a head, by the command."""
    folder = tmp_path_factory.mktemp("headed")
    model = base(folder)
    (folder / "head.toml").write_text(RECIPE)
    words = [
        str(model),
        str(folder / "head.toml"),
        "--output",
        str(folder / "new"),
        "--json",
        str(folder / "o"),
    ]
    done = CliRunner().invoke(app, ["head", *words], catch_exceptions=False)
    assert done.exit_code == 0
    assert "unchanged, bit for bit" in done.output
    return model, folder / "new"


def test_a_head_is_added_to_a_model_without_a_bit_of_change(headed):
    model, folder = headed
    written = json.loads((folder / "heads.json").read_text())
    assert written == json.loads((folder.parent / "o").read_text())
    assert written["unchanged"]["modalities"] == ["image", "text"]
    assert written["heads"]["matching"]["split"] == "held out"
    old, new = lightcrl.load_checkpoint(model), lightcrl.load_checkpoint(folder)
    assert new.digest == old.digest
    assert new.recipe == old.recipe
    for leaf, tensor in old.method.state_dict().items():
        assert torch.equal(tensor, new.method.state_dict()[leaf])
    # Sampling for an index's calibration reads the features of the recipe.
    assert json.loads((folder / "recipe.json").read_text())["features"]["folder"] == new.recipe["features"]["folder"]
    shown = CliRunner().invoke(app, ["info", str(folder)], catch_exceptions=False).output
    assert "matching" in shown
    with pytest.raises(GrowthError, match="own folder"):
        add_heads(folder, HeadRecipe.read(folder.parent / "head.toml"), output=folder)


def test_a_model_that_grows_keeps_the_heads_of_modalities_that_stay(headed, tmp_path):
    _, folder = headed
    extend(folder, recipe(tmp_path, new=["audio"]), output=tmp_path / "grown")
    grown = lightcrl.load_checkpoint(tmp_path / "grown")
    assert grown.digest != lightcrl.load_checkpoint(folder).digest
    assert grown.head("matching").modalities == ("image", "text")
    smaller = remove(tmp_path / "grown", "audio", tmp_path / "smaller")
    assert smaller.head("matching").modalities == ("image", "text")
    assert remove(tmp_path / "grown", "text", tmp_path / "without").heads == {}


def test_a_store_without_the_tokens_of_a_head_is_refused(headed, tmp_path):
    """Embeddings of old modalities, as an extension keeps them, are not the tokens that a head reads."""
    _, folder = headed
    checkpoint = lightcrl.load_checkpoint(folder)
    extend(folder, recipe(tmp_path, new=["audio"]), output=tmp_path / "grown")
    anchors = FeatureStore(tmp_path / "grown" / "anchors" / "text")
    features = Features({"image": anchors, "text": anchors})
    with pytest.raises(HeadError, match="Matching reads tokens 6 x 67 of 'image', and the features have tokens T x "):
        features_of(checkpoint.head("matching"), features)


def test_a_run_trains_the_heads_of_its_recipe_and_reorders_by_them(tmp_path):
    table = {
        "name": "whole",
        "data": DATA,
        "encoders": {name: encoder(name) for name in ("image", "text")},
        "features": {"folder": str(tmp_path / "features")},
        "method": {"name": "linear", "dim": 16},
        "training": TRAINING,
        "heads": {"matching": tomllib.loads(RECIPE)["heads"]["matching"] | {"apart": 0.0, "held_out": 0.0}},
        "evaluation": {"tasks": {"reordered": {"task": "retrieval", "rerank": 5}}},
    }
    done = lightcrl.run(make_recipe(table), output=tmp_path / "run")
    trained = lightcrl.load_checkpoint(done.folder)
    assert list(trained.heads) == ["matching"]
    assert trained.heads["matching"].space == trained.digest
    before, after = done.models[0].results["retrieval"], done.models[0].results["reordered"]
    assert after.metrics["image_to_text/recall@5"] == pytest.approx(before.metrics["image_to_text/recall@5"])
    assert after.metrics["image_to_text/recall@10"] == pytest.approx(before.metrics["image_to_text/recall@10"])
    page = CliRunner().invoke(app, ["report", str(done.folder)], catch_exceptions=False)
    assert page.exit_code == 0
    shown = (done.folder / "report.html").read_text()
    assert "Heads on the space of linear" in shown
    gain = 100 * (after.metrics["mean_recall@1"] - before.metrics["mean_recall@1"])
    assert "What each objective adds: mean of 1 seed," in shown
    assert f"{gain:+.1f}" in shown.partition("contrast + matching (reordered)")[2].partition("</tr>")[0]
    for wrong in ({"heads": {}}, {"evaluation": table["evaluation"] | {"baselines": ["linear"]}}):
        with pytest.raises(HeadError, match="reordered needs the head 'matching'"):
            lightcrl.run(make_recipe(table | wrong), output=tmp_path / "refused")
    assert "heads" not in make_recipe(table | {"heads": {}, "evaluation": {}}).model_dump(mode="json")
