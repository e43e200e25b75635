"""mteb's figures on tasks in its own formats, against those of `lightcrl evaluate` on the same items."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import shelves
from lazily import Lazily
from lightcrl.cli import app
from lightcrl.data import DataSpec, load_dataset
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.errors import ModalityError, UnknownTaskError

bridge, mteb_tasks = Lazily("lightcrl.bridges.mteb"), Lazily("mteb_tasks")
pytestmark = pytest.mark.filterwarnings("ignore")
TASKS = ("text_to_image", "image_to_text", "zero_shot", "pairs")
SCORED = [
    "a red circle",
    "a blue square above a green ring",
    "two small stars",
    "a tone of a low bell",
    "red",
    "a ring",
]


def run(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.exception
    return result.output


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Any:
    """A model, data as `lightcrl evaluate` reads it, and the same as mteb reads it."""
    folder = tmp_path_factory.mktemp("mteb")
    embedder = shelves.make_embedder()
    # mteb rounds no feature to half precision.
    embedder.checkpoint.recipe = {"name": "shelf", "features": {"dtype": "float32"}}
    embedder.checkpoint.save(folder / "run/best")
    table = write_table(folder / "table", 40)
    classes = write_class_folder(folder / "classes", "shape", 4)
    rng = np.random.default_rng(0)
    texts = [(a, b) for a in SCORED for b in SCORED if a < b]
    scored = [{"text1": a, "text2": b, "score": float(rng.integers(0, 26)) / 5} for a, b in texts]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scored))

    tasks = folder / "tasks"
    data = load_dataset(DataSpec(path=str(table), dev_fraction=0.0), {"image": "image", "text": "text"})
    mteb_tasks.write_retrieval(tasks / "t2i", data, "text", "image")
    mteb_tasks.write_retrieval(tasks / "i2t", data, "image", "text")
    mteb_tasks.write_classes(tasks / "classes", classes)
    mteb_tasks.write_pairs(tasks / "pairs", scored)

    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(mteb_tasks.FOLDER, str(tasks))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        names = ",".join(f"mteb_tasks:{name}" for name in TASKS)
        output = run("mteb", folder / "run", "--tasks", names, "--json", folder / "mteb.json")
        found = json.loads((folder / "mteb.json").read_text())
        yield SimpleNamespace(
            folder=folder, embedder=embedder, table=table, classes=classes, output=output, found=found
        )


def evaluated(world: Any, task: str, *words: object) -> dict[str, float]:
    place = world.folder / f"{task}.json"
    run("evaluate", task, world.folder / "run", *words, "--features", world.folder / "features", "--json", place)
    return json.loads(place.read_text())["metrics"]


def scores(world: Any, name: str) -> dict[str, Any]:
    (result,) = [result for result in world.found["results"] if result["task_name"] == name]
    return result["scores"]["test"][0]


def test_retrieval_has_our_recall_as_its_hit_rate(world):
    ours = evaluated(world, "retrieval", "--data", world.table, "--image-column", "image", "--text-column", "text")
    for direction, task in (("text_to_image", "LocalTextToImage"), ("image_to_text", "LocalImageToText")):
        for k in (1, 5, 10):
            # mteb rounds figures of retrieval to five decimals.
            theirs, recall = scores(world, task)[f"hit_rate_at_{k}"], ours[f"{direction}/recall@{k}"]
            assert theirs == pytest.approx(round(recall, 5), abs=1e-6), (direction, k)
    # A picture has three captions: its first hit is a third of mteb's recall.
    theirs = scores(world, "LocalImageToText")
    assert theirs["recall_at_1"] == pytest.approx(theirs["hit_rate_at_1"] / 3, abs=1e-2)


def test_zero_shot_has_our_accuracy(world):
    ours = evaluated(world, "zero-shot", "--data", world.classes, "--template", mteb_tasks.PROMPT)
    assert scores(world, "LocalZeroShot")["accuracy"] == pytest.approx(ours["top1"], abs=1e-6)
    assert 0 < ours["top1"] < 1


def test_scored_pairs_have_our_correlations(world):
    ours = evaluated(world, "text-similarity", "--data", world.folder / "pairs.jsonl")
    theirs = scores(world, "LocalSTSB")
    assert theirs["cosine_spearman"] == pytest.approx(ours["aligned text-text/spearman"], abs=1e-6)
    assert theirs["cosine_pearson"] == pytest.approx(ours["aligned text-text/pearson"], abs=1e-6)


def test_results_lie_in_mtebs_files_and_are_read_the_second_time(world):
    folder = world.folder / "run/mteb/results/lightcrl__run" / world.embedder.fingerprint
    names = {path.stem for path in folder.glob("*.json")}
    assert {"LocalTextToImage", "LocalImageToText", "LocalZeroShot", "LocalSTSB", "model_meta"} <= names
    before = {path: path.stat().st_mtime_ns for path in folder.glob("Local*.json")}
    run("mteb", world.folder / "run", "--tasks", "mteb_tasks:pairs,mteb_tasks:zero_shot")
    assert {path: path.stat().st_mtime_ns for path in folder.glob("Local*.json")} == before
    meta = json.loads((folder / "model_meta.json").read_text())
    assert (meta["name"], meta["revision"], meta["embed_dim"]) == ("lightcrl/run", world.embedder.fingerprint, 16)
    assert meta["modalities"] == ["text", "image"]
    assert "LocalSTSB" in world.output
    assert "cosine_spearman" in world.output


def test_a_batch_of_pictures_with_texts_has_the_mean_of_both(world):
    encoder = bridge.MtebEncoder.of(world.embedder, "owner/name")
    picture = shelves.picture(world.folder / "a.png", 1)
    vectors = encoder.encode([{"text": ["red"], "image": [str(picture)]}])
    expected = world.embedder.encode(["red"], "text") + world.embedder.encode([picture], "image")
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected), atol=1e-6)
    assert encoder.similarity(vectors, vectors).item() == pytest.approx(1)
    assert bridge.describe(world.embedder, "owner/name").name == "owner/name"
    with pytest.raises(ModalityError, match="found a batch of video; this model takes text, image"):
        encoder.encode([{"video": [0]}])


def test_a_task_that_mteb_lacks_is_refused_with_its_advice(monkeypatch):

    def lacks(name: str) -> None:
        raise KeyError(f"{name!r} not found. Did you mean: 'STSBenchmark'?")

    # The real table of tasks takes seconds to load.
    monkeypatch.setattr(bridge.mteb, "get_task", lacks)
    monkeypatch.setattr(bridge.mteb, "get_benchmark", lacks)
    with pytest.raises(UnknownTaskError, match=r"mteb has no task 'STSBenchmrk': .*mean: 'STSBenchmark'"):
        bridge.find_tasks(["STSBenchmrk"])
    with pytest.raises(UnknownTaskError, match="mteb has no benchmark 'MTEB'"):
        bridge.find_tasks([], ["MTEB"])
