"""`recipes/paper` from end to end: the formats of its data sets on the hub, tiny, and tiny models under its ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from typer.testing import CliRunner

import tiny
from lightcrl.cli import app

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
WORDS = tiny.VOCABULARY.split()
TEXT, NUMBER = Value("string"), Value("int64")


def picture(seed: int) -> Any:
    return tiny.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def caption(seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, 5))


def table(features: dict[str, Any], rows: list[tuple[Any, ...]]) -> Dataset:
    columns = {name: [row[place] for row in rows] for place, name in enumerate(features)}
    return Dataset.from_dict(columns, Features(features))


def coco(first: int, count: int) -> Dataset:
    features = {"image": Image(), "filename": TEXT, "cocoid": Value("int32"), "caption": TEXT}
    return table(
        features,
        [
            (picture(n), f"COCO_{n:012}.jpg", n, caption(5 * n + c))
            for n in range(first, first + count)
            for c in range(5)
        ],
    )


def labelled(features: dict[str, Any], names: int, per_class: int, seed: int) -> Dataset:
    """Pictures with the place of their class in every column of labels."""
    numbers = [(label, seed + 100 * label + copy) for label in range(names) for copy in range(per_class)]
    rows = [
        tuple(picture(number) if isinstance(kind, Image) else label % kind.num_classes for kind in features.values())
        for label, number in numbers
    ]
    return table(features, rows)


def glue(columns: tuple[str, str], label: Any, truth: list[Any], seed: int) -> Dataset:
    features = {columns[0]: TEXT, columns[1]: TEXT, "label": label, "idx": Value("int32")}
    return table(features, [(caption(seed + n), caption(seed + n + 50), value, n) for n, value in enumerate(truth)])


def hub(name: str, configuration: str | None = None, **options: Any) -> DatasetDict:
    """The data set of an id, as it is laid out on the hub."""
    same = [0, 1] * 6
    if name == "jxie/coco_captions":
        return DatasetDict(train=coco(0, 24), validation=coco(100, 8), test=coco(200, 8))
    if name == "ariG23498/flickr8k":
        features = {"image": Image(), "caption": TEXT}
        return DatasetDict(train=table(features, [(picture(900 + n // 5), caption(n)) for n in range(40)]))
    if name == "uoft-cs/cifar10":
        features = {"img": Image(), "label": ClassLabel(names=["airplane", "automobile", "bird"])}
        return DatasetDict(train=labelled(features, 3, 4, 0), test=labelled(features, 3, 3, 50))
    if name == "uoft-cs/cifar100":
        fine, coarse = ClassLabel(names=["apple", "aquarium_fish", "baby"]), ClassLabel(names=["fish", "fruit"])
        features = {"img": Image(), "fine_label": fine, "coarse_label": coarse}
        return DatasetDict(train=labelled(features, 3, 4, 0), test=labelled(features, 3, 3, 50))
    if name == "zh-plus/tiny-imagenet":
        features = {"image": Image(), "label": ClassLabel(names=["n01443537", "n01629819"])}
        return DatasetDict(train=labelled(features, 2, 6, 0), valid=labelled(features, 2, 3, 50))
    assert name == "nyu-mll/glue", name
    columns, label, withheld = {
        "mrpc": (("sentence1", "sentence2"), ClassLabel(names=["not_equivalent", "equivalent"]), False),
        "qqp": (("question1", "question2"), ClassLabel(names=["not_duplicate", "duplicate"]), True),
        "stsb": (("sentence1", "sentence2"), Value("float32"), True),
    }[str(configuration)]
    truth = [0.2 + 0.4 * n for n in range(12)] if configuration == "stsb" else same
    hidden = [-1] * 12 if withheld else truth
    parts = {"train": (truth, 0), "validation": (truth, 200), "test": (hidden, 400)}
    return DatasetDict({split: glue(columns, label, values, seed) for split, (values, seed) in parts.items()})


def roberta(folder: Path) -> Path:
    from transformers import RobertaConfig

    words = tiny.tokenizer("<s>", "</s>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", cls_token="<s>")
    places = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 3, "max_position_embeddings": 26}
    return tiny.save(folder, RobertaConfig(vocab_size=40, **places, **tiny.WIDE, **tiny.DROP), words)


MODELS = {
    "google/vit-base-patch16-224": tiny.vit,
    "google-bert/bert-base-uncased": tiny.bert,
    "FacebookAI/roberta-base": roberta,
}


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """The hub's cache with the models, as a download leaves it, and its data sets."""
    for model, save in MODELS.items():
        root = tmp_path / "hub" / f"models--{model.replace('/', '--')}"
        save(root / "snapshots" / ("0" * 40))
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    monkeypatch.setenv("LIGHTCRL_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("offline_hub")
def test_the_papers_family_runs_from_its_ids_to_its_tables(tmp_path):
    """Two of its models for one epoch: every id, column, split and task of the recipes is gone through."""
    shutil.copytree(PAPER, tmp_path / "paper")
    lines = [{"image": f"{n // 5}.jpg", "caption": caption(n)} for n in range(150)]
    (tmp_path / "paper/captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    family = tmp_path / "paper/family.toml"
    family.write_text(family.read_text().replace("training = { epochs = 100 }", "training = { epochs = 5 }"))
    settings = ["training.epochs=1", "training.tensorboard=false", f"features.folder={tmp_path}/features"]
    words = ["reproduce", str(tmp_path / "paper"), "--models", "DFE-1,conVIRT", "--seeds", "1"]
    words += ["--output", str(tmp_path / "done"), *(word for each in settings for word in ("--set", each))]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    done = json.loads((tmp_path / "done/reproduction.json").read_text())
    assert done["finished"]
    assert [len(models) for models in (recipe["models"] for recipe in done["recipes"].values())] == [2, 2]
    assert not any(recipe["failed"] for recipe in done["recipes"].values())
    figures = {name: task["figures"]["DFE-1"] for name, task in done["tasks"].items()}
    assert list(figures) == ["flickr8k", "cifar10", "cifar100", "tiny_imagenet", "mrpc", "qqp", "stsb"]
    assert set(figures["flickr8k"]) == {"image_to_text", "text_to_image"}
    assert set(figures["flickr8k"]["image_to_text"]) == {"precision@1", "precision@10"}
    assert set(figures["cifar10"]["embedding"]) == {"top1", "top2", "top3"}
    assert done["tasks"]["cifar100"]["units"] == "9 items"
    assert "epoch5/top1" in figures["tiny_imagenet"]["embedding"]
    assert {"accuracy", "similar/f1"} <= set(figures["qqp"]["aligned bert-roberta"])
    assert set(figures["stsb"]["aligned bert-bert"]) == {"spearman", "pearson"}
    # The published tables stand beside, and the labels that GLUE withholds were not taken for truth.
    assert done["tasks"]["mrpc"]["published"]["rows"]["DFE-2"][0] == 70.09
    assert done["tasks"]["qqp"]["units"] == "12 pairs"
