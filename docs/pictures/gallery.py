"""The pictures of docs/gallery.md: parts of report pages as a browser shows them.

    lightcrl demo --output runs/demo
    lightcrl clean recipes/world.toml --output runs/clean
    lightcrl compare recipes/extend/sound.toml --extend runs/seen --output runs/compare
    python docs/pictures/gallery.py runs

writes a WebP file per part beside this file (extra `dev`, and Chromium). `search_page.py` does so for the search page.
"""

from __future__ import annotations

import argparse
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
WIDTH, MOST = 1000, 60_000  # pixels; bytes of a file


@dataclass(frozen=True)
class Part:
    """A part of a report.

    Attributes:
        run: folder of the run below that of the command line.
        heading: heading where the part starts.
        height: its greatest height in pixels; it ends before the next heading of the page.
    """

    run: str
    heading: str
    height: int = 760


PARTS = {
    "report_data": Part("demo", "Data and models", 590),
    "report_retrieval": Part("demo", "Retrieval in every direction"),
    "report_zero_shot": Part("demo", "Zero-shot classification", 445),
    "report_space": Part("demo", "The embedding space", 620),
    "report_queries": Part("demo", "Queries and results"),
    "cleaning": Part("clean", "Pairs"),
    "comparison": Part("compare", "Recall by method, and paired differences"),
}


def photograph(page: Page, part: Part) -> Image.Image:
    """Return the part of the page."""
    tops = {
        box["text"]: box["top"]
        for box in page.evaluate(
            """() => [...document.querySelectorAll("h2")].map(
              (heading) => ({text: heading.textContent.trim(), top: heading.getBoundingClientRect().top + scrollY}))"""
        )
    }
    start = next(top for text, top in tops.items() if text == part.heading)
    end = min((top for top in tops.values() if top > start), default=start + part.height)
    area = {"x": 0, "y": max(0, start - 16), "width": WIDTH, "height": min(part.height, end - start)}
    picture = page.screenshot(full_page=True, clip=area)
    return Image.open(io.BytesIO(picture)).convert("RGB")


def main() -> None:
    """Take the pictures and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder with demo, clean and compare, each with a report.html")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    given = parser.parse_args()
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light", reduced_motion="reduce")
        for name in given.only:
            page.goto((given.runs / PARTS[name].run / "report.html").absolute().as_uri())
            target, quality = HERE / f"{name}.webp", 80
            # Pictures below the window are loaded late.
            page.evaluate(
                """async () => {
                  const pictures = [...document.images];
                  pictures.forEach((picture) => { picture.loading = "eager"; });
                  await Promise.all(pictures.map((picture) => picture.decode().catch(() => null)));
                }"""
            )
            picture = photograph(page, PARTS[name])
            picture.save(target, quality=quality, method=6)
            while target.stat().st_size > MOST and quality > 30:
                quality -= 10
                picture.save(target, quality=quality, method=6)
            if target.stat().st_size > MOST:
                raise SystemExit(f"{target} has {target.stat().st_size:,} bytes; expected at most {MOST:,}.")
        browser.close()


if __name__ == "__main__":
    main()
