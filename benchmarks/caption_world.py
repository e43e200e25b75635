"""Captions of generated pictures and sounds: which attributes of a scene they name, and how many of these are right.

    python benchmarks/caption_world.py --groups 2000 --epochs 30
    python benchmarks/caption_world.py --source audio
    python benchmarks/caption_world.py --decoder retrieval

A space of pictures, sounds and texts is trained first (recipes/world.toml with more groups), then a captioner. Scenes
of dev have no part in either. A caption may leave out colour, place, texture and background, as the texts of the world
do; an attribute that it names must be right. Prints Markdown.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import lightcrl
from lightcrl.captioner import Captioner
from lightcrl.data.base import draw_split
from lightcrl.data.synthetic import ATTRIBUTES, Scene
from lightcrl.data.synthetic.caption import BACKGROUNDS, COLOURS, COUNTS, PLACES, SHAPES, TEXTURES
from lightcrl.data.synthetic.source import Synthetic
from lightcrl.growth.head import HeadRecipe, add_heads
from lightcrl.recipe import load_recipe
from lightcrl.specs import parse

WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # Backgrounds first: "pale blue" is no blue thing.
    "background": BACKGROUNDS,
    "count": {**COUNTS, "one": ()},
    "position": PLACES,
    "texture": TEXTURES,
    "colour": COLOURS,
    "shape": {name: tuple(word for pair in pairs for word in pair[::-1]) for name, pairs in SHAPES.items()},
}


def named(caption: str) -> dict[str, str]:
    """The attributes that a caption names.

    >>> named("two stripy scarlet stars at the top on a pale blue background")["background"]
    'sky'
    """
    rest, values = caption, {}
    for attribute, words in WORDS.items():
        phrases = [(phrase, value) for value, choices in words.items() for phrase in choices]
        for phrase, value in sorted(phrases, key=lambda pair: -len(pair[0])):
            if attribute == "background":
                phrase = phrase if phrase.startswith("a ") else f"on {phrase}"
            if re.search(rf"\b{phrase}\b", rest):
                values[attribute] = value
                rest = re.sub(rf"\b{phrase}\b", " ", rest, count=1)
                break
    values.setdefault("count", "one")
    return values


def measure(captions: list[str], scenes: list[Scene]) -> dict[str, tuple[float, float]]:
    """By attribute, the share of captions that name it, and the share of these that are right; `all` for all named."""
    said, right, whole = Counter(), Counter(), 0
    for caption, scene in zip(captions, scenes, strict=True):
        values = named(caption)
        said.update(list(values))
        hits = [name for name, value in values.items() if value == getattr(scene, name)]
        right.update(hits)
        whole += len(hits) == len(values) and "shape" in values
    shares = {name: (said[name] / len(captions), right[name] / max(1, said[name])) for name in ATTRIBUTES}
    total = sum(right.values()) / sum(said.values())
    return shares | {"every named attribute": (1.0, total), "whole captions": (1.0, whole / len(captions))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--source", default="image", choices=("image", "audio"))
    parser.add_argument("--decoder", default="transformer", choices=("transformer", "retrieval"))
    parser.add_argument("--output", type=Path, default=Path("runs/caption_world"))
    given = parser.parse_args()
    place = given.output / str(given.groups)
    recipe = Path(__file__).parents[1] / "recipes" / "world.toml"
    lightcrl.run(load_recipe(recipe, [f"data.options.groups={given.groups}"], place / "space"))
    table = {
        "source": given.source,
        "decoder": "transformer",
        "width": 128,
        "heads": 4,
        "feedforward": 256,
        "vocabulary": 300,
    }
    training = {"epochs": given.epochs, "items_per_group": 3, "learning_rate": 2e-3, "evaluate_every": 5}
    output = place / f"{given.source}-{given.epochs}"
    if given.decoder == "retrieval":
        table, training = {"source": given.source, "decoder": "retrieval", "held_out": 0.0}, {}
        output = place / f"{given.source}-retrieval"
    heads = {"captioning": {**table, "training": training}}
    add_heads(place / "space", parse(HeadRecipe, {"name": "captioned", "output": str(output), "heads": heads}))
    rows = list(Synthetic({given.source: given.source}, groups=given.groups).rows())
    dev = [row for row in rows if draw_split(row.key, {"dev": 0.2}) == "dev"]
    scenes = [row.cells[given.source][0].raw.scene for row in dev]
    captions = Captioner.load(output).caption([row.cells[given.source][0].read() for row in dev])
    print(f"{len(dev)} scenes of dev\n\n| attribute | named | right |\n|---|---|---|")
    for name, (said, right) in measure(captions, scenes).items():
        print(f"| {name} | {said:.3f} | {right:.3f} |")
    print("\n" + "\n".join(captions[:5]))


if __name__ == "__main__":
    main()
