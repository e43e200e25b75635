"""Two commands at the same time: of two runs into one folder one is refused, and work that both need is done once."""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lightcrl
from forked import COMMAND, Program
from lightcrl import pipeline
from lightcrl.checkpoint import load_folder
from lightcrl.errors import LockedError, StoreError
from lightcrl.features import FeatureStore, extract
from lightcrl.files.locks import HOLDER, LOCK, holder, in_turn, only_writer
from lightcrl.index import VectorIndex
from lightcrl.recipe import make_recipe
from lightcrl.studies.reproduce import reproduce
from lightcrl.tokens import TokenBatch
from lightcrl.training.log import read_log
from worlds import Digits, numbers

RECIPE = """
[data]
path = "texts.jsonl"
key = "thing"
columns = { large = "text", small = "text" }
dev_fraction = 0.25

[encoders.large]
kind = "text"
model = "builtin"
options = { dim = 64 }

[encoders.small]
kind = "text"
model = "builtin"
options = { dim = 32 }

[features]
folder = "features"

[method]
name = "linear"
dim = 16

[training]
epochs = 3
batch_size = 6
precision = "float32"
tensorboard = false
"""
START = f"""
import os, sys, time
sys.path[:0] = {[str(Path(lightcrl.__file__).parents[1]), str(Path(__file__).parent)]!r}
from pathlib import Path
folder, name = Path(sys.argv.pop(1)), sys.argv.pop(1)
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)
def meet():
    (folder / f"ready-{{name}}").touch()
    wait_for("ready-one")
    wait_for("ready-two")
"""
# It stops in the midst of its training until a file `go` is there.
HALTING = """
from lightcrl.cli import main
from lightcrl.training.gradient import Stepper
done, calls = Stepper.backward, []
def backward(*given):
    calls.append(1)
    if len(calls) == 3:
        wait_for("go")
    return done(*given)
Stepper.backward = backward
main()
"""
ENCODE = """
from lightcrl.features import extract
from worlds import Digits, numbers
encoder, data = Digits(pause=0.02), numbers(300)
meet()
events = []
done = extract(encoder, data, "text", folder / "features", tell=events.append)
(folder / f"{name}.json").write_text(__import__("json").dumps([encoder.calls, done.encoded, done.kept, events]))
print(done.store.folder)
"""
COMPARE = """
sys.modules["matplotlib"] = None  # no page
import lightcrl.report.console
from lightcrl.cli import main
meet()
main()
"""
INDEX = """
import numpy as np
from lightcrl.index import VectorIndex
write = VectorIndex._write
def slow(*given):
    time.sleep(0.1)
    write(*given)
VectorIndex._write = slow
number = ("one", "two").index(name)
vectors = np.zeros((20_000, 32), "float32")
vectors[:, number] = 1
index, events = VectorIndex(vectors, np.arange(len(vectors)) + number * 100_000), []
meet()
for _ in range(4):
    index.save(folder / "index", events.append)
print(len(events))
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    rows = [
        {"thing": f"{colour} {thing}", "text": form.format(colour, thing)}
        for colour in ("red", "blue", "green", "black")
        for thing in ("circle", "house", "bird", "river", "stone", "train")
        for form in ("a {} {}", "the {1} is {0}", "one small {} {}")
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "small.toml").write_text(RECIPE)
    return tmp_path


def start(text: str, folder: Path, name: str, *words: object) -> Program:
    return Program(START + text, folder, name, *words, cwd=folder, COLUMNS="300")


def steps(log: list[dict[str, Any]]) -> list[int]:
    return [event["step"] for event in log if event["event"] == "step"]


def both(text: str, folder: Path, *words: object) -> list[str]:
    """What two processes print that do the same at the same time."""
    started = [start(text, folder, name, *(str(word).format(name) for word in words)) for name in ("one", "two")]
    said = [process.communicate(timeout=100) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return [output for output, _ in said]


def until(done: Callable[[], bool], process: Program) -> None:
    while not done():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_a_run_succeeds_a_killed_one_and_a_third_into_its_folder_is_refused(world):
    first = start(HALTING, world, "one", "run", "small.toml", "--output", "out")
    until(lambda: (world / "out" / "log.jsonl").exists(), first)
    first.kill()
    first.communicate()
    assert (world / "out" / LOCK).exists()
    second = start(HALTING, world, "two", "run", "small.toml", "--output", "out")
    until(lambda: (known := holder(world / "out")) is not None and known.pid == second.pid, second)
    words = ("run", "small.toml", "--output", "out", "--set", "training.epochs=5")
    third = start(COMMAND, world, "three", *words)
    output, error = third.communicate(timeout=60)
    assert (third.returncode, output.strip()) == (1, "")
    assert error.startswith(f"error: {world / 'out'} is being written by process {second.pid} on ")
    assert "(-c run small.toml --output out). Wait for it to end, or choose another folder with --output." in error
    assert len(error.splitlines()) == 1
    (world / "go").touch()
    output, error = second.communicate(timeout=60)
    assert (second.returncode, error) == (0, "")
    log = read_log(world / "out")
    assert steps(log) == list(range(18))
    looks = [event["dev_mean_recall@1"] for event in log if event["event"] == "evaluation"]
    assert len(looks) == 3
    assert json.loads((world / "out" / "recipe.json").read_text())["training"]["epochs"] == 3
    metrics = json.loads((world / "out" / "metrics.json").read_text())["models"][0]["retrieval"]["metrics"]
    assert load_folder(world / "out" / "best").figures["metrics"] == metrics
    assert metrics["mean_recall@1"] == pytest.approx(max(looks))
    assert not {LOCK, HOLDER} & {path.name for path in (world / "out").iterdir()}


def test_only_the_main_process_of_a_job_holds_the_folder(tmp_path, monkeypatch):
    """Else the processes of one job would refuse each other."""
    done = []
    monkeypatch.setattr(pipeline, "_run", lambda recipe, tell: done.append(holder(recipe.folder)))
    recipe = make_recipe({**tomllib.loads(RECIPE), "name": "small", "output": str(tmp_path)})
    pipeline.run(recipe)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        pipeline.run(recipe)
    assert [known and known.pid for known in done] == [os.getpid(), os.getpid(), None]


def test_a_reproduction_into_a_folder_that_is_written_is_refused(tmp_path):
    family = Path(__file__).parents[1] / "recipes" / "paper"
    with only_writer(tmp_path), pytest.raises(LockedError, match=f"^{tmp_path} is being written by process"):
        reproduce(family, output=tmp_path)


def test_a_store_on_an_object_store_is_locked_by_its_local_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTCRL_CACHE", str(tmp_path))
    mirror, seen = tmp_path / "mirror" / "memory" / tmp_path.name, []

    class Watching(Digits):
        def encode(self, prepared: Sequence[Any]) -> TokenBatch:
            seen.extend(holder(folder) for folder in mirror.iterdir())
            return super().encode(prepared)

    extract(Watching(), numbers(5), "text", f"memory://{tmp_path.name}")
    assert [known and known.pid for known in seen] == [os.getpid()]
    assert not list(mirror.rglob(LOCK))


def test_a_store_that_two_processes_want_is_encoded_once(tmp_path):
    one, two = both(ENCODE, tmp_path)
    assert one == two
    found = sorted(json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    (nothing, encoded, kept, waited), (calls, all_encoded, none_kept, events) = found
    assert (nothing, encoded, kept) == ([], 0, 300)
    assert (len(calls), len(set(calls)), all_encoded, none_kept, events) == (300, 300, 300, 0, [])
    assert [(event["event"], event["folder"]) for event in waited] == [("waiting", one.strip())]
    assert FeatureStore(one.strip()).rows == 300


def test_cells_that_two_comparisons_share_are_trained_once(world):
    words = (
        "compare",
        "small.toml",
        "--methods",
        "linear,convirt[dim=16]",
        "--no-tune",
        "--seeds",
        2,
        "--set",
        "training.epochs=1",
    )
    said = both(COMPARE, world, *words, "--output", "out", "--json", "{}.json")
    results = [json.loads((world / f"{name}.json").read_text()) for name in ("one", "two")]
    for result in results:
        for method in result["methods"]:
            method.pop("seconds", None)
    assert results[0] == results[1]
    logs = [read_log(path) for path in (world / "out" / "cells").glob("*")]
    assert len(logs) == 4
    for log in logs:
        assert steps(log) == list(range(6))
    # Every cell was trained by one of them, and what the other one waited for it says.
    assert sum(output.count("trained ") for output in said) == 4
    assert "waiting for process" in "".join(said)
    assert not list((world / "out").rglob(f"{LOCK}*"))


def test_an_index_that_is_being_written_is_not_called_missing(tmp_path):
    with (
        in_turn(tmp_path),
        pytest.raises(StoreError, match=rf"is being written by process {os.getpid()} on .*\. Open it"),
    ):
        VectorIndex.open(tmp_path)
    with pytest.raises(StoreError, match="no index in"):
        VectorIndex.open(tmp_path)


def test_an_index_that_two_processes_write_is_one_of_theirs(tmp_path):
    waited = [int(output) for output in both(INDEX, tmp_path)]
    assert sum(waited) > 0
    index = VectorIndex.open(tmp_path / "index", memory=True)
    first = index.ids[0].as_py()
    assert first in (0, 100_000)
    assert index.ids.to_pylist() == list(range(first, first + 20_000))
    expected = torch.from_numpy(np.eye(32, dtype="float32")[np.full(20_000, int(first > 0))])
    assert torch.equal(index.vectors, expected)
