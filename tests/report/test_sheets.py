"""One table, shown alike on the console, in Markdown and on a page."""

from __future__ import annotations

import pytest

from lightcrl.metrics.result import Result
from lightcrl.report.progress import console
from lightcrl.report.sheets import figures_sheet, percent, print_sheet
from lightcrl.sheets import Cell, Sheet, markdown_sheet
from pages import Page

SHEET = Sheet(
    "recall of <b>two</b> methods",
    ("method", "mean\nR@1", "options"),
    [
        ("a|b [red]", Cell("0.39", "0.36–0.41", "better", own=True), "dim=2"),
        ("mean", "0.39", ""),
        ("chance", "0.01", ""),
    ],
    note="on dev",
    words=frozenset({0, 2}),
    looks={1: "sum", 2: "faint"},
)


def test_markdown_has_the_title_every_cell_in_one_line_and_the_note():
    assert markdown_sheet(SHEET) == [
        "## recall of <b>two</b> methods",
        "",
        "| method | mean R@1 | options |",
        "|---|---|---|",
        "| a\\|b [red] | 0.39 (0.36–0.41) better | dim=2 |",
        "| mean | 0.39 |  |",
        "| chance | 0.01 |  |",
        "",
        "on dev",
        "",
    ]


def test_the_console_shows_the_small_print_below_the_figure_and_takes_nothing_for_markup():
    with console.capture() as capture:
        print_sheet(SHEET)
    lines = capture.get().splitlines()
    (row,) = (number for number, line in enumerate(lines) if "a|b [red]" in line)
    assert "0.39 better │ dim=2" in lines[row]
    assert "│   0.36–0.41 │" in lines[row + 1]
    assert (lines[0].strip(), lines[-1]) == ("recall of <b>two</b> methods", "on dev")


def test_a_page_shows_the_same_and_escapes_it():
    fill = pytest.importorskip("lightcrl.report.page").make_environment
    html = str(fill().get_template("sheet.html.j2").module.table(SHEET))
    assert " ".join(Page(html).text.split()) == (
        "recall of <b>two</b> methods method mean R@1 options a|b [red] 0.39 0.36–0.41 better dim=2 mean 0.39 "
        "chance 0.01 on dev"
    )
    assert html.count("<tr class=sum>") == html.count('"left faint"') / 2 == 1
    assert '<td class=" own">0.39 <small>0.36–0.41</small> better</td>' in html


def test_figures_without_interval_or_chance_have_empty_cells():
    result = Result({"top1": 0.5, "rank": 3.0}, {"top1": (0.4, 0.6)}, {"top1": 0.1}, {})
    sheet = figures_sheet(result, "figures")
    assert [[str(cell) for cell in row] for row in sheet.rows] == [
        ["top1", "0.500", "0.400–0.600", "0.1000"],
        ["rank", "3.000", "", ""],
    ]
    assert [str(percent(result, name)) for name in ("top1", "rank", "top5")] == ["50.0 (40.0–60.0)", "300.0", ""]
