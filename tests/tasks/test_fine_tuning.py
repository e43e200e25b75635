"""Fine-tuning: gradients really flow, into what was asked for and nothing else; the best on held items is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import coloured
import lightcrl
from lightcrl.checkpoint import load_checkpoint
from lightcrl.embedder import Embedder
from lightcrl.errors import CheckpointError, DataError, LockedError, RecipeError, TrainingError
from lightcrl.events import Tell
from lightcrl.features.spec import FeaturesSpec
from lightcrl.files.locks import only_writer
from lightcrl.metrics import Result
from lightcrl.metrics.fine_tuning import evaluate
from lightcrl.pipeline import run
from lightcrl.specs import parse
from lightcrl.tasks.base import Setting
from lightcrl.tasks.evaluate import evaluate as evaluate_task
from lightcrl.tasks.fine_tuning import FineTuningSpec, FineTuningTask
from lightcrl.training.log import read_log

NAMES = ("even", "odd", "third")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A trained model over the coloured pictures, and class folders that only stripes tell apart."""
    root = coloured.write(tmp_path_factory.mktemp("adapting"))
    rng = np.random.default_rng(1)
    for split, count in (("train", 15), ("test", 10)):
        for label, name in enumerate(NAMES):
            (root / "stripes" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.normal(120, 30, (32, 32, 3))
                pixels[:, 10 * label : 10 * label + 10] += 60
                picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                picture.save(root / "stripes" / split / name / f"{number}.png")
    options = {"name": "dfe", "heads": 2, "feedforward": 12}
    run(coloured.recipe(root, {}, options, epochs=2), output=root / "dfe")
    run(coloured.recipe(root, {"image": {"blocks": 1}}, epochs=1), output=root / "towers")
    return root


@dataclass
class Prepared:
    """A model, and the striped pictures prepared for it."""

    embedder: Embedder
    setting: Setting
    place: Path

    def __call__(self, given: dict[str, Any], folder: Path) -> Result:
        spec = parse(FineTuningSpec, {"data": str(self.place / "stripes"), "output": str(folder), **given})
        return FineTuningTask.prepare(spec, self.setting).evaluate(self.embedder.checkpoint)


def prepared(place: Path, model: str = "dfe", tell: Tell = lambda event: None) -> Prepared:
    embedder = lightcrl.load(place / model)
    encoders, features = {"image": embedder.encoder("image")}, FeaturesSpec(folder=str(place / "features"))
    return Prepared(embedder, Setting(encoders, features, tell), place)


def spec(**given: Any) -> dict[str, Any]:
    training = {"epochs": 2, "batch_size": 12, "precision": "float32", "tensorboard": False}
    return {**given, "training": {**training, **given.get("training", {})}}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def test_the_method_learns_what_its_modality_reads_and_nothing_of_the_other(place, tmp_path):
    found = prepared(place)
    before = {name: tensor.clone() for name, tensor in found.embedder.method.state_dict().items()}
    found(spec(), tmp_path)
    after = load_checkpoint(tmp_path)
    body = {name.removeprefix("body."): t for name, t in after.method.state_dict().items() if name.startswith("body.")}
    moved = changed(before, body)
    trained = {name for name, parameter in found.embedder.method.named_parameters() if parameter.requires_grad}
    mine = {name for name in trained if "text" not in name.split(".") and not name.startswith("logit")}
    assert moved == mine
    assert {"stems.image.weight", "layer_scale", "context.vectors.image"} <= moved
    # The model that it began with is as it was.
    assert changed(before, found.embedder.method.state_dict()) == set()
    assert after.towers == {}


@pytest.mark.parametrize(
    ("tuning", "wanted"),
    [
        ({"blocks": 1}, lambda name: ".2." in name or name.startswith("layernorm")),
        ({}, lambda name: "pooler" not in name),
    ],
    ids=["last block", "whole encoder"],
)
def test_the_encoder_learns_where_it_was_asked_for(place, tmp_path, tuning, wanted):
    found = prepared(place)
    network = found.embedder.encoder("image").loaded.network
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    found(spec(tuning={**tuning, "crop": 0.5, "flip": True, "learning_rate": 1e-3}), tmp_path)
    tensors = load_checkpoint(tmp_path).towers["image"].tensors
    assert set(tensors) == {name for name in before if wanted(name)}
    assert changed({name: before[name] for name in tensors}, tensors) == set(tensors)
    assert changed(before, dict(network.named_parameters())) == set()


def test_adapters_can_learn_alone(place, tmp_path):
    pytest.importorskip("peft")
    prepared(place)(spec(tuning={"lora": 2, "blocks": 2}), tmp_path)
    assert all("lora_" in name for name in load_checkpoint(tmp_path).towers["image"].tensors)


def test_it_learns_what_the_embedding_did_not_tell_and_looks_at_test_by_the_papers_protocol(place, tmp_path):
    settings = {"epochs": 20, "learning_rate": 0.01}
    result = prepared(place)(spec(training=settings, tuning={"learning_rate": 1e-3, "crop": 1.0}), tmp_path)
    assert result.metrics["top1"] >= 0.9
    assert result.chance["top1"] == pytest.approx(1 / 3)
    low, high = result.interval["top1"]
    assert low <= result.metrics["top1"] <= high
    assert result.counts == {"train": 45, "held": 9, "test": 30, "classes": 3}
    assert result.curves["test"]["epoch"] == [4, 8, 12, 16, 20]
    assert [result.metrics[f"epoch{epoch}/top1"] for epoch in (4, 8, 12, 16, 20)] == result.curves["test"]["top1"]
    # What is kept is what was best on the held items, and the figures are of that.
    events = [event for event in read_log(tmp_path) if event["event"] == "evaluation"]
    best = max(event["dev_top1"] for event in events)
    epoch = min(event["epoch"] for event in events if event["dev_top1"] == best)
    assert load_checkpoint(tmp_path).figures["metrics"]["top1"] == best
    assert epoch < 20 or best < 1
    classifier = lightcrl.load(tmp_path)
    paths = sorted((place / "stripes/test").rglob("*.png"))
    logits = classifier.encode(paths, "image")
    assert logits.shape == (30, 3)
    right = np.array(NAMES)[logits.argmax(1)] == np.array([path.parent.name for path in paths])
    assert right.mean() == pytest.approx(result.metrics["top1"])


def test_a_killed_run_goes_on_to_the_same_figures(place, tmp_path):
    wanted = spec(training={"epochs": 4}, tuning={"blocks": 1, "crop": 1.0})
    whole = prepared(place)(wanted, tmp_path / "whole")

    def stop(event):
        if event["event"] == "evaluation" and event["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(place, tell=stop)(wanted, tmp_path / "killed")
    again = prepared(place)(wanted, tmp_path / "killed")
    assert again == whole
    assert prepared(place)(wanted, tmp_path / "killed") == whole  # finished: nothing is trained
    with pytest.raises(CheckpointError, match="other settings"):
        prepared(place)(spec(training={"epochs": 5}, tuning={"blocks": 1, "crop": 1.0}), tmp_path / "killed")


def test_a_model_whose_encoder_was_trained_goes_on_from_there(place, tmp_path):
    found = prepared(place, "towers")
    begun = found.embedder.checkpoint.towers["image"].tensors
    found(spec(), tmp_path / "frozen")
    assert changed(begun, load_checkpoint(tmp_path / "frozen").towers["image"].tensors) == set()
    found(spec(tuning={"blocks": 1, "learning_rate": 1e-3}), tmp_path / "on")
    assert changed(begun, load_checkpoint(tmp_path / "on").towers["image"].tensors) == set(begun)
    with pytest.raises(TrainingError, match="cannot resume with blocks = 2"):
        found(spec(tuning={"blocks": 2}), tmp_path / "other")


def test_the_task_keeps_its_model_below_the_run_and_finds_it_again(place):
    settings = {"data": str(place / "stripes"), "training": {"epochs": 1, "tensorboard": False}}

    def measured() -> Result:
        return evaluate_task("fine_tuning", str(place / "dfe"), lightcrl.load(place / "dfe"), settings).result

    result = measured()
    (folder,) = (place / "dfe/fine_tuning").iterdir()
    assert folder.name.startswith("tuned-")
    written = (folder / "log.jsonl").stat().st_mtime_ns
    assert measured() == result
    with only_writer(folder), pytest.raises(LockedError, match=f"^{folder} is being written by process"):
        measured()
    assert (folder / "log.jsonl").stat().st_mtime_ns == written
    assert len(list((place / "dfe/fine_tuning").iterdir())) == 1


def test_bad_data_and_settings_are_refused_before_anything_is_encoded(place, tmp_path):
    setting = Setting({"image": lightcrl.load(place / "dfe").encoder("image")}, FeaturesSpec(folder=str(tmp_path)))
    train = str(place / "stripes/train")
    with pytest.raises(DataError, match="expected the folders train and test"):
        FineTuningTask.prepare(FineTuningSpec(data=train), setting)
    with pytest.raises(DataError, match="are in train too"):
        FineTuningTask.prepare(FineTuningSpec(data=train, test=train), setting)
    assert not list(tmp_path.iterdir())
    found = prepared(place)
    with pytest.raises(RecipeError, match=r"unknown key 'tuning.block'.*'blocks'"):
        found(spec(tuning={"block": 2}), tmp_path)
    with pytest.raises(RecipeError, match="plateau"):
        found(spec(training={"schedule": "plateau"}), tmp_path)
    with pytest.raises(ValidationError):
        FineTuningSpec(data=train, seed="x")  # type: ignore[arg-type]
    task = FineTuningTask.prepare(FineTuningSpec(data=str(place / "stripes")), found.setting)
    with pytest.raises(DataError, match="name it with output"):
        task.evaluate(found.embedder.checkpoint)


def test_accuracy_breaks_ties_by_lot_and_knows_chance():
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 3.0], [5.0, 0.0, 0.0]])
    found = evaluate(logits, np.array([0, 1, 1, 0]), np.array([0, 1, 1]))
    assert isinstance(found, Result)
    assert found.metrics == {"top1": pytest.approx((1 + 0.5 + 0 + 1) / 4)}
    assert found.chance == {"top1": 0.5}
    assert json.loads(json.dumps(found.to_json()))["counts"] == {"test": 4, "classes": 3}
