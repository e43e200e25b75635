"""`lightcrl reproduce` in small: what it leaves, what it says, that nothing is done twice, and mistakes."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import lightcrl
from lightcrl.cli import app
from lightcrl.comparison import cells
from lightcrl.data.pairs import read_pairs
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.errors import DivergedError, TrainingError
from lightcrl.evaluation.retrieval import Retrieval
from lightcrl.evaluation.text_pairs import TextSimilarity
from lightcrl.features.embed import embed_split
from lightcrl.pipeline import prepare
from lightcrl.recipe import load_recipe
from lightcrl.reproduction import reproduce
from lightcrl.reproduction import run as run_module

RECIPE = """
[data]
path = "world/groups.jsonl"
dev_fraction = 0.3
columns = {columns}

[encoders.{a}]
kind = "{kind}"
model = "builtin"

[encoders.text]
kind = "text"
model = "builtin"

[features]
folder = "features"

[method]
dim = 32
feedforward = 32

[training]
epochs = 2
batch_size = 12
tensorboard = false
precision = "float32"
"""
FAMILY = """
name = "tiny"
about = "A world in small."
seeds = [0, 1]

[models]
DFE-1 = "dfe[fusion=addition]"
DFE-6 = "dfe[fusion=scaled_dot_product]"
conVIRT = "convirt[dim=16]"

[optional]
plain = "linear[dim=8]"

[recipes.pictures]
groups = 30

[recipes.texts]
file = "words.toml"

[tasks.retrieval]
task = "retrieval"
recipe = "pictures"
published = "flickr8k_retrieval"
ks = [5, 1, 1000]

[tasks.unseen]
task = "retrieval"
recipe = "pictures"
data = "other/groups.jsonl"

[tasks.shapes]
title = "Shapes"
task = "zero_shot"
recipe = "pictures"
data = "shapes/test"
templates = ["a picture of a {}."]
published = "cifar10_zero_shot"

[tasks.probe]
task = "linear_probe"
recipe = "pictures"
data = "shapes"
epochs = [20, 100]
published = "cifar100_linear_probe"

[tasks.pairs]
task = "text_similarity"
recipe = "texts"
data = "pairs.jsonl"
calibration = "train.jsonl"
published = "mrpc"

[tasks.scores]
task = "text_similarity"
recipe = "texts"
data = "scores.jsonl"
"""
WORDS = ("red circle", "blue square", "green star", "two red circles", "three blue stars", "a yellow ring")


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "160"})
    assert result.exit_code == code, result.output
    return result.output


def pairs(seed: int, count: int = 60) -> list[dict[str, object]]:
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        left, right = draw.choice(WORDS, 2)
        found.append({"text1": f"{left} {draw.integers(9)}", "text2": f"{right} {draw.integers(9)}", "same": left == right})
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A family of two recipes and six tasks, reproduced once."""
    folder = tmp_path_factory.mktemp("reproduce")
    write_table(folder / "world", 80, 0)
    write_table(folder / "other", 20, 5)
    for split, seed in (("train", 1), ("test", 2)):
        write_class_folder(folder / "shapes" / split, attribute="shape", per_class=4, seed=seed)
    for name, seed, truth in (("pairs", 0, "label"), ("train", 1, "label"), ("scores", 2, "score")):
        lines = [{"text1": one["text1"], "text2": one["text2"], truth: int(one["same"])} for one in pairs(seed)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    family = folder / "family"
    family.mkdir()
    for part in ("world", "other", "shapes", "pairs.jsonl", "train.jsonl", "scores.jsonl"):
        (family / part).symlink_to(folder / part)
    (family / "pictures.toml").write_text(RECIPE.format(columns="{}", a="image", kind="image"))
    (family / "words.toml").write_text(RECIPE.format(columns='{ other = "text" }', a="other", kind="text"))
    (family / "family.toml").write_text(FAMILY)
    output = call("reproduce", family, "--output", folder / "done")
    found = json.loads((folder / "done/reproduction.json").read_text())
    return SimpleNamespace(folder=folder, family=family, done=folder / "done", output=output, json=found)


def test_it_leaves(world):
    print(world.output)
    print((world.done / "reproduction.md").read_text())
    assert 0
