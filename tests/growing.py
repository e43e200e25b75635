"""A small world of pictures, captions and sounds, and models of some of them that tests let grow."""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lightcrl
from lightcrl.data.synthetic.source import Synthetic
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.recipe import make_recipe
from lightcrl.specs import parse
from recipes import builtin

GROUPS = 60
KINDS = {"image": "image", "text": "text", "audio": "audio", "note": "text"}
OPTIONS = {"dfe": {"dim": 16, "heads": 2, "feedforward": 8}, "sharelock": {"dim": 16}, "asif": {"dim": 20}}
DATA = {"source": "synthetic", "options": {"groups": GROUPS}, "dev_fraction": 0.3}
TRAINING = {"epochs": 2, "batch_size": 16, "precision": "float32", "tensorboard": False}


def encoder(name: str) -> dict[str, Any]:
    return builtin(KINDS[name])


LARGER = DATA | {"options": {"groups": 240}}


def base(
    folder: Path,
    names: Sequence[str] = ("image", "text"),
    method: str = "dfe",
    data: Mapping[str, Any] = DATA,
    **training: Any,
) -> Path:
    """The folder of a model that a run has trained."""
    table = {
        "name": "base",
        "data": data,
        "encoders": {name: encoder(name) for name in names},
        "features": {"folder": str(folder / "features")},
        "method": {"name": method, **OPTIONS.get(method, {"dim": 16})},
        "training": TRAINING | training,
    }
    return lightcrl.run(make_recipe(table), output=folder / method).folder


def recipe(folder: Path, new: Sequence[str] = ("audio",), **given: Any) -> GrowthRecipe:
    """What is to be added, with features beside those of `base`."""
    table = {
        "name": "more",
        "partners": ["text"],
        "data": DATA,
        "encoders": {name: encoder(name) for name in new},
        "features": {"folder": str(folder / "features")},
        "training": TRAINING | given.pop("training", {}),
    }
    found: GrowthRecipe = parse(GrowthRecipe, table | given)
    return found


def write_wave(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write a sound as a file of 16 bits."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(rate)
        sound.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def items(name: str, count: int = 6) -> list[Any]:
    """Raw items of a modality."""
    rows = Synthetic({name: KINDS[name]}, groups=count, seed=9).rows()
    return [row.cells[name][0].read() for row in rows]  # type: ignore[union-attr]
