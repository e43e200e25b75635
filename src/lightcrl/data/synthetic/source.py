"""The synthetic world as a source of groups: each is a scene with a picture, a sound and some texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightcrl.data.base import Item, Row, digest, text_item
from lightcrl.data.synthetic.caption import describe
from lightcrl.data.synthetic.picture import draw
from lightcrl.data.synthetic.scene import Scene, Seed, unseen_combinations
from lightcrl.data.synthetic.sound import sound
from lightcrl.errors import DataError

VERSION = "1"  # version of the generated content: a change makes other items
MAKERS: Mapping[str, Callable[[Scene, Seed], Any]] = {"image": draw, "audio": sound}
STREAMS = {"scene": 0, "text": 1, "image": 2, "audio": 3}  # independent random numbers


@dataclass(frozen=True, slots=True)
class Made:
    """A picture or sound of a scene, generated on demand."""

    kind: str
    scene: Scene
    seed: Seed

    def __call__(self) -> Any:
        """Return a picture, or samples and their rate."""
        return MAKERS[self.kind](self.scene, self.seed)


@dataclass(frozen=True)
class Synthetic:
    """Groups `scene-000000` and so on; each depends only on `seed` and its number.

    The first modality of a kind has the same content whatever the other modalities; a further modality of the same kind
    has another picture, sound or set of texts of the same scenes.

    Attributes:
        kinds: `"text"`, `"image"` or `"audio"` by modality; any may be missing.
        groups: number of groups.
        seed: seed of all content.
        captions: texts per group.
        unseen: share of the combinations of shape, colour and count that no group has (`unseen_combinations`), to
            measure what is made of them afterwards.

    Raises:
        DataError: a number is too small.
    """

    kinds: Mapping[str, str]
    groups: int = 2000
    seed: int = 0
    captions: int = 3
    unseen: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("groups", 1), ("seed", 0), ("captions", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise DataError(f"source 'synthetic': found {name} = {value!r}; expected a whole number from {least}.")
        if not isinstance(self.unseen, (int, float)) or not 0 <= self.unseen < 0.9:
            raise DataError(f"source 'synthetic': found unseen = {self.unseen!r}; expected a share from 0 to 0.9.")

    def rows(self) -> Iterator[Row]:
        """Yield every group, by number; pictures and sounds are generated on demand."""
        for number in range(self.groups):
            scene = nth_scene(self.seed, number, self.unseen)
            name = f"scene-{number:06}"
            before: Counter[str] = Counter()
            cells: dict[str, list[Item]] = {}
            for modality, kind in self.kinds.items():
                if kind == "text":
                    texts = nth_captions(self.seed, number, self.captions, before[kind], self.unseen)
                    cells[modality] = [text_item(text, name) for text in texts]
                else:
                    made = Made(kind, scene, seed_of(kind, self.seed, number, before[kind]))
                    cells[modality] = [Item(digest("synthetic", VERSION, repr(made)), f"{name}.{kind}", made)]
                before[kind] += 1
            yield Row(name, cells)


def seed_of(stream: str, seed: int, number: int, copy: int = 0) -> Seed:
    """Return the seed of a kind of content of a group."""
    return (seed, number, STREAMS[stream], copy)


def nth_scene(seed: int, number: int, unseen: float = 0.0) -> Scene:
    """Return the scene of a group: the first that is drawn without a combination of `unseen_combinations`."""
    rng, barred = np.random.default_rng(seed_of("scene", seed, number)), unseen_combinations(unseen)
    while (scene := Scene.random(rng)).combination in barred:
        pass
    return scene


def nth_captions(seed: int, number: int, captions: int, copy: int = 0, unseen: float = 0.0) -> list[str]:
    """Return the texts of a group."""
    rng = np.random.default_rng(seed_of("text", seed, number, copy))
    scene = nth_scene(seed, number, unseen)
    return [describe(scene, rng) for _ in range(captions)]
