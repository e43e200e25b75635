"""The demo in small: one command, scores far above chance, a page that needs nothing but itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightcrl.console import console, print_demo
from lightcrl.data.base import text_item
from lightcrl.demo import demo_recipe, run_demo
from lightcrl.errors import CheckpointError, MissingExtraError
from lightcrl.evaluation.gallery import BARS, Collection, gallery
from lightcrl.evaluation.report import gather, render
from lightcrl.evaluation.space import look

SMALL = {"groups": 300, "epochs": 6, "pictures": 6}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
DIRECTIONS = [f"{a}_to_{b}" for a in ("image", "text", "audio") for b in ("image", "text", "audio") if a != b]


class Page(HTMLParser):
    """What stands on a page: tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


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
        assert model.zero_shot.counts == {"items": 48, "classes": 8}
        # Measured: 0.62 and 0.42.
        assert model.zero_shot.metrics["top1"] > 0.25 == 2 * model.zero_shot.chance["top1"]


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
    assert page.count("figure") == page.count("figcaption") == 6
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
    assert len(figures) == 6
    for figure in figures:
        assert "var(--series-0)" in figure
        assert "var(--muted)" in figure
        assert not re.search("<metadata|<style|DejaVu", figure)
    assert "taken for" in html


def test_what_people_wrote_cannot_break_the_page(report):
    query = report.gallery[0]
    evil = replace(query, item=replace(query.item, text='<script>alert("1")</script>'))
    html = render(replace(report, title="<b>", gallery=(evil,), notes=("<i>",)))
    assert Page(html).count("script") == Page(html).count("i") - len(evil.found) - bool(evil.answer) == 0


def test_names_of_any_language_and_with_dollars_are_drawn_as_they_are(report):
    classes = ("犬", "$x$ & y", *report.confusion.classes[2:])
    html = render(replace(report, confusion=replace(report.confusion, classes=classes)))
    assert html.count(">犬</text>") == 2
    assert html.count(">$x$ &amp; y</text>") == 2


def test_without_the_extra_the_demo_runs_and_leaves_the_page_out(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightcrl.evaluation.figures", None)
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
    for part in ("dfe", "linear", "chance", "zero-shot, 8 classes", demo.example.item.text, str(demo.page)):
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
    top1 = demo.run.models[0].zero_shot.metrics["top1"]
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
    found = look({"left": left, "right": -left}, {"left": links, "right": links}, labels)
    assert found.label == "half"
    assert found.gaps["left", "right"] == pytest.approx(2 * float(left.mean(0).norm()), abs=1e-5)
    assert found.partners == pytest.approx(2, abs=1e-5)
    assert found.strangers < 1.9
    assert found.points["left"].shape == (40, 2)
    same = look({"left": left, "right": left}, {"left": links, "right": links})
    assert (same.label, same.partners) == ("", 0)
    assert same.gaps["left", "right"] == pytest.approx(0)


@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_the_page_without_a_complaint(html, tmp_path, width):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser on PATH; looked for {', '.join(BROWSERS)}")
    page, shot = tmp_path / "report.html", tmp_path / "page.png"
    # Proves that what a page says on its console gets here, and that nothing is wider than the window.
    probe = "<script>console.log(`wide ${document.documentElement.scrollWidth}`)</script>"
    page.write_text(html.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    # A window cannot be as narrow as a phone; a frame can.
    frame = tmp_path / "frame.html"
    style = f"position: fixed; top: 0; left: 0; border: 0; width: {width}px; height: 3000px"
    frame.write_text(f'<!doctype html><iframe src="report.html" style="{style}"></iframe>', encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --enable-logging=stderr"
    )
    done = subprocess.run(
        [
            browser,
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1200,3000",
            f"--screenshot={shot}",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HOME": str(tmp_path)},
        check=False,
    )
    if not shot.exists():
        pytest.skip(f"{browser} does not run here: {done.stderr.strip()[-200:]}")
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(said) == 1, said
    assert f"wide {width}" in said[0]
    with Image.open(shot) as picture:
        seen = picture.convert("RGB").crop((0, 0, width, 3000))
        assert len(seen.getcolors(2**24)) > 1000  # not a blank page
