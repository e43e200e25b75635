"""What the README says is what happens: its commands parse, its Python runs, its files are there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lightcrl.cli import app
from test_extras import PACKAGES

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
DOCS = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def unquoted(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def commands() -> list[str]:
    """Commands in blocks, and whole commands within sentences and tables; `...`, `A|B` and `[A]` make a synopsis."""
    lines = [line for path in DOCS for block in blocks("bash", path.read_text()) for line in block.splitlines()]
    indented = re.compile(r"^    (lightcrl [a-z]+ .*)$", flags=re.MULTILINE)
    lines += [line for path in DOCS for line in indented.findall(path.read_text())]
    texts = [re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL) for path in DOCS if path.name != "LOG.md"]
    lines += [words for text in texts for words in re.findall(r"`(lightcrl [a-z]+ [^`\n]*)`", text)]
    whole = [line.partition(" #")[0].strip() for line in lines if line.startswith("lightcrl ")]
    return sorted({line for line in whole if "..." not in line and not re.search(r"[|<>…]| \[", unquoted(line))})


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_docs_is_one_that_exists(command):
    group = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    subcommand = group.commands[words[0]]
    # An option may change the console until its context is closed.
    with subcommand.make_context(words[0], words[1:]):
        pass


def test_the_two_commands_are_targets_of_the_makefile_and_install_first():
    makefile = (PROJECT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target} " in README
        dry = subprocess.run(
            ["make", "-n", target, "VENV=.none"], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        assert "-m venv .none" in dry.stdout
        assert "-c constraints.txt" in dry.stdout
        assert f"-e '.[{'demo' if target == 'demo' else 'dev'}]'" in dry.stdout
        assert ("-e '.[dev]'" in dry.stdout) == (target == "test")
    assert "torch==" in (PROJECT / "constraints.txt").read_text()
    assert re.search(r"^demo: \$\(DEMO\)$", makefile, flags=re.MULTILINE)


def test_the_python_example_runs_as_it_stands(tmp_path):
    (tmp_path / "recipes").symlink_to(PROJECT / "recipes")
    (example,) = blocks("python")
    # As with the core packages alone: every extra is missing.
    hidden = [name for packages in PACKAGES.values() for name in packages]
    example = f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n{example}"
    environment = {"LIGHTCRL_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:lightcrl", "-c", example],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    recall, shape = re.match(r"([\d.]+)\n\((\d+), \d+\) \[\[", done.stdout).groups()
    assert float(recall) > 0.2
    assert shape == "2"


def test_every_link_and_every_path_of_the_layout_is_there():
    for path in DOCS:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
    for name in re.findall(r"^      (\w+/|\w+\.py)", README, flags=re.MULTILINE):
        assert (PROJECT / "src/lightcrl" / name).exists()


def test_examples_of_the_docs_are_valid_recipes():
    import tomllib

    from lightcrl.recipe import make_recipe

    shortest = [
        block
        for path in DOCS
        for block in blocks("toml", path.read_text())
        if "[data]" in block and "[encoders." in block
    ]
    assert len(shortest) >= 2
    for block in shortest:
        make_recipe({"name": "example", **tomllib.loads(block)})
