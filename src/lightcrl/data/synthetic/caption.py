"""Scenes in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from lightcrl.data.synthetic.scene import Scene

T = TypeVar("T")

SHAPES: Mapping[str, tuple[tuple[str, str], ...]] = {  # singular, plural
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
    "heart": (("heart", "hearts"),),
    "diamond": (("diamond", "diamonds"), ("rhombus", "rhombuses")),
}
COLOURS: Mapping[str, tuple[str, ...]] = {
    "red": ("red", "scarlet", "crimson"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "teal": ("teal", "turquoise"),
    "blue": ("blue", "cobalt"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
}
COUNTS: Mapping[str, tuple[str, ...]] = {
    "one": ("a", "one", "a single"),
    "two": ("two", "a pair of"),
    "three": ("three", "a trio of"),
    "four": ("four", "a group of four"),
}
PLACES: Mapping[str, tuple[str, ...]] = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "centre": ("in the middle", "in the centre"),
}
TEXTURES: Mapping[str, tuple[str, ...]] = {  # those that start with "with" come last
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy", "with stripes"),
    "dotted": ("dotted", "spotted", "with dots"),
    "chequered": ("chequered", "checked", "with checks"),
}
BACKGROUNDS: Mapping[str, tuple[str, ...]] = {
    "white": ("a white background", "white"),
    "grey": ("a grey background", "grey"),
    "cream": ("a cream background", "cream"),
    "sky": ("a pale blue background", "pale blue"),
    "mint": ("a mint green background", "mint green"),
    "night": ("a dark background", "black"),
}
SENTENCES: Mapping[tuple[bool, bool], tuple[str, ...]] = {  # by the attributes in the text: the place, the background
    (True, True): (
        "{what} {where} on {ground}",
        "{where}, {what} on {ground}",
        "there {be} {what} {where}, on {ground}",
    ),
    (True, False): ("{what} {where}", "{where}, {what}", "there {be} {what} {where}", "a picture with {what} {where}"),
    (False, True): ("{what} on {ground}", "a picture of {what} on {ground}", "on {ground}: {what}"),
    (False, False): ("{what}", "a picture of {what}", "there {be} {what}"),
}
LEFT_OUT = (None, None, None, None, "colour", "position", "texture")


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in one of many ways: synonyms, another order, sometimes without some of its attributes.

    The text always has the shape and the count, and the background in two cases of five.

    >>> describe(Scene("star", "red", "two", "top", "striped", "night"), np.random.default_rng(0))
    'on a dark background: two stripy scarlet stars'
    """

    def one_of(choices: Sequence[T]) -> T:
        return choices[int(rng.integers(len(choices)))]

    left_out = one_of(LEFT_OUT)
    noun = one_of(SHAPES[scene.shape])[scene.number > 1]
    colour = "" if left_out == "colour" else one_of(COLOURS[scene.colour])
    texture = "" if left_out == "texture" else one_of(TEXTURES[scene.texture])
    before, after = ("", texture) if texture.startswith("with") else (texture, "")
    words = [before, colour] if rng.random() < 0.5 else [colour, before]
    phrase = " ".join(word for word in (*words, noun, after) if word)
    count = one_of(COUNTS[scene.count])
    if count == "a" and phrase[0] in "aeiou":
        count = "an"
    where = "" if left_out == "position" else one_of(PLACES[scene.position])
    ground = one_of(BACKGROUNDS[scene.background]) if rng.random() < 0.4 else ""
    sentence = one_of(SENTENCES[bool(where), bool(ground)])
    be = "is" if count.startswith(("a", "one")) else "are"  # "a pair" is singular
    return sentence.format(what=f"{count} {phrase}", where=where, ground=ground, be=be)
