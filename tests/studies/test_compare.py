"""`lightcrl compare` in small: what it leaves, that nothing is done twice, and what it says of mistakes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import lightcrl
from lightcrl.cli import app
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.errors import DivergedError, RecipeError, TrainingError
from lightcrl.features.embed import embed_split
from lightcrl.methods.convirt import ConVIRT
from lightcrl.methods.linear import Linear
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.pipeline import prepare
from lightcrl.recipe import load_recipe
from lightcrl.studies import cells
from lightcrl.studies.compare import compare
from lightcrl.studies.compare import run as run_module
from lightcrl.studies.compare.outcome import MAIN, remarks, sentences
from recipes import SMALL_WORLD

RECIPE = (
    SMALL_WORLD
    + """
[method]
name = "linear"
dim = 32

[training]
epochs = 1
batch_size = 12
tensorboard = false

[evaluation]
zero_shot = { data = "shapes", templates = ["a picture of a {}."] }
"""
)
METHODS = "linear,convirt[dim=16]"
GRID = ({}, {"input_dropout": 0.1})


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "130"})
    assert result.exit_code == code, result.output
    return result.output


def trained(folder) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("cells/*/cell.json"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small data set, and two methods compared on it by two seeds and five sizes."""
    folder = tmp_path_factory.mktemp("compare")
    write_table(folder / "world", 80, 0)
    write_class_folder(folder / "shapes", attribute="shape", per_class=3, seed=1)
    recipe = folder / "small.toml"
    recipe.write_text(RECIPE)
    words = ("compare", recipe, "--methods", METHODS, "--seeds", 2, "--output", folder / "done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConVIRT, "grid", GRID)
        patch.setattr(Linear, "grid", ({},))
        output = call(*words, "--json", folder / "out.json", "--scaling", "12,18,27,40", "--target", 0.5)
    found = json.loads((folder / "out.json").read_text())
    return SimpleNamespace(folder=folder, recipe=recipe, done=folder / "done", words=words, output=output, json=found)


@pytest.fixture(autouse=True)
def no_grids(monkeypatch):
    monkeypatch.setattr(ConVIRT, "grid", ({},))
    monkeypatch.setattr(Linear, "grid", ({},))


@pytest.fixture
def grid(no_grids, monkeypatch):
    monkeypatch.setattr(ConVIRT, "grid", GRID)


def test_it_leaves_figures_words_page_and_cells(world):
    assert {path.name for path in world.done.iterdir()} == {"cells", "compare.json", "compare.md", "report.html"}
    assert json.loads((world.done / "compare.json").read_text()) == world.json
    assert world.json.keys() == {
        *("format", "lightcrl", "recipe", "split", "chosen_on", "finished", "seeds", "tuned", "queries", "chance"),
        *("methods", "differences", "words", "scaling"),
    }
    assert (world.json["split"], world.json["seeds"], world.json["finished"]) == ("dev", [0, 1], True)
    measures = {f"{a}_to_{b}/recall@{k}" for a, b in (("image", "text"), ("text", "image")) for k in (1, 5, 10)}
    measures |= {"mean_recall@1", "mean_recall@5", "mean_recall@10", "zero_shot/top1"}
    for method in world.json["methods"]:
        assert method["figures"].keys() == measures == world.json["chance"].keys()
        for found in method["figures"].values():
            for interval in ("seeds", "items", "both"):
                assert 0 <= found[interval][0] <= found["mean"] <= found[interval][1] <= 1
        assert method["rivals"].keys() == {"mean_recall@1", "zero_shot/top1"}
        assert [cell["seed"] for cell in method["cells"]] == [0, 1]
        assert method["parameters"] > 1000
        if sys.platform == "linux":
            assert method["memory"] > 50 * 2**20


def test_figures_are_those_of_the_checkpoint_that_lies_there(world):
    recipe = load_recipe(world.recipe)
    features, _, _ = prepare(recipe)
    for method in world.json["methods"]:
        for cell in method["cells"]:
            checkpoint = lightcrl.load_checkpoint(world.done / "cells" / cell["folder"])
            vectors, links = embed_split(checkpoint.method, features, features.split("dev"))
            metrics = Retrieval(links)(vectors).metrics
            for name, value in cell["figures"].items():
                if name in metrics:
                    assert value == pytest.approx(metrics[name], abs=1e-6)
            assert cell["dev_mean_recall@1"] == pytest.approx(cell["figures"][MAIN], abs=1e-6)
        mean = np.mean([cell["figures"][MAIN] for cell in method["cells"]])
        assert method["figures"][MAIN]["mean"] == pytest.approx(mean)


def test_chance_is_that_of_the_evaluations(world):
    run = lightcrl.run(world.recipe, ["training.epochs=1"], output=world.folder / "run")
    chance = run.models[0].retrieval.chance | {"zero_shot/top1": run.models[0].results["zero_shot"].chance["top1"]}
    for name in set(chance) & set(world.json["chance"]):
        assert world.json["chance"][name] == pytest.approx(chance[name]), name
    assert MAIN in set(chance) & set(world.json["chance"])


def test_the_options_that_are_best_on_dev_with_the_first_seed_are_trained_with_all(world):
    (convirt,) = (one for one in world.json["methods"] if one["method"] == "convirt")
    assert [one["options"] for one in convirt["tries"]] == [{}, {"input_dropout": 0.1}]
    best = max(convirt["tries"], key=lambda one: one["dev_mean_recall@1"])
    assert [one["chosen"] for one in convirt["tries"]].count(True) == 1
    assert best["chosen"]
    assert convirt["options"]["input_dropout"] == best["options"].get("input_dropout", 0.2)
    assert convirt["options"]["dim"] == 16
    # The try is the first seed's cell: it is not trained twice.
    assert convirt["cells"][0]["folder"] == best["folder"]
    (linear,) = (one for one in world.json["methods"] if one["method"] == "linear")
    assert (linear["tries"], linear["options"]["dim"]) == ([], 32)
    # Two methods, two seeds, five sizes, and the try that was not taken.
    assert len(trained(world.done)) == 2 * 2 * 5 + 1


def test_scaling_has_nested_subsets_that_all_methods_share(world):
    for one in world.json["scaling"]:
        assert one["groups"][:4] == [12, 18, 27, 40]
        assert np.shape(one["mean_recall@1"]) == (2, 5)
        assert one["forecast"]["target"] == 0.5
        assert one["forecast"]["words"] in (world.done / "compare.md").read_text()
    (full,) = {one["groups"][-1] for one in world.json["scaling"]}
    assert full == world.json["methods"][0]["cells"][0]["groups"]


def test_subsets_are_nested_by_seed(world, tmp_path, monkeypatch):
    seen = {}

    def watch(recipe, spec, seed, place, features, *others):
        split = features.split("train")
        seen[spec.name, seed, len(split)] = set(split.members["image"].rows.tolist())
        for members in split.members.values():
            assert members.groups.max() < len(split)
        raise TrainingError("enough")

    monkeypatch.setattr(cells, "train_method", watch)
    recipe = load_recipe(world.recipe)
    features, encoders, _ = prepare(recipe)
    ground = cells.Ground(recipe, tmp_path, features, encoders, {}, lambda event: None)
    for name in ("linear", "dfe"):
        for seed in (0, 1):
            for groups in (10, 30):
                spec = recipe.method.model_copy(update={"name": name})
                with pytest.raises(TrainingError):
                    cells.find_or_train(ground, name, spec, seed, groups)
    assert seen["linear", 0, 10] < seen["linear", 0, 30] == seen["dfe", 0, 30]
    assert seen["linear", 0, 30] != seen["linear", 1, 30]


def test_the_console_says_it_in_words(world):
    text = " ".join(world.output.split())
    for line in world.json["words"]:
        assert " ".join(line.split()) in text
    assert "the split that chose every checkpoint and every method's options" in text
    assert re.search(r"by training groups: 12: 0\.\d+, 18: ", text)
    assert "convirt[dim=16]" in text


@pytest.mark.usefixtures("grid")
def test_every_task_of_the_recipe_is_measured_and_nothing_is_trained_for_it(world, tmp_path):
    for name, letters in (("data", "abcd"), ("calibration", "efgh")):
        rows = [(f"a {one}", f"the {two}", int(one == two)) for one in letters for two in letters]
        lines = [json.dumps(dict(zip(("text1", "text2", "label"), row, strict=True))) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    shutil.copytree(world.done, tmp_path / "again")
    events = []
    pairs = [f"evaluation.text_similarity.{key}={tmp_path}/{key}.jsonl" for key in ("data", "calibration")]
    probe = ["evaluation.tasks.probe.task=linear_probe", f"evaluation.tasks.probe.data={world.folder}/shapes"]
    probe += ["evaluation.tasks.probe.files=00[01]*", "evaluation.tasks.probe.test_files=002*"]
    given = {"overrides": [*pairs, *probe], "tell": events.append, "tune": False}
    done = compare(world.recipe, METHODS.split(","), seeds=2, output=tmp_path / "again", **given)
    assert not [event for event in events if event["event"] == "step"]
    measures = ("text_similarity/aligned text-text/accuracy", "probe/top1")
    assert done.headlines == ("zero_shot/top1", *measures)
    for one in done.ranked:
        for measure in measures:
            low, high = one.figures[measure].both
            assert low <= one.figures[measure].mean <= high
            assert measure in one.rivals
    assert done.chance["text_similarity/aligned text-text/accuracy"] == 0.75


@pytest.mark.usefixtures("grid")
def test_the_same_command_again_computes_nothing(world):
    before = {path: path.stat().st_mtime_ns for path in world.done.glob("cells/**/*")}
    events = []
    again = compare(
        world.recipe,
        METHODS.split(","),
        seeds=2,
        output=world.done,
        scaling=[12, 18, 27, 40],
        target=0.5,
        tell=events.append,
    )
    assert not {event["event"] for event in events} & {"start", "step", "evaluation", "trained"}
    assert {event["encoded"] for event in events if event["event"] == "encoded"} == {0}
    assert again.to_json() == json.loads((world.done / "compare.json").read_text())
    assert json.loads(json.dumps(again.to_json())) == world.json
    assert {path: path.stat().st_mtime_ns for path in world.done.glob("cells/**/*")} == before


def test_another_method_or_setting_trains_what_is_new_alone(world, tmp_path):
    first = compare(
        world.recipe, ["linear", "linear[dim=8]"], seeds=1, output=tmp_path, overrides=["training.epochs=1"]
    )
    events = []
    compare(
        world.recipe,
        ["linear", "linear[dim=8]", "convirt"],
        seeds=1,
        output=tmp_path,
        overrides=["training.epochs=1"],
        tell=events.append,
    )
    assert {event["method"] for event in events if event["event"] == "start"} == {"convirt"}
    events.clear()
    other = compare(
        world.recipe,
        ["linear", "linear[dim=8]"],
        seeds=1,
        output=tmp_path,
        overrides=["training.epochs=2"],
        tell=events.append,
    )
    assert len([event for event in events if event["event"] == "start"]) == 2
    assert other.ranked[0].cells[0].plan["epochs"] == 2
    assert first.ranked[0].cells[0].plan["epochs"] == 1


def test_killed_anywhere_it_goes_on_as_if_nothing_had_happened(world, tmp_path):
    class KillError(Exception):
        pass

    given = {
        "seeds": 2,
        "overrides": ["training.epochs=2", "training.precision='float32'"],
        "tune": False,
    }
    whole = compare(world.recipe, ["linear", "convirt"], output=tmp_path / "whole", **given)

    def stop_after(count, kind):
        seen = []

        def tell(event):
            seen.append(event["event"])
            if seen.count(kind) == count:
                raise KillError

        return tell

    for count, kind in ((1, "evaluation"), (1, "trained"), (9, "step")):
        with pytest.raises(KillError):
            compare(
                world.recipe,
                ["linear", "convirt"],
                output=tmp_path / "part",
                tell=stop_after(count, kind),
                **given,
            )
        if (tmp_path / "part/compare.json").exists():
            assert not json.loads((tmp_path / "part/compare.json").read_text())["finished"]
    done = compare(world.recipe, ["linear", "convirt"], output=tmp_path / "part", **given)
    for one, other in zip(whole.contestants, done.contestants, strict=True):
        assert (one.label, one.figures, one.rivals) == (other.label, other.figures, other.rivals)


def test_one_seed_has_intervals_over_groups_alone_and_says_so(world, tmp_path):
    words = ("compare", world.recipe, "--methods", "linear,linear[dim=8]", "--output", tmp_path, "--seeds", 1)
    output = call(*words, "--set", "training.epochs=1", "--json", tmp_path / "out.json", "--no-tune")
    assert "One seed: intervals over seeds need two, so those shown are over groups alone" in " ".join(output.split())
    found = json.loads((tmp_path / "out.json").read_text())
    for method in found["methods"]:
        for figure in method["figures"].values():
            assert figure["seeds"] is None
            assert figure["both"] == figure["items"]
    assert not found["tuned"]


def test_a_method_and_itself_are_not_told_apart(world, tmp_path):
    done = compare(
        world.recipe,
        ["linear", "linear[input_dropout=auto]"],
        seeds=2,
        output=tmp_path,
        overrides=["training.epochs=1"],
    )
    (difference,) = done.differences.values()
    assert difference.mean == 0
    assert difference.word == "not significant"
    assert "no significant difference from" in sentences(done)[1]
    # One training stands for both.
    assert len(trained(tmp_path)) == 2


def test_a_split_that_did_not_choose_is_said_to_be_one(world, tmp_path):
    given = ["training.epochs=1", "evaluation.split=test", "data.test_fraction=0.2"]
    done = compare(world.recipe, ["linear", "linear[dim=8]"], seeds=1, output=tmp_path, overrides=given)
    assert "Checkpoints and options were chosen on dev; the figures are on test." in remarks(done)
    cell = done.ranked[0].cells[0]
    assert cell.dev != cell.figures[MAIN]
    rows = cell.outcomes["retrieval"].items["image_to_text"]
    assert rows[:, 3].max() < 40
    hit = hits(rows[:, :3], 1)
    assert cell.figures["image_to_text/recall@1"] == hit.mean()


def test_a_method_that_fails_is_named_and_the_others_go_on(world, tmp_path, monkeypatch):
    train_method = cells.train_method

    def diverge(recipe, spec, seed, *others):
        if spec.options["dim"] == 8:
            raise DivergedError("the loss is nan")
        return train_method(recipe, spec, seed, *others)

    monkeypatch.setattr(cells, "train_method", diverge)
    monkeypatch.setattr(Linear, "grid", ({}, {"dim": 8}))
    methods = ["linear", "convirt", "convirt[dim=8]"]
    done = compare(world.recipe, methods, seeds=1, output=tmp_path, overrides=["training.epochs=1"])
    assert {one.label for one in done.ranked} == {"linear", "convirt"}
    assert done.contestants[-1].failed == "the loss is nan"
    assert "convirt[dim=8] failed: the loss is nan" in remarks(done)
    (linear,) = (one for one in done.contestants if one.label == "linear")
    assert [one.failed for one in linear.tries] == ["", "the loss is nan"]
    with pytest.raises(TrainingError, match=r"no method could be trained. linear\[dim=8\]: the loss is nan"):
        compare(world.recipe, ["linear[dim=8]", "convirt[dim=8]"], seeds=1, output=tmp_path / "none")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "linear,liner"), "unknown method 'liner'. Did you mean 'linear'?"),
        (("--methods", "linear"), "1 method to compare (linear); expected two or more"),
        (("--methods", "linear,convirt[dimm=3]"), "unknown key 'method.dimm'. Did you mean 'dim'?"),
        (("--methods", "linear,convirt[dim"), "cannot read"),
        (("--methods", METHODS, "--scaling", "12,4000"), "a subset of 4,000 groups was asked for, but the training"),
        (("--methods", METHODS, "--scaling", "4,20"), "a subset of 4 groups was asked for, but a batch has 12"),
        (("--methods", METHODS, "--target", "40"), "the target is 40.0; expected a mean R@1 between 0 and 1"),
    ],
)
def test_a_mistake_is_one_clear_message(world, tmp_path, words, message):
    assert message in call("compare", world.recipe, "--output", tmp_path, *words, code=1)


def test_wrong_usage_and_several_processes(world, tmp_path, monkeypatch):
    call("compare", world.recipe, "--output", tmp_path, "--scaling", "many", code=2)
    call("compare", world.recipe, "--output", tmp_path, "--seeds", 0, code=2)
    with pytest.raises(RecipeError, match="all different"):
        compare(world.recipe, ["linear", "convirt"], seeds=[1, 1], output=tmp_path)
    monkeypatch.setattr(run_module, "launched", lambda: 2)
    with pytest.raises(TrainingError, match="in one process"):
        compare(world.recipe, ["linear", "convirt"], output=tmp_path)


def test_the_page_is_one_file_with_every_method_figure_and_sentence(world):
    html = (world.done / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\((?!#)|<script|<iframe", html)
    assert html.count("<figure>") == html.count("<figcaption>") == 3
    text = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    for line in world.json["words"]:
        assert line in text
    for method in world.json["methods"]:
        low, high = method["figures"][MAIN]["both"]
        shown = f"{100 * method['figures'][MAIN]['mean']:.1f} {100 * low:.1f}–{100 * high:.1f}"
        assert f"{method['label']} {shown}" in text
