"""The demo: a generated world of pictures, captions and sounds, aligned and measured in one or two minutes.

It writes these files in addition to those of every run (see `lightcrl.pipeline`):

    classes/      pictures in folders by shape, for zero-shot classification
    features/     outputs of the built-in encoders
    report.html   the page, if the extra `report` is installed
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightcrl.data.base import draw_split
from lightcrl.data.synthetic import ATTRIBUTES, Scene, write_class_folder
from lightcrl.data.synthetic.source import nth_scene
from lightcrl.errors import MissingExtraError
from lightcrl.events import Tell
from lightcrl.files.local import whole_folder, write_text
from lightcrl.files.locks import only_writer
from lightcrl.pipeline import run
from lightcrl.recipe import Recipe, make_recipe
from lightcrl.report.facts import Report, gather
from lightcrl.report.gallery import Query
from lightcrl.report.run_page import render
from lightcrl.runs import Run

TITLE = "Pictures, captions and sounds in one space"
GROUPS = 2000
PICTURES = 25  # of each class, for zero-shot classification
PROMPTS = ("a picture of a {}", "there is a {}", "two {}s", "a group of four {}s")
EPOCHS = 8


@dataclass(frozen=True)
class Demo:
    """A finished demo.

    Attributes:
        run: the run, with its models and figures.
        example: a random text, and the pictures that it retrieves.
        page: path of the report, or None without the extra `report`.
        seconds: total duration.
    """

    run: Run
    example: Query
    page: Path | None
    seconds: float


def demo_recipe(output: Path | str, *, groups: int = GROUPS, epochs: int = EPOCHS) -> Recipe:
    """Return the demo's recipe; its classes must be written to `output/classes`."""
    output = Path(output).absolute()
    table: dict[str, Any] = {
        "name": "demo",
        "output": str(output),
        "data": {"source": "synthetic", "dev_fraction": 0.2, "options": {"groups": groups}},
        "encoders": {kind: {"kind": kind, "model": "builtin"} for kind in ("image", "text", "audio")},
        "features": {"folder": str(output / "features")},
        # Narrower than usual, for two cores, and with less dropout, since the world has little noise.
        "method": {"name": "dfe", "dim": 128, "dropout": 0.2},
        "training": {"epochs": epochs, "batch_size": 128, "tensorboard": False},
        "evaluation": {"baselines": ["linear"], "zero_shot": {"data": str(output / "classes"), "templates": PROMPTS}},
    }
    return make_recipe(table)


def run_demo(
    output: Path | str,
    tell: Tell = lambda event: None,
    *,
    groups: int = GROUPS,
    epochs: int = EPOCHS,
    pictures: int = PICTURES,
) -> Demo:
    """Generate, encode, train, measure, and write the page. A second call reuses all finished work.

    Args:
        output: folder of the demo.
        tell: function that is called with events, as in `lightcrl.pipeline`.
        groups: number of scenes in the world; a fifth is held out.
        epochs: number of epochs.
        pictures: number of pictures per class, for zero-shot classification.

    Raises:
        MissingExtraError: the packages of the built-in encoders are not installed.
        CheckpointError: the folder has a demo with other settings.
        StorageError: the folder is not writable.
    """
    start = time.monotonic()
    recipe = demo_recipe(output, groups=groups, epochs=epochs)
    classes = recipe.folder / "classes"
    with only_writer(recipe.folder, tell):
        if not classes.exists():
            with whole_folder(classes) as fresh:
                write_class_folder(fresh, "shape", pictures)
    done = run(recipe, tell=tell)
    scenes = {f"scene-{number:06}": nth_scene(0, number) for number in range(groups)}
    labels = {
        attribute: {name: str(getattr(scene, attribute)) for name, scene in scenes.items()} for attribute in ATTRIBUTES
    }
    report = gather(done.folder, title=TITLE, labels=labels, notes=[_fairness(scenes, recipe)])
    example = next(query for query in report.gallery if query.source == "text")
    page = _write(report, done.folder / "report.html")
    return Demo(done, example, page, time.monotonic() - start)


def _fairness(scenes: Mapping[str, Scene], recipe: Recipe) -> str:
    """Return the reasons that keep every model below 100 %."""
    fractions = {"dev": recipe.data.dev_fraction}
    held_out = [scene for name, scene in scenes.items() if draw_split(name, fractions) == "dev"]
    seen, heard = Counter(held_out), Counter(replace(scene, background="white") for scene in held_out)
    alike = sum(count for count in seen.values() if count > 1)
    sound_alike = sum(count for count in heard.values() if count > 1)
    size = math.prod(len(values) for values in ATTRIBUTES.values())
    attributes = ", ".join(f"{len(values)} {attribute}s" for attribute, values in ATTRIBUTES.items())
    return (
        f"The world is generated: scenes drawn from {size:,} possible ones ({attributes}), each as a picture, a sound "
        "and three captions. Captions vary in wording and order and sometimes omit an attribute, and sounds do not "
        "contain the background, so a query may fit several scenes while only its own counts as right: no model can "
        f"reach 100 %. Of the {len(held_out)} scenes in dev, {alike} look like another scene in every attribute and "
        f"{sound_alike} sound like another scene."
    )


def _write(report: Report, path: Path) -> Path | None:
    try:
        page = render(report)
    except MissingExtraError:
        return None
    write_text(path, page)
    return path
