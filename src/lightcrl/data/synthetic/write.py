"""The synthetic world on disk, for tests and demos."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightcrl.data.synthetic.picture import draw
from lightcrl.data.synthetic.scene import ATTRIBUTES, Scene
from lightcrl.data.synthetic.sound import sound
from lightcrl.data.synthetic.source import nth_captions, nth_scene, seed_of
from lightcrl.errors import UnknownNameError

FAST = 1  # of PNG: a quarter of the time, and noise hardly packs anyway


def write_table(path: str | Path, groups: int, seed: int = 0, captions: int = 3) -> Path:
    """Write the groups of `Synthetic` as `path/groups.jsonl`, `path/images/*.png` and `path/sounds/*.wav`.

    Returns:
        The table; its columns are `image`, `audio` and `text`, a list.
    """
    folder = Path(path)
    for kind in ("images", "sounds"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    table = folder / "groups.jsonl"
    with table.open("w", encoding="utf-8") as file:
        for number in range(groups):
            scene = nth_scene(seed, number)
            image, audio = f"images/{number:06}.png", f"sounds/{number:06}.wav"
            draw(scene, seed_of("image", seed, number)).save(folder / image, compress_level=FAST)
            write_wave(folder / audio, *sound(scene, seed_of("audio", seed, number)))
            row = {"image": image, "audio": audio, "text": nth_captions(seed, number, captions)}
            file.write(json.dumps(row) + "\n")
    return table


def write_class_folder(path: str | Path, attribute: str = "shape", per_class: int = 20, seed: int = 1) -> Path:
    """Write pictures as `path/<value of attribute>/000.png`, with all other attributes random.

    Raises:
        UnknownNameError: there is no such attribute.
    """
    if attribute not in ATTRIBUTES:
        raise UnknownNameError("attribute", attribute, ATTRIBUTES)
    folder = Path(path)
    for label, value in enumerate(ATTRIBUTES[attribute]):
        (folder / value).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            rng = np.random.default_rng((seed, label, number))
            scene = replace(Scene.random(rng), **{attribute: value})
            draw(scene, int(rng.integers(2**62))).save(folder / value / f"{number:03}.png", compress_level=FAST)
    return folder


def write_wave(path: str | Path, samples: np.ndarray, rate: int) -> None:
    """Write mono samples (floats in [-1, 1]) as 16-bit WAV; `rate` in Hz."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, len(samples), "NONE", ""))
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
