"""The demo in small: one command, scores far above chance, a page that needs nothing but itself."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lightcrl.data.base import text_item
from lightcrl.demo import demo_recipe, run_demo
from lightcrl.errors import CheckpointError, MissingExtraError
from lightcrl.report.console import print_demo
from lightcrl.report.facts import gather
from lightcrl.report.gallery import BARS, Collection, gallery
from lightcrl.report.progress import console
from lightcrl.report.run_page import render
from lightcrl.report.space import look
from pages import Page, browse

SMALL = {"groups": 300, "epochs": 6, "pictures": 6}
DIRECTIONS = [f"{a}_to_{b}" for a in ("image", "text", "audio") for b in ("image", "text", "audio") if a != b]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(folder):
    return run_demo(folder / "run", **SMALL)


@pytest.fixture(scope="module")
def html(demo):
    return demo.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report(demo):
    return gather(demo.run.folder)


def test_every_direction_scores_far_above_chance(demo):
    own = demo.run.models[0].retrieval
    for name in DIRECTIONS:
        # Measured: 0.53 to 0.95, chance 0.016; recall@10 at least 0.95.
        assert own.metrics[f"{name}/recall@1"] > 0.4 > 20 * own.chance[f"{name}/recall@1"]
        assert own.metrics[f"{name}/recall@10"] > 0.85
    assert own.metrics["mean_recall@1"] > 0.65


def test_zero_shot_and_the_baseline_stand_beside_it(demo):
    assert [model.method for model in demo.run.models] == ["dfe", "linear"]
    for model in demo.run.models:
        assert model.results["zero_shot"].counts == {"items": 48, "classes": 8}
        # Measured: 0.62 and 0.42.
        assert model.results["zero_shot"].metrics["top1"] > 0.25 == 2 * model.results["zero_shot"].chance["top1"]


def test_the_example_is_a_caption_that_finds_pictures(demo):
    example = demo.example
    assert (example.source, example.target, example.why) == ("text", "image", "drawn")
    assert len(example.found) == 5
    assert [one.place for one in example.found] == [1, 2, 3, 4, 5]
    scores = [one.score for one in example.found]
    assert scores == sorted(scores, reverse=True)
    assert all(one.item.uri.startswith("data:image/jpeg;base64,") for one in example.found)


def test_a_second_run_encodes_and_trains_nothing_and_gives_the_same_page(demo, html):
    events = []
    again = run_demo(demo.run.folder, events.append, **SMALL)
    assert {event["encoded"] for event in events if event["event"] == "encoded"} == {0}
    assert not [event for event in events if event["event"] in ("step", "start")]
    assert again.run.models[0].retrieval == demo.run.models[0].retrieval
    assert again.page.read_text(encoding="utf-8") == html


def test_other_settings_in_the_same_folder_are_refused(demo):
    with pytest.raises(CheckpointError, match="other settings"):
        run_demo(demo.run.folder, **(SMALL | {"epochs": 7}))


def test_the_threads_of_torch_are_left_as_they_were(demo):
    assert torch.get_num_threads() == 1  # as conftest sets it


def test_the_page_loads_nothing(html):
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    for tag, attributes in Page(html).tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data", "action"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, name)


def test_the_page_holds_every_table_figure_picture_and_sound(html, report):
    page = Page(html)
    shown = [
        item
        for query in report.gallery
        for item in (query.item, *(one.item for one in query.found), *([query.answer.item] if query.answer else []))
    ]
    assert page.count("img") == sum(item.kind == "image" for item in shown) > 40
    assert page.count("audio") == sum(item.kind == "audio" for item in shown) >= 3
    assert page.count("figure") == page.count("figcaption") == 8
    assert page.count("table") == 5
    assert page.count("h2") == 5
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_the_page_states_the_figures(html, demo):
    text = " ".join(Page(html).text.split())
    own, linear = (model.retrieval for model in demo.run.models)
    for result in (own, linear):
        for name in DIRECTIONS:
            low, high = result.interval[f"{name}/recall@1"]
            assert f"{100 * result.metrics[f'{name}/recall@1']:.1f} {100 * low:.1f}–{100 * high:.1f}" in text
    assert f"chance {100 * own.chance['mean_recall@1']:.1f}" in text
    assert "scenes in dev" in text


def test_the_figures_take_their_colours_from_the_page(html):
    figures = re.findall(r"<figure[^>]*><svg.*?</svg>", html, flags=re.DOTALL)
    assert len(figures) == 8
    for figure in figures:
        assert "var(--series-0)" in figure
        assert "var(--muted)" in figure
        assert not re.search("<metadata|<style|DejaVu", figure)
    assert "predicted class" in html


@pytest.fixture(scope="module")
def strange(report):
    """The page of what people may write, in its title, notes, queries and classes."""
    query = report.gallery[0]
    evil = replace(query, item=replace(query.item, text='<script>alert("1")</script>'))
    classes = ("犬", "$x$ & y", *report.confusion.classes[2:])
    confusion = replace(report.confusion, classes=classes)
    return evil, render(replace(report, title="<b>", gallery=(evil,), notes=("<i>",), confusion=confusion))


def test_what_people_wrote_cannot_break_the_page(strange):
    evil, html = strange
    assert Page(html).count("script") == Page(html).count("i") - len(evil.found) - bool(evil.answer) == 0


def test_names_of_any_language_and_with_dollars_are_drawn_as_they_are(strange):
    _, html = strange
    assert html.count(">犬</text>") == 2
    assert html.count(">$x$ &amp; y</text>") == 2


def test_without_the_extra_the_demo_runs_and_leaves_the_page_out(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightcrl.report.figures", None)
    with pytest.raises(MissingExtraError, match=r"lightcrl\[report\]"):
        render(gather(demo.run.folder))
    again = run_demo(demo.run.folder, **SMALL)
    assert again.page is None
    assert again.example == demo.example


def test_the_console_shows_all_directions_the_query_and_the_page(demo):
    with console.capture() as capture:
        print_demo(demo)
    shown = capture.get()
    for name in DIRECTIONS:
        assert name.replace("_to_", " to ") in shown
    for part in (
        "dfe",
        "linear",
        "chance",
        "zero-shot, 8 classes",
        demo.example.item.text,
        str(demo.page),
        f"lightcrl serve {demo.run.folder}",
    ):
        assert part in shown
    assert f"{demo.run.models[0].retrieval.metrics['mean_recall@1']:.3f}" in shown


def test_a_folder_without_a_run_has_no_report(tmp_path):
    with pytest.raises(CheckpointError, match="no finished run"):
        gather(tmp_path)


def test_the_demo_keeps_to_its_folder(demo):
    recipe = demo_recipe(demo.run.folder)
    for path in (recipe.folder, recipe.features.folder, recipe.evaluation.zero_shot.data):
        assert Path(path).is_relative_to(demo.run.folder)


def test_confusion_counts_every_picture_once(report, demo):
    counts = report.confusion.counts
    assert counts.sum(1).tolist() == [6] * 8
    top1 = demo.run.models[0].results["zero_shot"].metrics["top1"]
    assert counts.trace() / counts.sum() == pytest.approx(top1)


def test_ranks_of_the_gallery_are_right(report):
    for query in report.gallery:
        first = next((one for one in query.found if one.right), query.answer)
        assert first.place == query.rank
        assert (query.answer is None) == any(one.right for one in query.found)
    by_why = {why: [query for query in report.gallery if query.why == why] for why in ("drawn", "best", "worst")}
    assert len(by_why["drawn"]) == 6
    assert {query.rank for query in by_why["best"]} == {1}
    for best, worst in zip(by_why["best"], by_why["worst"], strict=True):
        assert best.rank <= worst.rank


def test_sounds_come_with_their_outline(report):
    sounds = [query.item for query in report.gallery if query.source == "audio"]
    assert {len(sound.outline) for sound in sounds} == {BARS}
    assert all(max(sound.outline) == 1 for sound in sounds)


def test_perfect_embeddings_find_their_own():
    vectors = torch.eye(5)
    links = np.stack([np.arange(5), np.arange(5)], 1)
    items = [text_item(f"text {number}", "here") for number in range(5)]
    both = {"left": "text", "right": "text"}
    found = gallery(
        Collection(both, dict.fromkeys(both, items), dict.fromkeys(both, vectors), dict.fromkeys(both, links))
    )
    assert {(query.source, query.target) for query in found} == {("left", "right"), ("right", "left")}
    assert all(query.rank == 1 and query.found[0].item.text == query.item.text for query in found)


def test_the_space_states_gaps_and_takes_the_label_that_its_axes_show():
    generator = torch.Generator().manual_seed(0)
    base = torch.zeros(40, 8)
    base[:20, 0], base[20:, 1] = 1, 1
    left = torch.nn.functional.normalize(base + 0.1 * torch.randn(40, 8, generator=generator), dim=1)
    links = np.stack([np.arange(40), np.arange(40)], 1)
    labels = {
        "half": {group: str(group < 20) for group in range(40)},
        "parity": {group: str(group % 2) for group in range(40)},
    }
    found = look({"left": left, "right": -left}, {"left": links, "right": links})
    assert found.label == ""
    assert found.gaps["left", "right"] == pytest.approx(2 * float(left.mean(0).norm()), abs=1e-5)
    assert found.partners == pytest.approx(2, abs=1e-5)
    assert found.strangers < 1.9
    assert found.points["left"].shape == (40, 2)
    same = look({"left": left, "right": left}, {"left": links, "right": links}, labels)
    assert (same.label, same.partners) == ("half", 0)
    assert same.gaps["left", "right"] == pytest.approx(0)


@pytest.fixture(scope="module")
def second(report):
    return replace(report, name="a-run-with-quite-a-long-name", models=report.models[::-1])


@pytest.fixture(scope="module")
def together(report, second):
    return render(report, second)


def test_several_runs_stand_side_by_side_and_then_each_by_itself(report, second, together):
    page = Page(together)
    text = " ".join(page.text.split())
    assert "2 runs side by side" in text
    assert "All runs were measured on equal numbers of queries" in text
    assert page.count("article") == 2
    assert page.count("table") == 1 + 2 * 5
    assert page.count("figure") == page.count("figcaption") == 2 + 2 * 7
    assert page.count("td") > 2 * len(report.models) * (len(DIRECTIONS) + 4)
    for run in (report, second):
        for model in run.models:
            assert (
                f"{run.name} {model.method} {model.seed} {100 * model.retrieval.metrics['mean_recall@1']:.1f}" in text
            )
    assert "demo linear" in together  # the baseline of the first run, among the lines of the figures


def test_runs_of_one_name_are_told_apart_by_their_folders_and_other_splits_are_said(report):
    again = replace(report, folder="again", split="test", groups={**report.groups, "test": report.groups["dev"]})
    text = " ".join(Page(render(report, again)).text.split())
    assert "run dfe 0" in text
    assert "again dfe 0" in text
    assert "their figures are not comparable" in text


def test_the_classes_are_looked_at_beside_their_prompts(report):
    shown = report.classes
    assert shown.label == "class"
    assert {name: len(points) for name, points in shown.points.items()} == {"image": 48, "text": 8}
    assert shown.labels["text"] == report.confusion.classes
    assert sorted(set(shown.labels["image"])) == sorted(report.confusion.classes)
    assert 0 < shown.gaps["image", "text"] < 2


def test_curves_of_every_model_are_there(report, demo):
    for model, own in zip(report.models, demo.run.models, strict=True):
        assert model.retrieval.curves == own.retrieval.curves
        assert model.retrieval.curves.keys() == set(DIRECTIONS)
        for name, curve in model.retrieval.curves.items():
            assert curve["k"][-1] == model.retrieval.counts[f"{name}/gallery"]
            assert curve["recall"][-1] == pytest.approx(1)


@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_the_page_without_a_complaint(html, tmp_path, width):
    browse(html, tmp_path, width)


def test_a_browser_shows_two_runs_on_a_phone(together, tmp_path):
    browse(together, tmp_path, 390)
