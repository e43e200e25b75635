"""A model goes to the hub and comes back, over the hub's HTTP interface."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner

import hub_stand_in
import lightcrl
import tiny
from lightcrl.bridges.hub import licence_of, push
from lightcrl.cli import app
from lightcrl.data.synthetic import write_table
from lightcrl.embedder import load
from lightcrl.errors import CheckpointError, EncoderError, HubError

TEXTS = list(tiny.TEXTS)
RECIPE = """
name = "birds"
[data]
path = "world/groups.jsonl"
dev_fraction = 0.3
[encoders.image]
kind = "image"
model = "builtin"
[encoders.text]
kind = "text"
model = "bert"
[features]
folder = "features"
[training]
epochs = 1
tensorboard = false
[method]
name = "linear"
dim = 16
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Any:
    """A run whose text encoder lies in a local folder."""
    folder = tmp_path_factory.mktemp("hub")
    write_table(folder / "world", 30)
    tiny.bert(folder / "bert")
    (folder / "bert/README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "recipe.toml").write_text(RECIPE)
    run = lightcrl.run(folder / "recipe.toml", output=folder / "run").folder
    with hub_stand_in.serving(folder / "cache") as hub:
        yield SimpleNamespace(folder=folder, run=run, hub=hub, vectors=load(run).encode(TEXTS, "text"))


def test_a_local_encoder_is_refused_with_its_licence_and_the_ways_out(world):
    before = list(world.hub.requests)
    message = r"'text' lies in .*bert, .*--with-encoders \(its licence: mit\), .*--encoder text=OWNER/NAME"
    with pytest.raises(HubError, match=message):
        push(world.run, "someone/birds")
    assert world.hub.requests == before


@pytest.fixture(scope="module")
def carried(world) -> Any:
    """The run pushed with its encoder, by the command line."""
    place = world.folder / "pushed.json"
    words = ["push", world.run, "someone/carried", "--with-encoders", "--private", "--json", place]
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "text: carried along, " in result.output
    assert ", licence mit" in result.output
    return json.loads(place.read_text())


def test_a_carried_encoder_comes_back_with_the_model(world, carried):
    files = world.hub.files("someone/carried")
    assert {"README.md", "config.json", "model.safetensors", "modules.json"} < files.keys()
    assert "encoders/text/model.safetensors" in files
    assert carried["url"] == f"{world.hub.url}/someone/carried/commit/{world.hub.branches['someone/carried', 'main']}"
    assert carried["carried"]["text"]["folder"] == "encoders/text"
    (world.folder / "bert").rename(world.folder / "away")
    try:
        again = lightcrl.load("someone/carried")
        assert np.array_equal(again.encode(TEXTS, "text"), world.vectors)
    finally:
        (world.folder / "away").rename(world.folder / "bert")
    assert again.fingerprint == load(world.run).fingerprint


def test_no_private_path_leaves_the_machine(world, carried):
    for name in ("README.md", "config.json", "modules.json"):
        assert str(world.folder) not in world.hub.files("someone/carried")[name].decode()


def test_what_was_loaded_loads_again_without_a_network(world, carried, monkeypatch):
    lightcrl.load("someone/carried")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = list(world.hub.requests)
    assert np.array_equal(lightcrl.load("someone/carried").encode(TEXTS, "text"), world.vectors)
    assert world.hub.requests == before
    with pytest.raises(CheckpointError, match="the hub gave"):
        lightcrl.load("someone/unheard")
    with pytest.raises(HubError, match=r"did not take 'someone/carried': .*HF_HUB_OFFLINE"):
        push(world.run, "someone/carried", with_encoders=True)


def test_an_unchanged_file_is_not_downloaded_twice(world, carried):
    lightcrl.load("someone/carried")
    before = len(world.hub.requests)
    lightcrl.load("someone/carried")
    assert not [line for line in world.hub.requests[before:] if line.startswith("GET") and "/resolve/" in line]


def test_sentence_transformers_loads_the_repository(world, carried):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer("someone/carried", trust_remote_code=True, device="cpu")
        np.testing.assert_allclose(model.encode(TEXTS), world.vectors, atol=1e-5)
        model.push_to_hub("someone/theirs")
    # An encoder that came along goes along again.
    assert {"config.json", "encoders/text/model.safetensors"} < world.hub.files("someone/theirs").keys()
    assert str(world.folder) not in json.dumps(
        json.loads(world.hub.files("someone/theirs")["config.json"])["modalities"]
    )
    assert np.array_equal(lightcrl.load("someone/theirs").encode(TEXTS, "text"), world.vectors)


def test_an_encoder_on_the_hub_is_named_with_its_commit(world):
    number = world.hub.upload("someone/bert", world.folder / "bert")
    done = push(world.run, "someone/named", encoders={"text": "someone/bert"}, revision="trial")
    assert done.carried == {}
    assert done.named == {"text": f"someone/bert@{number}"}
    files = world.hub.files("someone/named", "trial")
    assert not [name for name in files if name.startswith("encoders/")]
    spec = json.loads(files["config.json"])["modalities"]["text"]["encoder"]
    assert (spec["model"], spec["revision"]) == ("someone/bert", number)
    # A later change of the encoder does not reach the model.
    (copy := world.folder / "other").mkdir()
    world.hub.upload("someone/bert", tiny.bert(copy, seed=1))
    for again in (lightcrl.load("someone/named", revision="trial"), lightcrl.load("someone/named@trial")):
        assert np.array_equal(again.encode(TEXTS, "text"), world.vectors)


def test_another_encoder_of_that_name_is_refused(world):
    (copy := world.folder / "strange").mkdir()
    world.hub.upload("someone/strange", tiny.bert(copy, seed=2))
    with pytest.raises(EncoderError, match=r"has fingerprint .* the model was trained with"):
        push(world.run, "someone/strange-birds", encoders={"text": "someone/strange"})


def test_the_card_has_all_that_the_hub_reads(world, carried):
    card = ModelCard(world.hub.files("someone/carried")["README.md"].decode())
    data = card.data.to_dict()
    assert data["library_name"] == "lightcrl"
    assert data["pipeline_tag"] == "zero-shot-image-classification"
    metrics = json.loads((world.run / "metrics.json").read_text())["models"][0]["retrieval"]
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert {each["name"]: each["value"] for each in result["metrics"]} == metrics["metrics"]
    intervals = {each["name"]: each["args"]["interval"] for each in result["metrics"] if "args" in each}
    assert intervals == metrics["interval"]
    assert result["dataset"]["split"] == "dev"
    digest = json.loads((world.run / "best/config.json").read_text())["data"]["digest"]
    for text in (
        'lightcrl.load("someone/carried")',
        "lightcrl embed someone/carried",
        digest,
        "## Limits",
        "`encoders/text` in this repository, licence mit",
    ):
        assert text in card.content


def test_base_models_and_data_sets_are_hub_ids(world):
    world.hub.upload("someone/base", world.folder / "bert")
    push(world.run, "someone/based", encoders={"text": "someone/base"})
    data = ModelCard(world.hub.files("someone/based")["README.md"].decode()).data.to_dict()
    assert data["base_model"] == ["someone/base"]
    assert "datasets" not in data


def test_a_refusal_of_the_hub_says_what_to_do(world):
    world.hub.refused = 403
    try:
        with pytest.raises(HubError, match=r"did not take 'someone/birds': .*hf auth login"):
            push(world.run, "someone/birds", with_encoders=True)
    finally:
        world.hub.refused = 0
    with pytest.raises(HubError, match="Expected OWNER/NAME"):
        push(world.run, "a/b/c", with_encoders=True)


def test_a_licence_is_that_of_the_card_or_the_file(tmp_path):
    assert licence_of(tmp_path) == "unknown"
    (tmp_path / "LICENSE").write_text("\nApache License\nVersion 2.0\n")
    assert licence_of(tmp_path) == "Apache License"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert licence_of(tmp_path) == "cc-by-nc-4.0"
    assert licence_of(Path("nowhere")) == "unknown"
