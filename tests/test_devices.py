"""Devices are not mixed: every path of tensors with its method, head, encoder or index on the stand-in `card:0`.

Its arithmetic is that of the CPU, so that losses and embeddings have to be those of the CPU, to the bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coloured
import lightcrl
from card import DEVICE, Card, MixedDevicesError, card
from lightcrl import losses
from lightcrl.captioner import Captioner
from lightcrl.checkpoint import Checkpoint, load_folder
from lightcrl.data.base import Item
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import EncoderSpec
from lightcrl.export import _graph, _on_cpu
from lightcrl.features import Features
from lightcrl.features.embed import embed_split
from lightcrl.heads.matching import row_scorer
from lightcrl.heads.spec import HeadSpec
from lightcrl.index.vectors import VectorIndex
from lightcrl.losses import LOSSES
from lightcrl.matcher import Matcher
from lightcrl.methods import METHODS
from lightcrl.methods.extension import NAME, grow
from lightcrl.methods.spec import make_method
from lightcrl.pipeline import run
from lightcrl.recipe import make_recipe
from lightcrl.specs import parse
from lightcrl.tokens import TokenBatch, TokenSpec
from lightcrl.training import loop
from lightcrl.training.gradient import Stepper
from lightcrl.training.heads import train_head
from lightcrl.training.log import read_log
from lightcrl.training.loop import train
from lightcrl.training.spec import TrainingSpec
from samples import make_features, randn, units

__all__ = ["card"]
SPECS = {"image": TokenSpec(6, slots=2, sequence=True), "text": TokenSpec(5, slots=1, sequence=True)}
TRAIN, DEV = 24, 8
TRAINING = {"epochs": 2, "batch_size": 12, "precision": "float32", "tensorboard": False}
OPTIONS = {"dfe": {"heads": 2}, "lightcrl_paper": {"heads": 2}, "asif": {"dim": 12, "neighbours": 4}}
# Some methods compute with other strides on the card, in other order.
CLOSE = {"lightcrl_paper"}


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Features:
    """Groups of a picture and two captions, with tokens of several lengths."""
    owners = [f"train:g{n}" for n in range(TRAIN)] + [f"dev:d{n}" for n in range(DEV)]
    stores = {}
    for name, each in (("image", 1), ("text", 2)):
        shape, names = SPECS[name], [owner for owner in owners for _ in range(each)]
        items = [randn(shape.slots + 1 + n % 3, shape.dim, seed=n) for n in range(len(names))]
        folder = tmp_path_factory.mktemp(name)
        stores |= make_features(folder, {name: items}, {name: names}, slots=shape.slots, sequence=True).stores
    captions = [Item(f"text{n}", "text", f"a thing of number {n // 2}") for n in range(2 * len(owners))]
    return Features(stores, {"text": captions})


def checkpoint(name: str, loss: str = "info_nce", **options: Any) -> Checkpoint:
    encoders = {
        each: EncoderSpec(kind="vectors", model="m", options={"dim": s.dim, "slots": s.slots, "sequence": True})
        for each, s in SPECS.items()
    }
    return Checkpoint(
        make_method(name, SPECS, {"dim": 8, **OPTIONS.get(name, {}), **options}, loss),
        name=name,
        loss=loss,
        encoders=encoders,
        fingerprints={each: load_encoder(spec).fingerprint for each, spec in encoders.items()},
    )


def step_losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read_log(folder) if event["event"] == "step"]


def test_the_stand_in_takes_and_refuses_what_cuda_does(card):
    there, here, scalar = torch.ones(3, 4).to(card), torch.ones(3, 4), torch.tensor(2.0)
    assert there.device == DEVICE
    assert torch.arange(3, device=card)[1:].device == DEVICE
    assert (there * scalar + 1).cpu().tolist() == (here * 2 + 1).tolist()
    assert there[torch.tensor([0, 2])].device == DEVICE
    assert torch.zeros(3, 4).copy_(there).device.type == "cpu"
    cpu_generator = torch.Generator()
    for mixed in (
        lambda: there + here,
        lambda: there @ here.T,
        lambda: torch.cat([there, here]),
        lambda: torch.stack([there.sum(), scalar]),
        lambda: torch.where(there > 0, there, here),
        lambda: here.masked_fill(there > 0, 1.0),
        lambda: here[torch.tensor([0]).to(card)],
        lambda: there.index_select(0, torch.tensor([0])),
        lambda: scalar.add_(there.sum()),
        lambda: torch.nn.functional.linear(there, here),
        lambda: torch.randn(2, device=card, generator=cpu_generator),
    ):
        with pytest.raises(MixedDevicesError):
            mixed()
    for read in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match=r"can't convert card:0 device type tensor to numpy\. Use Tensor\.cpu"):
            read()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_and_embeds_on_it_as_on_the_cpu(name, features, tmp_path, monkeypatch, request):
    # Every loss with every other method, in pieces; what has no choice has its own.
    loss = [*LOSSES][list(METHODS).index(name) % 2] if name != "convirt" else "info_nce"
    monkeypatch.setattr(losses, "PIECE", 40)
    spec = TrainingSpec(**TRAINING, loss=loss)
    train(checkpoint(name, loss), features, spec, tmp_path / "cpu")
    card = request.getfixturevalue("card")
    made = checkpoint(name, loss)
    train(made, features, spec, tmp_path / "card")
    assert {type(p.data) for p in made.method.parameters()} == {Card}
    own, there = step_losses(tmp_path / "cpu"), step_losses(tmp_path / "card")
    assert len(own) == (0 if made.method.closed_form else 4)
    assert there == (pytest.approx(own, rel=1e-5) if name in CLOSE else own)
    items = [randn(4, 6, seed=n) for n in range(3)]
    vectors = [
        Embedder(load_folder(tmp_path / where / "best"), device=device).encode_vectors(items, "image")
        for where, device in (("cpu", "cpu"), ("cpu", card), ("card", "cpu"))
    ]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-6)
    np.testing.assert_allclose(vectors[2], vectors[0], atol=1e-5)


@pytest.mark.parametrize("resumed_on", ["card", "cpu"])
def test_a_training_that_was_stopped_on_it_resumes_on_either(features, tmp_path, monkeypatch, card, resumed_on):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    spec = TrainingSpec(**TRAINING | {"schedule": "plateau"})
    train(checkpoint("linear"), features, spec, tmp_path / "whole")

    def stop(event: Any) -> None:
        if event.get("step") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(checkpoint("linear"), features, spec, tmp_path / "part", report=stop)
    if resumed_on == "cpu":
        monkeypatch.delenv("ACCELERATE_TORCH_DEVICE")
    train(checkpoint("linear"), features, spec, tmp_path / "part")
    assert step_losses(tmp_path / "part") == step_losses(tmp_path / "whole")


def test_bfloat16_is_that_of_the_device(features, tmp_path, card):
    for precision in ("bfloat16", "float32"):
        made = checkpoint("linear")
        train(made, features, TrainingSpec(**TRAINING | {"precision": precision}), tmp_path / precision)
        assert {p.dtype for p in made.method.parameters()} == {torch.float32}
    lower, whole = (step_losses(tmp_path / precision) for precision in ("bfloat16", "float32"))
    assert lower != pytest.approx(whole, rel=1e-6)
    assert lower == pytest.approx(whole, rel=0.05)


def test_a_modality_is_added_on_it(tmp_path, card):
    """The old embeddings come from a store; only the new modality's leaves are trained."""
    body = checkpoint("dfe").method.to(card)
    new = {"sound": TokenSpec(3)}
    names = [f"train:g{n}" for n in range(TRAIN)] + [f"dev:d{n}" for n in range(DEV)]
    items = {"old": list(units(len(names), body.dim).float()[:, None]), "sound": list(randn(len(names), 2, 3))}
    features = make_features(tmp_path / "stores", items, dict.fromkeys(items, names))
    method = grow(body, "dfe", new, ["old"], "info_nce")
    encoders = {name: EncoderSpec(kind="vectors", model="m") for name in items}
    growing = Checkpoint(method, name=NAME, loss="info_nce", encoders=encoders, fingerprints=dict.fromkeys(items, "f"))
    train(growing, features, TrainingSpec(**TRAINING), tmp_path / "training")
    assert len(step_losses(tmp_path / "training")) == 4


HEADS: dict[str, dict[str, Any]] = {
    "matching": {"width": 8, "heads": 2, "hidden": 6, "negatives": 3, "pool": 8, "hardest": 3, "candidates": 4},
    "transformer": {"width": 16, "heads": 2, "blocks": 1, "vocabulary": 60, "longest": 12, "judged": 8},
    "retrieval": {"judged": 8},
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_trained_and_used_on_it(name, features, tmp_path, card):
    space = checkpoint("dfe", feedforward=8, canonical=0.0)
    kind = {"kind": "matching"} if name == "matching" else {"kind": "captioning", "decoder": name}
    training = {"epochs": 2, "batch_size": 8, "precision": "float32", "tensorboard": False, "device": card}
    table = {**kind, "training": training, "apart": 0.5, "held_out": 0.25, "space_training": {"epochs": 1}}
    spec: HeadSpec = parse(HeadSpec, table | HEADS[name], "heads")
    space.method.to(card)  # as a training leaves it
    space.heads["head"] = train_head(space, "head", spec, features, tmp_path)
    vectors, _ = embed_split(space.method, features, features.split("dev"))
    items = {each: [randn(5, shape.dim, seed=n) for n in range(2)] for each, shape in SPECS.items()}
    used = {}
    for device in ("cpu", card):
        embedder = Embedder(space, device=device)
        if name == "matching":
            lists = np.arange(8).reshape(2, 4)
            head = space.head("head").to(device)
            rescored = row_scorer(head, features, "dev", vectors)("image", np.arange(2), "text", lists)
            used[device] = [rescored, Matcher(embedder, "head").scores(items["image"], "image", items["text"], "text")]
        else:
            used[device] = Captioner(embedder, "head").caption(items["image"])
    for here, there in zip(*used.values(), strict=True):
        np.testing.assert_array_equal(here, there) if name != "matching" else np.testing.assert_allclose(
            here, there, atol=1e-5
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = coloured.write(tmp_path_factory.mktemp("devices"))
    things = ("dog", "cat", "bird")
    for name, more in (("measured", ""), ("fitted", " small")):
        pairs = [{"text1": f"a {a}{more}", "text2": f"the {b}", "label": int(a == b)} for a in things for b in things]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return place


@pytest.mark.parametrize("encoders_on", ["card:0", "cpu"])
def test_a_run_with_a_tower_and_every_evaluation_keeps_to_it(place, tmp_path, card, encoders_on):
    recipe = coloured.recipe(place, {"text": {"blocks": 1}}, {"name": "dfe", "heads": 2, "feedforward": 8}, chunk=6)
    table = recipe.model_dump(mode="json", exclude_unset=True)
    table["training"] |= {"device": card, "epochs": 1}
    for encoder in table["encoders"].values():
        encoder["device"] = encoders_on
    if encoders_on == card:
        classes = {"data": str(place / "classes"), "files": "[01].png", "test_files": "2.png"}
        training = {"epochs": 1, "batch_size": 4, "tensorboard": False}
        tuned = {"task": "fine_tuning", **classes, "training": training, "tuning": {"blocks": 1}}
        tasks = {"probe": {"task": "linear_probe", **classes, "epochs": [2]}, "tuned": tuned}
        pairs = {"data": str(place / "measured.jsonl"), "calibration": str(place / "fitted.jsonl")}
        table["evaluation"] = {
            "zero_shot": {"data": str(place / "classes"), "templates": ["a {}"]},
            "text_similarity": pairs,
            "tasks": tasks,
        }
    table["features"]["folder"] = str(tmp_path / "features")
    run(make_recipe(table), output=tmp_path / "run")
    model = json.loads((tmp_path / "run/metrics.json").read_text())["models"][0]
    assert {"zero_shot", "text_similarity", "probe", "tuned"} <= model.keys() or encoders_on != card
    here, there = (lightcrl.load(tmp_path / "run", device=device) for device in ("cpu", card))
    items = {"text": ["the red dog", "a cat"], "image": [place / "0.png"]}
    for modality, raw in items.items():
        np.testing.assert_allclose(there.encode(raw, modality), here.encode(raw, modality), atol=1e-5)
        # What is exported is traced on the CPU, and leaves the embedder where it is.
        graph, inputs, _ = _graph(there.encoder(modality), _on_cpu(there.method), modality)
        assert graph(*inputs.values()).device.type == "cpu"
        assert next(there.method.parameters()).device == DEVICE


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_search_on_it_is_that_of_the_cpu(dtype, tmp_path, card):
    vectors, queries = units(1500, 16).numpy().astype(dtype), units(40, 16, seed=1).numpy()
    VectorIndex(vectors, range(len(vectors))).save(tmp_path / "index")
    here, there = (VectorIndex.open(tmp_path / "index", device=device) for device in ("cpu", card))
    assert there.vectors.device == DEVICE
    mine, theirs = here.search(queries, 7), there.search(queries, 7)
    assert mine.ids == theirs.ids
    np.testing.assert_array_equal(mine.scores, theirs.scores)


def unmoved(self: Any, *_: Any, **__: Any) -> Any:
    return self


FORGOTTEN = {
    "tokens of a step": (TokenBatch, "to", unmoved),
    "groups of a step": (
        Stepper, "_groups",
        lambda self, batch: {name: torch.from_numpy(numbers) for name, numbers in batch.groups.items()},
    ),
    "the method": (torch.nn.Module, "to", unmoved),
    "embeddings on dev": (torch.Tensor, "cpu", unmoved),
}  # fmt: skip


@pytest.mark.parametrize("where", FORGOTTEN)
def test_a_forgotten_move_is_found(where, features, tmp_path, card, monkeypatch):
    monkeypatch.setattr(*FORGOTTEN[where])
    with pytest.raises((MixedDevicesError, TypeError), match=r"expected all tensors on card:0|card:0 device type"):
        train(checkpoint("dfe"), features, TrainingSpec(**TRAINING | {"epochs": 1}), tmp_path)
