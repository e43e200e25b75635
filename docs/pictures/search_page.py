"""The picture of the search page in the README: the demo's page, as a browser shows it.

    python docs/pictures/search_page.py runs/demo

starts `lightcrl serve`, asks a question in Chromium (extra `dev`) and writes `search_page.webp` beside this file.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_suffix(".webp")
QUESTION = "three hearts on a dark background"
SIZE = {"width": 1280, "height": 820}
LOADED = """() => [...document.querySelectorAll(".card img")].every(
  (picture) => picture.naturalWidth || picture.getBoundingClientRect().top > innerHeight,
)"""
MOST = 200_000  # bytes of the file


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of `lightcrl serve` on a free port, once it is ready."""
    command = [sys.executable, "-m", "lightcrl", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            lines = iter(server.stdout or ())
            address = next(match[0] for line in lines if (match := re.search(r"http://\S+", line)))
            while True:
                try:
                    urlopen(f"{address}/readyz").read()
                    break
                except OSError:
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def photograph(address: str, question: str, modality: str, size: dict[str, int]) -> Image.Image:
    """The page with the results of a question, of one modality."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=size, color_scheme="light", reduced_motion="reduce")
        page.goto(f"{address}/#q={question.replace(' ', '+')}&modality={modality}")
        page.wait_for_selector(".score")
        # The page's own policy forbids `wait_for_function`, which compiles a text.
        while not page.evaluate(LOADED):
            page.wait_for_timeout(100)
        picture = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(picture)).convert("RGB")


def main() -> None:
    """Take the picture and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of lightcrl demo")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--modality", default="image", help="modality of the results")
    parser.add_argument("--width", type=int, default=SIZE["width"])
    parser.add_argument("--height", type=int, default=SIZE["height"])
    parser.add_argument("--output", type=Path, default=PICTURE)
    given = parser.parse_args()
    with served(given.run) as address:
        picture = photograph(address, given.question, given.modality, {"width": given.width, "height": given.height})
    picture.save(given.output, **({"quality": 82, "method": 6} if given.output.suffix == ".webp" else {}))
    if given.output == PICTURE and given.output.stat().st_size > MOST:
        raise SystemExit(f"{PICTURE} has {given.output.stat().st_size:,} bytes; expected at most {MOST:,}.")


if __name__ == "__main__":
    main()
