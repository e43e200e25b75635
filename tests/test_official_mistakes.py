"""What the official code of LightCRL gets wrong, and this one must not: one named test a mistake, two for the 7th."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coloured
import lightcrl
from lightcrl.checkpoint import Checkpoint
from lightcrl.data.base import Dataset, text_item
from lightcrl.encoders import EncoderSpec, OwnEncoder
from lightcrl.features import Features, embed, extract
from lightcrl.features.spec import FeaturesSpec
from lightcrl.files.local import file_digest
from lightcrl.losses import info_nce, over_pairs
from lightcrl.methods import Method
from lightcrl.methods.fusion import OPERATIONS
from lightcrl.methods.spec import make_method
from lightcrl.metrics import probe
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.pipeline import run
from lightcrl.tasks.base import Setting
from lightcrl.tasks.class_folders import ClassItems
from lightcrl.tasks.fine_tuning import FineTuningSpec, FineTuningTask
from lightcrl.tasks.text_similarity import TextSimilaritySpec, TextSimilarityTask
from lightcrl.tasks.zero_shot import ZeroShotTask
from lightcrl.tokens import TokenBatch, TokenSpec
from lightcrl.training.batches import epoch_batches
from lightcrl.training.gradient import parameter_groups
from lightcrl.training.loop import train
from lightcrl.training.spec import TrainingSpec
from samples import bare, make_features, make_split, padded, ragged, randn, units
from worlds import Digits

SMALL: dict[str, Any] = {
    "dim": 8, "heads": 4, "feedforward": 16, "dropout": 0.1, "input_dropout": 0.0, "standardise": False,
}  # fmt: skip
# Our encoder, and the one of the paper.
BOTH = pytest.mark.parametrize("name", ["dfe", "lightcrl_paper"])
SPECS = {"image": TokenSpec(4), "text": TokenSpec(4)}
CAPTIONS = 3


def dfe(fusion: str = "addition", name: str = "dfe", **options: Any) -> Method:
    return make_method(name, SPECS, SMALL | {"fusion": fusion} | options, "info_nce").eval()


def checkpoint_of(method: Method, name: str = "dfe") -> Checkpoint:
    encoders = {modality: EncoderSpec(kind="text", model="worlds:Digits") for modality in SPECS}
    return Checkpoint(method, name=name, loss="info_nce", encoders=encoders, fingerprints=dict.fromkeys(SPECS, "f"))


def world(folder: Path, groups: int = 24) -> Features:
    """Pictures and captions that say the same; a quarter of the groups is dev."""
    pictures = [randn(3, 4, seed=group) for group in range(groups)]
    texts = [picture[:2].flip(0) * 2 for picture in pictures for _ in range(CAPTIONS)]
    names = [f"{'dev' if group % 4 == 0 else 'train'}:g{group}" for group in range(groups)]
    owners = {"image": names, "text": [name for name in names for _ in range(CAPTIONS)]}
    return make_features(folder, {"image": pictures, "text": texts}, owners)


def settings(**options: Any) -> TrainingSpec:
    plain = {"epochs": 2, "batch_size": 9, "learning_rate": 0.01, "device": "cpu", "tensorboard": False, "clip": 0}
    return TrainingSpec(**plain | options)


@BOTH
@pytest.mark.parametrize("fusion", OPERATIONS)
def test_1_every_parameter_receives_a_gradient(fusion, name):
    """Official: the fusion layer is registered, then deep-copied, and half of the module is dead weight."""
    method = dfe(fusion, name)
    embeddings = {modality: method(modality, ragged([3, 1, 4, 2], 4, seed)) for seed, modality in enumerate(SPECS)}
    groups = dict.fromkeys(SPECS, torch.arange(4))
    over_pairs(info_nce, embeddings, groups, method.scale, torch.tensor(0.0)).backward()
    trained = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    dead = [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    assert dead == []
    assert sum(method.parts().values()) == sum(parameter.numel() for parameter in trained.values())
    # What is solved in closed form before the first step is all that is not trained.
    assert {name.split(".")[0] for name, _ in method.named_parameters()} - {name.split(".")[0] for name in trained} <= {
        "canonical"
    }


@BOTH
@pytest.mark.parametrize("fusion", OPERATIONS)
def test_2_an_embedding_does_not_depend_on_its_neighbours_in_the_batch(fusion, name):
    """Official: no padding mask, so that a long text changes the embeddings of short ones beside it."""
    method, batch = dfe(fusion, name), ragged([1, 5, 3], 4)
    alone = torch.cat([method("text", TokenBatch.full(item[None])) for item in batch.ragged()])
    order = torch.tensor([2, 0, 1])
    for garbage in (0.0, float("nan")):
        torch.testing.assert_close(
            method("text", padded(batch, 2, garbage).rows(order)), alone[order], atol=1e-5, rtol=0
        )


def test_3_the_logit_scale_starts_at_14_stays_below_100_and_does_not_decay(tmp_path):
    """Official: it starts at exp(0.07) = 1.07 and may reach 4.9e8."""
    method = dfe()
    assert method.scale.item() == pytest.approx(1 / 0.07)
    (spared,) = (group for group in parameter_groups(method, settings(weight_decay=0.5)) if not group["weight_decay"])
    assert any(parameter is method.logit_scale for parameter in spared["params"])
    method.start_logits(4.9e8, None)
    assert method.scale.item() == pytest.approx(100.0)
    steps: list[dict[str, Any]] = []
    train(checkpoint_of(method), world(tmp_path), settings(learning_rate=0.3), tmp_path / "run", report=steps.append)
    scales = [step["logit_scale"] for step in steps if step["event"] == "step"]
    assert scales[0] == pytest.approx(100.0)
    assert scales[-1] < 99.0, "from its bound it can come down again"


def test_4_captions_of_one_image_are_positives_of_it_together():
    """Official: captions of the same image are negatives of each other's image."""
    split = make_split({"image": [[0], [1], [2]], "text": [[0, 1], [2, 3], [4, 5]]})
    (batch,) = epoch_batches(split, 3, items_per_group=2, seed=0, epoch=0)
    assert Counter(batch.groups["text"].tolist()) == {0: 2, 1: 2, 2: 2}
    images, texts = torch.eye(9)[:3], torch.eye(9)[3:].requires_grad_()
    groups = {modality: torch.from_numpy(numbers) for modality, numbers in batch.groups.items()}
    info_nce(images, texts, groups["image"], groups["text"], torch.tensor(10.0)).backward()
    assert texts.grad is not None
    pulled = images @ texts.grad.T < 0
    assert torch.equal(pulled, groups["image"][:, None] == groups["text"][None, :])
    # Perfect embeddings leave an image undecided between its own captions, and nothing else.
    perfect = info_nce(
        torch.eye(3)[batch.groups["image"]], torch.eye(3)[batch.groups["text"]], *groups.values(), torch.tensor(100.0)
    )
    assert perfect.item() == pytest.approx(math.log(2) / 2, abs=1e-5)


def test_5_perfect_embeddings_score_one_and_shuffled_ones_chance_whatever_the_batch_size(tmp_path, monkeypatch):
    """Official: metrics keep the last batch only, and perfect embeddings score 0.0 in text retrieval."""
    features = world(tmp_path, groups=160)
    method = make_method("linear", SPECS, {"dim": 4, "input_dropout": 0.0}, "info_nce")
    with torch.no_grad():
        for modality in SPECS:
            method.stem(modality).weight.copy_(torch.eye(4))
    split = features.split("dev")
    results = []
    for tokens_per_batch in (1, 7, 65_536):
        monkeypatch.setattr(embed, "TOKENS_PER_BATCH", tokens_per_batch)
        vectors, links = embed.embed_split(method, features, split)
        results.append(Retrieval(links)(vectors))
    assert results[0].metrics == results[1].metrics == results[2].metrics
    assert results[0].counts["text_to_image/gallery"] == 40, "each image stands once in the gallery"

    perfect = {modality: units(len(split), 16)[links[modality][:, 1]].float() for modality in SPECS}
    found = Retrieval(links)(perfect).metrics
    assert {found[key] for key in found if "recall" in key} == {1.0}, "any caption of the image is a hit"

    shuffled = {modality: units(len(links[modality]), 16, seed).float() for seed, modality in enumerate(SPECS)}
    result = Retrieval(links)(shuffled)
    for key, chance in result.chance.items():
        assert abs(result.metrics[key] - chance) < 0.15, key
    constant = Retrieval(links)({modality: torch.ones_like(vectors) / 4 for modality, vectors in perfect.items()})
    assert {key: constant.metrics[key] for key in constant.chance} == pytest.approx(constant.chance)


class DroppingOut:
    """A user's encoder whose network is left in train mode."""

    def __init__(self) -> None:
        self.network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)).train()

    def encode(self, items: list[Any]) -> torch.Tensor:
        return self.network(torch.stack(items))


def test_6_inference_is_in_eval_mode_without_gradient_and_deterministic(tmp_path):
    """Official: zero-shot text embeddings are made with dropout on, and frozen encoders run in train mode."""
    encoder = OwnEncoder(DroppingOut(), EncoderSpec(kind="text", model="test:DroppingOut"))
    one, two = (encoder.encode(list(randn(5, 4))).values for _ in range(2))
    assert torch.equal(one, two)
    assert not one.requires_grad

    features, method = world(tmp_path), dfe(dropout=0.5, input_dropout=0.5)
    rows, labels = np.arange(24), np.arange(24) % 2
    items = ClassItems("image", features.store("image"), rows, labels, ("a", "b"), ())
    task = ZeroShotTask(items, ("a", "b"), "text", ragged([2, 3, 1, 4], 4))
    found = []
    for _ in range(2):
        method.train()
        found.append((items.vectors(method), task.class_vectors(method), task.evaluate(bare(method)).metrics))
    for first, second in zip(*found, strict=True):
        assert first == second if isinstance(first, dict) else torch.equal(first, second)
    assert not any(part.requires_grad for part in found[0][:2])


def test_7_training_trains_every_parameter_and_leaves_the_encoders_alone(tmp_path):
    """Official: "fine-tuning" runs under no_grad."""
    features, method = world(tmp_path), dfe("general_attention")
    before = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    digests = {path: file_digest(path) for path in tmp_path.rglob("*.npy")}
    steps: list[dict[str, Any]] = []
    result = train(
        checkpoint_of(method), features, settings(weight_decay=0.0, epochs=6), tmp_path / "run", report=steps.append
    )
    losses = [step["loss"] for step in steps if step["event"] == "step"]
    assert result.progress.best_epoch > 0
    assert all(step["gradient_norm"] > 0 for step in steps if step["event"] == "step")
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert [name for name, parameter in method.named_parameters() if torch.equal(parameter, before[name])] == []
    assert set(dict(method.named_parameters())) == set(before), "no weight of an encoder is among the trained ones"
    assert {path: file_digest(path) for path in digests} == digests


def test_7_fine_tuning_moves_what_it_says_and_a_linear_probe_is_one_linear_map(tmp_path):
    place = coloured.write(tmp_path)
    made = coloured.recipe(place, {}, epochs=1)
    run(made, output=tmp_path / "run")
    model = lightcrl.load(tmp_path / "run")
    encoder = model.encoder("image")
    before = {name: weight.clone() for name, weight in encoder.loaded.network.named_parameters()}
    settings = {"data": str(place / "classes"), "files": "[01].png", "test_files": "2.png"}
    settings |= {"training": {"epochs": 1, "tensorboard": False}, "tuning": {"blocks": 1, "learning_rate": 1e-3}}
    spec = FineTuningSpec.model_validate({**settings, "output": str(tmp_path / "tuned")})
    FineTuningTask.prepare(spec, Setting({"image": encoder}, made.features)).evaluate(model.checkpoint)
    after = lightcrl.load_checkpoint(tmp_path / "tuned")
    moved = after.towers["image"].tensors
    assert {name for name in before if name in moved} == {
        name for name in before if ".2." in name or name.startswith("layernorm")
    }
    assert all(not torch.equal(moved[name], before[name]) for name in moved)
    body = {name.removeprefix("body."): weight for name, weight in after.method.state_dict().items()}
    assert not torch.equal(body["stems.image.weight"], model.method.state_dict()["stems.image.weight"])
    # The probe: logits of a mixture are the mixture of logits.
    vectors, labels = units(12, 5), torch.arange(12) % 3
    weights = probe.fit(vectors, labels, 3, 1e-3)
    one, other = vectors[:1], vectors[1:2]
    mixed = 0.3 * probe.scores(one, weights) + 0.7 * probe.scores(other, weights)
    torch.testing.assert_close(probe.scores(0.3 * one + 0.7 * other, weights), mixed)
    assert weights.shape == (5 + 1, 3)


def test_8_every_item_is_encoded_once_ever(tmp_path):
    """Official: encoders run again every epoch, and on an image once per caption."""
    groups = 12
    items = {
        "image": [text_item(str(100 + number), "image") for number in range(groups)],
        "text": [text_item(str(5000 + number), "text") for number in range(groups * CAPTIONS)],
    }
    links = {
        "image": np.stack([np.arange(groups)] * 2, 1),
        "text": np.stack([np.arange(groups * CAPTIONS), np.arange(groups * CAPTIONS) // CAPTIONS], 1),
    }
    splits = ["dev" if group % 4 == 0 else "train" for group in range(groups)]
    data = Dataset([f"g{group}" for group in range(groups)], splits, items, links)
    encoder = Digits()
    features = Features({modality: extract(encoder, data, modality, tmp_path).store for modality in items})
    train(checkpoint_of(dfe()), features, settings(epochs=3, batch_size=4), tmp_path / "run")
    again = {modality: extract(encoder, data, modality, tmp_path) for modality in items}
    assert Counter(encoder.calls) == {item.raw: 1 for found in items.values() for item in found}
    assert {modality: done.encoded for modality, done in again.items()} == {"image": 0, "text": 0}


class Crowded(Digits):
    """An encoder whose texts all look alike, as RoBERTa's do: every cosine is above 0.99."""

    def describe(self) -> dict[str, Any]:
        return {"class": "Crowded"}

    def tokens(self, text: str) -> np.ndarray:
        return np.asarray(super().tokens(text) + np.float32(400), dtype=np.float32)


def test_9_text_pairs_are_judged_by_a_threshold_calibrated_on_the_training_pairs(tmp_path):
    """Official: one fixed threshold for all spaces, so that a baseline calls every pair similar: recall 100 and 0 %."""
    rng = np.random.default_rng(0)

    def write(name: str, count: int) -> str:
        texts = [str(number) for number in rng.integers(100, 1000, (count, 2)).ravel()]
        pairs = [
            # Similar: the next number, whose digits are nearly the same.
            {"text1": one, "text2": str(int(one) + 1) if number % 3 else two, "label": int(number % 3 > 0)}
            for number, (one, two) in enumerate(zip(texts[::2], texts[1::2], strict=True))
        ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        return str(path)

    pairs = write("test.jsonl", 60), write("train.jsonl", 90)
    encoders = {"image": Crowded(), "text": Digits()}
    setting = Setting(encoders, FeaturesSpec(folder=str(tmp_path), dtype="float32"))
    task = TextSimilarityTask.prepare(TextSimilaritySpec(data=pairs[0], calibration=pairs[1]), setting)
    result = task.evaluate(bare(dfe()))
    for space in ("raw image", "raw text"):
        assert result.metrics[f"{space}/accuracy"] > result.chance[f"{space}/accuracy"] + 0.1
        for label in ("similar", "dissimilar"):
            assert result.metrics[f"{space}/{label}/recall"] > 0.5
            assert result.metrics[f"{space}/{label}/precision"] > 0.5
    raw = task.raw["image"][:60]
    assert raw.min() > 0.99, "a threshold fixed at 0.5, or at 0.9, would call all of them similar"
    # Each space has its own, and test labels have no part in it.
    assert result.thresholds["raw image"] > result.thresholds["raw text"]
    turned = replace(task, pairs=replace(task.pairs, truth=1 - task.pairs.truth))
    assert turned.evaluate(bare(dfe())).thresholds == result.thresholds
