"""The site builds without a warning, and its navigation has every page."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
SITE = tomllib.loads((PROJECT / "zensical.toml").read_text())["project"]


def pages(section: object) -> list[str]:
    if isinstance(section, str):
        return [section]
    parts = section.values() if isinstance(section, dict) else section
    return [page for part in parts for page in pages(part)]


def test_the_site_builds_without_a_warning_and_shows_the_reference(tmp_path):
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    shutil.copy(PROJECT / "zensical.toml", tmp_path)
    for name in ("src", "tests"):
        (tmp_path / name).symlink_to(PROJECT / name)
    words = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site/reference/model.html").read_text()
    assert "Load the embedder of a run" in reference
    assert "lightcrl run [OPTIONS]" in (tmp_path / "site/reference/command_line.html").read_text()
    for page in pages(SITE["nav"]):
        assert (tmp_path / "site" / page.replace(".md", ".html")).exists(), page


def test_every_page_is_in_the_navigation():
    written = {str(path.relative_to(PROJECT / "docs")) for path in (PROJECT / "docs").rglob("*.md")}
    assert written == set(pages(SITE["nav"]))


def test_the_command_line_page_has_every_help_text():
    page = (PROJECT / "docs/reference/command_line.md").read_text()
    for help_text in (PROJECT / "tests/golden/help").glob("*.txt"):
        assert f'"{help_text.name}"' in page, help_text.name
