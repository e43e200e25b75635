"""The defaults matrix: every method with its default options, in every setting that a recipe can put it in.

Each cell trains two steps, is saved, loaded and embeds, or is refused before anything is encoded. By default every
method meets every way of training its encoders, while losses, data and tokens take turns so that each value meets
each method; `LIGHTCRL_MATRIX=all` runs the full product.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coloured
import lightcrl
from forked import ranks
from lightcrl.errors import TrainingError
from lightcrl.export import ExportedEmbedder, export_onnx
from lightcrl.losses import LOSSES
from lightcrl.methods import METHODS
from lightcrl.pipeline import run
from lightcrl.recipe import Recipe, make_recipe
from lightcrl.training.refusals import REFUSALS, Combination

TUNING: dict[str, dict[str, Any]] = {
    "frozen": {},
    "one tower": {"text": {"blocks": 1}},
    "two towers": {"image": {"blocks": 1}, "text": {"blocks": 1}},
    "lora": {"image": {"lora": 2}},
}
DATA = ("two", "three", "missing")
TOKENS = {"one": "mean", "slots": "cls+mean", "sequence": "cls+mean|all"}
CELLS = list(product(METHODS, TUNING, LOSSES, DATA, TOKENS))


def turns() -> list[tuple[str, str, str, str, str]]:
    """Every method with every tuning; the rest in turn, so that all of their pairs are met."""
    rest = list(product(LOSSES, DATA, TOKENS))
    # Seven shares no factor with the eighteen: all of them come before one comes again.
    return [(*pair, *rest[7 * number % len(rest)]) for number, pair in enumerate(product(METHODS, TUNING))]


CHOSEN = CELLS if os.environ.get("LIGHTCRL_MATRIX") == "all" else turns()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = coloured.write(tmp_path_factory.mktemp("defaults"))
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["other"] = row["text"]
        if number % 3 == 0:
            del row["text"]
        if number % 4 == 1:
            del row["other"]
    (place / "missing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def make(place: Path, method: str, tuning: str, loss: str, data: str, tokens: str) -> Recipe:
    """Nothing is set but what the cell is made of, and sizes that two steps take."""
    encoder = {"layers": [-1], "tokens": TOKENS[tokens]}
    encoders = {
        "image": {"kind": "image", "model": str(place / "vit"), **encoder},
        "text": {"kind": "text", "model": str(place / "bert"), **encoder},
    }
    columns = {}
    if data != "two":
        encoders["other"] = {"kind": "text", "model": str(place / "bert"), "layers": [-2], "tokens": "mean"}
        columns = {"other": "other" if data == "missing" else "text"}
    return make_recipe(
        {
            "name": "cell",
            "data": {
                "path": str(place / ("missing.jsonl" if data == "missing" else "pairs.jsonl")),
                "split_column": "split",
                "columns": {"image": "image", "text": "text", **columns},
            },
            "encoders": encoders,
            "features": {"folder": str(place / "features")},
            "method": {"name": method},
            "tuning": TUNING[tuning],
            "training": {"epochs": 1, "batch_size": 10, "items_per_group": 1, "loss": loss, "tensorboard": False},
        }
    )


def refused(method: str, tuning: str, loss: str) -> bool:
    combination = Combination(METHODS.load(method), tuple(TUNING[tuning]), loss=loss)
    return any(refusal.when(combination) for refusal in REFUSALS)


@pytest.mark.parametrize(("method", "tuning", "loss", "data", "tokens"), CHOSEN)
def test_a_cell_trains_is_saved_loaded_and_embeds_or_is_refused(place, tmp_path, method, tuning, loss, data, tokens):
    recipe = make(place, method, tuning, loss, data, tokens)
    events: list[Any] = []
    if refused(method, tuning, loss):
        with pytest.raises(TrainingError, match=r"needs whole batches.*Remove the \[tuning\]|no directions to weight"):
            run(recipe, output=tmp_path / "run", tell=events.append)
        assert events == []
        return
    done = run(recipe, output=tmp_path / "run", tell=events.append)
    assert all(np.isfinite(event["loss"]) for event in events if event["event"] == "step")
    assert np.isfinite(done.models[0].retrieval.metrics["mean_recall@1"])
    embedder = lightcrl.load(tmp_path / "run")
    items = {"image": [place / "0.png", place / "1.png"], "text": ["the red dog", "a cat"], "other": ["a bird", "roof"]}
    for modality in recipe.encoders:
        vectors = embedder.encode(items[modality], modality)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
        # Alone or beside others, an item's embedding is its own.
        np.testing.assert_allclose(embedder.encode(items[modality][:1], modality)[0], vectors[0], atol=1e-4)


def test_every_value_meets_every_method():
    for method in METHODS:
        for values in zip(*[cell[1:] for cell in turns() if cell[0] == method], strict=True):
            assert len(set(values)) >= 2
    for at, table in ((2, LOSSES), (3, DATA), (4, TOKENS)):
        assert {cell[at] for cell in turns()} == set(table)


EXPORTED = [("dfe", "one tower", "sequence")]  # the encoder of pictures is frozen
if os.environ.get("LIGHTCRL_MATRIX") == "all":
    EXPORTED += [(name, "frozen", tokens) for name in METHODS for tokens in TOKENS]


@pytest.mark.parametrize(("method", "tuning", "tokens"), EXPORTED)
def test_a_default_model_is_exported_as_it_embeds(place, tmp_path, method, tuning, tokens):
    run(make(place, method, tuning, "info_nce", "two", tokens), output=tmp_path / "run")
    embedder = lightcrl.load(tmp_path / "run")
    exported = ExportedEmbedder(export_onnx(embedder, tmp_path / "onnx", ["text", "image"]), threads=1)
    for name, items in {"text": ["the red dog"], "image": [place / "0.png"]}.items():
        np.testing.assert_allclose(exported.encode(items, name), embedder.encode(items, name), atol=1e-5)


TOGETHER = [("dfe", "one tower"), ("csa", "frozen")]
if os.environ.get("LIGHTCRL_MATRIX") == "all":
    TOGETHER += [(name, "frozen") for name in METHODS if name != "csa"]


@pytest.mark.parametrize(("method", "tuning"), TOGETHER)
def test_two_processes_train_a_default_or_refuse_it(place, tmp_path, method, tuning):
    recipe = make(place, method, tuning, "info_nce", "two", "sequence")
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    script = tmp_path / "program.py"
    script.write_text(
        "import json, sys\n"
        "from lightcrl.errors import LightCRLError\n"
        "from lightcrl.pipeline import run\n"
        "from lightcrl.recipe import make_recipe\n"
        "try:\n"
        f"    run(make_recipe(json.load(open({str(tmp_path / 'recipe.json')!r}))), output={str(tmp_path / 'run')!r})\n"
        "except LightCRLError as error:\n"
        "    sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    started = [
        subprocess.Popen([sys.executable, script], env={**os.environ, **job}, stderr=subprocess.PIPE, text=True)
        for job in ranks(2)
    ]
    said = [process.communicate(timeout=100)[1] for process in started]
    combination = Combination(METHODS.load(method), tuple(TUNING[tuning]), 2, "info_nce")
    if any(refusal.when(combination) for refusal in REFUSALS):
        assert re.search(r"^TrainingError: launched as 2 processes, but \w+ needs ", said[0], re.M)
        assert not (tmp_path / "run" / "log.jsonl").exists()
        return
    assert [process.returncode for process in started] == [0, 0], said
    assert lightcrl.load(tmp_path / "run").encode(["the red dog"], "text").shape[0] == 1


def test_the_table_of_refusals_in_the_docs_is_that_of_the_code():
    text = (Path(__file__).parents[2] / "docs/recipes.md").read_text(encoding="utf-8")
    section = text.split("### Refused combinations", 1)[1].split("\n#", 1)[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.M)[1:]
    worst = {name: Combination(METHODS.load(name), ("text",), 2, "sigmoid") for name in METHODS}
    assert rows == [
        (refusal.what, ", ".join(f"`{name}`" for name, given in worst.items() if refusal.when(given)))
        for refusal in REFUSALS
    ]
