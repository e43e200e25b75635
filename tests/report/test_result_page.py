"""One evaluation on a page: every figure with its interval, what can be drawn, and nothing from elsewhere."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from lightcrl.metrics.probe import evaluate as linear_probe
from lightcrl.metrics.retrieval import Retrieval
from lightcrl.metrics.similarity import calibrate
from lightcrl.metrics.similarity import evaluate as text_similarity
from lightcrl.report.drawing import draw_lines, drawing, make_axes
from lightcrl.report.result_page import TOLD, render_result
from pages import Page, browse
from samples import units


def pairs():
    """Two spaces of pairs: one whose classes lie apart, one where all thresholds are as good."""
    generator = np.random.default_rng(0)
    labels = np.arange(80) % 2
    spaces = {
        "aligned a-a": 0.5 + 0.3 * labels + generator.normal(0, 0.1, 80),
        "raw <a>": generator.normal(0.97, 0.01, 80),
    }
    thresholds = {space: calibrate(found, labels) for space, found in spaces.items()}
    return text_similarity(spaces, labels, thresholds | {"raw <a>": 5.0})


def retrieval():
    links = np.stack([np.arange(60)] * 2, 1)
    vectors = {"image": units(60, 4, 1, torch.float32), "text": units(60, 4, 2, torch.float32)}
    task = Retrieval({"image": links, "text": links})
    result = task(vectors)
    result.curves.update(task.curves(vectors))
    return result


def probe():
    labels = np.arange(24) % 3
    return linear_probe({"raw image": units(24, 5)}, labels, {"raw image": units(24, 5, 1)}, labels, epochs=(1, 2))


CASES = {"similarities": pairs, "precision": retrieval, "epochs": probe}


@pytest.fixture(params=sorted(CASES))
def case(request):
    result = CASES[request.param]()
    return request.param, result, render_result(result, "a_task", "some & more.jsonl", "a run")


def test_every_figure_stands_there_with_its_interval(case):
    _, result, html = case
    text = " ".join(Page(html).text.split())
    assert "A task on some & more.jsonl" in text
    for name, value in result.metrics.items():
        low, high = result.interval[name]
        assert f"{name.partition('/')[2] or name} {value:.3f} {low:.3f}–{high:.3f}" in text
    for value in (*result.thresholds.values(), *result.strengths.values()):
        assert f"{value:.3g}" in text


def test_what_can_be_drawn_is_drawn_and_only_that(case):
    name, _, html = case
    page = Page(html)
    assert page.count("figure") == page.count("figcaption") == 1
    assert TOLD[name].split(".")[0] in page.text
    assert "var(--series-0)" in html


def test_the_page_of_a_result_loads_nothing_and_cannot_be_broken_by_names(case):
    _, _, html = case
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert Page(html).count("script") == Page(html).count("a") == 0


def test_each_space_has_a_panel_with_its_threshold():
    result = pairs()
    html = render_result(result, "text_similarity", "pairs", "run")
    assert f"from {result.thresholds['aligned a-a']:.3g} similar" in html
    assert "all alike" in html  # a threshold beyond all cosines
    assert html.count("raw &lt;a&gt;</text>") == 1


def test_scores_have_no_classes_to_draw():
    scores = np.linspace(0, 5, 30)
    html = render_result(text_similarity({"raw a": np.sin(scores)}, scores), "text_similarity", "sts", "run")
    assert Page(html).count("figure") == 0
    assert Page(html).count("table") == 1


def test_a_browser_shows_it_on_a_phone(tmp_path):
    browse(render_result(pairs(), "text_similarity", "pairs.jsonl", "run"), tmp_path, 390)


def test_a_line_of_one_point_at_step_0_has_an_axis():
    with drawing():
        _, axes = make_axes()
        draw_lines(axes, {"csa": np.array([[0, 0.8]])}, marker="o")
    assert axes.get_xlim() == (0, 1.02)
    assert [text.get_text() for text in axes.texts] == ["csa"]
