"""Every command of README and docs runs as it stands: in a tutorial, in a story of `stories.txt`, or in a named test.

A story is what one reader types in one folder, in an order that works, with what each command must write or print.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import hub_stand_in
import reader
import tiny
from lightcrl.checkpoint import load_checkpoint
from lightcrl.cli import app
from test_readme import commands
from test_tutorials import FENCE, pages

PROJECT = Path(__file__).parents[1]


def read_stories() -> dict[str, dict[str, str]]:
    """Commands by the function of `reader.py` that fills their folder; below each, what it writes or prints."""
    stories: dict[str, dict[str, str]] = {}
    for line in (PROJECT / "tests/stories.txt").read_text().splitlines():
        if line.startswith("# "):
            stories[line[2:]] = story = {}
        elif line.startswith("lightcrl "):
            assert line not in story, f"{line} is told twice"
            story[command := line] = ""
        elif line:
            story[command] = line.strip()
    return stories


STORIES = read_stories()
# Commands by a pattern: why they do not run here, the test of their command line, and a text by which it is known.
ELSEWHERE: Mapping[str, tuple[str, str, str]] = {
    "demo": ("a minute of training; its functions are called", "test_demo.py", "run_demo("),
    "serve .*": ("runs until it is stopped", "serve/test_process.py", '"serve"'),
    "reproduce .*": ("trains dozens of models", "studies/test_reproduce.py", 'call("reproduce"'),
    "mteb .*": ("imports half of the field, and needs tasks from the hub", "bridges/test_mteb.py", '"mteb"'),
    "compare .* --extend .*": ("25 trainings and more", "studies/test_extensions.py", '"--extend"'),
    "compare .*": ("trains up to ten methods, each up to five times", "studies/test_compare.py", '"compare"'),
    "run (photos|recipes/flickr8k).toml --rehearse": (
        "`run my.toml` has a rehearsal",
        "stories.txt",
        "my.toml --rehearse",
    ),
    "run my.toml --set features.engine=ray": ("starts a cluster", "contracts/test_engines.py", '"ray"'),
    "(clean recipes/flickr8k.toml|run runs/flickr8k-clean/).*": (
        "needs real encoders",
        "studies/test_clean.py",
        '"clean"',
    ),
    "evaluate text-similarity .* nyu-mll/.*": ("from the hub", "studies/test_paper_recipes.py", "nyu-mll/glue"),
    "export .*": ("torch takes seconds for every graph", "test_export.py", '"export"'),
    "imagine .* --pipeline .*": ("needs a pipeline of diffusers", "heads/test_imaginer.py", '"--pipeline"'),
}


def names() -> list[str]:
    """Commands of a group that the docs name without arguments."""
    return [command for command in commands() if re.fullmatch(r"lightcrl (index|evaluate) [a-z-]+", command)]


def of_tutorials() -> set[str]:
    """Lines that `test_tutorials.py` runs."""
    blocks = [text for page in pages() for language, _, text in FENCE.findall(page.read_text()) if language == "bash"]
    return {line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


@pytest.fixture
def folder(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader, who is at home there and has the hub's stand-in for a hub."""
    (place := root / request.node.callspec.id).mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.delenv("LIGHTCRL_CACHE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.setattr("lightcrl.report.progress.console.width", 200)  # paths stay on one line
    monkeypatch.setattr("webbrowser.open", lambda uri: typer.echo(f"opened {uri}"))
    return place


def words_of(command: str) -> list[str]:
    """The words that a shell passes on; the docs' digest stands for that of the reader's model."""
    words = [str(Path(word).expanduser()) if word.startswith("~") else word for word in shlex.split(command)[1:]]
    return [load_checkpoint("runs/seen").digest[:4] if word == "4f1d" else word for word in words]


def tell(command: str, effect: str) -> None:
    """Run a command as it stands, and look for its effect."""
    kind, _, expected = effect.partition(" ")
    before = Path(expected).stat().st_mtime_ns if kind == "writes" and Path(expected).exists() else 0
    done = CliRunner().invoke(app, words_of(command), env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 0, f"{command}\n{done.output}"
    if kind == "writes":
        assert Path(expected).exists(), f"{command} did not write {expected}\n{done.output}"
        assert Path(expected).stat().st_mtime_ns > before, f"{command} left {expected} as it was\n{done.output}"
    else:
        assert kind == "prints", f"{command} has no effect"
        assert re.search(expected, done.output), f"{command} does not print {expected}\n{done.output}"


@pytest.mark.parametrize("name", STORIES)
def test_commands_do_what_the_docs_say(name: str, folder: Path) -> None:
    with hub_stand_in.serving(folder / "hub") as hub:
        if name == "of_the_hub":
            hub.upload("sentence-transformers/all-MiniLM-L6-v2", tiny.bert(folder / "bert"))
        getattr(reader, name)()
        for command, effect in STORIES[name].items():
            tell(command, effect)


def test_every_command_of_the_docs_is_run_and_no_other() -> None:
    told = [command for story in STORIES.values() for command in story]
    tutorials, untold = of_tutorials(), set(commands())
    assert len(told) == len(set(told))
    assert not set(told) & tutorials
    assert set(told) <= untold
    untold -= {*told, *tutorials, *names()}
    for pattern in ELSEWHERE:
        assert not [command for command in told if re.fullmatch(f"lightcrl {pattern}", command)], pattern
        matches = {command for command in untold if re.fullmatch(f"lightcrl {pattern}", command)}
        assert matches, f"no command that is left is one of {pattern}"
        untold -= matches
    assert untold == set()
    for name in names():
        assert [command for command in {*told, *tutorials} if command.startswith(f"{name} ")], name


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_a_command_that_is_not_run_here_is_run_by_the_named_test(pattern: str) -> None:
    _, test, mark = ELSEWHERE[pattern]
    assert mark in (PROJECT / "tests" / test).read_text()
