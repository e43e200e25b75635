"""Encoders trained along with the method: exact in chunks, exact to resume, kept whole, frozen where asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import coloured
import lightcrl
from coloured import recipe
from lightcrl.checkpoint import load_checkpoint
from lightcrl.encoders.tower import Tower, TuningSpec
from lightcrl.errors import CheckpointError, RecipeError, StoreError, TrainingError, UnknownNameError
from lightcrl.features import FeatureStore
from lightcrl.features.live import LiveStore
from lightcrl.pipeline import prepare, run, train_method
from lightcrl.recipe import Recipe, make_recipe
from lightcrl.training.batches import epoch_batches
from lightcrl.training.gradient import Stepper
from lightcrl.training.log import read_log
from lightcrl.training.plan import make_accelerator


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return coloured.write(tmp_path_factory.mktemp("towers"))


def stepper(made: Recipe, folder: Path, chunk: int) -> tuple[Stepper, Any]:
    """A stepper in training mode with fresh towers, and its first batch."""
    features, encoders, _ = prepare(made)
    live = {
        name: LiveStore(
            features.store(name), Tower(encoders[name], spec), features.items[name], states=features.states.get(name)
        )
        for name, spec in made.tuning.items()
    }
    from lightcrl.methods.spec import make_method

    spec = made.training.suited(lightcrl.methods.METHODS.load(made.method.name))
    method = make_method(made.method.name, features.specs, made.method.options, "info_nce", 3)
    accelerator = make_accelerator(spec, 10, method, tuple(live))
    found = Stepper(method, features, live, accelerator, spec.model_copy(update={"chunk": chunk}))
    found.train()
    batch = next(found.read(epoch_batches(features.split("train"), 10, 1, 0, 0)))
    return found, batch


DFE = {"name": "dfe", "heads": 2, "feedforward": 12, "dropout": 0.0, "input_dropout": 0.0, "canonical": 0.0}


@pytest.mark.parametrize("method", [{}, {"head": "gelu_norm"}, DFE], ids=["clip", "gelu_norm", "dfe"])
@pytest.mark.parametrize(
    ("towers", "blocks"), [(("image", "text"), "all"), (("image",), "all"), (("image", "text"), 2)]
)
def test_the_gradient_in_chunks_is_that_of_the_whole_batch(place, tmp_path, method, towers, blocks):
    made = recipe(place, {name: {"crop": 1.0, "blocks": blocks} for name in towers}, method)
    losses, gradients = [], []
    for chunk in (100, 3):
        found, batch = stepper(made, tmp_path, chunk)
        losses.append(found.backward(batch, 0.0, 7).item())
        gradients.append({name: p.grad.clone() for name, p in found.parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    assert any(name.startswith("towers.image.") for name in gradients[0])
    assert any(name.startswith("towers.text.") for name in gradients[0]) == ("text" in towers)
    largest = max(float(whole.abs().max()) for whole in gradients[0].values())
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-3, atol=1e-5 * largest)


def test_random_crops_are_the_same_in_both_passes(place, tmp_path):
    found, batch = stepper(recipe(place, {"image": {"crop": 0.3, "flip": True}}), tmp_path, 3)
    whole, _ = stepper(recipe(place, {"image": {"crop": 0.3, "flip": True}}), tmp_path, 100)
    one, other = found.backward(batch, 0.0, 7).item(), whole.backward(batch, 0.0, 7).item()
    assert one == pytest.approx(other, rel=1e-5)
    again = found.loss(batch, 0.0, 8).item()
    assert again != pytest.approx(one, rel=1e-5)
    found.train(False)  # whole pictures on dev, whatever the seed
    assert found.loss(batch, 0.0, 7).item() == found.loss(batch, 0.0, 8).item()


def test_named_parameters_change_and_the_others_do_not(place, tmp_path):
    made = recipe(place, {"image": {"blocks": 1, "learning_rate": 1e-3}}, epochs=3)
    features, encoders, _ = prepare(made)
    before = {name: p.clone() for name, p in encoders["image"].loaded.network.named_parameters()}
    checkpoint, _, seen = train_method(made, made.method, 0, tmp_path / "run", features, encoders)
    tuned = checkpoint.towers["image"]
    assert set(tuned.tensors) == {name for name in before if ".2." in name or name.startswith("layernorm")}
    assert all(not torch.equal(tensor, before[name]) for name, tensor in tuned.tensors.items())
    network = seen.store("image").tower.network
    for name, parameter in network.named_parameters():
        expected = tuned.tensors.get(name, before[name])
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=0)
    # The encoder that was given, and the frozen modality, are as they were.
    for name, parameter in encoders["image"].loaded.network.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)
    assert "text" not in checkpoint.towers


def test_a_tower_learns_at_its_own_rate(place, tmp_path):
    changes = []
    for number, rate in enumerate((1e-6, 1e-3)):
        made = recipe(place, {"text": {"learning_rate": rate, "weight_decay": 0.0}}, epochs=1)
        features, encoders, _ = prepare(made)
        before = encoders["text"].loaded.network.state_dict()
        checkpoint, trained, _ = train_method(made, made.method, 0, tmp_path / str(number), features, encoders)
        steps = trained.progress.step
        biggest = max(float((t - before[name]).abs().max()) for name, t in checkpoint.towers["text"].tensors.items())
        # A step of Adam moves no weight by more than about its learning rate.
        assert biggest < 1.1 * rate * steps
        changes.append(biggest)
    assert changes[1] > 100 * changes[0]


@pytest.mark.parametrize(("lora", "crop"), [(0, 0.5), (2, 1.0)])
def test_a_killed_run_resumes_to_the_same_weights(place, tmp_path, lora, crop):
    if lora:
        pytest.importorskip("peft")
    tuning = {"blocks": 2, "lora": lora, "crop": crop}  # whole pictures are read from stored states
    made = recipe(place, {"image": tuning, "text": {}}, epochs=3, chunk=4)
    features, encoders, _ = prepare(made)
    assert set(features.states) == ({"image"} if crop == 1 else set())
    whole, *_ = train_method(made, made.method, 0, tmp_path / "whole", features, encoders)

    def stop(event):
        if event["event"] == "evaluation" and event["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_method(made, made.method, 0, tmp_path / "killed", features, encoders, stop)
    again, trained, _ = train_method(made, made.method, 0, tmp_path / "killed", features, encoders)
    assert trained.resumed_at > 0
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")
    for name, tuned in whole.towers.items():
        for leaf, tensor in tuned.tensors.items():
            torch.testing.assert_close(again.towers[name].tensors[leaf], tensor, rtol=0, atol=0)
    other = recipe(place, {"image": {**tuning, "blocks": 1}, "text": {}}, epochs=3, chunk=4)
    with pytest.raises(CheckpointError, match="other settings"):
        train_method(other, made.method, 0, tmp_path / "killed", features, encoders)


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read_log(folder) if event["event"] == "step"]


def test_a_run_with_towers_is_loaded_measured_and_embeds_as_it_was_trained(place, tmp_path):
    tuning = {"image": {"blocks": 1, "learning_rate": 1e-3}, "text": {"blocks": 2, "learning_rate": 1e-3}}
    made = recipe(place, tuning, epochs=12)
    table = made.model_dump(mode="json")
    table["evaluation"]["zero_shot"] = {"data": str(place / "classes"), "templates": ["the {} dog"]}
    done = run(make_recipe(table), output=tmp_path / "run")
    embedder = lightcrl.load(tmp_path / "run")
    config = json.loads((tmp_path / "run/best/config.json").read_text())
    assert config["format"] == 2
    assert set(config["towers"]) == {"image", "text"}

    # The embedder's vectors are those that the figures were made from.
    features, encoders, _ = prepare(made)
    assert embedder.encoder("image").fingerprint != encoders["image"].fingerprint
    store = features.store("image")
    rows = np.arange(store.rows)
    live = LiveStore(store, Tower(encoders["image"], made.tuning["image"]), features.items["image"])
    live.tower.load(embedder.checkpoint.towers["image"].tensors)
    seen = embedder.method("image", live.gather(rows)).detach().numpy()
    paths = [item.raw for item in live.items]
    np.testing.assert_allclose(embedder.encode(paths, "image"), seen, atol=1e-5)

    # Zero-shot goes through the trained towers: the same figures when measured from the files anew.
    from lightcrl.tasks.evaluate import evaluate

    settings = {"data": str(place / "classes"), "templates": ("the {} dog",)}
    again = evaluate("zero_shot", str(tmp_path / "run"), embedder, settings, tmp_path / "other").result
    assert again.metrics["top1"] == done.models[0].results["zero_shot"].metrics["top1"]
    assert again.metrics["top1"] >= 0.75
    assert "tower image" in (tmp_path / "run/best/README.md").read_text()
    assert done.models[0].parameters == sum(embedder.checkpoint.parts().values()) > embedder.method.dim * 1000

    # The page looks at the trained encoders' embeddings, and says that they were trained.
    from lightcrl.report.facts import gather
    from lightcrl.report.run_page import render

    report = gather(tmp_path / "run")
    assert [one.trained for one in report.modalities] == [True, True]
    assert report.confusion is not None
    right = np.trace(report.confusion.counts) / report.confusion.counts.sum()
    assert right == pytest.approx(done.models[0].results["zero_shot"].metrics["top1"])
    assert "trained too" in render(report)


def test_stored_states_train_as_the_whole_tower_does(place, tmp_path):
    image = {"blocks": 1, "crop": 1.0, "checkpointing": True}
    tuning = {"text": {"blocks": 2, "learning_rate": 1e-3}, "image": image}
    logs, events = {}, list[Any]()
    for name, cache, dtype in (("whole", False, "float16"), ("states", True, "float32"), ("rounded", True, "float16")):
        table = recipe(place, {key: {**given, "cache": cache} for key, given in tuning.items()}).model_dump(mode="json")
        table["features"].update(folder=str(tmp_path / "features"), dtype=dtype)
        features, encoders, _ = prepare(made := make_recipe(table), events.append)
        assert set(features.states) == (set(tuning) if cache else set())
        if name == "states":
            # What was told before is what was stored; a second run makes nothing.
            told = {event["modality"]: event for event in events if event["event"] == "states" and event["bytes"]}
            done = {event["modality"]: event for event in events if event["event"] == "encoded"}
            for key, store in features.states.items():
                assert told[key]["bytes"] == pytest.approx(store.nbytes, rel=0.2)
                assert done[f"{key} states"]["encoded"] == told[key]["items"] == store.rows
            again = list[Any]()
            prepare(made, again.append)
            assert {event["encoded"] for event in again if event["event"] == "encoded"} == {0}
        train_method(made, made.method, 0, tmp_path / name, features, encoders)
        logs[name] = losses(tmp_path / name)
    np.testing.assert_allclose(logs["states"], logs["whole"], rtol=2e-3)
    np.testing.assert_allclose(logs["rounded"], logs["whole"], rtol=2e-2)
    assert logs["rounded"] != logs["states"]
    assert {event["reason"] for event in events if event["event"] == "states"} == {"", "cache = false"}


def test_items_without_states_are_named(place, tmp_path):
    made = recipe(place, {"text": {"blocks": 1}})
    features, encoders, _ = prepare(made)
    tower, whole = Tower(encoders["text"], made.tuning["text"]), features.states["text"]
    missing = FeatureStore(whole.folder)
    missing.rows -= 2
    with pytest.raises(StoreError, match=r"2 items have no stored states.*dtype = 'float32', or cache = false"):
        LiveStore(features.store("text"), tower, features.items["text"], states=missing)


def test_a_tampered_tower_is_refused(place, tmp_path):
    made = recipe(place, {"text": {"blocks": 1}}, epochs=1)
    features, encoders, _ = prepare(made)
    train_method(made, made.method, 0, tmp_path / "run", features, encoders)
    path = tmp_path / "run/best/tower-text.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: tensors[name] + 1}, path)
    with pytest.raises(CheckpointError, match=f"tower-text.*{name}"):
        load_checkpoint(tmp_path / "run")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"tower-text.safetensors is missing"):
        load_checkpoint(tmp_path / "run")


def test_recipes_that_cannot_be_trained_are_refused(place, tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'image'"):
        recipe(place, {"imago": {}})
    with pytest.raises(RecipeError, match=r"unknown key 'tuning.image.block'.*Did you mean 'blocks'"):
        recipe(place, {"image": {"block": 2}})
    for name in ("structure", "csa"):
        made = recipe(place, {"image": {}}, {"name": name})
        features, encoders, _ = prepare(made)
        with pytest.raises(TrainingError, match="no encoder can be trained through it"):
            train_method(made, made.method, 0, tmp_path / name, features, encoders)


def test_frozen_runs_need_no_newer_version(place, tmp_path):
    done = run(recipe(place, {}, epochs=1), output=tmp_path / "run")
    assert json.loads((done.folder / "best/config.json").read_text())["format"] == 1


def test_tuning_tables_have_defaults_that_train_everything():
    assert TuningSpec() == TuningSpec(blocks="all", lora=0)


def test_a_live_store_is_a_store_and_no_stored_one(place):
    made = recipe(place, {"text": {"blocks": 1}}, epochs=1)
    features, encoders, _ = prepare(made)
    store = features.store("text")
    live = LiveStore(store, Tower(encoders["text"], made.tuning["text"]), features.items["text"])
    assert not isinstance(live, FeatureStore)
    names = ("fingerprint", "rows", "dim", "slots", "sequence", "longest", "tokens", "nbytes")
    assert [getattr(live, name) for name in names] == [getattr(store, name) for name in names]
    assert live.metadata().equals(store.metadata())
    assert live.count_lines() == store.count_lines() == sum(len(lines) for lines in live.lines(("row", "group")))
    assert live.in_memory() is live
    assert live.memory
    # Not trained yet, the tower says what was stored.
    rows = np.array([2, 0])
    torch.testing.assert_close(live.gather(rows).values, store.gather(rows).values.float(), atol=1e-4, rtol=1e-3)
