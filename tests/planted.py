"""A world with known answers: texts "12 left", two encoders that see more or less of what the number stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightcrl.data.base import digest
from lightcrl.encoders.base import Choices, Encoder, Slot
from lightcrl.tokens import TokenBatch

LATENT = 8
SLOTS = (Slot(-1, "mean"), Slot(-2, "mean"), Slot(-3, "mean"))


class Layered(Encoder):
    """Three layers: the last sees two of eight directions, the one before all of them, the first none.

    A `blind` one sees nothing of the number in any layer.
    """

    kind = "text"
    dim = LATENT
    slots = 1

    def __init__(self, seed: int = 0, blind: bool = False, wide: bool = False) -> None:
        self.seed, self.blind, self.wide = seed, blind, wide
        self.slots = len(SLOTS) if wide else 1
        self.turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(LATENT, LATENT)))[0]

    def describe(self) -> Mapping[str, Any]:
        return {"class": "Layered", "seed": self.seed, "blind": self.blind, "wide": self.wide}

    def choices(self) -> Choices:
        return Choices(Layered(self.seed, self.blind, wide=True), SLOTS, SLOTS[:1], SLOTS[:1])

    def prepare(self, raw: Any) -> Any:
        return raw

    def encode(self, prepared: Sequence[Any]) -> TokenBatch:
        return TokenBatch.full(torch.tensor(np.stack([self._layers(text) for text in prepared]), dtype=torch.float32))

    def _layers(self, text: str) -> np.ndarray:
        own = np.random.default_rng(int(digest(text, str(self.seed))[:12], 16))
        noise = own.normal(size=(len(SLOTS), LATENT))
        truth = np.random.default_rng(int(text.split()[0])).normal(size=LATENT)
        if self.blind:
            truth = own.normal(size=LATENT)
        some = np.where(np.arange(LATENT) < 2, truth, 0)
        layers = np.stack([some + 0.4 * noise[0], truth + 0.1 * noise[1], noise[2]]) @ self.turn
        return layers if self.wide else layers[:1]


class Whole(Layered):
    """All three layers, without a choice."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, wide=True)

    def choices(self) -> None:
        return None


def write_world(folder: Path, groups: int, leaks: int = 0, dev: int = 0) -> str:
    """Two files of `groups` and `dev` rows, and a recipe; the first `leaks` rows of dev repeat a text of train."""
    rows = {
        "train": [(f"{n} left", f"{n} right") for n in range(groups)],
        "dev": [(f"{n if n < leaks else groups + n} left", f"{groups + n} right") for n in range(dev)],
    }
    for split, found in rows.items():
        lines = [json.dumps({"id": f"{split}{n}", "left": a, "right": b}) for n, (a, b) in enumerate(found)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    recipe = folder / "planted.toml"
    recipe.write_text(
        '[data]\ntrain = "train.jsonl"\ndev = "dev.jsonl"\nkey = "id"\n'
        + "".join(f'[encoders.{side}]\nkind = "text"\nmodel = "planted:Layered"\n' for side in ("left", "right"))
        + '[encoders.right.options]\nseed = 1\n[features]\nfolder = "features"\n'
    )
    return str(recipe)
