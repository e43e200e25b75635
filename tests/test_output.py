"""What commands write to standard output and as JSON, and what their help shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from forked import COMMAND, Program
from lightcrl.cli import app
from lightcrl.files.local import json_text
from lightcrl.report import console, reproduction_figure
from lightcrl.studies import reproduce

RECIPE = """
name = "small"
[data]
source = "synthetic"
dev_fraction = 0.3
[data.options]
groups = 24
captions = 1
[encoders.image]
kind = "image"
model = "builtin"
options = { size = 48, grid = 2 }
[encoders.text]
kind = "text"
model = "builtin"
options = { dim = 64 }
[method]
dim = 8
heads = 2
feedforward = 8
[training]
epochs = 1
batch_size = 8
tensorboard = false
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> SimpleNamespace:
    """A run in a process of its own, its two outputs piped."""
    folder = tmp_path_factory.mktemp("output")
    (folder / "small.toml").write_text(RECIPE)
    (folder / "captions.txt").write_text("a red square\n\na blue circle\n")
    words = [sys.executable, "-m", "lightcrl", "run", "small.toml", "--output", "run", "--json", "-"]
    found = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True, encoding="utf-8")
    return SimpleNamespace(folder=folder, run=folder / "run", out=found.stdout, err=found.stderr)


def test_a_runs_json_is_its_metrics_byte_by_byte(done):
    assert done.out == (done.run / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(done.out)["recipe"] == "small"


def test_without_a_terminal_there_are_lines_but_no_colours_and_no_bars(done):
    other = Program(COMMAND, "run", "small.toml", "--output", "other", cwd=done.folder)
    output, error = other.communicate()
    assert (other.returncode, error) == (0, "")
    for text in (output, done.err):
        assert "image: 24 items" in text
        assert "trained dfe seed 0" in text
        assert "\x1b" not in text
        assert "\r" not in text
        assert not re.search(r"\d+:\d\d:\d\d|\d/\d+ ", text)  # a bar ends with its count and its times


def call(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_embed_tells_what_it_wrote(done):
    place = done.folder / "vectors.npy"
    told = json.loads(
        call("embed", done.run, done.folder / "captions.txt", "--modality", "text", "--output", place, "--json", "-")
    )
    assert told["vectors"] == str(place)
    assert told["shape"] == list(np.load(place).shape) == [2, 12]
    assert told["ids"] == json.loads(place.with_suffix(".json").read_text())["ids"]


def test_export_tells_what_it_wrote(done):
    pytest.importorskip("onnxscript")
    place = done.folder / "exported"
    told = json.loads(call("export", done.run, "--modality", "image", "--output", place, "--json", "-"))
    assert told["folder"] == str(place)
    assert told["bytes"] == {path.name: path.stat().st_size for path in sorted(place.glob("*.onnx"))}
    assert set(told["bytes"]) == {"image.onnx"}


def test_reproduce_writes_what_its_folder_holds(done, monkeypatch):
    family = SimpleNamespace(to_json=lambda: {"claims": ["\u00e9"]})
    monkeypatch.setattr(reproduce, "reproduce", lambda *args, **more: family)
    monkeypatch.setattr(reproduction_figure, "write_figures", lambda done: None)
    monkeypatch.setattr(console, "print_reproduction", lambda done: None)
    assert call("reproduce", done.folder, "--json", "-") == json_text(family.to_json())
    call("reproduce", done.folder, "--json", done.folder / "new" / "out.json")
    assert (done.folder / "new" / "out.json").read_text(encoding="utf-8") == json_text(family.to_json())


def leaves(command: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    shown = [(name, below) for name, below in inner.items() if not below.hidden]
    return [leaf for name, below in shown for leaf in leaves(below, (*path, name))] if inner else [path]


LEAVES = leaves(typer.main.get_command(app))


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_shows_an_example(path, monkeypatch):
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    assert f"lightcrl {' '.join(path)} " in result.output.split("Usage:")[1].split("\n", 1)[1]


def test_options_stand_in_panels():
    text = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "120", "NO_COLOR": "1"}).output
    places = [text.index(words) for words in ("Selection", "--methods", "Output", "--output", "--json")]
    assert places == sorted(places)


def test_every_example_names_options_that_there_are():
    root = typer.main.get_command(app)
    for path in LEAVES:
        command = root
        for name in path:
            command = command.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in (command.epilog or "").split() if word.startswith("--")} <= known
