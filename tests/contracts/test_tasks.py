"""What every task promises: one class that run, evaluate, compare and reproduce use alike, the user's own included."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

import lightcrl
from lightcrl.cli import app
from lightcrl.data.synthetic import write_class_folder, write_table
from lightcrl.errors import ModalityError, RecipeError, UnknownNameError
from lightcrl.tasks.base import Setting, Task, prepare_task
from lightcrl.tasks.evaluate import evaluate
from lightcrl.tasks.spec import TASKS, make_task_spec
from recipes import SMALL_WORLD

OWN = "own_task:Neighbour"
RECIPE = (
    SMALL_WORLD
    + """
[method]
name = "linear"
options = { dim = 8 }
[training]
epochs = 2
tensorboard = false
[evaluation.zero_shot]
data = "shapes"
[evaluation.text_similarity]
data = "pairs.jsonl"
calibration = "train.jsonl"
[evaluation.tasks.unseen]
task = "retrieval"
data = "other/groups.jsonl"
[evaluation.tasks.probe]
task = "linear_probe"
data = "shapes"
files = "00[0-3]*"
test_files = "00[4-9]*"
epochs = [2]
[evaluation.tasks.tuned]
task = "fine_tuning"
data = "shapes"
files = "00[0-3]*"
test_files = "00[4-9]*"
training = { epochs = 2, tensorboard = false }
[evaluation.tasks.neighbour]
task = "own_task:Neighbour"
data = "shapes"
"""
)
FAMILY = """
models = { first = "linear[dim=8]", second = "linear[dim=4]" }
[recipes.recipe]
[tasks.neighbour]
task = "own_task:Neighbour"
recipe = "recipe"
data = "shapes"
"""
LABELS = ("zero_shot", "text_similarity", "unseen", "probe", "tuned", "neighbour")


def call(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "160"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_table(folder / "world", 40, 0)
    write_table(folder / "other", 12, 5)
    write_class_folder(folder / "shapes", attribute="shape", per_class=6, seed=1)
    for name, letters in (("pairs", "abc"), ("train", "def")):
        rows = [(f"a {one}", f"the {two}", int(one == two)) for one in letters for two in letters]
        lines = [json.dumps(dict(zip(("text1", "text2", "label"), row, strict=True))) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "family.toml").write_text(FAMILY)
    call("run", folder / "recipe.toml", "--output", folder / "run")
    return folder


def figures(world) -> dict:
    (model,) = json.loads((world / "run/metrics.json").read_text())["models"]
    return model


def test_a_run_measures_every_task_of_its_recipe(world):
    model = figures(world)
    for label in LABELS:
        result = model[label]
        assert result["metrics"]
        for name, value in result["metrics"].items():
            low, high = result["interval"][name]
            assert low - 1e-9 <= value <= high + 1e-9
    assert set(model["tuned"]["metrics"]) == {"top1", "epoch1/top1", "epoch2/top1"}
    assert set(model["probe"]["metrics"]) == {
        *("raw image/top1", "raw image/epoch2/top1", "linear/top1", "linear/epoch2/top1")
    }
    assert "image_to_text/recall@1" in model["unseen"]["metrics"]


def test_evaluate_gives_the_figures_of_the_run(world):
    tables = lightcrl.load(world / "run").checkpoint.recipe["evaluation"]
    for label in LABELS:
        settings = tables[label] if label in ("zero_shot", "text_similarity") else dict(tables["tasks"][label])
        task = settings.pop("task", label)
        place = str(world / "run")
        result = evaluate(task, place, lightcrl.load(place), settings).result
        assert json.loads(json.dumps(result.to_json())) == figures(world)[label], label


def test_a_task_from_outside_goes_through_all_four_commands(world):
    settings = ["--set", f"data={world / 'shapes'}", "--json", world / "own.json"]
    assert "same_class" in call("evaluate", OWN, world / "run", *settings)
    own = json.loads((world / "own.json").read_text())
    assert own["metrics"] == figures(world)["neighbour"]["metrics"]
    few = ["--methods", "linear,convirt", "--seeds", 1, "--no-tune"]
    call("compare", world / "recipe.toml", *few, "--output", world / "cmp")
    assert "neighbour/same_class" in (world / "cmp/compare.md").read_text()
    methods = json.loads((world / "cmp/compare.json").read_text())["methods"]
    for method in methods:
        assert 0 <= method["figures"]["neighbour/same_class"]["mean"] <= 1
        assert method["rivals"]["neighbour/same_class"]["label"] in ("linear", "convirt")
    call("reproduce", world, "--output", world / "again")
    done = json.loads((world / "again/reproduction.json").read_text())["tasks"]["neighbour"]
    assert set(done["figures"]) == {"first", "second"}
    assert done["task"] == OWN
    assert done["units"].endswith(" items")
    # The page has the figures of every task.
    call("report", world / "run", "--output", world / "page.html")
    assert "same_class" in (world / "page.html").read_text()


def test_a_setting_that_a_task_does_not_read_is_refused(world):
    for task in TASKS:
        with pytest.raises(RecipeError, match="unknown key 'colour'"):
            make_task_spec(task, {"data": "x", "colour": 1})
    with pytest.raises(RecipeError, match=r"unknown key 'filez'. Did you mean 'files'\?"):
        make_task_spec(OWN, {"data": "x", "filez": "*"})
    error = call("evaluate", "retrieval", world / "run", "--template", "x", code=2)
    assert "No such option" in error
    assert "--template" in error
    error = call("evaluate", OWN, world / "run", "--set", "template=x", code=1)
    assert "unknown key 'template'" in error
    with pytest.raises(UnknownNameError, match=r"unknown task 'zero-shot'. Did you mean 'zero_shot'\?"):
        evaluate("zero-shot", str(world / "run"), lightcrl.load(world / "run"), {})


def test_a_wrong_table_of_a_task_is_told_by_its_place(world):
    for old, new, message in (
        ('task = "own_task:Neighbour"', 'task = "neighbor"', "unknown task 'neighbor'"),
        ("epochs = [2]", "epoch = [2]", r"unknown key 'evaluation.tasks.probe.epoch'. Did you mean 'epochs'\?"),
        ("[evaluation.tasks.probe]", "[evaluation.tasks.zero_shot]", "a label that is no task's name"),
    ):
        (world / "wrong.toml").write_text(RECIPE.replace(old, new))
        output = call("run", world / "wrong.toml", code=1)
        assert re.search(message, " ".join(output.split())), output


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_says_what_it_needs_before_it_encodes(name):
    task = TASKS.load(name)
    assert issubclass(task, Task)
    assert isinstance(task.name, str)
    spec = make_task_spec(name, {"data": "anything"})
    wanted = {"zero_shot": ("image", "text"), "text_similarity": ("text",)}
    expected = wanted.get(name, ("text", "image") if name in ("retrieval", "prior") else ("image",))
    assert tuple(task.modalities(spec, {"text": "text", "image": "image"})) == expected
    # A model without what the task needs: any two modalities do for retrieval.
    lacking = {"text_similarity": {"image": "image"}, "captioning": {"text": "text"}}
    if name != "retrieval":
        with pytest.raises(ModalityError):
            task.modalities(spec, lacking.get(name, {"audio": "text"}))


def test_figures_of_an_outcome_are_the_metrics_of_its_result(world):
    """Bootstraps of comparisons and results of evaluations read one outcome, and agree on its values."""
    recipe = lightcrl.load_recipe(world / "recipe.toml")
    model = lightcrl.load(world / "run")
    setting = Setting({name: model.encoder(name) for name in model.modalities}, recipe.features)
    for kind, spec in recipe.evaluation.named().values():
        task = prepare_task(kind, spec, setting)
        outcome = task.measure(model.checkpoint, world / "figures")
        result = task.evaluate(model.checkpoint, world / "figures")
        for space, items in outcome.items.items():
            for measure, value in task.figures(space, items)(np.ones((1, task.units))).items():
                names = (f"{space}/{measure}", f"linear/{measure}", measure)
                metric = next((result.metrics[name] for name in names if name in result.metrics), None)
                if measure.startswith("precision@"):
                    metric = result.curves[space]["precision"][result.curves[space]["k"].index(int(measure[10:]))]
                assert metric == pytest.approx(float(value[0]), abs=1e-12), (kind, measure)
