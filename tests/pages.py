"""Pages as a reader has them: their tags and text, and what a browser says of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Page(HTMLParser):
    """What stands on a page: tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def browse(html: str, folder: Path, width: int) -> None:
    """Show a page in a window of that many pixels: nothing on its console, nothing wider, and something to see."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser on PATH; looked for {', '.join(BROWSERS)}")
    page, shot = folder / "report.html", folder / "page.png"
    # Proves that what a page says on its console gets here, and that nothing is wider than the window.
    probe = "<script>console.log(`wide ${document.documentElement.scrollWidth}`)</script>"
    page.write_text(html.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    # A window cannot be as narrow as a phone; a frame can.
    frame = folder / "frame.html"
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
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1200,3000",
            f"--screenshot={shot}",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HOME": str(folder)},
        check=False,
    )
    if not shot.exists():
        pytest.skip(f"{browser} does not run here: {done.stderr.strip()[-200:]}")
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(said) == 1, said
    assert f"wide {width}" in said[0]
    with Image.open(shot) as picture:
        seen = picture.convert("RGB").crop((0, 0, width, 3000))
        assert len(seen.getcolors(2**24)) > (1000 if "<img" in html else 50)  # not a blank page
