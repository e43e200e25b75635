"""What earlier versions wrote is read for ever, and what scripts rely on does not change by accident.

`LIGHTCRL_GOLDEN=write pytest tests/test_golden.py` takes today's help texts and JSON keys as the new ones: the diff is
then what a reader of the change looks at. Files of a format are never written again (tests/golden/make.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import lightcrl
from golden import make
from lightcrl.checkpoint import load_folder
from lightcrl.cli import app
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.export import ExportedEmbedder
from lightcrl.features import FeatureStore
from lightcrl.index import Index, VectorIndex
from lightcrl.lineage import change
from lightcrl.studies.cells import read_cell
from recipes import SMALL_WORLD
from worlds import Digits, numbers

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("LIGHTCRL_GOLDEN") == "write"
STEPS = {"checkpoint-1-grown": [("added", ("text",))], "checkpoint-3-extended": [("replaced", ("text",))]}
CHECKPOINTS = sorted(path.name for path in GOLDEN.glob("checkpoint-*/"))


def snapshot(name: str, text: str) -> None:
    """Compare a text with the one kept, or keep it."""
    path = GOLDEN / name
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# --- files ---


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_of_every_format_loads_and_embeds_as_it_did(name):
    loaded = load_folder(GOLDEN / name)
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    for modality, vectors in expected.items():
        found = loaded.method(modality, make.tokens(modality))
        torch.testing.assert_close(found, torch.tensor(vectors), rtol=1e-4, atol=1e-5)
    assert loaded.fingerprints == {"image": "f1", "text": "f2"}
    assert loaded.figures["metrics"] == {"mean_recall@1": 0.25}
    assert [change(step) for step in loaded.lineage] == STEPS.get(name, [])
    assert set(loaded.towers) == ({"text"} if "towers" in name else set())


def test_the_first_kinds_of_checkpoint_are_all_here():
    assert set(make.checkpoints()) <= set(CHECKPOINTS)


def test_a_feature_store_is_read():
    store = FeatureStore(GOLDEN / "store-1")
    table = store.metadata()
    assert table.column_names == ["row", "item", "group", "split", "source"]
    assert store.rows == 12
    rows = dict(zip(table["item"].to_pylist(), table["row"].to_pylist(), strict=True))
    for item in numbers(12).items["text"]:
        np.testing.assert_array_equal(store.item(rows[item.key]), Digits().tokens(item.raw).astype("float16"))


@pytest.mark.parametrize("memory", [False, True])
def test_an_index_is_read_and_searched(memory):
    index = VectorIndex.open(GOLDEN / "index-1", memory=memory)
    hits = index.search(np.eye(4, dtype=np.float32)[[1, 2]], k=1)
    assert hits.ids == [["b's"], ["ü"]]
    assert hits.scores.tolist() == [[1.0], [1.0]]


def test_an_index_of_items_is_read_searched_and_added_to(tmp_path):
    shutil.copytree(GOLDEN / "index-2", tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert (len(index), index.counts(), index.info()["removed"]) == (3, {"image": 3}, 1)
    hits = index.search_vectors(np.eye(4, dtype=np.float32)[[1, 3]], k=2, where="year > 2000")
    assert [[(hit.id, hit.score) for hit in row] for row in hits] == [
        [("b's", 1.0), ("ü", 0.0)], [("b's", 0.0), ("ü", 0.0)]
    ]  # fmt: skip
    assert index.get("a").metadata == {"year": 2000, "note": None}
    index.add_vectors(["e"], np.eye(4)[3:], "image", fingerprint=index.fingerprint)
    index.compact()
    assert [hit.id for hit in index.search_vectors(np.eye(4)[3:], 1)[0]] == ["e"]


def test_a_cell_of_a_comparison_is_read():
    cell = read_cell(GOLDEN / "cell-1", "measured")
    assert cell is not None
    assert (cell.seed, cell.groups, cell.parameters, cell.dev) == (1, 3, 40, 0.5)
    assert cell.figures["mean_recall@1"] == pytest.approx((1 + 0 + 5 / 6) / 3)  # first, second, tied
    assert read_cell(GOLDEN / "cell-1", "of something else") is None


def test_an_export_is_opened_and_gives_its_models_vectors():
    embedder, exported = make.builtin_embedder(), ExportedEmbedder(GOLDEN / "onnx-1", threads=1)
    assert (exported.dim, exported.modalities) == (4, {"image": "image"})
    picture = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    np.testing.assert_allclose(exported.encode([picture], "image"), embedder.encode([picture], "image"), atol=1e-5)


def test_names_that_files_hold_are_literals():
    from lightcrl.methods.classifier import NAME
    from lightcrl.tasks.base import TASKS

    assert NAME == "lightcrl.methods.classifier:Classifier"
    assert {name: TASKS.load(name).name for name in TASKS} == {
        "retrieval": "RetrievalTask",
        "zero_shot": "ZeroShotTask",
        "linear_probe": "LinearProbeTask",
        "fine_tuning": "FineTuningTask",
        "text_similarity": "TextSimilarityTask",
        "captioning": "CaptioningTask",
        "prior": "PriorTask",
    }


# --- the command line ---


def commands(command: Any, words: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Name of its file to the words of each command, groups included."""
    below = getattr(command, "commands", {}).items()
    found = {"-".join(("lightcrl", *words)): words}
    for name, inner in below:
        found |= commands(inner, (*words, name))
    return found


COMMANDS = commands(typer.main.get_command(app))
LAYOUT = dict(re.findall(r"^(typer|rich)==(.+)$", (GOLDEN.parents[1] / "constraints.txt").read_text(), re.M))


@pytest.mark.skipif(
    {name: version(name) for name in LAYOUT} != LAYOUT, reason=f"other versions have another layout than {LAYOUT}"
)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_is_the_one_kept(name):
    result = CliRunner().invoke(
        app, [*COMMANDS[name], "--help"], env={"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    )
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.output.splitlines()]
    snapshot(f"help/{name}.txt", "\n".join(lines).strip() + "\n")


# --- JSON ---


def keys(value: Any, place: str = "") -> set[str]:
    """Every path of keys in a JSON value; members of a list share one."""
    if isinstance(value, dict):
        return {path for key, inner in value.items() for path in keys(inner, f"{place}.{key}" if place else key)} | (
            {place} if not value else set()
        )
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return {path for inner in value for path in keys(inner, f"{place}[]")}
    return {place}


RECIPE = (
    SMALL_WORLD
    + """
[method]
dim = 8
heads = 2
feedforward = 8
[training]
epochs = 1
tensorboard = false
[evaluation]
zero_shot = { data = "shapes" }
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    write_table(folder / "world", 100, 0)
    write_class_folder(folder / "shapes", attribute="shape", per_class=2, seed=1)
    (folder / "small.toml").write_text(RECIPE)
    lightcrl.run(folder / "small.toml", output=folder / "run")
    return folder


def test_keys_of_a_runs_json_are_those_kept(folder):
    for name in ("metrics.json", "recipe.json", "best/config.json"):
        found = keys(json.loads((folder / "run" / name).read_text()))
        # Tensors are the method's own affair.
        found = {path for path in found if not path.startswith("tensors.")}
        snapshot(f"keys/{name.replace('/', '-')}.txt", "\n".join(sorted(found)) + "\n")


def test_keys_of_the_log_are_those_kept(folder):
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    by_event: dict[str, set[str]] = {}
    for line in lines:
        by_event.setdefault(str(line.get("event")), set()).update(line)
    text = "\n".join(f"{event}: {', '.join(sorted(found))}" for event, found in sorted(by_event.items()))
    snapshot("keys/log.jsonl.txt", text + "\n")


@pytest.mark.parametrize("task", ["retrieval", "zero_shot"])
def test_keys_of_an_evaluations_json_are_those_kept(folder, task):
    data = folder / ("world/groups.jsonl" if task == "retrieval" else "shapes")
    out = folder / f"{task}.json"
    words = ["evaluate", task.replace("_", "-"), str(folder / "run"), "--data", str(data), "--json", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    snapshot(f"keys/evaluate-{task}.txt", "\n".join(sorted(keys(json.loads(out.read_text())))) + "\n")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("info", ["run"]),
        ("check", ["small.toml", "--sample", "60"]),
        ("compare", ["small.toml", "--methods", "dfe,linear", "--seeds", "1", "--no-tune"]),
    ],
)
def test_keys_of_a_commands_json_are_those_kept(folder, command, words, monkeypatch):
    monkeypatch.chdir(folder)  # a comparison lies below the current folder by default
    out = folder / f"{command}.json"
    place, *more = words
    result = CliRunner().invoke(app, [command, str(folder / place), *more, "--json", str(out)])
    assert result.exit_code == 0, result.output
    found = {path for path in keys(json.loads(out.read_text())) if not path.startswith("tensors.")}
    snapshot(f"keys/{command}.txt", "\n".join(sorted(found)) + "\n")
