"""Pairs of texts in a run: watched while it trains, measured at its end, and deciding nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import coloured
import lightcrl
import tiny
from lightcrl.checkpoint import load_checkpoint, load_folder
from lightcrl.encoders import EncoderSpec, load_encoder
from lightcrl.errors import DataError
from lightcrl.pipeline import prepare, run
from lightcrl.recipe import Recipe, make_recipe
from lightcrl.report.console import print_run
from lightcrl.report.facts import Report, gather
from lightcrl.report.imagining_page import Imagined, Near, picture_uri
from lightcrl.report.progress import Live, console
from lightcrl.report.run_page import render
from lightcrl.runs import Run
from lightcrl.tasks.base import Setting
from lightcrl.tasks.evaluate import evaluate
from lightcrl.tasks.spec import make_task_spec
from lightcrl.tasks.text_similarity import TextSimilarityTask, watched
from lightcrl.training.log import read_log
from pages import Page, browse

COLOURS = ("red", "blue", "green", "black")
THINGS = ("circle", "house", "bird", "river", "stone", "train")
FORMS = ("a {} {}", "the {1} is {0}", "one small {} {}", "there is a {1}, quite {0}")
SPACES = ("large-large", "small-small", "large-small")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_pairs(path: Path, count: int, seed: int, truth: str = "label") -> str:
    """Pairs that say the same of a thing in two ways, and as many that do not."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        colour, other = rng.choice(COLOURS, 2, replace=False)
        thing, (one, two) = rng.choice(THINGS), rng.choice(FORMS, 2, replace=False)
        second = colour if number % 2 else other
        left, right = (f"{form.format(c, thing)}, {number}" for form, c in ((one, colour), (two, second)))
        rows.append({"first": left, "text2": right, truth: number % 2})
    return write_lines(path, rows)


def make(folder: Path, **evaluation: Any) -> Recipe:
    return make_recipe(
        {
            "name": "pairs",
            "data": {
                "path": str(folder / "texts.jsonl"),
                "key": "thing",
                "columns": {"large": "text", "small": "text"},
                "dev_fraction": 0.25,
            },
            "encoders": {
                "large": {"kind": "text", "model": "builtin", "options": {"dim": 128}},
                "small": {"kind": "text", "model": "builtin", "options": {"dim": 32}},
            },
            "features": {"folder": str(folder / "features")},
            "method": {"name": "linear", "dim": 16},
            "training": {"epochs": 3, "batch_size": 6, "precision": "float32", "tensorboard": False},
            "evaluation": evaluation,
        }
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> SimpleNamespace:
    """A run of two encoders of texts and a baseline, with labelled pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [
        {"thing": f"{colour} {thing}", "text": form.format(colour, thing)}
        for colour in COLOURS
        for thing in THINGS
        for form in FORMS
    ]
    write_lines(folder / "texts.jsonl", rows)
    pairs = {
        "data": write_pairs(folder / "test.jsonl", 40, 1),
        "calibration": write_pairs(folder / "train.jsonl", 60, 2),
        "columns": {"text1": "first"},
    }
    recipe = make(folder, text_similarity=pairs, baselines=["csa"])
    done = run(recipe, output=folder / "run")
    return SimpleNamespace(folder=folder, recipe=recipe, pairs=pairs, run=folder / "run", done=done)


def test_texts_that_are_cut_are_counted_by_the_run(tmp_path):
    rows = [{"thing": thing, "text": f"{'old ' * n} {thing} cat"} for thing in "abcdefgh" for n in range(1, 9)]
    write_lines(tmp_path / "texts.jsonl", rows)
    words = {"kind": "text", "model": str(tiny.bert(tmp_path / "bert")), "max_length": 8, "tokens": "mean"}
    recipe = make(tmp_path)
    recipe = recipe.model_copy(update={"encoders": {**recipe.encoders, "large": EncoderSpec.model_validate(words)}})
    for folder in ("first", "again"):
        events: list[Any] = []
        run(recipe, output=tmp_path / folder, tell=events.append)
        told = {event["modality"]: event["cut"] for event in events if event["event"] == "encoded"}
        # Two special tokens and two words beside n times "old": more than four of these are too many.
        assert told == {"large": 8 * 4, "small": 0}
        assert json.loads((tmp_path / folder / "metrics.json").read_text())["texts_cut"] == told
    with console.capture() as shown, Live() as live:
        for event in events:
            live.tell(event)
    assert "64 were there already, cut 32 at max_length; " in " ".join(shown.get().split())


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_log(folder) if event["event"] == "evaluation"]


def similarity(world: SimpleNamespace) -> TextSimilarityTask:
    encoders = {name: load_encoder(spec) for name, spec in world.recipe.encoders.items()}
    return TextSimilarityTask.prepare(world.recipe.evaluation.text_similarity, Setting(encoders, world.recipe.features))


def test_every_model_is_measured_as_evaluate_measures_it(world):
    metrics = json.loads((world.run / "metrics.json").read_text())
    for number, place in enumerate((world.run, world.run / "others/csa-seed0")):
        expected = evaluate("text_similarity", str(place), lightcrl.load(place), world.pairs).result
        assert world.done.models[number].results["text_similarity"] == expected
        assert metrics["models"][number]["text_similarity"] == json.loads(json.dumps(expected.to_json()))
    assert expected.counts == {"pairs": 40, "similar": 20}
    assert expected.thresholds.keys() == {*(f"aligned {space}" for space in SPACES), "raw large", "raw small"}


def test_the_log_has_the_precision_of_both_classes_at_every_look(world):
    task = similarity(world)
    lines = evaluations(world.run)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    names = {f"text_similarity/aligned {s}/{c}/precision" for s in SPACES for c in ("similar", "dissimilar")}
    for line in lines:
        assert {key for key in line if key.startswith("text_similarity/")} == names
    at_last = task.evaluate(load_folder(world.run / "last"))
    best = max(lines, key=lambda line: line["dev_mean_recall@1"])
    at_best = task.evaluate(load_checkpoint(world.run))
    for name in names:
        assert lines[-1][name] == at_last.metrics[name.removeprefix("text_similarity/")]
        assert best[name] == at_best.metrics[name.removeprefix("text_similarity/")]
    # The thresholds are those of the moment, so that looks differ.
    assert len({tuple(line[name] for name in sorted(names)) for line in lines}) == 3
    (only,) = evaluations(world.run / "others/csa-seed0")
    assert names < only.keys()


def test_what_was_watched_is_read_from_the_log_by_space(world):
    seen = watched(read_log(world.run))
    assert list(seen) == [f"aligned {space}" for space in SPACES]
    lines = evaluations(world.run)
    for space, found in seen.items():
        key = f"text_similarity/{space}/{{}}/precision"
        rows = [(line["epoch"], line[key.format("similar")], line[key.format("dissimilar")]) for line in lines]
        np.testing.assert_array_equal(found, rows)
    assert watched([{"event": "evaluation", "epoch": 1, "dev_mean_recall@1": 0.5}]) == {}


def test_to_watch_changes_neither_the_training_nor_its_choice(world, tmp_path):
    plain = run(make(world.folder), output=tmp_path / "run")
    assert plain.models[0].retrieval == world.done.models[0].retrieval
    assert plain.models[0].results.get("text_similarity") is None

    def shown(folder: Path) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in line.items() if key != "seconds" and "text_similarity" not in key}
            for line in read_log(folder)
        ]

    assert shown(plain.folder) == shown(world.run)
    digests = [json.loads((place / "best/config.json").read_text())["digest"] for place in (plain.folder, world.run)]
    assert digests[0] == digests[1]
    # A finished training is measured without being trained, or watched, anew.
    again = run(world.recipe, output=plain.folder)
    assert again.models[0].results["text_similarity"] == world.done.models[0].results["text_similarity"]
    assert watched(read_log(plain.folder)) == {}


def test_scores_are_correlated_at_the_end_and_not_watched(world, tmp_path):
    pairs = {"data": write_pairs(tmp_path / "scored.jsonl", 30, 3, "score"), "columns": {"text1": "first"}}
    done = run(make(world.folder, text_similarity=pairs), output=tmp_path / "run")
    found = done.models[0].results["text_similarity"]
    assert found is not None
    assert {name.partition("/")[2] for name in found.metrics} == {"spearman", "pearson"}
    assert watched(read_log(done.folder)) == {}
    assert "Spearman" in printed(done, world.recipe)


def test_what_is_not_to_be_watched_is_measured_at_the_end_alone(world, tmp_path):
    done = run(make(world.folder, text_similarity={**world.pairs, "watch": False}), output=tmp_path / "run")
    assert watched(read_log(done.folder)) == {}
    assert done.models[0].results["text_similarity"] == world.done.models[0].results["text_similarity"]


def test_pairs_that_cannot_be_used_are_refused_before_anything_is_encoded(world, tmp_path):
    one_class = tmp_path / "ones.jsonl"
    write_lines(one_class, [{"first": f"a {n}", "text2": "b", "label": 1} for n in range(4)])
    broken = {
        "every one of 4 pairs has label 1": {**world.pairs, "data": str(one_class)},
        "is not there": {**world.pairs, "data": str(tmp_path / "absent.jsonl")},
        "no split to calibrate": {**world.pairs, "calibration": None},
    }
    for message, pairs in broken.items():
        told: list[Any] = []
        with pytest.raises(DataError, match=message):
            run(make(world.folder, text_similarity=pairs), output=tmp_path / "run", tell=told.append)
        assert told == []


def printed(done: Run, recipe: Recipe) -> str:
    with console.capture() as capture:
        print_run(done, recipe)
    return capture.get()


def test_the_console_shows_every_space_beside_the_encoders(world):
    shown = printed(world.done, world.recipe)
    assert "text similarity: accuracy on 40 pairs" in shown
    table = shown.partition("text similarity")[2]
    for space in SPACES:
        assert space.partition("-")[2] in table
    for model in world.done.models:
        for space in SPACES:
            metrics = model.results["text_similarity"].metrics
            assert f"{metrics[f'aligned {space}/accuracy']:.3f}" in table
    assert "frozen" in table
    for name in ("large", "small"):
        assert f"{world.done.models[0].results['text_similarity'].metrics[f'raw {name}/accuracy']:.3f}" in table
    second = replace(world.done.models[0], seed=1)
    assert "±0.000" in printed(replace(world.done, models=(world.done.models[0], second)), world.recipe)


@pytest.fixture(scope="module")
def report(world) -> Report:
    return gather(world.run)


def test_the_report_has_both_classes_by_epoch_and_every_space_beside_the_encoders(world, report):
    own = report.models[0]
    lines = evaluations(world.run)
    assert own.best_epoch == max(lines, key=lambda line: line["dev_mean_recall@1"])["epoch"]
    assert {space: found.shape for space, found in own.precision.items()} == {f"aligned {s}": (3, 3) for s in SPACES}
    html = render(report)
    text = " ".join(Page(html).text.split())
    assert "40 pairs of texts, 20 of them similar" in text
    for name, space in (("accuracy", "raw large"), ("accuracy", "aligned large-small"), ("dissimilar/f1", "raw small")):
        found, (low, high) = own.text_similarity, own.text_similarity.interval[f"{space}/{name}"]
        assert f"{100 * found.metrics[f'{space}/{name}']:.1f} {100 * low:.1f}–{100 * high:.1f}" in text
    drawn = re.search('<svg [^>]*aria-label="Precision of similar and of dissimilar pairs.*?</svg>', html, re.DOTALL)
    assert drawn is not None
    for words in ("similar", "dissimilar", "epoch", *(f"aligned {space}" for space in SPACES)):
        assert f">{words}</text>" in drawn[0]


def test_what_was_not_watched_is_not_drawn_and_what_was_not_measured_not_told(report):
    models = tuple(replace(model, precision={}) for model in report.models)
    html = render(replace(report, models=models))
    assert "Precision of similar" not in html
    assert "<h2>Text similarity</h2>" in html
    html = render(replace(report, models=tuple(replace(model, text_similarity=None) for model in report.models)))
    assert "<h2>Text similarity</h2>" not in html


def test_drawn_pictures_stand_beside_the_nearest_of_the_training(report):
    first, second = (Image.new("RGB", (8, 8), shade) for shade in ("red", "blue"))
    imagined = Imagined("two red dogs", (first, second), {0.0: second, 2.0: first}, (Near(second, 12.4),))
    html = render(replace(report, imagined=(imagined,)))
    page = Page(html)
    shown = [given["src"] for tag, given in page.tags if tag == "img" and given["src"].startswith("data:image/png")]
    assert shown == [picture_uri(each) for each in (first, second, second, first, second)]
    assert "<h3>two red dogs</h3>" in html
    captions = re.findall("<figcaption>([0-9]+)</figcaption>", html)
    assert captions == ["1", "2", "0", "2", "12"]  # samples, guidance, difference
    assert "Imagined pictures" not in render(report)


@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_the_report(report, tmp_path, width):
    browse(render(report), tmp_path, width)


def test_texts_go_through_encoders_that_were_trained_too(tmp_path):
    place = coloured.write(tmp_path)
    made = coloured.recipe(place, {"text": {"learning_rate": 1e-3}}, epochs=3)
    table = made.model_dump(mode="json")
    rows = [
        {"text1": f"the {one} dog", "text2": f"a dog {two} and small", "label": int(one == two)}
        for one in coloured.COLOURS
        for two in coloured.COLOURS
    ]
    pairs = {"data": write_lines(place / "test.jsonl", rows)}
    others = [{**row, "text1": row["text1"].replace("dog", "cat")} for row in rows]
    pairs["calibration"] = write_lines(place / "train.jsonl", others)
    table["evaluation"]["text_similarity"] = pairs
    done = run(make_recipe(table), output=tmp_path / "run")
    found = done.models[0].results["text_similarity"]
    place = str(done.folder)
    expected = evaluate("text_similarity", place, lightcrl.load(place), pairs, tmp_path / "other").result
    assert found.metrics == pytest.approx(expected.metrics)
    assert found.thresholds == pytest.approx(expected.thresholds, abs=1e-4)
    # As it came, the encoder says something else.
    _, encoders, _ = prepare(made)
    spec = make_task_spec("text_similarity", pairs)
    before = TextSimilarityTask.prepare(spec, Setting({"text": encoders["text"]}, made.features))
    thresholds = before.evaluate(load_checkpoint(done.folder)).thresholds
    assert thresholds["raw text"] != pytest.approx(found.thresholds["raw text"], abs=1e-6)
    # No look at every evaluation: each would read all texts anew.
    assert watched(read_log(done.folder)) == {}
