"""Every tutorial runs as it stands, in the order of the site, in one folder of a newcomer."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightcrl.cli import app

PROJECT = Path(__file__).parents[1]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', flags=re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """The tutorials in the order of the site's navigation."""
    site = tomllib.loads((PROJECT / "zensical.toml").read_text())["project"]["nav"]
    (tutorials,) = [section["Tutorials"] for section in site if "Tutorials" in section]
    return [PROJECT / "docs" / page for page in tutorials]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


def test_every_tutorial_is_in_the_navigation():
    assert sorted(pages()) == sorted((PROJECT / "docs/tutorials").glob("*.md"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_tutorial_runs_word_for_word(page, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    names: dict = {"__name__": page.stem}
    commands = 0
    for language, title, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if title:
            (place / title).write_text(text)
        elif language == "python":
            exec(compile(text, page.name, "exec"), names)
        elif language == "bash":
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                # The server runs until it is stopped; tests/serve starts it.
                if words[:1] == ["lightcrl"] and words[1] != "serve":
                    done = CliRunner().invoke(app, words[1:])
                    assert done.exit_code == 0, f"{line}\n{done.output}"
                    commands += 1
    assert commands >= 1
