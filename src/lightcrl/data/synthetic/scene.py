"""Scenes: a value for each of six attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from lightcrl.errors import UnknownNameError

Seed = int | tuple[int, ...]

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond"),
    "colour": ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink"),
    "count": ("one", "two", "three", "four"),
    "position": ("left", "right", "top", "bottom", "centre"),
    "texture": ("plain", "striped", "dotted", "chequered"),
    "background": ("white", "grey", "cream", "sky", "mint", "night"),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """Shapes of the same colour, pattern and kind, at a position on a background: 30,720 different scenes.

    Raises:
        UnknownNameError: an attribute has a value that is not in `ATTRIBUTES`.
    """

    shape: str
    colour: str
    count: str
    position: str
    texture: str
    background: str

    def __post_init__(self) -> None:
        for attribute, values in ATTRIBUTES.items():
            if (value := getattr(self, attribute)) not in values:
                raise UnknownNameError(attribute, value, values)

    @classmethod
    def random(cls, rng: np.random.Generator) -> Scene:
        """Draw every attribute independently, with every value equally likely."""
        return cls(**{attribute: values[rng.integers(len(values))] for attribute, values in ATTRIBUTES.items()})

    @property
    def combination(self) -> tuple[str, str, str]:
        """Shape, colour and count."""
        return self.shape, self.colour, self.count

    @property
    def number(self) -> int:
        """Number of shapes, from 1."""
        return ATTRIBUTES["count"].index(self.count) + 1


@cache
def unseen_combinations(share: float) -> frozenset[tuple[str, str, str]]:
    """Return a fixed share of all combinations of shape, colour and count; a smaller share is a part of a larger.

    >>> len(unseen_combinations(0.2)), unseen_combinations(0.1) < unseen_combinations(0.2)
    (51, True)
    """
    every = list(product(*(ATTRIBUTES[name] for name in ("shape", "colour", "count"))))
    order = np.random.default_rng(0).permutation(len(every))
    return frozenset(every[number] for number in order[: round(share * len(every))].tolist())
