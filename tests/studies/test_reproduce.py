"""`lightcrl reproduce` in small: what it leaves, what it says, that nothing is done twice, and mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

import lightcrl
from lightcrl.cli import app
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.errors import DivergedError, TrainingError
from lightcrl.features.embed import embed_split
from lightcrl.features.spec import FeaturesSpec
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.pipeline import prepare
from lightcrl.recipe import load_recipe
from lightcrl.studies import cells
from lightcrl.studies.reproduce import load_family, reproduce
from lightcrl.studies.reproduce import run as run_module
from lightcrl.studies.reproduce.family import choose
from lightcrl.studies.reproduce.outcome import remarks
from lightcrl.tasks.base import Setting
from lightcrl.tasks.linear_probe import LinearProbeSpec, LinearProbeTask
from lightcrl.tasks.retrieval import RetrievalSpec, RetrievalTask
from lightcrl.tasks.text_similarity import TextSimilaritySpec, TextSimilarityTask
from lightcrl.tasks.zero_shot import ZeroShotSpec, ZeroShotTask
from samples import bare

RECIPE = """
[data]
path = "world/groups.jsonl"
dev_fraction = 0.3
columns = {columns}

[encoders.{a}]
kind = "{kind}"
model = "builtin"
options = {options}

[encoders.text]
kind = "text"
model = "builtin"
options = {{ dim = 64 }}

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
DFE-1 = "dfe[fusion=addition,canonical=0]"
DFE-6 = "dfe[fusion=scaled_dot_product,canonical=0]"
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
measures = ["precision"]
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
logistic = false
epochs = [20, 100]
published = "cifar100_linear_probe"

[tasks.tuned]
task = "fine_tuning"
recipe = "pictures"
data = "shapes"
training = { epochs = 5, tensorboard = false }
published = "tiny_imagenet_fine_tuning"

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
        found.append(
            {"text1": f"{left} {draw.integers(9)}", "text2": f"{right} {draw.integers(9)}", "same": left == right}
        )
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
    pictures = {"columns": "{}", "a": "image", "kind": "image", "options": "{ size = 48, grid = 2 }"}
    words = {"columns": '{ other = "text" }', "a": "other", "kind": "text", "options": "{ dim = 64 }"}
    (family / "pictures.toml").write_text(RECIPE.format(**pictures))
    (family / "words.toml").write_text(RECIPE.format(**words))
    (family / "family.toml").write_text(FAMILY)
    output = call("reproduce", family, "--output", folder / "done")
    found = json.loads((folder / "done/reproduction.json").read_text())
    return SimpleNamespace(folder=folder, family=family, done=folder / "done", output=output, json=found)


def cell_folders(world, recipe: str, label: str) -> list:
    cells = world.json["recipes"][recipe]["models"][label]
    return [world.done / recipe / "cells" / cell["folder"] for cell in cells]


def setting(world, name: str):
    recipe = load_recipe(world.family / name)
    features, encoders, _ = prepare(recipe)
    return recipe, features, encoders


def by_seed(world, task: str, label: str, space: str, measure: str) -> list[float]:
    return world.json["tasks"][task]["figures"][label][space][measure]["by_seed"]


def test_it_leaves_tables_and_cells(world):
    written = {"reproduction.json", "reproduction.md", "retrieval.svg", "unseen.svg"}
    assert {path.name for path in world.done.iterdir()} == {"pictures", "texts"} | written
    assert world.json["finished"]
    assert world.json["seeds"] == [0, 1]
    assert world.json["models"]["DFE-6"]["published_as"] == "DFE-6"
    assert list(world.json["tasks"]) == ["retrieval", "unseen", "shapes", "probe", "tuned", "pairs", "scores"]
    for name in ("pictures", "texts"):
        assert len(list((world.done / name).glob("cells/*/cell.json"))) == 6
    assert {cell["groups"] for cells in world.json["recipes"]["pictures"]["models"].values() for cell in cells} == {30}
    for task in world.json["tasks"].values():
        for spaces in task["figures"].values():
            for figures in spaces.values():
                for measure, found in figures.items():
                    least = -1 if measure in ("spearman", "pearson") else 0
                    assert found["mean"] == pytest.approx(np.mean(found["by_seed"]))
                    for interval in ("items", "both"):
                        assert least <= found[interval][0] <= found["mean"] + 1e-9
                        assert found["mean"] - 1e-9 <= found[interval][1] <= 1


def test_precision_is_that_of_the_models_on_their_split_and_on_unseen_groups(world):
    _, features, _ = setting(world, "pictures.toml")
    for folder, seed in zip(cell_folders(world, "pictures", "DFE-1"), (0, 1), strict=True):
        vectors, links = embed_split(lightcrl.load_checkpoint(folder).method, features, features.split("dev"))
        for direction, curve in Retrieval(links).curves(vectors).items():
            for k in (1, 5):
                wanted = curve["precision"][curve["k"].index(k)]
                found = by_seed(world, "retrieval", "DFE-1", direction, f"precision@{k}")[seed]
                assert found == pytest.approx(wanted, abs=1e-6)
    measured = world.json["tasks"]["retrieval"]["figures"]["DFE-1"]["image_to_text"]
    # A gallery without a thousand items has no precision over the first thousand.
    assert list(measured) == ["precision@1", "precision@5"]
    embedder = lightcrl.load(cell_folders(world, "pictures", "conVIRT")[1])
    encoders = {name: embedder.encoder(name) for name in embedder.modalities}
    unseen = RetrievalSpec(data=str(world.folder / "other/groups.jsonl"))
    features = FeaturesSpec(folder=str(world.folder / "more"))
    wanted = RetrievalTask.prepare(unseen, Setting(encoders, features)).evaluate(embedder.checkpoint)
    found = by_seed(world, "unseen", "conVIRT", "image_to_text", "precision@1")[1]
    assert found == pytest.approx(wanted.metrics["image_to_text/recall@1"], abs=1e-6)


def test_classes_probes_and_pairs_are_those_of_the_evaluations(world):
    recipe, _, encoders = setting(world, "pictures.toml")
    spec = ZeroShotSpec(data=str(world.family / "shapes/test"), templates=("a picture of a {}.",))
    surroundings = Setting(encoders, recipe.features)
    shapes = ZeroShotTask.prepare(spec, surroundings)
    probe = LinearProbeTask.prepare(LinearProbeSpec(data=str(world.family / "shapes")), surroundings)
    method = lightcrl.load_checkpoint(cell_folders(world, "pictures", "DFE-6")[1]).method
    for name, value in shapes.evaluate(bare(method)).metrics.items():
        assert by_seed(world, "shapes", "DFE-6", "embedding", name)[1] == pytest.approx(value, abs=1e-6)
    probe = replace(probe, spec=LinearProbeSpec(data="shapes", epochs=(20, 100)))
    wanted = probe.evaluate({"DFE-6": bare(method)}).metrics
    for epoch in (20, 100):
        name = f"epoch{epoch}/top1"
        assert by_seed(world, "probe", "DFE-6", "embedding", name)[1] == pytest.approx(wanted[f"DFE-6/{name}"])
        assert by_seed(world, "probe", "raw", "raw image", name) == [pytest.approx(wanted[f"raw image/{name}"])]
    # Fine-tuning has left its classifiers beside the models, and their accuracy after each fifth of the epochs.
    (tuned,) = (cell_folders(world, "pictures", "conVIRT")[0] / "tasks").glob("tuned-*/")
    pictures = sorted((world.family / "shapes/test").rglob("*.png"))
    classes = sorted({path.parent.name for path in pictures})
    last = lightcrl.load(tuned / "last").encode(pictures, "image").argmax(1)
    hit = [classes[found] == path.parent.name for found, path in zip(last, pictures, strict=True)]
    assert by_seed(world, "tuned", "conVIRT", "embedding", "epoch5/top1")[0] == pytest.approx(np.mean(hit))
    assert list(world.json["tasks"]["tuned"]["figures"]["DFE-1"]["embedding"]) == [
        "top1",
        *(f"epoch{n}/top1" for n in range(1, 6)),
    ]
    recipe, _, encoders = setting(world, "words.toml")
    method = lightcrl.load_checkpoint(cell_folders(world, "texts", "conVIRT")[0]).method
    for task, given in (("pairs", ("pairs.jsonl", "train.jsonl")), ("scores", ("scores.jsonl", None))):
        places = [None if name is None else str(world.family / name) for name in given]
        given = TextSimilaritySpec(data=places[0], calibration=places[1])
        prepared = TextSimilarityTask.prepare(given, Setting(encoders, recipe.features))
        wanted = prepared.evaluate(bare(method)).metrics
        for space in ("aligned other-other", "aligned other-text", "raw text"):
            label = "raw" if space.startswith("raw") else "conVIRT"
            for name in world.json["tasks"][task]["figures"][label][space]:
                assert by_seed(world, task, label, space, name)[0] == pytest.approx(wanted[f"{space}/{name}"])


def test_precision_is_drawn_for_every_model(world):
    drawn = ElementTree.parse(world.done / "retrieval.svg").getroot()
    words = {"".join(text.itertext()).strip() for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"DFE-1", "DFE-6", "conVIRT", "image → text", "text → image", "precision"} <= words
    assert (world.done / "unseen.svg").exists()
    assert not (world.done / "shapes.svg").exists()


def test_published_figures_stand_beside(world):
    text = (world.done / "reproduction.md").read_text()
    shapes = world.json["tasks"]["shapes"]["figures"]["DFE-1"]["embedding"]
    low, high = shapes["top5"]["both"]
    assert f"{100 * shapes['top5']['mean']:.1f} ({100 * low:.1f}–{100 * high:.1f}) |\n| *published: DFE-1* |" in text
    assert "| *published: DFE-1* | *78.26* | *88.69* | *92.50* | *94.87* | *96.48* |" in text
    # Of the probe's epochs those alone that were measured.
    assert "| *published: conVIRT* | *55.67* | *62.71* |" in text
    assert "| *published: BERT* | *64.21* |" in text
    assert world.json["tasks"]["pairs"]["published"]["rows"]["DFE-2"][0] == 70.09
    assert world.json["tasks"]["scores"]["published"] is None
    for line in ("Seeds 0, 1.", "Models of pictures are trained on 30 groups, drawn", "Models of texts are trained on"):
        assert line in text
    assert "DFE-6 is dfe[fusion=scaled_dot_product,canonical=0]" in text


def test_claims_are_read_from_paired_differences(world):
    by_claim = {}
    for reading in world.json["claims"]:
        by_claim.setdefault(reading["claim"], []).append(reading)
        assert list(reading["differences"]) == ["DFE-1", "DFE-6"]
    zero_shot, probe, retrieval, paraphrase = by_claim.values()
    assert {(one["measure"], one["against"]) for one in zero_shot} == {("top1", "conVIRT"), ("top5", "conVIRT")}
    assert {one["measure"] for one in probe} == {"epoch20/top1", "epoch100/top1"}
    assert {one["task"] for one in retrieval} == {"retrieval", "unseen"}
    assert {(one["space"], one["against"]) for one in paraphrase if one["task"] == "pairs"} == {
        ("aligned other-other", "raw other"),
        ("aligned text-text", "raw text"),
        ("aligned other-text", "raw other"),
        ("aligned other-text", "raw text"),
    }
    figures = world.json["tasks"]["shapes"]["figures"]
    for reading in zero_shot:
        for label, found in reading["differences"].items():
            own, other = (figures[one]["embedding"][reading["measure"]]["mean"] for one in (label, "conVIRT"))
            assert found["difference"] == pytest.approx(own - other)
    assert len(world.json["words"]) == 4
    shown = " ".join(world.output.split())
    for words in world.json["words"]:
        assert " ".join(words.split()) in shown


def test_the_same_command_again_computes_nothing(world):
    before = {path: path.stat().st_mtime_ns for path in world.done.glob("*/*/**/*") if path.is_file()}
    assert sum(path.suffix == ".npz" and path.parent.name == "tasks" for path in before) == 6 * 5 + 6 * 2
    events = []
    again = reproduce(world.family, output=world.done, tell=events.append)
    assert not {event["event"] for event in events} & {"start", "step", "evaluation", "trained"}
    assert {event["encoded"] for event in events if event["event"] == "encoded"} == {0}
    assert json.loads(json.dumps(again.to_json())) == world.json
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_parts_can_be_asked_for(world, tmp_path):
    events = []
    given = {"seeds": 1, "groups": 24, "overrides": ["training.epochs=1"], "output": tmp_path, "tell": events.append}
    done = reproduce(world.family, models=["plain", "conVIRT"], tasks=["shapes"], **given)
    assert {event["method"] for event in events if event["event"] == "start"} == {"plain", "conVIRT"}
    assert [one.recipe for one in done.trained] == ["pictures"]
    assert [cell.groups for cell in done.trained[0].cells["plain"]] == [24]
    assert done.names == {"plain": None, "conVIRT": "conVIRT"}
    # Without one of the paper's encoders there is nothing to be said of its claims.
    assert done.readings == []
    (task,) = done.tasks
    assert task.judged["plain"]["embedding"]["top1"].values.shape == (1,)
    assert any(remark.startswith("One seed (0)") for remark in remarks(done))
    known = json.loads((tmp_path / "reproduction.json").read_text())
    assert known["tasks"]["shapes"]["figures"]["plain"]["embedding"]["top1"]["seeds"] is None
    assert [one.label for one in choose(load_family(world.family), ["all"]).models][-1] == "plain"


def test_killed_anywhere_it_goes_on_as_if_nothing_had_happened(world, tmp_path):
    class KillError(Exception):
        pass

    given = {
        "models": ["conVIRT", "DFE-1"],
        "tasks": ["shapes"],
        "output": tmp_path,
        "overrides": ["training.epochs=1"],
    }
    for count in (1, 2):
        seen = []

        def tell(event, seen=seen, count=count):
            seen.append(event["event"])
            if seen.count("trained") == count:
                raise KillError

        with pytest.raises(KillError):
            reproduce(world.family, tell=tell, **given)
    assert not json.loads((tmp_path / "reproduction.json").read_text())["finished"]
    done = reproduce(world.family, **given)
    whole = reproduce(world.family, **{**given, "output": tmp_path / "whole"})
    for part in ("tasks", "claims", "words", "finished"):
        assert done.to_json()[part] == whole.to_json()[part]


def test_a_model_that_fails_is_named_and_the_others_go_on(world, tmp_path, monkeypatch):
    train_method = cells.train_method

    def diverge(recipe, spec, seed, *others):
        if spec.name == "dfe" and seed == 1:
            raise DivergedError("the loss is nan")
        return train_method(recipe, spec, seed, *others)

    monkeypatch.setattr(cells, "train_method", diverge)
    given = {"tasks": ["shapes"], "output": tmp_path, "overrides": ["training.epochs=1"]}
    done = reproduce(world.family, models=["DFE-1", "conVIRT"], **given)
    # Its first seed does not count either: it would stand beside two seeds of the others.
    assert list(done.tasks[0].judged) == ["conVIRT"]
    assert "pictures: DFE-1 failed: the loss is nan" in remarks(done)
    monkeypatch.setattr(cells, "train_method", lambda *given: diverge(given[0], given[1], 1, *given[3:]))
    with pytest.raises(TrainingError, match=r"pictures: no model could be trained\. DFE-1: the loss is nan"):
        reproduce(world.family, models=["DFE-1"], seeds=[5], **given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--models", "DFE-1,conVIRD"), "unknown model of the family 'conVIRD'. Did you mean 'conVIRT'?"),
        (("--tasks", "shape"), "unknown task of the family 'shape'. Did you mean 'shapes'?"),
        (("--groups", "4000"), "pictures: 4,000 training groups were asked for, but there are"),
        (("--groups", "5"), "training.batch_size is 12, but only 5 groups"),
        (("--set", "training.epoch=2"), "unknown key 'training.epoch'. Did you mean 'epochs'?"),
    ],
)
def test_a_mistake_is_one_clear_message(world, tmp_path, words, message):
    assert message in " ".join(call("reproduce", world.family, "--output", tmp_path, *words, code=1).split())


def test_several_processes_are_refused(world, monkeypatch):
    monkeypatch.setattr(run_module, "launched", lambda: 2)
    with pytest.raises(TrainingError, match="in one process"):
        reproduce(world.family)
