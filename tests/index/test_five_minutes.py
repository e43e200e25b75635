"""The five-minute paths of docs/search.md, every command word for word: photographs, a catalogue, sounds."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import lightcrl
from lightcrl.cli import app
from lightcrl.recipe import make_recipe
from recipes import builtin
from shelves import picture

DOCS = Path(__file__).parents[2] / "docs" / "search.md"
HEAD = "## Five minutes"


def commands() -> list[str]:
    """The command lines of the section, without their comments."""
    section = DOCS.read_text(encoding="utf-8").split(HEAD)[1].split("\n## ")[0]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith("lightcrl ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of pictures, texts and sounds, with photographs, a catalogue and recordings beside it."""
    soundfile = pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("paths")
    table = {
        "name": "mine",
        "output": str(folder / "runs" / "mine"),
        "data": {"source": "synthetic", "dev_fraction": 0.25, "options": {"groups": 40}},
        "encoders": {kind: builtin(kind) for kind in ("image", "text", "audio")},
        "features": {"folder": str(folder / "features")},
        "method": {"name": "linear", "dim": 16},
        "training": {"epochs": 1, "batch_size": 16, "tensorboard": False},
    }
    lightcrl.run(make_recipe(table))
    (folder / "runs" / "sounds").symlink_to(folder / "runs" / "mine")
    for number in range(20):
        picture(folder / "photos" / "dogs" / f"{number}.jpg", number)
        picture(folder / "pictures" / f"{number}.png", 100 + number)
        tone = np.sin(np.arange(8000) / (3 + number)).astype(np.float32) / 2
        (folder / "recordings").mkdir(exist_ok=True)
        soundfile.write(folder / "recordings" / f"{number}.wav", tone, 8000)
    (folder / "photos" / "broken.jpg").write_bytes(b"no picture")
    picture(folder / "beach.jpg", 50)
    soundfile.write(folder / "siren.wav", np.sin(np.arange(8000) / 4).astype(np.float32) / 2, 8000)
    rows = [
        f"{n},pictures/{n}.png,red shoes of size {n},{40 + 5 * n},{('winter', 'summer')[n % 2]},{int(n > 15)}\n"
        for n in range(20)
    ]
    (folder / "catalogue.csv").write_text("sku,picture,title,price,season,sold_out\n" + "".join(rows))
    return folder


def test_every_command_of_the_five_minutes_works_word_for_word(folder, monkeypatch):
    opened = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr("webbrowser.open", opened.append)
    said = {}
    lines = commands()
    assert len(lines) >= 11
    for line in lines:
        words = shlex.split(line)[1:]
        told = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert told.exit_code == 0, f"{line}\n{told.output}"
        said[line] = " ".join(told.output.split())
    outputs = list(said.values())
    assert "20 added" in outputs[0]
    assert "broken.jpg" in outputs[0]
    assert len(opened) == 1
    again = next(text for line, text in said.items() if line.startswith("lightcrl index add"))
    assert "0 added, 0 replaced, 20 already present; 0 encoded" in again
    catalogue = next(text for line, text in said.items() if line.startswith("lightcrl index build runs/mine catalogue"))
    assert "40 added" in catalogue
    removed = next(text for line, text in said.items() if line.startswith("lightcrl index remove"))
    assert removed == "8 removed, 32 left"
