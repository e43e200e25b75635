"""The contract of every head of the table `HEADS`; a new one with options of its own gives a small case here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightcrl.checkpoint import Checkpoint, load_folder
from lightcrl.data.base import Item
from lightcrl.encoders.base import EncoderSpec
from lightcrl.errors import CheckpointError, HeadError, RecipeError
from lightcrl.features import Features
from lightcrl.heads import HEADS, Head, HeadBatch, HeadOptions
from lightcrl.heads.base import features_of
from lightcrl.heads.spec import HeadSpec
from lightcrl.methods.spec import make_method
from lightcrl.specs import parse
from lightcrl.tokens import TokenBatch, TokenSpec
from lightcrl.training import loop
from lightcrl.training.heads import gather_material, train_head
from lightcrl.training.log import read_log
from samples import GARBAGE, make_features, padded, randn

SPECS = {"image": TokenSpec(6, slots=2, sequence=True), "text": TokenSpec(5, slots=1, sequence=True)}
TRAIN, DEV = 40, 16
TRAINING = {"epochs": 2, "batch_size": 8, "precision": "float32", "tensorboard": False}

# A small case of each head: the table below [heads.<name>].
CASES: dict[str, dict[str, Any]] = {
    "matching": {
        "width": 8,
        "heads": 2,
        "hidden": 6,
        "negatives": 3,
        "pool": 8,
        "hardest": 3,
        "candidates": 4,
        "apart": 0.0,
        "held_out": 0.0,
    },
    "captioning": {
        "decoder": "transformer",
        "width": 16,
        "heads": 2,
        "blocks": 1,
        "vocabulary": 60,
        "longest": 12,
        "judged": 8,
    },
    "drawing": {
        "size": 16,
        "width": 16,
        "channels": 8,
        "blocks": 1,
        "unconditional": 0.4,
        "without_embedding": 0.4,
        "judged": 8,
    },
    "prior": {"width": 16, "blocks": 1, "unconditional": 0.5, "steps": 4, "judged": 8},
}

every_head = pytest.mark.parametrize("name", HEADS)


def spec_of(name: str, **more: Any) -> HeadSpec:
    spec: HeadSpec = parse(
        HeadSpec, {"kind": name, "training": TRAINING, "apart": 0.0, "held_out": 0.0, **CASES[name], **more}, "heads"
    )
    return spec


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Features:
    """Groups of a picture and two captions, whose tokens show the same four numbers."""
    things = randn(TRAIN + DEV, 4, seed=1)
    owners = [f"train:g{n}" for n in range(TRAIN)] + [f"dev:d{n}" for n in range(DEV)]
    maps = {name: randn(4, shape.dim, seed=7 + number) for number, (name, shape) in enumerate(SPECS.items())}

    def item(name: str, number: int, seed: int) -> Tensor:
        length = SPECS[name].slots + 2 + seed % 3
        return things[number] @ maps[name] + 0.3 * randn(length, SPECS[name].dim, seed=seed)

    sequences = {
        "image": [item("image", n, 100 + n) for n in range(len(owners))],
        "text": [item("text", n // 2, 500 + n) for n in range(2 * len(owners))],
    }
    stores = {}
    for name, items in sequences.items():
        names = [owner for owner in owners for _ in range(len(items) // len(owners))]
        folder = tmp_path_factory.mktemp(name)
        stores |= make_features(folder, {name: items}, {name: names}, slots=SPECS[name].slots, sequence=True).stores
    captions = [Item(f"text{n}", "text", f"a thing of number {n // 2}") for n in range(len(sequences["text"]))]
    shades = (things[:, :3].sigmoid() * 255).byte().numpy()
    pictures = [Item(f"image{n}", "image", Image.new("RGB", (20, 16), tuple(shade))) for n, shade in enumerate(shades)]
    return Features(stores, {"text": captions, "image": pictures})


def model(seed: int = 0) -> Checkpoint:
    options = {"dim": 16, "heads": 2, "feedforward": 8, "parts": 2, "canonical": 0.0}
    return Checkpoint(
        make_method("dfe", SPECS, options, "info_nce", seed).eval(),
        name="dfe",
        loss="info_nce",
        encoders={name: EncoderSpec(kind="text", model="builtin") for name in SPECS},
        fingerprints=dict.fromkeys(SPECS, "f"),
    )


def ready(name: str, features: Features) -> tuple[Head, HeadBatch]:
    """A head before its first step, no weight of which is zero, and a batch of six groups."""
    from lightcrl.heads.spec import make_head

    space = model()
    head = make_head(name, space.space, spec_of(name).options)
    head.start(space.method)
    material = gather_material(space, features_of(head, features))
    for modality in head.modalities:
        head.fit(modality, material.features.store(modality).gather(np.arange(40)))
    head.prepare(material)
    with torch.no_grad():
        for number, parameter in enumerate(head.parameters()):
            parameter.add_(0.3 * randn(*parameter.shape, seed=number))
    rows = {modality: np.arange(6) * (2 if modality == "text" else 1) for modality in head.modalities}
    return head.eval(), material.batch(rows, dict.fromkeys(rows, np.arange(6)), head.sequences)


def changed(batch: HeadBatch, tokens: dict[str, TokenBatch]) -> HeadBatch:
    return HeadBatch(tokens, batch.embeddings, batch.groups, batch.rows, batch.done)


def some(batch: HeadBatch, index: list[int]) -> HeadBatch:
    """The groups of a batch at `index`."""
    return HeadBatch(
        {name: tokens.rows(torch.tensor(index)) for name, tokens in batch.tokens.items()},
        {name: vectors[index] for name, vectors in batch.embeddings.items()},
        {name: groups[index] for name, groups in batch.groups.items()},
        {name: rows[index] for name, rows in batch.rows.items()},
    )


@every_head
def test_its_loss_is_a_number_and_every_parameter_gets_a_gradient(name, features):
    head, batch = ready(name, features)
    torch.manual_seed(0)
    loss = head.train().loss(batch)
    assert loss.shape == ()
    loss.backward()
    for leaf, parameter in head.named_parameters():
        assert parameter.grad is not None, leaf
        assert parameter.grad.abs().max() > 0, leaf
    assert sum(head.parts().values()) == sum(parameter.numel() for parameter in head.parameters())


@every_head
def test_a_prediction_depends_on_its_own_items_alone(name, features):
    """Neither padding, nor what stands there, nor the other items of the batch matter."""
    head, batch = ready(name, features)
    expected = head(batch)
    assert expected.shape[0] == 6
    assert expected.std() > 0
    for garbage in GARBAGE:
        given = {modality: padded(tokens, 3, garbage) for modality, tokens in batch.tokens.items()}
        torch.testing.assert_close(head(changed(batch, given)), expected, atol=1e-5, rtol=1e-4)
    index = [4, 1, 3]
    torch.testing.assert_close(head(some(batch, index)), expected[index], atol=1e-5, rtol=1e-4)


@every_head
def test_it_reads_tokens_of_every_modality(name, features):
    head, batch = ready(name, features)
    expected = head(batch)
    for modality in set(head.modalities) - set(head.targets):
        tokens = batch.tokens[modality]
        given = dict(batch.tokens) | {modality: TokenBatch(tokens.values + 1.5 * tokens.values.flip(0), tokens.mask)}
        assert not torch.allclose(head(changed(batch, given)), expected, atol=1e-3), modality


@every_head
def test_the_loss_falls_in_training(name, features, tmp_path):
    losses: list[float] = []

    def note(event: Any) -> None:
        losses.extend([event["loss"]] if event["event"] == "step" else [])

    spec = spec_of(name, training=TRAINING | {"epochs": 8, "evaluate_every": 8, "learning_rate": 0.02})
    head = train_head(model(), name, spec, features, tmp_path, note)
    assert np.mean(losses[-8:]) < 0.95 * np.mean(losses[:8])
    assert all(np.isfinite(value) for value in head.figures["metrics"].values())


@every_head
def test_groups_set_apart_are_embedded_by_a_space_that_has_not_seen_them(name, features, tmp_path):
    base = model()
    spec = spec_of(name, apart=0.5, held_out=0.25, space_training={"epochs": 3, "batch_size": 10})
    if HEADS.load(name).coordinates:
        with pytest.raises(HeadError, match=r"apart is 0\.5; expected 0"):
            train_head(base, name, spec, features, tmp_path / "heads" / name)
        return
    head = train_head(base, name, spec, features, tmp_path / "heads" / name)
    (second,) = (tmp_path / "heads").glob("space-*")
    started = read_log(second)[0]
    assert (started["epochs"], started["batch_size"], started["steps"]) == (3, 10, 6)
    assert head.space == base.digest
    assert head.figures["split"] == "held out"
    # Another head sets the same groups apart, and uses the same second space.
    train_head(base, "other", spec.model_copy(update={"seed": 1}), features, tmp_path / "heads" / "other")
    assert len(list((tmp_path / "heads").glob("space-*"))) == 1


@every_head
def test_interrupted_it_resumes_as_if_nothing_had_happened(name, features, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    whole = train_head(model(), name, spec_of(name), features, tmp_path / "whole")

    def stop(event: Any) -> None:
        if event.get("step") == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_head(model(), name, spec_of(name), features, tmp_path / "stopped", stop)
    resumed = train_head(model(), name, spec_of(name), features, tmp_path / "stopped")
    assert resumed.digest == whole.digest
    assert resumed.figures["metrics"] == whole.figures["metrics"]


@every_head
def test_it_is_kept_beside_a_space_that_it_does_not_change(name, features, tmp_path):
    base = model()
    digest, state = base.digest, {leaf: tensor.clone() for leaf, tensor in base.method.state_dict().items()}
    base.heads[name] = train_head(base, name, spec_of(name), features, tmp_path / "training")
    base.save(tmp_path / "kept")
    again = load_folder(tmp_path / "kept")
    assert again.digest == base.digest == digest
    for leaf, tensor in again.method.state_dict().items():
        assert torch.equal(tensor, state[leaf])
    _, batch = ready(name, features)
    heads = [again.head(name), base.head(name)]
    for head in heads:
        head.attach(gather_material(base, features_of(head, features)))
    torch.testing.assert_close(heads[0](batch), heads[1](batch), atol=0, rtol=0)
    assert again.heads[name].parameters >= sum(again.head(name).parts().values()) > 0
    other = model(seed=1)
    other.heads = again.heads
    with pytest.raises(HeadError, match=f"was trained on the space {digest}"):
        other.head(name)


@every_head
def test_each_leaf_is_checked_where_the_head_is_needed_and_only_there(name, features, tmp_path):
    base = model()
    base.heads[name] = train_head(base, name, spec_of(name), features, tmp_path / "training")
    base.save(tmp_path / "kept")
    path = tmp_path / "kept" / f"head-{name}.safetensors"
    tensors = load_file(path)
    leaf = sorted(tensors)[0]
    save_file(tensors | {leaf: tensors[leaf] + 1}, path)
    with pytest.raises(CheckpointError, match=f"leaf '{leaf}' is"):
        load_folder(tmp_path / "kept").head(name)
    path.unlink()
    assert load_folder(tmp_path / "kept").digest == base.digest
    with pytest.raises(CheckpointError, match="missing or torn"):
        load_folder(tmp_path / "kept").head(name)
    config = tmp_path / "kept" / "config.json"
    config.write_text(config.read_text().replace(f'"kind": "{name}"', '"kind": "other"'))
    with pytest.raises(CheckpointError, match="changed by hand"):
        load_folder(tmp_path / "kept")


@every_head
def test_its_options_are_checked_by_name_and_do_not_change(name):
    with pytest.raises(RecipeError, match="widht"):
        parse(HeadSpec, {"kind": name, "widht": 3}, "heads")
    options = HEADS.load(name).Options()
    assert isinstance(options, HeadOptions)
    with pytest.raises(ValueError, match="frozen"):
        options.standardise = False


@every_head
def test_every_key_of_its_table_is_in_the_docs(name):
    text = "".join(
        (Path(__file__).parents[2] / "docs" / page).read_text() for page in ("heads.md", "captions.md", "imagine.md")
    )
    keys = {*HeadSpec.model_fields, *HEADS.load(name).Options.model_fields} - {"options"}
    assert not [key for key in sorted(keys) if f"`{key}`" not in text]
